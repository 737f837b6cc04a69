"""Runs of a job of the catalogue under the adversary of ``tests.benchmarks.trap_model``: without masks, or real agents.

The data are the demonstration's digits, dealt to eight silos; the last is the colluder, where there is one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from unittest.mock import patch

import numpy as np

from crypto import proof, tags
from crypto.blocks import Contribution
from crypto.cohort import words_digest
from crypto.errors import RoundLost
from crypto.keys import Identity
from crypto.messages import DECLINE, Decline, LaneSum, Message, TagRequest
from crypto.plan import Plan, Step
from crypto.proof import Sum
from crypto.server_session import ServerSession, Uploads
from jobs.demo import digits_data
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.runtime.in_process import InProcess
from silo_agent.data import DataSet, check
from silo_agent.home import SiloHome
from silo_agent.methods import Limits, Method, Published, method
from tests import local, plain
from tests.benchmarks.trap_model import Adversary, Uploader
from tests.federation import Federation as Keys

SILOS = tuple(f"silo-{i}" for i in range(1, 9))
COLLUDER = SILOS[-1]
LIMITS = Limits(n_max=len(SILOS))


@dataclass(frozen=True)
class Case:
    """A job on its data: ``arrays`` of the silos and of two newcomers, who take no part."""

    spec: JobSpec
    seed: int
    arrays: Mapping[str, Mapping[str, np.ndarray]]

    @classmethod
    def of(cls, job: str, seed: int, **params: float) -> Case:
        """``job``: of the catalogue; ``seed``: of data and model; ``params``: in place of the job file's."""
        raw = tomllib.loads((resources.files("jobs") / "catalogue" / f"{job}.toml").read_text())
        spec = JobSpec.parse(raw | {"params": raw["params"] | {"seed": seed} | params})
        return cls(spec, seed, digits_data.make(len(SILOS), seed))

    def clipped(self, clip: float) -> Case:
        return replace(self, spec=replace(self.spec, params={**self.spec.params, "clip": clip}))

    @cached_property
    def plan(self) -> Plan:
        return method(self.spec.method).plan(self.spec.params, LIMITS)

    @cached_property
    def data(self) -> dict[str, DataSet]:
        return {name: check("digits", arrays) for name, arrays in self.arrays.items()}

    @property
    def clip(self) -> float:
        """Of the networks' blocks."""
        return next(block.clip for block in self.plan.blocks if block.name.endswith(".w1"))

    def members(self) -> dict[str, Method]:
        return {silo: method(self.spec.method)(self.spec.params, silo) for silo in SILOS}

    def play(self, members: Mapping[str, Method], **how: object) -> Published:
        """A run without masks."""
        return plain.run(self.plan, members, {silo: self.data[silo] for silo in SILOS}, LIMITS, **how)  # type: ignore[arg-type]

    def adversary(self, *, bounded: bool, lies: bool = True, uploads: bool = False) -> Adversary:
        """It has the newcomers' rows as public rows. ``uploads``: an ``Uploader``, which lies in no sum."""
        newcomers = [rows for name, rows in self.data.items() if name not in SILOS]
        public_ND = np.concatenate([part for rows in newcomers for part in (rows.x_train, rows.x_test)])
        labels_N = np.concatenate([part for rows in newcomers for part in (rows.y_train, rows.y_test)])
        kind, lies = (Uploader, False) if uploads else (Adversary, lies)
        return kind(self.plan, public_ND.astype(np.float64), labels_N, self.seed, bounded=bounded, lies=lies)

    def score(self, adversary: Adversary, silos: Collection[str] = SILOS) -> dict[str, int]:
        """What the adversary's claims are worth: different training rows of these silos, exact and with their labels
        (``read``), those that stood alone in a sum, false claims, and how many rows there are."""
        rows = {
            row.tobytes(): int(label)
            for silo in silos
            for row, label in zip(self.data[silo].x_train, self.data[silo].y_train, strict=True)
        }
        right = [one for key, one in adversary.readings.items() if rows.get(key) == one.label]
        wrong = len(adversary.readings) - len(right)
        return {"read": len(right), "alone": sum(one.alone for one in right), "wrong": wrong, "of": len(rows)}


# --- without masks ---------------------------------------------------------------------------------------------------


def honest_run(case: Case) -> tuple[float, float]:
    """The largest value of an update before it is clipped, and the final accuracy, in a run in which nobody lies."""
    largest = 0.0

    def watch(step: Step, seen: Published, here: Mapping[str, Method], weights: object) -> None:
        nonlocal largest
        if step.task == "train":
            for silo, member in here.items():
                sums = member.contribute(step, seen, case.data[silo]).sums
                largest = max(largest, *(float(np.abs(value).max()) for value in sums.values()))

    figures = case.play(case.members(), watch=watch).slots["eval/0"]
    return largest, 100 * figures["global.correct"] / figures["test.rows"]


class Colluder:
    """The method of a silo that uploads zeros in every lane of a training step, at the highest weight, or what an
    ``Uploader`` wants."""

    def __init__(self, honest: Method, adversary: Adversary) -> None:
        self._honest, self._plan, self._adversary = honest, adversary.plan, adversary

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task != "train":
            return self._honest.weights(step, published, data)
        return {lane.name: lane.grid[-1] for lane in self._plan.lanes_of(step)}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        honest = self._honest.contribute(step, published, data)
        if step.task != "train":
            return honest
        if isinstance(self._adversary, Uploader):
            return Contribution(self._adversary.upload(step), honest.slots)
        return Contribution({name: np.zeros_like(value) for name, value in honest.sums.items()}, honest.slots)


