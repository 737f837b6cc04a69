"""Metrics of several labels, masks and numbers from opened sums, by hand and against all rows at once."""

from __future__ import annotations

from collections import Counter
from math import fsum, log, sqrt

import numpy as np
import pytest

from crypto import scores
from crypto.errors import NonFinite
from crypto.histograms import ROUNDING
from crypto.plan import Basis
from crypto.task_scores import MOST_RANKED, NUMBER_BITS, NumberSlots
from silo_agent.methods import Limits, method
from silo_agent.methods.scoring import score, score_slots, target_slots, targets
from silo_agent.models.tasks import Labels, Masks, Number, Task
from tests import plain_scores as plain

STAY = Number(low=0.0, high=60.0, mean=9.0, sd=8.0)


def added(task: Task, silos: list[tuple[np.ndarray, np.ndarray]], *, metrics: bool = True) -> dict[str, int]:
    """The opened sums: each silo counts on its own rows."""
    total = Counter[str]()
    for predictions, y in silos:
        counted = score("global", predictions, y, task, metrics=metrics) | targets(y, task)
        bounds = {slot.name: slot for slot in (*score_slots("global", task, metrics=metrics), *target_slots(task))}
        assert counted.keys() == bounds.keys()
        assert all(0 <= counted[name] <= slot.bound and slot.basis is Basis.DATA for name, slot in bounds.items())
        total.update(counted | {"test.rows": len(y)})
    return dict(total)


def read(task: Task, silos: list[tuple[np.ndarray, np.ndarray]], *, metrics: bool = True) -> dict[str, scores.Score]:
    return {one.key: one for one in scores.scores(added(task, silos, metrics=metrics), "global")}


