"""One member that breaks the protocol costs a run its own part and a bounded number of attempts, and is named.

Each test lets one of eight agents do wrong in step 1 of a real run; the others follow the protocol.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import Refusal, StepClosed, StepOpened, StepVoid
from aggregator.rounds.run import RunOutcome
from aggregator.run_record import RunRecord
from crypto.keys import SessionKey
from crypto.messages import DECLINE, Message
from crypto.plan import SECTIONS, Section
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent, refusal
from tests import local

LIAR = "silo-8"
SILOS = tuple(f"silo-{i}" for i in range(1, local.SILOS + 1))


def play(
    federation: Federation,
    misdeed: Callable[[Agent, Message, Callable[[], Message]], Message],
    job: JobSpec | None = None,
) -> RunOutcome:
    """A run of five steps, by default of FedAvg, in which the agent of ``LIAR`` answers by ``misdeed``."""

    class Liar(InProcess):
        def send(self, request: Message) -> Message | None:
            return misdeed(self.agent, request, lambda: self.agent.handle(request))

    def courier(silo: str, agent: Agent) -> InProcess:
        return Liar(agent) if silo == LIAR else InProcess(agent)

    job = job or local.spec(rounds=3)
    outcome, _, _ = local.run_job(job, federation.aggregator, federation.homes, courier=courier)
    return outcome


def record_of(federation: Federation, outcome: RunOutcome) -> RunRecord:
    return RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)


def blamed(record: RunRecord) -> set[tuple[int, str]]:
    return {(entry.record.k, entry.record.code) for entry in record.of(Refusal) if entry.record.silo == LIAR}


def test_a_counter_that_jumped_is_its_own_silos_trouble(federation: Federation) -> None:
    """attacks.md H5a: one advert with a million releases made every peer refuse for ever, and nobody was blamed."""

    def misdeed(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
        lies = request.phase == "open" and local.asked(request).step == 1
        agent.site.journal.releases += 10**6 * lies
        reply = answer()
        agent.site.journal.releases -= 10**6 * lies
        return reply

    outcome = play(federation, misdeed)
    record = record_of(federation, outcome)
    assert (outcome.steps_released, outcome.steps_void) == (5, 0)
    refused = [entry.record for entry in record.of(Refusal)]
    assert {one.code for one in refused} == {"JOURNAL_LOST"} and {one.k for one in refused} == {2}
    assert len(list(record.of(StepOpened))) == 6  # one attempt was lost
    for closed in record.of(StepClosed):
        assert (LIAR in closed.record.survivors) is (closed.record.k < 2)
        assert len(closed.record.survivors) >= 7


@pytest.mark.parametrize("lane", [*Section, "everyone"])
def test_a_dealer_of_an_uncommitted_seed_is_left_out(federation: Federation, lane: str) -> None:
    """attacks.md H5b and c: shares of another seed than the advert commits to. Each share matches its hash, so only
    what they combine to shows it. A lane stays shut; slots that stay shut make the step void. Its dealer is left out of
    the other steps.
    """

    def misdeed(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
        reply = answer()
        if request.phase == "open" and local.asked(request).step == 1 and agent._session is not None:
            agent._session._seeds[lane] = b"another seed, not committed to.."
        return reply

    outcome = play(federation, misdeed, local.of_state(rounds=3) if lane in SECTIONS else None)
    record = record_of(federation, outcome)
    assert blamed(record) == {(1, "BAD_SHARE")}
    assert [entry.record.k for entry in record.of(StepVoid)] == ([1] if lane in SECTIONS else [])
    assert (outcome.steps_released, outcome.lanes_shut) == ((4, 0) if lane in SECTIONS else (5, 1))
    later = [entry.record for entry in record.of(StepClosed) if entry.record.k > 1]
    # Shares of the shut lane have left for all eight: seven from the same blocks would show the liar's update.
    left = [7, 7, 7] if lane in SECTIONS else [5, 7, 7]
    assert [(LIAR in closed.survivors, len(closed.survivors)) for closed in later] == [(False, n) for n in left]
    assert all(closed.lanes_shut == () for closed in later)


def test_a_garbage_row_drops_its_dealer_and_not_its_victim_for_longer_than_a_step(federation: Federation) -> None:
    """attacks.md H5d: a row that its recipient can't open dropped a chosen victim in every step, and nobody else could
    see whose fault it was. The victim shows the key of that one channel: anyone can open the row."""

    def misdeed(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
        session = agent._session
        if request.phase != "deal" or local.asked(request).step != 1 or session is None:
            return answer()
        honest = session._channels["silo-3"]
        session._channels["silo-3"] = SessionKey(bytes(32))  # so the row is sealed under another key
        reply = answer()
        session._channels["silo-3"] = honest
        return reply

    outcome = play(federation, misdeed)
    record = record_of(federation, outcome)
    assert (outcome.steps_released, outcome.steps_void, outcome.lanes_shut) == (5, 0, 0)
    assert blamed(record) == {(1, "BAD_SHARE")}
    away = {entry.record.k: sorted(set(SILOS) - set(entry.record.survivors)) for entry in record.of(StepClosed)}
    assert away == {0: [], 1: ["silo-3", LIAR], 2: [LIAR], 3: [LIAR], 4: [LIAR]}


def test_a_false_complaint_convicts_who_makes_it(federation: Federation) -> None:
    """A member can't have another one left out by complaining of a good row."""

    def misdeed(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
        if request.phase != "contribute" or local.asked(request).step != 1 or agent._session is None:
            return answer()
        key = agent._session._channels["silo-3"].reveal()
        lie = refusal(LIAR, request, "BAD_SHARE", blame="silo-3", key=key)
        return Message(DECLINE, lie.sign(agent.site.identity))

    outcome = play(federation, misdeed)
    record = record_of(federation, outcome)
    assert (outcome.steps_released, outcome.steps_void) == (5, 0)
    away = {entry.record.k: sorted(set(SILOS) - set(entry.record.survivors)) for entry in record.of(StepClosed)}
    assert away == {0: [], 1: [LIAR], 2: [LIAR], 3: [LIAR], 4: [LIAR]}
