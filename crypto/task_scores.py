"""Metrics of other tasks than one class a row, as sums: several labels, masks, numbers.

Read through ``crypto.scores``. ``X`` is a mode, K a label or class, ``qN`` a sum in fixed point of N bits behind the
point (N may be negative).

| task, slots                                      | what a silo adds                                          |
|--------------------------------------------------|-----------------------------------------------------------|
| multilabel: ``X.label-brier.K.q16``              | Σ squared error of the probability                        |
| ``X.label-log-loss.K.q16``                       | Σ −ln p                                                   |
| ``X.label-ranking.K.B.0``, ``.1``, ≤ 14 labels   | rows without and with K in bin B of ``COARSE_LOG_ODDS``   |
| ``target.positives.K``                           | rows with label K                                         |
| segmentation: ``X.dice.K.overlap``               | places of class K that are named K                        |
| ``X.dice.K.named``, ``.places``                  | all that are named K; all of K                            |
| ``X.image-dice.rows``, ``X.image-dice.sum.q16``  | rows with a foreground, true or named; Σ their Dice       |
| regression: ``X.squared-error.qN``               | Σ of squares of errors, predictions clamped to the bounds |
| ``X.absolute-error.qM``                          | Σ of errors                                               |
| ``X.clamped``                                    | rows whose prediction was beyond the bounds               |
| ``target.moments.sum.qM``, ``.squares.qN``       | Σ of target − lower bound, and of its square              |

All have basis DATA, as ``crypto.scores`` says of its own. A target's sums say of all silos together what their mean and
variance are: against them a model is judged, as a classifier is against the most common class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import fsum, log, sqrt
from typing import Final

from crypto.histograms import BITS, COARSE_BINS, FIXED, ROUNDING, auroc

TEST_ROWS: Final = "test.rows"
#: Most labels whose rankings open: each takes 2 × 64 slots of each mode, and a step has at most 4096.
MOST_RANKED: Final = 14
#: Bits of a number's sums behind the point, of shares of the width of its range.
NUMBER_BITS: Final = 26

OF_LABELS: Final = ("macro-auroc", "auroc", "brier", "log-loss")
OF_MASKS: Final = ("dice", "image-dice", "place-accuracy")
OF_NUMBER: Final = ("rmse", "r2", "mae", "clamped")
METRICS: Final = (*OF_LABELS, *OF_MASKS, *OF_NUMBER)
#: Metrics in the unit of the target.
IN_UNITS: Final = ("rmse", "mae")
TITLES: Final[Mapping[str, str]] = {
    "macro-auroc": "macro AUROC",
    "dice": "Dice",
    "image-dice": "mean Dice of a row",
    "place-accuracy": "accuracy of places",
    "rmse": "RMSE",
    "r2": "R²",
    "mae": "MAE",
    "clamped": "share beyond the bounds",
}
#: Families of cells, for ``crypto.scores.family``.
FAMILIES: Final = (
    "label-brier|label-log-loss|label-ranking|dice|image-dice|squared-error|absolute-error|moments|positives"
)

_MODE = re.compile(r"(.+)\.(?:label-brier\.0\.q16|dice\.0\.places|squared-error\.q-?\d{1,2})")
_BITS = re.compile(r".+\.q(-?\d{1,2})")


@dataclass(frozen=True, slots=True)
class Found:
    """A figure, as ``crypto.scores.Score`` without its mode."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    baseline: float | None
    of: str = ""


def mode_of(slot: str) -> str:
    """The mode whose metrics begin with this slot; "" for another slot."""
    cell = _MODE.fullmatch(slot)
    return cell[1] if cell else ""


def found(slots: Mapping[str, int], mode: str) -> tuple[Found, ...]:
    """The metrics of a mode, the leading one first; none for a mode of another task. Raises KeyError where a slot did
    not open."""
    if f"{mode}.label-brier.0{FIXED}" in slots:
        return _of_labels(slots, mode)
    if f"{mode}.dice.0.places" in slots:
        return _of_masks(slots, mode)
    squared = next((name for name in slots if name.startswith(f"{mode}.squared-error.")), "")
    return _of_number(slots, mode, squared) if squared else ()


# --- the slots -------------------------------------------------------------------------------------------------------


def label_loss(mode: str, name: str, label: int) -> str:
    """``name``: brier or log-loss."""
    return f"{mode}.label-{name}.{label}{FIXED}"


def label_ranking(mode: str, label: int, at: int, is_: int) -> str:
    return f"{mode}.label-ranking.{label}.{at}.{is_}"


def positives(label: int) -> str:
    return f"target.positives.{label}"


def rankings(mode: str, labels: int) -> tuple[str, ...]:
    """The slots of every label's ranking; none of too many labels."""
    if labels > MOST_RANKED:
        return ()
    return tuple(label_ranking(mode, k, at, is_) for k, at, is_ in product(range(labels), range(COARSE_BINS), range(2)))


def dice(mode: str, k: int, what: str) -> str:
    """``what``: overlap, named or places."""
    return f"{mode}.dice.{k}.{what}"


def image_dice(mode: str) -> tuple[str, str]:
    """(rows with a foreground, the sum of their Dice)."""
    return f"{mode}.image-dice.rows", f"{mode}.image-dice.sum{FIXED}"


