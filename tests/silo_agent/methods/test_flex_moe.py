"""FLEX-MoE: capacity is never exceeded, loads keep their bounds, and fitness, router and hidden choices stay home."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import blocks
from crypto.errors import DataRefused, EgressDenied, SpecError
from crypto.plan import Plan, Scope, Step
from silo_agent import experts
from silo_agent.data import DataSet
from silo_agent.expert_prices import Bounds, Market, excess
from silo_agent.methods import Limits, Published
from silo_agent.methods.flex_moe import IDLE_ROUNDS, NOISE, FlexMoE, idle
from silo_agent.methods.flex_moe_plan import market, observed, read
from tests import digits, plain

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=8)
DIGITS: dict[str, object] = {
    "features": 64, "classes": 10, "experts": 4, "rounds": 5, "warm_rounds": 1, "inner_steps": 3, "seed": 7,
}  # fmt: skip
SMALL = DIGITS | {"rounds": 2, "local_steps": 2, "hidden": 4}


def silos() -> dict[str, DataSet]:
    return digits.silos(digits.turned())


federate = partial(plain.run, limits=LIMITS)


def start(params: Mapping[str, object], cohort: Collection[str]) -> tuple[Plan, dict[str, FlexMoE]]:
    return FlexMoE.plan(params, LIMITS), {silo: FlexMoE(params, silo) for silo in cohort}


@cache
def trained() -> tuple[Plan, Published, dict[str, FlexMoE]]:
    plan, members = start(DIGITS, silos())
    return plan, federate(plan, members, silos()), members


# --- parameters and plan ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"capacity": 0}, "params.capacity"),
        ({"capacity": 5}, "params.capacity"),
        ({"capacity": 2.0}, "params.capacity"),
        ({"capacity": True}, "params.capacity"),
        ({"capacity": "2"}, "params.capacity"),
        ({"capacity": "3-1"}, "params.capacity"),
        ({"capacity": "1-5"}, "params.capacity"),
        ({"capacity": "0-2"}, "params.capacity"),
        ({"capacity": "1-2-3"}, "params.capacity"),
        ({"capacity-silo-1": 5}, "params.capacity-silo-1"),
        ({"capacity-silo-1": -1}, "params.capacity-silo-1"),
        ({"capacity-silo-1": "1"}, "params.capacity-silo-1"),
        ({"capacity-Silo!": 1}, "params.capacity-Silo!"),
        ({"capacities": 2}, "params.capacities"),
        ({"holdings": "shown"}, "params.holdings"),
        ({"holdings": 1}, "params.holdings"),
        ({"assignment": "auction"}, "params.assignment"),
        *(({"assignment": rule}, "params.assignment") for rule in ("greedy", "penalised", "random", "lp")),
        ({"inner_steps": 11}, "params.inner_steps"),
        ({"floor": 2}, "params.floor"),
        ({"floor": 9}, "params.floor"),
        ({"experts": 6}, "params.experts"),  # six experts at the floor need 18 places, eight silos of two have 16
        ({"floor": 5}, "params.experts"),
        ({"experts": 5, "capacity-silo-1": 0}, "params.experts"),
        ({"upload_bytes": 5 * 4840 - 1}, "params.upload_bytes"),
        ({"upload_bytes": 2 * 4840 - 1, "holdings": "visible"}, "params.upload_bytes"),
        ({"upload_bytes": 2 * 4840, "holdings": "visible"}, "params.experts"),
        ({"upload_bytes-silo-1": 5 * 4840 - 1}, "params.upload_bytes-silo-1"),
        ({"upload_bytes-silo-1": 4840 - 1, "holdings": "visible"}, "params.upload_bytes-silo-1"),
        ({"upload_bytes-silo-1": 0}, "params.upload_bytes-silo-1"),
        ({"experts": 5, "upload_bytes-silo-1": 4840, "holdings": "visible"}, "params.experts"),
    ],
)
def test_what_leaves_no_plan_is_refused_by_name(change: dict[str, object], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        FlexMoE.plan(DIGITS | change, LIMITS)
    assert refused.value.path == path


def test_fewer_than_five_silos_are_refused() -> None:
    """Their loads, opened again and again, would say too much of each."""
    with pytest.raises(SpecError, match="at least 5 silos"):
        FlexMoE.plan(DIGITS | {"experts": 1}, Limits(n_max=4))
    FlexMoE.plan(DIGITS | {"experts": 1}, Limits(n_max=5))


def test_places_are_counted_with_those_the_job_names() -> None:
    assert read(DIGITS).most_places(8) == 16
    assert read(DIGITS | {"capacity": "1-3", "capacity-a": 0, "capacity-b": 4}).most_places(8) == 6 * 3 + 4
    assert read(DIGITS | {"upload_bytes-a": 2 * 4840, "upload_bytes-b": 1}).most_places(3) == 2 + 1 + 0
    assert read(DIGITS | {"capacity-a": 4, "capacity-b": 4}).most_places(1) == 4


def test_floors_are_those_that_silos_open_lanes_from() -> None:
    """A lane opens from the charter's floor and from m + c, whichever is more: prices must aim there."""
    for limits in (Limits(n_max=8, lane_floor=4), Limits(n_max=8, colluders=2, lane_floor=3)):
        with pytest.raises(SpecError, match="from the charter's 4 to 8"):
            FlexMoE.plan(DIGITS, limits)
        floors = {lane.name: lane.floor for lane in FlexMoE.plan(DIGITS | {"floor": 4}, limits).lanes}
        assert floors["expert-0"] == 4 and floors["everyone"] == limits.lane_floor


