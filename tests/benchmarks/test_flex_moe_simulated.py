"""FLEX-MoE under other rules of assignment, in simulation."""

from __future__ import annotations

import pytest

from crypto import blocks
from crypto.errors import SpecError
from silo_agent.expert_prices import excess
from silo_agent.methods.flex_moe import FlexMoE
from tests.benchmarks.flex_moe_simulated import RULES, simulated
from tests.silo_agent.methods.test_flex_moe import LIMITS, SMALL, federate, silos, start

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rule", RULES)
def test_rules_run_in_simulation_within_capacity(rule: str) -> None:
    kind = simulated(rule, silos())
    params = SMALL | {"capacity-silo-2": 1}
    plan = kind.plan(params, LIMITS)
    tasks = {"rows", "warm", "train", "eval"} | ({"bid"} if rule == "price" else set())
    assert {step.task for step in plan.steps} == tasks
    members = {silo: kind(params, silo) for silo in silos()}
    published = federate(plan, members, silos())
    everyone = kind.everyone
    assert everyone.held().shape == (2, 8, 4)
    assert everyone.held().sum(axis=2).tolist() == [everyone.capacities] * 2 == [[2, 1, 2, 2, 2, 2, 2, 2]] * 2
    assert len(everyone.shares()) == 2 and all(share > 0.5 for share in everyone.shares())
    loads = [published.slots["train/1"][f"load-{e}"] for e in range(4)]
    assert loads == everyone.held()[1].sum(axis=0).tolist()
    if rule == "lp":
        assert excess(loads, everyone.wanted) == (0, 0)
    again = {silo: kind(params, silo) for silo in silos()}
    federate(plan, again, silos())
    assert all(members[silo].held(1, published, silos()[silo]) == again[silo].held(1, published, silos()[silo])
               for silo in silos())  # fmt: skip


def test_a_rule_that_there_is_not_is_refused() -> None:
    with pytest.raises(SpecError, match="price, greedy, penalised, random, lp"):
        simulated("auction", silos())
    with pytest.raises(SpecError, match="at most 5"):
        simulated("lp", silos()).plan(SMALL | {"experts": 6}, LIMITS)
    stranger = simulated("lp", silos())
    assert stranger(SMALL).silo == "" and not stranger.everyone.members


def test_prices_in_simulation_are_those_of_the_method() -> None:
    kind = simulated("price", silos())
    assert kind.plan(SMALL, LIMITS).digest == FlexMoE.plan(SMALL, LIMITS).digest
    one = federate(kind.plan(SMALL, LIMITS), {silo: kind(SMALL, silo) for silo in silos()}, silos())
    other = federate(*start(SMALL, silos()), silos())
    assert blocks.state_digest(one.blocks) == blocks.state_digest(other.blocks)
