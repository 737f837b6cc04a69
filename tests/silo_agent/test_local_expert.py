"""The local expert: chosen on rows it has not seen, silent where it has nothing to add."""

from __future__ import annotations

import numpy as np
import pytest

from silo_agent import experts
from silo_agent.data import DataSet, check
from silo_agent.local_expert import SHARES, LocalExpert, blend, tune
from silo_agent.models.experts import Perceptrons
from silo_agent.models.tasks import Classes
from silo_agent.training import Descent, batches, cross_entropy, generator, train

EXPERTS = Perceptrons(6, 8, Classes(3))
DESCENT = Descent(learning_rate=0.1, momentum=0.9)


def model(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {part: rng.normal(scale=0.3, size=s).astype(np.float32) for part, s in experts.shapes(6, 8, 3).items()}


def data(rows: int = 90, *, noise: bool = False, seed: int = 1) -> DataSet:
    """Three well separated classes; with ``noise`` the labels say nothing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=rows)
    x = rng.normal(size=(rows, 6)) + 3.0 * np.eye(6)[y]
    if noise:
        y = rng.permutation(y)
    arrays = {"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[:9], "classes": np.array(3)}
    return check("made", arrays)


def made(d: DataSet, shared_BC: np.ndarray, starts: list[dict[str, np.ndarray]] | None = None) -> LocalExpert:
    rng = generator("folds", 1, "silo-1", 0)
    return tune(EXPERTS, starts or [model()], shared_BC, d, steps=40, batch=16, descent=DESCENT, rng=rng)


def flat(d: DataSet) -> np.ndarray:
    return np.full((d.rows, 3), 1 / 3)


def test_it_takes_over_where_the_shared_answer_knows_nothing() -> None:
    d = data()
    local = made(d, flat(d))
    assert local.share == 1.0
    right = local.blend(np.full((9, 3), 1 / 3), d.x_test).argmax(axis=1) == d.y_test
    assert right.mean() > 0.8


def test_it_is_silent_where_the_shared_answer_knows_all() -> None:
    d = data()
    assert made(d, np.eye(3)[d.y_train] * 0.997 + 0.001).share == 0.0


def test_learning_noise_by_heart_earns_no_say() -> None:
    """On its own rows such an expert looks perfect; on rows held out it is worse than the prior."""
    d = data(noise=True)
    own = tune(EXPERTS, [model()], flat(d), d, steps=600, batch=16, descent=DESCENT, rng=generator("folds", 1, "s", 0))
    seen = experts.predict([own.expert], d.x_train)[0][np.arange(d.rows), d.y_train]
    assert np.log(seen).mean() > np.log(1 / 3), "it did learn them by heart"
    assert own.share <= 0.25


def test_the_better_start_is_taken() -> None:
    d = data(rows=40)
    order = batches(200, 60, 16, np.random.default_rng(3))
    (ahead,) = train([model(5)], data(200, seed=8).x_train, data(200, seed=8).y_train, order, DESCENT, cross_entropy)
    chosen = [
        tune(EXPERTS, starts, flat(d), d, steps=1, batch=16, descent=DESCENT, rng=generator("folds", 1, "s", 0)).expert[
            "w1"
        ]
        for starts in ([model(), ahead], [ahead, model()])
    ]
    assert np.abs(chosen[0] - ahead["w1"]).max() < 0.5 > np.abs(chosen[1] - ahead["w1"]).max()
    assert np.abs(chosen[0] - model()["w1"]).max() > 0.5


def test_the_prior_counts_before_any_share() -> None:
    shared_BC, own_BC = np.array([[0.5, 0.5]]), np.array([[0.0, 1.0]])
    log_prior_C = np.log(np.array([0.8, 0.2]))
    np.testing.assert_allclose(blend(shared_BC, own_BC, 0.0, log_prior_C), [[0.8, 0.2]])
    np.testing.assert_allclose(blend(shared_BC, own_BC, 0.25, log_prior_C), [[0.6, 0.4]])
    np.testing.assert_allclose(blend(shared_BC, own_BC, 1.0, log_prior_C), own_BC)


@pytest.mark.parametrize("rows", [16, 17, 35])
def test_few_rows_and_repeats(rows: int) -> None:
    d = data(rows)
    one, again = made(d, flat(d)), made(d, flat(d))
    assert one.share == again.share and one.share in SHARES
    assert all(np.array_equal(one.expert[part], again.expert[part]) for part in experts.PARTS)
    np.testing.assert_allclose(one.blend(np.full((9, 3), 1 / 3), d.x_test).sum(axis=1), 1.0)
