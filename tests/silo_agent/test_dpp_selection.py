"""The greedy choice of a determinantal point process: as a slow reference makes it, and nothing twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import NonFinite, SpecError
from silo_agent import dpp_selection


def slow(
    quality_N: np.ndarray, directions_NF: np.ndarray, count: int, jitter: float = dpp_selection.JITTER
) -> list[int]:
    """The definition: each time the item whose addition gives the greatest determinant."""
    x = directions_NF / np.maximum(np.linalg.norm(directions_NF, axis=1, keepdims=True), 1e-300)
    kernel = quality_N[:, None] * (x @ x.T + jitter * np.eye(len(x))) * quality_N[None, :]
    chosen: list[int] = []
    for _ in range(count):
        worth = {
            i: np.linalg.slogdet(kernel[np.ix_([*chosen, i], [*chosen, i])])[1]
            for i in range(len(x))
            if i not in chosen
        }
        chosen.append(max(worth, key=lambda i: worth[i]))
    return chosen


def items(seed: int, count: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.05, 1.0, count), rng.normal(size=(count, features))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 14), features=st.integers(2, 6), share=st.floats(0, 1))
def test_it_chooses_what_the_definition_chooses(seed: int, count: int, features: int, share: float) -> None:
    """Beyond the features' rank too, where only the jitter tells items apart."""
    quality, directions = items(seed, count, features)
    wanted = round(share * count)
    assert dpp_selection.greedy(quality, directions, wanted).tolist() == slow(quality, directions, wanted)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 40),
    features=st.integers(1, 5),
    copies=st.integers(0, 40),
    zeros=st.integers(0, 3),
)
def test_nothing_is_taken_twice(seed: int, count: int, features: int, copies: int, zeros: int) -> None:
    quality, directions = items(seed, count, features)
    directions[: min(copies, count)] = directions[0]
    directions[count - min(zeros, count) :] = 0
    chosen = dpp_selection.greedy(quality, directions, count)
    assert sorted(chosen.tolist()) == list(range(count))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 20))
def test_the_order_and_the_scale_of_items_do_not_matter(seed: int, count: int) -> None:
    quality, directions = items(seed, count, 4)
    order = np.random.default_rng(seed).permutation(count)
    plain = dpp_selection.greedy(quality, directions, count // 2)
    assert order[dpp_selection.greedy(quality[order], directions[order], count // 2)].tolist() == plain.tolist()
    assert dpp_selection.greedy(7 * quality, 1e3 * directions, count // 2).tolist() == plain.tolist()


def test_quality_alone_decides_between_unlike_items() -> None:
    quality = np.array([0.2, 0.9, 0.5, 0.7])
    assert dpp_selection.greedy(quality, np.eye(4), 4).tolist() == [1, 3, 2, 0]


def test_a_copy_comes_after_what_is_new() -> None:
    directions = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert dpp_selection.greedy(np.array([1.0, 0.99, 0.5]), directions, 3).tolist() == [0, 2, 1]
    assert np.argsort([-1.0, -0.99, -0.5]).tolist() == [0, 1, 2], "where relevance alone takes the copy"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 12), features=st.integers(1, 4))
def test_nearness_is_what_it_says_and_of_full_rank(seed: int, count: int, features: int) -> None:
    _, positions = items(seed, count, features)
    found = dpp_selection.near(positions)
    apart = ((positions[:, None] - positions[None, :]) ** 2).sum(axis=2)
    typical = np.median(apart[~np.eye(count, dtype=bool)])
    np.testing.assert_allclose(found, np.exp(-apart / (2 * dpp_selection.WIDTH * typical)), atol=1e-9)
    assert (np.diag(found) == 1).all() and np.linalg.eigvalsh(found).min() > -1e-9
    np.testing.assert_allclose(dpp_selection.near(5 * positions + 2), found, atol=1e-7)


def test_nearness_of_equal_items_and_of_one() -> None:
    assert dpp_selection.near(np.ones((3, 2))).tolist() == np.ones((3, 3)).tolist()
    assert dpp_selection.near(np.ones((1, 2))).tolist() == [[1.0]]
    chosen = dpp_selection.greedy(
        np.array([1.0, 0.99, 0.5]), np.array([[1.0], [1.0], [9.0]]), 2, similarity=dpp_selection.near
    )
    assert chosen.tolist() == [0, 2]


def test_equals_are_taken_in_order() -> None:
    assert dpp_selection.greedy(np.ones(4), np.ones((4, 2)), 4).tolist() == [0, 1, 2, 3]


def test_without_jitter_the_rest_is_filled_up_by_quality() -> None:
    """Two features span two directions; a third choice would be rounding noise."""
    rng = np.random.default_rng(3)
    quality, directions = rng.uniform(0.1, 1, 9), rng.normal(size=(9, 2))
    chosen = dpp_selection.greedy(quality, directions, 9, jitter=0.0).tolist()
    assert sorted(chosen) == list(range(9))
    rest = chosen[2:]
    assert rest == sorted(rest, key=lambda i: -quality[i])


def test_as_released_it_repeats_itself_beyond_the_rank() -> None:
    quality, directions = items(5, 12, 2)
    chosen = dpp_selection.greedy(quality, directions, 8, jitter=0.0, mask=False).tolist()
    assert len(chosen) == 8 > len(set(chosen))
    assert chosen[:2] == dpp_selection.greedy(quality, directions, 2, jitter=0.0).tolist()


def test_items_without_quality_or_direction_are_borne() -> None:
    assert dpp_selection.greedy(np.array([0.0, 1.0]), np.zeros((2, 3)), 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("quality", "directions", "count", "error"),
    [
        (np.ones(3), np.eye(3), 4, SpecError),
        (np.ones(3), np.eye(3), -1, SpecError),
        (np.ones(3), np.eye(4), 1, SpecError),
        (np.ones((3, 1)), np.eye(3), 1, SpecError),
        (np.ones(3), np.ones(3), 1, SpecError),
        (np.array([1.0, -0.1, 1.0]), np.eye(3), 1, SpecError),
        (np.array([1.0, np.nan, 1.0]), np.eye(3), 1, NonFinite),
        (np.ones(3), np.diag([1.0, np.inf, 1.0]), 1, NonFinite),
    ],
)
def test_what_is_no_choice_is_refused(
    quality: np.ndarray, directions: np.ndarray, count: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        dpp_selection.greedy(quality, directions, count)
    assert dpp_selection.greedy(np.ones(3), np.eye(3), 0).tolist() == []