def numbers(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.uniform(0, 60, rows)
    return np.clip(y + rng.normal(0, 7, rows), -20, 90)[:, None], y


def test_figures_of_a_number_are_those_of_all_rows_within_their_certificate() -> None:
    silos = [numbers(0, 40), numbers(1, 90), numbers(2, 7)]
    found = read(STAY, silos)
    predicted = np.concatenate([p[:, 0] for p, _ in silos]).clip(0, 60)
    y = np.concatenate([y for _, y in silos])
    off = (predicted - y).tolist()
    mse, variance = fsum(e * e for e in off) / len(off), float(np.var(y))
    exact = {"rmse": sqrt(mse), "mae": fsum(map(abs, off)) / len(off), "r2": 1 - mse / variance}
    for name, value in exact.items():
        one = found[name]
        assert one.low is not None and one.high is not None and one.low <= value <= one.high, name
        assert one.within < 1e-4
    beyond = np.concatenate([(p[:, 0] < 0) | (p[:, 0] > 60) for p, _ in silos]).mean()
    assert found["clamped"].value == beyond > 0
    assert found["rmse"].baseline == pytest.approx(sqrt(variance), rel=1e-6) and found["r2"].baseline == 0
    assert next(iter(found)) == "rmse" and found["rmse"].text.startswith(f"{exact['rmse']:.4g}")


def test_of_one_number_for_every_row_nothing_is_explained() -> None:
    found = read(STAY, [(np.full((5, 1), 8.0), np.full(5, 7.3)), (np.full((3, 1), 8.0), np.full(3, 7.3))])
    assert found["r2"].value is None and found["r2"].text == "undefined" and found["rmse"].baseline == 0
    assert found["rmse"].value == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("width", [2.0**-29, 0.3, 1.0, 60.0, 2.0**30])
def test_the_bounds_decide_how_fine_sums_are(width: float) -> None:
    task = Number(low=-width / 3, high=width * 2 / 3, mean=0.0, sd=width / 4)
    rng = np.random.default_rng(4)
    y = rng.uniform(task.low, task.high, 50)
    found = read(task, [((y + width / 100)[:, None].clip(task.low, task.high), y)])
    assert found["rmse"].value == pytest.approx(width / 100, rel=0.02)
    assert found["rmse"].within < width / 1e5
    slots = NumberSlots("global", task.exponent)
    assert len(slots.squares) < 63 and slots.bits + task.exponent == NUMBER_BITS


def test_several_labels_are_ranked_each_by_itself() -> None:
    rng = np.random.default_rng(1)
    task, silos = Labels(3), []
    for rows in (40, 25, 60):
        y = (rng.random((rows, 3)) < (0.5, 0.2, 0.0)).astype(np.int64)
        silos.append((1 / (1 + np.exp(-(2 * y - 1 + rng.normal(0, 1.5, (rows, 3))))), y))
    found, rows = read(task, silos), sum(len(y) for _, y in silos)
    each = []
    for k in range(2):
        pooled = [((1 - p, p), int(label)) for ps, y in silos for p, label in zip(ps[:, k], y[:, k], strict=True)]
        exact, one = plain.auroc(pooled), found[f"auroc.{k}"]
        assert exact is not None and one.low is not None and one.high is not None and one.low <= exact <= one.high
        each.append(exact)
    assert found["auroc.2"].value is None, "no row has it"
    macro = found["macro-auroc"]
    assert macro.low is not None and macro.high is not None and macro.low <= fsum(each) / 2 <= macro.high
    y, p = np.concatenate([y for _, y in silos]), np.concatenate([p for p, _ in silos])
    assert found["brier"].value == pytest.approx(((p - y) ** 2).mean(), abs=ROUNDING)
    assert found["log-loss"].value == pytest.approx(-np.log(np.where(y == 1, p, 1 - p)).mean(), abs=ROUNDING)
    shares = y.mean(axis=0)
    assert found["brier"].baseline == pytest.approx((shares * (1 - shares)).mean())
    entropy = -fsum(q * log(q) for share in shares for q in (share, 1 - share) if q) / 3
    assert found["log-loss"].baseline == pytest.approx(entropy) and rows == len(y)
    assert next(iter(found)) == "macro-auroc" and found["auroc.1"].title == "AUROC, 1"


def test_a_step_may_open_the_losses_of_labels_alone() -> None:
    y = np.array([[1, 0], [0, 0], [1, 1]])
    found = read(Labels(2), [(np.full((3, 2), 0.5), y)], metrics=False)
    assert list(found) == ["brier", "log-loss"] and found["brier"].value == 0.25


def test_many_labels_have_no_rankings() -> None:
    names = [slot.name for slot in score_slots("global", Labels(40))]
    assert len(names) == 80 and not any("ranking" in name for name in names)


def test_the_most_ranked_labels_fit_a_step_of_every_method() -> None:
    job = {"features": 4, "classes": MOST_RANKED, "task": "multilabel"}
    for name in ("fedavg", "fedcoe"):
        plan = method(name).plan(job, Limits(n_max=1000))
        assert any("ranking" in slot.name for slot in plan.steps[-1].slots)
    for task in ({"task": "regression", "target_low": 0.0, "target_high": 1e6}, {"task": "multilabel", "classes": 64}):
        assert method("fedcoe").plan({"features": 4, **task}, Limits(n_max=1000))


def test_dice_of_masks_is_of_all_places_together() -> None:
    rng = np.random.default_rng(3)
    task, silos = Masks(3), []
    for rows in (4, 7):
        y = rng.integers(0, 3, (rows, 6, 5))
        p = rng.dirichlet(np.ones(3), (rows, 6, 5)) + 0.7 * np.eye(3)[y]
        silos.append((np.moveaxis(p, -1, 1), y))
    found = read(task, silos)
    y = np.concatenate([y for _, y in silos])
    named = np.concatenate([p.argmax(axis=1) for p, _ in silos])
    each = [2 * ((named == k) & (y == k)).sum() / ((named == k).sum() + (y == k).sum()) for k in (1, 2)]
    assert found["dice"].value == pytest.approx(np.mean(each)) and found["dice.1"].value == pytest.approx(each[0])
    assert found["place-accuracy"].value == (named == y).mean()
    image = [2 * ((n == t) & (t > 0)).sum() / ((n > 0).sum() + (t > 0).sum()) for n, t in zip(named, y, strict=True)]
    assert found["image-dice"].value == pytest.approx(np.mean(image), abs=ROUNDING)
    assert 0 < (found["dice"].baseline or 0) < np.mean(each)


def test_masks_without_any_foreground_have_no_dice() -> None:
    y = np.zeros((2, 4, 4), dtype=np.int64)
    p = np.stack([np.ones((2, 4, 4)), np.zeros((2, 4, 4))], axis=1)
    found = read(Masks(2), [(p, y)])
    assert found["dice"].value is None and found["image-dice"].value is None and found["place-accuracy"].value == 1


@pytest.mark.parametrize(
    ("task", "predictions", "y"),
    [
        (STAY, np.full((2, 1), 8.0), np.array([1.0, 9.0])),
        (Labels(2), np.full((2, 2), 0.3), np.array([[1, 0], [0, 1]])),
        (Masks(2), np.full((1, 2, 2, 2), 0.5), np.array([[[0, 1], [1, 0]]])),
    ],
)
def test_a_slot_that_did_not_open_leaves_no_figure_and_nan_is_refused(
    task: Task, predictions: np.ndarray, y: np.ndarray
) -> None:
    opened = added(task, [(predictions, y)])
    assert scores.modes(opened) == ("global",) and scores.scores(opened, "global")
    assert scores.headline(opened).startswith("global ")
    for missing in opened:
        left = {name: value for name, value in opened.items() if name != missing}
        found = [one.key for one in scores.scores(left, "global")]
        assert not found or missing == "global.label-ranking.0.0.0", missing
    families = scores.families(opened)
    assert len(families) < 8 and "test.rows" in families
    with pytest.raises(NonFinite, match="not numbers"):
        score("global", predictions * np.nan, y, task)
