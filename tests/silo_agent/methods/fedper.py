"""FedPer: silos share the hidden layer, and each keeps a head of its own (after arXiv 1912.00818)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.errors import DataRefused
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Step, Sum
from silo_agent import experts
from silo_agent.data import DataSet
from silo_agent.methods import (
    GRID,
    Limits,
    Published,
    TrainingParams,
    batch,
    fits,
    known_mode,
    mean_rows,
    parse,
    weight,
)
from silo_agent.methods.plans import ROWS_STEP, TEST_ROWS, counts
from silo_agent.training import Descent, batches, cross_entropy, generator, train

BASE, HEAD = ("w1", "b1"), ("w2", "b2")


class FedPer:
    """Lane ``everyone``: the hidden layer. Lane ``own``: the head, which never leaves."""

    name: ClassVar[str] = "fedper"
    display_name: ClassVar[str] = "FedPer"
    contextual: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.params = parse(TrainingParams, params)
        self.silo = silo
        self.head: dict[str, np.ndarray] = {}

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        p = parse(TrainingParams, params)
        shapes, widths = experts.shapes(p.features, p.hidden, p.classes), experts.half_widths(p.features, p.hidden)
        base = [Block(name=f"base.{k}", shape=shapes[k], lane="everyone", clip=p.clip, init=widths[k]) for k in BASE]
        head = [Block(name=f"head.{k}", shape=shapes[k], lane="own", clip=p.clip) for k in HEAD]
        score = (*counts("personal.correct", basis=Basis.STEP), *TEST_ROWS)
        sums = tuple(Sum(block.name, Apply.AVERAGE) for block in base)
        return Plan(
            method=cls.name,
            seed=p.seed,
            n_max=limits.n_max,
            ring_bits=p.ring_bits,
            lanes=(
                Lane(name="everyone", scope=Scope.ALL, floor=limits.lane_floor, grid=GRID),
                Lane(name="own", scope=Scope.LOCAL, floor=limits.lane_floor),
            ),
            blocks=(*base, *head),
            steps=(
                ROWS_STEP,
                *(Step(task="train", index=k, sums=sums) for k in range(p.rounds)),
                Step(task="eval", index=0, slots=score),
            ),
        )

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        return {"everyone": weight(data.rows, mean_rows(published, "rows/0"))} if step.task == "train" else {}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p = self.params
        fits(data, p.features, p.classes)
        if step.task == "rows":
            return Contribution({}, {"silos": 1, "rows": data.rows})
        if step.task == "eval":
            right = self.predict(published, data.x_test, "personal").argmax(axis=1) == data.y_test
            return Contribution({}, {"personal.correct": int(right.sum()), "test.rows": len(right)})
        start = self._model(published, step.index)
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, step.index))
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum)
        (end,) = train([start], data.x_train, data.y_train, order, descent, cross_entropy)
        self.head |= {f"{part}/{step.index}": end[part] for part in HEAD}
        return Contribution({f"base.{part}": end[part] - start[part] for part in BASE}, {})

    def _model(self, published: Published, before: int) -> dict[str, np.ndarray]:
        """The shared layer under this silo's head of the last round ``before``: a step tried again starts there too."""
        p, base = self.params, {part: published.blocks[f"base.{part}"] for part in BASE}
        rounds = [k for k in range(before) if f"w2/{k}" in self.head]
        if rounds:
            return base | {part: self.head[f"{part}/{rounds[-1]}"] for part in HEAD}
        shapes = experts.shapes(p.features, p.hidden, p.classes)
        return base | {part: np.zeros(shapes[part], np.float32) for part in HEAD}

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        known_mode(mode)
        if mode != "personal" or not self.head:
            raise DataRefused("There is no shared head.", remedy="Ask for personal, at a silo that took part.")
        p_BC: np.ndarray = experts.predict(
            [self._model(published, self.params.rounds)], batch(x, self.params.features)
        )[0]
        return p_BC

    def state_dict(self) -> dict[str, np.ndarray]:
        """The heads of all rounds: for a restart, at this silo."""
        return dict(self.head)

    def load_state_dict(self, kept: Mapping[str, np.ndarray]) -> None:
        self.head = dict(kept)
