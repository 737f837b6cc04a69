"""Metrics of methods: six hospitals where one patient in twenty has the outcome, through the plain federation."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from crypto import scores
from silo_agent.data import DataSet, check
from silo_agent.methods import Limits, Method, Published, method
from tests import plain, plain_scores

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=6)
RISK = {"features": 5, "classes": 2, "hidden": 8, "rounds": 6, "local_steps": 20, "batch": 50, "seed": 7}


@cache
def hospitals() -> dict[str, DataSet]:
    """The outcome shows weakly in two columns and in their product."""
    found = {}
    for silo in range(6):
        rng = np.random.default_rng(silo)
        x = rng.normal(size=(1000, 5)).astype(np.float32)
        risk = 1.2 * x[:, 0] + 0.8 * x[:, 1] + 0.6 * x[:, 0] * x[:, 1] + rng.normal(size=1000)
        y = (risk > np.quantile(risk, 0.95)).astype(np.int64)
        arrays = {"x_train": x[:600], "y_train": y[:600], "x_test": x[600:], "y_test": y[600:], "classes": np.array(2)}
        found[f"silo-{silo + 1}"] = check("risk", arrays)
    return found


def federate(name: str, **more: object) -> tuple[Published, dict[str, Method]]:
    _, published, members = plain.federate(method(name), RISK | more, hospitals(), LIMITS)
    return published, members


def judged(published: Published, mode: str = "global", step: str = "eval/0") -> dict[str, scores.Score]:
    return {one.metric: one for one in scores.scores(published.slots[step], mode)}


@pytest.mark.parametrize(
    ("name", "modes", "more"), [("fedavg", ["global"], {}), ("fedcoe", ["global", "personal"], {"finetune_steps": 20})]
)
def test_opened_metrics_are_those_of_the_pooled_predictions(
    name: str, modes: list[str], more: dict[str, object]
) -> None:
    published, members = federate(name, **more)
    for mode in modes:
        rows = []
        for silo, data in hospitals().items():
            p_BC = members[silo].predict(published, data.x_test, mode)
            rows += list(zip(p_BC.tolist(), data.y_test.tolist(), strict=True))
        found = judged(published, mode)
        exact = {
            "auroc": plain_scores.auroc(rows),
            "auprc": plain_scores.average_precision(rows),
            "accuracy": plain_scores.accuracy(rows),
            "sensitivity": plain_scores.recall(rows, 1),
            "brier": plain_scores.brier(rows),
            "log-loss": plain_scores.log_loss(rows),
            "calibration-error": plain_scores.calibration_error(rows),
        }
        for metric, value in exact.items():
            one = found[metric]
            assert one.low is not None and one.high is not None and value is not None
            assert one.low - 1e-6 <= value <= one.high + 1e-6, (mode, one, value)
        assert found["auroc"].within < 0.02 and found["auroc"].low is not None and found["auroc"].low > 0.8


def test_a_learning_rate_that_ruins_the_ranking_shows_where_accuracy_does_not() -> None:
    good, ruined = (judged(federate("fedavg", learning_rate=rate)[0]) for rate in (0.05, 10.0))
    assert good["accuracy"].value == ruined["accuracy"].value == ruined["accuracy"].baseline
    for metric in ("auroc", "auprc"):
        assert good[metric].low is not None and ruined[metric].value is not None
        assert ruined[metric].value < good[metric].low - 0.05, "ranking"  # type: ignore[operator]
    assert ruined["auroc"].within > 0.1 > 0.01 > good["auroc"].within, "one probability for most rows"


def test_metrics_of_a_training_step_are_of_the_model_that_it_began_with() -> None:
    published, _ = federate("fedavg", metrics_every=3)
    steps = [step for step in published.slots if judged(published, step=step)]
    assert steps == ["train/0", "train/3", "eval/0"]
    curve = [judged(published, step=step)["log-loss"].value for step in steps]
    assert curve == sorted(curve, reverse=True)  # type: ignore[type-var]
