"""The end of a step, ``tag`` and ``stand-in``: whoever is gone is stood in for, false tags are found, and a step whose
result can't be proven is void. And what comes before: a release that can't be recorded, a further attempt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import Refusal, SiloLost, StepClosed, StepOpened, StepVoid
from aggregator.rounds.run import Run, RunOutcome
from aggregator.run_record import RunRecord
from crypto import blocks, tags, transcript
from crypto.blocks import Contribution, Encoded
from crypto.errors import NoSpace
from crypto.evidence import StepEvidence
from crypto.home import Home
from crypto.messages import DECLINE, Decline, Message, StepResult, Tags, request_digest
from crypto.silo_session import SiloSession
from jobs.demo.federation import Federation
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from silo_agent.journal import Journal
from tests import local, tiny
from tests.one_agent import code_of, read

SILOS = 7  # two may be left out of a run: n_min is 5
JOB = tiny.spec("fedavg", params={"rounds": 2})
#: A step of slots alone, and the first that sums blocks.
ROWS, TRAIN = 0, 1

#: (agent of the silo, request, its true answer) → what arrives; None: nothing.
Fault = Callable[[Agent, Message, Callable[[], Message]], Message | None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.federation(tmp_path_factory.mktemp("tiny") / "f", SILOS).root


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Federation:
    return replace(local.copied(made, tmp_path / "f"), silos=tuple(f"silo-{i}" for i in range(1, SILOS + 1)))


@dataclass(frozen=True)
class Played:
    federation: Federation
    outcome: RunOutcome
    run: Run
    agents: Mapping[str, Agent]

    @property
    def record(self) -> RunRecord:
        return RunRecord.read(AggregatorHome(self.federation.aggregator), self.outcome.run)

    def closed(self, k: int) -> StepClosed:
        return next(entry.record for entry in self.record.of(StepClosed) if entry.record.k == k)

    def evidence(self, k: int) -> StepEvidence:
        folder = AggregatorHome(self.federation.aggregator).run_folder(self.outcome.run)
        return StepEvidence.from_bytes(folder.evidence_path(k).read_bytes())

    def vouched(self, k: int) -> dict[str, str]:
        """Owner of an upload → who signed its tags."""
        charter = Home(self.federation.aggregator).charter()
        found = [Tags.open(signed, lambda m: charter.member(m.silo).agent) for signed in self.evidence(k).tags]
        return {one.owner: one.silo for one in found}

    def lost(self, k: int) -> dict[str, str]:
        return {entry.record.silo: entry.record.phase for entry in self.record.of(SiloLost) if entry.record.k == k}

    def refused(self, k: int) -> dict[str, tuple[str, str]]:
        entries = [entry.record for entry in self.record.of(Refusal) if entry.record.k == k]
        return {one.silo: (one.phase, one.code) for one in entries}

    def check_states(self, of: Collection[str]) -> None:
        for silo in of:
            assert blocks.state_digest(self.agents[silo].state).hex() == self.outcome.state_digest, silo


def play(
    federation: Federation,
    fault: Fault,
    opened: Callable[[str, SiloHome], Agent] = local.open_agent,
    nonce: bytes = bytes(32),
) -> Played:
    """A whole run in which ``fault`` sees each request and may answer otherwise. In copies of one federation it has
    the same run id, so that what came of it can be compared. ``nonce``: another for a second run in one federation."""

    def courier(silo: str, agent: Agent) -> InProcess:
        return local.Faulty(agent, lambda request, answer: fault(agent, request, answer))

    outcome, run, agents = local.run_job(
        JOB, federation.aggregator, federation.homes, courier=courier, agent=opened, nonce=nonce
    )
    return Played(federation, outcome, run, agents)


def honest(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
    return answer()


def mute(silos: Collection[str], step: int, *phases: str) -> Fault:
    """These silos do not answer in these phases of a step: they are back in the next."""

    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        here = read(request).step == step and request.phase in phases
        return None if here and agent.site.silo in silos else answer()

    return fault


@pytest.fixture(scope="module")
def undisturbed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Played:
    copy = local.copied(made, tmp_path_factory.mktemp("whole") / "f")
    return play(replace(copy, silos=copy.silos[:SILOS]), honest)


# --- who is gone ----------------------------------------------------------------------------------------------------


def test_nobody_stands_in_where_all_are_there(undisturbed: Played) -> None:
    for k in range(len(undisturbed.run.spec.plan.steps)):
        assert undisturbed.vouched(k) == {silo: silo for silo in undisturbed.federation.silos}
        assert "tag" in undisturbed.closed(k).phase_ms and "stand-in" not in undisturbed.closed(k).phase_ms


@pytest.mark.parametrize("gone", [("silo-3",), ("silo-1", "silo-2"), ("silo-1", "silo-4", "silo-6")])
def test_a_survivor_that_dies_before_its_tags_is_stood_in_for(
    federation: Federation, undisturbed: Played, gone: tuple[str, ...]
) -> None:
    """Up to half of the cohort at once: their uploads stay in the sum, and another's signature vouches for each."""
    asked: list[tuple[str, int]] = []

    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        if request.phase == "stand-in":
            asked.append((agent.site.silo, sum(words.size for words in request.arrays)))
        return mute(gone, TRAIN, "tag")(agent, request, answer)

    played = play(federation, fault)
    assert (played.outcome.steps_released, played.outcome.steps_void) == (4, 0)
    assert played.lost(TRAIN) == dict.fromkeys(gone, "tag") and not played.refused(TRAIN)
    closed = played.closed(TRAIN)
    assert closed.survivors == federation.silos and closed.lanes_open == ("everyone",)
    left = [silo for silo in federation.silos if silo not in gone]
    assert len(asked) == len(gone) and len({silo for silo, _ in asked}) == len(gone), "one upload each, at once"
    plan = played.run.spec.plan
    assert {size for _, size in asked} == {plan.wire_words_of(plan.steps[TRAIN], "everyone")}
    vouched = played.vouched(TRAIN)
    assert vouched.keys() == set(federation.silos)
    assert all((vouched[silo] == silo) == (silo in left) and vouched[silo] in left for silo in federation.silos)
    assert played.outcome.state_digest == undisturbed.outcome.state_digest, "the sum is that of all survivors"
    played.check_states(federation.silos)


