"""The aggregator, owned: its own key, its own code where that helps, and a book of everything it asked and was told.

An ``EvilServer`` talks as the honest run does, in ``Exchange`` objects, so the same drivers carry it:
``jobs.runtime.in_process`` in one process, NVFlare's controller in another. A game (see ``games``) is a generator over
it. ``Relay`` is the project's own ``Attempt``, taken one exchange at a time, so that a game can play honestly up to the
moment of the lie.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from aggregator.home import AggregatorHome, RunFolder
from aggregator.rounds.attempt import Attempt, Attendance, Exchange, Opened, Replies, Timeouts
from aggregator.rounds.cohort_fit import AskedFor
from aggregator.rounds.resume import Result
from aggregator.rounds.storage import UploadStore
from crypto import blocks, transcript
from crypto.cohort import Context
from crypto.errors import CohortDifference
from crypto.messages import (
    DECLINE,
    Decline,
    Message,
    Open,
    StepResult,
    TagRequest,
    pack_words,
    unpack_two,
    unsigned_request,
)
from crypto.plan import Plan, Step
from jobs import release
from jobs.job import JobSpec, decode_plan

Play = Generator[Exchange, Replies, None]
Talk = Generator[Exchange, Replies, dict[str, Message]]

#: What a trick expects of a silo that has no reason to refuse, and of one that is asked and stays silent.
ANSWERED, ABSENT = "answered", "absent"


@dataclass(frozen=True, slots=True)
class Entry:
    """One request and what came back: "" is nothing."""

    silo: str
    request: bytes
    phase: str
    reply: bytes
    arrays: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Trick:
    """One thing the server tried: silo → the code it must refuse with (or ANSWERED), silo → what it did."""

    text: str
    step: int
    attempt: int
    phase: str
    expected: dict[str, str]
    got: dict[str, str]

    @property
    def failed(self) -> list[str]:
        return sorted(silo for silo, code in self.expected.items() if self.got.get(silo) != code)


@dataclass(slots=True)
class Book:
    """What a game did and saw; saved beside the aggregator's home, read by whoever judges it."""

    game: str
    run: str = ""
    tricks: list[Trick] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    #: (step, lane) whose shares must not leave any silo.
    shut: list[tuple[int, str]] = field(default_factory=list)
    #: (silo, section or lane, code): the silo says in its own log that this stays shut, and why.
    withheld: list[tuple[str, str, str]] = field(default_factory=list)
    #: Digest of the published blocks from which the run started, in hex.
    start: str = ""
    error: str = ""
    over: bool = False

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = {
            "game": self.game,
            "run": self.run,
            "tricks": [asdict(trick) for trick in self.tricks],
            "entries": [
                [one.silo, _text(one.request), one.phase, _text(one.reply), [_text(part) for part in one.arrays]]
                for one in self.entries
            ],
            "shut": self.shut,
            "withheld": self.withheld,
            "start": self.start,
            "error": self.error,
            "over": self.over,
        }
        new = path.with_suffix(".new")
        new.write_text(json.dumps(raw))
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> Book:
        raw: dict[str, Any] = json.loads(path.read_text())
        raw["tricks"] = [Trick(**trick) for trick in raw["tricks"]]
        raw["entries"] = [
            Entry(silo, b64decode(request), phase, b64decode(reply), tuple(b64decode(part) for part in arrays))
            for silo, request, phase, reply, arrays in raw["entries"]
        ]
        raw["shut"] = [(int(step), str(lane)) for step, lane in raw["shut"]]
        raw["withheld"] = [tuple(one) for one in raw["withheld"]]
        return cls(**raw)


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def announced(attempt: Attempt) -> Result:
    """What an attempt opened, before it is proven."""
    arrays = tuple(array for found in attempt.session.sums.values() for array in found.wire)
    return Result(attempt.session.result, (), arrays)


def advert_of(reply: Message) -> bytes:
    """The signed advert of an answer to ``open``, without the approval that comes with it."""
    (signed,), _ = unpack_two(reply.body)
    return signed


