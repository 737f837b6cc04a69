"""A varied choice of good items: greedy maximum a posteriori of a determinantal point process.

Items have a quality q and a position; similarity S is the cosine of two positions, or how near they are. A set A is
worth log det(Diag(q) (S + εI) Diag(q))_A = 2 Σ_A log q + log det (S + εI)_A: quality, and the volume that the positions
span. The greedy choice adds, again and again, the item that adds most (Chen, Zhang and Zhou 2018: an incremental
Cholesky factorisation, N·K² operations for K of N items).

The jitter ε is needed, not cosmetic: cosines of F features have rank F, so without it the (F+1)-th choice is rounding
noise. Chosen items are masked: otherwise an item is chosen again once all others add as little as it does.

Shapes: N items, F features, K chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crypto.errors import NonFinite, SpecError

#: ε. A copy of a chosen item keeps about 2ε of its variance: it costs log 2ε, six nats, to take it.
JITTER = 1e-3

#: An item whose remaining variance is below this adds nothing; the rest is filled up by quality.
LEAST_VARIANCE = 1e-10

#: Of ``near``. Chosen on digits under other seeds than any bar's: 0.3 does as well.
WIDTH = 0.1

#: Logarithms and roots are taken of no less.
_TINY = 1e-12


def cosine(positions_NF: np.ndarray) -> np.ndarray:
    """Cosines (N, N). An item at the origin is like none, and like itself."""
    x = positions_NF.astype(np.float64)
    length_N = np.sqrt((x**2).sum(axis=1))
    x = x / np.where(length_N > 0, length_N, 1.0)[:, None]
    s_NN: np.ndarray = x @ x.T
    np.fill_diagonal(s_NN, 1.0)
    return s_NN


def near(positions_NF: np.ndarray) -> np.ndarray:
    """exp(−d² / (2 w²)) of distances d (N, N), w² = ``WIDTH`` of the median d²: of full rank, and only what is alike
    counts as alike."""
    x = positions_NF.astype(np.float64)
    squares_N = (x**2).sum(axis=1)
    apart_NN = np.maximum(squares_N[:, None] + squares_N[None, :] - 2 * x @ x.T, 0.0)
    np.fill_diagonal(apart_NN, 0.0)
    others = ~np.eye(len(x), dtype=bool)
    typical = float(np.median(apart_NN[others])) if len(x) > 1 else 0.0
    s_NN: np.ndarray = np.exp(-apart_NN / (2 * WIDTH * typical)) if typical > 0 else (apart_NN <= 0).astype(np.float64)
    return s_NN


def greedy(
    quality_N: np.ndarray,
    positions_NF: np.ndarray,
    count: int,
    *,
    similarity: Callable[[np.ndarray], np.ndarray] = cosine,
    jitter: float = JITTER,
    mask: bool = True,
) -> np.ndarray:
    """``count`` item numbers, in the order of choice; of equals the first. Without ``mask`` items may come again.

    Raises SpecError for a count that the items do not suffice for, NonFinite for NaN or infinity.
    """
    items = len(quality_N)
    if quality_N.shape != (items,) or positions_NF.ndim != 2 or len(positions_NF) != items:
        raise SpecError("items", got=(quality_N.shape, positions_NF.shape), want="(N,) and (N, F) of the same items")
    if not 0 <= count <= items:
        raise SpecError("count", got=count, want=f"from 0 to the {items} items there are")
    if not (np.isfinite(quality_N).all() and np.isfinite(positions_NF).all()):
        raise NonFinite("A quality or a position of an item is NaN or infinite.")
    if (quality_N < 0).any():
        raise SpecError("quality", got=float(quality_N.min()), want="0 or more")
    worth_N = 2 * np.log(np.maximum(quality_N.astype(np.float64), _TINY))
    s_NN = similarity(positions_NF)
    left_N = np.full(items, 1.0 + jitter)  # the variance of each item given those chosen
    rows_KN = np.zeros((count, items))  # of the Cholesky factor
    free_N = np.ones(items, dtype=bool)
    chosen: list[int] = []
    for k in range(count):
        able_N = free_N & (left_N > LEAST_VARIANCE) if mask else free_N
        if not able_N.any():
            rest = np.flatnonzero(free_N)
            chosen += rest[np.argsort(-quality_N[rest], kind="stable")][: count - k].tolist()
            break
        gain_N = np.where(able_N, worth_N + np.log(np.maximum(left_N, _TINY)), -np.inf)
        best = int(gain_N.argmax())
        rows_KN[k] = (s_NN[best] - rows_KN[:k, best] @ rows_KN[:k]) / np.sqrt(max(left_N[best], _TINY))
        left_N = left_N - rows_KN[k] ** 2
        free_N[best] = not mask
        chosen.append(best)
    return np.array(chosen, dtype=np.int64)
