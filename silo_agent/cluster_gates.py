"""Which expert predicts a batch: signatures, clusters and gates, all from unlabelled inputs and opened sums.

A signature is the mean and the covariance of a batch in a seeded ±1 projection, one standard deviation of a row per
unit, so that the sampling noise of a batch of n rows is about 1/√n per entry. The federation's clusters come from sums
of signatures; a batch is gated by its distance to the published centroids. numpy only; functions without state.

What all silos must derive alike from opened sums (projection, direction of a split) is bit-stable: sums are
correctly rounded (``math.fsum``), everything else is single IEEE operations, the order and the sign are canonical. No
BLAS there, whose last bit depends on the processor.

Shapes: B rows of a batch, D features, P projected features, F = P + P(P+1)/2 entries of a signature, E experts,
C classes, Q probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import shake_128
from math import fsum, log, sqrt

import numpy as np

from crypto.encoding import Writer

#: Distances are softened by half the mean of the two nearest: scale-free, and a third cluster far away does not blur
#: the choice between two close ones (with the mean of all, three styles lost 5 points).
SOFTNESS = 0.5

#: Trust halves where the squared distance to the nearest centroid is four times the sampling noise.
TRUST_RATIO = 4.0

#: The information rule: by how many nats the mixture must be more informative than the generalist, the nats over which
#: the choice turns, and how much the trust counts. Chosen by ``tests/benchmarks/validate_cold_start.py``, under other
#: seeds than any bar's: of twelve pairs the one that leaves the split nearest to its bar the most slack.
MI_HANDICAP, MI_SLOPE, MI_TRUST = 0.05, 0.1, 0.25

#: Root mean square to which rows are bounded in a signature. Features are of order one, so most rows are near it, and
#: how much larger one is counts for little: silos that differ in scale alone are one style, which one model serves.
#: At 1 a silo times 16 still cost 31 % of the clusters, at 0.25 5 % (digits, six seeds, three splits).
ROW_LIMIT = 0.25

#: A batch whose signature lies this share of the way from its nearest centroid to another one is a mixture in part, and
#: from the second share on altogether.
MIXED_FROM, MIXED_TO = 0.2, 0.35

#: An entry that varies less than this from row to row is constant.
LEAST_SPREAD = 1e-12

_POWER_STEPS = 200


@dataclass(frozen=True, slots=True)
class Signature:
    """Of one unlabelled batch. ``entries``: (F,) mean of the row statistics; ``spread``: (F,) their variance a row."""

    entries: np.ndarray
    spread: np.ndarray
    rows: int


def signs(seed: int, label: str, shape: tuple[int, int]) -> np.ndarray:
    """Seeded ±1 from SHAKE-128 over (seed, label): the same on every machine and for every numpy version."""
    size = shape[0] * shape[1]
    source = bytes(Writer().text("consilium/1/signs").u64(seed).text(label))
    bits = np.unpackbits(np.frombuffer(shake_128(source).digest((size + 7) // 8), dtype=np.uint8))[:size]
    return (2.0 * bits - 1.0).reshape(shape)


def entries(projection: int) -> int:
    """F: the length of a signature in a projection to P features."""
    return projection + projection * (projection + 1) // 2


def bounded(x_BD: np.ndarray) -> np.ndarray:
    """Rows x / √(1 + ‖x‖²/(D·``ROW_LIMIT``²)), float64: small ones as they are, all of a root mean square below it.

    One silo whose inputs are in other units, or broken, is then no farther from the others than a style can be; without
    it such a silo takes the first split alone, and all the others stay one cluster.
    """
    x = x_BD.astype(np.float64)
    most = np.maximum(np.abs(x).max(axis=1, keepdims=True), 1.0)  # squares of huge values would overflow
    size = most * np.sqrt(((x / most) ** 2).mean(axis=1, keepdims=True)) / ROW_LIMIT
    found: np.ndarray = x / np.hypot(1.0, size)
    return found


def signature(x_BD: np.ndarray, projection_DP: np.ndarray) -> Signature:
    """Mean and covariance (upper triangle) of the projected ``bounded`` rows, and how much each varies from row to row.

    The variance of a row's product z_a z_b is E[z_a² z_b²] − E[z_a z_b]², so no row of products is ever made.
    """
    z_BP = bounded(x_BD) @ (projection_DP / sqrt(len(projection_DP)))
    mean_P = z_BP.mean(axis=0)
    z_BP -= mean_P
    rows, upper = len(z_BP), np.triu_indices(len(mean_P))
    covariance_PP = z_BP.T @ z_BP / rows
    squares_BP = z_BP**2
    products_PP = np.maximum(squares_BP.T @ squares_BP / rows - covariance_PP**2, 0.0)
    return Signature(
        np.concatenate([mean_P, covariance_PP[upper]]),
        np.concatenate([squares_BP.mean(axis=0), products_PP[upper]]),
        rows,
    )


def scaled(entries_F: np.ndarray, mean_F: np.ndarray, spread_F: np.ndarray) -> np.ndarray:
    """Entries about the federation's mean, in standard deviations of a row; entries that never vary are 0."""
    spread = spread_F.astype(np.float64)
    varies = spread > LEAST_SPREAD
    return np.where(varies, (entries_F - mean_F.astype(np.float64)) / np.sqrt(np.where(varies, spread, 1.0)), 0.0)


