"""DP-SGD: each row's gradient is its own and clipped; what is added to the sum has the promised noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silo_agent.methods.networks import read
from silo_agent.methods.private_fedavg import Params
from silo_agent.models.experts import Experts, Perceptrons
from silo_agent.models.tasks import Classes
from silo_agent.privacy import training
from silo_agent.privacy.noise import Randomness
from silo_agent.privacy.training import Noised, clipped_sum, train_privately
from silo_agent.training import Descent, cross_entropy
from tests import models

KEY = bytes(range(16))
NET = Perceptrons(4, 3, Classes(3))
DESCENT = Descent(learning_rate=0.5, momentum=0.0)


class Silent(Randomness):
    """All rows, no noise."""

    def gaussians(self, count: int) -> np.ndarray:
        return np.zeros(count)

    def sample(self, rows: int, rate: float) -> np.ndarray:
        return np.arange(rows)


def start(experts: Experts, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {part.code: rng.normal(size=part.shape).astype(np.float32) * 0.3 for part in experts.parts}


def cnn() -> Experts:
    params = models.params("cnn", "1 8 8", 3)
    _, experts = read(Params, params)
    return experts


def of_task(**task: object) -> Experts:
    _, experts = read(Params, {"features": 4, "hidden": 3, **task})
    return experts


NETWORKS = {
    "perceptron": lambda: NET,
    "cnn": cnn,
    "labels": lambda: of_task(task="multilabel", classes=3),
    "number": lambda: of_task(task="regression", target_low=-5, target_high=5),
}


def rows_of(experts: Experts, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    x = rng.normal(size=(count, *experts.shape)).astype(np.float32)
    match experts.task.name:
        case "multilabel":
            return x, rng.integers(0, 2, size=(count, 3))
        case "regression":
            return x, rng.normal(size=count).astype(np.float32)
        case _:
            return x, rng.integers(0, 3, size=count)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradients_of_the_rows_add_up_to_that_of_the_batch(name: str) -> None:
    """Against the ordinary training: one step without momentum moves by the mean gradient."""
    experts = NETWORKS[name]()
    model, (x, y) = start(experts), rows_of(experts, 7)
    gradients = experts.row_gradients(model, x, y)
    assert gradients.shape == (7, sum(int(np.prod(part.shape)) for part in experts.parts))
    (moved,) = experts.train([model], x, y, np.arange(7)[None], DESCENT, cross_entropy, seed=1)
    flat = np.concatenate([(moved[part.code] - model[part.code]).reshape(-1) for part in experts.parts])
    assert gradients.mean(axis=0) * -DESCENT.learning_rate == pytest.approx(flat, abs=2e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_rows_gradient_does_not_depend_on_the_others(name: str) -> None:
    experts = NETWORKS[name]()
    model, (x, y) = start(experts), rows_of(experts, 6)
    together = experts.row_gradients(model, x, y)
    alone = np.concatenate([experts.row_gradients(model, x[at : at + 1], y[at : at + 1]) for at in range(6)])
    assert together == pytest.approx(alone, abs=1e-5)  # but for the last bits of a larger product


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.sampled_from([1e-3, 0.3, 1.0, 50.0]), st.floats(1e-3, 1e4))
def test_adding_a_row_moves_the_sum_by_no_more_than_the_clip(rows: int, clip: float, size: float) -> None:
    x, y = rows_of(NET, 10)
    x = x * np.float32(size)
    model = start(NET)
    less = clipped_sum(NET, model, x[:rows], y[:rows], clip)
    more = clipped_sum(NET, model, x[: rows + 1], y[: rows + 1], clip)
    assert np.linalg.norm(more - less) <= clip


def test_a_gradient_within_the_clip_stays_as_it_is() -> None:
    x, y = rows_of(NET, 5)
    model = start(NET)
    whole = NET.row_gradients(model, x, y).astype(np.float64)
    assert clipped_sum(NET, model, x, y, 1e3) == pytest.approx(whole.sum(axis=0), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_row_without_a_finite_gradient_counts_as_zero(bad: float) -> None:
    """A refusal would tell that the row is there."""
    x, y = rows_of(NET, 4)
    model = start(NET)
    before = clipped_sum(NET, model, x[:3], y[:3], 1.0)
    x[3] = bad
    after = clipped_sum(NET, model, x, y, 1.0)
    assert np.isfinite(after).all() and np.linalg.norm(after - before) <= 1.0


def test_many_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows_of(NET, 9)
    whole = clipped_sum(NET, start(NET), x, y, 0.5)
    monkeypatch.setattr(training, "_NUMBERS", 60)
    assert clipped_sum(NET, start(NET), x, y, 0.5) == pytest.approx(whole, abs=1e-12)


def test_the_noise_of_a_training_has_the_promised_variance() -> None:
    """No rows at all: what comes out is the noise, divided by the lot and times the rate, of each step."""
    x, y = rows_of(NET, 3)
    model, noised = start(NET), Noised(clip=2.0, noise=1.5, rate=1e-5, lot=10, steps=4)
    randomness, found = Randomness(KEY), []
    for _ in range(600):
        made = train_privately(NET, model, x[:0], y[:0], DESCENT, noised, randomness)
        found.append(np.concatenate([(made[part.code] - model[part.code]).reshape(-1) for part in NET.parts]))
    wanted = 4 * (DESCENT.learning_rate * 1.5 * 2.0 / 10) ** 2
    assert np.var(found) == pytest.approx(wanted, rel=0.03)
    assert np.mean(found) == pytest.approx(0, abs=4 * np.sqrt(wanted / np.size(found)))


def test_without_noise_it_is_descent_on_the_clipped_sum_over_the_lot() -> None:
    x, y = rows_of(NET, 8)
    model, noised = start(NET), Noised(clip=0.7, noise=1.0, rate=0.5, lot=20, steps=3)
    made = train_privately(NET, model, x, y, Descent(learning_rate=0.3, momentum=0.5, proximal=0.1), noised, Silent())
    begin = weights = np.concatenate([model[part.code].reshape(-1).astype(np.float64) for part in NET.parts])
    velocity = np.zeros_like(weights)
    for _ in range(3):
        gradient = clipped_sum(NET, shaped(weights), x, y, 0.7) / 20
        velocity = 0.5 * velocity + gradient + 0.1 * (weights - begin)
        weights = weights - 0.3 * velocity
    assert np.concatenate([made[part.code].reshape(-1) for part in NET.parts]) == pytest.approx(weights, abs=1e-12)


def test_two_trainings_never_have_the_same_noise() -> None:
    x, y = rows_of(NET, 8)
    noised = Noised(clip=1.0, noise=1.0, rate=0.5, lot=8, steps=1)
    first, second = (train_privately(NET, start(NET), x, y, DESCENT, noised, Randomness()) for _ in range(2))
    assert not np.allclose(first["w1"], second["w1"])


def shaped(flat: np.ndarray) -> Mapping[str, np.ndarray]:
    found, at = {}, 0
    for part in NET.parts:
        size = int(np.prod(part.shape))
        found[part.code] = flat[at : at + size].reshape(part.shape)
        at += size
    return found
