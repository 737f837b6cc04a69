"""What a malicious aggregator tries, one game a function: each trick says who must refuse it, and with which code.

A game plays honestly as long as that serves the lie; it has the aggregator's key and every byte the silos sent.

This module is one file because it is the list of all games.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crypto import transcript
from crypto.errors import FederationError, LaneBelowFloor
from crypto.keys import Identity
from crypto.messages import (
    Attestation,
    Message,
    Request,
    Shares,
    TagRequest,
    pack_blobs,
    pack_two,
)
from crypto.plan import Section
from jobs.demo.digits_data import make
from jobs.demo.federation import Federation, add_data
from jobs.job import JobSpec
from silo_agent.pysyft.catalogue import Catalogue
from tests.evil.lies import false_void, invented_past, other_slots, other_words
from tests.evil.server import Book, EvilServer, Play, Relay, advert_of, announced


@dataclass(frozen=True, slots=True)
class Game:
    """``play`` over a job of ``method``, ``runs`` times in a row."""

    name: str
    play: Callable[[EvilServer], Play]
    method: str = "fedavg"
    runs: int = 1

    @property
    def dataset(self) -> str:
        """Each game has rows of its own, so that what another game opened keeps nothing of this one shut."""
        return f"digits-{self.name}"

    def job(self) -> JobSpec:
        """A job of seconds: an honest text, which the silos approve."""
        params: dict[str, Any] = {"features": 64, "classes": 10, "rounds": 2, "local_steps": 3, "seed": 7}
        times = {"phase": 60, "step": 60, "job": 300}
        raw = {"method": self.method, "dataset": self.dataset, "purpose": "a test", "params": params, "timeouts": times}
        return JobSpec.parse({"name": f"evil-{self.name}"} | raw)

    def register(self, federation: Federation) -> None:
        """Put the game's rows into each silo's catalogue."""
        rows = make(len(federation.silos), 100 + list(GAMES).index(self.name))
        for silo, home in federation.silo_homes.items():
            if self.dataset not in Catalogue(home, silo).names():
                add_data(home, silo, self.dataset, rows[silo])


Script = Callable[[EvilServer], Play]
GAMES: dict[str, Game] = {}


def game(method: str = "fedavg", runs: int = 1) -> Callable[[Script], Script]:
    def register(play: Script) -> Script:
        name = play.__name__.replace("_", "-")
        GAMES[name] = Game(name, play, method, runs)
        return play

    return register


def evil_run(name: str, job: str, plan: str, home: Path, number: int = 0) -> Play:
    """The generator that takes the place of ``jobs.runtime.compose.server_run``; leaves its book in
    ``<home>/evil/``. ``number``: which of the game's runs, from 0."""
    server = EvilServer(name, job, plan, home, [Book.load(book_path(home, name, one)) for one in range(number)])
    yield from served(server, home)


def served(server: EvilServer, home: Path) -> Play:
    """A run of a game by this server, and its book."""
    book = server.book
    try:
        yield from GAMES[book.game].play(server)
        book.over = True
    except FederationError as bad:  # the aggregator's own code noticed something that the game did not mean
        book.error = f"[{bad.code}] {bad}"
        raise
    finally:
        book.save(book_path(home, book.game, server.number))


def book_path(home: Path, name: str, number: int = 0) -> Path:
    return home / "evil" / f"{name}-{number}.json"


def every(silos: Iterable[str], code: str) -> dict[str, str]:
    return dict.fromkeys(silos, code)


# --- the three of the specification ------------------------------------------------------------------------------


