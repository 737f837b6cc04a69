"""MetaMoE: experts of groups of silos, joined by a router learned from public proxies (arXiv 2605.14289).

Theirs, from the released code and two notes on the paper (its body was not readable): relevance by a private-vs-public
discriminator; proxies by greedy MAP of a determinantal point process, quality · similarity · quality on the most
relevant; experts trained on private rows and proxies; a router over the stacked experts, trained on proxies alone.
Ours: an expert belongs to a *group* of silos, never to one; it is a federated mean within the group; proxies are chosen
by each silo and never named to anyone; the router is a linear discriminant that every silo derives from sums
(``metamoe_router``); experts may train on some public rows drawn by lot too (``background``), so that they are unsure
of what is not theirs; without proof on held-out proxies that the router is better than the surest expert, the surest
expert speaks.

Three defects of the release are mended, and kept with ``variant = "paper"``: the choice of proxies has a jitter and
never takes a row twice; the context of a row is its own, not a mean over the batch it came in; and the router learns
whose proxy a row is. (In the release the chosen expert's weight is divided by itself, so the derivative for the router
is identically zero and routing stays at its initial vectors; the paper's variant has those vectors and no training.)

The plan: ``rows/0``; ``train/k``, each expert in its group; ``route/0``, the router's statistics; ``choose/0``, who was
right on held-out proxies; ``eval/0``. At a silo alone: its proxies, in lane ``own``.

Shapes: B rows, D features, E experts, C classes, K proxies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.plan import Plan, Step
from silo_agent import cluster_gates, experts, proxies
from silo_agent.data import DataSet
from silo_agent.methods import GRID, Limits, Published, batch, fits, known_mode, mean_rows, opened, weight
from silo_agent.methods import metamoe_router as routing
from silo_agent.methods.metamoe_plan import NAME, check_limits, plan, read
from silo_agent.methods.plans import correct, ever_opened, network
from silo_agent.proxies import Choice
from silo_agent.training import Descent, batches, cross_entropy, generator, train


class MetaMoE:
    """Lanes: ``expert-g`` (a group's), ``everyone`` (the router's second moments), ``own`` (never leaves)."""

    name: ClassVar[str] = NAME
    display_name: ClassVar[str] = "MetaMoE"
    contextual: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.job = read(params)
        self.params = self.job.params
        self.silo = silo
        self.group = self.job.group(silo)
        self.choice: Choice | None = None
        self._pool: DataSet | None = None

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        job = read(params)
        check_limits(job, limits)
        return plan(job, limits)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The proxies, once chosen."""
        return {} if self.choice is None else {"train": self.choice.train, "held_out": self.choice.held_out}

    def load_state_dict(self, kept: Mapping[str, np.ndarray]) -> None:
        if kept:
            self.choice = Choice(kept["train"], kept["held_out"])

    # --- the public pool -----------------------------------------------------------------------------------------

    @property
    def pool(self) -> str:
        """The data set to ``provide``; none if the pool comes with a package."""
        return "" if self.job.pool in proxies.SHIPPED else self.job.pool

    def provide(self, pool: DataSet) -> None:
        """Raises DataRefused for a pool that is not the job's."""
        p = self.params
        proxies.check_pool(pool, wanted=self.job.digest, features=p.features, classes=p.classes, least=p.chosen)
        self._pool = pool

    def public(self) -> DataSet:
        """The pool, checked."""
        if self._pool is None:
            self.provide(proxies.shipped(self.job.pool))
        assert self._pool is not None
        return self._pool

    def chosen(self, data: DataSet) -> Choice:
        """This silo's proxies. They are chosen once and never leave the silo."""
        if self.choice is None:
            p = self.params
            pool_ND = self.public().x_train
            lot = generator("relevance", p.seed, self.silo, 0)
            found = self.choose(proxies.relevance(data.x_train, pool_ND, lot), pool_ND)
            self.choice = proxies.split(found, p.held_out, generator("held-out", p.seed, self.silo, 0))
        return self.choice

    def choose(self, relevance_N: np.ndarray, pool_ND: np.ndarray) -> np.ndarray:
        """``chosen`` rows of the pool."""
        rule = proxies.varied if self.job.ours else proxies.as_released
        return rule(relevance_N, pool_ND, self.params.chosen, self.params.considered)

    # --- what leaves the silo ------------------------------------------------------------------------------------

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task not in ("train", "route"):
            return {}
        groups = self.job.groups
        if step.task == "train":
            mine = weight(data.rows, mean_rows(published, "rows/0"))
            everyone = {}
        else:
            # All groups alike: a silo of a group twice as large as the smallest counts half.
            fewest = min(map(len, groups))
            mine = 0 if self.group is None else max(GRID[0], round(GRID[-1] * fewest / len(groups[self.group])))
            everyone = {"everyone": mine} if self.job.ours else {}
        return everyone | {f"expert-{g}": mine if g == self.group else 0 for g in range(len(groups))}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p = self.params
        fits(data, p.features, p.classes)
        match step.task:
            case "rows":
                self.public()  # a silo without the job's pool fails before anyone trains
                return Contribution({}, {"silos": 1, "rows": data.rows})
            case "train":
                return Contribution(self._training(step.index, published, data), self._scores(published, data))
            case "route":
                return Contribution(self._statistics(published, data), {"silos": 1})
            case "choose":
                return Contribution({}, self._votes(published, data))
        return Contribution({}, self._scores(published, data) | self._details(published, data))

    def _training(self, k: int, published: Published, data: DataSet) -> dict[str, np.ndarray]:
        """Δ of the group's expert on private rows, proxies and background."""
        if self.group is None:
            return {}
        p = self.params
        pool, mine = self.public(), np.concatenate([self.chosen(data).train, self._background(data)])
        x, y = np.concatenate([data.x_train, pool.x_train[mine]]), np.concatenate([data.y_train, pool.y_train[mine]])
        order = batches(len(y), p.local_steps, p.batch, generator("batches", p.seed, self.silo, k))
        old = network(published, f"expert-{self.group}")
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum)
        (new,) = train([old], x, y, order, descent, cross_entropy)
        return {f"expert-{self.group}.{part}": new[part] - old[part] for part in experts.PARTS}

    def _background(self, data: DataSet) -> np.ndarray:
        """Pool rows by lot, so that an expert learns what it is no expert for. None that are held out."""
        if not self.job.ours:
            return np.zeros(0, dtype=np.int64)
        lot = generator("background", self.params.seed, self.silo, 0).permutation(len(self.public().y_train))
        found: np.ndarray = lot[~np.isin(lot, self.chosen(data).held_out)][: self.params.background]
        return found

    def _statistics(self, published: Published, data: DataSet) -> dict[str, np.ndarray]:
        """What the router is made of: ours of proxies alone; the paper's routing vectors of private rows too."""
        if self.group is None:
            return {}
        own_KD = self.public().x_train[self.chosen(data).train]
        centre = f"expert-{self.group}.centre"
        if not self.job.ours:
            rows_BD = np.concatenate([data.x_train, own_KD])
            return {centre: routing.projected(rows_BD, self._projection()).mean(axis=0)}
        mean_F, moments_FF = routing.statistics(self._features(published, own_KD))
        return {centre: mean_F, "moments": moments_FF}

    def _votes(self, published: Published, data: DataSet) -> dict[str, int]:
        """Held-out proxies on which router and surest expert differ, by who was right."""
        if self.group is None:
            return {"held.rows": 0, "router.only": 0, "surest.only": 0}
        pool, out = self.public(), self.chosen(data).held_out
        x, y = pool.x_train[out], pool.y_train[out]
        router = self._answers(published, x, routed=True).argmax(axis=1) == y
        surest = self._answers(published, x, routed=False).argmax(axis=1) == y
        only = {"router.only": int((router & ~surest).sum()), "surest.only": int((surest & ~router).sum())}
        return {"held.rows": len(out)} | only

    def _scores(self, published: Published, data: DataSet) -> dict[str, int]:
        p_BC = self.predict(published, data.x_test, "global")
        return {"global.correct": correct(p_BC, data), "test.rows": len(data.y_test)}

    def _details(self, published: Published, data: DataSet) -> dict[str, int]:
        return {
            "personal.correct": correct(self.predict(published, data.x_test, "personal"), data),
            "router.correct": correct(self._answers(published, data.x_test, routed=True), data),
            "surest.correct": correct(self._answers(published, data.x_test, routed=False), data),
        }

    # --- predictions ---------------------------------------------------------------------------------------------

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        """p_BC. ``personal`` is the expert of this silo's group; the others are all experts together, row by row."""
        known_mode(mode)
        x_BD = batch(x, self.params.features)
        if mode == "personal" and self.group is not None and ever_opened(published, self.group):
            own_BC: np.ndarray = experts.predict([network(published, f"expert-{self.group}")], x_BD)[0]
            return own_BC
        return self._answers(published, x_BD, routed=self.routed(published))

    def routed(self, published: Published) -> bool:
        """Whether the router speaks: it has shown to be better than the surest expert. The paper's always does.

        Where the votes did not open nothing is shown, and ours is silent.
        """
        votes = opened(published.slots, "choose/0", "router.only", "surest.only")
        return not self.job.ours or (votes is not None and routing.beats(*votes))

    def _answers(self, published: Published, x_BD: np.ndarray, *, routed: bool) -> np.ndarray:
        """p_BC of one expert a row: the router's, where there is one and it is asked for, else the surest."""
        spoken = [g for g in range(self.job.experts) if ever_opened(published, g)]
        if not spoken:
            return np.full((len(x_BD), self.params.classes), 1 / self.params.classes)
        p_EBC = experts.predict([network(published, f"expert-{g}") for g in spoken], x_BD)
        router = self.router(published) if routed else None
        if router is None:
            chosen_B = p_EBC.max(axis=2).argmax(axis=0)
        elif self.job.ours:
            chosen_B = router.route(routing.features(x_BD, self._projection(), p_EBC))
        else:
            chosen_B = router.route(routing.paper_features(x_BD, self._projection()))
        p_BC: np.ndarray = p_EBC[chosen_B, np.arange(len(x_BD))]
        return p_BC

    def router(self, published: Published) -> routing.Router | None:
        """The router of the opened sums; None unless every expert was trained and every lane of ``route/0`` opened."""
        centres_EF = np.stack([published.blocks[f"expert-{g}.centre"] for g in range(self.job.experts)])
        every = all(ever_opened(published, g) for g in range(self.job.experts)) and centres_EF.any(axis=1).all()
        if not every:
            return None
        if not self.job.ours:
            return routing.Router(centres_EF.astype(np.float64), np.zeros(self.job.experts))
        if not published.blocks["moments"].any():
            return None
        slots = published.slots["route/0"]  # a lane that opened has its weight there, whatever slots were withheld
        total = slots["everyone.weight"]
        shares_E = [slots[f"expert-{g}.weight"] / total for g in range(self.job.experts)]
        return routing.discriminant(centres_EF, published.blocks["moments"], shares_E)

    def _features(self, published: Published, x_BD: np.ndarray) -> np.ndarray:
        p_EBC = experts.predict([network(published, f"expert-{g}") for g in range(self.job.experts)], x_BD)
        return routing.features(x_BD, self._projection(), p_EBC)

    def _projection(self) -> np.ndarray:
        return cluster_gates.signs(self.params.seed, "projection", (self.params.features, self.params.projection))
