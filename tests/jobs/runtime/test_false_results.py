"""Results that are not true, told by the aggregator to every silo alike: refused by all, and nothing of them applied.

Each attack is played twice: on honest silos, and on silos whose check of the proof is taken away. There it succeeds,
so it is this check that stops it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.rounds.resume import Result
from crypto import blocks, proof, ring, transcript
from crypto.cohort import words_digest
from crypto.encoding import VERSION, Reader
from crypto.errors import SumNotProven
from crypto.home import Home
from crypto.keys import Identity
from crypto.messages import DECLINE, Message, Open, Request, TagRequest, Tags, unpack_words
from crypto.plan import Plan, Step
from crypto.proof import Sum, wire_sizes
from jobs.demo.federation import Federation
from jobs.job import encode_plan
from jobs.runtime.in_process import InProcess, drive
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local, plain, tiny
from tests.evil.games import every_message
from tests.evil.lies import invented_past, other_slots
from tests.evil.server import ANSWERED, EvilServer, Play, Relay, announced

pytestmark = pytest.mark.slow

SILOS = 6
#: Every row of a silo is in each batch, and a silo takes one step: the steepest way to leave a row's trace.
JOB = tiny.spec("fedavg", params={"rounds": 2, "batch": 20, "local_steps": 1})

Game = Callable[["Liar"], Play]


@dataclass
class Notes:
    """What a silo holds that a refusal must leave as it was."""

    k: int
    chain: bytes
    state: bytes
    slots: Mapping[str, Mapping[str, int]]
    journal: bytes
    progress: dict[str, bytes]


@dataclass
class Liar:
    """An aggregator that lies, and the silos in this process, so that a test sees both sides."""

    server: EvilServer
    federation: Federation
    agents: Mapping[str, Agent]
    #: Phases of requests that a silo answered with something other than a refusal, since ``watch`` was set.
    left: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        return self.server.plan

    def notes(self) -> dict[str, Notes]:
        return {silo: self._notes(silo, agent) for silo, agent in self.agents.items()}

    def _notes(self, silo: str, agent: Agent) -> Notes:
        home = self.federation.silo(silo)
        kept = {path.name: path.read_bytes() for path in (home / "runs").glob("*")}
        slots = {step: dict(found) for step, found in agent.slots.items()}
        journal = (home / "journal.jsonl").read_bytes()
        return Notes(agent.k, agent._chain, blocks.state_digest(agent.state), slots, journal, kept)

    def evidence(self, silo: str) -> list[Path]:
        return sorted((self.federation.silo(silo) / "evidence").glob("*-unproven.bin"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.federation(tmp_path_factory.mktemp("tiny") / "f", SILOS).root


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Federation:
    copy = local.copied(made, tmp_path / "f")
    return replace(copy, silos=copy.silos[:SILOS])


@pytest.fixture(params=["honest", "unchecked"])
def honest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the silos check what they are told. If not, what they had signed or opened themselves is not looked at
    either."""
    if request.param == "honest":
        return True
    monkeypatch.setattr("silo_agent.agent.proof.check_result", lambda *given: None)
    monkeypatch.setattr("crypto.silo_session.SiloSession._check_announced_result", lambda self, result: None)
    return False


def play(federation: Federation, game: Game) -> Liar:
    """A game to its end."""
    charter = Home(federation.aggregator).charter()
    server = EvilServer("test", JOB.text, encode_plan(JOB.plan(charter)), federation.aggregator)
    agents = {silo: local.open_agent(JOB.text, SiloHome(home)) for silo, home in federation.homes.items()}
    liar = Liar(server, federation, agents)

    class Noting(InProcess):
        def send(self, request: Message) -> Message | None:
            answer = super().send(request)
            if answer is not None and answer.phase != DECLINE:
                liar.left.append(request.phase)
            return answer

    try:
        drive(game(liar), {silo: Noting(agent) for silo, agent in agents.items()})  # type: ignore[arg-type]
    finally:
        for agent in agents.values():
            agent.close()
    return liar


def told(liar: Liar, text: str, results: list[Result], number: int = 0) -> Play:
    """Open the step after ``results``, telling these to everyone; in the book as the last trick."""
    server = liar.server
    attempt = server.attempt(number, k=len(results), chain=server.after_all(results, first_chain(server)))
    offer = every_message(server.silos, server.offer(attempt, results=results))
    yield from server.trick(text, attempt, "open", offer, dict.fromkeys(server.silos, "SUM_NOT_PROVEN"))


def first_chain(server: EvilServer) -> bytes:
    return transcript.initial_chain(server.run, blocks.state_digest(blocks.initial_state(server.plan, server.run)))


