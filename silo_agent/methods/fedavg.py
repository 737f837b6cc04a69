"""FedAvg: one model, the mean of what the silos make of it. The proof that the shape of a method is right.

With a model that has parameters of role local (after arXiv 1912.00818), these are trained at each silo and stay there,
and only personal predictions exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.errors import DataRefused, SpecError
from crypto.plan import Apply, Lane, Plan, Scope, Step, Sum
from silo_agent.data import DataSet
from silo_agent.methods import (
    GRID,
    Limits,
    Published,
    batch,
    fits,
    known_mode,
    mean_rows,
    parameter,
    weight,
)
from silo_agent.methods.networks import clip_slots, clipped, part_blocks, published_parts, read, training_seed
from silo_agent.methods.personal import Component
from silo_agent.methods.plans import ROWS_STEP, TEST_ROWS
from silo_agent.methods.scoring import due, score_slots, scored, target_slots
from silo_agent.methods.training_options import TrainingOptions
from silo_agent.models.description import Role
from silo_agent.models.experts import Experts, moved
from silo_agent.models.layout import Part
from silo_agent.training import batches, cross_entropy, generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(TrainingOptions):
    """``proximal``: μ of FedProx, a pull to the published model while a silo trains; 0 is FedAvg. ``metrics_every``:
    the metrics open at the end, and before every so many rounds; 0: only at the end."""

    proximal: float = parameter(0.0, least=0.0, most=10.0)
    metrics_every: int = parameter(0, least=0, most=10_000)


class FedAvg:
    """Lane ``everyone``: all silos, weighted by rows under the weight rule. Lane ``own``: local parts, never sent.

    All modes predict alike, unless there are local parts: then there is ``personal`` alone.
    """

    name: ClassVar[str] = "fedavg"
    display_name: ClassVar[str] = "FedAvg"
    contextual: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.params, self.experts = read(Params, params)
        self.params.check(self.experts.task)
        self.silo = silo
        self._sent, self._local = _parts(self.experts)
        self._own: dict[str, np.ndarray] = {}

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        p, experts = read(Params, params)
        p.check(experts.task)
        sent, local = _parts(experts)
        if not sent:
            raise SpecError("params.local", got="every parameter", want="at least one that is shared")
        lane = Lane(name="everyone", scope=Scope.ALL, floor=limits.lane_floor, grid=GRID)
        own = Lane(name="own", scope=Scope.LOCAL, floor=limits.lane_floor)
        blocks = part_blocks("model", sent, lane=lane.name, clip=p.clip)
        sums = tuple(Sum(block.name, Apply.AVERAGE) for block in blocks)
        mode, task = _mode(local), experts.task
        few, all_of_them = (
            (*score_slots(mode, task, metrics=metrics), *target_slots(task), *TEST_ROWS) for metrics in (False, True)
        )
        of_train = ((all_of_them if due(p.metrics_every, k) else few) + clip_slots(experts) for k in range(p.rounds))
        steps = (
            ROWS_STEP,
            *(Step(task="train", index=k, sums=sums, slots=slots) for k, slots in enumerate(of_train)),
            Step(task="eval", index=0, slots=all_of_them),
        )
        return Plan(
            method=cls.name,
            seed=p.seed,
            n_max=limits.n_max,
            ring_bits=p.ring_bits,
            lanes=(lane, own) if local else (lane,),
            blocks=blocks + part_blocks("model", local, lane=own.name, clip=p.clip),
            steps=steps,
        )

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task != "train":
            return {}
        return {"everyone": weight(data.rows, mean_rows(published, "rows/0"))}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p = self.params
        task = self.experts.task
        fits(data, self.experts.shape, task)
        if step.task == "rows":
            return Contribution({}, {"silos": 1, "rows": data.rows})
        old = self._model(published, step.index if step.task == "train" else p.rounds)
        tested = self.experts.predict([old], data.x_test, data.x_train)[0]
        slots = scored(step, _mode(self._local), tested, data.y_test, task) | {"test.rows": len(data.y_test)}
        if step.task == "eval":
            return Contribution({}, slots)
        steps, rng = p.steps(data.rows), generator("batches", p.seed, self.silo, step.index)
        order = batches(data.rows, steps, p.batch, rng)
        descent = p.descent(step.index, data, task, proximal=p.proximal)
        seed = training_seed(p.seed, self.silo, step.index)
        (new,) = self.experts.train([old], data.x_train, data.y_train, order, descent, cross_entropy, seed=seed)
        self._keep(step.index, new)
        delta = moved(old, new)
        sums = {f"model.{part.code}": delta[part.code] for part in self._sent}
        return Contribution(sums, slots | clipped(clip_slots(self.experts), sums, p.clip))

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        known_mode(mode)
        x = batch(x, self.experts.shape)
        if self._local and (mode != "personal" or not self._own):
            raise DataRefused(
                "Part of this model is local, so there is no shared model.",
                remedy="Ask for personal predictions, at a silo that took part.",
            )
        p_BC: np.ndarray = self.experts.predict([self._model(published, self.params.rounds)], x)[0]
        return p_BC

    @property
    def has_personal(self) -> bool:
        return bool(self._own)

    def predict_personal(self, published: Published, x: np.ndarray, home: np.ndarray | None = None) -> np.ndarray:
        if not self._own:
            raise DataRefused("There is no model of this silo alone.", remedy="Give the job local parameters.")
        p_BC: np.ndarray = self.experts.predict(
            [self._model(published, self.params.rounds)], batch(x, self.experts.shape), home
        )[0]
        return p_BC

    def of_rows(self, published: Published) -> tuple[Component, ...]:
        return (Component(1.0, self._model(published, self.params.rounds)),)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The local parts after the last two rounds that this silo trained in: a step tried again starts from the
        first of them."""
        return dict(self._own)

    def load_state_dict(self, kept: Mapping[str, np.ndarray]) -> None:
        self._own = dict(kept)

    def _model(self, published: Published, before: int) -> dict[str, np.ndarray]:
        """The published parts, and this silo's own of its last round ``before``, or as they start."""
        rounds = [k for k in self._rounds() if k < before]
        own = {
            part.code: self._own[f"{part.code}/{rounds[-1]}"] if rounds else np.zeros(part.shape, np.float32)
            for part in self._local
        }
        return published_parts(published, "model", self._sent) | own

    def _keep(self, k: int, model: Mapping[str, np.ndarray]) -> None:
        kept = [before for before in self._rounds() if before < k][-1:]
        self._own = {
            f"{part.code}/{j}": model[part.code] if j == k else self._own[f"{part.code}/{j}"]
            for part in self._local
            for j in (*kept, k)
        }

    def _rounds(self) -> list[int]:
        """The rounds whose local parts are kept, ascending."""
        return sorted({int(name.partition("/")[2]) for name in self._own})


def _parts(experts: Experts) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """(parts that are sent, local ones)."""
    sent = tuple(part for part in experts.parts if part.role is not Role.LOCAL)
    return sent, tuple(part for part in experts.parts if part.role is Role.LOCAL)


def _mode(local: tuple[Part, ...]) -> str:
    """Which predictions are scored."""
    return "personal" if local else "global"
