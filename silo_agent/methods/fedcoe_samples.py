"""FedCoE with a gate that reads each row (reconstructed from the abstract of arXiv 2605.21264; its body was not read).

Theirs, by the abstract: independent global experts, one gate shared by all, whose scores steer how updates are merged;
a newcomer served without training. Ours: expectation-maximisation for all of that, the balanced warm-up, a generalist
to fall back on, lane floors, the cold start's rule. ``fedcoe`` has the other gate, of whole batches; where silos differ
in style it is the better one, and this one needs no batch: its global predictions are context-free.

Experts begin apart in a warm-up of hard choices, one expert a silo, balanced by prices that every silo derives from the
opened contributor counts. Unbalanced, one expert takes all and the others starve. Then
r_e(x, y) ∝ a_e g_e(x) p_e(y|x) with a = softmax_e(mean log p_e(y|x)), the silo's affinity. Experts learn from rows
weighted by r, the gate learns r, and a silo's weight in an expert's lane is its rows times its mean r.

The plan: ``rows/0``; ``train/k``; ``eval/0``. What leaves beside the models is how many silos chose each expert.

Shapes: B rows, D features, H hidden, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from silo_agent import cluster_gates, experts
from silo_agent.data import DataSet
from silo_agent.experts import Weights, torch_
from silo_agent.local_expert import LocalExpert, tune
from silo_agent.methods import (
    GRID,
    Limits,
    Published,
    TrainingParams,
    batch,
    fits,
    known_mode,
    mean_rows,
    opened,
    parameter,
    parse,
    weight,
)
from silo_agent.methods.personal import WithLocalExpert
from silo_agent.methods.plans import (
    ROWS_STEP,
    TEST_ROWS,
    correct,
    correct_slots,
    counts,
    ever_opened,
    network,
    network_blocks,
)
from silo_agent.methods.stand_in import standing_of, stood_in
from silo_agent.models.experts import Perceptrons
from silo_agent.models.tasks import Classes
from silo_agent.training import Descending, Descent, batches, generator

#: A silo contributes to an expert that answers for more than this of its rows.
MIN_MASS = 0.2

#: Warm-up: rounds in which a silo chooses by lot, and the weight of the lot beside a likelihood. How far a price moves
#: for an expert that has twice its share of silos, or none: more than this, and the lots would all turn at once.
BY_LOT, LOT = 4, 0.2
PRICE_STEP, LOT_PRICE_STEP = 0.1, 0.05

#: The gate learns during the last rounds of the warm-up: before, choices still change.
GATE_EARLY = 4

#: How far a newcomer's own use of the experts, relative to the federation's, moves its gate; and the steps to find it.
PRIOR_POWER, PRIOR_STEPS = 0.5, 3
MIN_BATCH_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(TrainingParams):
    """``warmup``: rounds of hard, balanced choices before responsibilities."""

    experts: int = parameter(2, least=1, most=16)
    rounds: int = parameter(24, least=1, most=10_000)
    warmup: int = parameter(10, least=1, most=10_000)
    finetune_steps: int = parameter(100, least=1, most=10_000)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"expert-{e}" for e in range(self.experts))


class FedCoESamples(WithLocalExpert):
    """Lanes: ``everyone`` (generalist, gate), ``expert-e`` (its contributors). ``local`` is made by ``eval/0``."""

    name: ClassVar[str] = "fedcoe-samples"
    display_name: ClassVar[str] = "FedCoE, a gate for each sample"
    contextual: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.params = p = parse(Params, params)
        self.network = Perceptrons(p.features, p.hidden, Classes(p.classes))
        self.silo = silo

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        p, floor = parse(Params, params), limits.lane_floor
        lanes = (
            Lane(name="everyone", scope=Scope.ALL, floor=floor, grid=GRID),
            *(Lane(name=name, scope=Scope.HELD, floor=floor, grid=GRID) for name in p.names),
        )
        blocks = tuple(block for name in ("generalist", "gate", *p.names) for block in _blocks(name, p))
        score = (*correct_slots("global", "generalist"), *TEST_ROWS)
        held = tuple(Slot(f"silos-{e}", 1, Basis.STATE) for e in range(p.experts))  # whether its lane opens or not
        loads = counts(*(f"load-{e}" for e in range(p.experts)), basis=Basis.DATA)  # they add up to a silo's test rows
        final = (*correct_slots("personal"), *loads)
        moves = tuple(Sum(block.name, Apply.AVERAGE) for block in blocks)
        steps = (
            ROWS_STEP,
            *(Step(task="train", index=k, sums=moves, slots=score + held) for k in range(p.rounds)),
            Step(task="eval", index=0, slots=score + final),
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

    # --- what leaves the silo ------------------------------------------------------------------------------------

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task != "train":
            return {}
        mean, mass_E = mean_rows(published, "rows/0"), self._responsibilities(step.index, published, data).mean(axis=1)
        held = {
            name: weight(data.rows * mass, mean) if mass > MIN_MASS else 0
            for name, mass in zip(self.params.names, mass_E, strict=True)
        }
        return {"everyone": weight(data.rows, mean)} | held

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p = self.params
        fits(data, p.features, p.classes)
        if step.task == "rows":
            return Contribution({}, {"silos": 1, "rows": data.rows})
        slots = {
            "global.correct": self._correct(published, data, "global"),
            "generalist.correct": correct(experts.predict([network(published, "generalist")], data.x_test)[0], data),
            "test.rows": len(data.y_test),
        }
        if step.task == "train":
            held = self.weights(step, published, data)
            slots |= {f"silos-{e}": int(held[name] > 0) for e, name in enumerate(p.names)}
            return Contribution(self._training(step.index, published, data), slots)
        self.local = self.personalise(published, data)
        slots["personal.correct"] = self._correct(published, data, "personal")
        used_E = self._gate(published, data.x_train).mean(axis=1) * self._standing(published)
        for e, mass in enumerate(used_E):
            slots[f"load-{e}"] = round(len(data.y_test) * mass)
        return Contribution({}, slots)

    def _training(self, k: int, published: Published, data: DataSet) -> dict[str, np.ndarray]:
        """Δ of generalist, gate and experts after one pass over the same batches."""
        p = self.params
        names = ("generalist", "gate", *p.names)
        old = [network(published, name) for name in names]
        hard_E = self._choice(k, published, data) if k < p.warmup else None
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, k))
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum)
        affinity_E = self._affinity(published, data)
        learns = k >= p.warmup - GATE_EARLY
        new = _train(old, data, order, descent, hard_E=hard_E, affinity_E=affinity_E, gate_learns=learns)
        return {
            f"{name}.{part}": after[part] - before[part]
            for name, before, after in zip(names, old, new, strict=True)
            for part in experts.PARTS
        }

    def _responsibilities(self, k: int, published: Published, data: DataSet) -> np.ndarray:
        """r_EB of the training rows: the silo's choice in the warm-up, then by expectation."""
        if k < self.params.warmup:
            return np.repeat(self._choice(k, published, data)[:, None], data.rows, axis=1)
        g_EB = self._gate(published, data.x_train) * (self._standing(published) > 0)[:, None]
        log_EB = np.log(np.maximum(g_EB, 1e-12)) + self._likelihood(published, data)
        log_EB += np.log(np.maximum(self._affinity(published, data), 1e-12))[:, None]
        r_EB: np.ndarray = np.exp(log_EB - log_EB.max(axis=0))
        return np.asarray(r_EB / r_EB.sum(axis=0))

    def _likelihood(self, published: Published, data: DataSet) -> np.ndarray:
        """log p_e(y|x) of the training rows: (E, B)."""
        p_EBC = experts.predict([network(published, name) for name in self.params.names], data.x_train)
        likelihood_EB: np.ndarray = np.log(np.maximum(p_EBC[:, np.arange(data.rows), data.y_train], 1e-12))
        return likelihood_EB

    def _affinity(self, published: Published, data: DataSet) -> np.ndarray:
        mean_E = self._likelihood(published, data).mean(axis=1)
        a_E: np.ndarray = np.exp(mean_E - mean_E.max())
        return np.asarray(a_E / a_E.sum())

    def _choice(self, k: int, published: Published, data: DataSet) -> np.ndarray:
        """This silo's one expert in a round of the warm-up, as (E,): of the greatest worth less price.

        Prices follow the opened contributor counts. Worth is a lot of the silo's own, so that not all move together
        when a price does; after the first rounds the experts' mean p(y|x) on its rows comes on top.
        """
        p = self.params
        worth_E = LOT * generator("lot", p.seed, self.silo, 0).random(p.experts) - self._prices(k, published)
        if k >= BY_LOT:
            worth_E += np.exp(self._likelihood(published, data)).mean(axis=1)
        return np.asarray(np.eye(p.experts)[int(worth_E.argmax())])

    def _prices(self, k: int, published: Published) -> np.ndarray:
        """(E,): up with each round in which an expert had more silos than its share, down with fewer.

        The share is that of the silos of the round. A round whose counts did not open moves no price.
        """
        count = self.params.experts
        price_E = np.zeros(count)
        for before in range(k):
            loads_E = np.array(opened(published.slots, f"train/{before}", *(f"silos-{e}" for e in range(count))) or ())
            if loads_E.any():
                share = loads_E.sum() / count
                price_E += (LOT_PRICE_STEP if before < BY_LOT else PRICE_STEP) * (loads_E - share) / share
        return price_E

    # --- predictions ---------------------------------------------------------------------------------------------

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        """p_BC. ``global``: row by row. ``cold``: under the batch's own use of the experts, beside the generalist; by
        the gate alone where the federation's loads did not open."""
        known_mode(mode)
        x = batch(x, self.params.features)
        if mode == "cold":
            return self._cold(published, x)
        mixture_BC = self._mixture(published, x, self._gate(published, x))
        if mode == "global":
            return mixture_BC
        return self.mine.blend(mixture_BC, x)

    def predict_personal(self, published: Published, x: np.ndarray, home: np.ndarray | None = None) -> np.ndarray:
        """``home`` is not needed: a perceptron has no running statistics, and the gate reads each row alone."""
        return self.predict(published, x, "personal")

    def _gate(self, published: Published, x: np.ndarray) -> np.ndarray:
        """g_EB: the shared gate's answer, over all experts, also those that are not used."""
        g_EB: np.ndarray = experts.predict([network(published, "gate")], x)[0].T
        return g_EB

    def _standing(self, published: Published) -> np.ndarray:
        """(E,) from 0, not used, to 1: see ``crypto.standing``."""
        return standing_of(published, [ever_opened(published, e) for e in range(self.params.experts)])

    def _mixture(self, published: Published, x: np.ndarray, g_EB: np.ndarray) -> np.ndarray:
        """The experts under this gate; the generalist in the place of one that is not used."""
        generalist_BC, *of_experts = experts.predict(
            [network(published, name) for name in ("generalist", *self.params.names)], x
        )
        p_EBC = stood_in(np.stack(of_experts), generalist_BC, self._standing(published))
        mixture_BC: np.ndarray = np.einsum("eb,ebc->bc", g_EB, p_EBC)
        return mixture_BC

    def _cold(self, published: Published, x: np.ndarray) -> np.ndarray:
        g_EB = self._gate(published, x)
        loads = opened(published.slots, "eval/0", *(f"load-{e}" for e in range(self.params.experts)))
        loads_E = np.array(loads or (), dtype=np.float64)
        if len(x) >= MIN_BATCH_ROWS and loads_E.any():
            use_E = np.maximum(loads_E / loads_E.sum(), 1e-3)
            here_E = use_E
            for _ in range(PRIOR_STEPS):
                shifted_EB = g_EB * (here_E / use_E)[:, None]
                here_E = (shifted_EB / np.maximum(shifted_EB.sum(axis=0), 1e-12)).mean(axis=1)
            g_EB = g_EB * ((here_E / use_E) ** PRIOR_POWER)[:, None]
            g_EB /= np.maximum(g_EB.sum(axis=0), 1e-12)
        mixture_BC = self._mixture(published, x, g_EB)
        if len(x) < MIN_BATCH_ROWS:
            return mixture_BC
        generalist_BC = experts.predict([network(published, "generalist")], x)[0]
        share = cluster_gates.information_gate(mixture_BC, generalist_BC, 0.5)
        return np.asarray(share * mixture_BC + (1 - share) * generalist_BC)

    def personalise(self, published: Published, data: DataSet) -> LocalExpert:
        """Fine-tune the expert that answers for most rows and the generalist; unseen rows choose what is used."""
        p = self.params
        gate_EB = self._gate(published, data.x_train)
        used_E = gate_EB.mean(axis=1) * self._standing(published)
        names = ["generalist", *([f"expert-{int(used_E.argmax())}"] if used_E.any() else [])]
        return tune(
            self.network,
            [network(published, name) for name in names],
            self._mixture(published, data.x_train, gate_EB),
            data,
            steps=p.finetune_steps,
            batch=p.batch,
            descent=Descent(learning_rate=p.learning_rate, momentum=p.momentum),
            rng=generator("folds", p.seed, self.silo, 0),
        )

    def _correct(self, published: Published, data: DataSet, mode: str) -> int:
        return correct(self.predict(published, data.x_test, mode), data)


