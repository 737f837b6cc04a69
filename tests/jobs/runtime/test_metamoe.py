"""MetaMoE in a whole run: nobody learns which proxies a silo chose; a pool that silos registered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import DataRefused
from crypto.messages import Message
from jobs.demo.domain_data import make
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from silo_agent import proxies
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from silo_agent.methods import Limits
from silo_agent.methods.metamoe import MetaMoE
from silo_agent.pysyft.catalogue import Catalogue
from tests import digits, local, plain

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=8)
SMALL: dict[str, object] = {
    **digits.GROUPS, "features": 64, "classes": 10, "rounds": 2, "proxies": 10, "background": 20, "seed": 5,
    "local_steps": 2, "hidden": 4, "projection": 4, "candidates": 30,
}  # fmt: skip


def job(**changes: object) -> JobSpec:
    base = {"name": "metamoe-test", "method": "metamoe", "dataset": "digits-domains", "purpose": "a test"}
    return JobSpec.parse(base | {"params": SMALL | changes})


def federation(root: Path) -> Federation:
    data = {name: arrays for name, arrays in make(8, 3).items() if name.startswith("silo-")}
    return Federation.make(root, "test", data, "digits-domains")


def test_proxies_and_a_silos_own_figures_are_in_no_byte_that_leaves(tmp_path: Path) -> None:
    """A whole run: masks, floors and round code of production, which must come to what plain sums come to."""
    made, sent = federation(tmp_path / "f"), dict[str, list[bytes]]()
    _, run, agents = local.run_job(
        job(), made.aggregator, made.homes, agent=local.recording, courier=partial(local.Wire, sent)
    )
    plan, members = MetaMoE.plan(SMALL, LIMITS), {silo: MetaMoE(SMALL, silo) for silo in agents}
    unmasked = plain.run(plan, members, {silo: agents[silo].data for silo in agents}, LIMITS, run_id=run.id)
    assert blocks.state_digest(unmasked.blocks) == blocks.state_digest(run.state)
    pool = proxies.shipped("digits-public").x_train
    for silo, parts in sent.items():
        everything = b"\0".join(parts)
        own = agents[silo].method
        assert own.choice is not None and len(own.state_dict()) == 2
        lists = [own.choice.train, own.choice.held_out, np.sort(own.choice.train), own.choice.train[:3]]
        chosen = np.isin(np.arange(len(pool)), np.concatenate([own.choice.train, own.choice.held_out]))
        for kind in ("<u2", ">u2", "<i4", ">i4", "<i8", ">i8", "<f4", "<f8"):
            for numbers in (*lists, chosen[:200]):
                assert np.ascontiguousarray(numbers, dtype=kind).tobytes() not in everything
        assert np.packbits(chosen)[:24].tobytes() not in everything
        for picked in own.choice.train:
            assert pool[picked].tobytes() not in everything, "nor a row itself"
        uploaded = 0
        for encoded in agents[silo].plain.values():
            for vector in encoded.lanes.values():
                if vector.any():
                    uploaded += 1
                    assert vector[:8].tobytes() not in everything, "nothing leaves unmasked"
            if encoded.slots.tolist() == [1]:
                continue  # a count of silos alone: every silo has the same, and it is in many messages
            for kind in ("<u8", ">u8"):
                assert encoded.slots.astype(kind).tobytes() not in everything, "no figure of one silo"
        assert uploaded == 2 + 2, "its expert twice, its centre and its moments"
    # All silos of a group send as many bytes, whatever they chose.
    sizes = [sum(map(len, parts)) for parts in sent.values()]
    assert max(sizes) - min(sizes) < 512, sizes


def test_a_pool_that_silos_registered_serves_a_run(tmp_path: Path) -> None:
    """And a silo without it declines by name before it trains."""
    made, found = federation(tmp_path / "f"), proxies.shipped("digits-public")
    arrays = {name: getattr(found, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    arrays |= {"classes": np.array(10)}
    np.savez(tmp_path / "pool.npz", **arrays)
    np.savez(tmp_path / "mock.npz", **(arrays | {"x_train": found.x_train + 1, "x_test": found.x_test + 1}))
    named = job(pool="hospital-pool")
    for silo, home in made.homes.items():
        if silo != "silo-1":
            Catalogue(SiloHome(home), silo).add("hospital-pool", tmp_path / "pool.npz", tmp_path / "mock.npz")
    with pytest.raises(DataRefused, match="'hospital-pool' is not in this silo's catalogue"):
        local.open_agent(named.text, SiloHome(made.homes["silo-1"]))
    agent = local.open_agent(named.text, SiloHome(made.homes["silo-2"]))
    try:
        assert isinstance(agent.method, MetaMoE) and agent.method.public().rows == 599
    finally:
        agent.close()
    other = job(pool="hospital-pool", pool_sha256="0" * 64)
    with pytest.raises(DataRefused, match="SHA-256"):
        local.open_agent(other.text, SiloHome(made.homes["silo-2"]))


def test_a_silo_of_no_group_is_not_asked_to_stand_in(tmp_path: Path) -> None:
    """It uploads nothing in ``train/0``, whose lanes are all of groups: its word for another's upload is no proof."""
    made = federation(tmp_path / "f")
    outside = {"group-0": "silo-2 silo-3 silo-4", "group-1": "silo-5 silo-6 silo-7 silo-8"}
    stood_in: list[tuple[str, int]] = []

    def courier(silo: str, agent: Agent) -> local.Faulty:
        def fault(request: Message, answer: Callable[[], Message]) -> Message | None:
            k = local.asked(request).step
            if request.phase == "stand-in":
                stood_in.append((silo, k))
            return None if (silo, k, request.phase) == ("silo-8", 1, "tag") else answer()

        return local.Faulty(agent, fault)

    outcome, run, agents = local.run_job(job(**outside), made.aggregator, made.homes, courier=courier)
    assert run.spec.plan.steps[1].name == "train/0"
    assert outcome.steps_void == 0 and stood_in == [("silo-2", 1)]
    for agent in agents.values():
        assert blocks.state_digest(agent.state).hex() == outcome.state_digest
