"""Which expert speaks for a batch: signatures, clusters and gates, all from unlabelled inputs and opened sums.

A signature is the mean and the covariance of a batch in a seeded ±1 projection, one standard deviation of a row per
unit, so that the sampling noise of a batch of n rows is about 1/√n per entry. The federation's clusters come from sums
of signatures; a batch is gated by its distance to the published centroids. numpy only; functions without state.

Whatever every silo must derive alike from opened sums (projection, direction of a split) is bit-stable: sums are
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

#: Distances are softened by half their mean: scale-free, and the measured results hardly depend on it.
SOFTNESS = 0.5

#: Trust halves where the squared distance to the nearest centroid is four times the sampling noise.
TRUST_RATIO = 4.0

#: The mutual-information rule: handicap against the mixture, slope, and how much the trust counts.
MI_HANDICAP, MI_SLOPE, MI_TRUST = 0.1, 0.05, 0.25

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


def signature(x_BD: np.ndarray, projection_DP: np.ndarray) -> Signature:
    """Mean and covariance (upper triangle) of the projected rows, and how much each varies from row to row."""
    z_BP = x_BD.astype(np.float64) @ (projection_DP / sqrt(len(projection_DP)))
    centred_BP = z_BP - z_BP.mean(axis=0)
    at, to = np.triu_indices(z_BP.shape[1])
    rows_BF = np.concatenate([z_BP, centred_BP[:, at] * centred_BP[:, to]], axis=1)
    return Signature(rows_BF.mean(axis=0), rows_BF.var(axis=0), len(rows_BF))


def scaled(entries_F: np.ndarray, mean_F: np.ndarray, spread_F: np.ndarray) -> np.ndarray:
    """Entries about the federation's mean, in standard deviations of a row; entries that never vary are 0."""
    mean, spread = mean_F.astype(np.float64), spread_F.astype(np.float64)
    varies = spread > 1e-12
    return np.where(varies, (entries_F - mean) / np.sqrt(np.where(varies, spread, 1.0)), 0.0)


def direction(sketch_FQ: np.ndarray) -> np.ndarray:
    """Unit vector (F,) along which the sketched signatures differ most; its largest entry is positive.

    The sketch is ``C Ω``, the signatures' covariance times Q seeded ±1 probes: a sum over silos that shows Q vectors,
    fewer than there are silos, instead of the covariance. The answer is its first left singular vector.
    """
    columns = [[float(value) for value in column] for column in sketch_FQ.T]
    gram = [[_dot(a, b) for b in columns] for a in columns]
    v = [1.0 / (i + 1) for i in range(len(columns))]  # not orthogonal to anything by symmetry
    for _ in range(_POWER_STEPS):
        v = _unit([_dot(row, v) for row in gram])
    vector = _unit([_dot(row, v) for row in zip(*columns, strict=True)])
    largest = max(range(len(vector)), key=lambda i: (abs(vector[i]), -i))
    return np.array(vector) * (1.0 if vector[largest] >= 0 else -1.0)


def distances(signature_F: np.ndarray, centroids_EF: np.ndarray, noise: float) -> np.ndarray:
    """Squared distances (E,) to the centroids, less what sampling noise alone would give; at least 0."""
    squared = ((signature_F - centroids_EF) ** 2).sum(axis=1)
    return np.maximum(squared - noise, 0.0)


def centroid_gate(distances_E: np.ndarray) -> np.ndarray:
    """softmax(−dist² / (½ · mean dist²)): (E,), sums to 1; uniform where all distances are 0."""
    mean = distances_E.mean()
    if mean <= 0:
        return np.full(len(distances_E), 1.0 / len(distances_E))
    z = -(distances_E - distances_E.min()) / (SOFTNESS * mean)
    g = np.exp(z)
    return g / g.sum()


def trust(nearest: float, noise: float) -> float:
    """1 / (1 + (r/4)³), r the squared distance to the nearest centroid in units of sampling noise: 1 near, 0 far."""
    if noise <= 0:
        return 1.0 if nearest <= 0 else 0.0
    return float(1.0 / (1.0 + (nearest / noise / TRUST_RATIO) ** 3))


def mutual_information(p_BC: np.ndarray) -> float:
    """H(mean p) − mean H(p) in nats: high where a predictor is sure of each input and varied over the batch."""
    return _entropy(p_BC.mean(axis=0)) - float(np.mean([_entropy(p_C) for p_C in p_BC]))


def information_gate(mixture_BC: np.ndarray, generalist_BC: np.ndarray, trust_: float) -> float:
    """Share of the mixture in a cold start: the more informative predictor leads, the trust leans a little."""
    trust_ = min(max(trust_, 1e-6), 1 - 1e-6)
    lead = mutual_information(mixture_BC) - mutual_information(generalist_BC) - MI_HANDICAP
    z = lead / MI_SLOPE + MI_TRUST * log(trust_ / (1 - trust_))
    return float(1.0 / (1.0 + np.exp(-np.clip(z, -50, 50))))


def _entropy(p_C: np.ndarray) -> float:
    p_C = p_C[p_C > 0].astype(np.float64)
    return float(-(p_C * np.log(p_C)).sum())


def _dot(a: list[float] | tuple[float, ...], b: list[float] | tuple[float, ...]) -> float:
    return fsum(x * y for x, y in zip(a, b, strict=True))


def _unit(v: list[float]) -> list[float]:
    length = sqrt(_dot(v, v))
    return [x / length for x in v] if length > 0 else v
