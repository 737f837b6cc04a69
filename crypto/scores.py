"""Metrics as sums: the slots that a step opens for them, and the figures that follow from the opened sums.

A silo counts on its own test rows and the counts of all silos are added: nobody averages metrics of silos. Everything
that shows a metric computes it here, from opened slots, so that a silo, the aggregator, an auditor and a page get the
same figure. ``X`` is a mode (``global``, ``personal``), C the number of classes:

| slots                                        | what a silo adds                                                    |
|----------------------------------------------|---------------------------------------------------------------------|
| ``X.correct``, ``test.rows``                 | rows whose most probable class is their label; rows                 |
| ``X.confusion.T.P``, C ≤ 16                  | rows of class T with the most probable class P                      |
| ``X.class.K.hits``, ``.named``, ``.rows``    | beyond 16 classes: rows of K named K, all named K, all of K         |
| ``X.ranking.B.0``, ``.1``, two classes       | rows of each class whose log odds are in bin B of ``LOG_ODDS``      |
| ``X.calibration.D.rows``, ``.hits``          | rows whose probability is in tenth D, and how often it came true    |
| ``X.calibration.D.chance.q16``               | Σ of these probabilities                                            |
| ``X.brier.q16``, ``X.log-loss.q16``          | Σ of the squared errors of the probabilities; Σ −ln p(label)        |

The slots of other tasks than one class a row are in ``crypto.task_scores``.

``q16``: each row's value is rounded to 2⁻¹⁶, so a mean is off by at most 2⁻¹⁷. The probability that is calibrated is
that of class 1, or, of more classes, that of the most probable one.

With two classes a model is judged by its ranking. The histogram gives the AUROC that its rows would have in bins, and
how far the exact one can be from it: rows of one bin can be in any order, so ±½ Σ p_b q_b, p and q being the shares of
the two classes in bin b. A figure that a missing class leaves undefined is None, never 0.

Each sum over a class is a figure of the data alone: the number of its rows. So all these slots have basis DATA and
stand beside ``test.rows``; then all scores that were ever opened have the same sets of silos, whatever the model was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import fsum, log
from typing import Final

from crypto import task_scores
from crypto.histograms import BINS, BITS, FIXED, ROUNDING, auroc
from crypto.task_scores import Found

#: Most classes with a whole confusion matrix, and with hits and rows of each class. Beyond: correct answers alone.
MOST_IN_MATRIX, MOST_CLASSES = 16, 256

#: Bins of the calibration curve, of equal width.
TENTHS: Final = 10

#: A probability below this counts as this in a logarithm.
LEAST_PROBABILITY: Final = 1e-30

TEST_ROWS: Final = "test.rows"
#: Predictions that methods score: of all silos' model, of the generalist among experts, of what a silo keeps.
MODES: Final = ("global", "generalist", "personal")
#: Metrics of two classes, and of more, the first of each leading.
OF_TWO: Final = (
    "auroc", "auprc", "accuracy", "sensitivity", "specificity", "f1", "brier", "log-loss", "calibration-error",
)  # fmt: skip
OF_MORE: Final = ("balanced-accuracy", "macro-f1", "accuracy", "brier", "log-loss", "calibration-error")
METRICS: Final = tuple(dict.fromkeys((*OF_TWO, *OF_MORE, *task_scores.METRICS)))
TITLES: Final[Mapping[str, str]] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "balanced-accuracy": "balanced accuracy",
    "macro-f1": "macro F1",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score",
    "log-loss": "log loss",
    "calibration-error": "calibration error",
    **task_scores.TITLES,
}

_CELL = re.compile(
    rf"(.+\.(?:confusion|class|ranking|calibration|brier|log-loss|{task_scores.FAMILIES}))((?:\.[a-z0-9-]+)*)"
)


# --- the slots -------------------------------------------------------------------------------------------------------


def correct(mode: str) -> str:
    return f"{mode}.correct"


def confusion(mode: str, true: int, named: int) -> str:
    return f"{mode}.confusion.{true}.{named}"


def of_class(mode: str, k: int, what: str) -> str:
    """``what``: hits, named or rows."""
    return f"{mode}.class.{k}.{what}"


def ranking(mode: str, at: int, label: int) -> str:
    return f"{mode}.ranking.{at}.{label}"


def calibration(mode: str, tenth: int, what: str) -> str:
    """``what``: rows, hits or ``chance.q16``."""
    return f"{mode}.calibration.{tenth}.{what}"


def loss(mode: str, name: str) -> str:
    """``name``: brier or log-loss."""
    return f"{mode}.{name}{FIXED}"


def counted(mode: str, classes: int) -> tuple[str, ...]:
    """The slots that count rows, beside ``X.correct`` and ``test.rows``."""
    if classes > MOST_CLASSES:
        return ()
    if classes <= MOST_IN_MATRIX:
        cells = [confusion(mode, true, named) for true, named in product(range(classes), repeat=2)]
    else:
        cells = [of_class(mode, k, what) for k, what in product(range(classes), ("hits", "named", "rows"))]
    if classes == 2:
        cells += [ranking(mode, at, label) for at, label in product(range(BINS), range(2))]
    return (*cells, *(calibration(mode, d, what) for d, what in product(range(TENTHS), ("rows", "hits"))))


def summed(mode: str, classes: int) -> tuple[str, ...]:
    """The slots of sums in fixed point."""
    if classes > MOST_CLASSES:
        return ()
    chances = (calibration(mode, d, f"chance{FIXED}") for d in range(TENTHS))
    return (*chances, loss(mode, "brier"), loss(mode, "log-loss"))


def family(slot: str) -> str:
    """What people read instead of the cells of a metric: ``global.confusion`` for each of its cells. Another slot's
    own name."""
    cell = _CELL.fullmatch(slot)
    return cell[1] if cell and cell[2] else slot


def families(slots: Iterable[str]) -> dict[str, int]:
    """The families of these slots, each once, in their order, and how many slots of each there are."""
    found: dict[str, int] = {}
    for name in map(family, slots):
        found[name] = found.get(name, 0) + 1
    return found


# --- the figures -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """A metric of a mode, over the test rows of all silos whose counts were added."""

    mode: str
    metric: str
    """One of ``METRICS``."""
    value: float | None
    """None: undefined, because no row has a class that the metric needs."""
    low: float | None
    high: float | None
    """The exact figure, which only someone with all rows could compute, is from ``low`` to ``high``."""
    baseline: float | None
    """The same metric without a model: always the most common class, its share as probability, a coin's ranking, the
    mean as prediction. None: there is no such figure."""
    of: str = ""
    """Which label or class alone it is of, by number; "" where it is of all."""

    @property
    def key(self) -> str:
        """Its name without the mode."""
        return f"{self.metric}.{self.of}" if self.of else self.metric

    @property
    def name(self) -> str:
        return f"{self.mode}.{self.key}"

    @property
    def title(self) -> str:
        return f"{TITLES[self.metric]}, {self.of}" if self.of else TITLES[self.metric]

    @property
    def within(self) -> float:
        """The larger distance of the two ends from the value."""
        if self.value is None or self.low is None or self.high is None:
            return 0.0
        return max(self.value - self.low, self.high - self.value)

    @property
    def text(self) -> str:
        """``0.912 ± 0.004``, or ``undefined``."""
        if self.value is None:
            return "undefined"
        if self.metric in task_scores.IN_UNITS:
            return f"{self.value:.4g}" + (f" ± {self.within:.1g}" if self.within >= abs(self.value) / 1000 > 0 else "")
        return f"{self.value:.3f}" + (f" ± {self.within:.3f}" if self.within >= 0.0005 else "")

    @property
    def against(self) -> str:
        """The baseline as text; a dash for none."""
        if self.baseline is None:
            return "–"
        return f"{self.baseline:.4g}" if self.metric in task_scores.IN_UNITS else f"{self.baseline:.3f}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A calibration curve: of each tenth with rows, (rows, mean probability, share that came true)."""

    mode: str
    points: tuple[tuple[int, float, float], ...]


