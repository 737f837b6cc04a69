"""The graph of a lineage as boxes and curves, in units of a picture 1000 wide: silos → steps → run → model.

Each box links to a row of the page and has a text description. Text that does not fit is cut; the row has all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from aggregator.verify.models import ModelVersion
from jobs.evidence.lineage.model import Lineage, SiloPart
from jobs.evidence.lineage.steps import RELEASED, StepGroup
from jobs.evidence.lineage.terminal import UNKNOWN, short, step_line

WIDTH, HIGH, GAP = 1000, 50, 12
#: Boxes of steps, parents and descendants that are drawn; one more stands for the rest.
MOST_STEPS, MOST_FAMILY = 14, 3

_NAME, _NOTE = 26, 36  # letters that fit


@dataclass(frozen=True, slots=True)
class Box:
    """``target``: the anchor it leads to. ``description``: for screen readers. ``kind``: odd, idle, chief or "".

    ``top``: its upper edge. ``edges``: curves to the boxes it flows into. ``run`` and ``parent``: of the last column's
    boxes, which run they stand for and which it started from.
    """

    name: str
    note: str
    target: str
    description: str
    kind: str = ""
    top: float = 0
    edges: tuple[str, ...] = ()
    run: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """Boxes of one left edge and width, the column in the middle of the picture's height."""

    left: int
    wide: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """``links``: the arrows of the last column, from each box down to those that came of it."""

    height: float
    columns: tuple[Column, ...]
    links: tuple[str, ...]


def draw(lineage: Lineage) -> Drawing:
    """Silos on the left, steps in the middle, run and family on the right."""
    drawn, rest = lineage.steps[:MOST_STEPS], lineage.steps[MOST_STEPS:]
    boxes = [_step_box(number, group) for number, group in enumerate(drawn)]
    cohorts = [set(group.cohort) for group in drawn]
    opened = [group.outcome == RELEASED for group in drawn]
    if rest:
        boxes.append(_more(sum(len(group.names) for group in rest), "steps", f"steps-{len(drawn)}"))
        cohorts.append({silo for group in rest for silo in group.cohort})
        opened.append(True)
    family = _family(lineage)
    silos = [_silo_box(number, part) for number, part in enumerate(lineage.silos)]
    height = max(len(silos), len(boxes), len(family)) * (HIGH + GAP) - GAP
    left, middle, right = (
        _column(0, 262, silos, height),
        _column(372, 268, boxes, height),
        _column(750, 234, family, height),
    )
    run = next(box for box in right.boxes if box.target == "run")
    middle = replace(
        middle,
        boxes=tuple(
            replace(box, edges=(_curve(middle, box, right, run),) if flows else ())
            for box, flows in zip(middle.boxes, opened, strict=True)
        ),
    )
    left = replace(
        left,
        boxes=tuple(
            replace(
                box,
                edges=tuple(
                    _curve(left, box, middle, to)
                    for to, cohort in zip(middle.boxes, cohorts, strict=True)
                    if part.silo in cohort
                ),
            )
            for box, part in zip(left.boxes, lineage.silos, strict=True)
        ),
    )
    return Drawing(height, (left, middle, right), tuple(_links(right)))


def _links(column: Column) -> Iterator[str]:
    """Straight down to the next box, or around the boxes between."""
    centre, edge = column.left + column.wide / 2, column.left + column.wide
    for at, box in enumerate(column.boxes[1:], 1):
        above = next((place for place in range(at - 1, -1, -1) if column.boxes[place].run == box.parent), at - 1)
        start = column.boxes[above].top
        if above == at - 1:
            yield f"M{centre:g} {start + HIGH:g}V{box.top - 5:g}"
        else:
            yield f"M{edge} {start + HIGH / 2:g}H{WIDTH - 2}V{box.top + HIGH / 2:g}H{edge + 6}"


