"""What a run is doing, as one value, and the pure function that brings it up to date.

``after(status, event)`` folds what happens: requests going out, answers coming in, lines of the ledger. The
aggregator's job process keeps the value (``status_tracker``), NVFlare carries it to ``fed status``, and a job
that has ended keeps it in its NVFlare record. It holds what the aggregator may know: steps, and of one silo its id,
whether it answered, and the code of its refusal (``fed egress`` lists what that is). Of opened sums one line: the
leading metric of the last step that opened any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from aggregator import privacy
from aggregator.absences import Absence, with_step
from aggregator.errors import RunAborted
from aggregator.figures import withheld
from aggregator.ledger.format import Entry
from aggregator.ledger.records import (
    Record,
    Refusal,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    SiloLost,
    StepClosed,
    StepOpened,
    StepVoid,
)
from aggregator.protocols.interface import Plan
from aggregator.run_record import RunRecord, job_fields
from crypto.scores import headline
from crypto.text import printable

#: What a server sends may be longer than it should: as much of a text is shown.
MOST_TEXT: Final = 2000


class RunState(StrEnum):
    STARTING = "starting"  #: nothing is on the ledger yet
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Absent:
    """Why a silo is out since when: the step's name, the phase, and its refusal's code; no code: it did not answer."""

    step: str
    phase: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastClosed:
    """The last step that closed. ``shut``: its lanes that stayed shut; ``withheld``: its figures that the silos
    withheld."""

    k: int
    name: str
    time: str
    invited: int
    survivors: int
    shut: tuple[str, ...]
    withheld: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How it ended. ``recorded``: on the ledger; otherwise before the run was on it. No code: it finished."""

    time: str
    recorded: bool
    code: str = ""
    phase: str = ""
    missing: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The state of a run. ``since``: when the phase began, UTC. ``absent``: silos that are out, until they are back.

    ``privacy``: what the job says of differential privacy, once the run is on the ledger.
    ``steps``: how many the plan has; ``released`` and ``void`` of them are behind. ``attempt`` counts from 0.
    ``missed``: silos that were missing from a closed step, also those that are back. ``plan``, ``silos``: once the
    ledger names them; they do not travel.
    """

    run: str = ""
    job: str = ""
    state: RunState = RunState.STARTING
    steps: int = 0
    k: int = 0
    step: str = ""
    attempt: int = 0
    phase: str = ""
    since: str = ""
    asked: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    absent: Mapping[str, Absent] = field(default_factory=dict)
    missed: Mapping[str, Absence] = field(default_factory=dict)
    released: int = 0
    void: int = 0
    closed: LastClosed | None = None
    headline: str = ""
    privacy: str = ""
    outcome: RunEnd | None = None
    plan: Plan | None = field(default=None, compare=False, repr=False)
    silos: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def missing(self) -> tuple[str, ...]:
        """Silos whose answer is still waited for."""
        return tuple(silo for silo in self.asked if silo not in self.answered)


# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests of one phase go out. ``absent``: who fell out of this attempt so far."""

    time: str
    phase: str
    k: int
    step: str
    silos: Sequence[str]
    absent: Mapping[str, Absent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answered:
    """A silo's answer came, whatever it says."""

    silo: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The job ended by an error that no line of the ledger tells: there was no run, or the error was none of ours."""

    time: str
    code: str
    detail: str


StatusEvent = Asked | Answered | Stopped | Entry[Record]


def after(status: RunStatus, event: StatusEvent) -> RunStatus:
    """The status after one more event. Ledger lines of other runs are the caller's to leave out."""
    match event:
        case Asked():
            return replace(
                status,
                state=RunState.RUNNING,
                phase=event.phase,
                since=event.time,
                k=event.k,
                step=event.step,
                asked=tuple(sorted(event.silos)),
                answered=(),
                absent={**status.absent, **event.absent},
            )
        case Answered(silo):
            if silo not in status.asked or silo in status.answered:
                return status
            return replace(status, answered=(*status.answered, silo))
        case Stopped():
            if status.outcome is not None:
                return status
            outcome = RunEnd(time=event.time, recorded=False, code=event.code, detail=event.detail)
            return _ended(status, _state_of(event.code), outcome)
        case Entry():
            return _recorded(status, event)


def _recorded(status: RunStatus, entry: Entry[Record]) -> RunStatus:
    match entry.record:
        case RunStarted() as record:
            plan = RunRecord(record.run, (entry,)).plan
            said = privacy.short(job_fields(record))
            new = replace(status, run=record.run, job=record.job_digest, plan=plan, steps=len(plan.steps), privacy=said)
            new = replace(new, silos=record.silos)
            return replace(new, state=RunState.RUNNING, since=entry.time)
        case RunResumed() as record:
            return replace(
                status, state=RunState.RUNNING, outcome=None, k=record.k, since=entry.time, asked=(), phase=""
            )
        case StepOpened() as record:
            return replace(status, k=record.k, step=record.name, attempt=record.attempt or 0)
        case SiloLost() | Refusal() as record:
            code = record.code if isinstance(record, Refusal) else ""
            absent = {**status.absent, record.silo: Absent(record.name, record.phase, code)}
            return replace(status, absent=absent)
        case StepVoid():
            return replace(status, void=status.void + 1)
        case StepClosed() as record:
            closed = LastClosed(
                k=record.k,
                name=record.name,
                time=entry.time,
                invited=len(record.invited),
                survivors=len(record.survivors),
                shut=record.lanes_shut,
                withheld=withheld(status.plan, record) if status.plan is not None else (),
            )
            still = {silo: why for silo, why in status.absent.items() if silo not in record.survivors}
            line = headline(record.slots) or status.headline
            missed = with_step(status.missed, record, entry.time, status.silos or record.invited)
            new = replace(status, released=status.released + 1, closed=closed, absent=still, headline=line)
            return replace(new, missed=missed)
        case RunFinished():
            return _ended(status, RunState.FINISHED, RunEnd(time=entry.time, recorded=True))
        case RunFailed() as record:
            outcome = RunEnd(
                time=entry.time,
                recorded=True,
                code=record.code,
                phase=record.phase,
                missing=record.missing,
                detail=record.detail or "",
            )
            return _ended(status, _state_of(record.code), outcome)
        case _:
            return status


def _ended(status: RunStatus, state: RunState, outcome: RunEnd) -> RunStatus:
    """``phase``, ``asked`` and ``answered`` stay: they say where it ended."""
    return replace(status, state=state, outcome=outcome, since=outcome.time)


def _state_of(code: str) -> RunState:
    return RunState.ABORTED if code == RunAborted.code else RunState.FAILED


# --- as JSON -----------------------------------------------------------------------------------------------------


def as_json(status: RunStatus) -> dict[str, Any]:
    """The object of ``fed status --json``: text, whole numbers, lists and objects."""
    closed, outcome = status.closed, status.outcome
    return {
        "run": status.run,
        "job": status.job,
        "state": status.state.value,
        "step": {"k": status.k, "of": status.steps, "name": status.step, "attempt": status.attempt},
        "phase": status.phase,
        "since": status.since,
        "asked": list(status.asked),
        "answered": list(status.answered),
        "missing": list(status.missing) if status.outcome is None else [],
        "absent": {
            silo: {"step": why.step, "phase": why.phase, "code": why.code} for silo, why in status.absent.items()
        },
        "missed": {silo: asdict(absence) for silo, absence in status.missed.items()},
        "steps_released": status.released,
        "steps_void": status.void,
        "last_closed": None
        if closed is None
        else {
            "k": closed.k,
            "name": closed.name,
            "time": closed.time,
            "invited": closed.invited,
            "survivors": closed.survivors,
            "lanes_shut": list(closed.shut),
            "figures_withheld": list(closed.withheld),
        },
        "headline": status.headline,
        "privacy": status.privacy,
        "outcome": None
        if outcome is None
        else {
            "code": outcome.code,
            "phase": outcome.phase,
            "missing": list(outcome.missing),
            "detail": outcome.detail,
            "time": outcome.time,
            "on_ledger": outcome.recorded,
        },
    }


def from_json(found: Mapping[str, Any]) -> RunStatus:
    """The value again. A server is another machine: what is no status raises ValueError, text is made printable."""
    try:
        step, closed, outcome = found["step"], found["last_closed"], found["outcome"]
        return RunStatus(
            run=_text(found["run"]),
            job=_text(found["job"]),
            state=RunState(found["state"]),
            steps=int(step["of"]),
            k=int(step["k"]),
            step=_text(step["name"]),
            attempt=int(step["attempt"]),
            phase=_text(found["phase"]),
            since=_text(found["since"]),
            asked=_texts(found["asked"]),
            answered=_texts(found["answered"]),
            absent={
                _text(silo): Absent(_text(why["step"]), _text(why["phase"]), _text(why["code"]))
                for silo, why in found["absent"].items()
            },
            missed={_text(silo): _absence(one) for silo, one in found["missed"].items()},
            released=int(found["steps_released"]),
            void=int(found["steps_void"]),
            closed=None
            if closed is None
            else LastClosed(
                k=int(closed["k"]),
                name=_text(closed["name"]),
                time=_text(closed["time"]),
                invited=int(closed["invited"]),
                survivors=int(closed["survivors"]),
                shut=_texts(closed["lanes_shut"]),
                withheld=_texts(closed["figures_withheld"]),
            ),
            headline=_text(found["headline"]),
            privacy=_text(found["privacy"]),
            outcome=None
            if outcome is None
            else RunEnd(
                time=_text(outcome["time"]),
                recorded=bool(outcome["on_ledger"]),
                code=_text(outcome["code"]),
                phase=_text(outcome["phase"]),
                missing=_texts(outcome["missing"]),
                detail=_text(outcome["detail"]),
            ),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as bad:
        raise ValueError(f"no status of a run: {type(bad).__name__} {bad}") from bad


def _absence(found: Mapping[str, Any]) -> Absence:
    texts = {name: _text(found[name]) for name in ("first", "last", "phase", "code", "time")}
    return Absence(steps=int(found["steps"]), **texts)


def one_line(text: str) -> str:
    """Untrusted text as one line for a terminal, at most MOST_TEXT characters."""
    return printable(text[:MOST_TEXT], " ")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of text")
    return one_line(value)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return tuple(_text(one) for one in value)
