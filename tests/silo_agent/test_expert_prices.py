"""Who trains what: prices from loads alone, bit by bit the same; never above capacity; close to the best there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silo_agent.expert_prices import (
    FIRST_STEP,
    LARGEST_STEP,
    MEMORY,
    MOST_MOVES,
    STICK,
    SUBSIDY,
    UNIT,
    Bounds,
    Market,
    bounds,
    drawn_capacity,
    excess,
    units,
)

TIGHT = Bounds(low=3, high=3, open=4, relaxed=False)


def softmax(scores: np.ndarray) -> np.ndarray:
    fitness: np.ndarray = np.exp(scores)
    fitness /= fitness.sum(axis=1, keepdims=True)
    return fitness


def settle(
    fitness_NE: np.ndarray, capacities: list[int], wanted: Bounds, rounds: int
) -> tuple[Market, list[tuple[int, ...]]]:
    """Rounds of bids among silos that see loads alone; what each holds after the best bid of the last."""
    silos, experts = fitness_NE.shape
    own = [units(row) for row in fitness_NE]
    market = Market.opening(experts)
    held: list[tuple[int, ...]] = [()] * silos
    for _ in range(rounds):
        found = None
        for _ in range(MOST_MOVES):
            bids = [market.choice(own[i], capacities[i], frozenset(held[i])) for i in range(silos)]
            loads = [sum(e in bid for bid in bids) for e in range(experts)]
            score = excess(loads, wanted, market.closed)
            if found is None or score <= found[0]:
                found = score, bids
            market = market.moved(loads, wanted)
        assert found is not None
        held = found[1]
    return market, held


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "silos", "experts", "floor", "expected"),
    [
        (24, 12, 8, 3, Bounds(3, 4, 8, False)),
        (16, 8, 4, 3, Bounds(3, 5, 4, False)),
        (32, 16, 8, 1, Bounds(3, 5, 8, False)),
        (200, 100, 32, 3, Bounds(5, 7, 32, False)),
        (20, 10, 8, 3, Bounds(3, 4, 6, True)),  # eight experts would need 24 places
        (5, 5, 4, 3, Bounds(4, 5, 1, True)),
        (2, 5, 4, 3, Bounds(3, 3, 1, True)),  # not even one can open: it stays shut until places come back
        (0, 5, 4, 3, Bounds(3, 3, 1, True)),
        (40, 5, 8, 3, Bounds(4, 5, 8, False)),  # never more holders than silos
    ],
)
def test_bounds_keep_the_floor_and_relax_by_opening_fewer(
    places: int, silos: int, experts: int, floor: int, expected: Bounds
) -> None:
    assert bounds(places=places, silos=silos, experts=experts, floor=floor) == expected


@given(st.integers(0, 400), st.integers(5, 100), st.integers(1, 64), st.integers(1, 9))
def test_bounds_can_be_kept(places: int, silos: int, experts: int, floor: int) -> None:
    wanted = bounds(places=places, silos=silos, experts=experts, floor=floor)
    assert 1 <= wanted.open <= experts and 0 < wanted.low <= wanted.high <= silos
    assert wanted.relaxed == (wanted.open < experts)
    if floor <= places <= silos * wanted.open and floor <= silos:
        assert wanted.low * wanted.open <= places <= max(wanted.high * wanted.open, places * (wanted.high == silos))
        assert wanted.low >= floor


def test_excess_counts_missing_heads_first() -> None:
    assert excess([3, 3, 3], TIGHT) == (0, 0)
    assert excess([1, 3, 5], TIGHT) == (2, 4)
    assert excess([5, 3, 3], TIGHT) == (0, 2) < (1, 1)
    assert excess([0, 3, 4], TIGHT, closed=frozenset({0})) == (0, 1)


# --- prices ----------------------------------------------------------------------------------------------------------


def test_prices_rise_above_the_upper_bound_and_fall_below_the_lower_one() -> None:
    first = Market.opening(4).moved([6, 3, 0, 3], TIGHT)
    assert first.prices == (FIRST_STEP, 0, -FIRST_STEP, 0)
    second = first.moved([6, 3, 0, 3], TIGHT)
    assert second.steps == (20, FIRST_STEP, 20, FIRST_STEP) and second.prices == (36, 0, -36, 0)
    third = second.moved([2, 3, 4, 3], TIGHT)
    assert third.steps == (10, FIRST_STEP, 10, FIRST_STEP) and third.prices == (26, 0, -26, 0)


def test_a_price_that_no_bound_needs_goes_back_to_zero_and_not_beyond() -> None:
    wanted = Bounds(low=2, high=5, open=2, relaxed=False)
    market = Market((30, -30), (16, 16), (1, -1), (0, 0))
    market = market.moved([3, 3], wanted)
    assert market.prices == (26, -26)
    assert market.moved([5, 2], wanted).prices == (26, -26), "a bound that binds keeps its price"
    for _ in range(20):
        market = market.moved([3, 3], wanted)
    assert market.prices == (0, 0)


def test_steps_stay_within_their_bounds() -> None:
    market = Market.opening(1)
    wanted = Bounds(2, 2, 1, False)
    for _ in range(40):
        market = market.moved([9], wanted)
    assert market.steps == (LARGEST_STEP,)
    for k in range(40):
        market = market.moved([9 * (k % 2)], wanted)
    assert market.steps == (1,)


def test_experts_beyond_the_places_are_closed_and_offered_to_nobody() -> None:
    wanted = Bounds(3, 4, 2, relaxed=True)
    market = Market.opening(4).moved([4, 1, 3, 1], wanted)
    assert market.closed == {1, 3} and market.prices[1] == market.prices[3] == 0
    assert market.choice([0, UNIT, 0, UNIT], 3) == (0, 2)
    assert market.moved([3, 0, 0, 0], wanted).closed == {1, 3}, "of equals those closed before"
    assert market.moved([3, 0, 3, 0], Bounds(3, 4, 4, False)).closed == frozenset(), "places came back"


def test_deficits_remember_what_an_expert_lacked() -> None:
    market = Market.opening(3).trained([3, 1, 0], TIGHT)
    assert market.deficits == (0, 2, 3)
    assert market.choice([500, 500 - SUBSIDY, 500 - 3 * SUBSIDY + 1], 1) == (1,)
    assert market.trained([3, 3, 5], TIGHT).deficits == (0, 1, 2)
    for _ in range(9):
        market = market.trained([0, 0, 0], TIGHT)
    assert market.deficits == (MEMORY,) * 3


def test_a_silo_stays_unless_another_expert_is_clearly_better() -> None:
    market, stays = Market.opening(2), int(UNIT * STICK) // 2
    assert market.choice([500, 500 + stays - 1], 1, frozenset({0})) == (0,)
    assert market.choice([500, 500 + stays + 1], 1, frozenset({0})) == (1,)
    assert market.choice([500, 500], 1) == (0,)


@given(st.lists(st.integers(-2000, 2000), min_size=1, max_size=40), st.integers(0, 50), st.data())
def test_a_choice_is_the_best_and_never_above_capacity(fitness: list[int], capacity: int, data: st.DataObject) -> None:
    closed = frozenset(data.draw(st.sets(st.integers(0, len(fitness) - 1))))
    held = data.draw(st.frozensets(st.integers(0, len(fitness) - 1)))
    market = Market(tuple(data.draw(st.lists(st.integers(-500, 500), min_size=len(fitness), max_size=len(fitness)))),
                    (1,) * len(fitness), (0,) * len(fitness), (0,) * len(fitness), closed)  # fmt: skip
    chosen = market.choice(fitness, capacity, held)
    assert len(chosen) == min(capacity, len(fitness) - len(closed))
    assert list(chosen) == sorted(set(chosen)) and not closed & set(chosen)
    stays = int(UNIT * STICK) // len(fitness)
    worth = [
        own - price + stays * (e in held) for e, (own, price) in enumerate(zip(fitness, market.prices, strict=True))
    ]
    left = [worth[e] for e in range(len(fitness)) if e not in chosen and e not in closed]
    assert not chosen or not left or min(worth[e] for e in chosen) >= max(left)


LOADS = st.lists(st.lists(st.integers(0, 12), min_size=5, max_size=5), max_size=30)


@given(LOADS)
def test_prices_are_a_function_of_loads_in_whole_numbers(history: list[list[int]]) -> None:
    wanted = bounds(places=20, silos=12, experts=5, floor=3)
    one = other = Market.opening(5)
    for loads in history:
        one = one.moved(loads, wanted).trained(loads, wanted)
        other = other.moved(tuple(np.array(loads, dtype=np.uint64)), wanted)
        other = other.trained(tuple(map(int, loads)), wanted)
    assert one == other
    assert all(type(number) is int for row in (one.prices, one.steps, one.deficits) for number in row)


def test_prices_of_a_fixed_history() -> None:
    """A vector: another machine, another version or another hand must come to these numbers."""
    market, state = Market.opening(6), 7
    wanted = bounds(places=24, silos=12, experts=6, floor=3)
    for _ in range(50):
        loads = []
        for _ in range(6):
            state = (1103515245 * state + 12345) % 2**31
            loads.append((state >> 16) % 8)
        market = market.moved(loads, wanted).trained(loads, wanted)
    assert market.prices == (-32, 0, -9, -254, 2, -9)


def test_capacities_are_drawn_by_name_and_seed() -> None:
    names = [f"silo-{i}" for i in range(60)]
    drawn = [drawn_capacity(name, 7, 1, 3) for name in names]
    assert set(drawn) == {1, 2, 3} and drawn == [drawn_capacity(name, 7, 1, 3) for name in names]
    assert drawn != [drawn_capacity(name, 8, 1, 3) for name in names]
    assert drawn[:6] == [3, 1, 3, 2, 1, 2] and drawn_capacity("silo-0", 7, 2, 2) == 2


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_units_are_whole_and_bounded(seed: int) -> None:
    row = np.random.default_rng(seed).normal(0.5, 1.0, 7)
    assert all(type(value) is int and 0 <= value <= UNIT for value in units(row))
