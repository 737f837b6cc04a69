"""What a silo took part in, and the narrowest remedy for each: the plan of a withdrawal.

For each model version and each lane: in which steps the silo contributed or may have (``contributions``), from which
state on the lane holds something of it, and what would take that out again. A remedy is a proposal; carrying it out is
a new run. What no remedy undoes is part of every plan: ``UNDONE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from aggregator.home import AggregatorHome
from aggregator.run_record import CheckedLedger
from aggregator.verify.models import ancestry, checked_ledger
from crypto.plan import Scope
from jobs.membership.contributions import LaneHistory, RunHistory, contributions

#: What neither the withdrawal nor any remedy undoes.
UNDONE = (
    "Weights that were published stay where they were copied to: MLflow's artifacts and backups, downloads, services.",
    "Sums and counts that were opened stay known. A later sum without the silo, compared with one that had it, narrows "
    "down what it gave: secure sums are not differential privacy.",
    "Lanes trained after its first step were trained beside what it had given, also those it gave nothing to.",
    "Local experts of other silos that started from the global ones stay at those silos.",
    "The ledger keeps that it took part, its data commitments and its approvals: evidence is not erased.",
    "Its NVFlare certificate is good until it expires: it may still connect, but no job is sent to it and no sum has "
    "it. NVFlare's server keeps out whom its disabled_clients.json names.",
)


class Remedy(StrEnum):
    """The narrowest thing that takes a silo out of a lane again."""

    NOTHING = "nothing to do"
    REOPEN = "open again"
    RETRAIN = "retrain from a checkpoint"
    RESET = "reset and retrain"
    WHOLE = "retrain the whole model"


@dataclass(frozen=True, slots=True)
class LanePlan:
    """One lane of a run: the steps in which the silo contributed, those in which it may have, and what to do.

    ``clean``: the last step that the lane opened in without it, −1 for the initial blocks; ``checkpoint``: a step
    whose stored state still has the lane's blocks as they were then. ``indirect``: the lane opened after the silo's
    first step in the run, so the others' contributions were computed on a model that the silo had influenced.
    ``advice``: the remedy as a sentence.
    """

    lane: str
    contributed: tuple[int, ...]
    possible: tuple[int, ...]
    clean: int
    checkpoint: int | None
    indirect: bool
    remedy: Remedy
    advice: str

    @property
    def touched(self) -> bool:
        return bool(self.contributed or self.possible)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One run that the silo took part in, or that descends from one. ``through``: the runs it descends from that it
    took part in. ``took_part``: names of the released steps that it was a survivor of."""

    label: str
    run: str
    steps: tuple[str, ...]
    took_part: tuple[int, ...]
    through: tuple[str, ...]
    lanes: tuple[LanePlan, ...]
    remedies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WithdrawalPlan:
    """``untouched``: versions that hold nothing of the silo, newest last."""

    silo: str
    models: tuple[ModelPlan, ...]
    untouched: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "silo": self.silo,
            "models": [
                {
                    "model": one.label,
                    "run": one.run,
                    "took_part_in": [one.steps[k] for k in one.took_part],
                    "through": list(one.through),
                    "lanes": [
                        {
                            "lane": lane.lane,
                            "contributed": [one.steps[k] for k in lane.contributed],
                            "may_have_contributed": [one.steps[k] for k in lane.possible],
                            "indirect": lane.indirect,
                            "clean_parent": one.steps[lane.clean] if lane.clean >= 0 else "initial",
                            "checkpoint": lane.checkpoint,
                            "remedy": lane.remedy.value,
                            "words": lane.advice,
                        }
                        for lane in one.lanes
                    ],
                    "remedies": list(one.remedies),
                }
                for one in self.models
            ],
            "untouched": list(self.untouched),
            "does_not_undo": list(UNDONE),
        }

    def lines(self) -> list[str]:
        """For people."""
        text: list[str] = []
        for one in self.models:
            through = f", through {', '.join(one.through)}" if one.through else ""
            part = f"in {spans(one.steps, one.took_part)}" if one.took_part else "not itself"
            name = f"{one.label} (run {one.run})" if one.label != one.run else f"run {one.run}"
            text += [f"{name}: {self.silo} took part {part}{through}"]
            for lane in one.lanes:
                text += [f"  {lane.lane:<14} {_how(one.steps, lane)}", f"  {'':<14} → {lane.advice}"]
            if not one.lanes:
                text += [f"  → {remedy}" for remedy in one.remedies]
        if not text:
            text = [f"no model and no run holds anything of {self.silo}"]
        if self.untouched:
            text += [f"untouched: {', '.join(self.untouched)}"]
        return [*text, "what no remedy undoes:", *(f"  - {limit}" for limit in UNDONE)]


# --- the plan ----------------------------------------------------------------------------------------------------


