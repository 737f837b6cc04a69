"""A whole job in this process whose couriers lose, repeat, corrupt and garble, and what that costs whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import Refusal, SiloLost, StepClosed, StepVoid
from aggregator.rounds.attempt import Exchange
from aggregator.run_record import RunRecord
from crypto import blocks
from crypto.errors import RoundLost
from crypto.messages import DECLINE, STEP_PHASES, Decline, Message
from jobs.demo.federation import Federation
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from tests import local


@pytest.mark.parametrize("phase", [phase for phase in STEP_PHASES if phase != "stand-in"])
def test_a_silo_that_dies_in_any_phase_is_a_dropout(federation: Federation, phase: str) -> None:
    outcome, _, agents = local.play(federation, local.spec(), {"silo-3": local.silent_from(phase, 1)})
    assert (outcome.steps_released, outcome.steps_void) == (4, 0)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    lost = [entry for entry in record.of(SiloLost) if entry.record.k == 1]
    assert [(entry.record.silo, entry.record.phase) for entry in lost] == [("silo-3", phase)]
    closed = next(entry for entry in record.of(StepClosed) if entry.record.k == 1)
    uploaded = phase in ("attest", "unmask-slots", "unmask-lanes", "tag")
    assert ("silo-3" in closed.record.survivors) is uploaded
    assert record.finished is not None and "silo-3" not in record.finished.record.countersignatures
    for silo, agent in agents.items():
        if silo != "silo-3":
            assert blocks.state_digest(agent.state).hex() == outcome.state_digest


def test_a_silo_that_was_away_catches_up(federation: Federation) -> None:
    def away_in_step_one(request: Message, answer: Callable[[], Message]) -> Message | None:
        return None if local.asked(request).step == 1 else answer()

    outcome, _, agents = local.play(federation, local.spec(rounds=3), {"silo-5": away_in_step_one})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert [closed.record.k for closed in record.of(StepClosed) if "silo-5" in closed.record.survivors] == [0, 2, 3, 4]
    assert blocks.state_digest(agents["silo-5"].state).hex() == outcome.state_digest


def away(first: int, until: int) -> local.Fault:
    """Silent in these steps, then there again."""

    def fault(request: Message, answer: Callable[[], Message]) -> Message | None:
        return None if first <= local.asked(request).step < until else answer()

    return fault


def test_one_message_carries_all_that_a_silo_missed(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("crypto.messages.MESSAGE_ARRAYS", "aggregator.rounds.attempt.MESSAGE_ARRAYS"):
        monkeypatch.setattr(place, 2)
    outcome, _, agents = local.play(federation, local.spec(rounds=6), {"silo-5": away(1, 6)})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert [closed.record.k for closed in record.of(StepClosed) if "silo-5" in closed.record.survivors] == [0, 6, 7]
    assert not list(record.of(Refusal))
    assert blocks.state_digest(agents["silo-5"].state).hex() == outcome.state_digest


def test_a_silo_that_was_away_for_long_catches_up_in_parts(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two results to a part, and a third that is made meanwhile: away in five steps, back after three more."""
    monkeypatch.setattr("aggregator.rounds.catch_up.PART_WORDS", 2 * (1210 + 303))  # words and carries
    awaited: list[int] = []

    def watch(exchange: Exchange | None, note: str) -> None:
        if exchange is not None and exchange.phase == "open":
            awaited.append(exchange.enough)

    faults = {"silo-5": away(1, 6), "silo-6": away(3, 4)}
    outcome, _, agents = local.play(federation, local.spec(rounds=12), faults, watch=watch)
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
    federation: Federation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aggregator.rounds.catch_up.PART_STEPS", 1)

    def back_at_the_close(request: Message, answer: Callable[[], Message]) -> Message | None:
        return answer() if request.phase == "close" else away(1, 99)(request, answer)

    outcome, _, _ = local.play(federation, local.spec(rounds=3), {"silo-5": back_at_the_close})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert record.finished is not None
    assert set(record.finished.record.countersignatures) == set(federation.silos) - {"silo-5"}
    assert "silo-5 does not countersign: CATCHING_UP" in caplog.text


def test_a_repeated_request_gets_the_same_bytes(federation: Federation) -> None:
    def twice(request: Message, answer: Callable[[], Message]) -> Message | None:
        first, second = answer(), answer()
        assert first.body == second.body
        return second

    outcome, _, _ = local.play(federation, local.spec(rounds=1), {"silo-2": twice})
    assert outcome.steps_released == 3