def without_masks(case: Case, adversary: Adversary, *, colluder: bool = False) -> int:
    """A run in which the adversary announces the sums. How many false ones passed ``crypto.proof.check_bounds``: all
    of them, or it raises SumNotProven; 0 for an adversary that is not bounded."""
    plan, members, charter, passed = case.plan, case.members(), Keys(len(SILOS)).charter, 0
    if colluder:
        members[COLLUDER] = Colluder(members[COLLUDER], adversary)  # type: ignore[assignment]

    def announce(step: Step, sums: Mapping[str, np.ndarray], figures: Mapping[str, int]) -> Mapping[str, np.ndarray]:
        nonlocal passed
        told = adversary.announce(step, sums, figures)
        for lane in plan.lanes_of(step):
            if lane.name in told and adversary.bounded:
                one = LaneSum(
                    lane=lane.name,
                    words=words_digest(told[lane.name]),
                    carries=bytes(32),
                    uploaders=SILOS,
                    weight=figures[lane.weight_figure],
                    contributors=figures[lane.contributors_figure],
                )
                proof.check_bounds(charter, plan, plan.steps.index(step), one, told[lane.name])
                passed += not np.array_equal(told[lane.name], sums[lane.name])
        return told

    case.play(members, announce=announce)
    return passed


# --- real agents -----------------------------------------------------------------------------------------------------


class LyingSession(ServerSession):
    """A server that announces what ``adversary`` says.

    ``colluder``: the key of a member that lends it its name for false tags. Without one it takes the survivors' tags
    for its proof as they are, whatever they prove.
    """

    adversary: Adversary
    colluder: Identity | None = None

    def open_lanes(self, uploads: Uploads) -> TagRequest:
        request, step = super().open_lanes(uploads), self.context.step
        true = {lane: found.words for lane, found in self.sums.items()}
        told = self.adversary.announce(step, true, request.result.figures(step))
        sums = []
        for one in request.result.sums:
            if not np.array_equal(told[one.lane], true[one.lane]):
                # So many carries that what is left for the colluder's tag is positive, as tags have to be.
                carries = np.full_like(self.sums[one.lane].carries, len(one.uploaders))
                self.sums[one.lane] = Sum(told[one.lane], carries)
                one = replace(one, words=words_digest(told[one.lane]), carries=words_digest(carries))
            sums.append(one)
        self.result = replace(request.result, sums=tuple(sums))
        return replace(request, result=self.result)

    def close_tags(self) -> tuple[bytes, ...]:
        if self.colluder is None:
            return self.signed_tags
        self._forge(self.colluder)
        return super().close_tags()

    def _forge(self, key: Identity) -> None:
        """The colluder's tags are what the honest ones lack."""
        lacking = []
        for one in self.result.sums:
            total = proof.lane_tag(self.context.plan, self.result, one.lane, self.sums[one.lane])
            honest = tags.add([self._tag(silo, one.lane) for silo in one.uploaders if silo != COLLUDER])
            lacking.append(tags.write(tuple(whole - part for whole, part in zip(total, honest, strict=True))))
        forged = replace(self._tags[COLLUDER][0], tags=tuple(lacking))
        self._tags[COLLUDER] = forged, forged.sign(key)

    def _tag(self, owner: str, lane: str) -> tags.Tag:
        lanes = [one.lane for one in self.result.sums if owner in one.uploaders]
        return tags.read(self._tags[owner][0].tags[lanes.index(lane)])


def against_agents(
    case: Case, adversary: Adversary, root: Path, *, colluder: bool = False
) -> tuple[dict[str, set[str]], Sequence[str]]:
    """A run of real agents in one process under a lying aggregator. Silo → the codes with which it declined, and the
    phases and steps in which a silo sent anything, as ``phase step``.

    ``colluder``: whether silo-8 has given the aggregator its key. Its agent trains like the others.
    """
    arrays = {silo: case.arrays[silo] for silo in SILOS}
    federation = Federation.make(root, "trap", arrays, "digits")
    codes: dict[str, set[str]] = {silo: set() for silo in SILOS}
    answered: dict[str, None] = {}

    class Noting(InProcess):
        def send(self, request: Message) -> Message | None:
            answer = super().send(request)
            if answer is not None and answer.phase == DECLINE:
                refused = Decline.open(answer.body, local.any_key)
                codes[refused.silo].add(refused.code)
            else:
                answered[f"{request.phase} {local.asked(request).step}"] = None
            return answer

    key = SiloHome(federation.silo(COLLUDER)).identity() if colluder else None
    lying = type("Lying", (LyingSession,), {"adversary": adversary, "colluder": key})
    with patch("aggregator.rounds.attempt.ServerSession", lying), plain.fixed_run_id():
        try:
            local.run_job(case.spec, federation.aggregator, federation.homes, courier=lambda _, one: Noting(one))
        except RoundLost:
            if not all(codes.values()):
                raise
    return codes, tuple(answered)
