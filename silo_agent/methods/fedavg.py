"""FedAvg: one model, the mean of what the silos make of it. The proof that the shape of a method is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.plan import Apply, Lane, Plan, Scope, Step, Sum
from silo_agent import experts
from silo_agent.data import DataSet
from silo_agent.methods import (
    GRID,
    Limits,
    Published,
    Stateless,
    TrainingParams,
    batch,
    fits,
    known_mode,
    mean_rows,
    parameter,
    parse,
    weight,
)
from silo_agent.methods.plans import ROWS_STEP, SCORE, correct, network, network_blocks
from silo_agent.training import Descent, batches, cross_entropy, generator, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(TrainingParams):
    """``proximal``: μ of FedProx, a pull to the published model while a silo trains; 0 is FedAvg."""

    proximal: float = parameter(0.0, least=0.0, most=10.0)


class FedAvg(Stateless):
    """Lane ``everyone``: all silos, weighted by rows under the weight rule. All modes predict alike."""

    name: ClassVar[str] = "fedavg"
    display_name: ClassVar[str] = "FedAvg"
    contextual: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.params = parse(Params, params)
        self.silo = silo

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        p = parse(Params, params)
        lane = Lane(name="everyone", scope=Scope.ALL, floor=limits.lane_floor, grid=GRID)
        blocks = network_blocks("model", p, lane=lane.name)
        sums = tuple(Sum(block.name, Apply.AVERAGE) for block in blocks)
        steps = (
            ROWS_STEP,
            *(Step(task="train", index=k, sums=sums, slots=SCORE) for k in range(p.rounds)),
            Step(task="eval", index=0, slots=SCORE),
        )
        return Plan(
            method=cls.name,
            seed=p.seed,
            n_max=limits.n_max,
            ring_bits=p.ring_bits,
            lanes=(lane,),
            blocks=blocks,
            steps=steps,
        )

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task != "train":
            return {}
        return {"everyone": weight(data.rows, mean_rows(published, "rows/0"))}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p = self.params
        fits(data, p.features, p.classes)
        if step.task == "rows":
            return Contribution({}, {"silos": 1, "rows": data.rows})
        right = correct(self.predict(published, data.x_test, "global"), data)
        slots = {"global.correct": right, "test.rows": len(data.y_test)}
        if step.task == "eval":
            return Contribution({}, slots)
        old = network(published, "model")
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, step.index))
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum, proximal=p.proximal)
        (new,) = train([old], data.x_train, data.y_train, order, descent, cross_entropy)
        return Contribution({f"model.{part}": new[part] - old[part] for part in experts.PARTS}, slots)

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        known_mode(mode)
        model = network(published, "model")
        p_BC: np.ndarray = experts.predict([model], batch(x, self.params.features))[0]
        return p_BC