def plan_for(home: AggregatorHome, silo: str) -> WithdrawalPlan:
    """What the silo took part in, from the aggregator's home. Raises EvidenceError for a ledger that fails a check."""
    ledger = _ledger(home)
    runs = contributions(ledger) if ledger else ()
    by_run, above = {one.run: one for one in runs}, {one.run: one.parent for one in runs}
    models, untouched = [], []
    for one in runs:
        through = [by_run[run] for run in ancestry(one.run, above)[1:] if silo in by_run[run].took_part]
        if silo in one.took_part or through:
            models.append(_model(one, silo, through))
        elif one.model:
            untouched.append(one.label)
    return WithdrawalPlan(silo, tuple(models), tuple(untouched))


def _ledger(home: AggregatorHome) -> CheckedLedger | None:
    """The ledger, checked; None where nothing was ever written."""
    path = home.ledger_path
    return checked_ledger(home) if path.exists() and path.stat().st_size else None


def _model(one: RunHistory, silo: str, through: Sequence[RunHistory]) -> ModelPlan:
    mine = one.took_part.get(silo, ())
    lanes = tuple(_lane(one, lane, silo, mine, through) for lane in one.lanes)
    names = tuple(parent.label for parent in through)
    remedies = [f"{lane.lane}: {lane.advice}" for lane in lanes if lane.remedy is not Remedy.NOTHING]
    if through:
        remedies.insert(0, f"it descends from {names[0]}: remedy that first, then run it again")
    if not remedies:
        remedies = [f"nothing to retrain: {silo} gave counts only, in {spans(one.steps, mine)}"]
    return ModelPlan(one.label, one.run, one.steps, mine, names, lanes if mine else (), tuple(remedies))


def _lane(
    one: RunHistory, lane: LaneHistory, silo: str, mine: Sequence[int], through: Sequence[RunHistory]
) -> LanePlan:
    first, clean = lane.first(silo), lane.before(silo)
    stored = [k for k in one.checkpoints if first is not None and clean <= k < first]
    checkpoint = stored[-1] if stored else None
    if clean < 0:
        checkpoint = None  # the initial blocks are computed from the plan's seed
    remedy = _remedy(lane, first, clean, checkpoint)
    since = mine[0] if mine else -1
    return LanePlan(
        lane=lane.lane.name,
        contributed=lane.sure(silo),
        possible=lane.maybe(silo),
        clean=clean,
        checkpoint=checkpoint,
        indirect=bool(through) or any(opening.k > since for opening in lane.openings),
        remedy=remedy,
        advice=_advice(remedy, one, lane, silo, clean, checkpoint),
    )


def _remedy(lane: LaneHistory, first: int | None, clean: int, checkpoint: int | None) -> Remedy:
    if first is None:
        return Remedy.NOTHING
    if not lane.trains:
        return Remedy.REOPEN
    if lane.lane.scope == Scope.ALL:
        return Remedy.WHOLE
    return Remedy.RESET if clean < 0 or checkpoint is None else Remedy.RETRAIN


def _advice(remedy: Remedy, one: RunHistory, lane: LaneHistory, silo: str, clean: int, checkpoint: int | None) -> str:
    name = lane.lane.name
    match remedy:
        case Remedy.NOTHING if lane.openings:
            return f"nothing of its own is in {name}"
        case Remedy.NOTHING:
            return f"{name} never opened: nothing of anybody is in it"
        case Remedy.REOPEN:
            return f"open the sums of {name} again without {silo}: data only, nothing to train"
        case Remedy.WHOLE:
            return f"retrain the whole model without {silo} from the initial state: {name} is a lane of all silos"
        case Remedy.RETRAIN:
            return (
                f"retrain {name} without {silo} from run {one.run}, {one.steps[clean]} "
                f"(checkpoint of {one.steps[checkpoint or 0]} is there)"
            )
        case Remedy.RESET if clean < 0:
            return f"reset {name} to its initial blocks and retrain it without {silo}"
        case Remedy.RESET:
            return (
                f"reset {name} to its initial blocks and retrain it without {silo}: its last clean state, run "
                f"{one.run}, {one.steps[clean]}, has no checkpoint any more"
            )


def _how(steps: Sequence[str], lane: LanePlan) -> str:
    parts = []
    if lane.contributed:
        parts.append(f"contributed in {spans(steps, lane.contributed)} (weights are hidden)")
    if lane.possible:
        parts.append(f"may have contributed in {spans(steps, lane.possible)} (holdings or weights are hidden)")
    if not parts:
        parts.append("indirectly: trained beside what it gave" if lane.indirect else "nothing")
    return ", ".join(parts)


def spans(steps: Sequence[str], wanted: Sequence[int]) -> str:
    """Step names, runs of neighbours shortened: "rows/0, train/0 … train/11"."""
    shown = []
    for _, group in groupby(enumerate(wanted), lambda pair: pair[1] - pair[0]):
        names = [steps[k] for _, k in group]
        for _, same in groupby(names, lambda name: name.partition("/")[0]):
            part = list(same)
            shown.append(part[0] if len(part) == 1 else f"{part[0]} … {part[-1]}")
    return ", ".join(shown)