def _column(left: int, wide: int, boxes: Sequence[Box], height: float) -> Column:
    """Boxes spread over the height, or close together in its middle where they are few."""
    step = HIGH + GAP if len(boxes) < 2 else min((height - HIGH) / (len(boxes) - 1), 2 * HIGH)
    first = (height - HIGH - step * (len(boxes) - 1)) / 2
    return Column(left, wide, tuple(replace(box, top=round(first + step * at, 1)) for at, box in enumerate(boxes)))


def _curve(source: Column, box: Box, goal: Column, to: Box) -> str:
    x, y, there, at = source.left + source.wide, box.top + HIGH / 2, goal.left, to.top + HIGH / 2
    middle = (x + there) / 2
    return f"M{x} {y:g}C{middle:g} {y:g} {middle:g} {at:g} {there} {at:g}"


# --- boxes -------------------------------------------------------------------------------------------------------


def _silo_box(number: int, part: SiloPart) -> Box:
    data = short(part.data[0])[:8] if part.data else UNKNOWN
    approval = f"approval {part.approval[:8]}" if part.approval else "no approval recorded"
    note = f"data {data} · {approval}" if part.steps else "in no sum"
    description = f"{part.silo}: {note}; in {part.steps} sums"
    if part.withdrew:
        note, description = (
            f"data {data} · withdrew {part.withdrew[:10]}",
            f"{description}; withdrew {part.withdrew[:10]}",
        )
    kind = "odd" if part.withdrew else "" if part.steps else "idle"
    return Box(_cut(part.silo, _NAME), _cut(note, _NOTE), f"silo-{number}", description, kind)


def _step_box(number: int, group: StepGroup) -> Box:
    note = f"{len(group.cohort)} of {len(group.invited)} silos"
    if group.outcome != RELEASED:
        note = group.outcome
    elif group.shut:
        note += f" · {', '.join(group.shut)} shut"
    elif group.withheld:
        note += " · figures withheld"
    name = group.label if len(group.names) == 1 else f"{group.label} ({len(group.names)})"
    kind = "odd" if group.eventful else ""
    return Box(_cut(name, _NAME), _cut(note, _NOTE), f"steps-{number}", f"{group.label}: {step_line(group)}", kind)


def _family(lineage: Lineage) -> list[Box]:
    """Ancestors, oldest on top, the run, the model, descendants."""
    run, model = lineage.run, lineage.model
    above = [_model_box(one, "started from") for one in lineage.parents[:MOST_FAMILY]][::-1]
    below = [_model_box(one, "went into") for one in lineage.descendants[:MOST_FAMILY]]
    if more := len(lineage.parents) - len(above):
        above.insert(0, _more(more, "ancestors", "family"))
    if more := len(lineage.descendants) - len(below):
        below.append(replace(_more(more, "descendants", "family"), parent=run.run))
    text = _cut(f"{run.job} · {run.status}", _NOTE)
    before = lineage.parents[0].run if lineage.parents else ""
    this = Box(f"run {run.run}", text, "run", f"run {run.run}, {run.status}", run=f"run {run.run}", parent=before)
    if model is None:
        made = Box("no model", _cut(run.status, _NOTE), "model", f"no model: {run.status}", "odd", parent=this.run)
    else:
        aliases = " ".join(f"@{alias}" for alias in sorted(model.aliases)) or "no alias"
        label = model.label if model.version else model.name
        description = f"model {label}, {aliases}"
        made = Box(
            _cut(label, _NAME), _cut(aliases, _NOTE), "model", description, "chief", run=run.run, parent=this.run
        )
    return [*above, this, made, *below]


def _model_box(model: ModelVersion, how: str) -> Box:
    kind = "odd" if model.withdrawn_silos else ""
    description = f"{how} {model.label}"
    return Box(_cut(model.label, _NAME), how, "family", description, kind, run=model.run, parent=model.parent or "")


def _more(count: int, what: str, target: str) -> Box:
    return Box(f"{count} more {what}", "in the table below", target, f"{count} more {what}")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def boxes(drawing: Drawing) -> Iterable[Box]:
    """All of them, in reading order."""
    return (box for column in drawing.columns for box in column.boxes)