@dataclass(frozen=True, slots=True)
class NumberSlots:
    """The slots of a number's metrics. ``exponent``: its range is at most 2^exponent wide."""

    mode: str
    exponent: int

    @property
    def bits(self) -> int:
        """Of sums in the unit of the target."""
        return NUMBER_BITS - self.exponent

    @property
    def square_bits(self) -> int:
        """Of sums in its square."""
        return NUMBER_BITS - 2 * self.exponent

    @property
    def squared(self) -> str:
        return f"{self.mode}.squared-error.q{self.square_bits}"

    @property
    def absolute(self) -> str:
        return f"{self.mode}.absolute-error.q{self.bits}"

    @property
    def clamped(self) -> str:
        return f"{self.mode}.clamped"

    @property
    def sum(self) -> str:
        return f"target.moments.sum.q{self.bits}"

    @property
    def squares(self) -> str:
        return f"target.moments.squares.q{self.square_bits}"


# --- the figures -----------------------------------------------------------------------------------------------------


def _rows(slots: Mapping[str, int]) -> int:
    if not (rows := slots[TEST_ROWS]):
        raise KeyError(TEST_ROWS)
    return rows


def _of_labels(slots: Mapping[str, int], mode: str) -> tuple[Found, ...]:
    rows, labels = _rows(slots), 0
    while label_loss(mode, "brier", labels) in slots or positives(labels) in slots:
        labels += 1
    shares = [slots[positives(k)] / rows for k in range(labels)]
    without = {
        "brier": fsum(share * (1 - share) for share in shares) / labels,
        "log-loss": -fsum(p * log(p) for share in shares for p in (share, 1 - share) if p) / labels,
    }
    means = []
    for name, baseline in without.items():
        mean = sum(slots[label_loss(mode, name, k)] for k in range(labels)) / 2**BITS / rows / labels
        means.append(Found(name, mean, max(mean - ROUNDING, 0.0), mean + ROUNDING, baseline))
    if label_ranking(mode, 0, 0, 0) not in slots:
        return tuple(means)
    each = []
    for k in range(labels):
        cells = (tuple(slots[label_ranking(mode, k, at, is_)] for is_ in range(2)) for at in range(COARSE_BINS))
        counts = [(no, yes) for no, yes in cells]
        if sum(yes for _, yes in counts) != slots[positives(k)] or sum(map(sum, counts)) != rows:
            raise KeyError(positives(k))  # not what honest silos add up to
        each.append(Found("auroc", *auroc(counts), 0.5, str(k)))
    return (_mean(each), *means, *each)


def _mean(each: Sequence[Found]) -> Found:
    """The mean AUROC of the labels that have rows of both kinds."""
    there = [(one.value, one.low, one.high) for one in each if one.value is not None]
    if not there:
        return Found("macro-auroc", None, None, None, 0.5)
    value, low, high = (fsum(part or 0.0 for part in parts) / len(there) for parts in zip(*there, strict=True))
    return Found("macro-auroc", value, low, high, 0.5)


def _of_masks(slots: Mapping[str, int], mode: str) -> tuple[Found, ...]:
    """Dice of the foreground: the mean over the classes from 1 on that any row has or was named to have."""
    _rows(slots)
    classes = 0
    while dice(mode, classes, "places") in slots:
        classes += 1
    overlap, named, places = (
        [slots[dice(mode, k, what)] for k in range(classes)] for what in ("overlap", "named", "places")
    )
    total = sum(places)
    if not total or sum(named) != total:
        raise KeyError(dice(mode, 0, "named"))
    each = [
        Found("dice", value, value, value, 2 * places[k] / (total + places[k]), str(k))
        for k in range(1, classes)
        if named[k] + places[k]
        for value in (2 * overlap[k] / (named[k] + places[k]),)
    ]
    mean = fsum(one.value or 0.0 for one in each) / len(each) if each else None
    # Without a model: every place named as one class, the class for which that scores best.
    best = max((one.baseline or 0.0 for one in each), default=0.0) / len(each) if each else None
    right = sum(overlap) / total
    count, of_rows = (slots[name] for name in image_dice(mode))
    image = of_rows / 2**BITS / count if count else None
    least, most = (None, None) if image is None else (max(image - ROUNDING, 0.0), min(image + ROUNDING, 1.0))
    return (
        Found("dice", mean, mean, mean, best),
        Found("image-dice", image, least, most, None),
        Found("place-accuracy", right, right, right, max(places) / total),
        *(each if len(each) > 1 else ()),
    )


def _of_number(slots: Mapping[str, int], mode: str, squared: str) -> tuple[Found, ...]:
    """Certificates are of rounding alone: every row's part of a sum is rounded once."""
    rows = _rows(slots)
    bits = _BITS.fullmatch(squared)
    if bits is None:
        raise KeyError(squared)
    of = NumberSlots(mode, (NUMBER_BITS - int(bits[1])) // 2)
    unit, square = 2.0**-of.bits, 2.0**-of.square_bits
    mse, mae = slots[of.squared] * square / rows, slots[of.absolute] * unit / rows
    mean, squares = slots[of.sum] * unit / rows, slots[of.squares] * square / rows
    variance = squares - mean**2
    # Off by half a step of the squares, and by half a step of the mean times its double, which is at most the width.
    unsure = square / 2 + unit / 2 * (2 * mean + unit / 2)
    low, high = sqrt(max(mse - square / 2, 0.0)), sqrt(mse + square / 2)
    if variance <= 2 * unsure:  # every target is the same, up to rounding
        r2 = Found("r2", None, None, None, 0.0)
        deviation = 0.0
    else:
        deviation = sqrt(variance)
        r2 = Found(
            "r2",
            1 - mse / variance,
            1 - high**2 / (variance - unsure),
            1 - low**2 / (variance + unsure),
            0.0,
        )
    beyond = slots[of.clamped] / rows
    return (
        Found("rmse", sqrt(mse), low, high, deviation),
        r2,
        Found("mae", mae, max(mae - unit / 2, 0.0), mae + unit / 2, None),
        Found("clamped", beyond, beyond, beyond, None),
    )