def test_a_stand_in_that_dies_too_is_followed_by_another(federation: Federation) -> None:
    asked: list[str] = []

    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        if request.phase == "stand-in":
            asked.append(agent.site.silo)
            if len(asked) < 3:
                return None
        return mute(["silo-6"], TRAIN, "tag")(agent, request, answer)

    played = play(federation, fault)
    assert asked == ["silo-1", "silo-2", "silo-3"]
    assert played.lost(TRAIN) == {"silo-6": "tag", "silo-1": "stand-in", "silo-2": "stand-in"}
    assert played.vouched(TRAIN)["silo-6"] == "silo-3" and played.vouched(TRAIN)["silo-1"] == "silo-1"
    played.check_states(federation.silos)


def test_a_stand_in_signs_for_no_other_words_than_were_uploaded(federation: Federation) -> None:
    """The server shows the stand-in an upload with one bit flipped: refused, and the next one gets the true one."""

    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        if (agent.site.silo, request.phase) == ("silo-1", "stand-in"):
            words = request.arrays[0].copy()
            words[-1] ^= 1
            request = replace(request, arrays=(words, *request.arrays[1:]))
            return agent.handle(request)
        return mute(["silo-6"], TRAIN, "tag")(agent, request, answer)

    played = play(federation, fault)
    assert played.refused(TRAIN) == {"silo-1": ("stand-in", "TRANSCRIPT_MISMATCH")}
    assert played.vouched(TRAIN)["silo-6"] == "silo-2"
    played.check_states(federation.silos)


# --- who lies -------------------------------------------------------------------------------------------------------


