"""What the scores of several tasks have in common: sums in fixed point, and rankings from histograms of log odds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Fixed point of sums that are no counts: bits behind the point, and how slots of them end.
BITS: Final = 16
FIXED: Final = f".q{BITS}"
#: Most an average of such sums is off.
ROUNDING: Final = 2.0 ** -(BITS + 1)

_POSITIVE = (*(n / 8 for n in range(1, 49)), *(6 * 5 ** (n / 15) for n in range(1, 16)))
#: Inner edges of the bins of log odds, ascending: 0.125 apart up to ±6, where probabilities of most models are, then
#: each 1.113 times the last, to ±30. A value on an edge is in the bin below.
LOG_ODDS: Final = (*(-edge for edge in reversed(_POSITIVE)), 0.0, *_POSITIVE)
BINS: Final = len(LOG_ODDS) + 1
#: Every second edge, where many rankings open together.
COARSE_LOG_ODDS: Final = LOG_ODDS[1::2]
COARSE_BINS: Final = len(COARSE_LOG_ODDS) + 1


def auroc(counts: Sequence[tuple[int, int]]) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) of the area under the curve, from rows of class 0 and 1 in each bin: of pairs of a row of each
    class, those in the right order; a pair in one bin is half a pair. None: a class has no row."""
    pairs = sum(no for no, _ in counts) * sum(yes for _, yes in counts)
    if not pairs:
        return None, None, None
    below = right = unsure = 0  # right and unsure in pairs
    for no, yes in counts:
        right += below * yes
        unsure += no * yes
        below += no
    return (right + unsure / 2) / pairs, right / pairs, (right + unsure) / pairs