@pytest.mark.parametrize("holdings", ["hidden", "visible"])
def test_the_plan_lists_lanes_slots_and_what_never_leaves(holdings: str) -> None:
    plan = FlexMoE.plan(DIGITS | {"holdings": holdings, "rounds": 2, "inner_steps": 2}, LIMITS)
    assert [step.name for step in plan.steps] == [
        "rows/0", "warm/0", "bid/0", "bid/1", "train/0", "bid/2", "bid/3", "train/1", "eval/0",
    ]  # fmt: skip
    held = [lane for lane in plan.lanes if lane.scope is Scope.HELD]
    assert [lane.name for lane in held] == [f"expert-{e}" for e in range(4)]
    assert all(lane.hidden == (holdings == "hidden") for lane in held)
    assert {block.name for block in plan.blocks if block.lane == "own"} == {"router", "fitness"}
    assert all(plan.lane_of(part.block).scope is not Scope.LOCAL for step in plan.steps for part in step.sums)
    slots = {step.task: {slot.name for slot in step.slots} for step in plan.steps}
    assert slots["bid"] == {"silos", "places", "bid-0", "bid-1", "bid-2", "bid-3"}
    assert slots["train"] == {
        "global.correct", "test.rows", "silos", "places", "load-0", "load-1", "load-2", "load-3", "bounds.relaxed",
    }  # fmt: skip
    assert not any(step.sums for step in plan.steps if step.task in ("bid", "rows", "eval"))
    assert {part.block.split(".")[0] for part in plan.steps[1].sums} == {"generalist"}


def test_capacity_is_the_jobs_cut_to_what_may_be_uploaded() -> None:
    assert FlexMoE(DIGITS, "silo-1").capacity == 2
    drawn = {FlexMoE(DIGITS | {"capacity": "1-3"}, f"silo-{i}").capacity for i in range(20)}
    assert drawn == {1, 2, 3}
    single = DIGITS | {"capacity": "2-3", "capacity-silo-1": 0, "capacity-silo-2": 4}
    assert [FlexMoE(single, f"silo-{i}").capacity for i in (1, 2)] == [0, 4]
    bytes_of_two = DIGITS | {"capacity": 4, "holdings": "visible", "upload_bytes": 3 * 4840 + 17}
    assert FlexMoE(bytes_of_two, "silo-1").capacity == 2
    halved = read(bytes_of_two | {"ring_bits": 24})
    assert halved.model_bytes == 3632 and halved.affordable() == 3, "three bytes a parameter"
    one_link = single | {"holdings": "visible", "upload_bytes-silo-2": 2 * 4840, "upload_bytes-silo-3": 4840}
    assert [FlexMoE(one_link, f"silo-{i}").capacity for i in (1, 2, 3)] == [0, 1, 0]
    assert FlexMoE(single | {"upload_bytes": 1}, "silo-2").capacity == 0


# --- who trains what -------------------------------------------------------------------------------------------------


def test_prices_share_the_experts_out_within_capacity() -> None:
    _, published, members = trained()
    bounds_of = Bounds(low=3, high=5, open=4, relaxed=False)
    last = published.slots["train/4"]
    loads = [last[f"load-{e}"] for e in range(4)]
    assert loads == [last[f"expert-{e}.contributors"] for e in range(4)], "all are open"
    assert excess(loads, bounds_of) == (0, 0), loads
    assert sum(loads) == 16 and last["places"] == 16 and last["bounds.relaxed"] == 0
    for silo, member in members.items():
        assert len(member.held(4, published, silos()[silo])) == 2
    assert all(published.blocks[f"expert-{e}.b2"].any() for e in range(4)), "no expert lies idle"


