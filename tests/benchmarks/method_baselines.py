"""What the methods are measured against, in the same code: same rounds, same training, same splits.

Ditto and IFCA are methods like ours and run through the same rounds; FedProx is FedAvg with its parameter ``proximal``.
The rest needs no federation, or follows from what FedAvg published: training alone, fine-tuning, the silo's label
prior, label-shift EM (which reads the unlabelled batch, and is offered to every method), max-confidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from crypto import blocks
from crypto.blocks import Contribution
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Step, Sum
from silo_agent import experts
from silo_agent.data import DataSet
from silo_agent.experts import Weights
from silo_agent.methods import (
    GRID,
    Limits,
    Published,
    Stateless,
    TrainingParams,
    fits,
    mean_rows,
    weight,
)
from silo_agent.methods.fedavg import FedAvg
from silo_agent.methods.plans import ROWS_STEP, TEST_ROWS, counts
from silo_agent.training import Descent, batches, cross_entropy, generator, train

#: Fine-tuning steps after the last round: FedCoE's default.
FINE_TUNING = 100


class Paired(FedAvg):
    """FedAvg under the block names of FedCoE's and FLEX-MoE's generalist: initial values come from (seed, name), so a
    difference to them is the experts' doing and not the draw's."""

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        plan = super().plan(params, limits)
        return replace(
            plan,
            blocks=tuple(replace(block, name=_paired(block.name)) for block in plan.blocks),
            steps=tuple(
                replace(step, sums=tuple(replace(part, block=_paired(part.block)) for part in step.sums))
                for step in plan.steps
            ),
        )

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        made = super().contribute(step, self._unpaired(published), data)
        return Contribution({_paired(name): value for name, value in made.sums.items()}, made.slots)

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        return super().predict(self._unpaired(published), x, mode)

    def _unpaired(self, published: Published) -> Published:
        """The same state under FedAvg's own names. Whoever has those already gets it as it is."""
        ours = (f"model.{part.code}" for part in self.experts.parts)
        names = {_paired(name): name for name in ours}
        return Published({names.get(name, name): value for name, value in published.blocks.items()}, published.slots)


def _paired(block: str) -> str:
    return f"generalist.{block.rsplit('.', 1)[1]}"


class Ditto(Paired):
    """FedAvg, and at each silo a model of its own that is pulled to the published one by ``pull`` (λ). It stays."""

    name: ClassVar[str] = "ditto"

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        rest = dict(params)
        self.pull = float(rest.pop("pull", 0.1))  # type: ignore[arg-type]
        super().__init__(rest, silo)
        self.own: Weights | None = None

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        return super().plan({name: value for name, value in params.items() if name != "pull"}, limits)

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        if step.task == "train":
            p, anchor = self.params, model_of(published)
            order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, step.index))
            descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum, proximal=self.pull)
            start = anchor if self.own is None else self.own
            (self.own,) = train([start], data.x_train, data.y_train, order, descent, cross_entropy, anchors=[anchor])
        return super().contribute(step, published, data)

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        if mode == "personal" and self.own is not None:
            p_BC: np.ndarray = experts.predict([self.own], x)[0]
            return p_BC
        return super().predict(published, x, mode)


