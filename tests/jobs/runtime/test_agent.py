"""Agents of homes, alone and in whole runs: what is refused before there is an agent, and how the others go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import Refusal, StepClosed
from aggregator.run_record import RunRecord
from crypto import equivocation
from crypto.errors import DataRefused, NonFinite, NoSpace, SpecError
from crypto.home import Home
from crypto.keys import Identity
from crypto.messages import Message, Request
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.runtime import compose as composition
from jobs.runtime.compose import answering_agent, open_site
from jobs.runtime.in_process import InProcess, run_job
from jobs.security_log.writer import SecurityLog
from silo_agent.agent import Refusing
from silo_agent.home import MOST_EVIDENCE, SiloHome
from silo_agent.journal import parse_record
from silo_agent.pysyft.request_queue import RequestQueue
from tests import local
from tests.one_agent import another, code_of, read


def change_data(federation: Federation, silo: str, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    path = local.private_file(federation.silo(silo))
    arrays = dict(np.load(path))
    change(arrays)
    np.savez(path, **arrays)


def with_nan(arrays: dict[str, np.ndarray]) -> None:
    arrays["x_train"][0, 0] = np.nan


def one_class(arrays: dict[str, np.ndarray]) -> None:
    arrays["y_train"][:] = 3


def few_rows(arrays: dict[str, np.ndarray]) -> None:
    arrays["x_train"], arrays["y_train"] = arrays["x_train"][:15], arrays["y_train"][:15]


@pytest.mark.parametrize(
    ("change", "error"), [(with_nan, NonFinite), (one_class, DataRefused), (few_rows, DataRefused)]
)
def test_bad_data_never_becomes_an_agent(federation: Federation, change, error) -> None:  # type: ignore[no-untyped-def]
    change_data(federation, "silo-1", change)
    with pytest.raises(error):
        local.open_agent(local.spec().text, SiloHome(federation.silo("silo-1")))
    with pytest.raises(error):  # and the journal's lock was let go, so it is the data again that is refused
        local.open_agent(local.spec().text, SiloHome(federation.silo("silo-1")))


def test_a_registered_pool_is_read_for_methods_that_ask(tmp_path: Path) -> None:
    asked: list[str] = []
    pool = object()

    class Needs:
        pool = "ours"

        def provide(self, pool: object) -> None:
            self.given = pool

    class Registered:
        def resolve(self, name: str, *, thorough: bool) -> SimpleNamespace:
            asked.append(name)
            return SimpleNamespace(data=pool)

    assert composition.with_inputs(Needs(), tmp_path, Registered()).given is pool and asked == ["ours"]
    ships = Needs()
    ships.pool = ""
    assert (
        not hasattr(composition.with_inputs(ships, tmp_path, Registered()), "given")
        and composition.with_inputs(3, tmp_path, Registered()) == 3
        and asked == ["ours"]
    )


def test_a_missing_data_set_is_named(federation: Federation) -> None:
    local.private_file(federation.silo("silo-1")).unlink()
    with pytest.raises(DataRefused, match="digits"):
        local.open_agent(local.spec().text, SiloHome(federation.silo("silo-1")))


def test_an_agent_with_another_key_than_the_charters_is_refused(federation: Federation) -> None:
    key = federation.silo("silo-1") / "keys" / "agent.key"
    key.unlink()
    Identity.generate().save(key)
    with pytest.raises(SpecError, match="agent key"):
        local.open_agent(local.spec().text, SiloHome(federation.silo("silo-1")))


def test_a_key_that_others_may_read_is_refused(federation: Federation) -> None:
    (federation.silo("silo-1") / "keys" / "agent.key").chmod(0o644)
    with pytest.raises(SpecError, match="600"):
        local.open_agent(local.spec().text, SiloHome(federation.silo("silo-1")))


def test_a_foreign_charter_is_refused(federation: Federation, tmp_path: Path) -> None:
    other = local.federation(tmp_path / "other")
    shutil.copy(other.silo("silo-1") / "charter.bin", federation.silo("silo-1") / "charter.bin")
    with pytest.raises(Exception, match="signature"):
        open_site(SiloHome(federation.silo("silo-1")))


def test_a_job_that_is_not_approved_is_declined_and_the_others_go_on(federation: Federation) -> None:
    for silo in federation.silos:
        if silo != "silo-2":
            local.approve(SiloHome(federation.silo(silo)), local.spec(rounds=1))
    outcome, _, _ = run_job(local.spec(rounds=1), federation.aggregator_home, federation.silo_homes)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert {(one.record.silo, one.record.phase, one.record.code) for one in record.of(Refusal)} == {
        ("silo-2", "open", "NOT_APPROVED")
    }
    assert all("silo-2" not in closed.record.survivors for closed in record.of(StepClosed))


def test_a_stricter_floor_of_one_silo_is_its_own(federation: Federation) -> None:
    """One silo withholds its shares of a lane; the seven others still reach the threshold of five."""
    (federation.silo("silo-2") / "policy.toml").write_text("[floors]\neveryone = 9\n")
    outcome, _, _agents = local.run_job(local.spec(rounds=1), federation.aggregator, federation.homes)
    assert outcome.lanes_shut == 0


def test_floors_of_four_silos_keep_a_lane_shut(federation: Federation) -> None:
    for silo in federation.silos[:4]:
        (federation.silo(silo) / "policy.toml").write_text("[floors]\neveryone = 9\n")
    outcome, run, _ = local.run_job(local.spec(rounds=1), federation.aggregator, federation.homes)
    assert outcome.lanes_shut == 1
    from crypto import blocks

    assert outcome.state_digest == blocks.state_digest(blocks.initial_state(run.spec.plan, run.id)).hex()


def first_open(federation: Federation, nonce: bytes | None = None) -> Message:
    """The request that opens step 0, as the aggregator sends it to silo-1."""
    from jobs.job import encode_plan
    from jobs.runtime.compose import open_run

    spec = local.spec()
    plan = encode_plan(spec.plan(Home(federation.aggregator).charter()))
    run = open_run(spec.text, plan, AggregatorHome(federation.aggregator), nonce=nonce)
    generator = run.run()
    try:
        return next(generator).requests["silo-1"]
    finally:
        generator.close()


def test_another_request_for_an_answered_phase_is_refused_and_kept_as_evidence(federation: Federation) -> None:
    home = federation.silo("silo-1")
    charter = Home(home).charter()
    _, aggregator = AggregatorHome(federation.aggregator).open()
    agent = local.open_agent(local.spec().text, SiloHome(home))
    try:
        first = first_open(federation)
        answer = agent.handle(first)
        assert answer.phase == "open"
        assert code_of(agent.handle(another(first, aggregator))) == "EQUIVOCATION"
        assert agent.handle(first).body == answer.body  # the first answer stands
        (kept,) = (home / "evidence").iterdir()
        run = read(first).run.hex()
        assert kept.name == f"{run[:16]}-0-0-open.bin"
        assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        evidence = kept.read_bytes()
        assert equivocation.Pair.from_bytes(evidence).first == first.body
        assert equivocation.verify(evidence, charter).signer == "aggregator"
        third = another(another(first, aggregator), aggregator)
        assert code_of(agent.handle(third)) == "EQUIVOCATION"
        assert kept.read_bytes() == evidence  # the first evidence stands, too
        assert code_of(agent.handle(another(first, Identity.generate()))) == "BAD_SIGNATURE"
    finally:
        agent.close()


def test_no_two_requests_of_an_honest_run_are_evidence(federation: Federation) -> None:
    """With a silo that misses answers, so that silos are told different results."""
    told: list[bytes] = []

    class Noting(InProcess):
        def __init__(self, silo: str, agent: object) -> None:
            super().__init__(agent)  # type: ignore[arg-type]
            self._silo = silo

        def send(self, request: Message) -> Message | None:
            told.append(request.body)
            answer = self.agent.handle(request)
            step = read(request).step
            return None if (self._silo, step, request.phase) == ("silo-3", 1, "open") else answer

    local.run_job(local.spec(rounds=2), federation.aggregator, federation.homes, courier=Noting)  # type: ignore[arg-type]
    charter = Home(federation.aggregator).charter()
    by_place: dict[tuple[int, int, str], set[bytes]] = {}
    for body in told:
        request = Request.open(body, lambda _: charter.aggregator)
        by_place.setdefault((request.step, request.attempt, request.phase), set()).add(body)
    assert {phase for (_, _, phase), bodies in by_place.items() if len(bodies) > 1} == {"open", "contribute"}
    for bodies in by_place.values():
        for one, other in combinations(bodies, 2):
            assert equivocation.twice(one, other, charter) is None


def test_evidence_never_fills_the_disk(tmp_path: Path) -> None:
    for number in range(MOST_EVIDENCE + 5):
        SiloHome(tmp_path).keep_evidence(f"{number}.bin", b"evidence")
    assert len(list((tmp_path / "evidence").iterdir())) == MOST_EVIDENCE


def test_a_step_whose_shares_may_have_left_is_not_opened_again(federation: Federation) -> None:
    """Else the session that knows of the release would be gone, and with it the count of void steps."""
    seen: dict[str, Message] = {}

    class Late(InProcess):
        def send(self, request: Message) -> Message | None:
            answer = self.agent.handle(request)
            if request.phase == "unmask-slots" and "decline" not in seen:
                opened = read(seen["open"])
                seen["decline"] = self.agent.handle(Message("open", replace(opened, attempt=1).sign(aggregator)))
            seen[request.phase] = request
            return answer

    _, aggregator = AggregatorHome(federation.aggregator).open()
    outcome, _, _ = local.run_job(
        local.spec(rounds=1),
        federation.aggregator,
        federation.homes,
        courier=lambda silo, agent: Late(agent) if silo == "silo-1" else InProcess(agent),
    )
    assert code_of(seen["decline"]) == "ALREADY_RELEASED"
    assert (outcome.steps_released, outcome.refusals) == (3, 0)


def test_what_a_silo_signs_is_in_its_journal_when_it_leaves(federation: Federation) -> None:
    """Its advert, the survivors that it attests to, and its release."""
    path, kinds = SiloHome(federation.silo("silo-1")).journal_path, dict[str, list[str]]()

    class Watched(InProcess):
        def send(self, request: Message) -> Message | None:
            answer = self.agent.handle(request)
            lines = map(parse_record, path.read_bytes().splitlines())
            kinds.setdefault(request.phase, [line.kind for line in lines if getattr(line, "step", None) == 0])
            return answer

    local.run_job(
        local.spec(rounds=1),
        federation.aggregator,
        federation.homes,
        courier=lambda silo, agent: Watched(agent) if silo == "silo-1" else InProcess(agent),
    )
    assert kinds["open"] == kinds["contribute"] == ["advertised"]
    assert kinds["attest"] == ["advertised", "attested"]
    assert kinds["unmask-slots"] == ["advertised", "attested", "released", "opened"]


@pytest.mark.parametrize(
    ("change", "code"), [(with_nan, "NON_FINITE"), (one_class, "DATA_REFUSED"), (few_rows, "DATA_REFUSED")]
)
def test_bad_data_at_one_silo_is_its_refusal_and_the_others_go_on(federation: Federation, change, code: str) -> None:  # type: ignore[no-untyped-def]
    from jobs.runtime.compose import answering_agent

    change_data(federation, "silo-6", change)
    outcome, _, _ = local.run_job(local.spec(rounds=1), federation.aggregator, federation.homes, agent=answering_agent)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert {(one.record.silo, one.record.phase, one.record.code) for one in record.of(Refusal)} == {
        ("silo-6", "open", code)
    }
    assert outcome.steps_released == 3


def test_the_security_log_tells_the_story_of_a_run(federation: Federation) -> None:
    """One silo is not approved, one server request is forged: each site's log says so, and what was released."""
    job = local.spec(rounds=1)
    for silo in federation.silos[1:]:
        local.approve(SiloHome(federation.silo(silo)), job)
    outcome, _, _ = run_job(job, federation.aggregator_home, federation.silo_homes, agent=answering_agent)

    def told(silo: str) -> list[str]:
        text = (federation.silo(silo) / "security.jsonl").read_text()
        return [str(json.loads(line)["event"]) for line in text.splitlines()]

    refused = told(federation.silos[0])
    assert refused[1:] == ["policy-changed", "agent-started", "approval-missing", "request-queued", "refusal"]
    mine = told(federation.silos[1])
    steps = outcome.steps_released
    assert mine.count("shares-released") == steps
    assert [event for event in mine if event not in ("shares-released", "log-opened")] == [
        "policy-changed",
        "agent-started",
        "approval-used",
        "run-joined",
        "run-ended",
    ]
    site = open_site(SiloHome(federation.silo(federation.silos[1])))
    site.journal.close()
    forged = Request(run=bytes(32), step=0, attempt=0, phase="open", payload=b"").sign(Identity.generate())
    agent = local.open_agent(job.text, SiloHome(federation.silo(federation.silos[1])))
    try:
        assert code_of(agent.handle(Message("open", forged))) == "BAD_SIGNATURE"
    finally:
        agent.close()
    assert told(federation.silos[1])[-2:] == ["bad-signature", "refusal"]