class EvilServer:
    """A run without scruples. ``k``, ``chain``, ``results``: where the run stands, as an honest server would have it;
    ``before``: the chain before its last step; ``loot``: what opened, whatever the silos were told of it.

    ``number``: which of the game's runs this is, from 0; ``earlier``: the books of those before."""

    def __init__(self, game: str, job: str, plan: str, home: Path, earlier: Sequence[Book] = ()) -> None:
        spec = JobSpec.from_text(job)
        self.job = spec.digest
        self.plan = decode_plan(plan)
        self.charter, self.identity = AggregatorHome(home).open()
        self.silos = self.charter.silos
        self.nonce = os.urandom(32)
        self.run = transcript.run_id(self.job, self.charter.digest, self.nonce)
        self.k = 0
        start = blocks.state_digest(blocks.initial_state(self.plan, self.run))
        self.chain = transcript.initial_chain(self.run, start)
        self.before = self.chain
        self.results: list[Result] = []
        self.loot: list[Result] = []
        self.earlier = tuple(earlier)
        self.number = len(self.earlier)
        self.book = Book(game, self.run.hex(), start=start.hex())
        self._folder = home / "jobs" / f"evil-{self.run.hex()[:12]}"
        self._timeouts = Timeouts(phase_s=spec.timeouts["phase"], step_s=spec.timeouts["step"])

    # what an honest server has, too

    def attempt(
        self, number: int, *, k: int | None = None, chain: bytes | None = None, among: Iterable[str] | None = None
    ) -> Attempt:
        """``among``: who may survive, whoever uploads; all without it."""
        context = Context(
            charter=self.charter,
            plan=self.plan,
            run=self.run,
            k=self.k if k is None else k,
            attempt=number,
            chain=self.chain if chain is None else chain,
        )
        store = UploadStore(RunFolder(self._folder / str(number)), context.k)
        return Attempt(
            context,
            self.identity,
            store,
            self._timeouts,
            Attendance(),
            job=self.job,
            code=release.digest(),
            blocks=bytes(32),
            asked_for=Chosen(self.plan, among),
        )

    def offer(self, attempt: Attempt, *, results: Iterable[Result] | None = None, **lies: bytes) -> Message:
        """The open request. ``results`` and ``lies`` (fields of ``Open``) instead of the truth."""
        told = list(self.results if results is None else results)
        truth = Open(
            job=self.job,
            plan=self.plan.digest,
            charter=self.charter.digest,
            code=release.digest(),
            nonce=self.nonce,
            chain=attempt.context.chain,
            results=tuple(one.result for one in told),
            proofs=tuple(one.proof for one in told),
        )
        arrays = pack_words([array for one in told for array in one.sums])
        return Message("open", attempt.request("open", bytes(replace(truth, **lies))).body, arrays)

    def close(self, opened: Opened) -> None:
        """The step's result becomes the run's."""
        arrays = tuple(array for found in opened.sums.values() for array in found.wire)
        self.loot.append(Result(opened.result, opened.proof, arrays))
        self.tell(self.loot[-1])

    def void(self, t3: bytes) -> None:
        """The step, whose shares have left, becomes void."""
        self.tell(Result(StepResult(step=self.k, chain=self.chain, t3=t3, released=False, slots=(), sums=()), (), ()))

    def tell(self, one: Result) -> None:
        """From here on this is what the step came to, and the chain is the one that follows from it."""
        self.results.append(one)
        self.before, self.chain = self.chain, self.after(one)
        self.k += 1

    def after(self, one: Result, chain: bytes | None = None) -> bytes:
        """The chain after this result. ``chain``: the one before it, by default the present one."""
        return self.after_all([one], chain)

    def after_all(self, results: Iterable[Result], chain: bytes | None = None) -> bytes:
        """The chain after these results."""
        chain = self.chain if chain is None else chain
        for result in (one.result for one in results):
            opened = result.digest if result.released else b""
            chain = transcript.next_chain(chain, result.t3, opened, released=result.released)
        return chain

    def honest_step(self, number: int = 0) -> Play:
        attempt = self.attempt(number)
        relay = Relay(self, attempt, dict.fromkeys(self.silos, self.offer(attempt)))
        yield from relay.finish()

    def until_tag(self, number: int) -> Generator[Exchange, Replies, tuple[Attempt, Relay]]:
        """The present step, honestly, until its result is to be announced."""
        attempt = self.attempt(number)
        relay = Relay(self, attempt, dict.fromkeys(self.silos, self.offer(attempt)))
        yield from relay.until("tag")
        self.loot.append(announced(attempt))
        return attempt, relay

    def repeated(self, text: str, attempt: Attempt, offers: Mapping[str, Message], names: Sequence[str]) -> Play:
        """A step over some silos, each phase honest. They attest and sign, but ``names`` (sections and lanes) stay
        shut; all else opens."""
        relay = Relay(self, attempt, offers)
        yield from relay.until("attest")
        relay.feed((yield from self.trick(text, attempt, "attest", relay.requests, {})))
        self.stay_shut(offers, *names)
        self.book.shut += [(self.k, name) for name in names]
        yield from relay.finish()
        result, step = self.results[-1].result, attempt.context.step
        opened = {one.lane for one in result.sums}
        opened |= {one for one in step.sections if all(result.slots[place] is not None for place in step.places(one))}
        expected = {lane.name for lane in self.plan.lanes_of(step)} | set(step.sections)
        assert opened == expected - set(names), f"{sorted(opened)} opened"

    def stay_shut(self, silos: Iterable[str], *names: str, code: str = CohortDifference.code) -> None:
        """From here on these sections or lanes must stay shut at these silos, once more, as their own logs say."""
        self.book.withheld += [(silo, name, code) for silo in silos for name in names]

    def until_training(self) -> Play:
        """The steps before the first that opens a model, honestly."""
        while self.plan.steps[self.k].task != "train":
            yield from self.honest_step()

    # what it asks and what it is told

    def ask(self, exchange: Exchange) -> Talk:
        """One exchange; everything of it goes into the book."""
        replies = yield exchange
        for silo, request in exchange.requests.items():
            reply = replies.get(silo)
            if reply is None:
                self.book.entries.append(Entry(silo, request.body, "", b""))
            else:
                arrays = tuple(words.tobytes() for words in reply.arrays)
                self.book.entries.append(Entry(silo, request.body, reply.phase, reply.body, arrays))
        return dict(replies)

    def trick(
        self, text: str, attempt: Attempt, phase: str, requests: Mapping[str, Message], expected: Mapping[str, str]
    ) -> Talk:
        """Ask, and note who refused with what. ``expected``: who must refuse with which code; the others answer."""
        context = attempt.context
        timeout = self._timeouts.phase_s
        exchange = Exchange(phase, context.k, context.step.name, requests, timeout, len(requests))
        replies = yield from self.ask(exchange)
        due = {silo: expected.get(silo, ANSWERED) for silo in requests}
        got = {silo: self.code(silo, replies.get(silo)) for silo in requests}
        self.book.tricks.append(Trick(text, context.k, context.attempt, phase, due, got))
        return {silo: reply for silo, reply in replies.items() if reply.phase != DECLINE}

    def code(self, silo: str, reply: Message | None) -> str:
        """What a silo did: the code of its refusal, whose signature is checked and must be its own."""
        if reply is None:
            return ABSENT
        if reply.phase != DECLINE:
            return ANSWERED
        refused = Decline.open(reply.body, lambda m: self.charter.member(m.silo).agent)
        return refused.code if refused.silo == silo else f"a refusal of {refused.silo}"


