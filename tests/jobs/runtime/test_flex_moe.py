"""FLEX-MoE in a whole run: fitness, router and hidden choices are in no byte that leaves a silo."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import StepClosed
from aggregator.run_record import RunRecord
from crypto import blocks
from silo_agent import experts
from silo_agent.expert_prices import units
from silo_agent.methods import Limits
from silo_agent.methods.flex_moe import FlexMoE
from tests import local, plain

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=8)
SMALL: dict[str, object] = {
    "features": 64, "classes": 10, "experts": 4, "rounds": 2, "warm_rounds": 1, "inner_steps": 3, "local_steps": 2,
    "hidden": 4, "seed": 7,
}  # fmt: skip


@pytest.mark.parametrize("holdings", ["hidden", "visible"])
def test_fitness_router_and_hidden_choices_are_in_no_byte_that_leaves(tmp_path: Path, holdings: str) -> None:
    """A whole run: masks, floors and round code of production, which must come to what plain sums come to."""
    params = SMALL | {"holdings": holdings}
    job = local.spec("flex-moe", **params)  # type: ignore[arg-type]
    federation = local.federation(tmp_path / "federation")
    sent: dict[str, list[bytes]] = {}
    outcome, run, agents = local.run_job(
        job, federation.aggregator, federation.homes, courier=partial(local.Wire, sent)
    )
    plan, members = FlexMoE.plan(params, LIMITS), {silo: FlexMoE(params, silo) for silo in agents}
    cohort = {silo: agents[silo].data for silo in agents}
    unmasked = plain.run(plan, members, cohort, LIMITS, run_id=run.id)
    assert blocks.state_digest(unmasked.blocks) == blocks.state_digest(run.state)
    for silo, parts in sent.items():
        everything = b"\0".join(parts)
        own = agents[silo].method.memory
        for row in (*own.fitness.values(), *own.router.values()):
            for kind in ("<f4", "<f8", ">f8"):
                assert np.ascontiguousarray(row.reshape(-1)[-4:], dtype=kind).tobytes() not in everything
        assert np.array(units(own.fitness[1]), dtype="<u8").tobytes() not in everything
    held = {silo: members[silo].held(1, unmasked, cohort[silo]) for silo in members}
    closed = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run).of(StepClosed)
    shown = {entry.record.name: entry.record.holdings for entry in closed}
    sizes = [sum(map(len, parts)) for parts in sent.values()]
    if holdings == "hidden":
        assert not any(shown.values())
        assert max(sizes) - min(sizes) < experts.size(64, 4, 10), "all silos send alike, whatever they hold"
    else:
        assert {silo: list(lanes) for silo, lanes in shown["train/1"].items()} == {
            silo: [f"expert-{e}" for e in own] for silo, own in held.items()
        }