def sketch(entries_F: np.ndarray, probes_FQ: np.ndarray) -> np.ndarray:
    """s sᵀ Ω of one signature (F, Q). The mean over silos shows Q vectors instead of the signatures' covariance."""
    product: np.ndarray = np.outer(entries_F, entries_F @ probes_FQ)
    return product


def direction(sketch_FQ: np.ndarray, centroid_F: np.ndarray, spread_F: np.ndarray, probes_FQ: np.ndarray) -> np.ndarray:
    """Unit vector (F,) along which the sketched signatures differ most about their centroid, in units of ``scaled``.

    ``sketch_FQ`` and ``centroid_F`` are means over silos of ``sketch`` and of the entries. The first left singular
    vector of the centred and scaled sketch; its largest entry is positive.
    """
    centroid = centroid_F.astype(np.float64)
    nothing_F = np.zeros_like(centroid)
    columns = []
    for sketched_F, probe_F in zip(sketch_FQ.astype(np.float64).T, probes_FQ.T, strict=True):
        centred_F = sketched_F - centroid * _dot(centroid.tolist(), probe_F.tolist())
        columns.append(scaled(centred_F, nothing_F, spread_F).tolist())
    gram = [[_dot(a, b) for b in columns] for a in columns]
    v = [1.0 / (i + 1) for i in range(len(columns))]  # not orthogonal to anything by symmetry
    for _ in range(_POWER_STEPS):
        v = _unit([_dot(row, v) for row in gram])
    vector = _unit([_dot(row, v) for row in zip(*columns, strict=True)])
    largest = max(range(len(vector)), key=lambda i: (abs(vector[i]), -i))
    return np.array(vector) * (1.0 if vector[largest] >= 0 else -1.0)


def centroid_gate(distances_E: np.ndarray) -> np.ndarray:
    """softmax(−dist² / (½ · mean dist² of the two nearest)): (E,), sums to 1; at a centroid, all to the nearest."""
    nearest = np.sort(distances_E)[:2]
    if nearest[-1] <= 0:
        g: np.ndarray = (distances_E <= 0).astype(np.float64)
    else:
        g = np.exp((nearest[0] - distances_E) / (SOFTNESS * nearest.mean()))
    g /= g.sum()
    return g


def trust(nearest: float, noise: float) -> float:
    """1 / (1 + (r/4)³), r the squared distance to the nearest centroid in units of sampling noise: 1 near, 0 far."""
    if noise <= 0:
        return 1.0 if nearest <= 0 else 0.0
    return float(1.0 / (1.0 + (nearest / noise / TRUST_RATIO) ** 3))