def test_a_corrupted_upload_costs_its_silo_the_step_and_nobody_else(federation: Federation) -> None:
    def flip(request: Message, answer: Callable[[], Message]) -> Message | None:
        reply = answer()
        if request.phase != "fetch":
            return reply
        words = reply.arrays[0].copy()
        words[0] ^= 1
        return replace(reply, arrays=(words, *reply.arrays[1:]))

    outcome, _, _ = local.play(federation, local.spec(rounds=1), {"silo-2": flip})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    refusals = list(record.of(Refusal))
    assert [(one.record.silo, one.record.phase, one.record.code) for one in refusals] == [
        ("silo-2", "fetch", "TRANSCRIPT_MISMATCH")
    ]
    trained = next(closed for closed in record.of(StepClosed) if closed.record.name == "train/0")
    assert trained.record.refusals == {"silo-2": "TRANSCRIPT_MISMATCH"}
    assert "silo-2" not in trained.record.survivors


@pytest.mark.parametrize("phase", ["open", "deal", "contribute", "attest", "unmask-slots", "unmask-lanes", "tag"])
def test_garbage_is_a_named_refusal(federation: Federation, phase: str) -> None:
    def garbage(request: Message, answer: Callable[[], Message]) -> Message | None:
        return Message(phase, b"\x00\x01\x02") if request.phase == phase else answer()

    outcome, _, _ = local.play(federation, local.spec(rounds=1), {"silo-2": garbage})
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    codes = {(one.record.phase, one.record.code) for one in record.of(Refusal)}
    assert codes == {(phase, "MALFORMED")}
    assert outcome.steps_void == 0


def test_too_few_silos_end_the_run_by_name(federation: Federation) -> None:
    faults = {f"silo-{i}": local.silent_from("open", 1) for i in range(1, 5)}
    with pytest.raises(RoundLost) as lost:
        local.run_job(
            local.spec(),
            federation.aggregator,
            federation.homes,
            courier=lambda silo, agent: local.Faulty(agent, faults[silo]) if silo in faults else InProcess(agent),
        )
    assert lost.value.missing == ("silo-1", "silo-2", "silo-3", "silo-4")
    assert "COHORT_TOO_SMALL" in str(lost.value)


def test_a_step_whose_shares_may_have_left_is_void_and_the_chain_goes_on(federation: Federation) -> None:
    def mute(request: Message, answer: Callable[[], Message]) -> Message | None:
        asked = local.asked(request)
        reply = answer()
        return None if asked.step == 1 and request.phase == "unmask-slots" else reply

    faults = {f"silo-{i}": mute for i in range(1, 6)}
    outcome, _run, agents = local.play(federation, local.spec(), faults)
    assert (outcome.steps_released, outcome.steps_void) == (3, 1)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    (void,) = record.of(StepVoid)
    assert (void.record.k, void.record.phase) == (1, "unmask-slots")
    for agent in agents.values():
        assert blocks.state_digest(agent.state).hex() == outcome.state_digest


def test_a_server_that_tells_one_silo_another_result_is_exposed(federation: Federation) -> None:
    """Its words are not those that were announced and proven: it declines and says why, until it is told the truth."""
    answers: list[Decline] = []

    def lied_to(request: Message, answer: Callable[[], Message]) -> Message | None:
        if request.phase == "open" and request.arrays:
            words = request.arrays[0].copy()
            words[0] += 1
            request = replace(request, arrays=(words, *request.arrays[1:]))
        reply = agents["silo-4"].handle(request)
        if reply.phase == DECLINE:
            answers.append(Decline.open(reply.body, local.any_key))
        return reply

    agents: dict[str, Agent] = {}

    def courier(silo: str, agent: Agent) -> InProcess:
        agents[silo] = agent
        return local.Faulty(agent, lied_to) if silo == "silo-4" else InProcess(agent)

    outcome, _, _ = local.run_job(local.spec(), federation.aggregator, federation.homes, courier=courier)
    assert outcome.steps_released == 4
    assert {decline.code for decline in answers} == {"SUM_NOT_PROVEN"}
    assert blocks.state_digest(agents["silo-4"].state).hex() == outcome.state_digest, "at the close it got the truth"
