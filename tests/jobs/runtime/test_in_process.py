"""A whole job in this process: the same round code as production; its evidence, its wire, its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from aggregator.home import AggregatorHome, RunFolder
from aggregator.ledger.format import read, verify
from aggregator.ledger.records import Kind, StepClosed
from aggregator.rounds.attempt import Exchange, Replies
from aggregator.rounds.run import Run, RunOutcome
from aggregator.run_record import RunRecord
from crypto import blocks, transcript
from crypto.cohort import Context
from crypto.errors import EvidenceError, FederationError, Malformed, SpecError, SumNotProven, TranscriptMismatch
from crypto.evidence import StepEvidence
from crypto.home import Home
from crypto.messages import MESSAGE_ARRAYS, Closing, Message, StepResult
from jobs.demo.federation import Federation
from jobs.evidence.run_summary import scores, secure_aggregation
from jobs.runtime.compose import EventFile
from jobs.runtime.in_process import drive
from silo_agent.agent import Agent
from tests import local


@pytest.fixture(scope="module")
def fedcoe(
    made: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Federation, RunOutcome, Run, dict[str, Agent]]:
    federation = local.copied(made, tmp_path_factory.mktemp("fedcoe") / "f")
    return (federation, *local.play(federation, local.spec("fedcoe")))


def test_a_job_runs_to_its_end(fedcoe: tuple[Federation, RunOutcome, Run, dict[str, Agent]]) -> None:
    federation, outcome, run, _ = fedcoe
    steps = len(run.spec.plan.steps)
    assert (outcome.steps_released, outcome.steps_void, outcome.refusals) == (steps, 0, 0)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    figures = secure_aggregation(record)
    assert figures["steps_released"] == steps
    assert figures["masked_bytes_per_parameter"] == 4.0
    assert scores(record)["global"][1] > 300


def test_every_silo_reaches_the_aggregators_state_and_signs_it(
    fedcoe: tuple[Federation, RunOutcome, Run, dict[str, Agent]],
) -> None:
    federation, outcome, _run, agents = fedcoe
    for agent in agents.values():
        assert blocks.state_digest(agent.state).hex() == outcome.state_digest
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert record.finished is not None
    charter = Home(federation.aggregator).charter()
    for silo, signed in record.finished.record.countersignatures.items():
        closing = Closing.open(bytes.fromhex(signed), lambda m: charter.member(m.silo).agent)
        assert (closing.silo, closing.chain.hex()) == (silo, record.finished.record.chain)
    assert sorted(record.finished.record.countersignatures) == list(federation.silos)


def test_the_ledger_verifies(fedcoe: tuple[Federation, RunOutcome, Run, dict[str, Agent]]) -> None:
    federation, _, _, _ = fedcoe
    _, identity = AggregatorHome(federation.aggregator).open()
    assert verify(AggregatorHome(federation.aggregator).ledger_path, identity.public)


def test_opened_sums_are_the_plain_integer_sums_bit_for_bit(
    fedcoe: tuple[Federation, RunOutcome, Run, dict[str, Agent]],
) -> None:
    """The chain on the ledger is recomputed from the silos' plain integers: one other bit, another chain."""
    federation, outcome, run, agents = fedcoe
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    plan = run.spec.plan
    state = blocks.initial_state(plan, run.id)
    chain = transcript.initial_chain(run.id, blocks.state_digest(state))
    folder = AggregatorHome(federation.aggregator).run_folder(outcome.run)
    for closed in record.of(StepClosed):
        k = int(closed.record.k)
        step = plan.steps[k]
        mine = {silo: agents[silo].plain[k] for silo in closed.record.survivors}  # type: ignore[attr-defined]
        announced = StepResult.from_bytes(StepEvidence.from_bytes(folder.evidence_path(k).read_bytes()).result)
        result, sums = local.opened_from(plan, closed.record, chain, mine, announced)
        assert closed.record.slots == result.figures(step)
        chain = transcript.next_chain(chain, result.t3, result.digest, released=True)
        assert chain.hex() == closed.record.chain, step.name
        state = blocks.apply(plan, step, state, sums, result.weights)
        assert blocks.state_digest(state).hex() == closed.record.state_digest, step.name


