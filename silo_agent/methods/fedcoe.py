"""FedCoE-style experts (reconstructed from the abstract of arXiv 2605.21264, with a gate of our own).

Global experts, one per cluster of silos; a generalist of all silos; and at each silo a local expert that never leaves.
The shared gate reads no label and no weight: it compares the signature of a batch (``gates``) with the clusters'
centroids. *Global* predictions are therefore contextual: each row is scored with the signature of its batch.

The plan: ``cluster/0`` opens the mean signature and a sketch of the signatures' covariance; each further ``cluster/j``
splits clusters along the sketched direction; ``train/k`` moves experts and generalist; ``eval/0`` opens the scores.

Clusters are a binary tree, and a cluster lane is a path from its root to a leaf: in ``cluster/0`` every silo is in
every lane, then in half of them, and so on. The rule for moves then guards every split: a lane opens only if its
cluster has at least the floor and those who parted from it are none or enough. Both halves open or neither does, and
no two opened sums differ by a few silos. Lanes that stay shut keep the centroid of the cluster above: equal centroids
are one cluster.

Shapes: B rows, D features, P projected, F signature entries, Q probes, E experts, C classes; see ``gates``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.errors import DataRefused, SpecError
from crypto.plan import Apply, Block, Lane, Plan, Scope, Slot, Step, Sum
from silo_agent import experts, gates
from silo_agent.data import DataSet
from silo_agent.methods import GRID, ROWS_BOUND, Limits, Published, fits, parameter, parse, weight
from silo_agent.training import Descent, Objective, batches, cross_entropy, generator, mixture, train

#: A silo contributes to an expert if its gate gives it more than this: a factor of four below the largest at most.
MIN_GATE = 0.2

#: Fewer rows make no signature; the generalist answers alone.
MIN_BATCH_ROWS = 16

#: Least share of the mixture of experts in a global prediction; the information gate deals the rest. A newcomer's cold
#: prediction has no least share: its batch may come from nowhere the experts know.
CONTEXT_SHARE = 0.5

#: Shares of the local expert to choose from, on held-back rows of the silo.
LOCAL_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FOLDS = 4

#: Features are expected of order one; signature entries beyond these are clamped.
_ENTRY_CLIP, _SKETCH_CLIP = 16.0, 256.0

_MODES = ("global", "personal", "cold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    features: int = parameter(least=1, most=2**20)
    classes: int = parameter(least=2, most=2**16)
    experts: int = parameter(2, least=1, most=64)
    hidden: int = parameter(16, least=1, most=2**14)
    rounds: int = parameter(12, least=1, most=10_000)
    local_steps: int = parameter(20, least=1, most=10_000)
    batch: int = parameter(16, least=1, most=2**16)
    learning_rate: float = parameter(0.05, least=1e-6, most=10.0)
    momentum: float = parameter(0.9, least=0.0, most=0.999)
    clip: float = parameter(4.0, least=1e-3, most=1e3)
    projection: int = parameter(16, least=1, most=256)
    probes: int = parameter(4, least=1, most=16)
    finetune_steps: int = parameter(100, least=1, most=10_000)
    seed: int = parameter(7, least=0, most=2**63 - 1)

    @property
    def levels(self) -> int:
        """Splits from the root to a leaf."""
        return (self.experts - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Local:
    """What stays at the silo: a fine-tuned expert, its share of a personal prediction, the silo's label prior (C,)."""

    expert: Mapping[str, np.ndarray]
    share: float
    log_prior: np.ndarray


