"""A whole job in this process: the same round code as production, with couriers that lose, repeat and corrupt."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.home import AggregatorHome, RunFolder
from aggregator.ledger.format import read, verify
from aggregator.ledger.records import Kind, Refusal, SiloLost, StepClosed, StepVoid
from aggregator.rounds.attempt import Exchange, Replies
from aggregator.rounds.run import Run, RunOutcome
from aggregator.run_record import RunRecord
from crypto import blocks, transcript
from crypto.cohort import Context, words_digest
from crypto.errors import EvidenceError, FederationError, Malformed, RoundLost, SpecError, TranscriptMismatch
from crypto.evidence import StepEvidence
from crypto.home import Home
from crypto.messages import DECLINE, MESSAGE_ARRAYS, Closing, Decline, Message, Request, StepResult
from jobs.demo.federation import Federation
from jobs.evidence.run_summary import scores, secure_aggregation
from jobs.job import JobSpec
from jobs.runtime.compose import EventFile
from jobs.runtime.in_process import InProcess, drive
from silo_agent.agent import Agent
from tests import local

Fault = Callable[[Message, Callable[[], Message]], Message | None]


def play(
    root: Path, job: JobSpec, faults: Mapping[str, Fault] | None = None, silos: int = local.SILOS, **how: Any
) -> tuple[Federation, RunOutcome, Run, dict[str, Agent]]:
    federation = local.federation(root, silos)

    def courier(silo: str, agent: Agent) -> InProcess:
        return local.Faulty(agent, faults[silo]) if faults and silo in faults else InProcess(agent)

    outcome, run, agents = local.run_job(
        job, federation.aggregator, federation.homes, agent=local.recording, courier=courier, **how
    )
    return federation, outcome, run, agents


@pytest.fixture(scope="module")
def fedcoe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, RunOutcome, Run, dict[str, Agent]]:
    return play(tmp_path_factory.mktemp("fedcoe") / "f", local.spec("fedcoe"))


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
    state = blocks.initial_state(plan)
    chain = transcript.initial_chain(run.id, blocks.state_digest(state))
    for closed in record.of(StepClosed):
        k = int(closed.record.k)
        step = plan.steps[k]
        mine = [agents[silo].plain[k] for silo in closed.record.survivors]  # type: ignore[attr-defined]
        slots = sum((encoded.slots for encoded in mine), np.zeros(len(plan.slots_of(step)), np.uint64))
        sums = {}
        for lane in closed.record.lanes_open:
            total = np.zeros(plan.words_of(step, lane), np.uint32)
            for encoded in mine:
                total += encoded.lanes[lane]
            sums[lane] = total
        result = StepResult(
            step=k,
            t3=bytes.fromhex(closed.record.transcript),
            released=True,
            slots=tuple(int(value) for value in slots),
            sums=tuple((lane, words_digest(words)) for lane, words in sums.items()),
        )
        chain = transcript.next_chain(chain, result.t3, result.digest, released=True)
        assert chain.hex() == closed.record.chain, step.name


def silent_from(phase: str, step: int) -> Fault:
    """Dies at a phase of a step and never comes back."""
    dead = False

    def fault(request: Message, answer: Callable[[], Message]) -> Message | None:
        nonlocal dead
        asked = Request.open(request.body, lambda _: _any_key(request))
        dead = dead or (asked.step == step and request.phase == phase)
        return None if dead else answer()

    return fault


class _Anyone:
    def verify(self, signature: bytes, message: bytes) -> None:
        """Tests look at requests without the aggregator's key."""


def _any_key(request: Message):  # type: ignore[no-untyped-def]
    return _Anyone()


@pytest.mark.parametrize("phase", ["open", "deal", "contribute", "fetch", "attest", "unmask-slots", "unmask-lanes"])
def test_a_silo_that_dies_in_any_phase_is_a_dropout(tmp_path: Path, phase: str) -> None:
    federation, outcome, _, agents = play(tmp_path / "f", local.spec(), {"silo-3": silent_from(phase, 1)})
    assert (outcome.steps_released, outcome.steps_void) == (4, 0)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    lost = [entry for entry in record.of(SiloLost) if entry.record.k == 1]
    assert [(entry.record.silo, entry.record.phase) for entry in lost] == [("silo-3", phase)]
    closed = next(entry for entry in record.of(StepClosed) if entry.record.k == 1)
    uploaded = phase in ("attest", "unmask-slots", "unmask-lanes")
    assert ("silo-3" in closed.record.survivors) is uploaded
    assert record.finished is not None and "silo-3" not in record.finished.record.countersignatures
    for silo, agent in agents.items():
        if silo != "silo-3":
            assert blocks.state_digest(agent.state).hex() == outcome.state_digest


