"""FLEX-MoE: experts shared out by capacity and load (arXiv 2512.23070, reconstructed: its body was not readable).

Theirs, from abstract and secondary sources: silos that can train only some of the experts; a fitness for each silo and
expert, learned from training; an assignment of the greatest fitness under the silos' capacities and two-sided load
bounds; a memory of experts served too little; experts averaged over their holders by usage; a router per silo.
Ours: every formula; prices instead of a linear programme at the server, so that fitness never leaves a silo
(``silo_agent.expert_prices``); lane floors as lower bounds; a generalist of all silos in the place of a backbone; the
prediction for newcomers.

The plan: ``rows/0``; ``warm/k``, the generalist alone; then each round some ``bid/j``, in which silos open how many of
them want each expert at the present prices and all move the prices alike, and ``train/k``, in which each silo trains
what it chose at the best balanced of the round's bids; ``eval/0``. At a silo alone: its fitness, its router, and, with
hidden holdings, its choices.

Shapes: B rows, D features, E experts, A experts held (assigned), C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.errors import DataRefused
from crypto.plan import Plan, Step
from silo_agent import cluster_gates, experts, router
from silo_agent.data import DataSet
from silo_agent.expert_prices import Bounds, Market, excess, units
from silo_agent.methods import Limits, Published, batch, fits, known_mode, mean_rows, weight
from silo_agent.methods.flex_moe_plan import (
    NAME,
    Job,
    Markets,
    check_limits,
    market,
    observed,
    plan,
    read,
)
from silo_agent.methods.plans import ever_opened, network
from silo_agent.methods.stand_in import stood_in
from silo_agent.training import Descent, batches, generator

log = logging.getLogger("consilium.silo")

#: How much of the last round's fitness stays in this round's.
MEMORY = 0.5

#: An expert that never reached its floor, or did not for this many rounds, starts again near the generalist.
IDLE_ROUNDS = 3

#: Noise on a start near the generalist, in standard deviations of each part of it: equal experts would stay equal.
NOISE = 0.15

#: With fewer rows than this the experts cannot be ranked; the generalist predicts alone.
MIN_BATCH_ROWS = 16


class Memory:
    """What stays at the silo, by round or bid, so that a step attempted twice comes out the same."""

    def __init__(self) -> None:
        self.fitness: dict[int, np.ndarray] = {}
        self.router: dict[int, np.ndarray] = {}
        self.bid: dict[int, np.ndarray] = {}
        self.held: dict[int, np.ndarray] = {}

    def tables(self) -> dict[str, dict[int, np.ndarray]]:
        return {"fitness": self.fitness, "router": self.router, "bid": self.bid, "held": self.held}

    def forget(self, k: int, bids: int) -> None:
        """Drop what rounds after k no longer ask for: all but the latest entry before k."""
        for table, first in ((self.fitness, k), (self.router, k), (self.held, k), (self.bid, k * bids)):
            for old in sorted(at for at in table if at < first)[:-1]:
                del table[old]


class FlexMoE:
    """Lanes: ``everyone`` (generalist), ``expert-e`` (its holders), ``own`` (never leaves)."""

    name: ClassVar[str] = NAME
    display_name: ClassVar[str] = "FLEX-MoE"
    contextual: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.job = read(params)
        self.params = self.job.params
        self.silo = silo
        self.capacity = self.job.capacity(silo)
        self.memory = Memory()
        self._markets: Markets = {}

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        job = read(params)
        check_limits(job, limits)
        return plan(job, limits)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Fitness, router and choices of the last rounds."""
        return {f"{name}/{at}": kept for name, table in self.memory.tables().items() for at, kept in table.items()}

    def load_state_dict(self, kept: Mapping[str, np.ndarray]) -> None:
        tables = self.memory.tables()
        for key, array in kept.items():
            name, _, at = key.partition("/")
            tables[name][int(at)] = array

    # --- what leaves the silo ------------------------------------------------------------------------------------

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task not in ("warm", "train"):
            return {}
        mean = mean_rows(published, "rows/0")
        lanes = {"everyone": weight(data.rows, mean)}
        if step.task == "warm":
            return lanes
        held = self.held(step.index, published, data)
        shares = router.gate(self._router(step.index, held), data.x_train).mean(axis=0) if held else ()
        mass = {e: data.rows * len(held) * float(share) for e, share in zip(held, shares, strict=True)}
        return lanes | {f"expert-{e}": weight(mass[e], mean) if e in mass else 0 for e in range(self.job.experts)}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        fits(data, self.params.features, self.params.classes)
        k = step.index
        if step.task == "rows":
            return Contribution({}, {"silos": 1, "rows": data.rows})
        if step.task == "bid":
            wanted = self._bid(k, published, data)
            bids = {f"bid-{e}": int(e in wanted) for e in range(self.job.experts)}
            return Contribution({}, {"silos": 1, "places": self.capacity} | bids)
        slots = {"global.correct": self._correct(published, data, "global"), "test.rows": len(data.y_test)}
        if step.task == "eval":
            mode = "personal" if self.memory.held else "global"  # a silo that was away in all rounds
            return Contribution({}, slots | {"personal.correct": self._correct(published, data, mode)})
        if step.task == "warm":
            return Contribution(self._training(k, k, (), published, data), slots)
        held = self.held(k, published, data)
        slots |= {"silos": 1, "places": self.capacity, "bounds.relaxed": self._relaxed(k, published)}
        slots |= {f"load-{e}": int(e in held) for e in range(self.job.experts)}
        self.memory.forget(k, self.params.inner_steps)
        return Contribution(self._training(k, self.params.warm_rounds + k, held, published, data), slots)

    def _correct(self, published: Published, data: DataSet, mode: str) -> int:
        return int((self.predict(published, data.x_test, mode).argmax(1) == data.y_test).sum())

    def _relaxed(self, k: int, published: Published) -> int:
        """1 if there are too few places for every expert to reach its floor; then it is logged too."""
        now, wanted = self._market(k, self.params.inner_steps, published)
        if wanted is None or not wanted.relaxed:
            return 0
        log.warning("round %d: too few places for all experts; closed are %s", k, sorted(now.closed))
        return 1

    # --- who trains what -----------------------------------------------------------------------------------------

    def held(self, k: int, published: Published, data: DataSet) -> tuple[int, ...]:
        """The experts that this silo trains in ``train/k``, ascending: never more than its capacity."""
        if k not in self.memory.held:
            self.memory.held[k] = _kept(self.assign(k, published, data))
        return tuple(self.memory.held[k].tolist())

    def assign(self, k: int, published: Published, data: DataSet) -> tuple[int, ...]:
        """What this silo wanted at the best of the round's opened bids; what it wants now if it made none."""
        best = self._best_bid(k, published)
        if best is not None and best in self.memory.bid:
            return tuple(self.memory.bid[best].tolist())
        return self._choice(k, self._market(k, self.params.inner_steps, published)[0], published, data)

    def _bid(self, j: int, published: Published, data: DataSet) -> tuple[int, ...]:
        if j not in self.memory.bid:
            k, before = divmod(j, self.params.inner_steps)
            now, _ = self._market(k, before, published)
            self.memory.bid[j] = _kept(self._choice(k, now, published, data))
        return tuple(self.memory.bid[j].tolist())

    def _choice(self, k: int, now: Market, published: Published, data: DataSet) -> tuple[int, ...]:
        last = _latest(self.memory.held, k - 1)
        held = frozenset(last.tolist() if last is not None else ())
        return now.choice(units(self.fitness(k, published, data)), self.capacity, held)

    def fitness(self, k: int, published: Published, data: DataSet) -> np.ndarray:
        """F_E in round k: moving average of softmax_e(mean log p_e(y|x)) over this silo's rows. It never leaves."""
        if k not in self.memory.fitness:
            p_EBC = experts.predict([self._start(published, k, e) for e in range(self.job.experts)], data.x_train)
            mean_E = np.log(np.maximum(p_EBC[:, np.arange(data.rows), data.y_train], 1e-12)).mean(axis=1)
            now_E = np.exp(mean_E - mean_E.max())
            now_E /= now_E.sum()
            last_E = _latest(self.memory.fitness, k - 1)
            self.memory.fitness[k] = now_E if last_E is None else MEMORY * last_E + (1 - MEMORY) * now_E
        return self.memory.fitness[k]

    def _market(self, k: int, bids: int, published: Published) -> tuple[Market, Bounds | None]:
        return market(self.job, published.slots, k, bids, self._markets)

    def _best_bid(self, k: int, published: Published) -> int | None:
        """The number of round k's bid with the least excess (the last of equals), or None if none was opened."""
        found: tuple[tuple[int, int], int] | None = None
        for before in range(self.params.inner_steps):
            j = k * self.params.inner_steps + before
            seen = observed(self.job, published.slots, f"bid/{j}", "bid-{}")
            if seen is not None:
                score = excess(*seen, self._market(k, before, published)[0].closed)
                if found is None or score <= found[0]:
                    found = score, j
        return None if found is None else found[1]

    # --- training ------------------------------------------------------------------------------------------------

    def _training(
        self, k: int, number: int, held: Sequence[int], published: Published, data: DataSet
    ) -> dict[str, np.ndarray]:
        """Δ of the generalist (cross-entropy) and of the experts held (mixture likelihood under the router)."""
        p = self.params
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, number))
        starts = [network(published, "generalist"), *(self._start(published, k, e) for e in held)]
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum)
        ends, rows = router.train(starts, self._router(k, held), data.x_train, data.y_train, order, descent)
        if held:
            self.memory.router[k + 1] = router.with_rows(self._all_rows(k), held, rows)
        return {
            f"{name}.{part}": end[part] - published.blocks[f"{name}.{part}"]
            for name, end in zip(("generalist", *(f"expert-{e}" for e in held)), ends, strict=True)
            for part in experts.PARTS
        }

    def _start(self, published: Published, k: int, e: int) -> dict[str, np.ndarray]:
        """Where training of an expert starts: its published blocks, or near the generalist if it is idle."""
        if not idle(self.job, published, k, e):
            return network(published, f"expert-{e}")
        rng = generator("noise", self.params.seed, f"expert-{e}", 0)
        return {
            part: (value + NOISE * value.std() * rng.standard_normal(value.shape)).astype(np.float32)
            for part, value in network(published, "generalist").items()
        }

    def _all_rows(self, k: int) -> np.ndarray:
        """The router before round k."""
        latest = _latest(self.memory.router, k)
        return router.blank(self.job.experts, self.params.features) if latest is None else latest

    def _router(self, k: int, held: Sequence[int]) -> np.ndarray:
        return router.rows_of(self._all_rows(k), held)

    # --- predictions ---------------------------------------------------------------------------------------------

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        """p_BC. ``global`` is the generalist; ``cold`` needs published state and the batch; ``personal`` is this
        silo's experts under its router, or the generalist for a silo that holds none."""
        known_mode(mode)
        x_BD = batch(x, self.params.features)
        generalist_BC: np.ndarray = experts.predict([network(published, "generalist")], x_BD)[0]
        if mode == "global":
            return generalist_BC
        if mode == "cold":
            return self._cold(published, x_BD, generalist_BC)
        if not self.memory.held:
            raise DataRefused("This silo has trained nothing yet.", remedy="Ask for cold, or take part in a run.")
        k = max(self.memory.held)
        held = self.memory.held[k].tolist()
        if not held:
            return generalist_BC
        gate_BA = router.gate(self._router(k + 1, held), x_BD)
        p_ABC = self._current(published, held, x_BD, generalist_BC)
        own_BC: np.ndarray = np.einsum("ba,abc->bc", gate_BA, p_ABC)
        return own_BC

    def _current(
        self, published: Published, wanted: Sequence[int], x_BD: np.ndarray, generalist_BC: np.ndarray
    ) -> np.ndarray:
        """(A, B, C) of these experts; the generalist's answer in the place of one that is idle: its lane never opened,
        or lost its holders. What a router gives it must not fall to experts of other data."""
        p_ABC: np.ndarray = experts.predict([network(published, f"expert-{e}") for e in wanted], x_BD)
        used_A = np.array([not idle(self.job, published, self.params.rounds, e) for e in wanted], dtype=np.float64)
        return stood_in(p_ABC, generalist_BC, used_A)

    def _cold(self, published: Published, x_BD: np.ndarray, generalist_BC: np.ndarray) -> np.ndarray:
        """The experts that are sure of each row and varied over the batch, if they are more so than the generalist.

        ``gates.mutual_information`` of each, softened as in ``gates.information_gate``, which then sets their mixture
        against the generalist. No label, no training. Routers are local, so nothing routes row by row.
        """
        trained = [e for e in range(self.job.experts) if not idle(self.job, published, self.params.rounds, e)]
        if len(x_BD) < MIN_BATCH_ROWS or not trained:
            return generalist_BC
        p_EBC = experts.predict([network(published, f"expert-{e}") for e in trained], x_BD)
        informed_E = np.array([cluster_gates.mutual_information(p_BC) for p_BC in p_EBC])
        share_E = np.exp((informed_E - informed_E.max()) / cluster_gates.MI_SLOPE)
        mixture_BC: np.ndarray = np.tensordot(share_E / share_E.sum(), p_EBC, axes=1)
        share = cluster_gates.information_gate(mixture_BC, generalist_BC, 0.5)
        return share * mixture_BC + (1 - share) * generalist_BC


def idle(job: Job, published: Published, k: int, e: int) -> bool:
    """Whether an expert was never trained, or missed its floor in each of the last rounds that were released."""
    if not ever_opened(published, e):
        return True
    released = (published.slots[f"train/{r}"] for r in range(k - 1, -1, -1) if f"train/{r}" in published.slots)
    recent = [slots.get(f"expert-{e}.contributors", 0) for slots, _ in zip(released, range(IDLE_ROUNDS), strict=False)]
    return len(recent) == IDLE_ROUNDS and max(recent) < job.params.floor


def _kept(chosen: Sequence[int]) -> np.ndarray:
    return np.array(chosen, dtype=np.int64)


def _latest(table: Mapping[int, np.ndarray], last: int) -> np.ndarray | None:
    """The entry of the greatest number up to ``last``."""
    number = max((at for at in table if at <= last), default=None)
    return None if number is None else table[number]
