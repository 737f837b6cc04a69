"""MetaMoE's router, from sums: which expert's proxies a row looks most like.

Every silo contributes the mean and the second moments of its own proxies as the router sees them. From those sums each
silo derives the linear discriminant for "whose proxy is this": the router that a server with all proxies would fit,
in one step and without any proxy leaving its silo. Derived from opened sums, so bit-identical everywhere: sums are
correctly rounded (``math.fsum``), all else is single IEEE operations in a fixed order; no BLAS.

Shapes: B rows of a batch, E experts, F routing features, P of them projected, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt

import numpy as np

#: How much of the covariance between features is dropped: proxies are few, and their covariance is an estimate. Chosen
#: on MNIST under other seeds than any bar's; 0.3 and 0.6 route as well.
SHRINKAGE = 0.5

#: A feature that varies less than this about the centres is not used.
LEAST_VARIANCE = 1e-8

#: Log-odds of an expert's best class are clamped to ± this.
ODDS = 6.0

#: The release's share of the context, λ. It is learnable there, but gets no gradient; see ``metamoe``.
PAPER_CONTEXT = 0.3


@dataclass(frozen=True, slots=True)
class Router:
    """A row goes to argmax_e of ``rows_EF`` · φ + ``bias_E``."""

    rows_EF: np.ndarray
    bias_E: np.ndarray

    def route(self, features_BF: np.ndarray) -> np.ndarray:
        """The expert of each row, (B,). Of equals the first."""
        chosen_B: np.ndarray = (features_BF @ self.rows_EF.T + self.bias_E).argmax(axis=1)
        return chosen_B


def features(x_BD: np.ndarray, projection_DP: np.ndarray, p_EBC: np.ndarray) -> np.ndarray:
    """φ (B, P + E): the row in the seeded projection, and each expert's confidence, the log-odds of its best class.

    The context of a row is what the experts make of it, a function of the row alone.
    """
    z_BP = projected(x_BD, projection_DP)
    best_EB = np.clip(p_EBC.max(axis=2), 1e-9, 1 - 1e-9)
    odds_EB = np.clip(np.log(best_EB / (1 - best_EB)), -ODDS, ODDS)
    return np.concatenate([z_BP, odds_EB.T], axis=1)


def paper_features(x_BD: np.ndarray, projection_DP: np.ndarray) -> np.ndarray:
    """As released for pictures: the context is a mean over the *batch*, so a row's expert depends on its neighbours."""
    z_BP = projected(x_BD, projection_DP)
    blended: np.ndarray = (1 - PAPER_CONTEXT) * z_BP + PAPER_CONTEXT * z_BP.mean(axis=0)
    return blended


def projected(x_BD: np.ndarray, projection_DP: np.ndarray) -> np.ndarray:
    z_BP: np.ndarray = x_BD.astype(np.float64) @ (projection_DP / sqrt(len(projection_DP)))
    return z_BP


def statistics(features_BF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and second moments (F, F) of the rows."""
    return features_BF.mean(axis=0), features_BF.T @ features_BF / len(features_BF)


def discriminant(centres_EF: np.ndarray, moments_FF: np.ndarray, shares_E: Sequence[float]) -> Router:
    """Linear discriminant of groups with these means, from the mean of second moments under the groups' shares.

    Within-group covariance W = moments − Σ_e share_e c_e c_eᵀ, off its diagonal shrunk by ``SHRINKAGE``; rows W⁻¹ c_e,
    bias −½ c_eᵀ W⁻¹ c_e: all groups are alike likely.
    """
    centres = centres_EF.astype(np.float64).tolist()
    moments = moments_FF.astype(np.float64).tolist()
    count = len(moments)
    within = [
        [
            fsum([moments[a][b], *(-s * c[a] * c[b] for s, c in zip(shares_E, centres, strict=True))])
            for b in range(a + 1)
        ]
        for a in range(count)
    ]
    kept = [a for a in range(count) if within[a][a] > LEAST_VARIANCE]
    scale = {a: sqrt(within[a][a]) for a in kept}
    # In units of standard deviations: ones on the diagonal, shrunken correlations off it.
    lower: list[list[float]] = []
    for i, a in enumerate(kept):
        row: list[float] = []
        for j, b in enumerate(kept[: i + 1]):
            entry = 1.0 if i == j else (1 - SHRINKAGE) * (within[a][b] / (scale[a] * scale[b]))
            other = row if i == j else lower[j]
            rest = fsum([entry, *(-x * y for x, y in zip(row, other, strict=False))])
            row.append(sqrt(max(rest, LEAST_VARIANCE)) if i == j else rest / lower[j][j])
        lower.append(row)
    rows_EF, bias_E = np.zeros((len(centres), count)), np.zeros(len(centres))
    for e, centre in enumerate(centres):
        solved = _solve(lower, [centre[a] / scale[a] for a in kept])
        for a, value in zip(kept, solved, strict=True):
            rows_EF[e, a] = value / scale[a]
        bias_E[e] = -0.5 * fsum(centre[a] * rows_EF[e, a] for a in kept)
    return Router(rows_EF, bias_E)


def beats(router_only: int, surest_only: int) -> bool:
    """Whether the router was right where the surest expert was wrong so much more often than the other way round that
    chance would hardly do it: by more than two standard deviations of a fair coin. In whole numbers."""
    lead = router_only - surest_only
    return lead > 0 and lead * lead > 4 * (router_only + surest_only)


def _solve(lower: Sequence[Sequence[float]], b: Sequence[float]) -> list[float]:
    """x with L Lᵀ x = b."""
    y: list[float] = []
    for row, value in zip(lower, b, strict=True):
        y.append(fsum([value, *(-x * v for x, v in zip(row, y, strict=False))]) / row[len(y)])
    x: list[float] = []
    for i in reversed(range(len(lower))):
        below = [-lower[k][i] * v for k, v in zip(range(len(lower) - 1, i, -1), x, strict=True)]
        x.append(fsum([y[i], *below]) / lower[i][i])
    return x[::-1]