def test_a_silo_that_was_away_catches_up(tmp_path: Path) -> None:
    def away_in_step_one(request: Message, answer: Callable[[], Message]) -> Message | None:
        return None if Request.open(request.body, _any_key).step == 1 else answer()

    federation, outcome, _, agents = play(tmp_path / "f", local.spec(rounds=3), {"silo-5": away_in_step_one})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert [closed.record.k for closed in record.of(StepClosed) if "silo-5" in closed.record.survivors] == [0, 2, 3, 4]
    assert blocks.state_digest(agents["silo-5"].state).hex() == outcome.state_digest


def away(first: int, until: int) -> Fault:
    """Silent in these steps, then there again."""

    def fault(request: Message, answer: Callable[[], Message]) -> Message | None:
        return None if first <= Request.open(request.body, _any_key).step < until else answer()

    return fault


def test_one_message_carries_all_that_a_silo_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("crypto.messages.MESSAGE_ARRAYS", "aggregator.rounds.attempt.MESSAGE_ARRAYS"):
        monkeypatch.setattr(place, 2)
    federation, outcome, _, agents = play(tmp_path / "f", local.spec(rounds=6), {"silo-5": away(1, 6)})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert [closed.record.k for closed in record.of(StepClosed) if "silo-5" in closed.record.survivors] == [0, 6, 7]
    assert not list(record.of(Refusal))
    assert blocks.state_digest(agents["silo-5"].state).hex() == outcome.state_digest


