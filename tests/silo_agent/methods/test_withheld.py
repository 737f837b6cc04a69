"""Figures that the silos withheld: every method goes on without them, in the way that its page says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from crypto import blocks
from crypto.plan import Step
from silo_agent.data import DataSet
from silo_agent.expert_prices import Market
from silo_agent.methods import GRID, METHODS, Method, Published, mean_rows, method, opened
from silo_agent.methods.fedcoe_samples import FedCoESamples
from silo_agent.methods.flex_moe import FlexMoE
from silo_agent.methods.flex_moe_plan import market, observed
from silo_agent.methods.metamoe import MetaMoE
from tests import digits, plain
from tests.silo_agent.methods.test_methods import DIGITS, LIMITS, PARAMS

pytestmark = pytest.mark.slow

#: Figures that depend on a silo's data alone: they can be withheld while the others of their step open.
STATIC = frozenset({"rows", "test.rows", "test.tokens", "silos", "places"})

SECTIONS: Mapping[str, Callable[[str, str], bool]] = {
    "static": lambda step, slot: slot in STATIC,
    "fresh": lambda step, slot: slot not in STATIC,
    "all": lambda step, slot: True,
}
#: Short runs.
FEW: Mapping[str, Mapping[str, object]] = {
    "fedavg": DIGITS | {"rounds": 3},
    "fedavg-lanes": PARAMS["fedavg-lanes"],
    "fedcoe": DIGITS | {"rounds": 2, "finetune_steps": 1},
    "fedcoe-samples": DIGITS | {"rounds": 4, "warmup": 3, "finetune_steps": 1},
    "flex-moe": DIGITS | {"rounds": 3, "capacity": "1-2", "experts": 2},
    "metamoe": dict(PARAMS["metamoe"]) | {"rounds": 2},
}


def silos() -> dict[str, DataSet]:
    return digits.silos(digits.turned())


def played(name: str, section: str) -> tuple[Published, dict[str, Method], dict[str, set[int]]]:
    """The end of a run in which a section stayed shut in every step; and by step the weights that were used."""
    kind, given = method(name), FEW[name]
    plan, members = kind.plan(given, LIMITS), {silo: kind(given, silo) for silo in silos()}
    used: dict[str, set[int]] = {}

    def watch(step: Step, seen: Published, here: Mapping[str, Method], weights: Mapping[str, Any]) -> None:
        used[step.name] = {weight for lanes in weights.values() for weight in lanes.values() if weight}

    published = plain.run(plan, members, silos(), LIMITS, withheld=SECTIONS[section], watch=watch)
    return published, members, used


# --- of all methods --------------------------------------------------------------------------------------------------


def test_every_method_is_tried_here() -> None:
    assert METHODS.keys() == FEW.keys() | {"flex"}


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", sorted(FEW))
def test_a_run_without_the_figures_ends_and_learns(name: str, section: str) -> None:
    """The lanes open all the same, so the model learns; and every mode still predicts."""
    published, members, used = played(name, section)
    assert any(name.endswith(".weight") for name in published.slots["train/0"])
    if section != "fresh":
        assert used["train/0"] == {GRID[0]}, "the weight rule has no mean: everyone has the least weight"
    start = blocks.initial_state(method(name).plan(FEW[name], LIMITS), plain.RUN)
    assert any(not np.array_equal(published.blocks[block], value) for block, value in start.items())
    x = silos()["silo-1"].x_test
    for mode in ("global", "personal", "cold"):
        p_BC = members["silo-1"].predict(published, x, mode)
        np.testing.assert_allclose(p_BC.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("slots", [{}, {"rows": 800}, {"silos": 8}, {"rows": 800, "silos": 0}])
def test_without_a_mean_of_rows_everyone_has_the_least_weight(slots: dict[str, int]) -> None:
    assert mean_rows(Published({}, {"rows/0": slots}), "rows/0") == 0.0
    data = silos()["silo-1"]
    flex = method("flex")(PARAMS["flex"], "silo-1")
    step = Step(task="train", index=0, slots=())
    assert flex.weights(step, Published({}, {"rows/0": slots}), data) == {"everyone": GRID[0]}


def test_figures_are_read_together_or_not_at_all() -> None:
    slots = {"a/0": {"x": 1, "y": 0}}
    assert opened(slots, "a/0", "y", "x") == (0, 1)
    assert opened(slots, "a/0", "x", "z") is None
    assert opened(slots, "a/1", "x") is None


# --- of one method ---------------------------------------------------------------------------------------------------


def test_a_round_whose_counts_did_not_open_moves_no_price_of_fedcoe_samples() -> None:
    member = FedCoESamples(FEW["fedcoe-samples"], "silo-1")
    crowded = {"silos-0": 8, "silos-1": 0}
    slots: dict[str, dict[str, int]] = {"train/0": {"test.rows": 9}, "train/1": crowded, "train/2": {"silos-0": 8}}
    only = {"train/0": crowded}
    moved = member._prices(3, Published({}, slots))
    assert moved.tolist() == member._prices(1, Published({}, only)).tolist() != [0.0, 0.0]
    assert not member._prices(3, Published({}, {"train/0": {}})).any()
    assert not member._prices(3, Published({}, {"train/0": {"silos-0": 0, "silos-1": 0}})).any()


def test_a_cold_start_of_fedcoe_samples_without_all_loads_is_by_the_gate_alone() -> None:
    published, members, _ = played("fedcoe-samples", "static")
    x = digits.turned()["newcomer-1"].x_test
    end = published.slots["eval/0"]
    assert {"load-0", "load-1"} <= end.keys()

    def cold(figures: Mapping[str, int]) -> np.ndarray:
        return members["silo-1"].predict(Published(published.blocks, {"eval/0": figures}), x, "cold")

    assert not np.array_equal(cold(end), cold({}))
    assert np.array_equal(cold({"load-0": end["load-0"]}), cold({}))


@pytest.mark.parametrize("missing", ["silos", "places", "bid-0", "bid-3"])
def test_a_bid_that_lacks_a_figure_moves_no_price_of_flex_moe(missing: str) -> None:
    job = FlexMoE(DIGITS | {"experts": 4, "capacity": "1-2"}, "silo-1").job
    whole = {"silos": 8, "places": 12, "bid-0": 8, "bid-1": 2, "bid-2": 1, "bid-3": 1}
    lacking = {name: count for name, count in whole.items() if name != missing}
    assert observed(job, {"bid/0": whole}, "bid/0", "bid-{}") is not None
    assert observed(job, {"bid/0": lacking}, "bid/0", "bid-{}") is None
    assert market(job, {"bid/0": whole}, 0, 1)[0] != Market.opening(4)
    assert market(job, {"bid/0": lacking}, 0, 1) == (Market.opening(4), None)


def test_a_bid_that_lacks_a_figure_is_not_the_best_of_flex_moe() -> None:
    member = FlexMoE(FEW["flex-moe"], "silo-1")
    even = {"silos": 8, "places": 12, "bid-0": 6, "bid-1": 6}
    uneven = even | {"bid-0": 8, "bid-1": 1}
    assert member._best_bid(0, Published({}, {"bid/0": even, "bid/1": uneven})) == 0
    assert member._best_bid(0, Published({}, {"bid/0": {"silos": 8}, "bid/1": uneven})) == 1
    assert member._best_bid(0, Published({}, {"bid/0": {}, "bid/1": {"silos": 8}})) is None


@pytest.mark.parametrize("votes", [{}, {"held.rows": 80}, {"router.only": 80}, {"surest.only": 0}])
def test_without_all_votes_the_surest_expert_of_metamoe_speaks(votes: dict[str, int]) -> None:
    asked = MetaMoE(FEW["metamoe"])
    assert asked.routed(Published({}, {"choose/0": {"router.only": 80, "surest.only": 0}}))
    assert not asked.routed(Published({}, {"choose/0": votes}))


def test_the_router_of_metamoe_needs_its_lanes_and_no_slot() -> None:
    published, members, _ = played("metamoe", "all")
    member = members["silo-1"]
    assert isinstance(member, MetaMoE) and member.router(published) is not None
