"""Prices come close to the linear programme; the rules that they are compared with do what they say."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from silo_agent.expert_prices import Bounds, best, bounds, excess, units
from tests.benchmarks.assignment_rules import penalised, ranks, solve
from tests.silo_agent.test_expert_prices import settle, softmax

# --- how good they are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("silos", "capacities"), [(12, (2,)), (12, (1, 2, 3)), (16, (2,)), (20, (3,))])
def test_prices_come_within_five_per_cent_of_the_linear_programme(
    seed: int, silos: int, capacities: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    held = [capacities[i % len(capacities)] for i in range(silos)]
    fitness_NE = softmax(rng.normal(0, 0.6, (silos, 8)) + rng.normal(0, 0.3, 8))  # some experts are popular
    wanted = bounds(places=sum(held), silos=silos, experts=8, floor=3)
    _, chosen = settle(fitness_NE, held, wanted, rounds=12)
    most_NE, kept = solve(fitness_NE, held, wanted)
    assert kept == wanted
    total = sum(fitness_NE[i, list(own)].sum() for i, own in enumerate(chosen))
    assert total >= 0.95 * (fitness_NE * most_NE).sum()
    loads = [sum(e in own for own in chosen) for e in range(8)]
    assert sum(excess(loads, wanted)) <= 2, loads
    assert np.std(loads) / np.mean(loads) <= 0.25
    greedy = [sum(e in best(units(row), held[i]) for i, row in enumerate(fitness_NE)) for e in range(8)]
    assert np.std(greedy) > 2 * np.std(loads)


# --- the other rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_linear_programme_finds_the_best_of_all_assignments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    worth_NE, capacities = rng.random((4, 3)), [1, 2, 1, 2]
    wanted = Bounds(low=2, high=2, open=3, relaxed=False)
    options = [list(combinations(range(3), capacity)) for capacity in capacities]
    feasible = [
        sum(worth_NE[i, list(own)].sum() for i, own in enumerate(chosen))
        for chosen in product(*options)
        if all(sum(e in own for own in chosen) == 2 for e in range(3))
    ]
    found_NE, kept = solve(worth_NE, capacities, wanted)
    assert kept == wanted and found_NE.sum(axis=1).tolist() == capacities and found_NE.sum(axis=0).tolist() == [2, 2, 2]
    assert (worth_NE * found_NE).sum() == pytest.approx(max(feasible))


def test_lower_bounds_that_cannot_be_kept_are_relaxed_and_said_so() -> None:
    worth_NE = np.tile([0.5, 0.3, 0.2], (5, 1))
    found_NE, kept = solve(worth_NE, [1] * 5, Bounds(low=2, high=2, open=3, relaxed=False))
    assert kept.relaxed and kept.low == 1 and found_NE.sum() == 5
    fewer_NE, kept = solve(worth_NE, [2] * 5, Bounds(low=5, high=5, open=2, relaxed=True))
    assert kept.low == 5 and fewer_NE.sum(axis=0).tolist() == [5, 5, 0]


def test_ranks_show_the_order_alone() -> None:
    shown = ranks(np.array([[0.1, 0.6, 0.3], [0.33, 0.34, 0.33]]))
    assert shown.tolist() == [[0.0, 1.0, 0.5], [0.0, 1.0, 0.5]]


def test_penalised_leaves_what_was_crowded() -> None:
    own = [600, 500, 0]
    assert penalised(own, 1, [0, 0, 0]) == (0,)
    assert penalised(own, 1, [4, 1, 1]) == (1,)
