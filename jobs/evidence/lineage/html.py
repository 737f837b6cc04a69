"""One model's lineage on one page that loads nothing and runs nothing: for a compliance officer, on screen or paper.

The graph on top is a table of contents: silos and their data flow into steps, steps into the run, the run into the
model; each box leads to its rows below. Names and purposes are untrusted text: the template escapes
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crypto.errors import SpecError
from jobs.evidence.lineage.caveats import listed
from jobs.evidence.lineage.model import Lineage, SiloPart
from jobs.evidence.lineage.steps import RELEASED, VOID
from jobs.evidence.lineage.svg import HIGH, WIDTH, draw
from jobs.evidence.lineage.terminal import minute, step_line, trouble
from silo_agent.methods import display_name


def write_page(lineage: Lineage, path: Path) -> None:
    """Write the page where nothing is yet. Raises SpecError where that can't be done; then nothing is left."""
    text = render(lineage)
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise SpecError(
            "--html", got=str(path), want="a path that is not taken", remedy="Choose another, or remove it."
        ) from None
    except OSError as bad:
        raise SpecError("--html", got=str(path), want=f"a path that can be written ({bad.strerror})") from bad


def render(lineage: Lineage) -> str:
    """The page. Raises SpecError where jinja2 is not installed: it is not in the base install."""
    try:
        import jinja2
    except ImportError as missing:
        raise SpecError(
            "--html",
            got="no jinja2",
            want="the extra that draws pages",
            remedy="Install our package with the extra demo, or read the tree and --json, which need nothing more.",
        ) from missing
    loader = jinja2.FileSystemLoader(Path(__file__).parents[2] / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minute"] = minute
    taking = [part for part in lineage.silos if part.steps]
    return environment.get_template("lineage.html.j2").render(
        it=lineage,
        title=_title(lineage, taking),
        method=display_name(lineage.run.method),
        figures=_figures(lineage, taking),
        graph=draw(lineage),
        wide=WIDTH,
        high=HIGH,
        steps=[(group, step_line(group), list(trouble(group))) for group in lineage.steps],
        numbers={part.silo: number for number, part in enumerate(lineage.silos)},
    )


def _title(lineage: Lineage, taking: Sequence[SiloPart]) -> str:
    """The summary, one or two sentences."""
    many = f"{len(taking)} silo{'' if len(taking) == 1 else 's'}"
    if lineage.model is None:
        return f"Run {lineage.run.run} made no model: {lineage.run.status}. {many} were in its sums."
    name = lineage.subject if lineage.model.version else f"{lineage.model.name}, not numbered yet,"
    method = display_name(lineage.run.method)
    above = f", starting from {lineage.parents[0].label}" if lineage.parents else ""
    left = lineage.model.withdrawn_silos
    gone = f" {listed(left)} withdrew since." if left else ""
    return f"{name} was trained with {method} on the data of {many}{above}.{gone}"


def _figures(lineage: Lineage, taking: Sequence[SiloPart]) -> list[tuple[str, str]]:
    """(figure, label): the four that a reader looks for first."""
    released = sum(len(group.names) for group in lineage.steps if group.outcome == RELEASED)
    void = sum(len(group.names) for group in lineage.steps if group.outcome == VOID)
    return [
        (f"{len(taking)}/{len(lineage.run.members)}", "members in its sums"),
        (f"{sum(part.consent is not None for part in taking)}/{len(taking)}", "approvals checked"),
        (f"{sum(part.countersigned for part in taking)}/{len(taking)}", "countersigned the end"),
        (str(released), f"steps released, {void or 'none'} void"),
    ]