def _train(
    models: Sequence[Weights],
    data: DataSet,
    order: np.ndarray,
    descent: Descent,
    *,
    hard_E: np.ndarray | None,
    affinity_E: np.ndarray,
    gate_learns: bool,
) -> list[dict[str, np.ndarray]]:
    """Generalist (cross-entropy), gate (towards r) and experts (rows weighted by r), r held fixed in each batch.

    ``hard_E``: the silo's choice in the warm-up, instead of expectations. The gate has experts for classes.
    """
    torch = torch_()
    stacked = experts.stack([models[0], *models[2:]])
    gate = experts.stack([models[1]])
    tensors = [*stacked.values(), *gate.values()]
    descending = Descending(tensors, descent)
    log_a_E1 = torch.from_numpy(np.log(np.maximum(affinity_E, 1e-12)).astype(np.float32)).unsqueeze(1)
    fixed = None if hard_E is None else torch.from_numpy(hard_E.astype(np.float32)).unsqueeze(1)
    rows, labels = torch.from_numpy(np.array(data.x_train)), torch.from_numpy(np.array(data.y_train))
    for picked in torch.from_numpy(order):
        logp_EBC = experts.log_probabilities(stacked, rows[picked])
        y_EB1 = labels[picked].expand(logp_EBC.shape[:2]).unsqueeze(-1)
        seen_EB = logp_EBC.gather(-1, y_EB1).squeeze(-1)
        log_g_EB = experts.log_probabilities(gate, rows[picked])[0].T
        if fixed is None:
            r_EB = (log_a_E1 + log_g_EB + seen_EB[1:]).detach().softmax(0)
        else:
            r_EB = fixed.expand(len(log_a_E1), len(picked))
        loss = -seen_EB[0].mean() - (r_EB * seen_EB[1:]).mean(1).sum()
        loss = loss - (r_EB * log_g_EB).sum(0).mean() * float(gate_learns)
        descending.step(loss)
    generalist, *moved = experts.unstack({part: tensor.detach() for part, tensor in stacked.items()})
    (moved_gate,) = experts.unstack({part: tensor.detach() for part, tensor in gate.items()})
    return [generalist, moved_gate, *moved]


def _blocks(name: str, p: Params) -> tuple[Block, ...]:
    """The blocks of generalist, gate or an expert; the gate starts undecided."""
    match name:
        case "generalist":
            return network_blocks(name, p, lane="everyone")
        case "gate":
            return network_blocks(name, p, lane="everyone", zero=("w2", "b2"), classes=p.experts)
        case _:
            return network_blocks(name, p, lane=name, zero=("b2",))
