"""Two signed messages of protocol 1 that one signer must not sign both: see ``crypto.equivocation`` for the rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aggregator.protocols.protocol1.encoding import DIGEST_BYTES, Reader
from aggregator.protocols.protocol1.messages import (
    Advert,
    Attestation,
    Deal,
    Header,
    Message,
    Open,
    Request,
    StepResult,
    split,
)
from aggregator.protocols.protocol1.transcript import digest, following
from crypto.errors import EvidenceError, FederationError, Malformed
from crypto.keys import PublicIdentity

#: Kind → (class, the transcript hash that a member signs at most one such message under).
_MEMBERS: dict[int, tuple[type[Advert | Deal | Header | Attestation], str]] = {
    Advert.KIND: (Advert, "T0"),
    Deal.KIND: (Deal, "T1"),
    Header.KIND: (Header, "T2"),
    Attestation.KIND: (Attestation, "T2"),
}


@dataclass(frozen=True, slots=True)
class Proven:
    """Who signed what twice. ``digests``: of the two messages without their signatures, in hexadecimal."""

    signer: str
    fingerprint: str
    kind: str
    place: str
    digests: tuple[str, str]

    def __str__(self) -> str:
        return (
            f"{self.signer} (key {self.fingerprint}) signed two different {self.kind} messages for {self.place}: "
            f"{self.digests[0]} and {self.digests[1]}."
        )


def verify_pair(evidence: bytes, charter: Any) -> Proven:
    """What the evidence proves, or EvidenceError. ``charter``: the federation's, its signature already checked."""
    try:
        src = Reader(evidence)
        src.version("Evidence")
        first, second, t2 = src.blob(), src.blob(), src.fixed(DIGEST_BYTES)
        headers = src.each(Reader.blob), src.each(Reader.blob)
        src.end()
        bodies = [split(first)[0], split(second)[0]]
        number = bodies[0][1] if len(bodies[0]) > 1 else 0
        if number == Request.KIND:
            signer, key, where = _requests(first, second, charter)
            kind = Request.__name__
        elif number in _MEMBERS:
            signer, key, where = _members(number, (first, second), t2, headers, charter)
            kind = _MEMBERS[number][0].__name__
        else:
            raise _error("messages that have one place each", f"kind {number}")
        if bodies[0] == bodies[1]:
            raise _error("two different messages", "the same one twice")
    except EvidenceError:
        raise
    except FederationError as bad:
        raise _error("two messages signed under this charter", bad.detail) from bad
    one, other = (digest("evidence", body).hex()[:16] for body in bodies)
    return Proven(signer, key.fingerprint, kind, where, (one, other))


def _error(expected: str, found: str) -> EvidenceError:
    return EvidenceError("evidence", expected=expected, found=found)


def _requests(one: bytes, other: bytes, charter: Any) -> tuple[str, PublicIdentity, str]:
    first, second = (Request.open(signed, lambda _: charter.aggregator) for signed in (one, other))
    places = [(asked.run, asked.step, asked.attempt, asked.phase) for asked in (first, second)]
    if places[0] != places[1]:
        raise _error("two requests for one place", "requests for two places")
    if first.phase == "fetch":
        raise _error("a phase that is asked once", "fetch, which is asked often")
    if first.payload != second.payload and not _conflict(first, second):
        raise _error("two versions of a part that all silos get alike", "parts addressed to two silos")
    where = f"phase {first.phase!r} of step {first.step}, attempt {first.attempt}, run {first.run.hex()[:16]}"
    return "aggregator", charter.aggregator, where


def _conflict(first: Request, second: Request) -> bool:
    """Whether no honest aggregator signs both, even for two silos. It signs no payload that does not decode."""
    try:
        (common, results), (other, others) = _common(first), _common(second)
    except Malformed:
        return True
    return common != other or any(results[step] != others[step] for step in results.keys() & others.keys())


def _common(request: Request) -> tuple[object, dict[int, StepResult]]:
    """The part that all silos get alike in this place, and results by step, of which each silo gets those it lacks."""
    src, head = Reader(request.payload), b""
    match request.phase:
        case "contribute":
            deals, _ = src.each(Reader.blob), src.each(lambda s: (s.text(), s.blob()))
            src.end()
            return deals, {}
        case "open":
            offer = Open.from_bytes(request.payload)
        case "close":
            offer, head = Open.from_bytes(src.blob()), src.digest()
            src.end()
        case _:
            return request.payload, {}
    common = (offer.job, offer.plan, offer.charter, offer.nonce, offer.chain, head)
    return common, {result.step: result for result in offer.results}


def _members(
    number: int, pair: tuple[bytes, bytes], t2: bytes, headers: tuple[Sequence[bytes], Sequence[bytes]], charter: Any
) -> tuple[str, PublicIdentity, str]:
    kind, label = _MEMBERS[number]
    first, second = (kind.open(signed, lambda message: charter.member(message.silo).agent) for signed in pair)
    if first.silo != second.silo:
        raise _error("two messages of one silo", f"{first.silo} and {second.silo}")
    place = t2
    if kind is Attestation:
        if [following("T3", t2, signed) for signed in headers] != [_place(first), _place(second)]:
            raise _error("the headers that each T3 is made from", "others")
    elif _place(second) != (place := _place(first)):
        raise _error(f"two messages under one {label}", "two of them")
    return first.silo, charter.member(first.silo).agent, f"{label} {place.hex()[:16]}"


def _place(message: Message) -> bytes:
    match message:
        case Advert():
            return message.t0
        case Deal():
            return message.t1
        case Header():
            return message.t2
        case _:
            assert isinstance(message, Attestation)
            return message.t3