def test_a_silo_that_was_away_for_long_catches_up_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two results to a part, and a third that is made meanwhile: away in five steps, back after three more."""
    monkeypatch.setattr("aggregator.rounds.catch_up.PART_WORDS", 2 * 1210)
    awaited: list[int] = []

    def watch(exchange: Exchange | None, note: str) -> None:
        if exchange is not None and exchange.phase == "open":
            awaited.append(exchange.enough)

    faults = {"silo-5": away(1, 6), "silo-6": away(3, 4)}
    federation, outcome, _, agents = play(tmp_path / "f", local.spec(rounds=12), faults, watch=watch)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    refusals = [(entry.record.k, entry.record.silo, entry.record.code) for entry in record.of(Refusal)]
    assert refusals == [(k, "silo-5", "CATCHING_UP") for k in (6, 7, 8)]
    took_part = [closed.record.k for closed in record.of(StepClosed) if "silo-5" in closed.record.survivors]
    assert took_part == [0, *range(9, 14)]
    assert awaited == [8, 8, 7, 7, 6, 7, 7, *[8] * 7], "whoever is on the way is waited for"
    assert record.finished is not None and len(record.finished.record.countersignatures) == local.SILOS
    for agent in agents.values():
        assert blocks.state_digest(agent.state).hex() == outcome.state_digest
    assert not list((federation.aggregator / "jobs" / outcome.run / "sums").glob("*"))


def test_whoever_is_still_behind_at_the_end_does_not_countersign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aggregator.rounds.catch_up.PART_STEPS", 1)

    def back_at_the_close(request: Message, answer: Callable[[], Message]) -> Message | None:
        return answer() if request.phase == "close" else away(1, 99)(request, answer)

    federation, outcome, _, _ = play(tmp_path / "f", local.spec(rounds=3), {"silo-5": back_at_the_close})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert record.finished is not None
    assert set(record.finished.record.countersignatures) == set(federation.silos) - {"silo-5"}
    assert "silo-5 does not countersign: CATCHING_UP" in caplog.text


def test_silos_with_more_lanes_than_one_message_has_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("crypto.messages.MESSAGE_ARRAYS", "aggregator.rounds.attempt.MESSAGE_ARRAYS"):
        monkeypatch.setattr(place, 2)
    federation, outcome, _, agents = play(tmp_path / "f", local.spec("fedcoe"))
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.rounds.catch_up.ARRAY_WORDS", 1209 // 64)
    federation = local.federation(tmp_path / "f")
    with pytest.raises(SpecError, match=r"step train/0.*1210 words") as refused:
        local.run_job(local.spec(), federation.aggregator, federation.homes)
    assert "smaller model" in refused.value.remedy
    assert not [e for e in read(AggregatorHome(federation.aggregator).ledger_path) if e.kind is Kind.RUN_STARTED]


def test_a_repeated_request_gets_the_same_bytes(tmp_path: Path) -> None:
    def twice(request: Message, answer: Callable[[], Message]) -> Message | None:
        first, second = answer(), answer()
        assert first.body == second.body
        return second

    _, outcome, _, _ = play(tmp_path / "f", local.spec(rounds=1), {"silo-2": twice})
    assert outcome.steps_released == 3


def test_a_corrupted_upload_costs_its_silo_the_step_and_nobody_else(tmp_path: Path) -> None:
    def flip(request: Message, answer: Callable[[], Message]) -> Message | None:
        reply = answer()
        if request.phase != "fetch":
            return reply
        words = reply.arrays[0].copy()
        words[0] ^= 1
        return replace(reply, arrays=(words, *reply.arrays[1:]))

    federation, outcome, _, _ = play(tmp_path / "f", local.spec(rounds=1), {"silo-2": flip})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    refusals = list(record.of(Refusal))
    assert [(one.record.silo, one.record.phase, one.record.code) for one in refusals] == [
        ("silo-2", "fetch", "TRANSCRIPT_MISMATCH")
    ]
    trained = next(closed for closed in record.of(StepClosed) if closed.record.name == "train/0")
    assert trained.record.refusals == {"silo-2": "TRANSCRIPT_MISMATCH"}
    assert "silo-2" not in trained.record.survivors


@pytest.mark.parametrize("phase", ["open", "deal", "contribute", "attest", "unmask-slots", "unmask-lanes"])
def test_garbage_is_a_named_refusal(tmp_path: Path, phase: str) -> None:
    def garbage(request: Message, answer: Callable[[], Message]) -> Message | None:
        return Message(phase, b"\x00\x01\x02") if request.phase == phase else answer()

    federation, outcome, _, _ = play(tmp_path / "f", local.spec(rounds=1), {"silo-2": garbage})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    codes = {(one.record.phase, one.record.code) for one in record.of(Refusal)}
    assert codes == {(phase, "MALFORMED")}
    assert outcome.steps_void == 0


def test_too_few_silos_end_the_run_by_name(tmp_path: Path) -> None:
    faults = {f"silo-{i}": silent_from("open", 1) for i in range(1, 5)}
    federation = local.federation(tmp_path / "f")
    with pytest.raises(RoundLost) as lost:
        local.run_job(
            local.spec(),
            federation.aggregator,
            federation.homes,
            courier=lambda silo, agent: local.Faulty(agent, faults[silo]) if silo in faults else InProcess(agent),
        )
    assert lost.value.missing == ("silo-1", "silo-2", "silo-3", "silo-4")
    assert "COHORT_TOO_SMALL" in str(lost.value)


def test_a_step_whose_shares_may_have_left_is_void_and_the_chain_goes_on(tmp_path: Path) -> None:
    def mute(request: Message, answer: Callable[[], Message]) -> Message | None:
        asked = Request.open(request.body, _any_key)
        reply = answer()
        return None if asked.step == 1 and request.phase == "unmask-slots" else reply

    faults = {f"silo-{i}": mute for i in range(1, 6)}
    federation, outcome, _run, agents = play(tmp_path / "f", local.spec(), faults)
    assert (outcome.steps_released, outcome.steps_void) == (3, 1)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    (void,) = record.of(StepVoid)
    assert (void.record.k, void.record.phase) == (1, "unmask-slots")
    for agent in agents.values():
        assert blocks.state_digest(agent.state).hex() == outcome.state_digest


def test_after_a_void_step_a_cohort_that_differs_by_one_is_refused(tmp_path: Path) -> None:
    def mute(request: Message, answer: Callable[[], Message]) -> Message | None:
        asked = Request.open(request.body, _any_key)
        reply = answer()
        return None if asked.step == 1 and request.phase == "unmask-slots" else reply

    def mute_then_gone(request: Message, answer: Callable[[], Message]) -> Message | None:
        return None if Request.open(request.body, _any_key).step == 2 else mute(request, answer)

    federation = local.federation(tmp_path / "f")
    faults: dict[str, Fault] = {f"silo-{i}": mute for i in range(1, 6)} | {"silo-1": mute_then_gone}
    with pytest.raises(RoundLost, match="SURVIVOR_INVALID"):
        local.run_job(
            local.spec(),
            federation.aggregator,
            federation.homes,
            courier=lambda silo, agent: local.Faulty(agent, faults[silo]) if silo in faults else InProcess(agent),
        )
    (run,) = {e.name for e in (federation.aggregator / "jobs").iterdir()}
    codes = {one.record.code for one in RunRecord.read(AggregatorHome(federation.aggregator), run).of(Refusal)}
    assert codes == {"COHORT_DIFFERENCE"}


def test_a_server_that_tells_one_silo_another_result_is_exposed(tmp_path: Path) -> None:
    """The silo computes another state, so its advert is for another T0: it declines, and says why."""
    answers: list[Decline] = []

    def lied_to(request: Message, answer: Callable[[], Message]) -> Message | None:
        if request.phase == "open" and request.arrays:
            words = request.arrays[0].copy()
            words[0] += 1
            request = replace(request, arrays=(words, *request.arrays[1:]))
        reply = agents["silo-4"].handle(request)
        if reply.phase == DECLINE:
            answers.append(Decline.open(reply.body, _any_key))
        return reply

    agents: dict[str, Agent] = {}
    federation = local.federation(tmp_path / "f")

    def courier(silo: str, agent: Agent) -> InProcess:
        agents[silo] = agent
        return local.Faulty(agent, lied_to) if silo == "silo-4" else InProcess(agent)

    outcome, _, _ = local.run_job(local.spec(), federation.aggregator, federation.homes, courier=courier)
    assert outcome.steps_released == 4
    assert {decline.code for decline in answers} == {"MODEL_MISMATCH"}


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
        assert list(evidence.slots(context)) == [closed.record.slots[slot.name] for slot in plan.slots_of(context.step)]
        for lane in closed.record.lanes_open:
            uploads = {
                silo: np.fromfile(folder / "uploads" / f"{k:06d}" / silo / f"{lane}.u32", dtype="<u4")
                for silo in closed.record.survivors
            }
            total = np.zeros(plan.words_of(context.step, lane), np.uint32)
            for silo in closed.record.survivors:
                total += agents[silo].plain[k].lanes[lane]  # type: ignore[attr-defined]
            assert (evidence.replay(context, lane, uploads) == total).all()
            uploads["silo-1"][0] ^= 1
            with pytest.raises(TranscriptMismatch):
                evidence.replay(context, lane, uploads)
            with pytest.raises(EvidenceError):
                evidence.replay(context, lane, {})
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
    want = (StepEvidence.from_bytes(data).survivors(context).t3, StepEvidence.from_bytes(data).slots(context))
    assert want[0].hex() == closed.record.transcript
    for at in range(0, len(data), 397):
        flipped = bytearray(data)
        flipped[at] ^= 0x40
        try:
            evidence = StepEvidence.from_bytes(bytes(flipped))
            found = (evidence.survivors(context).t3, evidence.slots(context))
        except FederationError:
            continue
        # One of more than t shares may be a spare that nothing rests on; what was opened is then the same.
        assert found == want, at


def test_every_array_that_is_sent_is_a_plain_one(tmp_path: Path) -> None:
    """Results kept on disk for a silo that is away are maps of files; on the wire they are arrays again."""
    kinds: set[type] = set()

    def late(request: Message, answer: Callable[[], Message]) -> Message | None:
        kinds.update(type(words) for words in request.arrays)
        return None if Request.open(request.body, _any_key).step in (2, 3) else answer()

    federation, outcome, _, agents = play(tmp_path / "f", local.spec(rounds=4), {"silo-5": late})
    assert kinds == {np.ndarray}
    assert blocks.state_digest(agents["silo-5"].state).hex() == outcome.state_digest
    assert not list((federation.aggregator / "jobs" / outcome.run / "sums").glob("*"))


def test_lanes_longer_than_one_array_are_cut_and_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    _, outcome, _, agents = play(tmp_path / "f", local.spec(), {"silo-5": watch})
    assert max(sizes) == 100
    assert sum(fetches) == 2 * -(-1210 // 300)  # two training steps, 1,210 words each, 300 a fetch
    for agent in agents.values():
        assert blocks.state_digest(agent.state).hex() == outcome.state_digest


def test_a_job_on_the_24_bit_ring_uploads_three_bytes_a_parameter_and_stays_exact(tmp_path: Path) -> None:
    federation, outcome, run, agents = play(
        tmp_path / "f", local.spec(ring_bits=24), {"silo-3": silent_from("fetch", 2)}
    )
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert secure_aggregation(record)["masked_bytes_per_parameter"] == pytest.approx(3.0, abs=0.01)
    plan, state = run.spec.plan, blocks.initial_state(run.spec.plan)
    for closed in record.of(StepClosed):
        step = plan.steps[int(closed.record.k)]
        sums = {}
        for lane in closed.record.lanes_open:
            total = np.zeros(plan.words_of(step, lane), np.uint32)
            for silo in closed.record.survivors:
                total += agents[silo].plain[int(closed.record.k)].lanes[lane]  # type: ignore[attr-defined]
            sums[lane] = total & np.uint32(0xFFFFFF)
        state = blocks.apply(plan, step, state, sums, closed.record.slots)
        assert blocks.state_digest(state).hex() == closed.record.state_digest


def test_events_that_can_not_be_written_do_not_stop_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = EventFile(tmp_path / "no such folder" / "events.jsonl")
    events(None, "finished")
    assert "could not be written" in caplog.text