def test_it_learns_and_personal_beats_the_generalist() -> None:
    _, published, members = trained()
    end = published.slots["eval/0"]
    rows = end["test.rows"]
    assert rows == sum(len(data.y_test) for data in silos().values())
    assert end["personal.correct"] / rows > end["global.correct"] / rows > 0.7
    for silo, member in members.items():
        p_BC = member.predict(published, silos()[silo].x_test, "personal")
        np.testing.assert_allclose(p_BC.sum(axis=1), 1.0, atol=1e-6)


def test_every_silo_derives_the_same_market_from_slots_alone() -> None:
    _, published, members = trained()
    job = read(DIGITS)
    places = [(k, bids) for k in range(5) for bids in range(4)]
    fresh = [market(job, published.slots, k, bids) for k, bids in places]
    assert len({now.prices for now, _ in fresh}) > 1
    known: dict[int, tuple[Market, object]] = {}
    assert fresh == [market(job, published.slots, k, bids, known) for k, bids in places]  # type: ignore[arg-type]
    assert len(known) <= 12, "old markets are forgotten"
    assert fresh[0] == market(job, published.slots, 0, 0, known), "and derived again"  # type: ignore[arg-type]
    for member in members.values():
        assert member._market(4, 3, published) == fresh[-1]
        noise = Published({name: block + 1 for name, block in published.blocks.items()}, published.slots)
        assert member._market(4, 3, noise) == fresh[-1], "blocks say nothing about prices"


def test_a_price_sent_by_anyone_finds_no_reader() -> None:
    """Slots that the plan does not have change nothing; there is no block or message for a price."""
    plan, published, _ = trained()
    named = {slot.name for step in plan.steps for slot in step.slots} | {block.name for block in plan.blocks}
    assert not any("price" in name for name in named)
    forged = {
        step: dict(slots) | {"price-0": 10**6, "expert-0.price": 10**6} for step, slots in published.slots.items()
    }
    assert market(read(DIGITS), forged, 4, 3) == market(read(DIGITS), published.slots, 4, 3)


def test_bids_of_too_few_silos_and_void_steps_move_no_price() -> None:
    job = read(DIGITS)
    loads = {"bid-0": 4, "bid-1": 0, "bid-2": 2, "bid-3": 2, "places": 8}
    assert observed(job, {}, "bid/0", "bid-{}") is None
    assert observed(job, {"bid/0": loads | {"silos": 4}}, "bid/0", "bid-{}") is None
    seen = observed(job, {"bid/0": loads | {"silos": 5}}, "bid/0", "bid-{}")
    assert seen is not None and seen[0] == (4, 0, 2, 2) and seen[1].relaxed
    few = {"bid/0": loads | {"silos": 4}}
    assert market(job, few, 0, 3)[0] == market(job, {}, 0, 3)[0] == Market.opening(4)
    assert market(job, {"bid/0": loads | {"silos": 5}}, 0, 3)[0] != Market.opening(4)


def test_the_best_balanced_bid_is_trained() -> None:
    member, data = FlexMoE(DIGITS, "silo-1"), silos()["silo-1"]
    state = blocks.initial_state(FlexMoE.plan(DIGITS, LIMITS), plain.RUN)
    for j, held in enumerate(([0, 1], [1, 2], [2, 3])):
        member.memory.bid[j] = np.array(held)
    crowded, balanced = [(8, 8, 0, 0), (4, 4, 4, 4)]

    def slots(*loads: tuple[int, ...]) -> dict[str, dict[str, int]]:
        return {
            f"bid/{j}": {"silos": 8, "places": 16} | {f"bid-{e}": load for e, load in enumerate(row)}
            for j, row in enumerate(loads)
        }

    assert member.assign(0, Published(state, slots(crowded, balanced, crowded)), data) == (1, 2)
    member._markets.clear()
    assert member.assign(0, Published(state, slots(balanced, balanced, crowded)), data) == (1, 2), "the last of equals"
    member._markets.clear()
    del member.memory.bid[1]
    assert member._best_bid(0, Published(state, slots(crowded, balanced, crowded))) == 1
    chosen = member.assign(0, Published(state, slots(crowded, balanced, crowded)), data)
    assert len(chosen) == 2, "it made no such bid: at the present prices, then"