def modes(slots: Iterable[str]) -> tuple[str, ...]:
    """The modes whose metrics can be read from these slots, as ``MODES`` has them; others behind, in their order."""
    end = loss("", "brier")
    there = (name.removesuffix(end) if name.endswith(end) else task_scores.mode_of(name) for name in slots)
    return tuple(sorted(dict.fromkeys(mode for mode in there if mode), key=place))


def place(mode: str) -> int:
    """Where a mode stands among others."""
    return MODES.index(mode) if mode in MODES else len(MODES)


def scores(slots: Mapping[str, int], mode: str) -> tuple[Score, ...]:
    """The metrics of a mode, the leading one first; none where the slots of one are missing or there are no rows."""
    try:
        if found := task_scores.found(slots, mode):
            return tuple(_score(mode, one) for one in found)
        return _scores(slots, mode)
    except KeyError:  # a slot that did not open
        return ()


def headline(slots: Mapping[str, int]) -> str:
    """A line for people: the first mode's leading metric, with what it is to be compared with. "" without metrics."""
    for mode in modes(slots):
        if found := {score.key: score for score in scores(slots, mode)}:
            first, *others = found.values()
            parts = [f"{mode} {first.title} {first.text} (baseline {first.against})"]
            if "auroc" in found:
                parts.append(f"class 1 in {_share(found['auprc'].baseline)} of the rows")
            if right := found.get("accuracy"):
                parts.append(f"accuracy {_share(right.value)}, always the most common class {_share(right.baseline)}")
            else:
                parts += [f"{other.title} {other.text} (baseline {other.against})" for other in others[:1]]
            return "; ".join(parts)
    return ""