def test_silos_with_more_lanes_than_one_message_has_arrays(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("crypto.messages.MESSAGE_ARRAYS", "aggregator.rounds.attempt.MESSAGE_ARRAYS"):
        monkeypatch.setattr(place, 2)
    outcome, _, agents = local.play(federation, local.spec("fedcoe"))
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert max(len(closed.record.lanes_open) for closed in record.of(StepClosed)) > 2
    assert {len(closed.record.survivors) for closed in record.of(StepClosed)} == {local.SILOS}
    for agent in agents.values():
        assert blocks.state_digest(agent.state).hex() == outcome.state_digest


@pytest.mark.parametrize("side", ["request", "answer"])
def test_nothing_is_carried_here_that_nvflare_would_not_carry(side: str) -> None:
    plain, heavy = Message("fetch", b""), Message("fetch", b"", (np.zeros(1, np.uint32),) * (MESSAGE_ARRAYS + 1))

    class Post:
        def send(self, request: Message) -> Message:
            return heavy if side == "answer" else plain

    def one() -> Generator[Exchange, Replies, RunOutcome]:
        request = heavy if side == "request" else plain
        yield Exchange("fetch", 0, "train/0", {"silo-1": request}, 1.0, 1)
        raise AssertionError("it was carried")

    with pytest.raises(Malformed, match="65 arrays"):
        drive(one(), {"silo-1": Post()})


def test_a_step_that_no_message_can_carry_is_refused_before_the_run(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.rounds.catch_up.ARRAY_WORDS", 1815 // 64)
    with pytest.raises(SpecError, match=r"step train/0.*1816 words in all lanes with their carries") as refused:
        local.run_job(local.spec(), federation.aggregator, federation.homes)
    assert "smaller model" in refused.value.remedy
    assert not [e for e in read(AggregatorHome(federation.aggregator).ledger_path) if e.kind is Kind.RUN_STARTED]


def test_a_stranger_replays_every_sum_from_evidence_and_kept_uploads(
    fedcoe: tuple[Federation, RunOutcome, Run, dict[str, Agent]],
) -> None:
    """Charter, plan and chain from the ledger; signed messages and masked words from the run's folder; nothing else."""
    federation, outcome, _, agents = fedcoe
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    charter, plan = Home(federation.aggregator).charter(), record.plan
    folder = federation.aggregator / "jobs" / outcome.run
    run = next(iter(agents.values()))._run
    chain = transcript.initial_chain(run, bytes.fromhex(record.started.record.state_digest))
    for closed in record.of(StepClosed):
        k = int(closed.record.k)
        context = Context(charter=charter, plan=plan, run=run, k=k, attempt=int(closed.record.attempt), chain=chain)
        data = RunFolder(folder).evidence_path(k).read_bytes()
        assert sha256(data).hexdigest() == closed.record.evidence_sha256
        evidence = StepEvidence.from_bytes(data)
        assert evidence.survivors(context).t3.hex() == closed.record.transcript
        checked = evidence.check(context)
        assert checked.figures == closed.record.slots and checked.lanes_open() == closed.record.lanes_open
        for lane in closed.record.lanes_open:
            uploads = {
                silo: np.fromfile(folder / "uploads" / f"{k:06d}" / silo / f"{lane}.u32", dtype="<u4")
                for silo in closed.record.survivors
            }
            total = np.zeros(plan.words_of(context.step, lane), np.uint32)
            for silo in closed.record.survivors:
                total += agents[silo].plain[k].lanes[lane]  # type: ignore[attr-defined]
            found = checked.replay(lane, uploads)
            assert (found.words == total).all()
            checked.prove(lane, found)
            total[0] ^= 1
            with pytest.raises(SumNotProven):
                checked.prove(lane, replace(found, words=total))
            uploads["silo-1"][0] ^= 1
            with pytest.raises(TranscriptMismatch):
                checked.replay(lane, uploads)
            with pytest.raises(EvidenceError):
                checked.replay(lane, {})
        chain = bytes.fromhex(closed.record.chain)


def test_evidence_with_a_flipped_byte_never_passes(
    fedcoe: tuple[Federation, RunOutcome, Run, dict[str, Agent]],
) -> None:
    federation, outcome, _run, agents = fedcoe
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    closed = next(record.of(StepClosed))
    data = AggregatorHome(federation.aggregator).run_folder(outcome.run).evidence_path(0).read_bytes()
    agent = next(iter(agents.values()))
    chain = transcript.initial_chain(agent._run, bytes.fromhex(record.started.record.state_digest))
    context = Context(charter=agent.site.charter, plan=agent.plan, run=agent._run, k=0, attempt=0, chain=chain)

    def opens(evidence: StepEvidence) -> tuple[bytes, StepResult]:
        checked = evidence.check(context)
        return checked.survivors.t3, checked.result

    want = opens(StepEvidence.from_bytes(data))
    assert want[0].hex() == closed.record.transcript
    for at in range(0, len(data), 397):
        flipped = bytearray(data)
        flipped[at] ^= 0x40
        try:
            found = opens(StepEvidence.from_bytes(bytes(flipped)))
        except FederationError:
            continue
        # One of more than t shares may be a spare that nothing rests on; what was opened is then the same.
        assert found == want, at


def test_every_array_that_is_sent_is_a_plain_one(federation: Federation) -> None:
    """Results kept on disk for a silo that is away are maps of files; on the wire they are arrays again."""
    kinds: set[type] = set()

    def late(request: Message, answer: Callable[[], Message]) -> Message | None:
        kinds.update(type(words) for words in request.arrays)
        return None if local.asked(request).step in (2, 3) else answer()

    outcome, _, agents = local.play(federation, local.spec(rounds=4), {"silo-5": late})
    assert kinds == {np.ndarray}
    assert blocks.state_digest(agents["silo-5"].state).hex() == outcome.state_digest
    assert not list((federation.aggregator / "jobs" / outcome.run / "sums").glob("*"))


def test_lanes_longer_than_one_array_are_cut_and_joined(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("crypto.messages.ARRAY_WORDS", "aggregator.rounds.attempt.ARRAY_WORDS"):
        monkeypatch.setattr(place, 100)
    monkeypatch.setattr("aggregator.rounds.attempt.FETCH_WORDS", 300)
    sizes: set[int] = set()
    fetches: list[int] = []

    def watch(request: Message, answer: Callable[[], Message]) -> Message | None:
        reply = answer()
        sizes.update(words.size for words in (*request.arrays, *reply.arrays))
        fetches.append(request.phase == "fetch")
        return reply

    outcome, _, agents = local.play(federation, local.spec(), {"silo-5": watch})
    assert max(sizes) == 100
    assert sum(fetches) == 2 * -(-1210 // 300)  # two training steps, 1,210 words each, 300 a fetch
    for agent in agents.values():
        assert blocks.state_digest(agent.state).hex() == outcome.state_digest


def test_a_job_on_the_24_bit_ring_uploads_three_bytes_a_parameter_and_stays_exact(federation: Federation) -> None:
    outcome, run, agents = local.play(federation, local.spec(ring_bits=24), {"silo-3": local.silent_from("fetch", 2)})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert secure_aggregation(record)["masked_bytes_per_parameter"] == pytest.approx(3.0, abs=0.01)
    plan, state = run.spec.plan, blocks.initial_state(run.spec.plan, run.id)
    for closed in record.of(StepClosed):
        step = plan.steps[int(closed.record.k)]
        sums = {}
        for lane in closed.record.lanes_open:
            total = np.zeros(plan.words_of(step, lane), np.uint32)
            for silo in closed.record.survivors:
                total += agents[silo].plain[int(closed.record.k)].lanes[lane]  # type: ignore[attr-defined]
            sums[lane] = total & np.uint32(0xFFFFFF)
        weights = {lane: closed.record.slots[f"{lane}.weight"] for lane in sums}
        state = blocks.apply(plan, step, state, sums, weights)
        assert blocks.state_digest(state).hex() == closed.record.state_digest


def test_two_runs_of_a_job_start_from_different_blocks_and_a_run_from_the_same_ones(made: Path, tmp_path: Path) -> None:
    """So the difference of two runs' sums is no silo's update. ``again``: a copy of the federation, same keys."""
    job, one, again = local.spec(rounds=1), local.copied(made, tmp_path / "one"), local.copied(made, tmp_path / "again")
    firsts = []
    for federation, nonce in ((one, b"m" * 32), (one, b"n" * 32), (again, b"m" * 32)):
        outcome, run, _ = local.run_job(job, federation.aggregator, federation.homes, nonce=nonce)
        started = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run).started.record
        assert started.state_digest == blocks.state_digest(blocks.initial_state(run.spec.plan, run.id)).hex()
        firsts.append(started.state_digest)
    assert firsts[0] != firsts[1] and firsts[0] == firsts[2]


def test_events_that_can_not_be_written_do_not_stop_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = EventFile(tmp_path / "no such folder" / "events.jsonl")
    events(None, "finished")
    assert "could not be written" in caplog.text
