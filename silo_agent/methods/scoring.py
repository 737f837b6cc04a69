"""What a silo counts for the metrics of ``crypto.scores``, from predictions and targets of its own test rows.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from crypto import scores, task_scores
from crypto.errors import NonFinite
from crypto.histograms import BITS, COARSE_LOG_ODDS, FIXED, LOG_ODDS
from crypto.plan import Basis, Slot, Step
from crypto.task_scores import NUMBER_BITS, NumberSlots, dice, image_dice, label_loss, label_ranking, rankings
from silo_agent.methods import ROWS_BOUND
from silo_agent.models.tasks import Classes, Labels, Masks, Number, Task

#: Most test rows of a silo whose losses are summed, and most of one row: −ln of ``LEAST_PROBABILITY`` is below 70.
LOSS_ROWS, LOSS_OF_ROW = 2**30, 70
#: The same for sums of numbers, each a share of the width of the target's range, and for places of masks.
NUMBER_ROWS, PLACES = 2**24, 2**44


def score_slots(mode: str, task: Task, *, metrics: bool = True) -> tuple[Slot, ...]:
    """The slots of a mode's scores, beside ``test.rows``, each once in a step: with ``metrics`` all that
    ``crypto.scores`` reads, else the few that a curve needs.

    Each of basis DATA, like ``test.rows``: the cells of a class add up to its rows, whatever the model. So none of them
    ever opens where another one could not have.
    """
    if isinstance(task, Classes):
        cells = (*scores.counted(mode, task.classes), *scores.summed(mode, task.classes)) if metrics else ()
        return tuple(Slot(name, _bound(name), Basis.DATA) for name in (scores.correct(mode), *cells))
    return tuple(Slot(name, bound, Basis.DATA) for name, bound in _slots_of(mode, task, metrics=metrics).items())


def target_slots(task: Task) -> tuple[Slot, ...]:
    """The slots that say what the targets of the test rows are, which the modes of a step share."""
    if isinstance(task, Labels):
        return tuple(Slot(task_scores.positives(k), ROWS_BOUND, Basis.DATA) for k in range(task.classes))
    if isinstance(task, Number):
        of = NumberSlots("", task.exponent)
        return tuple(Slot(name, NUMBER_ROWS << NUMBER_BITS, Basis.DATA) for name in (of.sum, of.squares))
    return ()


def _slots_of(mode: str, task: Task, *, metrics: bool) -> dict[str, int]:
    """Slot → its bound, of a task other than one class a row."""
    if isinstance(task, Labels):
        losses = (label_loss(mode, name, k) for k in range(task.classes) for name in ("brier", "log-loss"))
        found = {name: _bound(name) for name in losses}
        return found | dict.fromkeys(rankings(mode, task.classes) if metrics else (), ROWS_BOUND)
    if isinstance(task, Masks):
        rows, total = image_dice(mode)
        cells = (dice(mode, k, what) for k in range(task.classes) for what in ("overlap", "named", "places"))
        return dict.fromkeys(cells, PLACES) | {rows: ROWS_BOUND, total: ROWS_BOUND << BITS}
    assert isinstance(task, Number)
    of = NumberSlots(mode, task.exponent)
    most = NUMBER_ROWS << NUMBER_BITS
    return {of.squared: most, of.absolute: most, of.clamped: ROWS_BOUND}


def _bound(name: str) -> int:
    return LOSS_ROWS * LOSS_OF_ROW << BITS if name.endswith(FIXED) else ROWS_BOUND


def score(mode: str, predictions: np.ndarray, y: np.ndarray, task: Task, *, metrics: bool = True) -> dict[str, int]:
    """The values of ``score_slots`` of one silo. ``predictions``: as ``Task.predictions`` gives them; ``y``: targets.
    An empty batch is all zeros. Raises NonFinite for predictions that are not numbers: they would be counted as good
    ones."""
    if not np.isfinite(predictions).all():
        raise NonFinite("Predictions of test rows are not numbers.", remedy="Lower the learning rate of the job.")
    if isinstance(task, Labels):
        return _labels(mode, predictions, y, metrics=metrics)
    if isinstance(task, Masks):
        return _masks(mode, predictions, y, task)
    if isinstance(task, Number):
        return _number(mode, predictions[:, 0], y, task)
    return _class(mode, predictions, y, metrics=metrics)


def targets(y: np.ndarray, task: Task) -> dict[str, int]:
    """The values of ``target_slots`` of one silo."""
    if isinstance(task, Labels):
        return {task_scores.positives(k): int(count) for k, count in enumerate(y.sum(axis=0))}
    if isinstance(task, Number):
        of, above = NumberSlots("", task.exponent), y.astype(np.float64) - task.low
        return {of.sum: fixed(above, of.bits), of.squares: fixed(above**2, of.square_bits)}
    return {}


def scored(step: Step, mode: str, predictions: np.ndarray, y: np.ndarray, task: Task) -> dict[str, int]:
    """``score`` and ``targets``, of a mode's scores what this step opens."""
    opens = {slot.name for slot in step.slots}
    metrics = not opens.isdisjoint((scores.loss(mode, "brier"), task_scores.label_ranking(mode, 0, 0, 0)))
    return score(mode, predictions, y, task, metrics=metrics) | targets(y, task)