def false_tags(agent: Agent, reply: Message, more: int = 1) -> Message:
    """A member signs other tags than its own: the first inner product larger by ``more``."""
    key = agent.site.identity
    true = Tags.open(reply.body, lambda _: key.public)
    first, *others = tags.read(true.tags[0])
    made = tags.write((first + more, *others))
    return Message(reply.phase, replace(true, tags=(made, *true.tags[1:])).sign(key))


@pytest.mark.parametrize("liars", [("silo-2",), ("silo-2", "silo-5")])
def test_a_member_that_sends_false_tags_is_found_and_stood_in_for(
    federation: Federation, undisturbed: Played, liars: tuple[str, ...]
) -> None:
    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        lies = agent.site.silo in liars and (read(request).step, request.phase) == (TRAIN, "tag")
        return false_tags(agent, answer()) if lies else answer()

    played = play(federation, fault)
    assert (played.outcome.steps_released, played.outcome.steps_void) == (4, 0)
    assert played.refused(TRAIN) == dict.fromkeys(liars, ("tag", "SUM_NOT_PROVEN")) and not played.lost(TRAIN)
    assert played.closed(TRAIN).refusals == dict.fromkeys(liars, "SUM_NOT_PROVEN")
    vouched = played.vouched(TRAIN)
    assert vouched.keys() == set(federation.silos) and not set(vouched.values()) & set(liars)
    assert played.closed(TRAIN).state_digest == undisturbed.closed(TRAIN).state_digest
    for k in (2, 3):
        assert played.closed(k).survivors == tuple(silo for silo in federation.silos if silo not in liars)
    played.check_states(federation.silos)  # a liar takes the true result, too


def test_false_tags_that_cancel_are_no_matter(federation: Federation, undisturbed: Played) -> None:
    """Two colluders may move a sum of tags to and fro: what is proven is still the sum of all uploads."""
    more = {"silo-2": 7, "silo-5": -7}

    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        lies = agent.site.silo in more and (read(request).step, request.phase) == (TRAIN, "tag")
        return false_tags(agent, answer(), more[agent.site.silo]) if lies else answer()

    played = play(federation, fault)
    assert played.outcome.refusals == 0 and played.outcome.state_digest == undisturbed.outcome.state_digest
    played.check_states(federation.silos)


def test_a_stand_in_that_sends_false_tags_is_found_too(federation: Federation) -> None:
    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        if (agent.site.silo, request.phase) == ("silo-1", "stand-in"):
            return false_tags(agent, answer())
        return mute(["silo-6"], TRAIN, "tag")(agent, request, answer)

    played = play(federation, fault)
    assert played.refused(TRAIN) == {"silo-1": ("tag", "SUM_NOT_PROVEN")} and played.lost(TRAIN) == {"silo-6": "tag"}
    vouched = played.vouched(TRAIN)
    assert (vouched["silo-1"], vouched["silo-6"]) == ("silo-1", "silo-2"), "its own tags were true"
    played.check_states(federation.silos)


# --- nobody is left ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("step", [ROWS, TRAIN])
def test_a_result_that_too_few_are_left_to_sign_is_void_and_the_run_goes_on(
    federation: Federation, step: int, left: int
) -> None:
    """It takes m + c = 3 signatures; of the uploads there would be tags enough."""
    gone = federation.silos[left:]
    played = play(federation, mute(gone, step, "tag", "stand-in"))
    assert (played.outcome.steps_released, played.outcome.steps_void) == (3, 1)
    (void,) = played.record.of(StepVoid)
    assert (void.record.k, void.record.reason, set(void.record.missing)) == (step, "ROUND_LOST", set(gone))
    assert void.record.phase == ("stand-in" if step == TRAIN and left == 0 else "tag")
    assert [entry.record.k for entry in played.record.of(StepOpened)] == [0, 1, 2, 3], "no further attempt at it"
    for silo in federation.silos:
        assert played.agents[silo].k == 4
    played.check_states(federation.silos)
    assert played.record.finished is not None
    assert set(played.record.finished.record.countersignatures) == set(federation.silos)