@dataclass(frozen=True, slots=True)
class ClusterContext:
    """What is published about the clusters: enough to gate any unlabelled batch."""

    projection_DP: np.ndarray
    spread_F: np.ndarray
    centroids_EF: np.ndarray

    def distances(self, x_BD: np.ndarray) -> tuple[np.ndarray, float]:
        """Squared distances (E,) to the centroids less what sampling alone gives, at least 0; and that noise."""
        seen = signature(x_BD, self.projection_DP)
        apart_EF = scaled(seen.entries, self.centroids_EF, self.spread_F)
        varies_F = self.spread_F > LEAST_SPREAD
        noise = float((seen.spread[varies_F] / self.spread_F[varies_F]).sum() / seen.rows)
        squared_E: np.ndarray = (apart_EF**2).sum(axis=1)
        return np.maximum(squared_E - noise, 0.0), noise

    def gate(self, x_BD: np.ndarray) -> np.ndarray:
        """g_E of the batch."""
        return centroid_gate(self.distances(x_BD)[0])

    def between(self, x_BD: np.ndarray) -> float:
        """How far the batch lies on the way from its nearest centroid to another: 0 at one, ½ half-way. It is near the
        share of its rows that are another cluster's."""
        at_F = signature(x_BD, self.projection_DP).entries
        nearest = int((scaled(at_F, self.centroids_EF, self.spread_F) ** 2).sum(axis=1).argmin())
        off_F = scaled(at_F, self.centroids_EF[nearest], self.spread_F)
        shares = [0.0]
        for other_F in np.delete(self.centroids_EF, nearest, axis=0):
            way_F = scaled(other_F, self.centroids_EF[nearest], self.spread_F)
            length = float(way_F @ way_F)
            shares.append(float(off_F @ way_F) / length if length > 0 else 0.0)
        return max(shares)

    def mixed(self, x_BD: np.ndarray) -> float:
        """From 0, one context, to 1: rows of several clusters in one batch, to which no expert as a whole applies."""
        return min(max((self.between(x_BD) - MIXED_FROM) / (MIXED_TO - MIXED_FROM), 0.0), 1.0)

    def trust(self, x_BD: np.ndarray) -> float:
        """How much the batch looks like the nearest cluster."""
        distances_E, noise = self.distances(x_BD)
        return trust(float(distances_E.min()) + noise, noise)


def mutual_information(p_BC: np.ndarray) -> float:
    """H(mean p) − mean H(p) in nats: high where a predictor is sure of each input and varied over the batch."""
    return _entropy(p_BC.mean(axis=0)) - float(np.mean([_entropy(p_C) for p_C in p_BC]))


def newcomer_gate(gate_E: np.ndarray, information_E: np.ndarray) -> np.ndarray:
    """The gate of a batch from elsewhere: g_e · exp(I_e / slope), normalised; ``information_E`` of each expert on it.

    A newcomer's labels may be mixed like no cluster's, which blurs its signature; the experts' information about the
    batch then tells them apart. Not for the silos of the federation: skewed labels are what their own expert is for.
    """
    log_E = np.log(np.maximum(gate_E, 1e-6)) + information_E / MI_SLOPE
    g: np.ndarray = np.exp(log_E - log_E.max())
    g /= g.sum()
    return g


def information_gate(mixture_BC: np.ndarray, generalist_BC: np.ndarray, trust_: float) -> float:
    """Share of the mixture against the generalist: larger where the mixture is more informative, and with the trust."""
    trust_ = min(max(trust_, 1e-6), 1 - 1e-6)
    lead = mutual_information(mixture_BC) - mutual_information(generalist_BC)
    z = (lead - MI_HANDICAP) / MI_SLOPE + MI_TRUST * log(trust_ / (1 - trust_))
    return float(1.0 / (1.0 + np.exp(-np.clip(z, -50, 50))))


def _entropy(p_C: np.ndarray) -> float:
    p_C = p_C[p_C > 0].astype(np.float64)
    return float(-(p_C * np.log(p_C)).sum())


def _dot(a: list[float] | tuple[float, ...], b: list[float] | tuple[float, ...]) -> float:
    return fsum(x * y for x, y in zip(a, b, strict=True))


def _unit(v: list[float]) -> list[float]:
    length = sqrt(_dot(v, v))
    return [x / length for x in v] if length > 0 else v
