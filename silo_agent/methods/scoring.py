"""What a silo counts for the metrics of ``crypto.scores``, from probabilities and labels of its own test rows.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crypto import scores
from crypto.errors import NonFinite
from crypto.plan import Basis, Slot, Step
from silo_agent.methods import ROWS_BOUND

#: Most test rows of a silo whose losses are summed, and most of one row: −ln of ``LEAST_PROBABILITY`` is below 70.
LOSS_ROWS, LOSS_OF_ROW = 2**30, 70


def score_slots(mode: str, classes: int, *, metrics: bool = True) -> tuple[Slot, ...]:
    """The slots of a mode's scores, beside ``test.rows``: correct predictions, with ``metrics`` all that
    ``crypto.scores`` reads.

    Each of basis DATA, like ``test.rows``: the cells of a class add up to its rows, whatever the model. So none of them
    ever opens where another one could not have.
    """
    cells = (*scores.counted(mode, classes), *scores.summed(mode, classes)) if metrics else ()
    return tuple(Slot(name, _bound(name), Basis.DATA) for name in (scores.correct(mode), *cells))


def _bound(name: str) -> int:
    return LOSS_ROWS * LOSS_OF_ROW << scores.BITS if name.endswith(scores.FIXED) else ROWS_BOUND


def score(mode: str, p_BC: np.ndarray, y: np.ndarray, *, metrics: bool = True) -> dict[str, int]:
    """The values of ``score_slots`` of one silo. ``y``: labels (B,) in [0, C). An empty batch is all zeros.
    Raises NonFinite for probabilities that are not numbers: they would be counted as good ones."""
    if not np.isfinite(p_BC).all():
        raise NonFinite("Predictions of test rows are not numbers.", remedy="Lower the learning rate of the job.")
    named = p_BC.argmax(axis=1)
    found = {scores.correct(mode): int((named == y).sum())}
    classes = p_BC.shape[1]
    if not metrics or classes > scores.MOST_CLASSES:
        return found
    found |= _matrix(mode, named, y, classes)
    if classes == 2:
        found |= _ranking(mode, p_BC, y)
        chance, came = p_BC[:, 1], y == 1
    else:
        chance, came = p_BC.max(axis=1), named == y
    found |= _calibration(mode, np.clip(chance, 0, 1), came)
    of_label = np.maximum(p_BC[np.arange(len(y)), y], scores.LEAST_PROBABILITY)
    off_BC = p_BC - np.eye(classes)[y]
    squared = off_BC[:, 1] ** 2 if classes == 2 else (off_BC**2).sum(axis=1)
    found[scores.loss(mode, "brier")] = fixed(squared)
    found[scores.loss(mode, "log-loss")] = fixed(np.maximum(-np.log(of_label), 0.0))
    return found


def scored(step: Step, mode: str, p_BC: np.ndarray, y: np.ndarray) -> dict[str, int]:
    """``score``, of a mode's scores what this step opens."""
    metrics = scores.loss(mode, "brier") in {slot.name for slot in step.slots}
    return score(mode, p_BC, y, metrics=metrics)


def due(every: int, k: int) -> bool:
    """Whether training step ``k`` opens all metrics, of a job whose parameter ``metrics_every`` is this."""
    return every > 0 and k % every == 0


def fixed(values: np.ndarray) -> int:
    """The sum of values that are each rounded to 2⁻¹⁶."""
    return int(np.rint(values * 2**scores.BITS).astype(np.int64).sum())


def _matrix(mode: str, named: np.ndarray, y: np.ndarray, classes: int) -> dict[str, int]:
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (y, named), 1)
    if classes <= scores.MOST_IN_MATRIX:
        return {scores.confusion(mode, t, p): int(count) for (t, p), count in np.ndenumerate(matrix)}
    columns = {"hits": matrix.diagonal(), "named": matrix.sum(axis=0), "rows": matrix.sum(axis=1)}
    return {scores.of_class(mode, k, what): int(n) for what, counts in columns.items() for k, n in enumerate(counts)}


def _ranking(mode: str, p_B2: np.ndarray, y: np.ndarray) -> dict[str, int]:
    places = np.searchsorted(scores.LOG_ODDS, log_odds(p_B2), side="left")
    counts = np.bincount(2 * places + y, minlength=2 * scores.BINS)
    return {scores.ranking(mode, at // 2, at % 2): int(count) for at, count in enumerate(counts)}


def log_odds(p_B2: np.ndarray) -> np.ndarray:
    """By which rows are ranked: ln p(1) − ln p(0)."""
    logp = np.log(np.maximum(p_B2, scores.LEAST_PROBABILITY))
    odds: np.ndarray = logp[:, 1] - logp[:, 0]
    return odds


def _calibration(mode: str, chance: np.ndarray, came: np.ndarray) -> dict[str, int]:
    tenths = np.minimum((chance * scores.TENTHS).astype(np.int64), scores.TENTHS - 1)

    def cells() -> Iterator[tuple[str, int]]:
        for tenth in range(scores.TENTHS):
            here = tenths == tenth
            yield scores.calibration(mode, tenth, "rows"), int(here.sum())
            yield scores.calibration(mode, tenth, "hits"), int((here & came).sum())
            yield scores.calibration(mode, tenth, f"chance{scores.FIXED}"), fixed(chance[here])

    return dict(cells())