# --- a full disk at the moment of release ---------------------------------------------------------------------------


def test_a_release_that_can_not_be_recorded_does_not_happen(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's disk is full when silo-3 is about to release: nothing leaves, and nothing of this step will."""
    full = [True]
    release = Journal.release

    def refuse(self: Journal, run: str, step: int, t3: str, cohort: tuple[str, ...]) -> None:
        if full[0] and step == TRAIN and "silo-3" in str(self.path):
            raise NoSpace("The journal's disk is full; nothing was released.")
        release(self, run, step, t3, cohort)

    monkeypatch.setattr(Journal, "release", refuse)
    later: list[str] = []
    victim: list[Agent] = []

    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        if read(request).step != TRAIN:
            return answer()
        if agent.site.silo == "silo-3":
            victim.append(agent)
        elif agent.site.silo == "silo-4" and request.phase in ("unmask-lanes", "tag"):
            later.append(code_of(victim[0].handle(request)))  # as everyone is asked, though it is out
        reply = answer()
        if (agent.site.silo, request.phase) == ("silo-3", "unmask-slots"):
            full[0] = False  # there is room again: too late for this step
            assert (reply.phase, code_of(reply)) == (DECLINE, "NO_SPACE")
            assert answer().body == reply.body, "the same request gets the same refusal"
        return reply

    played = play(federation, fault)
    assert later == ["UNEXPECTED", "UNEXPECTED"]
    assert played.refused(TRAIN) == {"silo-3": ("unmask-slots", "NO_SPACE")}
    lines = [json.loads(line) for line in (federation.silo("silo-3") / "journal.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "released"] == [0, 2, 3]
    assert "silo-3" in played.closed(TRAIN).survivors, "its upload is in the sum: the others had shares enough"
    assert played.vouched(TRAIN)["silo-3"] != "silo-3"
    played.check_states(federation.silos)


# --- a further attempt ----------------------------------------------------------------------------------------------


def test_a_further_attempt_sends_the_same_integers_and_trains_nothing_again(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here each training gives other numbers, so one made again would show."""
    sent: dict[tuple[str, int], list[tuple[Encoded, dict[str, np.ndarray]]]] = {}
    calls: Counter[tuple[str, str]] = Counter()
    upload = SiloSession.upload

    def seen(self: SiloSession, encoded: Encoded) -> tuple[bytes, bytes]:
        plain = Encoded({lane: words.copy() for lane, words in encoded.lanes.items()}, encoded.slots.copy(), {})
        answer = upload(self, encoded)
        masked = {lane: words.copy() for lane, words in self.masked.items()}
        sent.setdefault((self.silo, self.context.k), []).append((plain, masked))
        return answer

    monkeypatch.setattr(SiloSession, "upload", seen)

    def opened(job: str, home: SiloHome) -> Agent:
        agent = local.open_agent(job, home)
        contribute, noise = agent.method.contribute, np.random.default_rng(1)

        def counted(step: Any, published: Any, data: Any) -> Contribution:
            calls[agent.site.silo, step.name] += 1
            made = contribute(step, published, data)
            return replace(made, sums={name: part + noise.normal() * 1e-3 for name, part in made.sums.items()})

        agent.method.contribute = counted  # type: ignore[method-assign]
        return agent

    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        asked = read(request)
        lost = (asked.step, request.phase) == (TRAIN, "attest") and asked.attempt < 2
        return None if lost and agent.site.silo in federation.silos[:3] else answer()

    played = play(federation, fault, opened)
    assert [one.record.attempt for one in played.record.of(StepOpened) if one.record.k == TRAIN] == [0, 1, 2]
    assert played.closed(TRAIN).attempt == 2 and played.outcome.steps_void == 0
    assert set(calls.values()) == {1} and len(calls) == SILOS * 4
    for silo in federation.silos:
        first, second, third = sent[silo, TRAIN]
        for again, masked in (second, third):
            assert np.array_equal(again.slots, first[0].slots)
            assert np.array_equal(again.lanes["everyone"], first[0].lanes["everyone"])
            assert not np.array_equal(masked["everyone"], first[1]["everyone"]), "under fresh masks"
        assert len(sent[silo, TRAIN + 1]) == 1
        assert not np.array_equal(sent[silo, TRAIN + 1][0][0].lanes["everyone"], first[0].lanes["everyone"])
    played.check_states(federation.silos)


# --- refusals of other requests -------------------------------------------------------------------------------------


def test_a_refusal_of_another_request_is_not_the_silos_refusal(federation: Federation) -> None:
    """silo-2 refused a request with a broken signature. As the answer to another one, of this run or the next, its
    refusal says nothing."""
    kept: list[bytes] = []

    def refuses(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        if (agent.site.silo, read(request).step, request.phase) == ("silo-2", TRAIN, "deal"):
            reply = agent.handle(Message(request.phase, request.body[:-1] + bytes([request.body[-1] ^ 1])))
            assert code_of(reply) == "BAD_SIGNATURE"
            kept.append(reply.body)
            return reply
        return answer()

    def replays(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        shown = agent.site.silo == "silo-2" and request.phase == "deal"
        return Message(DECLINE, kept[0]) if shown else answer()

    runs = [play(federation, fault, nonce=nonce) for fault, nonce in ((refuses, b"a" * 32), (replays, b"b" * 32))]
    charter = Home(federation.aggregator).charter()
    decline = Decline.open(kept[0], lambda m: charter.member(m.silo).agent)
    assert (decline.silo, decline.code, decline.run) == ("silo-2", "BAD_SIGNATURE", runs[0].run.id)
    for played, steps in zip(runs, ([TRAIN], [0, 1, 2, 3]), strict=True):
        entries = [entry.record for entry in played.record.of(Refusal)]
        assert [(one.k, one.silo, one.phase, one.code) for one in entries] == [
            (k, "silo-2", "deal", "REPLAY") for k in steps
        ]
        assert [one.decline for one in entries] == [None] * len(steps), "nothing that silo-2 signed of this request"


def test_a_refusal_of_this_request_is_kept_as_signed(federation: Federation) -> None:
    """Positive control: on the ledger, with the silo's signature over the request that it refused."""
    asked: dict[int, bytes] = {}

    def fault(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message | None:
        if agent.site.silo == "silo-2" and request.phase == "open":
            asked[read(request).step] = request.body
            if read(request).step == TRAIN:
                for path in (federation.silo("silo-2") / "approvals").iterdir():
                    path.unlink()
        return answer()

    played = play(federation, fault)
    charter = Home(federation.aggregator).charter()
    entries = [entry.record for entry in played.record.of(Refusal)]
    assert [(one.k, one.silo, one.code) for one in entries] == [(k, "silo-2", "NOT_APPROVED") for k in (1, 2, 3)]
    for one in entries:
        assert one.decline is not None
        decline = Decline.open(bytes.fromhex(one.decline), lambda m: charter.member(m.silo).agent)
        assert (decline.request, decline.run) == (request_digest(asked[one.k]), played.run.id)
        assert (decline.step, decline.attempt, decline.phase) == (one.k, 0, "open")


def test_a_result_is_what_its_evidence_says(undisturbed: Played) -> None:
    run = undisturbed.run
    start = blocks.initial_state(run.spec.plan, run.id)
    chain = transcript.initial_chain(run.id, blocks.state_digest(start))
    for k, step in enumerate(run.spec.plan.steps):
        result = StepResult.from_bytes(undisturbed.evidence(k).result)
        assert (result.step, result.chain, result.released) == (k, chain, True)
        assert undisturbed.closed(k).slots == result.figures(step)
        chain = transcript.next_chain(chain, result.t3, result.digest, released=True)
        assert undisturbed.closed(k).chain == chain.hex()