def verdicts(liar: Liar) -> set[str]:
    return set(liar.server.book.tricks[-1].got.values())


# --- C1: a false sum, told to all ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trap:
    """A hidden unit that is awake for one row of the whole federation."""

    row: np.ndarray
    blocks: Mapping[str, np.ndarray]


def trap(plan: Plan, run: bytes) -> Trap:
    rows = np.concatenate([tiny.data(at)["x_train"] for at in range(SILOS)]).astype(np.float64)
    directions = np.random.default_rng(7).normal(size=(500, rows.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    heights = rows @ directions.T
    ordered = np.sort(heights, axis=0)
    best = int((ordered[-1] - ordered[-2]).argmax())
    threshold = float(ordered[-2:, best].mean())
    scale = 0.2
    made = {name: np.array(block, dtype=np.float64) for name, block in blocks.initial_state(plan, run).items()}
    made["model.w1"] = np.stack([scale * directions[best], np.zeros(rows.shape[1])], axis=1)
    made["model.b1"] = np.array([-scale * threshold, -0.5])
    return Trap(rows[int(heights[:, best].argmax())], made)


def sum_for(plan: Plan, step: Step, weight: int, state: Mapping[str, np.ndarray], want: Trap) -> np.ndarray:
    """The words of a sum of this weight after which the blocks are those wanted."""
    words = np.zeros(plan.words_of(step, "everyone"), dtype=np.int64)
    heaviest = plan.lanes_of(step)[0].grid[-1]
    for block, _, at in plan.blocks_of(step, "everyone"):
        mean = (want.blocks[block.name] - state[block.name]).reshape(-1)
        assert np.abs(mean).max() < block.clip
        unit = ring.limit(plan.n_max, plan.ring_bits) / block.clip
        words[at : at + block.size] = np.rint(mean * weight / heaviest * unit)
    return words.astype(np.int32).view(np.uint32)


def row_in(plan: Plan, step: Step, words: np.ndarray) -> np.ndarray:
    """dW[:, 0] / db[0] of an opened sum: the row for which the first hidden unit was awake."""
    total = words.view(np.int32).astype(np.float64)
    part = {block.name: total[at : at + block.size] for block, _, at in plan.blocks_of(step, "everyone")}
    return np.asarray(part["model.w1"].reshape(-1, 2)[:, 0] / part["model.b1"][0])


def test_a_false_sum_told_to_all_silos_alike_makes_no_trap(federation: Federation, honest: bool) -> None:
    """The silos sign the false sum, since they have not seen the words: their tags are those of their uploads, and do
    not add up to it."""
    found: dict[str, Any] = {}

    def game(liar: Liar) -> Play:
        server = liar.server
        yield from server.until_training()
        attempt, relay = yield from server.until_tag(0)
        true, step = announced(attempt), attempt.context.step
        (only,) = true.result.sums
        found["trap"] = wanted = trap(liar.plan, server.run)
        words = sum_for(liar.plan, step, only.weight, blocks.initial_state(liar.plan, server.run), wanted)
        lie = replace(true.result, sums=(replace(only, words=words_digest(words)),))
        tagged = yield from server.trick(
            "has the false sum signed",
            attempt,
            "tag",
            every_message(server.silos, attempt.request("tag", bytes(TagRequest(lie, relay.seeds)))),
            {},
        )
        tags = tuple(tagged[silo].body for silo in sorted(tagged))
        false = Result(lie, tags, (words, *true.sums[1:]))
        found["before"], liar.left = liar.notes(), []
        yield from told(liar, "tells it", [*server.results, false])
        found["after"] = liar.notes()
        if not honest:
            server.tell(false)
            yield from server.honest_step(1)
            found["next"] = server.results[-1].sums[0]

    with plain.fixed_run_id():  # how exactly a row is read depends on the first blocks
        liar = play(federation, game)
    if honest:
        assert verdicts(liar) == {"SUM_NOT_PROVEN"}
        assert found["after"] == found["before"], "state, slots, chain, journal and notes stand as they were"
        assert liar.left == [], "nothing but refusals left any silo"
        for silo in federation.silos:
            (kept,) = liar.evidence(silo)
            _check_evidence(liar, kept, found["trap"])
        return
    assert verdicts(liar) == {ANSWERED}
    for agent in liar.agents.values():
        np.testing.assert_allclose(agent.state["model.w1"], found["trap"].blocks["model.w1"], atol=0.2)
    caught = row_in(liar.plan, liar.plan.steps[2], found["next"])
    np.testing.assert_allclose(caught, found["trap"].row, rtol=1e-3)


def _check_evidence(liar: Liar, path: Path, wanted: Trap) -> None:
    """The signed request and the words: from both, the trap and that the tags do not prove it."""
    src = Reader(path.read_bytes())
    assert src.u8() == VERSION and path.stat().st_mode & 0o777 == 0o600
    request = Request.open(src.blob(), lambda _: liar.server.charter.aggregator)
    arrays = [np.frombuffer(part, dtype="<u4") for part in src.each(Reader.blob)]
    src.end()
    offer = Open.from_bytes(request.payload)
    result, tags, plan = offer.results[-1], offer.proofs[-1], liar.plan
    words, carries = unpack_words(arrays, [n for one in offer.results for n in wire_sizes(plan, one)])
    found = {"everyone": Sum.from_wire(words, carries, len(result.sums[0].uploaders))}
    state = blocks.apply(
        plan, plan.steps[1], blocks.initial_state(plan, liar.server.run), {"everyone": words}, result.weights
    )
    np.testing.assert_allclose(state["model.w1"], wanted.blocks["model.w1"], atol=1e-6)
    assert len(proof.check_signed(liar.server.charter, plan, result, tags)) == SILOS, "they all signed it"
    with pytest.raises(SumNotProven, match="not the sum of its 6 uploads"):
        proof.check_result(liar.server.charter, plan, result, found, tags)


# --- C1b: a past that never was ------------------------------------------------------------------------------------


def test_a_past_that_never_was_is_told_in_vain(federation: Federation, honest: bool) -> None:
    """Rows and a first training step, invented; a colluder, which the charter reckons with, signs both."""
    before: dict[str, Notes] = {}

    def game(liar: Liar) -> Play:
        before.update(liar.notes())
        past = [signed_by(liar, one, federation.silos[:1]) for one in invented_past(liar.server, 2)]
        liar.left = []
        yield from told(liar, "tells a past", past)

    liar = play(federation, game)
    after = liar.notes()
    if honest:
        assert verdicts(liar) == {"SUM_NOT_PROVEN"} and liar.left == []
        start = blocks.state_digest(blocks.initial_state(liar.server.plan, liar.server.run))
        for silo, notes in after.items():
            assert (notes.k, notes.slots, notes.state) == (0, {}, start)
            assert new_records(before[silo].journal, notes.journal) == ["joined"], "no advert for what is not proven"
            assert len(liar.evidence(silo)) == 1
        return
    assert verdicts(liar) == {ANSWERED}
    assert {notes.k for notes in after.values()} == {2}
    assert {agent.slots["rows/0"]["rows"] for agent in liar.agents.values()} == {1}


def signed_by(liar: Liar, one: Result, silos: tuple[str, ...]) -> Result:
    """A result with the signatures of these members, who lend the aggregator their keys. Their tags are made up."""
    tags = []
    for silo in silos:
        key = Identity.load(liar.federation.silo(silo) / "keys" / "agent.key")
        zeros = tuple(bytes(80) for _ in one.result.sums)
        made = Tags(silo=silo, t3=one.result.t3, owner=silo, result=one.result.digest, tags=zeros)
        tags.append(made.sign(key))
    return replace(one, proof=tuple(tags))


def new_records(before: bytes, after: bytes) -> list[str]:
    assert after.startswith(before)
    return [json.loads(line)["kind"] for line in after[len(before) :].splitlines()]


@pytest.mark.parametrize("signers", [0, 1, 2, 3])
def test_a_past_without_sums_holds_if_m_plus_c_members_signed_it(federation: Federation, signers: int) -> None:
    """c of them may lie, so m did not. Three liars are more than the charter reckons with."""

    def game(liar: Liar) -> Play:
        past = [signed_by(liar, one, federation.silos[:signers]) for one in invented_past(liar.server, 1)]
        yield from told(liar, "tells the counts of a step", past)

    liar = play(federation, game)
    least = liar.server.charter.honest + liar.server.charter.colluders
    assert verdicts(liar) == {ANSWERED if signers >= least else "SUM_NOT_PROVEN"}


def test_who_released_for_one_session_takes_the_result_of_no_other(federation: Federation) -> None:
    """Three members lie, more than the charter reckons with, so the proof holds. But these silos gave shares of this
    step, and their journals say for which survivors."""

    def game(liar: Liar) -> Play:
        yield from liar.server.until_tag(0)
        past = [signed_by(liar, one, federation.silos[:3]) for one in invented_past(liar.server, 1)]
        yield from told(liar, "tells the counts of another session", past)

    liar = play(federation, game)
    assert verdicts(liar) == {"MODEL_MISMATCH"}
    assert {agent.k for agent in liar.agents.values()} == {0}


def test_who_signed_a_result_takes_no_other_one_of_its_session(federation: Federation) -> None:
    """Three members sign other counts too, more than the charter reckons with: the others know what they signed."""

    def game(liar: Liar) -> Play:
        server = liar.server
        yield from server.honest_step()
        (true,) = server.results
        other = replace(true, result=replace(true.result, slots=tuple(count + 1 for count in true.result.slots)))
        yield from told(liar, "tells other counts", [signed_by(liar, other, federation.silos[:3])], 1)

    liar = play(federation, game)
    assert verdicts(liar) == {"SUM_NOT_PROVEN"}
    assert {agent.k for agent in liar.agents.values()} == {0}


def test_what_another_run_proved_is_no_past_of_this_one(federation: Federation) -> None:
    """The same job, plan and members, true results with their proofs: they hold in their own run alone."""
    theirs: list[Result] = []
    *rest, late = federation.silos

    def other_run(liar: Liar) -> Play:
        server = liar.server
        for _ in range(2):
            attempt = server.attempt(0)
            yield from Relay(server, attempt, every_message(rest, server.offer(attempt))).finish()
        theirs.extend(server.results)
        attempt = server.attempt(0)
        yield from server.trick("tells the truth", attempt, "open", {late: server.offer(attempt)}, {})

    def this_run(liar: Liar) -> Play:
        yield from told(liar, "tells of the steps of another run", theirs)
        chain, renamed = first_chain(liar.server), []
        for one in theirs:
            renamed.append(replace(one, result=replace(one.result, chain=chain)))
            chain = liar.server.after(renamed[-1], chain)
        yield from told(liar, "says that they were made from this run's states", renamed, 1)

    assert verdicts(play(federation, other_run)) == {ANSWERED}, "who was away takes what is proven to it"
    liar = play(federation, this_run)
    got = [set(trick.got.values()) for trick in liar.server.book.tricks]
    assert got == [{"MODEL_MISMATCH"}, {"SUM_NOT_PROVEN"}]
    for silo, agent in liar.agents.items():
        assert agent.k == 0 and len(liar.evidence(silo)) == 2


# --- H3: counts that nobody opened ---------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "to-be-signed"])
def test_counts_that_nobody_opened_are_obeyed_by_nobody(federation: Federation, honest: bool, signed: bool) -> None:
    """``rows/0`` sums no blocks; the weights of all later steps follow from its counts."""
    found: dict[str, Any] = {}

    def game(liar: Liar) -> Play:
        server = liar.server
        attempt, _ = yield from server.until_tag(0)
        true = announced(attempt)
        lie = replace(true, result=other_slots(true.result))
        found["before"], found["true"], liar.left = liar.notes(), true.result.slots, []
        if signed:
            tagged = yield from server.trick(
                "has the counts signed",
                attempt,
                "tag",
                every_message(server.silos, attempt.request("tag", bytes(TagRequest(lie.result, ())))),
                dict.fromkeys(server.silos, "SUM_NOT_PROVEN"),
            )
            lie = replace(lie, proof=tuple(reply.body for reply in tagged.values()))
            found["signed"] = verdicts(liar)
        yield from told(liar, "tells the counts", [lie])

    liar = play(federation, game)
    name = liar.plan.steps[0].slots[0].name
    if honest:
        assert verdicts(liar) | found.get("signed", set()) == {"SUM_NOT_PROVEN"} and liar.left == []
        assert liar.notes() == found["before"]
        assert all(len(liar.evidence(silo)) == 1 for silo in federation.silos)
        return
    assert verdicts(liar) == {ANSWERED}
    assert {agent.slots["rows/0"][name] for agent in liar.agents.values()} == {found["true"][0] + 1}


# --- the truth ------------------------------------------------------------------------------------------------------


def test_a_silo_that_was_lied_to_goes_on_with_the_truth(federation: Federation) -> None:
    """A refused lie costs nothing but itself: the same silos take the true result of the same step."""

    def game(liar: Liar) -> Play:
        server = liar.server
        yield from server.honest_step()
        lie = replace(server.results[-1], result=other_slots(server.results[-1].result))
        yield from told(liar, "tells other counts", [lie])
        attempt = server.attempt(1)
        relay = Relay(server, attempt, every_message(server.silos, server.offer(attempt)))
        yield from relay.finish()
        yield from server.honest_step()
        yield from server.honest_step()

    liar = play(federation, game)
    assert [one.result.released for one in liar.server.results] == [True] * 4
    for silo in federation.silos:
        assert liar.agents[silo].k == 3 and len(liar.evidence(silo)) == 1
