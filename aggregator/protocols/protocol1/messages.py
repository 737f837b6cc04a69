"""The signed messages of protocol 1, decoded and verified. Fields are in the order of their bytes.

A message is ``version · kind · fields``; a signed one is ``blob(message) · Ed25519`` over label and message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from aggregator.protocols.protocol1.charter import SILO_ID
from aggregator.protocols.protocol1.encoding import VERSION, Reader
from aggregator.protocols.protocol1.transcript import digest, label_bytes
from crypto.errors import BY_CODE, BadSignature, Malformed, NotApproved, RosterMismatch
from crypto.keys import KEY_BYTES, SIGNATURE_BYTES, PublicIdentity
from crypto.shamir import SHARE_BYTES

PHASES = ("open", "deal", "contribute", "fetch", "attest", "unmask-slots", "unmask-lanes", "close")
#: The lane of the slot section. No plan lane can have this name: it has an upper-case letter.
SLOTS = "Slots"
#: Longest purpose of an approval, in characters.
MOST_TEXT = 500
NONCE_BYTES = 16

#: Silo's id → the key whose signature its message must bear.
KeyOf = Callable[[str], PublicIdentity]


def split(signed: bytes) -> tuple[bytes, bytes]:
    """A signed message's body and signature, which is not checked."""
    src = Reader(signed)
    body, signature = src.blob(), src.fixed(SIGNATURE_BYTES)
    src.end()
    return body, signature


def _named_digest(src: Reader) -> tuple[str, bytes]:
    return src.text(), src.digest()


class Message:
    """Base: ``KIND`` byte, ``LABEL`` of the signature, ``read`` of the fields."""

    __slots__ = ()
    KIND: ClassVar[int]
    LABEL: ClassVar[str]

    @classmethod
    def read(cls, src: Reader) -> Self:
        raise NotImplementedError  # pragma: no cover

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        src = Reader(data)
        if (found := (src.u8(), src.u8())) != (VERSION, cls.KIND):
            raise Malformed(f"Expected {cls.__name__}, version {VERSION}, kind {cls.KIND}; got {found}.")
        message = cls.read(src)
        src.end()
        return message

    @classmethod
    def open(cls, signed: bytes, key: Callable[[Self], PublicIdentity]) -> Self:
        """Decode and verify. ``key`` names whose signature it must be. Raises Malformed or BadSignature."""
        body, signature = split(signed)
        message = cls.from_bytes(body)
        key(message).verify(signature, label_bytes(cls.LABEL, [body]))
        return message


# --- of the aggregator -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request(Message):
    run: bytes
    step: int
    attempt: int
    phase: str
    payload: bytes
    KIND: ClassVar[int] = 1
    LABEL: ClassVar[str] = "request"

    @classmethod
    def read(cls, src: Reader) -> Self:
        message = cls(src.digest(), src.u32(), src.u32(), src.text(), src.blob())
        if message.phase not in PHASES:
            raise Malformed(f"{message.phase!r} is not a phase.")
        return message


@dataclass(frozen=True, slots=True)
class StepResult(Message):
    step: int
    t3: bytes
    released: bool
    slots: tuple[int, ...]
    sums: tuple[tuple[str, bytes], ...]
    KIND: ClassVar[int] = 2

    @classmethod
    def read(cls, src: Reader) -> Self:
        result = cls(src.u32(), src.digest(), src.flag(), src.each(Reader.u64), src.each(_named_digest))
        if not result.released and (result.slots or result.sums):
            raise Malformed("A void step with a result.")
        if len(dict(result.sums)) != len(result.sums):
            raise Malformed("A result that names a lane twice.")
        return result


@dataclass(frozen=True, slots=True)
class Open(Message):
    job: bytes
    plan: bytes
    charter: bytes
    code: bytes
    nonce: bytes
    chain: bytes
    results: tuple[StepResult, ...]
    KIND: ClassVar[int] = 3

    @classmethod
    def read(cls, src: Reader) -> Self:
        job, plan, charter, code, nonce, chain = (src.digest() for _ in range(6))
        results = tuple(map(StepResult.from_bytes, src.each(Reader.blob)))
        return cls(job, plan, charter, code, nonce, chain, results)