class Fixed(FlexMoE):
    """Fitness out of thin air: assignments without training."""

    def fitness(self, k: int, published: Published, data: DataSet) -> np.ndarray:
        rng = np.random.default_rng([k // 3, *self.silo.encode()])
        row: np.ndarray = rng.dirichlet(np.full(self.job.experts, 0.5))
        return row


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_capacity_holds_whatever_drops_out(data: st.DataObject) -> None:
    """Any capacities, any silos away in any step, void steps: no silo ever bids for or trains more than it can."""
    names = [f"silo-{i}" for i in range(1, 9)]
    capacities = {name: data.draw(st.integers(0, 4)) for name in names}
    params = SMALL | {"capacity": 4, "rounds": 3, "inner_steps": data.draw(st.integers(0, 3)), "hidden": 1}
    plan = FlexMoE.plan(params, LIMITS)
    params |= {f"capacity-{name}": capacity for name, capacity in capacities.items()}
    members = {name: Fixed(params, name) for name in names}
    away = {step.name: data.draw(st.sets(st.sampled_from(names), max_size=7)) for step in plan.steps}
    void = data.draw(st.sets(st.sampled_from([step.name for step in plan.steps])))
    state, slots = blocks.initial_state(plan, plain.RUN), dict[str, dict[str, int]]()
    rows = silos()["silo-1"]
    for step in plan.steps:
        seen, total = Published(state, slots), dict[str, int]()
        for name, member in members.items():
            if name in away[step.name]:
                continue
            weights = member.weights(step, seen, rows)
            used = [lane for lane, weight in weights.items() if weight and lane != "everyone"]
            assert len(used) <= capacities[name] and set(weights.values()) <= {0, 1, 2, 3, 4}
            sent: dict[str, int] = {}
            if step.task == "bid":
                sent |= member.contribute(step, seen, rows).slots
                assert sum(sent[f"bid-{e}"] for e in range(4)) <= capacities[name]
            if step.task == "train":
                assert len(member.held(step.index, seen, rows)) <= capacities[name]
                sent = {"silos": 1, "places": member.capacity}
                sent |= {f"load-{e}": int(weights[f"expert-{e}"] > 0) for e in range(4)}
            total = {slot.name: total.get(slot.name, 0) + sent.get(slot.name, 0) for slot in step.slots}
        if step.name not in void and total:
            slots = slots | {step.name: total}


def test_silos_of_no_capacity_train_the_generalist_alone() -> None:
    params = SMALL | {"experts": 2, "capacity": 1, "capacity-silo-1": 0}
    plan, members = start(params, silos())
    published = federate(plan, members, silos())
    member, data = members["silo-1"], silos()["silo-1"]
    step = next(step for step in plan.steps if step.task == "train")
    assert member.weights(step, published, data)["expert-0"] == 0
    assert not any(name.startswith("expert") for name in member.contribute(step, published, data).sums)
    generalist = {part: published.blocks[f"generalist.{part}"] for part in experts.PARTS}
    np.testing.assert_array_equal(
        member.predict(published, data.x_test, "personal"), experts.predict([generalist], data.x_test)[0]
    )
    assert published.slots["train/0"]["places"] == 7


def test_bounds_that_cannot_be_kept_are_relaxed_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Six silos turn up for a job of eight: twelve places for four experts, and then ten for three of them."""
    six = {name: data for name, data in silos().items() if name not in ("silo-7", "silo-8")}
    plan, members = start(SMALL | {"rounds": 3}, six)

    def absent(step: Step) -> Collection[str]:
        return ("silo-6",) if step.name > "bid/2" and step.task in ("bid", "train") and step.index else ()

    with caplog.at_level(logging.WARNING, logger="consilium.silo"):
        published = federate(plan, members, six, absent=absent)
    assert published.slots["train/0"]["bounds.relaxed"] == 0
    last = published.slots["train/2"]
    assert last["bounds.relaxed"] == 5 and last["places"] == 10
    assert sorted(last[f"load-{e}"] for e in range(4))[0] == 0
    assert sum(last[f"load-{e}"] >= 3 for e in range(4)) >= 2
    assert "too few places for all experts; closed are [" in caplog.text


@pytest.mark.parametrize("void", [["rows/0"], ["warm/0", "bid/0"], ["bid/0", "bid/1", "bid/2"], ["train/0", "bid/4"]])
def test_a_void_step_stops_nobody(void: list[str]) -> None:
    plan, members = start(SMALL | {"local_steps": 10, "rounds": 4, "hidden": 8}, silos())
    end = federate(plan, members, silos(), void=void).slots["eval/0"]
    assert end["personal.correct"] / end["test.rows"] > 0.2


def test_steps_tried_again_come_out_the_same() -> None:
    plan, published, _ = trained()
    member, data = FlexMoE(DIGITS, "silo-2"), silos()["silo-2"]
    for step in plan.steps:
        weights = [member.weights(step, published, data) for _ in range(2)]
        one, other = (member.contribute(step, published, data) for _ in range(2))
        assert weights[0] == weights[1] and one.slots == other.slots
        assert all(np.array_equal(one.sums[block], other.sums[block]) for block in one.sums)


def test_a_silo_that_restarts_goes_on_as_if_it_had_not() -> None:
    plan, members = start(SMALL | {"rounds": 4}, silos())
    others = dict(members)
    twin: dict[str, FlexMoE] = {}

    def watch(step: Step, seen: Published, here: Mapping[str, FlexMoE], weights: object) -> None:
        if step.name == "train/1":
            kept = {name: array.copy() for name, array in members["silo-3"].state_dict().items()}
            twin["silo-3"] = FlexMoE(SMALL | {"rounds": 4}, "silo-3")
            twin["silo-3"].load_state_dict(kept)
        elif twin:
            mine, theirs = members["silo-3"], twin["silo-3"]
            data = silos()["silo-3"]
            assert weights["silo-3"] == theirs.weights(step, seen, data)  # type: ignore[index]
            theirs.contribute(step, seen, data)
            old, new = mine.state_dict(), theirs.state_dict()
            assert old.keys() == new.keys() and all(np.array_equal(old[n], new[n], equal_nan=True) for n in old)

    federate(plan, others, silos(), watch=watch)
    assert twin and len(members["silo-3"].state_dict()) < 20, "what no later round asks for is forgotten"


# --- experts that lie idle -------------------------------------------------------------------------------------------


def test_idle_experts_start_again_near_the_generalist() -> None:
    _, published, members = trained()
    job, member = read(DIGITS), members["silo-1"]
    untouched = {name: np.zeros_like(block) for name, block in published.blocks.items() if name == "expert-2.b2"}
    never = Published({**published.blocks, **untouched}, published.slots)
    assert not idle(job, published, 5, 2) and idle(job, never, 5, 2)
    short = {
        name: dict(slots) | ({"expert-1.contributors": 2} if name.startswith("train") else {})
        for name, slots in published.slots.items()
    }
    lacking = Published(published.blocks, short)
    assert [idle(job, lacking, k, 1) for k in range(5)] == [False] * IDLE_ROUNDS + [True] * (5 - IDLE_ROUNDS)
    once = Published(published.blocks, short | {"train/3": published.slots["train/3"]})
    assert not idle(job, once, 5, 1), "one round of service is enough"
    for part in experts.PARTS:
        near = member._start(never, 5, 2)[part] - published.blocks[f"generalist.{part}"]
        spread = published.blocks[f"generalist.{part}"].std()
        assert 0 < np.abs(near).max() < 6 * NOISE * spread
        np.testing.assert_array_equal(member._start(published, 5, 2)[part], published.blocks[f"expert-2.{part}"])
    one, other = (FlexMoE(DIGITS, silo)._start(never, 5, 2)["w1"] for silo in ("silo-4", "silo-5"))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(member._start(never, 5, 2)["w1"], member._start(_none_trained(published), 5, 3)["w1"])


def _none_trained(published: Published) -> Published:
    zeros = {name: np.zeros_like(block) for name, block in published.blocks.items() if name.endswith(".b2")}
    kept = {name: block for name, block in published.blocks.items() if name.startswith("generalist")}
    return Published({**published.blocks, **zeros, **kept}, published.slots)


def test_a_first_opening_replaces_the_blocks_by_what_was_trained() -> None:
    """Δ is taken from the published blocks, so a start elsewhere arrives whole."""
    plan, published, _ = trained()
    never = _none_trained(published)
    step = next(step for step in plan.steps if step.task == "train")
    member, data = FlexMoE(DIGITS, "silo-5"), silos()["silo-5"]
    e = member.held(0, never, data)[0]
    sums = member.contribute(step, never, data).sums
    arrived = {part: never.blocks[f"expert-{e}.{part}"] + sums[f"expert-{e}.{part}"] for part in experts.PARTS}
    begun = member._start(never, 0, e)
    assert max(np.abs(arrived[part] - begun[part]).max() for part in experts.PARTS) < 1.5
    assert np.abs(arrived["w1"] - begun["w1"]).mean() < np.abs(arrived["w1"] - never.blocks[f"expert-{e}.w1"]).mean()


# --- predictions -----------------------------------------------------------------------------------------------------


def test_global_is_the_generalist_and_cold_needs_a_batch() -> None:
    _, published, members = trained()
    stranger, x = FlexMoE(DIGITS), digits.turned()["newcomer-1"].x_test
    generalist = {part: published.blocks[f"generalist.{part}"] for part in experts.PARTS}
    alone = experts.predict([generalist], x)[0]
    np.testing.assert_array_equal(stranger.predict(published, x, "global"), alone)
    np.testing.assert_array_equal(stranger.predict(published, x[:15], "cold"), alone[:15])
    np.testing.assert_array_equal(stranger.predict(_none_trained(published), x, "cold"), alone)
    cold = stranger.predict(published, x, "cold")
    assert not np.array_equal(cold, alone)
    np.testing.assert_allclose(cold.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(members["silo-1"].predict(published, x, "cold"), cold)


def test_newcomers_are_served_better_than_by_the_generalist() -> None:
    _, published, _ = trained()
    right = dict.fromkeys(("global", "cold"), 0)
    for name in ("newcomer-1", "newcomer-2"):
        data = digits.turned()[name]  # it took no part, so its training rows are unseen too
        x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
        for mode in right:
            right[mode] += int((FlexMoE(DIGITS).predict(published, x, mode).argmax(1) == y).sum())
    assert right["cold"] > right["global"]


def test_personal_needs_what_the_silo_holds() -> None:
    _, published, members = trained()
    x = silos()["silo-1"].x_test
    with pytest.raises(DataRefused, match="trained nothing"):
        FlexMoE(DIGITS).predict(published, x, "personal")
    with pytest.raises(SpecError, match="mode"):
        members["silo-1"].predict(published, x, "best")
    with pytest.raises(DataRefused, match="batch"):
        members["silo-1"].predict(published, x[:, :9], "personal")
    narrow = replace(silos()["silo-1"], x_train=np.zeros((20, 9), np.float32))
    with pytest.raises(DataRefused, match="9 features"):
        members["silo-1"].contribute(trained()[0].steps[0], published, narrow)
    shut = FlexMoE(DIGITS, "silo-1")
    shut.memory.held[0] = np.array([1])
    generalist = {part: published.blocks[f"generalist.{part}"] for part in experts.PARTS}
    np.testing.assert_array_equal(  # it holds an expert whose lane never opened
        shut.predict(_none_trained(published), x, "personal"), experts.predict([generalist], x)[0]
    )


def test_a_silo_that_was_away_in_all_rounds_still_reports_scores() -> None:
    plan, published, members = trained()
    data, last = silos()["silo-1"], plan.steps[-1]
    slots = FlexMoE(DIGITS, "silo-1").contribute(last, published, data).slots
    assert slots["personal.correct"] == slots["global.correct"]
    assert members["silo-1"].contribute(last, published, data).slots["personal.correct"] > slots["global.correct"]


def test_a_silo_far_from_all_others_disturbs_nobody() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(size=silos()["silo-8"].x_train.shape).astype(np.float32)
    odd = replace(silos()["silo-8"], x_train=noise)
    plan, members = start(DIGITS | {"rounds": 4}, silos())
    published = federate(plan, members, {**silos(), "silo-8": odd})
    assert all(np.isfinite(block).all() for block in published.blocks.values())
    right = [
        (members[silo].predict(published, data.x_test, "personal").argmax(1) == data.y_test).mean()
        for silo, data in silos().items()
        if silo != "silo-8"
    ]
    assert np.mean(right) > 0.6


# --- what never leaves -----------------------------------------------------------------------------------------------


def test_the_encoder_refuses_router_and_fitness() -> None:
    plan, published, _ = trained()
    step = next(step for step in plan.steps if step.task == "train")
    data = silos()["silo-1"]
    mine = FlexMoE(DIGITS, "silo-1")
    weights, sent = mine.weights(step, published, data), mine.contribute(step, published, data)
    for name, shape in (("router", (4, 65)), ("fitness", (4,))):
        more = blocks.Contribution({**sent.sums, name: np.zeros(shape)}, sent.slots)
        with pytest.raises(EgressDenied):
            blocks.encode(plan, step, more, weights)
        assert name not in blocks.initial_state(plan, plain.RUN)
