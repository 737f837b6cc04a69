"""What the pages promise of whole runs and no other test would miss; see docs/promises.md."""

from __future__ import annotations

import base64
import logging
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import Refusal, StepClosed
from aggregator.run_record import RunRecord
from crypto.messages import Decline, Message, Open, pack_two, unpack_two
from jobs.demo.federation import Federation
from jobs.demo.report import write_report
from jobs.membership.propose import DAY
from jobs.owner.decisions import deny
from jobs.owner.review import OwnerView
from jobs.runtime.in_process import InProcess, run_job
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local

JOB = local.spec(rounds=2)
#: Of the job's four steps, the one at whose start something happens to silo-2.
STEP = 2


def run_and_read(federation: Federation, **how: Any) -> RunRecord:
    outcome, _, _ = local.run_job(JOB, federation.aggregator, federation.homes, **how)
    return RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)


@pytest.mark.parametrize("change", ["denied", "expired"])
def test_a_decision_that_ends_during_a_run_ends_the_silos_part_at_the_next_step(
    federation: Federation, change: str
) -> None:
    home = SiloHome(federation.silo("silo-2"))

    class Deciding(InProcess):
        agent: Agent

        def send(self, request: Message) -> Message | None:
            asked = local.asked(request)
            if (asked.step, asked.attempt, request.phase) == (STEP, 0, "open"):
                if change == "denied":
                    deny(OwnerView(home), JOB.digest.hex(), "The ethics board says no.")
                else:  # a demonstration's approval lasts a day, its charter longer
                    self.agent.site = replace(self.agent.site, now=lambda: int(time.time()) + 2 * DAY)
            return super().send(request)

    record = run_and_read(federation, courier=lambda silo, agent: (Deciding if silo == "silo-2" else InProcess)(agent))
    refused = {(one.record.silo, one.record.k, one.record.phase, one.record.code) for one in record.of(Refusal)}
    steps = [one.record for one in record.of(StepClosed)]
    assert len(steps) == len(record.plan.steps) == 4
    assert refused == {("silo-2", k, "open", "NOT_APPROVED") for k in range(STEP, 4)}
    assert [step.k for step in steps if "silo-2" in step.survivors] == list(range(STEP))


def test_what_was_decided_during_a_run_stays_in_force_for_the_next(federation: Federation) -> None:
    """A denial stands until a newer approval: the same job, submitted again, does not have this silo."""
    run_and_read(federation)
    deny(OwnerView(SiloHome(federation.silo("silo-2"))), JOB.digest.hex(), "Once was enough.")
    outcome, _, _ = run_job(JOB, federation.aggregator_home, federation.silo_homes)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert {(one.record.silo, one.record.code) for one in record.of(Refusal)} == {("silo-2", "NOT_APPROVED")}


def test_peers_refuse_a_silo_whose_journal_is_an_old_copy(federation: Federation) -> None:
    journal = federation.silo("silo-3") / "journal.jsonl"
    old = journal.read_bytes() if journal.exists() else b""
    run_and_read(federation)
    journal.write_bytes(old)
    record = run_and_read(federation)
    refusals = [one.record for one in record.of(Refusal)]
    assert {one.code for one in refusals} == {"JOURNAL_LOST"}
    assert {one.silo for one in refusals if one.phase == "deal"} >= set(federation.silos) - {"silo-3"}
    steps = [one.record for one in record.of(StepClosed)]
    assert len(steps) == 4 and all("silo-3" not in step.survivors for step in steps)


def test_no_file_log_or_message_has_a_key_or_a_salt(federation: Federation, caplog: pytest.LogCaptureFixture) -> None:
    """Of a run, its report and what its processes log: raw, as hex and as Base64. Only the secret's own file has it."""
    caplog.set_level(logging.DEBUG)
    sent: dict[str, list[bytes]] = {}
    outcome, _, _ = local.run_job(JOB, federation.aggregator, federation.homes, courier=partial(local.Wire, sent))
    write_report(federation.root, outcome.run)
    places = [path for path in federation.root.rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in places)
    secret = [path for path in places if path.name == "salt" or path.suffix == ".key"]
    assert len(secret) == 3 * len(federation.silos) + 2, "agent, owner and salt of each; aggregator and consortium"
    found = {path: path.read_bytes() for path in places}
    elsewhere = [caplog.text.encode(), *(part for parts in sent.values() for part in parts)]
    for mine in secret:
        value = found[mine]
        assert len(value) == 32
        for form in (value, value.hex().encode(), base64.b64encode(value).rstrip(b"=")):
            assert [path for path, data in found.items() if form in data and path != mine] == []
            assert not any(form in part for part in elsewhere), mine


@pytest.mark.parametrize("field", ["job", "plan", "charter", "code"])
def test_another_plan_than_the_jobs_is_refused(federation: Federation, field: str) -> None:
    """And another job, charter or software: the silo has its own of each and compares."""
    _, aggregator = AggregatorHome(federation.aggregator).open()
    told: list[Message] = []

    class Noting(InProcess):
        def send(self, request: Message) -> Message | None:
            told.append(request)
            return super().send(request)

    local.run_job(JOB, federation.aggregator, federation.homes, courier=lambda silo, agent: Noting(agent))
    first = local.asked(told[0])
    changed: dict[str, Any] = {field: bytes(32)}
    other = replace(Open.from_bytes(first.payload), **changed)
    agent = local.open_agent(JOB.text, SiloHome(federation.silo("silo-1")))
    try:
        answer = agent.handle(Message("open", replace(first, payload=bytes(other)).sign(aggregator)))
        assert Decline.open(answer.body, local.any_key).code == "VERSION_MISMATCH"
        assert agent.k == 0 and agent._session is None
    finally:
        agent.close()


def test_an_advert_with_another_approval_is_not_counted(federation: Federation) -> None:
    """Silo-2 shows what silo-1's data owner signed: the aggregator goes on without silo-2."""
    shown: list[bytes] = []

    class Borrowing(InProcess):
        agent: Agent

        def send(self, request: Message) -> Message | None:
            answer = super().send(request)
            if answer is None or answer.phase != "open":
                return answer
            adverts, [(silo, approval)] = unpack_two(answer.body)
            if self.agent.site.silo == "silo-1":
                shown.append(approval)
            return Message("open", pack_two(adverts, [(silo, shown[0])])) if silo == "silo-2" else answer

    record = run_and_read(federation, courier=lambda silo, agent: Borrowing(agent))
    assert shown and all("silo-2" not in one.record.survivors for one in record.of(StepClosed))
    assert {one.record.silo for one in record.of(Refusal)} == {"silo-2"}
    assert len(list(record.of(StepClosed))) == 4