class IFCA(Stateless):
    """K models, each moved by the silos that it fits best (hard choice by training loss); held lanes with floors.

    Personal: the silo's own choice. Without labels there is none, so global and cold average the K predictions.
    """

    name: ClassVar[str] = "ifca"

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.clusters, self.params = _clusters(params)
        self.silo = silo
        self.chosen = 0

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        clusters, p = _clusters(params)
        shapes, widths = experts.shapes(p.features, p.hidden, p.classes), experts.half_widths(p.features, p.hidden)
        names = [f"model-{e}" for e in range(clusters)]
        held = [
            Block(name=f"{name}.{part}", shape=shapes[part], lane=name, clip=p.clip, init=widths[part])
            for name in names
            for part in experts.PARTS
        ]
        score = (*counts("personal.correct", basis=Basis.STEP), *TEST_ROWS)
        sums = tuple(Sum(block.name, Apply.AVERAGE) for block in held)
        return Plan(
            method=cls.name,
            seed=p.seed,
            n_max=limits.n_max,
            lanes=tuple(Lane(name=name, scope=Scope.HELD, floor=limits.lane_floor, grid=GRID) for name in names),
            blocks=tuple(held),
            steps=(
                ROWS_STEP,
                *(Step(task="train", index=k, sums=sums, slots=score) for k in range(p.rounds)),
                Step(task="eval", index=0, slots=score),
            ),
        )

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task != "train":
            return {}
        mine, mean = self._choose(published, data), mean_rows(published, "rows/0")
        return {f"model-{e}": weight(data.rows, mean) if e == mine else 0 for e in range(self.clusters)}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p = self.params
        fits(data, p.features, p.classes)
        if step.task == "rows":
            return Contribution({}, {"silos": 1, "rows": data.rows})
        self.chosen = self._choose(published, data)
        right = self.predict(published, data.x_test, "personal").argmax(1) == data.y_test
        slots = {"personal.correct": int(right.sum()), "test.rows": len(right)}
        if step.task == "eval":
            return Contribution({}, slots)
        old = model_of(published, f"model-{self.chosen}")
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, step.index))
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum)
        (new,) = train([old], data.x_train, data.y_train, order, descent, cross_entropy)
        return Contribution({f"model-{self.chosen}.{part}": new[part] - old[part] for part in experts.PARTS}, slots)

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        p_EBC = experts.predict([model_of(published, f"model-{e}") for e in range(self.clusters)], x)
        p_BC: np.ndarray = p_EBC[self.chosen] if mode == "personal" else p_EBC.mean(axis=0)
        return p_BC

    def _choose(self, published: Published, data: DataSet) -> int:
        p_EBC = experts.predict([model_of(published, f"model-{e}") for e in range(self.clusters)], data.x_train)
        likelihood_EB = np.log(np.maximum(p_EBC[:, np.arange(data.rows), data.y_train], 1e-12))
        return int(likelihood_EB.mean(axis=1).argmax())


def _clusters(params: Mapping[str, object]) -> tuple[int, TrainingParams]:
    rest = dict(params)
    return int(rest.pop("clusters", 4)), TrainingParams(**rest)  # type: ignore[arg-type,call-overload]


def model_of(published: Published, name: str = "generalist") -> dict[str, np.ndarray]:
    return {part: published.blocks[f"{name}.{part}"] for part in experts.PARTS}


def alone(params: Mapping[str, object], silo: str, data: DataSet, limits: Limits, run: bytes) -> Weights:
    """FedAvg's model trained at one silo, as many steps as the federation gives it, momentum afresh each round.
    ``run``: id of the run whose first model it starts from."""
    p = FedAvg(params).params
    model: Weights = model_of(Published(blocks.initial_state(Paired.plan(params, limits), run)))
    for k in range(p.rounds):
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, silo, k))
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum)
        (model,) = train([model], data.x_train, data.y_train, order, descent, cross_entropy)
    return model


def fine_tuned(params: Mapping[str, object], published: Published, silo: str, data: DataSet) -> Weights:
    """The published model after ``FINE_TUNING`` steps on this silo's rows."""
    p = FedAvg(params).params
    order = batches(data.rows, FINE_TUNING, p.batch, generator("fine-tuning", p.seed, silo, 0))
    descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum)
    (model,) = train([model_of(published)], data.x_train, data.y_train, order, descent, cross_entropy)
    return model


def with_prior(p_BC: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predictions under the label prior of these (training) labels: what personalisation is worth under label skew."""
    classes = p_BC.shape[1]
    counts = np.bincount(labels, minlength=classes) + 1.0
    shifted: np.ndarray = p_BC * (counts / counts.sum())
    return shifted / shifted.sum(axis=1, keepdims=True)


def label_shift_em(p_BC: np.ndarray, prior_C: np.ndarray, steps: int = 100) -> np.ndarray:
    """Saerens, Latinne and Decaestecker (2002): the batch's own class proportions by EM, and the answers under them.

    ``prior_C``: class proportions of the rows that the predictor was trained on. No label of the batch is read.
    """
    prior = (prior_C + 1e-3) / (prior_C + 1e-3).sum()
    here, shifted = prior, p_BC
    for _ in range(steps):
        shifted = p_BC * (here / prior)
        shifted = shifted / np.maximum(shifted.sum(axis=1, keepdims=True), 1e-300)
        here = shifted.mean(axis=0)
    return shifted


def max_confidence(p_EBC: np.ndarray) -> np.ndarray:
    """Of each row, the answer of the expert that is surest of it: the ensemble that needs no router."""
    surest_B = p_EBC.max(axis=2).argmax(axis=0)
    p_BC: np.ndarray = p_EBC[surest_B, np.arange(p_EBC.shape[1])]
    return p_BC