class FedCoE:
    """Lanes: ``everyone`` (generalist, spread), ``cluster-l`` (a path of the tree), ``expert-e`` (its contributors)."""

    name: ClassVar[str] = "fedcoe"

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.params = parse(Params, params)
        self.silo = silo
        self.local: Local | None = None

    # --- the plan ------------------------------------------------------------------------------------------------

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        p = parse(Params, params)
        floor, paths, f = limits.lane_floor, range(2**p.levels), gates.entries(p.projection)
        lanes = (
            Lane(name="everyone", scope=Scope.ALL, floor=floor, grid=GRID),
            *(Lane(name=f"cluster-{path}", scope=Scope.HELD, floor=floor, guard_moves=True) for path in paths),
            *(Lane(name=f"expert-{e}", scope=Scope.HELD, floor=floor, grid=GRID) for e in range(p.experts)),
        )
        blocks = [Block(name="spread", shape=(f,), lane="everyone", clip=_SKETCH_CLIP)]
        for path in paths:
            blocks.append(Block(name=f"centroid-{path}", shape=(f,), lane=f"cluster-{path}", clip=_ENTRY_CLIP))
            blocks.append(Block(name=f"sketch-{path}", shape=(f, p.probes), lane=f"cluster-{path}", clip=_SKETCH_CLIP))
        shapes, widths = experts.shapes(p.features, p.hidden, p.classes), experts.half_widths(p.features, p.hidden)
        names = ["generalist", *(f"expert-{e}" for e in range(p.experts))]
        models = [
            # b2 starts at zero, and stays zero exactly as long as the lane has never opened: see _trained
            Block(
                name=f"{name}.{part}",
                shape=shape,
                lane="everyone" if name == "generalist" else name,
                clip=p.clip,
                init=0.0 if part == "b2" else widths[part],
            )
            for name in names
            for part, shape in shapes.items()
        ]
        score = tuple(Slot(name, ROWS_BOUND) for name in ("global.correct", "generalist.correct", "test.rows"))
        final = tuple(Slot(name, ROWS_BOUND) for name in ("personal.correct", *(f"load-{e}" for e in range(p.experts))))
        moves = tuple(Sum(block.name, Apply.AVERAGE) for block in models)
        steps = [
            Step(task="cluster", index=level, sums=tuple(_cluster_sums(p, level)), slots=_cluster_slots(level))
            for level in range(p.levels + 1)
        ]
        steps += [Step(task="train", index=k, sums=moves, slots=score) for k in range(p.rounds)]
        steps.append(Step(task="eval", index=0, slots=score + final))
        return Plan(
            method=cls.name, seed=p.seed, n_max=limits.n_max, lanes=lanes, blocks=(*blocks, *models), steps=tuple(steps)
        )

    # --- what leaves the silo ------------------------------------------------------------------------------------

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        if step.task == "cluster":
            mine = self._paths(step.index, published, data.x_train)
            lanes = {f"cluster-{path}": int(path in mine) for path in range(2**self.params.levels)}
            return lanes | ({"everyone": 1} if step.index == 0 else {})
        if step.task == "train":
            root = published.slots["cluster/0"]
            mean = root["rows"] / root["silos"]
            gate = self._gate(published, data.x_train)
            held = {
                f"expert-{e}": weight(data.rows * float(g), mean) if g > MIN_GATE else 0 for e, g in enumerate(gate)
            }
            return {"everyone": weight(data.rows, mean)} | held
        return {}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p = self.params
        fits(data, p.features, p.classes)
        if step.task == "cluster":
            return self._signature_sums(step.index, data)
        slots = self._scores(published, data)
        if step.task == "train":
            return Contribution(self._training(step.index, published, data), slots)
        self.local = self.personalise(published, data)
        personal = self.predict(published, data.x_test, "personal").argmax(1) == data.y_test
        loads = {f"load-{e}": round(data.rows * float(g)) for e, g in enumerate(self._gate(published, data.x_train))}
        return Contribution({}, slots | {"personal.correct": int(personal.sum())} | loads)

    def _signature_sums(self, level: int, data: DataSet) -> Contribution:
        p = self.params
        seen = gates.signature(data.x_train, self._projection())
        sketch_FQ = np.outer(seen.entries, seen.entries @ self._probes())
        sums = {f"centroid-{path}": seen.entries for path in range(2**p.levels)}
        if level < p.levels:
            sums |= {f"sketch-{path}": sketch_FQ for path in range(2**p.levels)}
        if level:
            return Contribution(sums, {})
        return Contribution(sums | {"spread": seen.spread}, {"silos": 1, "rows": data.rows})

    def _training(self, k: int, published: Published, data: DataSet) -> dict[str, np.ndarray]:
        """Δ of every expert (mixture likelihood under the silo's gate) and of the generalist (cross-entropy)."""
        p = self.params
        names = ["generalist", *(f"expert-{e}" for e in range(p.experts))]
        old = [_model(published, name) for name in names]
        together = mixture(self._gate(published, data.x_train))
        objective: Objective = lambda ll_EB: cross_entropy(ll_EB[:1]) + together(ll_EB[1:])  # noqa: E731
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, k))
        new = train(old, data.x_train, data.y_train, order, self._descent(), objective)
        return {
            f"{name}.{part}": after[part] - before[part]
            for name, before, after in zip(names, old, new, strict=True)
            for part in experts.PARTS
        }

    def _scores(self, published: Published, data: DataSet) -> dict[str, int]:
        contextual = self.predict(published, data.x_test, "global").argmax(1) == data.y_test
        generalist = experts.predict([_model(published, "generalist")], data.x_test)[0].argmax(1) == data.y_test
        return {
            "global.correct": int(contextual.sum()),
            "generalist.correct": int(generalist.sum()),
            "test.rows": len(data.y_test),
        }

    # --- predictions ---------------------------------------------------------------------------------------------

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        """p_BC. ``global`` and ``cold`` need published state and the unlabelled batch only; ``personal`` the local expert."""
        if mode not in _MODES:
            raise SpecError("mode", got=mode, want=f"one of {', '.join(_MODES)}")
        if mode == "personal":
            if self.local is None:
                raise DataRefused("There is no local expert yet.", remedy="It is made in the plan's last step, eval/0.")
            own_BC = experts.predict([self.local.expert], x)[0]
            return _blend(self._contextual(published, x), own_BC, self.local.share, self.local.log_prior)
        return self._contextual(published, x, cold=mode == "cold")

    def _contextual(self, published: Published, x: np.ndarray, *, cold: bool = False) -> np.ndarray:
        generalist_BC = experts.predict([_model(published, "generalist")], x)[0]
        trained = [e for e in range(self.params.experts) if _trained(published, e)]
        gate = self._gate(published, x)[trained] if trained else np.zeros(0)
        if len(x) < MIN_BATCH_ROWS or gate.sum() <= 0:
            return generalist_BC
        p_EBC = experts.predict([_model(published, f"expert-{e}") for e in trained], x)
        mixture_BC = np.tensordot(gate / gate.sum(), p_EBC, axes=1)
        least = 0.0 if cold else CONTEXT_SHARE
        share = least + (1 - least) * gates.information_gate(mixture_BC, generalist_BC, self._trust(published, x))
        return share * mixture_BC + (1 - share) * generalist_BC

    def personalise(self, published: Published, data: DataSet) -> Local:
        """Fine-tune the heaviest expert on this silo's rows; choose its share where it was not trained."""
        p = self.params
        gate = self._gate(published, data.x_train)
        start = _model(published, f"expert-{gate.argmax()}" if _trained(published, int(gate.argmax())) else "generalist")
        rng = generator("folds", p.seed, self.silo, 0)
        fold = rng.permutation(data.rows) % FOLDS
        kept = [np.flatnonzero(fold != held) for held in range(FOLDS)] + [np.arange(data.rows)]
        size = min(p.batch, min(len(rows) for rows in kept))
        orders = [rows[batches(len(rows), p.finetune_steps, size, rng)] for rows in kept]
        tuned = train(
            [start] * len(kept), data.x_train, data.y_train, np.stack(orders, axis=1), self._descent(), cross_entropy
        )
        counts = np.bincount(data.y_train, minlength=p.classes) + 1.0
        log_prior = np.log(counts / counts.sum())
        global_BC = self._contextual(published, data.x_train)
        own_BC = np.zeros_like(global_BC)
        for held in range(FOLDS):
            own_BC[fold == held] = experts.predict([tuned[held]], data.x_train[fold == held])[0]
        likelihoods = [
            np.log(np.maximum(_blend(global_BC, own_BC, share, log_prior), 1e-9))[np.arange(data.rows), data.y_train].mean()
            for share in LOCAL_SHARES
        ]
        return Local(tuned[-1], LOCAL_SHARES[int(np.argmax(likelihoods))], log_prior)

    # --- clusters and gate ---------------------------------------------------------------------------------------

    def _projection(self) -> np.ndarray:
        return gates.signs(self.params.seed, "projection", (self.params.features, self.params.projection))

    def _probes(self) -> np.ndarray:
        return gates.signs(self.params.seed, "probes", (gates.entries(self.params.projection), self.params.probes))

    def _paths(self, level: int, published: Published, x: np.ndarray) -> set[int]:
        """The cluster lanes of this silo in ``cluster/level``: all at the root, one half of its cluster's at a split."""
        paths = range(2**self.params.levels)
        if level == 0:
            return set(paths)
        clusters = _clusters(published, self.params.levels)
        mine = clusters[int(self._distances(published, x, clusters)[0].argmin())]
        if mine not in self._splitting(level, published, clusters):
            return set(mine)
        at = mine[0]
        centroid_F = published.blocks[f"centroid-{at}"].astype(np.float64)
        spread_F = published.blocks["spread"]
        sketch_FQ = published.blocks[f"sketch-{at}"].astype(np.float64)
        sketch_FQ = sketch_FQ - np.outer(centroid_F, _columns(centroid_F, self._probes()))
        v_F = gates.direction(np.stack([gates.scaled(q, np.zeros_like(q), spread_F) for q in sketch_FQ.T], axis=1))
        seen = gates.signature(x, self._projection())
        far = float(gates.scaled(seen.entries, centroid_F, spread_F) @ v_F) > 0
        half = len(mine) // 2
        return set(mine[half:] if far else mine[:half])

    def _splitting(self, level: int, published: Published, clusters: list[list[int]]) -> list[list[int]]:
        """The clusters that ``cluster/level`` splits: the most populous first, until there are as many as experts."""
        counts = published.slots[f"cluster/{level - 1}"]
        able = sorted((c for c in clusters if len(c) > 1), key=lambda c: (-counts[f"cluster-{c[0]}.contributors"], c[0]))
        return able[: self.params.experts - len(clusters)]

    def _distances(self, published: Published, x: np.ndarray, clusters: list[list[int]]) -> tuple[np.ndarray, float]:
        """Squared distances of the batch to the clusters' centroids, less the sampling noise, and that noise."""
        seen = gates.signature(x, self._projection())
        spread_F = published.blocks["spread"]
        at_F = gates.scaled(seen.entries, np.zeros_like(seen.entries), spread_F)
        to_EF = np.stack(
            [gates.scaled(published.blocks[f"centroid-{c[0]}"], np.zeros_like(spread_F), spread_F) for c in clusters]
        )
        varies = spread_F > 1e-12
        noise = float((seen.spread[varies] / spread_F[varies]).sum() / seen.rows)
        return gates.distances(at_F, to_EF, noise), noise

    def _gate(self, published: Published, x: np.ndarray) -> np.ndarray:
        """g_E of a batch; experts without a cluster get 0."""
        clusters = _clusters(published, self.params.levels)[: self.params.experts]
        gate = np.zeros(self.params.experts)
        gate[: len(clusters)] = gates.centroid_gate(self._distances(published, x, clusters)[0])
        return gate

    def _trust(self, published: Published, x: np.ndarray) -> float:
        distances, noise = self._distances(published, x, _clusters(published, self.params.levels))
        return gates.trust(float(distances.min()) + noise, noise)

    def _descent(self) -> Descent:
        return Descent(learning_rate=self.params.learning_rate, momentum=self.params.momentum)


