"""What silos count for metrics, added up and read again: against ``tests.plain_scores``, which has all rows at once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from crypto import scores
from crypto.errors import NonFinite
from crypto.histograms import LOG_ODDS
from crypto.plan import Basis
from silo_agent.methods import scoring
from silo_agent.methods.scoring import due, fixed
from silo_agent.models.tasks import Classes
from tests import plain_scores as plain


def chances(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, (rows, classes)."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def score(mode: str, p_BC: np.ndarray, y: np.ndarray, *, metrics: bool = True) -> dict[str, int]:
    return scoring.score(mode, p_BC, y, Classes(p_BC.shape[1]), metrics=metrics)


def added(mode: str, silos: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, int]:
    """The opened sums: each silo counts on its own rows."""
    total = Counter[str]()
    for p_BC, y in silos:
        total.update(score(mode, p_BC, y) | {"test.rows": len(y)})
    return dict(total)


def read(silos: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, scores.Score]:
    return {one.metric: one for one in scores.scores(added("global", silos), "global")}


def pooled(silos: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[list[float], int]]:
    return [(list(row), int(label)) for p_BC, y in silos for row, label in zip(p_BC.tolist(), y, strict=True)]


#: Log odds with many ties, some on edges of bins, and some far out.
ODDS = st.one_of(
    st.floats(-8, 8), st.integers(-3, 3).map(float), st.sampled_from([*LOG_ODDS[::9], -70.0, 70.0, 0.01, 0.02])
)


@st.composite
def hospitals(draw: st.DrawFn, classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """One to four silos; some lack classes."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(st.integers(1, 12))
        logits = draw(arrays.arrays(np.float64, (rows, classes), elements=ODDS))
        labels = draw(arrays.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
        found.append((chances(logits), labels))
    return found


@given(hospitals(2))
def test_of_two_classes_the_exact_pooled_figures_are_within_their_certificates(
    silos: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    rows, found = pooled(silos), read(silos)
    assert tuple(found) == scores.OF_TWO
    exact = {
        "auroc": plain.auroc(rows),
        "auprc": plain.average_precision(rows),
        "accuracy": plain.accuracy(rows),
        "sensitivity": plain.recall(rows, 1),
        "specificity": plain.recall(rows, 0),
        "f1": plain.f1(rows, 1),
        "brier": plain.brier(rows),
        "log-loss": plain.log_loss(rows),
        "calibration-error": plain.calibration_error(rows),
    }
    check(found, exact)


@given(hospitals(4))
def test_of_more_classes_too(silos: list[tuple[np.ndarray, np.ndarray]]) -> None:
    rows, found = pooled(silos), read(silos)
    assert tuple(found) == scores.OF_MORE
    exact: dict[str, float | None] = {
        "balanced-accuracy": plain.mean_of_classes(rows, "recall"),
        "macro-f1": plain.mean_of_classes(rows, "f1"),
        "accuracy": plain.accuracy(rows),
        "brier": plain.brier(rows),
        "log-loss": plain.log_loss(rows),
        "calibration-error": plain.calibration_error(rows),
    }
    check(found, exact)


def check(found: dict[str, scores.Score], exact: dict[str, float | None]) -> None:
    for name, value in exact.items():
        one = found[name]
        if value is None:
            assert (one.value, one.low, one.high, one.text) == (None, None, None, "undefined"), name
        else:
            assert one.value is not None and one.low is not None and one.high is not None
            assert one.low <= one.value <= one.high, name
            assert one.low - 1e-9 <= value <= one.high + 1e-9, (name, one, value)


@given(hospitals(3))
def test_baselines_are_the_metrics_of_a_model_that_knows_the_shares_of_the_classes_alone(
    silos: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for two in (False, True):
        mine = [(p_BC[:, :2] if two else p_BC, y % 2 if two else y) for p_BC, y in silos]
        rows, found = pooled(mine), read(mine)
        labels = [label for _, label in rows]
        shares = [labels.count(k) / len(labels) for k in range(2 if two else 3)]
        naive = [(shares, label) for label in labels]
        of = {"accuracy": plain.accuracy(naive), "brier": plain.brier(naive), "log-loss": plain.log_loss(naive)}
        if two:
            of |= {"sensitivity": 1.0 * plain.always(naive), "specificity": 1.0 - plain.always(naive)}
            of["auprc"] = shares[1]
            assert found["auroc"].baseline == 0.5
        else:
            of["balanced-accuracy"] = plain.mean_of_classes(naive, "recall")
            of["macro-f1"] = plain.mean_of_classes(naive, "f1")
        for name, value in of.items():
            assert found[name].baseline == pytest.approx(value, abs=1e-12), name


def test_beyond_a_matrix_the_figures_are_those_of_its_margins() -> None:
    rng = np.random.default_rng(1)
    silos = [(chances(rng.normal(size=(40, 20))), rng.integers(20, size=40)) for _ in range(3)]
    slots, found = added("global", silos), read(silos)
    assert not any(".confusion." in name for name in slots) and "global.class.19.named" in slots
    assert found["macro-f1"].value == pytest.approx(plain.mean_of_classes(pooled(silos), "f1"))
    assert found["balanced-accuracy"].value == pytest.approx(plain.mean_of_classes(pooled(silos), "recall"))


def test_of_a_vocabulary_there_are_correct_answers_alone() -> None:
    p_BC, y = np.full((3, 300), 1 / 300), np.array([0, 1, 2])
    assert score("global", p_BC, y) == {"global.correct": 1}
    assert [slot.name for slot in scoring.score_slots("global", Classes(300))] == ["global.correct"]


@pytest.mark.parametrize("classes", [2, 3, 16, 17, 256])
@pytest.mark.parametrize("metrics", [True, False])
def test_what_is_counted_is_what_the_plan_opens(classes: int, metrics: bool) -> None:
    slots = scoring.score_slots("personal", Classes(classes), metrics=metrics)
    p_BC = chances(np.random.default_rng(0).normal(size=(9, classes)))
    found = score("personal", p_BC, np.arange(9) % classes, metrics=metrics)
    assert sorted(found) == sorted(slot.name for slot in slots)
    assert all(0 <= found[slot.name] <= slot.bound for slot in slots)
    assert all(slot.bound * 1000 < 2**64 for slot in slots)
    assert {slot.basis for slot in slots} == {Basis.DATA}


def test_the_worst_prediction_of_the_most_rows_is_within_the_bound_of_its_slot() -> None:
    (slot,) = (one for one in scoring.score_slots("global", Classes(2)) if one.name == "global.log-loss.q16")
    of_row = score("global", np.array([[1.0, 0.0]]), np.array([1]))["global.log-loss.q16"]
    assert of_row * 2**30 <= slot.bound


def test_a_label_is_hit_by_its_most_probable_class_and_equal_ones_go_to_the_first() -> None:
    found = score("global", np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1]))
    assert (found["global.correct"], found["global.confusion.0.0"], found["global.confusion.1.0"]) == (1, 1, 1)
    assert (found["global.ranking.63.0"], found["global.ranking.63.1"]) == (1, 1), "log odds of 0 are in the bin below"


def test_sums_are_rounded_row_by_row() -> None:
    assert fixed(np.full(8, 2.0**-18)) == 0 and fixed(np.full(8, 2.0**-16)) == 8 and fixed(np.array([])) == 0


def test_metrics_open_before_every_so_many_rounds() -> None:
    assert [k for k in range(7) if due(3, k)] == [0, 3, 6] and not any(due(0, k) for k in range(7))


# --- what the metrics are for ----------------------------------------------------------------------------------------


def rare(silos: int = 6, rows: int = 400) -> list[tuple[np.ndarray, np.ndarray]]:
    """(signal, labels) of hospitals where one row in twenty has the outcome."""
    found = []
    for silo in range(silos):
        rng = np.random.default_rng(silo)
        y = (np.arange(rows) % 20 == 0).astype(np.int64)
        found.append((rng.normal(size=rows) + 1.5 * y, y))
    return found


def of_log_odds(odds: np.ndarray) -> np.ndarray:
    return chances(np.stack([np.zeros_like(odds), odds], axis=1))


def test_always_no_shows_as_such() -> None:
    """Accuracy cannot tell it from a good model; everything else does."""
    good = read([(of_log_odds(1.5 * signal - 4.5), y) for signal, y in rare()])
    never = read([(of_log_odds(np.full_like(signal, -3.0)), y) for signal, y in rare()])
    assert good["accuracy"].value == pytest.approx(never["accuracy"].value, abs=0.005)  # type: ignore[arg-type]
    assert (never["accuracy"].value, never["accuracy"].baseline) == (0.95, 0.95)
    assert (never["auroc"].value, never["auroc"].baseline) == (0.5, 0.5)
    assert good["auroc"].low is not None and good["auroc"].low > 0.8
    assert never["sensitivity"].value == never["f1"].value == 0 and never["auprc"].value == pytest.approx(0.05)
    assert "accuracy 95.00 %, always the most common class 95.00 %" in scores.headline(
        added("global", [(of_log_odds(np.full_like(signal, -3.0)), y) for signal, y in rare()])
    )


def test_the_mean_of_the_silos_is_not_the_figure() -> None:
    """Two hospitals that each rank perfectly, with levels so far apart that together they do not."""
    one = (of_log_odds(np.array([-5.0, -4.0])), np.array([0, 1]))
    other = (of_log_odds(np.array([4.0, 5.0])), np.array([0, 1]))
    assert read([one])["auroc"].value == read([other])["auroc"].value == 1
    assert read([one, other])["auroc"].value == 0.75 == plain.auroc(pooled([one, other]))


def test_a_class_that_no_row_has_leaves_figures_undefined() -> None:
    found = read([(of_log_odds(np.array([-1.0, 2.0])), np.array([0, 0]))])
    assert [name for name, one in found.items() if one.value is None] == ["auroc", "auprc", "sensitivity", "f1"]
    headline = scores.headline(added("global", [(of_log_odds(np.array([-1.0])), np.array([0]))]))
    assert headline.startswith("global AUROC undefined (baseline 0.500); class 1 in 0.00 % of the rows")


def test_certificates_are_narrow_where_scores_are_spread() -> None:
    found = read([(of_log_odds(2 * signal - 4), y) for signal, y in rare(rows=2000)])
    assert 0 < found["auroc"].within < 0.008 and found["auprc"].within < 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("metrics", [False, True])
def test_probabilities_that_are_no_numbers_are_refused(bad: float, classes: int, metrics: bool) -> None:
    """Two such rows of forty would give a plausible Brier score."""
    p_BC = np.full((40, classes), 1 / classes)
    p_BC[7, 1] = bad
    with pytest.raises(NonFinite, match="Lower the learning rate"):
        score("global", p_BC, np.zeros(40, dtype=np.int64), metrics=metrics)