def curve(slots: Mapping[str, int], mode: str) -> Curve | None:
    """The calibration curve of a mode. None: it did not open."""
    try:
        return Curve(mode, tuple(_tenths(slots, mode)))
    except KeyError:
        return None


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.2f} %"


def _scores(slots: Mapping[str, int], mode: str) -> tuple[Score, ...]:
    hits, named, rows = _classes(slots, mode)
    total = sum(rows)
    if not total or slots[TEST_ROWS] != total or sum(hits) != slots[correct(mode)]:
        return ()  # not what honest silos add up to
    most = max(range(len(rows)), key=rows.__getitem__)
    shares = [count / total for count in rows]
    right = slots[correct(mode)] / total
    found = {"accuracy": _exact(mode, "accuracy", right, shares[most])}
    if len(rows) == 2:
        found |= _of_two(slots, mode, hits, named, rows, most)
        order: Sequence[str] = OF_TWO
    else:
        found |= _of_more(mode, hits, named, rows, most)
        order = OF_MORE
    unsure = shares[1] * shares[0] if len(rows) == 2 else 1 - fsum(share * share for share in shares)
    entropy = -fsum(share * log(share) for share in shares if share)
    for name, without in (("brier", unsure), ("log-loss", entropy)):
        mean = slots[loss(mode, name)] / 2**BITS / total
        found[name] = Score(mode, name, mean, max(mean - ROUNDING, 0.0), mean + ROUNDING, without)
    apart = fsum(count * abs(chance - came) for count, chance, came in _tenths(slots, mode)) / total
    error = Score(mode, "calibration-error", apart, max(apart - ROUNDING, 0.0), apart + ROUNDING, None)
    found["calibration-error"] = error
    return tuple(found[name] for name in order)


def _score(mode: str, one: Found) -> Score:
    return Score(mode, one.metric, one.value, one.low, one.high, one.baseline, one.of)


def _exact(mode: str, metric: str, value: float | None, baseline: float | None) -> Score:
    return Score(mode, metric, value, value, value, baseline)


def _classes(slots: Mapping[str, int], mode: str) -> tuple[list[int], list[int], list[int]]:
    """Of each class: rows that were named right, rows that were named so, rows of it."""
    classes = 0
    while confusion(mode, classes, classes) in slots:
        classes += 1
    if classes:
        matrix = [[slots[confusion(mode, true, named)] for named in range(classes)] for true in range(classes)]
        hits = [matrix[k][k] for k in range(classes)]
        return hits, [sum(row[k] for row in matrix) for k in range(classes)], [sum(row) for row in matrix]
    while of_class(mode, classes, "rows") in slots:
        classes += 1
    if not classes:
        raise KeyError(confusion(mode, 0, 0))
    hits, named, rows = ([slots[of_class(mode, k, what)] for k in range(classes)] for what in ("hits", "named", "rows"))
    return hits, named, rows


