"""Reading opened sums: names, what is left out when a sum is missing, and sums that no honest silos make."""

from __future__ import annotations

from math import log

import pytest

from crypto import scores
from crypto.histograms import BINS, LOG_ODDS
from crypto.scores import counted, families, headline, modes, summed
from tests.scored import TWO


def test_four_rows_by_hand() -> None:
    """Log odds in bins 60, 60, 70 of class 0 and 70 of class 1."""
    found = {one.metric: (one.value, one.baseline) for one in scores.scores(TWO, "global")}
    assert found == {
        "auroc": (2.5 / 3, 0.5),
        "auprc": (0.5, 0.25),
        "accuracy": (0.75, 0.75),
        "sensitivity": (1.0, 0.0),
        "specificity": (2 / 3, 1.0),
        "f1": (2 / 3, 0.0),
        "brier": (0.25, 0.1875),
        "log-loss": (0.5, pytest.approx(-0.25 * log(0.25) - 0.75 * log(0.75))),
        "calibration-error": (pytest.approx(0.5 * 0.25 + 0.5 * 0.375), None),
    }
    auroc = scores.scores(TWO, "global")[0]
    assert (auroc.low, auroc.high, auroc.name) == (2 / 3, 1.0, "global.auroc")
    assert (auroc.text, auroc.against) == ("0.833 ± 0.167", "0.500")
    assert headline(TWO) == (
        "global AUROC 0.833 ± 0.167 (baseline 0.500); class 1 in 25.00 % of the rows; accuracy 75.00 %, always the "
        "most common class 75.00 %"
    )
    curve = scores.curve(TWO, "global")
    assert curve is not None and curve.points == ((2, 0.25, 0.0), (2, 0.875, 0.5))


def test_a_missing_sum_leaves_all_out() -> None:
    for missing in TWO:
        left = {name: count for name, count in TWO.items() if name != missing}
        assert scores.scores(left, "global") == (), missing


@pytest.mark.parametrize(
    "change",
    [
        {"test.rows": 5},
        {"global.correct": 2},
        {"global.ranking.60.0": 3},
        {"test.rows": 0},
        {"global.confusion.1.0": 1},
    ],
)
def test_sums_that_contradict_each_other_say_nothing(change: dict[str, int]) -> None:
    assert scores.scores(TWO | change, "global") == () == scores.scores({}, "global")
    assert headline(TWO | change) == ""


def test_without_rows_there_are_no_metrics() -> None:
    assert scores.scores(dict.fromkeys(TWO, 0), "global") == ()


def test_modes_are_those_with_sums() -> None:
    assert modes([*TWO, "personal.correct", "personal.brier.q16", ".brier.q16x"]) == ("global", "personal")
    assert scores.curve({}, "global") is None


def test_people_read_families_of_slots() -> None:
    slots = ["rows", *counted("a.b", 2), *summed("a.b", 2), "a.b.correct", "a.confusion", "load-0"]
    assert list(families(slots).items()) == [
        ("rows", 1),
        ("a.b.confusion", 4),
        ("a.b.ranking", 256),
        ("a.b.calibration", 30),
        ("a.b.brier", 1),
        ("a.b.log-loss", 1),
        ("a.b.correct", 1),
        ("a.confusion", 1),
        ("load-0", 1),
    ]


def test_the_bins_of_log_odds_ascend_around_zero() -> None:
    assert list(LOG_ODDS) == sorted(set(LOG_ODDS)) and LOG_ODDS[BINS // 2 - 1] == 0 and len(LOG_ODDS) == 127
    assert [-edge for edge in reversed(LOG_ODDS)] == list(LOG_ODDS) and LOG_ODDS[-1] == pytest.approx(30)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 1000])
def test_harmonic_numbers(n: int) -> None:
    assert scores._harmonic(n) == pytest.approx(sum(1 / k for k in range(1, n + 1)), abs=1e-12)