class Chosen(AskedFor):
    """Fits no cohort to the rule of atoms: the survivors are those that the server wants."""

    def __init__(self, plan: Plan, among: Iterable[str] | None) -> None:
        super().__init__(plan, least=1)
        self._among = None if among is None else frozenset(among)

    def fit(self, step: Step, blocks: bytes, held: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(held if self._among is None else self._among & held.keys()))


class Relay:
    """The project's own attempt, carried by the evil server. ``next``: the exchange that it is about to make."""

    def __init__(self, server: EvilServer, attempt: Attempt, offers: Mapping[str, Message]) -> None:
        self._server = server
        self._talk = attempt.run(offers, len(offers))
        self.next: Exchange | None = next(self._talk)
        self.opened: Opened | None = None

    def feed(self, replies: Mapping[str, Message]) -> None:
        try:
            self.next = self._talk.send(replies)
        except StopIteration as done:
            self.next, self.opened = None, done.value

    def until(self, phase: str | None) -> Play:
        """Play honestly, up to and without this phase."""
        while self.next is not None and self.next.phase != phase:
            self.feed((yield from self._server.ask(self.next)))

    @property
    def requests(self) -> Mapping[str, Message]:
        """The requests that it is about to make."""
        assert self.next is not None
        requests: Mapping[str, Message] = self.next.requests
        return requests

    @property
    def seeds(self) -> tuple[tuple[bytes, ...], ...]:
        """What the tag request that is about to be made shows of the opened lanes."""
        request = unsigned_request(next(iter(self.requests.values())).body)
        assert request is not None
        return TagRequest.from_bytes(request.payload).seeds

    def finish(self) -> Play:
        yield from self.until(None)
        assert self.opened is not None
        self._server.close(self.opened)
