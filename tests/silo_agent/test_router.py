"""A silo's own router: a row per expert, softmax over those held, trained beside them."""

from __future__ import annotations

import numpy as np

from silo_agent import experts, router
from silo_agent.training import Descent, cross_entropy, mixture
from silo_agent.training import train as train_alone

DESCENT = Descent(learning_rate=0.1, momentum=0.9)


def models(count: int, rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    shapes = experts.shapes(5, 4, 3)
    return [{part: rng.normal(size=shape).astype(np.float32) for part, shape in shapes.items()} for _ in range(count)]


def rows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.normal(size=(30, 5)).astype(np.float32), rng.integers(3, size=30), rng.integers(30, size=(8, 10))


def test_an_expert_that_comes_back_finds_its_row() -> None:
    kept = router.blank(4, 2)
    assert np.isnan(kept).all() and router.rows_of(kept, [1, 3]).tolist() == [[0.0] * 3] * 2
    before = kept.copy()
    kept = router.with_rows(kept, [1, 3], np.array([[1, 2, 3], [5, 6, 7]], dtype=np.float32))
    assert np.isnan(before).all(), "a new router, the old one stays"
    assert router.rows_of(kept, [3]).tolist() == [[5, 6, 7]]
    assert router.rows_of(kept, [0, 1]).tolist() == [[3, 4, 5], [1, 2, 3]], "a new one starts from the mean"
    assert router.rows_of(kept, []).shape == (0, 3)


def test_gates_are_shares_however_large_the_logits() -> None:
    x_BD = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    even = router.gate(np.zeros((3, 3), dtype=np.float32), x_BD)
    np.testing.assert_allclose(even, 1 / 3)
    sharp = router.gate(np.array([[1000, 0, 0], [0, 1000, 0]], dtype=np.float32), x_BD)
    np.testing.assert_allclose(sharp, np.eye(2), atol=1e-6)
    biased = router.gate(np.array([[0, 0, 2], [0, 0, 0]], dtype=np.float32), x_BD)
    np.testing.assert_allclose(biased[:, 0], 1 / (1 + np.exp(-2)), rtol=1e-5)


def test_without_experts_the_generalist_trains_alone() -> None:
    rng = np.random.default_rng(0)
    start, (x, y, order) = models(1, rng), rows(rng)
    (after,), kept = router.train(start, np.zeros((0, 6), dtype=np.float32), x, y, order, DESCENT)
    (expected,) = train_alone(start, x, y, order, DESCENT, cross_entropy)
    for part in experts.PARTS:
        np.testing.assert_array_equal(after[part], expected[part])
    assert kept.shape == (0, 6)


def test_the_generalist_is_untouched_by_the_experts_and_they_learn_as_a_mixture() -> None:
    rng = np.random.default_rng(1)
    start, (x, y, order) = models(3, rng), rows(rng)
    closed = np.zeros((2, 6), dtype=np.float32)
    after, learned = router.train(start, closed, x, y, order, DESCENT)
    (generalist,) = train_alone(start[:1], x, y, order, DESCENT, cross_entropy)
    one_step, _ = router.train(start, closed, x, y, order[:1], DESCENT)
    fixed = train_alone(start[1:], x, y, order[:1], DESCENT, mixture(np.array([0.5, 0.5])))
    for part in experts.PARTS:
        np.testing.assert_allclose(after[0][part], generalist[part], atol=1e-6)
        for e in range(2):
            np.testing.assert_allclose(one_step[1 + e][part], fixed[e][part], atol=1e-6)
    assert np.abs(learned).max() > 0 and not closed.any(), "what it was given stays"


def test_the_router_learns_who_is_right() -> None:
    """Two experts, each right on one side of the plane, and nothing left to learn but where that is."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    blind = {"w1": np.zeros((2, 3), np.float32), "b1": np.zeros(3, np.float32), "w2": np.zeros((3, 2), np.float32)}
    says = [blind | {"b2": np.array([4, -4], np.float32)}, blind | {"b2": np.array([-4, 4], np.float32)}]
    order = rng.integers(200, size=(60, 16))
    _, learned = router.train([says[0], *says], np.zeros((2, 3), np.float32), x, y, order, DESCENT)
    sent = router.gate(learned, x).argmax(axis=1)
    assert (sent == y).mean() > 0.95