def _class(mode: str, p_BC: np.ndarray, y: np.ndarray, *, metrics: bool) -> dict[str, int]:
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


def _labels(mode: str, p_BL: np.ndarray, y_BL: np.ndarray, *, metrics: bool) -> dict[str, int]:
    found: dict[str, int] = {}
    labels = p_BL.shape[1]
    for k in range(labels):
        p_B2, y = np.stack([1 - p_BL[:, k], p_BL[:, k]], axis=1), y_BL[:, k]
        of_label = np.maximum(p_B2[np.arange(len(y)), y], scores.LEAST_PROBABILITY)
        found[label_loss(mode, "brier", k)] = fixed((p_B2[:, 1] - y) ** 2)
        found[label_loss(mode, "log-loss", k)] = fixed(np.maximum(-np.log(of_label), 0.0))
        if metrics and labels <= task_scores.MOST_RANKED:
            counts = _bins(p_B2, y, COARSE_LOG_ODDS)
            cells = ((label_ranking(mode, k, at // 2, at % 2), int(count)) for at, count in enumerate(counts))
            found |= dict(cells)
    return found


def _masks(mode: str, p_BC: np.ndarray, y: np.ndarray, task: Masks) -> dict[str, int]:
    """``p_BC``: (rows, classes, *sides)."""
    named, true = p_BC.argmax(axis=1).reshape(len(y), -1), y.reshape(len(y), -1)
    found: dict[str, int] = {}
    for k in range(task.classes):
        counts = {"overlap": (named == k) & (true == k), "named": named == k, "places": true == k}
        found |= {dice(mode, k, what): int(at.sum()) for what, at in counts.items()}
    overlap = ((named == true) & (true > 0)).sum(axis=1)
    there = (named > 0).sum(axis=1) + (true > 0).sum(axis=1)
    rows, total = image_dice(mode)
    seen = there > 0
    return found | {rows: int(seen.sum()), total: fixed(2 * overlap[seen] / there[seen])}


def _number(mode: str, predicted: np.ndarray, y: np.ndarray, task: Number) -> dict[str, int]:
    of = NumberSlots(mode, task.exponent)
    off = np.clip(predicted, task.low, task.high) - y
    beyond = (predicted < task.low) | (predicted > task.high)
    return {
        of.squared: fixed(off**2, of.square_bits),
        of.absolute: fixed(np.abs(off), of.bits),
        of.clamped: int(beyond.sum()),
    }


def due(every: int, k: int) -> bool:
    """Whether training step ``k`` opens all metrics, of a job whose parameter ``metrics_every`` is this."""
    return every > 0 and k % every == 0


def fixed(values: np.ndarray, bits: int = BITS) -> int:
    """The sum of values that are each rounded to 2⁻ᵇⁱᵗˢ."""
    return int(np.rint(values * 2.0**bits).astype(np.int64).sum())


def _matrix(mode: str, named: np.ndarray, y: np.ndarray, classes: int) -> dict[str, int]:
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (y, named), 1)
    if classes <= scores.MOST_IN_MATRIX:
        return {scores.confusion(mode, t, p): int(count) for (t, p), count in np.ndenumerate(matrix)}
    columns = {"hits": matrix.diagonal(), "named": matrix.sum(axis=0), "rows": matrix.sum(axis=1)}
    return {scores.of_class(mode, k, what): int(n) for what, counts in columns.items() for k, n in enumerate(counts)}


def _ranking(mode: str, p_B2: np.ndarray, y: np.ndarray) -> dict[str, int]:
    return {scores.ranking(mode, at // 2, at % 2): int(count) for at, count in enumerate(_bins(p_B2, y))}


def _bins(p_B2: np.ndarray, y: np.ndarray, edges: Sequence[float] = LOG_ODDS) -> np.ndarray:
    """Rows of each bin of log odds and class, at 2 · bin + class."""
    places = np.searchsorted(edges, log_odds(p_B2), side="left")
    return np.bincount(2 * places + y, minlength=2 * (len(edges) + 1))


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
            yield scores.calibration(mode, tenth, f"chance{FIXED}"), fixed(chance[here])

    return dict(cells())