# --- of a silo's agent -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advert(Message):
    """M0. ``commitments``: of each self seed; ``held``: visible lanes; ``data``: data commitment; ``approval``:
    digest of the owner's approval."""

    silo: str
    t0: bytes
    channel: bytes
    mask: bytes
    commitments: tuple[tuple[str, bytes], ...]
    held: tuple[str, ...]
    releases: int
    data: bytes
    approval: bytes
    nonce: bytes
    KIND: ClassVar[int] = 4
    LABEL: ClassVar[str] = "advert"

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(
            src.text(), src.digest(), src.fixed(KEY_BYTES), src.fixed(KEY_BYTES), src.each(_named_digest),
            src.each(Reader.text), src.u64(), src.digest(), src.digest(), src.fixed(NONCE_BYTES),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Deal(Message):
    """M1. ``rows``: peer → digest of the row of shares for it."""

    silo: str
    t1: bytes
    rows: tuple[tuple[str, bytes], ...]
    KIND: ClassVar[int] = 5
    LABEL: ClassVar[str] = "deal"

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(src.text(), src.digest(), src.each(_named_digest))


@dataclass(frozen=True, slots=True)
class Header(Message):
    """M2. ``lanes``: lane → SHA-256 of the silo's masked words, the slot section first."""

    silo: str
    t2: bytes
    lanes: tuple[tuple[str, bytes], ...]
    KIND: ClassVar[int] = 6
    LABEL: ClassVar[str] = "header"

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(src.text(), src.digest(), src.each(_named_digest))


@dataclass(frozen=True, slots=True)
class Attestation(Message):
    """M4: the survivors that the silo saw."""

    silo: str
    t3: bytes
    KIND: ClassVar[int] = 7
    LABEL: ClassVar[str] = "attest"

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(src.text(), src.digest())


@dataclass(frozen=True, slots=True)
class Shares(Message):
    """M5. ``masks``: (dropped silo, share of its mask seed); ``seeds``: (survivor, lane, share of its self seed)."""

    silo: str
    t3: bytes
    masks: tuple[tuple[str, bytes], ...]
    seeds: tuple[tuple[str, str, bytes], ...]
    KIND: ClassVar[int] = 8
    LABEL: ClassVar[str] = "shares"

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(
            src.text(), src.digest(), src.each(lambda s: (s.text(), s.fixed(SHARE_BYTES))),
            src.each(lambda s: (s.text(), s.text(), s.fixed(SHARE_BYTES))),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decline(Message):
    """A refusal: a code, and whom it blames."""

    silo: str
    run: bytes
    step: int
    attempt: int
    phase: str
    code: str
    blame: str
    KIND: ClassVar[int] = 9
    LABEL: ClassVar[str] = "decline"

    @classmethod
    def read(cls, src: Reader) -> Self:
        message = cls(src.text(), src.digest(), src.u32(), src.u32(), src.text(), src.text(), src.text())
        if message.code not in BY_CODE or message.phase not in PHASES:
            raise Malformed("A refusal with an unknown code or phase.")
        if not all(SILO_ID.fullmatch(silo) for silo in (message.silo, message.blame) if silo):
            raise Malformed("A refusal whose silo or blame is not a silo id.")
        return message


@dataclass(frozen=True, slots=True)
class Closing(Message):
    """Signature over the final state chain and the ledger's head."""

    run: bytes
    chain: bytes
    ledger: bytes
    silo: str
    KIND: ClassVar[int] = 10
    LABEL: ClassVar[str] = "closing"

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(src.digest(), src.digest(), src.digest(), src.text())


# --- of a data owner ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What an approval covers."""

    silo: str
    charter: bytes
    job: bytes
    plan: bytes
    policy: bytes
    code: bytes
    commitment: bytes
    data_uid: str
    purpose: str

    @classmethod
    def read(cls, src: Reader) -> Self:
        silo = src.text()
        charter, job, plan, policy, code, commitment = (src.digest() for _ in range(6))
        return cls(silo, charter, job, plan, policy, code, commitment, src.text(), src.text())


@dataclass(frozen=True, slots=True)
class Approval(Message):
    """Times in seconds since 1970, UTC."""

    terms: Terms
    max_runs: int
    not_before: int
    not_after: int
    nonce: bytes
    KIND: ClassVar[int] = 11
    LABEL: ClassVar[str] = "approval"

    @classmethod
    def read(cls, src: Reader) -> Self:
        approval = cls(Terms.read(src), src.u32(), src.u64(), src.u64(), src.fixed(NONCE_BYTES))
        if not SILO_ID.fullmatch(approval.terms.silo) or len(approval.terms.purpose) > MOST_TEXT:
            raise Malformed(f"An approval with an invalid silo id, or a purpose longer than {MOST_TEXT} characters.")
        return approval


def approval_digest(signed: bytes) -> bytes:
    return digest("approval", signed)


def open_approval(signed: bytes, silo: str, owner: KeyOf) -> Approval:
    """An approval of that silo, its signature checked. Raises Malformed, BadSignature, RosterMismatch."""
    approval = Approval.open(signed, lambda one: owner(one.terms.silo))
    if approval.terms.silo != silo:
        raise RosterMismatch(f"{silo!r} showed an approval of {approval.terms.silo!r}.")
    return approval


def check_shown(signed: bytes, advert: Advert, owner: KeyOf, **run: bytes) -> Approval:
    """The approval that an advert names: the owner's signature, and that it covers this run and these data.
    ``run``: digests of charter, job, plan and code. Raises also NotApproved."""
    if approval_digest(signed) != advert.approval:
        raise BadSignature(f"{advert.silo!r} showed another approval than its advert names.")
    approval = open_approval(signed, advert.silo, owner)
    for name, value in {**run, "commitment": advert.data}.items():
        if getattr(approval.terms, name) != value:
            raise NotApproved(run["job"].hex(), reason=f"at {advert.silo}, it is for another {name}")
    return approval
