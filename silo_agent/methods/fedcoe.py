"""FedCoE-style experts (reconstructed from the abstract of arXiv 2605.21264, with a gate of our own).

Global experts, one per cluster of silos; a generalist of all silos; and at each silo a local expert that never leaves.
The shared gate reads no label and no weight: it compares the signature of a batch (``gates``) with the clusters'
centroids. *Global* predictions are therefore contextual: each row is scored with the signature of its batch.

The plan: ``cluster/0`` opens the mean signature and a sketch of the signatures' covariance; each further ``cluster/j``
splits clusters along the sketched direction; ``train/k`` moves experts and generalist; ``eval/0`` opens the scores.

Clusters are a binary tree of lanes (``fedcoe_clusters``); a split counts if both halves opened. An expert whose lane
never opened, or fell behind the generalist's, is not used: the generalist answers in its place (``crypto.standing``).

Shapes: B rows, D features, P projected, F signature entries, Q probes, E experts, C classes; see ``gates``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.errors import SpecError
from crypto.plan import Apply, Basis, Lane, Plan, Scope, Step, Sum
from silo_agent import cluster_gates
from silo_agent.data import DataSet
from silo_agent.local_expert import LocalExpert, tune
from silo_agent.methods import (
    GRID,
    Limits,
    Published,
    batch,
    fits,
    known_mode,
    mean_rows,
    weight,
)
from silo_agent.methods.fedcoe_clusters import (
    Cluster,
    Params,
    cluster_blocks,
    cluster_sums,
    clusters,
    splitting,
)
from silo_agent.methods.networks import clip_slots, clipped, part_blocks, published_parts, read, training_seed
from silo_agent.methods.personal import Component, WithLocalExpert
from silo_agent.methods.plans import ROWS_STEP, TEST_ROWS, counts
from silo_agent.methods.scoring import due, score_slots, scored, target_slots
from silo_agent.methods.stand_in import standing_of, stood_in
from silo_agent.models.description import Role
from silo_agent.models.experts import Experts, moved
from silo_agent.models.layout import Part
from silo_agent.training import batches, cross_entropy, generator, mixture

#: A silo contributes to an expert if its gate gives it more than this: too little mass is only a membership to leak.
MIN_GATE = 0.2

#: Fewer rows make no signature; the generalist answers alone.
MIN_BATCH_ROWS = 16

#: Least share of the mixture of experts in a global prediction; the information gate deals the rest. A newcomer's cold
#: prediction has no least share: its batch may come from nowhere the experts know.
CONTEXT_SHARE = 0.5


class FedCoE(WithLocalExpert):
    """Lanes: ``everyone`` (generalist, trunk, spread), ``cluster-l`` (a path of the tree), ``expert-e`` (its
    contributors).

    ``local`` is this silo's alone and set by ``eval/0``, the plan's last step; everything else follows from published
    state.
    """

    name: ClassVar[str] = "fedcoe"
    display_name: ClassVar[str] = "FedCoE"
    contextual: ClassVar[bool] = True

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.params, self.experts = read(Params, params)
        self.params.check(self.experts.task)
        self.network = self.experts
        self.trunk, self.own = _parts(self.experts)
        self.silo = silo

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        p, network = read(Params, params)
        task = network.task
        p.check(task)
        trunk, own = _parts(network)
        floor = limits.lane_floor
        lanes = (
            Lane(name="everyone", scope=Scope.ALL, floor=floor, grid=GRID),
            *(Lane(name=f"cluster-{path}", scope=Scope.HELD, floor=floor) for path in p.paths),
            *(Lane(name=f"expert-{e}", scope=Scope.HELD, floor=floor, grid=GRID) for e in range(p.experts)),
        )
        models = (  # a generalist as FedAvg has it, and experts
            *part_blocks("trunk", trunk, lane="everyone", clip=p.clip),
            *part_blocks("generalist", own, lane="everyone", clip=p.clip),
            *(block for name in p.models[1:] for block in part_blocks(name, own, lane=name, clip=p.clip, expert=True)),
        )
        few, all_of_them = (
            (
                *score_slots("global", task, metrics=metrics),
                *score_slots("generalist", task, metrics=False),
                *target_slots(task),
                *TEST_ROWS,
            )
            for metrics in (False, True)
        )
        # The loads add up to a silo's test rows, as the scores do: loads of training rows, less the rows of another
        # cohort, would be one silo's rows.
        final = (
            *score_slots("personal", task),
            *counts(*(f"load-{e}" for e in range(p.experts)), basis=Basis.DATA),
        )
        moves = tuple(Sum(block.name, Apply.AVERAGE) for block in models)
        first = ROWS_STEP.slots
        steps = (
            *(
                Step(task="cluster", index=j, sums=cluster_sums(p, j), slots=() if j else first)
                for j in range(p.splits + 1)
            ),
            *(
                Step(
                    task="train",
                    index=k,
                    sums=moves,
                    slots=(all_of_them if due(p.metrics_every, k) else few) + clip_slots(network),
                )
                for k in range(p.rounds)
            ),
            Step(task="eval", index=0, slots=all_of_them + final),
        )
        blocks = cluster_blocks(p) + models
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
        if step.task == "cluster":
            mine = self._paths(step.index, published, data.x_train)
            held = {f"cluster-{path}": int(path in mine) for path in self.params.paths}
            return held if step.index else {"everyone": 1} | held
        if step.task == "train":
            mean = mean_rows(published, "cluster/0")
            gate = self._gate(published, data.x_train)
            held = {f"expert-{e}": weight(data.rows * g, mean) if g > MIN_GATE else 0 for e, g in enumerate(gate)}
            return {"everyone": weight(data.rows, mean)} | held
        return {}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        task = self.experts.task
        fits(data, self.experts.shape, task)
        if step.task == "cluster":
            return self._signature(step.index, data)
        slots = self._scores(step, published, data)
        if step.task == "train":
            sums = self._training(step.index, published, data)
            return Contribution(sums, slots | clipped(clip_slots(self.experts), sums, self.params.clip))
        self.local = self.personalise(published, data)
        slots |= scored(step, "personal", self._tested(published, data, "personal"), data.y_test, task)
        used_E = self._gate(published, data.x_train) * self._standing(published)
        for e, share in enumerate(used_E):
            slots[f"load-{e}"] = round(len(data.y_test) * share)
        return Contribution({}, slots)

    def _signature(self, level: int, data: DataSet) -> Contribution:
        """The silo's signature, the same for every path: its weight selects the paths it is in."""
        p = self.params
        seen = cluster_gates.signature(self.experts.view(data.x_train), self._projection())
        sums = {f"centroid-{path}": seen.entries for path in p.paths}
        if level < p.splits:
            sketch_FQ = cluster_gates.sketch(seen.entries, self._probes())
            sums |= {f"sketch-{path}": sketch_FQ for path in p.paths}
        if level:
            return Contribution(sums, {})
        return Contribution(sums | {"spread": seen.spread}, {"silos": 1, "rows": data.rows})

    def _training(self, k: int, published: Published, data: DataSet) -> dict[str, np.ndarray]:
        """Δ of every expert (mixture likelihood under the silo's gate) and of the generalist (cross-entropy)."""
        p = self.params
        old = [self._model(published, name) for name in p.models]
        of_experts = mixture(self._gate(published, data.x_train))
        new = self.experts.train(
            old,
            data.x_train,
            data.y_train,
            batches(data.rows, p.steps(data.rows), p.batch, generator("batches", p.seed, self.silo, k)),
            p.descent(k, data, self.experts.task),
            lambda ll_EB: cross_entropy(ll_EB[:1]) + of_experts(ll_EB[1:]),
            seed=training_seed(p.seed, self.silo, k),
        )
        deltas = [moved(before, after) for before, after in zip(old, new, strict=True)]
        own = {
            f"{name}.{part.code}": delta[part.code]
            for name, delta in zip(p.models, deltas, strict=True)
            for part in self.own
        }
        return own | {f"trunk.{part.code}": deltas[0][part.code] for part in self.trunk}

    def _scores(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        (generalist_BC,) = self.experts.predict([self._model(published, "generalist")], data.x_test, data.x_train)
        return {
            **scored(step, "global", self._tested(published, data, "global"), data.y_test, self.experts.task),
            **scored(step, "generalist", generalist_BC, data.y_test, self.experts.task),
            "test.rows": len(data.y_test),
        }

    def _tested(self, published: Published, data: DataSet, mode: str) -> np.ndarray:
        """p_BC of the silo's test rows."""
        return self._predict(published, data.x_test, mode, data.x_train)

    # --- predictions ---------------------------------------------------------------------------------------------

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        """p_BC. ``global`` and ``cold`` need published state and the batch alone, ``personal`` also ``local``."""
        known_mode(mode)
        return self._predict(published, batch(x, self.experts.shape), mode)

    def predict_personal(self, published: Published, x: np.ndarray, home: np.ndarray | None = None) -> np.ndarray:
        return self._predict(published, batch(x, self.experts.shape), "personal", home)

    def of_rows(self, published: Published) -> tuple[Component, ...]:
        """A row alone has no context: the generalist answers, under the silo's label prior, and the local expert."""
        mine = self.mine
        generalist = Component(1 - mine.share, self._model(published, "generalist"), mine.log_prior)
        return generalist, Component(mine.share, mine.expert)

    def _predict(self, published: Published, x: np.ndarray, mode: str, home: np.ndarray | None = None) -> np.ndarray:
        """``home``: unlabelled rows of the same site, as in ``Experts.predict``."""
        if mode != "personal":
            return self._contextual(published, x, home, newcomer=mode == "cold")
        return self.mine.blend(self._contextual(published, x, home), x, home)

    def _contextual(
        self, published: Published, x: np.ndarray, home: np.ndarray | None = None, *, newcomer: bool = False
    ) -> np.ndarray:
        """Mixture of the experts under the batch's gate, and the generalist, shared by the information gate.

        The gate is over all clusters. Where it points at an expert that is not used, the generalist answers in its
        place: another cluster's expert would be worse than that.
        """
        generalist_BC: np.ndarray = self.experts.predict([self._model(published, "generalist")], x, home)[0]
        gate_E, standing_E = self._gate(published, x), self._standing(published)
        if len(x) < MIN_BATCH_ROWS or not (gate_E * standing_E).any():
            return generalist_BC
        asked = np.flatnonzero(gate_E)
        p_EBC = self.experts.predict([self._model(published, f"expert-{e}") for e in asked], x, home)
        p_EBC = stood_in(p_EBC, generalist_BC, standing_E[asked])
        gate = gate_E[asked]
        over = self.experts.task.over_classes
        if newcomer:
            information_E = np.array([cluster_gates.mutual_information(over(p_BC)) for p_BC in p_EBC])
            gate = cluster_gates.newcomer_gate(gate, information_E)
        mixture_BC: np.ndarray = np.tensordot(gate / gate.sum(), p_EBC, axes=1)
        context, seen = self._context(published), self.experts.view(x)
        informed = cluster_gates.information_gate(over(mixture_BC), over(generalist_BC), context.trust(seen))
        share = informed * (1 - context.mixed(seen)) if newcomer else CONTEXT_SHARE + (1 - CONTEXT_SHARE) * informed
        return share * mixture_BC + (1 - share) * generalist_BC

    def personalise(self, published: Published, data: DataSet) -> LocalExpert:
        """Fine-tune the heaviest expert and the generalist on this silo's rows; unseen rows choose what is used."""
        p = self.params
        heaviest = int(self._gate(published, data.x_train).argmax())
        names = ["generalist", *([f"expert-{heaviest}"] if self._standing(published)[heaviest] else [])]
        return tune(
            self.experts,
            [self._model(published, name) for name in names],
            self._contextual(published, data.x_train),
            data,
            steps=p.finetune_steps,
            batch=p.batch,
            descent=p.descent(None, data, self.experts.task),
            rng=generator("folds", p.seed, self.silo, 0),
            seed=training_seed(p.seed, self.silo, p.rounds),
        )

    def _model(self, published: Published, name: str) -> dict[str, np.ndarray]:
        return published_parts(published, name, self.own) | published_parts(published, "trunk", self.trunk)

    def _standing(self, published: Published) -> np.ndarray:
        """(E,) from 0, not used, to 1: see ``crypto.standing``."""
        models = (self._model(published, name) for name in self.params.models[1:])
        return standing_of(published, [self.experts.opened(model) for model in models])

    # --- clusters and gate ---------------------------------------------------------------------------------------

    def _paths(self, level: int, published: Published, x: np.ndarray) -> list[int]:
        """This silo's cluster lanes in ``cluster/level``: all at the root, then its cluster's, or half of them."""
        if level == 0:
            return list(self.params.paths)
        found = clusters(published.slots, self.params, level - 1)
        mine = found[int(self._of(found, published).distances(self.experts.view(x))[0].argmin())]
        if mine not in splitting(found, self.params):
            return list(mine.paths)
        at_F, spread_F = published.blocks[f"centroid-{mine.at}"], published.blocks["spread"]
        v_F = cluster_gates.direction(published.blocks[f"sketch-{mine.at}"], at_F, spread_F, self._probes())
        seen = cluster_gates.signature(self.experts.view(x), self._projection())
        far = float(cluster_gates.scaled(seen.entries, at_F, spread_F) @ v_F) > 0
        return list(mine.halves[far])

    def _context(self, published: Published) -> cluster_gates.ClusterContext:
        return self._of(clusters(published.slots, self.params), published)

    def _of(self, found: list[Cluster], published: Published) -> cluster_gates.ClusterContext:
        centroids_EF = np.stack([published.blocks[f"centroid-{one.at}"] for one in found])
        return cluster_gates.ClusterContext(self._projection(), published.blocks["spread"], centroids_EF)

    def _gate(self, published: Published, x: np.ndarray) -> np.ndarray:
        """g_E of a batch; experts without a cluster get 0."""
        gate = self._context(published).gate(self.experts.view(x))
        return np.pad(gate, (0, self.params.experts - len(gate)))

    def _projection(self) -> np.ndarray:
        features = self.experts.view(np.zeros((1, *self.experts.shape), np.float32)).shape[1]
        return cluster_gates.signs(self.params.seed, "projection", (features, self.params.projection))

    def _probes(self) -> np.ndarray:
        return cluster_gates.signs(
            self.params.seed, "probes", (cluster_gates.entries(self.params.projection), self.params.probes)
        )


def _parts(network: Experts) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """(the trunk that all models share, what each has of its own). Raises SpecError for roles that don't fit."""
    trunk, own, local = (
        tuple(part for part in network.parts if part.role is role) for role in (Role.SHARED, Role.EXPERT, Role.LOCAL)
    )
    if local:
        remedy = "fedavg takes local parameters. Each silo's local expert of fedcoe never leaves anyway."
        raise SpecError("params.local", got=local[0].name, want="no local parameters in fedcoe", remedy=remedy)
    if not own:
        raise SpecError("params.expert", got="no parameter", want="at least one that each expert has of its own")
    return trunk, own
