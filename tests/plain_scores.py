"""Metrics a second time, slowly, from all rows at once: what the sums of ``crypto.scores`` are held against.

Python floats and fractions, one loop for each definition; it shares no line with what silos count. A row is
(probabilities of the classes, label). None: undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import fsum, log

Rows = Sequence[tuple[Sequence[float], int]]


def named(chances: Sequence[float]) -> int:
    """The most probable class, the first of equal ones."""
    return max(range(len(chances)), key=lambda k: (chances[k], -k))


def odds(chances: Sequence[float]) -> float:
    no, yes = (log(max(chance, 1e-30)) for chance in chances)
    return yes - no


def auroc(rows: Rows) -> float | None:
    """Pairs of a row of each class: 1 if the row of class 1 ranks higher, ½ if they are level."""
    yes = [odds(chances) for chances, label in rows if label == 1]
    no = [odds(chances) for chances, label in rows if label == 0]
    if not yes or not no:
        return None
    twice = sum(2 * (a > b) + (a == b) for a in yes for b in no)
    return float(Fraction(twice, 2 * len(yes) * len(no)))


def average_precision(rows: Rows) -> float | None:
    """Over rows of class 1, the precision among all rows that rank at least as high."""
    ranked = [(odds(chances), label) for chances, label in rows]
    precisions = []
    for mine, label in ranked:
        if label == 1:
            above = [other for at, other in ranked if at >= mine]
            precisions.append(sum(above) / len(above))
    return fsum(precisions) / len(precisions) if precisions else None


def accuracy(rows: Rows) -> float:
    return sum(named(chances) == label for chances, label in rows) / len(rows)


def always(rows: Rows) -> int:
    """The most common class, the first of equal ones."""
    labels = [label for _, label in rows]
    return max(sorted(set(labels)), key=labels.count)


def recall(rows: Rows, k: int) -> float | None:
    mine = [chances for chances, label in rows if label == k]
    return sum(named(chances) == k for chances in mine) / len(mine) if mine else None


def f1(rows: Rows, k: int) -> float | None:
    """None without rows of the class."""
    hits = sum(named(chances) == k and label == k for chances, label in rows)
    false = sum(named(chances) == k and label != k for chances, label in rows)
    missed = sum(named(chances) != k and label == k for chances, label in rows)
    return 2 * hits / (2 * hits + false + missed) if hits + missed else None


def mean_of_classes(rows: Rows, figure: str) -> float:
    classes = range(len(rows[0][0]))
    found = [{"recall": recall, "f1": f1}[figure](rows, k) for k in classes]
    there = [one for one in found if one is not None]
    return fsum(there) / len(there)


def brier(rows: Rows) -> float:
    """Of two classes the squared error of class 1's probability; of more the sum over all classes."""
    two = len(rows[0][0]) == 2
    total = 0.0
    for chances, label in rows:
        errors = [(chance - (k == label)) ** 2 for k, chance in enumerate(chances)]
        total += errors[1] if two else fsum(errors)
    return total / len(rows)


def log_loss(rows: Rows) -> float:
    return fsum(-log(max(chances[label], 1e-30)) for chances, label in rows) / len(rows)


def calibration_error(rows: Rows) -> float:
    """Ten bins of equal width, of the probability of class 1, or of the most probable of more classes."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for chances, label in rows:
        chance, came = (chances[1], label == 1) if len(chances) == 2 else (max(chances), named(chances) == label)
        bins.setdefault(min(int(chance * 10), 9), []).append((chance, came))
    apart = 0.0
    for inside in bins.values():
        apart += abs(fsum(chance for chance, _ in inside) - sum(came for _, came in inside))
    return apart / len(rows)