def _cluster_sums(p: Params, level: int) -> list[Sum]:
    parts = ["centroid", "sketch"] if level < p.levels else ["centroid"]
    sums = [Sum(f"{part}-{path}", Apply.PUBLISH) for path in range(2**p.levels) for part in parts]
    return sums if level else [Sum("spread", Apply.PUBLISH), *sums]


def _cluster_slots(level: int) -> tuple[Slot, ...]:
    return () if level else (Slot("silos", 1), Slot("rows", ROWS_BOUND))


def _clusters(published: Published, levels: int) -> list[list[int]]:
    """Paths with one centroid, in order of their first: the clusters there are."""
    found: dict[bytes, list[int]] = {}
    for path in range(2**levels):
        found.setdefault(published.blocks[f"centroid-{path}"].tobytes(), []).append(path)
    return list(found.values())


def _model(published: Published, name: str) -> dict[str, np.ndarray]:
    return {part: published.blocks[f"{name}.{part}"] for part in experts.PARTS}


def _trained(published: Published, e: int) -> bool:
    return bool(published.blocks[f"expert-{e}.b2"].any())


def _blend(global_BC: np.ndarray, own_BC: np.ndarray, share: float, log_prior_C: np.ndarray) -> np.ndarray:
    """(1 − share) · global prediction under the silo's label prior + share · local expert."""
    prior_BC = global_BC * np.exp(log_prior_C)
    return (1 - share) * prior_BC / prior_BC.sum(axis=1, keepdims=True) + share * own_BC


def _columns(vector_F: np.ndarray, probes_FQ: np.ndarray) -> np.ndarray:
    """vectorᵀ · probes, correctly rounded."""
    from math import fsum

    return np.array([fsum(float(a) * float(b) for a, b in zip(vector_F, probe, strict=True)) for probe in probes_FQ.T])
