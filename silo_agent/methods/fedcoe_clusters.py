"""FedCoE's clusters: the parameters, the lanes and blocks of the tree, and which clusters the opened steps made.

Clusters are a binary tree, and a cluster lane is a path from its root to a leaf: in ``cluster/0`` every silo is in
every lane, in each later step in those of its cluster, or in half of them if that cluster is split. A lane opens only
if its silos are at least the floor and the rule of atoms has no objection.

**A split counts only if both halves opened in its step.** The rule of atoms alone does not see to that: one half can
open where the other is below a lane floor that is above m + c, or where silos of the other half are absent, or have
moved to a nearer centroid of another cluster. Then the two halves stay one cluster, with the centroid and the sketch
that it had before, which the lanes of the half that stayed shut still hold. Which lanes opened is in the published
figures, so everyone derives the same clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crypto.plan import Apply, Block, Sum
from silo_agent import cluster_gates
from silo_agent.methods import parameter
from silo_agent.methods.training_options import TrainingOptions

#: Signature entries and sketches beyond these are clamped.
ENTRY_CLIP, SKETCH_CLIP = 16.0, 256.0
#: What centroids, sketches and the spread are sums of: functions of a silo's rows, whatever the seed.
SIGNATURE = "signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(TrainingOptions):
    """The network's own parameters are read by ``networks.read``. ``metrics_every``: as FedAvg has it."""

    experts: int = parameter(2, least=1, most=16)
    projection: int = parameter(16, least=1, most=64)
    probes: int = parameter(2, least=1, most=16)
    finetune_steps: int = parameter(100, least=1, most=10_000)
    metrics_every: int = parameter(0, least=0, most=10_000)

    @property
    def splits(self) -> int:
        """Steps from the root of the tree to its leaves."""
        return (self.experts - 1).bit_length()

    @property
    def paths(self) -> range:
        """The cluster lanes: leaves of the full tree."""
        return range(2**self.splits)

    @property
    def models(self) -> tuple[str, ...]:
        return ("generalist", *(f"expert-{e}" for e in range(self.experts)))


@dataclass(frozen=True, slots=True)
class Cluster:
    """``paths``: its lanes, ascending. ``at``: the lane whose blocks are its centroid and sketch. ``silos``: its
    contributors in the last step, 0 if its lanes stayed shut."""

    paths: tuple[int, ...]
    at: int
    silos: int

    @property
    def halves(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        half = len(self.paths) // 2
        return self.paths[:half], self.paths[half:]


def clusters(slots: Mapping[str, Mapping[str, int]], p: Params, level: int | None = None) -> list[Cluster]:
    """The clusters after step ``cluster/level``, by their first lane; after the last step without a level."""
    found = [Cluster(tuple(p.paths), 0, 0)]
    for j in range(p.splits + 1 if level is None else level + 1):
        seen = slots.get(f"cluster/{j}", {})
        counts = {path: n for path in p.paths if (n := seen.get(f"cluster-{path}.contributors")) is not None}
        split = splitting(found, p) if j else ()
        found = [part for one in found for part in _after(one, counts, wanted=one in split)]
    return found


def splitting(found: Sequence[Cluster], p: Params) -> list[Cluster]:
    """The clusters that the next step splits: the most populous first, until there are as many as experts.

    By contributors, not by distortion: a distortion would be a slot, and slots of a lane open below its floor.
    """
    able = sorted((one for one in found if len(one.paths) > 1), key=lambda one: (-one.silos, one.paths[0]))
    return able[: p.experts - len(found)]


def _after(one: Cluster, counts: Mapping[int, int], *, wanted: bool) -> tuple[Cluster, ...]:
    """A cluster after a step: its halves if it was to be split and both opened, else itself."""
    opened = [path for path in one.paths if path in counts]
    if not wanted:
        at = one.at if one.at in opened or not opened else opened[0]
        return (Cluster(one.paths, at, counts.get(at, 0)),)
    halves = one.halves
    leaders = [next((path for path in half if path in counts), None) for half in halves]
    if None not in leaders:
        return tuple(Cluster(half, at, counts[at]) for half, at in zip(halves, leaders, strict=True) if at is not None)
    # The half that opened alone has overwritten its own lanes; those of the other half are as they were.
    shut = [path for path in one.paths if path not in counts]
    return (Cluster(one.paths, one.at if one.at in shut or not shut else shut[0], 0),)


def cluster_blocks(p: Params) -> tuple[Block, ...]:
    f = cluster_gates.entries(p.projection)
    blocks = [Block(name="spread", shape=(f,), lane="everyone", clip=SKETCH_CLIP, quantity=SIGNATURE)]
    for path in p.paths:
        parts = {"centroid": ((f,), ENTRY_CLIP)} | ({"sketch": ((f, p.probes), SKETCH_CLIP)} if p.splits else {})
        for part, (shape, clip) in parts.items():
            name, lane = f"{part}-{path}", f"cluster-{path}"
            blocks.append(Block(name=name, shape=shape, lane=lane, clip=clip, quantity=SIGNATURE))
    return tuple(blocks)


def cluster_sums(p: Params, level: int) -> tuple[Sum, ...]:
    """Centroids, and sketches while there is a split to come; at the root the spread of rows too."""
    parts = ("centroid", "sketch") if level < p.splits else ("centroid",)
    sums = tuple(Sum(f"{part}-{path}", Apply.PUBLISH) for path in p.paths for part in parts)
    return sums if level else (Sum("spread", Apply.PUBLISH), *sums)
