"""FedAvg in lanes: a trunk that everyone trains, and experts that only their holders do. It exercises lanes.

Every silo trains the shared first layer, lane ``trunk``. Expert e is one head on it, lane ``expert-e``, held by the
silos that the job names in ``holders-e``: fixed, so that a demonstration knows what happens when holders leave. The
first experts have visible holdings (a silo uploads the heads it holds and no others), the rest hidden ones (everyone
uploads them, zeros included). The job is there to show lanes open and stay shut one by one, not to win accuracy: a
prediction is the plain mean over all heads, with no gate.

Shapes: B rows, C classes, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.charter import SILO_ID
from crypto.errors import SpecError
from crypto.plan import Apply, Block, Lane, Plan, Scope, Step, Sum
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
from silo_agent.methods.plans import ROWS_STEP, TEST_ROWS, correct, counts
from silo_agent.training import Descent, batches, cross_entropy, generator, train

TRUNK, HEAD = ("w1", "b1"), ("w2", "b2")
#: A figure of the state, which opens apart from the test rows: the demonstration of both sections. Other methods call
#: correct answers figures of the data (``plans.correct_slots``), which shows less of a model that names one class.
_SCORE = (*counts("global.correct"), *TEST_ROWS)
HOLDERS = "holders-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(TrainingParams):
    experts: int = parameter(4, least=1, most=64)
    visible: int = parameter(2, least=0, most=64)
    rounds: int = parameter(4, least=1, most=10_000)


class FedAvgLanes(Stateless):
    """Lanes: ``trunk`` (every silo), ``expert-e`` (its holders), weighted by rows. All modes predict alike."""

    name: ClassVar[str] = "fedavg-lanes"
    display_name: ClassVar[str] = "FedAvg in lanes"
    contextual: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.params, self.holders = _read(params)
        self.silo = silo

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        p, holders = _read(params)
        floor = limits.lane_floor
        least = limits.least_holders
        for e, names in enumerate(holders):
            if not least <= len(names) <= limits.n_max:
                raise SpecError(
                    f"params.{HOLDERS}{e}",
                    got=f"{len(names)} silos",
                    want=f"from {least} to {limits.n_max}",
                    remedy="With fewer the lane would never open.",
                )
        lanes = (
            Lane(name="trunk", scope=Scope.ALL, floor=floor, grid=GRID),
            *(
                Lane(name=f"expert-{e}", scope=Scope.HELD, floor=floor, grid=GRID, hidden=e >= p.visible)
                for e in range(p.experts)
            ),
        )
        shapes, widths = experts.shapes(p.features, p.hidden, p.classes), experts.half_widths(p.features, p.hidden)
        blocks = tuple(
            Block(name=f"{lane.name}.{part}", shape=shapes[part], lane=lane.name, clip=p.clip, init=widths[part])
            for lane in lanes
            for part in (TRUNK if lane.name == "trunk" else HEAD)
        )
        sums = tuple(Sum(block.name, Apply.AVERAGE) for block in blocks)
        steps = (
            ROWS_STEP,
            *(Step(task="train", index=k, sums=sums, slots=_SCORE) for k in range(p.rounds)),
            Step(task="eval", index=0, slots=_SCORE),
        )
        return Plan(
            method=cls.name,
            seed=p.seed,
            n_max=limits.n_max,
            ring_bits=p.ring_bits,
            lanes=lanes,
            blocks=blocks,
            steps=steps,
        )

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task != "train":
            return {}
        mine = weight(data.rows, mean_rows(published, "rows/0"))
        return {"trunk": mine} | {f"expert-{e}": mine if e in self.held else 0 for e in range(self.params.experts)}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p = self.params
        fits(data, p.features, p.classes)
        if step.task == "rows":
            return Contribution({}, {"silos": 1, "rows": data.rows})
        right = correct(self.predict(published, data.x_test, "global"), data)
        slots = {"global.correct": right, "test.rows": len(data.y_test)}
        return Contribution(self._training(step.index, published, data) if step.task == "train" else {}, slots)

    @property
    def held(self) -> tuple[int, ...]:
        """The experts this silo holds."""
        return tuple(e for e, names in enumerate(self.holders) if self.silo in names)

    def _training(self, k: int, published: Published, data: DataSet) -> dict[str, np.ndarray]:
        """Δ of the trunk and of the heads held. Each head trains with a copy of the trunk; its Δ is their mean.

        A silo that holds none trains the trunk under all heads and sends no head.
        """
        p = self.params
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, k))
        taught = self.held or tuple(range(p.experts))
        old = [self._model(published, e) for e in taught]
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum)
        new = train(old, data.x_train, data.y_train, order, descent, cross_entropy)
        moved = [{part: after[part] - before[part] for part in after} for before, after in zip(old, new, strict=True)]
        sums = {f"trunk.{part}": np.mean([delta[part] for delta in moved], axis=0) for part in TRUNK}
        heads = zip(taught, moved, strict=True) if self.held else ()
        return sums | {f"expert-{e}.{part}": delta[part] for e, delta in heads for part in HEAD}

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        known_mode(mode)
        models = [self._model(published, e) for e in range(self.params.experts)]
        p_EBC = experts.predict(models, batch(x, self.params.features))
        p_BC: np.ndarray = p_EBC.mean(axis=0)
        return p_BC

    def _model(self, published: Published, e: int) -> dict[str, np.ndarray]:
        """Trunk and one head: a perceptron as ``experts`` knows it."""
        head = {part: published.blocks[f"expert-{e}.{part}"] for part in HEAD}
        return {part: published.blocks[f"trunk.{part}"] for part in TRUNK} | head


def _read(raw: Mapping[str, object]) -> tuple[Params, tuple[frozenset[str], ...]]:
    """The parameters, and each expert's holders from ``holders-0 …``: silo ids with a space between them."""
    named = {f"{HOLDERS}{e}" for e in range(int(Params.__dataclass_fields__["experts"].metadata["most"]))}
    p = parse(Params, {key: value for key, value in raw.items() if key not in named})
    if p.visible > p.experts:
        raise SpecError("params.visible", got=p.visible, want=f"at most {p.experts}, the experts there are")
    wanted = [f"{HOLDERS}{e}" for e in range(p.experts)]
    for key in sorted(named & raw.keys() - set(wanted)):
        raise SpecError(f"params.{key}", got=raw[key], want=f"holders of experts 0 to {p.experts - 1}")
    return p, tuple(_holders(key, raw.get(key)) for key in wanted)


def _holders(key: str, value: object) -> frozenset[str]:
    names = value.split(" ") if isinstance(value, str) else []
    if not names or len(set(names)) != len(names) or not all(SILO_ID.fullmatch(name) for name in names):
        raise SpecError(f"params.{key}", got=value, want="distinct silo ids with a space between them")
    return frozenset(names)
