"""A silo that leaves: the step under way is ended, the next declined; an approval is not used up by leaving."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import of_kind, read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind, Refusal
from crypto.home import Home
from crypto.keys import Identity
from crypto.messages import Message
from jobs.runtime import drain
from jobs.services import run as services
from silo_agent.agent import Agent
from silo_agent.journal import Journal
from tests import local
from tests.members import Bare
from tests.records import as_record

pytestmark = pytest.mark.slow


def run(root: Path, phase: str) -> tuple[list[Refusal], Agent]:
    """A run of eight silos in which silo-3 is told to leave when ``phase`` first comes; refusals, and its agent."""
    federation = local.federation(root / "fed")
    agents: dict[str, Agent] = {}

    def fault(message: Message, answer: Callable[[], Message]) -> Message | None:
        if message.phase == phase:
            drain.begin(Home(federation.silo("silo-3")))
        return answer()

    def courier(silo: str, agent: Agent) -> local.Faulty:
        agents[silo] = agent
        return local.Faulty(agent, fault if silo == "silo-3" else lambda message, answer: answer())

    local.run_job(local.spec(), federation.aggregator, federation.homes, courier=courier)
    entries = read(AggregatorHome(federation.aggregator).ledger_path)
    return [entry.record for entry in of_kind(entries, Refusal)], agents["silo-3"]


def test_the_step_under_way_is_ended_and_the_next_declined(tmp_path: Path) -> None:
    refusals, agent = run(tmp_path, "attest")
    assert {(one.silo, one.code, one.phase) for one in refusals} == {("silo-3", "LEAVING", "open")}
    assert min(one.k for one in refusals) == 1, "step 0 was ended"
    assert agent.left and agent.k >= 1, "what step 0 opened was taken, for a run that is resumed"


def test_a_silo_that_leaves_joins_no_run(tmp_path: Path) -> None:
    refusals, agent = run(tmp_path, "open")
    assert {one.code for one in refusals} == {"LEAVING"} and min(one.k for one in refusals) == 0
    journal = Journal(tmp_path / "fed" / "silos" / "silo-3" / "journal.jsonl")
    try:
        assert agent._run == b"" and journal.releases == 0
    finally:
        journal.close()
    assert agent.left


def test_who_stays_has_not_left(tmp_path: Path) -> None:
    refusals, agent = run(tmp_path, "never")
    assert refusals == [] and agent.left, "after the run's end"


def test_the_folder_tells_and_is_cleared(tmp_path: Path) -> None:
    assert not drain.begun(Home(tmp_path)) and drain.left(Home(tmp_path)) == set()
    drain.note_left(Home(tmp_path))
    assert drain.left(Home(tmp_path)) == set(), "nobody leaves unasked"
    drain.begin(Home(tmp_path))
    drain.begin(Home(tmp_path))
    assert drain.begun(Home(tmp_path)) and drain.left(Home(tmp_path)) == set()
    drain.note_left(Home(tmp_path))
    assert drain.left(Home(tmp_path)) == {os.getpid()}
    drain.clear(Home(tmp_path))
    drain.clear(Home(tmp_path))
    assert not drain.begun(Home(tmp_path))


def test_a_draining_home_is_not_ready(tmp_path: Path) -> None:
    members = Bare(tmp_path, 3)
    home = members.home("silo-1")
    assert services._ready(Home(home)) == ""
    drain.begin(Home(home))
    assert services._ready(Home(home)) == "draining"


def test_the_aggregator_waits_for_the_record_that_ends_a_step(tmp_path: Path) -> None:
    federation = local.federation(tmp_path / "fed")
    recorded = services._Recorded(Home(federation.aggregator))
    assert not recorded(), "no ledger yet"
    ledger = Ledger.open(AggregatorHome(federation.aggregator).ledger_path, Identity.generate())
    opened = {"run": "r", "k": 0, "name": "train/0", "invited": [], "attempt": 0}
    ledger.append(as_record(Kind.STEP_OPENED, opened))
    assert not recorded()
    ledger.append(
        as_record(Kind.RUN_FAILED, {"run": "r", "code": "ROUND_LOST", "phase": "deal", "missing": [], "k": 0})
    )
    assert recorded()
    assert not services._Recorded(Home(federation.aggregator))(), "what was there before does not count"
