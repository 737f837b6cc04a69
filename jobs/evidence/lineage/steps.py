"""The steps of a run for a reader: steps with the same outcome as one group, and each fault named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aggregator.figures import withheld
from aggregator.ledger.records import Refusal, SiloLost, StepClosed, StepOpened, StepVoid
from aggregator.protocols.interface import Plan
from aggregator.run_record import RunRecord

#: In place of a phase.
LEFT_OUT = "left out"

RELEASED, VOID, OPEN = "released", "void", "not finished"


@dataclass(frozen=True, slots=True)
class Absence:
    """A silo that was invited and is not in the sum: lost or, with a ``code``, refusing in ``phase``; or left out by
    the aggregator, ``LEFT_OUT``, since with it the rule of atoms would have kept the sum of the others shut."""

    silo: str
    phase: str
    code: str = ""

    def __str__(self) -> str:
        if self.phase == LEFT_OUT:
            return f"{self.silo} left out: with it and earlier sums, this one could show single silos"
        return f"{self.silo} refused in {self.phase}: {self.code}" if self.code else f"{self.silo} lost in {self.phase}"


@dataclass(frozen=True, slots=True)
class StepGroup:
    """Steps of one task with the same outcome. ``cohort``: whose uploads are in the sums. ``shut``: lane → why it
    stayed shut, as far as the opened counts show. ``withheld``: the figures that the silos withheld. ``reason``: of a
    void step."""

    names: tuple[str, ...]
    outcome: str
    invited: tuple[str, ...]
    cohort: tuple[str, ...]
    absent: tuple[Absence, ...]
    opened: tuple[str, ...]
    shut: Mapping[str, str]
    reason: str = ""
    withheld: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} … {self.names[-1]}"

    @property
    def eventful(self) -> bool:
        return bool(self.absent or self.shut or self.withheld) or self.outcome != RELEASED


def steps_of(run: RunRecord) -> tuple[StepGroup, ...]:
    """The steps in order; those of one task with the same outcome are one group."""
    plan = run.plan
    latest: dict[str, int] = {}
    groups: list[StepGroup] = []
    for k, step in _single_steps(run).items():
        task = plan.steps[k].task if k < len(plan.steps) else step.names[0]
        at = latest.get(task)
        if at is not None and replace(groups[at], names=()) == replace(step, names=()):
            groups[at] = replace(groups[at], names=groups[at].names + step.names)
        else:
            latest[task] = len(groups)
            groups.append(step)
    return tuple(groups)


def _single_steps(run: RunRecord) -> dict[int, StepGroup]:
    found: dict[int, StepGroup] = {}
    for entry in run.entries:
        match entry.record:
            case StepOpened() as record:
                found[record.k] = StepGroup((record.name,), OPEN, record.invited, (), (), (), {})
            case SiloLost() | Refusal() as record:
                absence = Absence(record.silo, record.phase, record.code if isinstance(record, Refusal) else "")
                found[record.k] = replace(found[record.k], absent=(*found[record.k].absent, absence))
            case StepVoid() as record:
                reason = f"{record.reason} in {record.phase}"
                found[record.k] = replace(found[record.k], outcome=VOID, reason=reason, absent=_absent(record))
            case StepClosed() as record:
                found[record.k] = StepGroup(
                    names=(record.name,),
                    outcome=RELEASED,
                    invited=record.invited,
                    cohort=record.survivors,
                    absent=(*_absent(record), *_left_out(record)),
                    opened=record.lanes_open,
                    shut={lane: _why_shut(run.plan, lane, record) for lane in record.lanes_shut},
                    withheld=withheld(run.plan, record),
                )
    return found


def _absent(record: StepClosed | StepVoid) -> tuple[Absence, ...]:
    refused = record.refusals or {}
    lost = {**dict.fromkeys(refused, "–"), **(record.lost or {})}
    return tuple(Absence(silo, phase, refused.get(silo, "")) for silo, phase in sorted(lost.items()))


def _left_out(record: StepClosed) -> tuple[Absence, ...]:
    """Those whose uploads the aggregator had and did not use."""
    seen = {*record.survivors, *(record.lost or ()), *(record.refusals or ())}
    return tuple(Absence(silo, LEFT_OUT) for silo in sorted(set(record.invited) - seen))


def _why_shut(plan: Plan, lane: str, record: StepClosed) -> str:
    """The silos' reasons stay with them; what is known is how many contributors there were, of a lane that shows it."""
    floor = next((one.floor for one in plan.lanes if one.name == lane), None)
    count = record.slots.get(f"{lane}.contributors")
    if count is None or floor is None:
        return "withheld by the silos: below a floor, or with earlier sums it could show single silos"
    if count < floor:
        return f"{count} contributors, floor {floor}"
    return f"{count} contributors; withheld by the silos under a stricter rule"


def spans(names: Sequence[str]) -> list[str]:
    """Names of steps in short: those of one task as the first, the last and how many."""
    tasks: dict[str, list[str]] = {}
    for name in names:
        tasks.setdefault(name.partition("/")[0], []).append(name)
    return [one[0] if len(one) == 1 else f"{one[0]} … {one[-1]} ({len(one)})" for one in tasks.values()]
