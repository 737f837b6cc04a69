"""Which silos contributed to which lanes of each run, as far as the aggregator's ledger shows.

A survivor of a step is in all sums that its uploads went into, but a weight may be 0, and weights are hidden. Three
things are known: who uploaded a lane (everyone, its holders, its group), how many of them had a weight if it opened,
and, where holdings are visible, each holder's signed statement that it has one. So a silo
*contributed* to an opened lane if it stated so or if all who uploaded it had a weight; otherwise it *may have*. A lane
that stayed shut took nothing from anybody; the slots of a released step, so far as they opened, took something from
each of its survivors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aggregator.home import AggregatorHome
from aggregator.ledger.records import StepClosed
from aggregator.protocols.interface import Lane, Plan
from aggregator.rounds.storage import checkpoint_steps
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.verify.models import Models, ModelVersion, parents
from crypto.plan import Apply, Scope


@dataclass(frozen=True, slots=True)
class Opening:
    """A lane that opened in step ``k``. ``certain`` have contributed, ``possible`` may have; the others have not."""

    k: int
    certain: frozenset[str]
    possible: frozenset[str]


@dataclass(frozen=True, slots=True)
class LaneHistory:
    """A lane through a run: each time that it opened, in order."""

    lane: Lane
    openings: tuple[Opening, ...]
    trains: bool

    def sure(self, silo: str) -> tuple[int, ...]:
        """The steps in which the silo contributed."""
        return tuple(one.k for one in self.openings if silo in one.certain)

    def maybe(self, silo: str) -> tuple[int, ...]:
        """The steps in which it may have."""
        return tuple(one.k for one in self.openings if silo in one.possible)

    def first(self, silo: str) -> int | None:
        """The first step in which it did or may have."""
        return min((*self.sure(silo), *self.maybe(silo)), default=None)

    def before(self, silo: str) -> int:
        """The last step, before the silo's first, whose sum provably excludes it; −1: the initial blocks."""
        first = self.first(silo)
        return max((one.k for one in self.openings if first is None or one.k < first), default=-1)


@dataclass(frozen=True, slots=True)
class RunHistory:
    """One run. ``model``: what it made, if it finished. ``parent``: the run whose result it started from.
    ``steps``: names in order. ``took_part``: silo → the released steps it was a survivor of. ``checkpoints``: steps
    whose state is still on disk."""

    run: str
    job: str
    model: ModelVersion | None
    parent: str | None
    plan: Plan
    steps: tuple[str, ...]
    took_part: Mapping[str, tuple[int, ...]]
    lanes: tuple[LaneHistory, ...]
    checkpoints: tuple[int, ...]

    @property
    def label(self) -> str:
        """name/version, or the run's id where there is no version."""
        return self.model.label if self.model else self.run


def contributions(ledger: CheckedLedger) -> tuple[RunHistory, ...]:
    """Every run that was started, oldest first. Raises EvidenceError for a plan that fails a check."""
    models, above = Models.of(ledger), parents(ledger)
    return tuple(_run(ledger.home, record, models.made_by(run), above[run]) for run, record in ledger.runs.items())


def _run(home: AggregatorHome, record: RunRecord, model: ModelVersion | None, parent: str | None) -> RunHistory:
    plan, closed = record.plan, [entry.record for entry in record.closed]
    took_part: dict[str, tuple[int, ...]] = {}
    for step in closed:
        for silo in step.survivors:
            took_part[silo] = (*took_part.get(silo, ()), step.k)
    return RunHistory(
        run=record.run,
        job=record.started.record.model_name,
        model=model,
        parent=parent,
        plan=plan,
        steps=tuple(step.name for step in plan.steps),
        took_part=took_part,
        lanes=tuple(_lane(plan, lane, closed) for lane in plan.lanes if lane.scope != Scope.LOCAL),
        checkpoints=tuple(checkpoint_steps(home.run_folder(record.run))),
    )


def _lane(plan: Plan, lane: Lane, closed: Sequence[StepClosed]) -> LaneHistory:
    openings = tuple(_opening(lane, record) for record in closed if lane.name in record.lanes_open)
    applied = {part.apply for step in plan.steps for part in step.sums if plan.lane_of(part.block) == lane}
    return LaneHistory(lane, openings, trains=bool(applied - {Apply.PUBLISH}))


def _opening(lane: Lane, record: StepClosed) -> Opening:
    announced = lane.visible and record.holdings is not None
    if lane.visible and not announced:  # a ledger that does not note holdings: any survivor may hold the lane
        uploaded = frozenset(record.survivors)
    else:
        uploaded = frozenset(lane.uploaders(record.survivors, record.holdings or {}))
    everyone = record.slots.get(lane.contributors_figure, 0) == len(uploaded)
    return Opening(record.k, *((uploaded, frozenset()) if announced or everyone else (frozenset(), uploaded)))
