"""FedCoE with a gate that reads rows: balanced warm-up, responsibilities, and predictions that need no batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import DataRefused, SpecError
from crypto.plan import Plan, Scope
from silo_agent import experts
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Method, Published
from silo_agent.methods.fedcoe_samples import MIN_BATCH_ROWS, FedCoESamples
from tests import digits, plain

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=8)
PARAMS: Mapping[str, object] = {"features": 64, "classes": 10, "rounds": 14, "warmup": 8, "experts": 2, "seed": 7}


def silos() -> dict[str, DataSet]:
    return digits.silos(digits.turned())


def federate(void: Collection[str] = (), **more: object) -> tuple[Plan, Published, dict[str, Method]]:
    return plain.federate(FedCoESamples, {**PARAMS, **more}, silos(), LIMITS, void)


@cache
def trained() -> tuple[Plan, Published, dict[str, Method]]:
    return federate()


def test_the_plan_sums_models_and_opens_counts() -> None:
    plan = FedCoESamples.plan(PARAMS, LIMITS)
    held = [lane for lane in plan.lanes if lane.scope is Scope.HELD]
    assert [lane.name for lane in held] == ["expert-0", "expert-1"] and all(lane.hidden for lane in held)
    assert [step.task for step in plan.steps] == ["rows"] + ["train"] * 14 + ["eval"]
    assert not plan.steps[-1].sums
    with pytest.raises(SpecError, match="warmup"):
        FedCoESamples.plan({**PARAMS, "warmup": 0}, LIMITS)


def test_in_the_warm_up_a_silo_moves_one_expert_and_none_is_left_alone() -> None:
    _, published, _ = trained()
    loads = [[published.slots[f"train/{k}"][f"silos-{e}"] for e in range(2)] for k in range(8)]
    assert all(sum(both) == len(silos()) for both in loads)
    assert min(loads[-1]) >= LIMITS.lane_floor, loads


def test_prices_rise_with_use_and_move_silos() -> None:
    member, data = FedCoESamples(PARAMS, "silo-1"), silos()["silo-1"]
    plan = FedCoESamples.plan(PARAMS, LIMITS)
    start = Published(blocks.initial_state(plan, plain.RUN), {"rows/0": {"rows": 800, "silos": 8}})
    mine = int(member._choice(0, start, data).argmax())
    crowded = {f"silos-{mine}": 8, f"silos-{1 - mine}": 0}
    slots = {**start.slots, **{f"train/{k}": crowded for k in range(3)}}
    assert int(member._choice(3, Published(start.blocks, slots), data).argmax()) == 1 - mine
    prices = member._prices(3, Published(start.blocks, slots))
    assert prices[mine] == pytest.approx(0.15) and prices[1 - mine] == pytest.approx(-0.15)


def test_responsibilities_follow_gate_likelihood_and_affinity() -> None:
    _, published, members = trained()
    member, data = members["silo-1"], silos()["silo-1"]
    assert isinstance(member, FedCoESamples)
    r_EB = member._responsibilities(8, published, data)
    gate_EB, p_EBC = member._gate(published, data.x_train), [member_p(published, e, data) for e in range(2)]
    mean_E = [np.mean([np.log(p[row, label]) for row, label in enumerate(data.y_train)]) for p in p_EBC]
    affinity_E = np.exp(mean_E) / np.exp(mean_E).sum()
    for row, label in list(enumerate(data.y_train))[:20]:
        slow = np.array([affinity_E[e] * gate_EB[e, row] * p_EBC[e][row, label] for e in range(2)])
        np.testing.assert_allclose(r_EB[:, row], slow / slow.sum(), atol=1e-5)


def member_p(published: Published, e: int, data: DataSet) -> np.ndarray:
    p_BC: np.ndarray = experts.predict(
        [{part: published.blocks[f"expert-{e}.{part}"] for part in experts.PARTS}], data.x_train
    )[0]
    return p_BC


def test_global_predictions_need_no_batch_and_all_modes_are_probabilities() -> None:
    _, published, members = trained()
    member, x = members["silo-1"], silos()["silo-1"].x_test
    together = member.predict(published, x, "global")
    alone = np.concatenate([member.predict(published, x[at : at + 1], "global") for at in range(len(x))])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    for mode in ("global", "personal", "cold"):
        np.testing.assert_allclose(member.predict(published, x, mode).sum(axis=1), 1.0, atol=1e-6)
    few = x[: MIN_BATCH_ROWS - 1]
    np.testing.assert_allclose(
        member.predict(published, few, "cold"), member.predict(published, few, "global"), atol=1e-6
    )
    with pytest.raises(DataRefused, match="no local expert"):
        FedCoESamples(PARAMS).predict(published, x, "personal")


def test_it_learns() -> None:
    end = trained()[1].slots["eval/0"]
    assert end["global.correct"] / end["test.rows"] > 0.7
    assert end["personal.correct"] / end["test.rows"] > 0.85
    assert sum(end[f"load-{e}"] for e in range(2)) == pytest.approx(end["test.rows"], abs=16)


def test_without_any_open_expert_the_generalist_answers() -> None:
    """More experts than the floors allow: with eight silos over six, no expert keeps three."""
    _, published, members = federate(experts=6, rounds=2, warmup=2, finetune_steps=1)
    member, x = members["silo-1"], silos()["silo-1"].x_test
    shut = [e for e in range(6) if not published.blocks[f"expert-{e}.b2"].any()]
    assert shut, "some lane stays below its floor"
    assert isinstance(member, FedCoESamples)
    assert not member._standing(published)[shut].any()
    other = dict(published.blocks) | {f"expert-{e}.w2": published.blocks[f"expert-{e}.w2"] + 1 for e in shut}
    for mode in ("global", "cold"):
        said = [member.predict(Published(of, published.slots), x, mode) for of in (published.blocks, other)]
        np.testing.assert_array_equal(*said, err_msg="an expert that never opened never speaks")
    start = Published(blocks.initial_state(FedCoESamples.plan(PARAMS, LIMITS), plain.RUN))
    generalist = {part: start.blocks[f"generalist.{part}"] for part in experts.PARTS}
    for mode in ("global", "cold"):
        np.testing.assert_allclose(
            FedCoESamples(PARAMS).predict(start, x, mode), experts.predict([generalist], x)[0], atol=1e-6
        )


@pytest.mark.parametrize("void", [["rows/0"], ["train/0", "train/2"]])
def test_a_void_step_stops_nobody(void: list[str]) -> None:
    end = federate(void, rounds=4, warmup=2, finetune_steps=1)[1].slots["eval/0"]
    assert end["test.rows"] > 0
