"""The runs that this silo is or was in, from its security log, its journal and its progress files.

A curve is of accuracies: of all silos together, from sums that opened, and this silo's own, which never left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aggregator.figures import metrics, ratios
from crypto.errors import FederationError, JournalLost
from crypto.plan import Plan
from jobs.job import JobSpec
from jobs.owner import personal
from jobs.owner.review import OwnerView
from jobs.security_log.events import Event
from jobs.security_log.reader import LogLine, files, lines_of
from silo_agent.journal import Advertised, Attested, Opened, Released, parse_record
from silo_agent.run_checkpoint import Figures, read_figures

_EVENTS: Final = (Event.RUN_JOINED, Event.RUN_ENDED, Event.APPROVAL_USED, Event.SHARES_RELEASED, Event.REFUSAL)
#: What the journal's last line of a run says of where it is.
_PHASES: Final[Mapping[type, str]] = {
    Advertised: "training, or waiting for the other silos",
    Attested: "the set of silos is agreed; the sums are about to open",
    Released: "shares have left; waiting for the result",
    Opened: "shares have left; waiting for the result",
}
_FIGURE: Final = ".accuracy"


@dataclass(slots=True)
class Run:
    """One run. Times as in the log, "" where it has none. ``phase``: of the step that is under way."""

    run: str
    job: str
    began: str
    ended: str = ""
    code: str = ""
    approval: str = ""
    heard: str = ""
    released: int = 0
    refusals: list[LogLine] = field(default_factory=list)
    name: str = ""
    spec: JobSpec | None = None

    @property
    def running(self) -> bool:
        return not self.ended


def listed(view: OwnerView) -> list[Run]:
    """Every run, the newest first."""
    found: dict[str, Run] = {}
    for line in _lines(view):
        run = str(line.fields.get("run", ""))
        if line.event is Event.RUN_JOINED:
            job = str(line.fields["job"])
            found.setdefault(run, Run(run, job, line.at)).ended = ""
        if (one := found.get(run)) is None:
            continue
        one.heard = line.at
        match line.event:
            case Event.RUN_ENDED:
                one.ended, one.code = line.at, str(line.fields.get("code", ""))
            case Event.APPROVAL_USED:
                one.approval = str(line.fields["approval"])
            case Event.SHARES_RELEASED:
                one.released += 1
                one.ended = ""  # a run that a restart has resumed
            case Event.REFUSAL:
                one.refusals.append(line)
    jobs = _jobs(view)
    for one in found.values():
        one.spec = jobs.get(one.job)
        one.name = one.spec.name if one.spec is not None else ""
    return sorted(found.values(), key=lambda one: one.began, reverse=True)


def _lines(view: OwnerView) -> Iterator[LogLine]:
    for path in files(view.home):
        yield from lines_of(path, _EVENTS)


def _jobs(view: OwnerView) -> dict[str, JobSpec]:
    """Digest → job, of those whose text is still here: in the queue, or with a model."""
    texts = [item.text for item in view.queue.all()[0]]
    found = {}
    for text in (*texts, *personal.job_texts(view.home)):
        try:
            spec = JobSpec.from_text(text)
        except FederationError:
            continue  # another release's
        found[spec.digest.hex()] = spec
    return found


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step that is behind us. ``figures``: (name, of all silos, of this one), in per cent or ""."""

    name: str
    released: bool
    figures: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy by step, of a mode. ``all_silos``, ``own``: (number of the step, per cent)."""

    mode: str
    all_silos: tuple[tuple[int, float], ...]
    own: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class RunPage:
    """``done``, ``whole``: steps behind us and of the plan; 0 where the job's text is gone. ``phase``: where the step
    under way is, as far as this silo's journal says; ``scores``: (name, of all silos, of this one) of the last steps
    that have them."""

    run: Run
    done: int
    whole: int
    phase: str
    step: str
    rows: tuple[StepRow, ...]
    curves: tuple[Curve, ...]
    scores: tuple[tuple[str, str, str], ...]
    amiss: str = ""


def page_of(view: OwnerView, prefix: str) -> RunPage | None:
    """The run whose id begins so, or None."""
    run = next((one for one in listed(view) if one.run.startswith(prefix)), None)
    if run is None:
        return None
    plan, amiss = None, ""
    if run.spec is not None:
        try:
            plan = run.spec.plan(view.charter)
        except FederationError as refused:
            amiss = str(refused)
    try:
        figures = read_figures(view.home.runs_folder / f"{run.run[:16]}.safetensors")
    except JournalLost as damaged:
        figures, amiss = None, str(damaged)
    figures = figures or Figures(0, (), {}, {})
    names = _names(plan, figures)
    rows = tuple(StepRow(names[k], released, _pairs(figures, names[k])) for k, released in enumerate(figures.released))
    step, phase = _where(view, run, names) if run.running else ("", "")
    whole = len(plan.steps) if plan else 0
    return RunPage(run, figures.k, whole, phase, step, rows, _curves(figures, names), _scores(figures, names), amiss)


def _names(plan: Plan | None, figures: Figures) -> list[str]:
    """Names of the steps; numbers where the plan is not here."""
    count = max(figures.k + 1, len(plan.steps) if plan else 0)
    known = [step.name for step in plan.steps] if plan else list(figures.slots)
    return [known[k] if k < len(known) else f"step {k}" for k in range(count)]


def _where(view: OwnerView, run: Run, names: Sequence[str]) -> tuple[str, str]:
    """(name of the step, its phase) by the last line of the journal that is about this run."""
    try:
        lines = view.home.journal_path.read_bytes().splitlines()
    except FileNotFoundError:
        return "", ""
    for line in reversed(lines):
        try:
            record = parse_record(line)
        except ValueError:
            continue
        if isinstance(record, Advertised | Attested | Released | Opened) and record.run == run.run:
            name = names[record.step] if record.step < len(names) else f"step {record.step}"
            return name, _PHASES[type(record)]
    return "", "joined; no step has begun"


def _pairs(figures: Figures, step: str) -> tuple[tuple[str, str, str], ...]:
    together, own = _accuracies(figures.slots.get(step, {})), _accuracies(figures.own.get(step, {}))
    return tuple((mode, _per_cent(together.get(mode)), _per_cent(own.get(mode))) for mode in {**together, **own})


def _accuracies(slots: Mapping[str, int]) -> dict[str, float]:
    return {name.removesuffix(_FIGURE): 100 * part / whole for name, (part, whole) in ratios(slots).items()}


def _curves(figures: Figures, names: Sequence[str]) -> tuple[Curve, ...]:
    points: dict[str, tuple[list[tuple[int, float]], list[tuple[int, float]]]] = {}
    for k, name in enumerate(names):
        for side, slots in enumerate((figures.slots.get(name, {}), figures.own.get(name, {}))):
            for mode, value in _accuracies(slots).items():
                points.setdefault(mode, ([], []))[side].append((k, value))
    return tuple(Curve(mode, tuple(together), tuple(own)) for mode, (together, own) in points.items())


def _scores(figures: Figures, names: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    together, own = _last(figures.slots, names), _last(figures.own, names)
    shown = [name for name in {**together, **own} if not name.endswith((".within", ".baseline"))]
    return tuple((name, _number(together.get(name)), _number(own.get(name))) for name in shown)


def _last(slots: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in names:
        found |= metrics(slots.get(name, {}))
    return found


def _per_cent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
