"""Two signed messages of one signer for one place: proof that a stranger can check with the charter alone.

In each place of a session a signer signs one message. Two different ones prove that it equivocated:

| signed twice            | by             | the place                                                        |
|-------------------------|----------------|------------------------------------------------------------------|
| Request (but REPEATED)  | the aggregator | run, step, attempt, phase                                        |
| Advert, Deal, Header    | a member       | the T0, T1, T2 inside it                                         |
| Tags                    | a member       | the T3 inside it, and whose upload they are of                   |
| Attestation             | a member       | the T2 under which both T3 were made: their headers come with it |

A request does not name the silo it went to, and an honest aggregator sends each silo some parts of its own: the rows
addressed to it, the results it lacks. Two requests are proof only where the parts common to all silos differ.

Nothing in evidence is secret: requests carry what the aggregator sent, members' messages what they published. (A
``contribute`` request holds sealed rows, which stay sealed.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from crypto.charter import Charter
from crypto.encoding import VERSION, Reader, Writer
from crypto.errors import EvidenceError, FederationError, Malformed
from crypto.keys import SIGNATURE_BYTES, PublicIdentity
from crypto.messages import (
    REPEATED,
    Advert,
    Attestation,
    Deal,
    Header,
    Open,
    Request,
    StepResult,
    Tags,
    Wire,
    unpack_two,
)
from crypto.transcript import DIGEST_BYTES, digest, t3

_BY_KIND: dict[int, type[Wire]] = {kind.KIND: kind for kind in (Request, Advert, Deal, Header, Attestation, Tags)}

OfMember = Advert | Deal | Header | Attestation | Tags
#: The signed headers from which, with one T2, the T3 of each of two attestations is made.
HeaderSets = tuple[tuple[bytes, ...], tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Pair:
    """The two signed messages, in the order they were seen. ``t2`` and ``headers``: for attestations only, what each
    T3 was made from."""

    first: bytes
    second: bytes
    t2: bytes = bytes(DIGEST_BYTES)
    headers: HeaderSets = ((), ())

    def __bytes__(self) -> bytes:
        out = Writer().u8(VERSION).blob(self.first).blob(self.second).fixed(self.t2, DIGEST_BYTES)
        return bytes(out.each(self.headers[0], Writer.blob).each(self.headers[1], Writer.blob))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        src = Reader(data)
        if (version := src.u8()) != VERSION:
            raise Malformed(f"Evidence of version {version}; this code reads version {VERSION}.")
        first, second, t2 = src.blob(), src.blob(), src.fixed(DIGEST_BYTES)
        pair = cls(first, second, t2, (src.each(Reader.blob), src.each(Reader.blob)))
        src.end()
        return pair


@dataclass(frozen=True, slots=True)
class Proven:
    """Who signed what twice. ``signer``: "aggregator" or a silo's id; ``place``: a description; ``digests``: of the
    two messages without their signatures, in hexadecimal."""

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


def verify(evidence: bytes, charter: Charter) -> Proven:
    """What the evidence proves, or EvidenceError. ``charter``: the federation's, its signature already checked."""
    try:
        pair = Pair.from_bytes(evidence)
        kind = _kind(pair.first)
        if kind is Request:
            return _requests(pair, charter)
        return _members(pair, kind, charter)
    except EvidenceError:
        raise
    except FederationError as bad:
        raise EvidenceError("evidence", expected="two messages signed under this charter", found=bad.detail) from bad


def twice(first: bytes, second: bytes, charter: Charter) -> bytes | None:
    """Evidence of two signed messages. None where they prove nothing: two places, a forgery, parts for two silos."""
    evidence = bytes(Pair(first, second))
    try:
        verify(evidence, charter)
    except EvidenceError:
        return None
    return evidence


def _kind(signed: bytes) -> type[Wire]:
    src = Reader(_body(signed))
    src.u8()
    number = src.u8()
    if number not in _BY_KIND:
        raise EvidenceError("evidence", expected="messages that have one place each", found=f"kind {number}")
    return _BY_KIND[number]