@game()
def both_shares(server: EvilServer) -> Play:
    """Wants a silo's mask-seed shares from some and its self-seed shares from the others; then both from the same."""
    victim, *rest = server.silos
    deaf = rest[: len(server.silos) // 2]
    others = [silo for silo in server.silos if silo not in deaf]

    yield from server.until_training()
    attempt = server.attempt(0)
    relay = Relay(server, attempt, every_offer(server, attempt))
    yield from relay.until("attest")
    headers, slots = dict(attempt.session.survivors.signed), dict(attempt.session._masked_slots)
    without = [header for silo, header in headers.items() if silo != victim]
    dropped = attempt.request("attest", pack_blobs(without))
    alive = attempt.request("attest", pack_blobs(list(headers.values())))
    attested = yield from server.trick(
        f"says to {_names(deaf)} that {victim} dropped out, to the others that it lives",
        attempt,
        "attest",
        {silo: dropped if silo in deaf else alive for silo in server.silos},
        {},
    )
    signed = {silo: reply.body for silo, reply in attested.items()}
    for_deaf = attempt.request(
        "unmask-slots", pack_two([signed[s] for s in deaf], [(s, slots[s]) for s in rest])
    )  # here they would give the victim's mask share …
    for_others = attempt.request(
        "unmask-slots", pack_two([signed[s] for s in others], [(s, slots[s]) for s in server.silos])
    )  # … and here its self share
    yield from server.trick(
        f"asks {_names(deaf)} for mask shares of {victim}, the others for self shares, each with their attestations",
        attempt,
        "unmask-slots",
        {silo: for_deaf if silo in deaf else for_others for silo in server.silos},
        every(server.silos, "SURVIVOR_INVALID"),
    )

    attempt = server.attempt(1)
    relay = Relay(server, attempt, every_offer(server, attempt))
    yield from relay.until("unmask-lanes")  # self shares of everyone's slot seeds have left
    headers, slots = dict(attempt.session.survivors.signed), dict(attempt.session._masked_slots)
    without = [header for silo, header in headers.items() if silo != victim]
    attestations = list(attempt.session._attestations.values())
    yield from server.trick(
        f"after its slot shares have left, has a set without {victim} attested in the same attempt",
        attempt,
        "attest",
        every_message(rest, attempt.request("attest", pack_blobs(without))),
        every(rest, "EQUIVOCATION"),
    )
    yield from server.trick(
        f"asks the same silos again, now for mask shares of {victim}",
        attempt,
        "unmask-slots",
        every_message(rest, attempt.request("unmask-slots", pack_two(attestations, [(s, slots[s]) for s in rest]))),
        every(rest, "EQUIVOCATION"),
    )
    yield from relay.finish()  # what they answered before stands: the step ends as if nobody had lied


@game()
def wrong_result(server: EvilServer) -> Play:
    """Tells one silo another opened sum, digests and chain to match; to a second one without matching chain."""
    yield from server.until_training()
    yield from server.honest_step()
    victim, crude, other = server.silos[:3]
    lie = other_words(server.results[-1])
    chain = server.after(lie, server.before)

    attempt = server.attempt(0)
    offers = every_offer(server, attempt)
    offers[victim] = server.offer(attempt, results=[*server.results[:-1], lie], chain=chain)
    offers[crude] = server.offer(attempt, results=[*server.results[:-1], lie])
    offers[other] = server.offer(attempt, chain=chain)
    yield from server.trick(
        f"tells {victim} and {crude} a sum that was never opened; {crude} with the others' chain, {other} with its own",
        attempt,
        "open",
        offers,
        {victim: "SUM_NOT_PROVEN", crude: "SUM_NOT_PROVEN", other: "MODEL_MISMATCH"},
    )

    attempt = server.attempt(1)
    relay = Relay(server, attempt, every_offer(server, attempt))
    assert relay.next is not None
    replies = yield from server.trick(
        "gives up and tells everyone the sum that opened: their state is what it was, and all go on",
        attempt,
        "open",
        relay.next.requests,
        {},
    )
    relay.feed(replies)
    yield from relay.finish()


@game()
def model_split(server: EvilServer) -> Play:
    """Wants two groups to train on different models: another plan, another state, a result that some call void."""
    half = len(server.silos) // 2
    one, other = server.silos[:half], server.silos[half:]

    attempt = server.attempt(0)
    offers = every_offer(server, attempt)
    plan, chain = transcript.digest("another plan"), transcript.digest("another state")
    offers |= every_message(other, server.offer(attempt, plan=plan))
    offers[one[0]] = server.offer(attempt, chain=chain)
    yield from server.trick(
        f"claims another plan to {_names(other)} and another first state to {one[0]}",
        attempt,
        "open",
        offers,
        every(other, "VERSION_MISMATCH") | {one[0]: "MODEL_MISMATCH"},
    )
    yield from server.honest_step(1)
    yield from server.until_training()
    yield from server.honest_step()

    void = false_void(server.results[-1])
    chain = server.after(void, server.before)
    views = {silo: server.results if silo in one else [*server.results[:-1], void] for silo in server.silos}
    chains = {silo: server.chain if silo in one else chain for silo in server.silos}
    for number, together in ((0, False), (1, True)):
        attempt = server.attempt(number)
        offers = {silo: server.offer(attempt, results=views[silo], chain=chains[silo]) for silo in server.silos}
        adverts = yield from server.trick(
            f"tells {_names(other)} that the step was void, the others that it was released",
            attempt,
            "open",
            offers,
            {},
        )
        groups = {silo: one if silo in one else other for silo in server.silos}
        requests = {}
        for silo in adverts:
            group = server.silos if together else groups[silo]
            requests[silo] = attempt.request("deal", pack_blobs([advert_of(adverts[peer]) for peer in group]))
        yield from server.trick(
            "puts both groups into one cohort" if together else "makes two cohorts of them, one for each model",
            attempt,
            "deal",
            requests,
            every(server.silos, "TRANSCRIPT_MISMATCH" if together else "COHORT_TOO_SMALL"),
        )


# --- more --------------------------------------------------------------------------------------------------------


@game()
def second_release(server: EvilServer) -> Play:
    """Wants the sum of one step twice, the second time without one silo: their difference is that silo's update."""
    victim, *rest = server.silos
    yield from server.until_training()
    yield from server.honest_step()

    attempt = server.attempt(1, k=server.k - 1, chain=server.before)
    yield from server.trick(
        f"opens the released step again, with fresh keys and without {victim}",
        attempt,
        "open",
        every_message(rest, server.offer(attempt, results=server.results[:-1])),
        every(rest, "ALREADY_RELEASED"),
    )


@game()
def small_cohort(server: EvilServer) -> Play:
    """Invites fewer than n_min; then shows a few silos fewer adverts than came."""
    few = server.silos[: server.charter.n_min - 1]
    for number, invited in enumerate((few, server.silos)):
        attempt = server.attempt(number)
        adverts = yield from server.trick(
            f"invites {len(invited)} of {len(server.silos)}; the charter's least is {server.charter.n_min}",
            attempt,
            "open",
            every_message(invited, server.offer(attempt)),
            {},
        )
        yield from server.trick(
            f"calls {_names(few)} the whole cohort",
            attempt,
            "deal",
            every_message(few, attempt.request("deal", pack_blobs([advert_of(adverts[silo]) for silo in few]))),
            every(few, "COHORT_TOO_SMALL"),
        )


@game()
def old_charter(server: EvilServer) -> Play:
    """Works under another charter than the pinned one: an earlier epoch, and one that holds for longer."""
    for number, other in enumerate(
        (replace(server.charter, epoch=0), replace(server.charter, not_after=server.charter.not_after + 100))
    ):
        attempt = server.attempt(number)
        yield from server.trick(
            f"works under a charter of epoch {other.epoch} that holds until {other.not_after}",
            attempt,
            "open",
            every_message(server.silos, server.offer(attempt, charter=other.digest)),
            every(server.silos, "VERSION_MISMATCH"),
        )


@game()
def forged_request(server: EvilServer) -> Play:
    """Signs requests, and later attestations, with a key that is not theirs."""
    attempt = server.attempt(0)
    honest = Request.open(server.offer(attempt).body, lambda _: server.identity.public)
    yield from server.trick(
        "signs a request with a key that is not the aggregator's",
        attempt,
        "open",
        every_message(server.silos, Message("open", honest.sign(Identity.generate()))),
        every(server.silos, "BAD_SIGNATURE"),
    )
    attempt = server.attempt(1)
    relay = Relay(server, attempt, every_offer(server, attempt))
    yield from relay.until("unmask-slots")
    forged = [Attestation(silo=silo, t3=attempt.t3, sets=bytes(32)).sign(server.identity) for silo in server.silos]
    yield from server.trick(
        "signs the silos' attestations itself",
        attempt,
        "unmask-slots",
        every_message(
            server.silos,
            attempt.request("unmask-slots", pack_two(forged, list(attempt.session._masked_slots.items()))),
        ),
        every(server.silos, "BAD_SIGNATURE"),
    )


@game()
def replayed_advert(server: EvilServer) -> Play:
    """Shows an advert of an earlier attempt, whose keys it hopes to know by now."""
    attempts = [server.attempt(number) for number in (0, 1)]
    adverts = []
    for attempt in attempts:
        replies = yield from server.trick("opens the step", attempt, "open", every_offer(server, attempt), {})
        adverts.append({silo: advert_of(reply) for silo, reply in replies.items()})
    old, new = adverts
    victim = server.silos[-1]
    shown = new | {victim: old[victim]}
    yield from server.trick(
        f"shows everyone the advert that {victim} made for the attempt before",
        attempts[1],
        "deal",
        every_message(server.silos, attempts[1].request("deal", pack_blobs([shown[silo] for silo in server.silos]))),
        every(server.silos, "TRANSCRIPT_MISMATCH"),
    )


@game(method="fedcoe")
def shut_lane(server: EvilServer) -> Play:
    """Leaves out uploads until one holder of an expert survives: the expert's sum would be that silo's update."""
    yield from server.until_training()
    attempt = server.attempt(0)
    relay = Relay(server, attempt, every_offer(server, attempt))
    yield from relay.until("attest")
    session = attempt.session
    spare = len(session.survivors.signed) - session.cohort.threshold
    # The demonstration's first half holds the one expert, the second half the other: here, an outsider knows.
    gone = server.silos[1 : 1 + spare]
    kept = [silo for silo in server.silos if silo not in gone]
    session.survivors = type(session.survivors).form(
        session.dealt, [header for silo, header in session.survivors.signed.items() if silo in kept]
    )
    attested = yield from server.trick(
        f"calls {_names(gone)} dropped: of one expert's holders {server.silos[0]} alone survives",
        attempt,
        "attest",
        every_message(kept, attempt.request("attest", pack_blobs(list(session.survivors.signed.values())))),
        {},
    )
    for silo, reply in attested.items():
        session.attestation(silo, reply.body)
    request = attempt.request("unmask-slots", pack_two(*session.close_attestations()))
    released = yield from server.trick(
        "opens the slots of that cohort", attempt, "unmask-slots", every_message(kept, request), {}
    )
    for silo, reply in released.items():
        session.slot_shares(silo, reply.body)
    shares = session.open_slots()
    answers = yield from server.trick(
        "asks for the lanes; the shares of the expert with one holder, below its floor, must stay",
        attempt,
        "unmask-lanes",
        every_message(kept, attempt.request("unmask-lanes", pack_blobs(shares))),
        {},
    )
    # Which of the two experts that is the silos alone know: each says of which lanes it gave shares, and for how many.
    claims = {released_lanes(server, reply) for reply in answers.values()}
    assert len(claims) == 1, f"the silos do not agree: {claims}"
    open_for = dict(*claims)
    held = {lane.name for lane in server.plan.lanes_of(attempt.context.step)} - {"everyone"}
    (shut,) = held - open_for.keys()
    (still,) = held & open_for.keys()
    assert open_for[still] == len(kept) - 1, f"{still} opened for {open_for[still]}"
    server.stay_shut(kept, shut, code=LaneBelowFloor.code)
    server.book.shut.append((server.k, shut))
    yield from server.trick(
        "asks again, with fewer slot shares",
        attempt,
        "unmask-lanes",
        every_message(answers, attempt.request("unmask-lanes", pack_blobs(shares[:-1]))),
        every(answers, "EQUIVOCATION"),
    )


# --- differences -------------------------------------------------------------------------------------------------


@game()
def void_hop(server: EvilServer) -> Play:
    """Opens a training step, says that it was void, and repeats it from the same model without one silo."""
    victim, *rest = server.silos
    yield from server.until_training()
    attempt, _ = yield from server.until_tag(0)
    server.void(attempt.t3)  # the model stays what it was; the sums over all are the server's

    attempt = server.attempt(0)
    names = [*attempt.context.step.sections, *(lane.name for lane in server.plan.lanes_of(attempt.context.step))]
    offers = every_message(rest, server.offer(attempt))
    yield from server.repeated(
        f"after a step that it calls void, trains again from the same model without {victim}", attempt, offers, names
    )


@game(runs=2)
def two_runs(server: EvilServer) -> Play:
    """Runs one job twice: with all silos, then without one. The difference of two figures would be that silo's."""
    victim, *rest = server.silos
    if server.number == 0:
        for _ in server.plan.steps:
            yield from server.honest_step()
        return
    (first,) = server.earlier
    assert server.book.start != first.start, "both runs start from the same blocks: their updates are one quantity"
    for step in server.plan.steps:
        attempt = server.attempt(0)
        yield from server.repeated(
            f"runs {step.name} of the same job again, without {victim}",
            attempt,
            every_message(rest, server.offer(attempt)),
            [section for section in step.sections if section is Section.STATIC],  # the rest is of another model
        )


# --- unproven results --------------------------------------------------------------------------------------------


@game()
def false_sum(server: EvilServer) -> Play:
    """Tells all silos one and the same false sum, then a false weight: the next model would be its trap."""
    yield from server.until_training()
    attempt, relay = yield from server.until_tag(0)
    lie = other_words(announced(attempt))
    tagged = yield from server.trick(
        "announces a sum with one word off by one; no silo has seen the words yet, so each signs its part of it",
        attempt,
        "tag",
        every_message(server.silos, attempt.request("tag", bytes(TagRequest(lie.result, relay.seeds)))),
        {},
    )
    lie = replace(lie, proof=tuple(tagged[silo].body for silo in sorted(tagged)))
    following = server.attempt(0, k=server.k + 1, chain=server.after(lie))
    yield from server.trick(
        "tells everyone that sum, with their own signatures",
        following,
        "open",
        every_message(server.silos, server.offer(following, results=[*server.results, lie])),
        every(server.silos, "SUM_NOT_PROVEN"),
    )
    server.void(attempt.t3)

    attempt, relay = yield from server.until_tag(1)
    true = attempt.session.result
    (only,) = true.sums
    heavier = replace(true, sums=(replace(only, weight=only.weight + 1),))
    yield from server.trick(
        "calls that step void, and announces the next with another weight: the mean would be another",
        attempt,
        "tag",
        every_message(server.silos, attempt.request("tag", bytes(TagRequest(heavier, relay.seeds)))),
        every(server.silos, "SUM_NOT_PROVEN"),
    )
    yield from server.trick(
        "asks the same silos to sign the truth instead",
        attempt,
        "tag",
        every_message(server.silos, attempt.request("tag", bytes(TagRequest(true, relay.seeds)))),
        every(server.silos, "EQUIVOCATION"),
    )
    server.void(attempt.t3)
    yield from server.honest_step()


@game()
def false_past(server: EvilServer) -> Play:
    """Tells a past that never was to silos that were not there: to everyone at first, then to one that comes late."""
    never = invented_past(server, 2)
    attempt = server.attempt(0, k=len(never), chain=server.after_all(never))
    yield from server.trick(
        f"tells everyone of {len(never)} steps before the first",
        attempt,
        "open",
        every_message(server.silos, server.offer(attempt, results=never)),
        every(server.silos, "SUM_NOT_PROVEN"),
    )
    *rest, late = server.silos
    first = server.chain
    for _ in never:
        attempt = server.attempt(0)
        relay = Relay(server, attempt, every_message(rest, server.offer(attempt)))
        yield from relay.finish()
    lies = {
        "of these steps under other transcripts, with sums of its own": never,
        "the last of these steps with one word off, and the signatures of the truth": [
            *server.results[:-1],
            other_words(server.results[-1]),
        ],
        "these steps with the signatures of each the other's": [
            replace(one, proof=other.proof) for one, other in zip(server.results, reversed(server.results), strict=True)
        ],
    }
    for number, (text, lie) in enumerate(lies.items(), start=1):
        attempt = server.attempt(number, chain=server.after_all(lie, first))
        yield from server.trick(
            f"tells {late}, which was away, {text}",
            attempt,
            "open",
            {late: server.offer(attempt, results=lie)},
            {late: "SUM_NOT_PROVEN"},
        )
    attempt = server.attempt(1 + len(lies))
    relay = Relay(server, attempt, every_offer(server, attempt))
    assert relay.next is not None
    replies = yield from server.trick("tells it the truth", attempt, "open", relay.next.requests, {})
    relay.feed(replies)
    server.stay_shut(server.silos, Section.STATIC)  # opened without the late one: now its rows could be computed
    yield from relay.finish()


@game()
def invented_slots(server: EvilServer) -> Play:
    """Invents the counts of a step that sums no blocks: prices and shares of later steps would follow from them."""
    attempt, _ = yield from server.until_tag(0)
    true = announced(attempt)
    lie = replace(true, result=other_slots(true.result))
    following = server.attempt(0, k=server.k + 1, chain=server.after(lie))
    yield from server.trick(
        "tells everyone counts that never opened, without asking for a signature",
        following,
        "open",
        every_message(server.silos, server.offer(following, results=[*server.results, lie])),
        every(server.silos, "SUM_NOT_PROVEN"),
    )
    yield from server.trick(
        "asks for signatures of these counts",
        attempt,
        "tag",
        every_message(server.silos, attempt.request("tag", bytes(TagRequest(lie.result, ())))),
        every(server.silos, "SUM_NOT_PROVEN"),
    )
    server.void(attempt.t3)
    yield from server.honest_step(1)


# --- parts of games ---------------------------------------------------------------------------------------------------


def released_lanes(server: EvilServer, reply: Message) -> tuple[tuple[str, int], ...]:
    """Of which lanes a silo says that it gave shares, and for how many contributors."""
    shares = Shares.open(reply.body, lambda m: server.charter.member(m.silo).agent)
    return tuple((lane, contributors) for lane, _, contributors in shares.counts)


def every_offer(server: EvilServer, attempt: Any) -> dict[str, Message]:
    return every_message(server.silos, server.offer(attempt))


def every_message(silos: Iterable[str] | Mapping[str, object], message: Message) -> dict[str, Message]:
    return dict.fromkeys(silos, message)


def _names(silos: Iterable[str]) -> str:
    return ", ".join(silos)