def test_no_share_leaves_that_the_security_log_cannot_tell_of(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: SecurityLog, event: str, **fields: object) -> None:
        if event == "shares-released":
            raise NoSpace("full")

    monkeypatch.setattr(SecurityLog, "__call__", full)
    outcome, _, _ = local.run_job(local.spec(rounds=1), federation.aggregator, federation.homes)
    assert outcome.steps_released == 0 and outcome.steps_void > 0
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert {one.record.code for one in record.of(Refusal)} >= {"NO_SPACE"}
    for home in federation.homes.values():
        assert '"released"' not in (home / "journal.jsonl").read_text()


def test_a_job_on_data_that_is_not_registered_is_put_before_the_owner_too(federation: Federation) -> None:
    home = federation.silo("silo-1")
    raw = json.loads(local.spec().text) | {"dataset": "wards"}
    with pytest.raises(DataRefused, match="wards"):
        composition.open_agent(JobSpec.parse(raw).text, SiloHome(home))
    assert isinstance(answering_agent(JobSpec.parse(raw).text, SiloHome(home)), Refusing)
    assert [request.digest for request in RequestQueue(SiloHome(home), "silo-1").pending()] == [
        JobSpec.parse(raw).digest
    ]


def test_a_queue_that_takes_no_more_does_not_change_why_a_job_is_refused(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RequestQueue, job: str) -> str:
        raise NoSpace("full")

    monkeypatch.setattr(RequestQueue, "put", full)
    refusing = answering_agent(local.spec().text, SiloHome(federation.silo("silo-1")))
    assert code_of(refusing.handle(first_open(federation))) == "NOT_APPROVED"