def _body(signed: bytes) -> bytes:
    src = Reader(signed)
    body = src.blob()
    src.fixed(SIGNATURE_BYTES)
    src.end()
    return body


def _requests(pair: Pair, charter: Charter) -> Proven:
    first, second = (Request.open(signed, lambda _: charter.aggregator) for signed in (pair.first, pair.second))
    places = [(one.run, one.step, one.attempt, one.phase) for one in (first, second)]
    if places[0] != places[1]:
        raise EvidenceError("evidence", expected="two requests for one place", found="requests for two places")
    if first.phase in REPEATED:
        found = f"{first.phase}, which is asked often"
        raise EvidenceError("evidence", expected="a phase that is asked once", found=found)
    if first.payload != second.payload and not _conflict(first, second):
        raise EvidenceError(
            "evidence", expected="two versions of a part that all silos get alike", found="parts addressed to two silos"
        )
    where = f"phase {first.phase!r} of step {first.step}, attempt {first.attempt}, run {first.run.hex()[:16]}"
    return _proven(pair, "aggregator", charter.aggregator, "Request", where)


def _conflict(first: Request, second: Request) -> bool:
    """Whether no honest aggregator signs both, even for two silos. It signs no payload that does not decode."""
    try:
        (common, results), (other, others) = _common(first), _common(second)
    except Malformed:
        return True
    return common != other or any(results[step] != others[step] for step in results.keys() & others.keys())


def _common(request: Request) -> tuple[object, dict[int, StepResult]]:
    """The part that all silos get alike in this place, and results by step, of which each silo gets those it lacks."""
    head = b""
    match request.phase:
        case "contribute":
            deals, _ = unpack_two(request.payload)
            return deals, {}
        case "open":
            offer = Open.from_bytes(request.payload)
        case "close":
            src = Reader(request.payload)
            offer, head = Open.from_bytes(src.blob()), src.fixed(DIGEST_BYTES)
            src.end()
        case _:
            return request.payload, {}
    common = (offer.job, offer.plan, offer.charter, offer.nonce, offer.chain, head)
    return common, {result.step: result for result in offer.results}


def _members(pair: Pair, kind: type[Wire], charter: Charter) -> Proven:
    first, second = (_open(kind, signed, charter) for signed in (pair.first, pair.second))
    if first.silo != second.silo:
        raise EvidenceError("evidence", expected="two messages of one silo", found=f"{first.silo} and {second.silo}")
    label, place = _place(first)
    if isinstance(first, Attestation) and isinstance(second, Attestation):
        for one, headers in zip((first, second), pair.headers, strict=True):
            if t3(pair.t2, headers) != one.t3:
                raise EvidenceError("evidence", expected="the headers that each T3 is made from", found="others")
        label, place = "T2", pair.t2
    elif _place(second)[1] != place:
        raise EvidenceError("evidence", expected=f"two messages under one {label}", found="two of them")
    where = f"{label} {place.hex()[:16]}"
    return _proven(pair, first.silo, charter.member(first.silo).agent, kind.__name__, where)


def _open(kind: type[Wire], signed: bytes, charter: Charter) -> OfMember:
    def key(message: Wire) -> PublicIdentity:
        assert isinstance(message, OfMember)
        return charter.member(message.silo).agent

    message = kind.open(signed, key)
    assert isinstance(message, OfMember)
    return message


def _place(message: OfMember) -> tuple[str, bytes]:
    """The transcript hash a member signs at most one message of this kind under."""
    match message:
        case Advert():
            return "T0", message.t0
        case Deal():
            return "T1", message.t1
        case Header():
            return "T2", message.t2
        case Attestation():
            return "T3", message.t3
        case Tags():
            return "T3 and owner", message.t3 + message.owner.encode()


def _proven(pair: Pair, signer: str, key: PublicIdentity, kind: str, where: str) -> Proven:
    bodies = [_body(signed) for signed in (pair.first, pair.second)]
    if bodies[0] == bodies[1]:
        raise EvidenceError("evidence", expected="two different messages", found="the same one twice")
    one, other = (digest("evidence", body).hex()[:16] for body in bodies)
    return Proven(signer, key.fingerprint, kind, where, (one, other))
