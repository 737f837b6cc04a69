"""Proxies: the pool that all silos mean, what is refused, and a choice that is relevant and varied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crypto.errors import DataRefused, NonFinite
from silo_agent import proxies
from silo_agent.data import DataSet, check
from tests.digits import domains

WANTED = {"features": 64, "classes": 10, "least": 40}


def pool() -> DataSet:
    return proxies.shipped("digits-public")


def lot(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


def test_the_shipped_pool_is_the_one_that_jobs_name() -> None:
    found = pool()
    assert found.x_train.shape == (599, 64) and set(found.y_train.tolist()) == set(range(10))
    assert proxies.digest(found) == "5d3ceb199798dc3fbddde1c3eba9a74f4a100b2ec00754fac97fdf54f058da6b"
    proxies.check_pool(found, wanted=proxies.digest(found), **WANTED)


def test_the_digest_binds_rows_labels_and_their_order() -> None:
    plain = pool()
    turned = replace(plain, x_train=plain.x_train[::-1].copy())
    other = replace(plain, y_train=plain.y_train[::-1].copy())
    seen = {proxies.digest(one) for one in (plain, turned, other, replace(plain, classes=11))}
    assert len(seen) == 4
    assert proxies.digest(replace(plain, name="x", x_test=plain.x_train, y_test=plain.y_train)) == proxies.digest(plain)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": 63}, "has 64 features and 10 classes; the job wants 63 and 10"),
        ({"classes": 9}, "has 64 features and 10 classes; the job wants 64 and 9"),
        ({"wanted": "0" * 64}, "has SHA-256 5d3ceb"),
        ({"least": 600}, "has 599 rows that differ; the job chooses 600"),
    ],
)
def test_another_pool_is_refused_by_name(change: dict[str, object], said: str) -> None:
    found = pool()
    with pytest.raises(DataRefused, match=said) as refused:
        proxies.check_pool(found, **(WANTED | {"wanted": proxies.digest(found)} | change))  # type: ignore[arg-type]
    assert "digits-public" in str(refused.value) and refused.value.remedy


def test_rows_that_are_equal_count_once() -> None:
    plain = pool()
    copies = replace(plain, x_train=np.repeat(plain.x_train[:20], 5, axis=0), y_train=np.repeat(plain.y_train[:20], 5))
    with pytest.raises(DataRefused, match="20 rows that differ; the job chooses 40"):
        proxies.check_pool(copies, wanted=proxies.digest(copies), **WANTED)


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        (np.zeros((0, 64), np.float32), np.zeros(0, np.int64), DataRefused),
        (np.full((20, 64), np.nan, np.float32), np.arange(20) % 3, NonFinite),
        (np.zeros((20, 64), np.float32), np.zeros(20, np.int64), DataRefused),
    ],
)
def test_a_pool_is_a_data_set_and_refused_like_one(x: np.ndarray, y: np.ndarray, error: type[Exception]) -> None:
    """Empty, NaN, a single class."""
    with pytest.raises(error):
        check("pool", {"x_train": x, "y_train": y, "x_test": x, "y_test": y, "classes": np.array(10)})


def test_a_pool_that_nobody_has_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataRefused, match="neither registered at this silo nor shipped") as refused:
        proxies.shipped("elsewhere")
    assert "fed data add" in refused.value.remedy and "digits-public" in refused.value.remedy


# --- relevance and choice --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored() -> tuple[np.ndarray, DataSet]:
    """Relevance for a silo that has digits 0 to 4."""
    return proxies.relevance(domains()["silo-1"].x_train, pool().x_train, lot()), pool()


def test_relevance_finds_the_silos_own_domain(scored: tuple[np.ndarray, DataSet]) -> None:
    relevance_N, found = scored
    inside = found.y_train < 5
    assert relevance_N[inside].mean() > relevance_N[~inside].mean() + 0.3
    assert relevance_N.min() >= proxies.LEAST_RELEVANCE and relevance_N.max() <= 1 - proxies.LEAST_RELEVANCE
    best = np.argsort(-relevance_N)[:40]
    assert inside[best].mean() > 0.85


def test_relevance_is_the_same_each_time(scored: tuple[np.ndarray, DataSet]) -> None:
    again = proxies.relevance(domains()["silo-1"].x_train, pool().x_train, lot())
    np.testing.assert_array_equal(again, scored[0])


def test_a_pool_smaller_than_the_silo_is_scored_all_the_same() -> None:
    private = domains()["silo-1"].x_train
    assert proxies.relevance(private, pool().x_train[:50], lot()).shape == (50,)


def test_candidates_are_the_most_relevant_and_differ() -> None:
    rows = np.array([[0.0], [1.0], [1.0], [2.0], [3.0]])
    assert proxies.candidates(np.array([0.1, 0.5, 0.9, 0.7, 0.2]), rows, 3).tolist() == [3, 1, 4]
    assert proxies.candidates(np.full(5, 0.5), rows, 9).tolist() == [0, 1, 3, 4]


def test_chosen_rows_are_relevant_and_more_varied_than_the_most_relevant(scored: tuple[np.ndarray, DataSet]) -> None:
    relevance_N, found = scored
    near_copies = np.concatenate([found.x_train, found.x_train[relevance_N.argmax()] + lot().normal(0, 0.01, (60, 64))])
    relevance_N = np.concatenate([relevance_N, np.full(60, relevance_N.max())])
    chosen = proxies.varied(relevance_N, near_copies, 30, 200)
    top = np.argsort(-relevance_N, kind="stable")[:30]
    assert len(set(chosen.tolist())) == 30
    assert (chosen >= 599).sum() <= 3 < 20 < (top >= 599).sum(), "copies of one picture say nothing new"
    originals = chosen[chosen < 599]
    assert (found.y_train[originals] < 5).mean() > 0.6
    assert proxies.varied(relevance_N, near_copies, 30, 200).tolist() == chosen.tolist()


def test_as_released_rows_come_again() -> None:
    rng = lot(4)
    flat = rng.normal(size=(60, 3)).astype(np.float32)
    chosen = proxies.as_released(rng.uniform(0.5, 1, 60), flat, 20, 40)
    assert len(chosen) == 20 > len(set(chosen.tolist()))


def test_what_is_held_out_is_not_trained_on() -> None:
    chosen = np.arange(100, 140)
    found = proxies.split(chosen, 10, lot())
    assert len(found.held_out) == 10 and len(found.train) == 30
    assert sorted([*found.train, *found.held_out]) == chosen.tolist()
    assert found.held_out.min() < 110 and found.held_out.max() > 130, "by lot, not the last or the first"