def _of_two(
    slots: Mapping[str, int], mode: str, hits: Sequence[int], named: Sequence[int], rows: Sequence[int], most: int
) -> dict[str, Score]:
    f1 = _f1(hits[1], named[1], rows[1])
    always = _f1(rows[1], sum(rows), rows[1]) if most == 1 else _f1(0, 0, rows[1])
    counts = [(slots[ranking(mode, at, 0)], slots[ranking(mode, at, 1)]) for at in range(BINS)]
    if [sum(count) for count in zip(*counts, strict=True)] != list(rows):
        raise KeyError(ranking(mode, 0, 0))
    return {
        "auroc": Score(mode, "auroc", *auroc(counts), 0.5),
        "auprc": _auprc(mode, counts),
        "sensitivity": _exact(mode, "sensitivity", _ratio(hits[1], rows[1]), float(most)),
        "specificity": _exact(mode, "specificity", _ratio(hits[0], rows[0]), float(1 - most)),
        "f1": _exact(mode, "f1", f1, always),
    }


def _of_more(mode: str, hits: Sequence[int], named: Sequence[int], rows: Sequence[int], most: int) -> dict[str, Score]:
    """Means over the classes that have rows; of others nothing can be said."""
    there = [k for k, count in enumerate(rows) if count]
    recall = fsum(hits[k] / rows[k] for k in there) / len(there)
    mean = fsum(_f1(hits[k], named[k], rows[k]) or 0.0 for k in there) / len(there)
    always = (_f1(rows[most], sum(rows), rows[most]) or 0.0) / len(there)
    return {
        "balanced-accuracy": _exact(mode, "balanced-accuracy", recall, 1 / len(there)),
        "macro-f1": _exact(mode, "macro-f1", mean, always),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _f1(hits: int, named: int, rows: int) -> float | None:
    """2 · hits / (named + rows): undefined for a class without rows, which nobody can find."""
    return _ratio(2 * hits, named + rows) if rows else None


def _auprc(mode: str, counts: Sequence[tuple[int, int]]) -> Score:
    """Average precision: the mean over rows of class 1 of the precision among the rows that rank at least as high.

    The value takes rows of one bin as ties. Whatever their order, and whatever ties there are, the i-th of p rows of
    class 1 in a bin has a precision of at least (before + i) / (all before + i + q) and at most that of all p without
    any of the q others.
    """
    all_yes, all_rows = sum(yes for _, yes in counts), sum(map(sum, counts))
    if not all_yes:
        return Score(mode, "auprc", None, None, None, 0.0 if all_rows else None)
    tied, least, most = list[float](), list[float](), list[float]()
    yes_before = no_before = 0
    for no, yes in reversed(counts):
        if yes:
            among = yes_before + no_before
            tied.append(yes * (yes_before + yes) / (among + yes + no))
            most.append(yes * (yes_before + yes) / (among + yes))
            least.append(yes - (no_before + no) * (_harmonic(among + no + yes) - _harmonic(among + no)))
        yes_before, no_before = yes_before + yes, no_before + no
    value, low, high = (fsum(parts) / all_yes for parts in (tied, least, most))
    return Score(mode, "auprc", value, min(max(low, 0.0), value), high, all_yes / all_rows)


def _harmonic(n: int) -> float:
    """1 + 1/2 + … + 1/n, up to 1e-13."""
    if n < 64:
        return fsum(1 / k for k in range(1, n + 1))
    return log(n) + 0.5772156649015329 + 1 / (2 * n) - 1 / (12 * n**2) + 1 / (120 * n**4)


def _tenths(slots: Mapping[str, int], mode: str) -> Iterable[tuple[int, float, float]]:
    """Of each tenth with rows: (rows, mean probability, share that came true)."""
    found = []
    for tenth in range(TENTHS):
        rows, hits = (slots[calibration(mode, tenth, what)] for what in ("rows", "hits"))
        chance = slots[calibration(mode, tenth, f"chance{FIXED}")]
        if rows:
            found.append((rows, chance / 2**BITS / rows, hits / rows))
    return found
