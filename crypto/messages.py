"""Every message of the protocol, and its bytes.

| phase          | server → silo                              | silo → server                                  |
|----------------|--------------------------------------------|------------------------------------------------|
| open           | results since the silo's last, proofs, S_k | Advert (M0), owner's approval; or Decline      |
| deal           | adverts of U1                              | Deal (M1) and one sealed row per peer          |
| contribute     | deals of U2, the rows addressed to it      | Header (M2) and the masked slots               |
| fetch          | ranges of lanes                            | the words (arrays)                             |
| attest         | headers of U3 (M3)                         | Attestation (M4)                               |
| unmask-slots   | attestations, masked slots                 | Shares of dropped silos, of sections that pass |
| unmask-lanes   | slot shares                                | Shares of the lanes that pass (M5)             |
| tag            | the result, the seeds that opened it       | Tags (M6)                                      |
| stand-in       | a masked upload whose silo sent no tags    | Tags, in its place                             |
| close          | final state and ledger head                | Closing                                        |

This module is one file because it is the list of all message bytes: read it beside docs/protocol.md and the vectors.

A message is ``version · kind · fields``; a signed one is ``blob(message) · Ed25519``. Signatures cover a label, so a
signature made for one kind never verifies for another. Decoders accept exactly the bytes that encoders make.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from crypto.charter import SILO_ID
from crypto.encoding import VERSION, Reader, Writer
from crypto.errors import BY_CODE, LayoutMismatch, Malformed
from crypto.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicIdentity, Secret
from crypto.plan import Step
from crypto.shamir import SECRET_BYTES, SHARE_BYTES
from crypto.tags import TAG_BYTES
from crypto.transcript import DIGEST_BYTES, digest, label_bytes

#: The phases of a step, in order.
STEP_PHASES = ("open", "deal", "contribute", "fetch", "attest", "unmask-slots", "unmask-lanes", "tag", "stand-in")

#: All phases: ``close`` ends the run.
PHASES = (*STEP_PHASES, "close")

#: Phases in which a silo is asked as often as needed, each time for something else.
REPEATED = frozenset({"fetch", "stand-in"})

#: ``Message.phase`` of a reply that is a ``Decline``.
DECLINE = "decline"

_TEXT = Writer.text
_BLOB = Writer.blob


def _hash(out: Writer, value: bytes) -> Writer:
    return out.fixed(value, DIGEST_BYTES)


def _read_hash(src: Reader) -> bytes:
    return src.fixed(DIGEST_BYTES)


def _pair(
    first: Callable[[Writer, str], object], second: Callable[[Writer, bytes], object]
) -> Callable[[Writer, tuple[str, bytes]], None]:
    def write(out: Writer, item: tuple[str, bytes]) -> None:
        first(out, item[0])
        second(out, item[1])

    return write


_NAMED_BLOB = _pair(_TEXT, _BLOB)
_NAMED_HASH = _pair(_TEXT, _hash)


def _read_named_blob(src: Reader) -> tuple[str, bytes]:
    return src.text(), src.blob()


def _read_named_hash(src: Reader) -> tuple[str, bytes]:
    return src.text(), _read_hash(src)


def _write_slot(out: Writer, value: int | None) -> None:
    out.u8(value is not None).u64(value or 0)


def _read_slot(src: Reader) -> int | None:
    opened, value = src.flag(), src.u64()
    if value and not opened:
        raise Malformed("A slot that stayed shut has a value.")
    return value if opened else None


#: Bytes of a message's body.
BODY_BYTES = 16 << 20
#: Words in one array on the wire: 16 MiB. Couriers copy array by array.
ARRAY_WORDS = 1 << 22
#: Arrays of one message: with ARRAY_WORDS at most 1 GiB.
MESSAGE_ARRAYS = 64

_WORD = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Message:
    """What a courier carries. ``arrays``: uint32 words (opened sums down, masked lanes up); else empty."""

    phase: str
    body: bytes
    arrays: tuple[np.ndarray, ...] = ()

    def check(self) -> None:
        """Raises Malformed for a message that no courier carries: a wrong type, or more than the limits above."""
        if type(self.phase) is not str or self.phase not in (*PHASES, DECLINE):
            raise Malformed("A payload has an unknown phase.")
        if type(self.body) is not bytes or len(self.body) > BODY_BYTES:
            raise Malformed(f"A payload's body is not bytes, or is longer than {BODY_BYTES}.")
        if len(self.arrays) > MESSAGE_ARRAYS:
            raise Malformed(f"A payload has {len(self.arrays)} arrays, more than {MESSAGE_ARRAYS}.")
        for index, array in enumerate(self.arrays):
            if type(array) is not np.ndarray:
                raise Malformed(f"Array {index} is a {type(array).__name__}, not a numpy array.")
            if array.dtype != _WORD or array.ndim != 1 or not array.flags.c_contiguous:
                raise Malformed(f"Array {index} is not flat, contiguous, little-endian uint32.")
            if array.size > ARRAY_WORDS:
                raise Malformed(f"Array {index} has {array.size} words, more than {ARRAY_WORDS}.")


class Wire:
    """Base of the messages: ``KIND`` byte, ``LABEL`` of the signature, ``write`` and ``read`` of the fields."""

    __slots__ = ()
    KIND: ClassVar[int]
    LABEL: ClassVar[str]

    def write(self, out: Writer) -> None:
        raise NotImplementedError  # pragma: no cover

    @classmethod
    def read(cls, src: Reader) -> Self:
        raise NotImplementedError  # pragma: no cover

    def __bytes__(self) -> bytes:
        out = Writer().u8(VERSION).u8(self.KIND)
        self.write(out)
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        src = Reader(data)
        version, kind = src.u8(), src.u8()
        if (version, kind) != (VERSION, cls.KIND):
            raise Malformed(
                f"Expected {cls.__name__} (version {VERSION}, kind {cls.KIND}), got version {version}, kind {kind}."
            )
        message = cls.read(src)
        src.end()
        return message

    def sign(self, identity: Identity) -> bytes:
        """``blob(message) · signature``."""
        body = bytes(self)
        return bytes(Writer().blob(body).fixed(identity.sign(label_bytes(self.LABEL, [body])), SIGNATURE_BYTES))

    @classmethod
    def open(cls, signed: bytes, key: Callable[[Self], PublicIdentity]) -> Self:
        """Decode and verify. ``key`` names whose signature it must be. Raises Malformed or BadSignature."""
        src = Reader(signed)
        body, signature = src.blob(), src.fixed(SIGNATURE_BYTES)
        src.end()
        message = cls.from_bytes(body)
        key(message).verify(signature, label_bytes(cls.LABEL, [body]))
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Wire):
    """Everything the server asks, signed by the aggregator's key. ``payload`` is the phase's own message."""

    run: bytes
    step: int
    attempt: int
    phase: str
    payload: bytes
    KIND: ClassVar[int] = 1
    LABEL: ClassVar[str] = "request"

    def write(self, out: Writer) -> None:
        _hash(out, self.run).u32(self.step).u32(self.attempt).text(self.phase).blob(self.payload)

    @classmethod
    def read(cls, src: Reader) -> Self:
        message = cls(run=_read_hash(src), step=src.u32(), attempt=src.u32(), phase=src.text(), payload=src.blob())
        if message.phase not in PHASES:
            raise Malformed(f"{message.phase!r} is not a phase.")
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSum:
    """An opened lane. ``words``, ``carries``: SHA-256 of its summed words and of how often each wrapped, which travel
    as arrays; ``uploaders``: the survivors whose uploads are in it, by id; ``weight``, ``contributors``: the sum and
    the number of the weights in it, by the survivors' manifests."""

    lane: str
    words: bytes
    carries: bytes
    uploaders: tuple[str, ...]
    weight: int
    contributors: int

    def write(self, out: Writer) -> None:
        _hash(_hash(out.text(self.lane), self.words), self.carries).each(self.uploaders, _TEXT)
        out.u64(self.weight).u32(self.contributors)

    @classmethod
    def read(cls, src: Reader) -> LaneSum:
        return cls(
            lane=src.text(),
            words=_read_hash(src),
            carries=_read_hash(src),
            uploaders=src.each(Reader.text),
            weight=src.u64(),
            contributors=src.u32(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult(Wire):
    """What a step opened. ``chain`` is S_k, the state before the step, which binds the result to its run and to all
    results before it; ``t3`` the survivors' transcript; ``slots`` are the sums of the step's slots, None for those of a
    section that stayed shut; ``sums`` are the opened lanes, in the order of their words in the message. A void step has
    neither slots nor sums."""

    step: int
    chain: bytes
    t3: bytes
    released: bool
    slots: tuple[int | None, ...]
    sums: tuple[LaneSum, ...]
    KIND: ClassVar[int] = 2
    LABEL: ClassVar[str] = "result"

    def write(self, out: Writer) -> None:
        _hash(_hash(out.u32(self.step), self.chain), self.t3).u8(self.released).each(self.slots, _write_slot)
        out.each(self.sums, lambda w, one: one.write(w))

    @classmethod
    def read(cls, src: Reader) -> Self:
        step, chain, t3, released = src.u32(), _read_hash(src), _read_hash(src), src.flag()
        slots, sums = src.each(_read_slot), src.each(LaneSum.read)
        result = cls(step=step, chain=chain, t3=t3, released=released, slots=slots, sums=sums)
        if not released and (result.slots or result.sums):
            raise Malformed("A void step with a result.")
        if len({one.lane for one in result.sums}) != len(result.sums):
            raise Malformed("A result that names a lane twice.")
        return result

    @property
    def digest(self) -> bytes:
        return digest("opened", bytes(self))

    def lanes_of(self, owner: str) -> tuple[str, ...]:
        """The opened lanes that a silo uploaded, in the result's order: those that its tags are of."""
        return tuple(one.lane for one in self.sums if owner in one.uploaders)

    @property
    def weights(self) -> dict[str, int]:
        """Opened lane → sum of the weights in it."""
        return {one.lane: one.weight for one in self.sums}

    def figures(self, step: Step) -> dict[str, int]:
        """What opened beside the words: slot → sum, and of each opened lane its weight and contributors."""
        named = zip((slot.name for slot in step.slots), self.slots, strict=True)
        figures = {name: value for name, value in named if value is not None}
        for one in self.sums:
            figures |= {f"{one.lane}.weight": one.weight, f"{one.lane}.contributors": one.contributors}
        return figures


@dataclass(frozen=True, slots=True)
class TagRequest:
    """The announced result, and for each of its lanes the self seeds that opened it, in the order of the uploaders:
    a silo gives tags only of lanes that are open."""

    result: StepResult
    seeds: tuple[tuple[bytes, ...], ...]

    def __bytes__(self) -> bytes:
        out = Writer().blob(bytes(self.result))
        return bytes(out.each(self.seeds, lambda w, lane: w.each_fixed(lane, SECRET_BYTES)))

    @classmethod
    def from_bytes(cls, data: bytes) -> TagRequest:
        src = Reader(data)
        result = StepResult.from_bytes(src.blob())
        request = cls(result, src.each(lambda s: s.each_fixed(SECRET_BYTES)))
        src.end()
        if len(request.seeds) != len(result.sums):
            raise Malformed(f"Seeds of {len(request.seeds)} lanes for a result of {len(result.sums)}.")
        return request


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Wire):
    """Announces a step: digests of the run's parts, the state chain, and what was opened since the silo's last step.
    ``proofs``: for each result the signed Tags that prove it, none for a void step."""

    job: bytes
    plan: bytes
    charter: bytes
    code: bytes
    nonce: bytes
    chain: bytes
    results: tuple[StepResult, ...]
    proofs: tuple[tuple[bytes, ...], ...]
    KIND: ClassVar[int] = 3
    LABEL: ClassVar[str] = "open"

    def write(self, out: Writer) -> None:
        for value in (self.job, self.plan, self.charter, self.code, self.nonce, self.chain):
            _hash(out, value)
        out.each(self.results, lambda w, result: w.blob(bytes(result)))
        out.each(self.proofs, lambda w, proof: w.each(proof, _BLOB))

    @classmethod
    def read(cls, src: Reader) -> Self:
        job, plan, charter, code, nonce, chain = (_read_hash(src) for _ in range(6))
        results = tuple(StepResult.from_bytes(blob) for blob in src.each(Reader.blob))
        proofs = src.each(lambda s: s.each(Reader.blob))
        if len(proofs) != len(results):
            raise Malformed(f"{len(results)} results with {len(proofs)} proofs.")
        return cls(
            job=job, plan=plan, charter=charter, code=code, nonce=nonce, chain=chain, results=results, proofs=proofs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert(Wire):
    """M0. Ephemeral keys: ``channels``, one for the rows from and to each other member of the charter, in its order, so
    that a silo can show one row and no other, and ``mask``; a commitment to each self seed, the visible lanes held, and
    how many releases this silo has ever made; the commitment of its data and the digest of its owner's approval. T0
    inside it is the silo's own view of run, plan, step and state."""

    silo: str
    t0: bytes
    channels: tuple[bytes, ...]
    mask: bytes
    commitments: tuple[tuple[str, bytes], ...]
    held: tuple[str, ...]
    releases: int
    data: bytes
    approval: bytes
    nonce: bytes
    KIND: ClassVar[int] = 4
    LABEL: ClassVar[str] = "advert"

    def write(self, out: Writer) -> None:
        _hash(out.text(self.silo), self.t0).each_fixed(self.channels, KEY_BYTES).fixed(self.mask, KEY_BYTES)
        out.each(self.commitments, _NAMED_HASH).each(self.held, _TEXT).u64(self.releases)
        _hash(_hash(out, self.data), self.approval).fixed(self.nonce, 16)

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(
            silo=src.text(),
            t0=_read_hash(src),
            channels=src.each_fixed(KEY_BYTES),
            mask=src.fixed(KEY_BYTES),
            commitments=src.each(_read_named_hash),
            held=src.each(Reader.text),
            releases=src.u64(),
            data=_read_hash(src),
            approval=_read_hash(src),
            nonce=src.fixed(16),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """What a dealer sends one peer: sealed shares, and the public hash of each share, so that a false share can be
    blamed on its sender."""

    sealed: bytes
    hashes: tuple[bytes, ...]

    def write(self, out: Writer) -> None:
        out.blob(self.sealed).each_fixed(self.hashes, DIGEST_BYTES)

    @classmethod
    def read(cls, src: Reader) -> Row:
        return cls(src.blob(), src.each_fixed(DIGEST_BYTES))

    def __bytes__(self) -> bytes:
        out = Writer()
        self.write(out)
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: bytes) -> Row:
        src = Reader(data)
        row = cls.read(src)
        src.end()
        return row

    @property
    def digest(self) -> bytes:
        return digest("row", bytes(self))


@dataclass(frozen=True, slots=True, repr=False)
class SharePack(Secret):
    """The plaintext of a row: shares of the mask seed and of each self seed, and the dealer's manifest: for each lane
    of the step, in plan order, its weight: 0, or the place of the weight on the lane's grid, from 1. One byte a lane,
    so the row's length reveals nothing. ``told``: what it tells of earlier openings (``crypto.opened_sets.Told``).
    ``nonce`` opens the commitment to both in the dealer's Deal.
    """

    mask: bytes
    self_seeds: tuple[bytes, ...]
    manifest: tuple[int, ...]
    told: tuple[bytes, ...]
    nonce: bytes

    def __bytes__(self) -> bytes:
        out = Writer().u8(VERSION).fixed(self.mask, SHARE_BYTES)
        out.each_fixed(self.self_seeds, SHARE_BYTES).each(self.manifest, Writer.u8)
        out.each(self.told, _BLOB)
        return bytes(_hash(out, self.nonce))

    @classmethod
    def from_bytes(cls, data: bytes) -> SharePack:
        src = Reader(data)
        if src.u8() != VERSION:
            raise Malformed("A share pack of another version.")
        mask, self_seeds = src.fixed(SHARE_BYTES), src.each_fixed(SHARE_BYTES)
        pack = cls(mask, self_seeds, src.each(Reader.u8), src.each(Reader.blob), _read_hash(src))
        src.end()
        return pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal(Wire):
    """M1, public part, signed with T1: a commitment to the manifest and to what is told, and the digest of the row to
    each other silo of U1, in order."""

    silo: str
    t1: bytes
    manifest: bytes
    rows: tuple[bytes, ...]
    KIND: ClassVar[int] = 5
    LABEL: ClassVar[str] = "deal"

    def write(self, out: Writer) -> None:
        _hash(_hash(out.text(self.silo), self.t1), self.manifest).each_fixed(self.rows, DIGEST_BYTES)

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(silo=src.text(), t1=_read_hash(src), manifest=_read_hash(src), rows=src.each_fixed(DIGEST_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Wire):
    """M2. Binds the silo to its upload: (lane, SHA-256 of its masked little-endian words), sections of slots first."""

    silo: str
    t2: bytes
    lanes: tuple[tuple[str, bytes], ...]
    KIND: ClassVar[int] = 6
    LABEL: ClassVar[str] = "header"

    def write(self, out: Writer) -> None:
        _hash(out.text(self.silo), self.t2).each(self.lanes, _NAMED_HASH)

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(silo=src.text(), t2=_read_hash(src), lanes=src.each(_read_named_hash))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation(Wire):
    """M4. "I saw this survivor set": a signature over T3, at most one per session. ``sets``: the digest of the sets
    over which its sums are, by the manifests (``crypto.opened_sets.SessionSets``)."""

    silo: str
    t3: bytes
    sets: bytes
    KIND: ClassVar[int] = 7
    LABEL: ClassVar[str] = "attest"

    def write(self, out: Writer) -> None:
        _hash(_hash(out.text(self.silo), self.t3), self.sets)

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(silo=src.text(), t3=_read_hash(src), sets=_read_hash(src))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares(Wire):
    """M5. Shares under T3. ``masks``: (dropped silo, share of its mask seed), only with the slots.
    ``seeds``: (survivor, section or lane, share of its self seed of that). ``counts``, only with the lanes: for each of
    them (lane, sum of the weights, contributors) by the manifests."""

    silo: str
    t3: bytes
    masks: tuple[tuple[str, bytes], ...]
    seeds: tuple[tuple[str, str, bytes], ...]
    counts: tuple[tuple[str, int, int], ...]
    KIND: ClassVar[int] = 8
    LABEL: ClassVar[str] = "shares"

    def write(self, out: Writer) -> None:
        _hash(out.text(self.silo), self.t3)
        out.each(self.masks, lambda w, item: w.text(item[0]).fixed(item[1], SHARE_BYTES))
        out.each(self.seeds, lambda w, item: w.text(item[0]).text(item[1]).fixed(item[2], SHARE_BYTES))
        out.each(self.counts, lambda w, item: w.text(item[0]).u64(item[1]).u32(item[2]))

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(
            silo=src.text(),
            t3=_read_hash(src),
            masks=src.each(lambda s: (s.text(), s.fixed(SHARE_BYTES))),
            seeds=src.each(lambda s: (s.text(), s.text(), s.fixed(SHARE_BYTES))),
            counts=src.each(lambda s: (s.text(), s.u64(), s.u32())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags(Wire):
    """M6, under T3. The silo's signature over the announced result, whose slots and weights it has checked, and the
    tags of ``owner``'s upload in the result's lanes, in their order, as far as it uploaded them. ``owner`` is the silo
    itself, or one that sent no tags."""

    silo: str
    t3: bytes
    owner: str
    result: bytes
    tags: tuple[bytes, ...]
    KIND: ClassVar[int] = 14
    LABEL: ClassVar[str] = "tags"

    def write(self, out: Writer) -> None:
        _hash(_hash(out.text(self.silo), self.t3).text(self.owner), self.result)
        out.each_fixed(self.tags, TAG_BYTES)

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(
            silo=src.text(),
            t3=_read_hash(src),
            owner=src.text(),
            result=_read_hash(src),
            tags=src.each_fixed(TAG_BYTES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline(Wire):
    """A refusal of one request: a code of the closed set, and whom it blames. No text, no count. ``request``: digest of
    the signed request, so that no refusal can be shown as the answer to another one. ``key``: with the blame of a
    dealer for its row, the private key of the channel to it, which shows that row to anyone; else empty."""

    silo: str
    request: bytes
    run: bytes
    step: int
    attempt: int
    phase: str
    code: str
    blame: str = ""
    key: bytes = b""
    KIND: ClassVar[int] = 9
    LABEL: ClassVar[str] = "decline"

    def write(self, out: Writer) -> None:
        _hash(_hash(out.text(self.silo), self.request), self.run).u32(self.step).u32(self.attempt)
        out.text(self.phase).text(self.code).text(self.blame).blob(self.key)

    @classmethod
    def read(cls, src: Reader) -> Self:
        message = cls(
            silo=src.text(),
            request=_read_hash(src),
            run=_read_hash(src),
            step=src.u32(),
            attempt=src.u32(),
            phase=src.text(),
            code=src.text(),
            blame=src.text(),
            key=src.blob(),
        )
        if message.code not in BY_CODE or message.phase not in PHASES:
            raise Malformed("A refusal with an unknown code or phase.")
        if not all(SILO_ID.fullmatch(silo) for silo in (message.silo, message.blame) if silo):
            raise Malformed("A refusal whose silo or blame is not a silo id.")
        if message.key and (len(message.key) != KEY_BYTES or not message.blame):
            raise Malformed("A refusal with a key that is none, or that blames nobody.")
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing(Wire):
    """A silo's signature over the final state chain and the ledger's head."""

    silo: str
    run: bytes
    chain: bytes
    ledger: bytes
    KIND: ClassVar[int] = 10
    LABEL: ClassVar[str] = "closing"

    def write(self, out: Writer) -> None:
        for value in (self.run, self.chain, self.ledger):
            _hash(out, value)
        out.text(self.silo)

    @classmethod
    def read(cls, src: Reader) -> Self:
        run, chain, ledger = _read_hash(src), _read_hash(src), _read_hash(src)
        return cls(silo=src.text(), run=run, chain=chain, ledger=ledger)


def request_digest(signed: bytes) -> bytes:
    """What a Decline names: the digest of the signed request that it refuses."""
    return digest("request-bytes", signed)


def unsigned_request(signed: bytes) -> Request | None:
    """The request whatever its signature, for the Decline that refuses it; None for other bytes."""
    try:
        return Request.from_bytes(Reader(signed).blob())
    except Malformed:
        return None


# --- words in arrays ----------------------------------------------------------------------------------------------


def pack_words(vectors: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Vectors of words one after the other, copied into as few arrays as can carry them, however many these are."""
    words = np.empty(sum(vector.size for vector in vectors), _WORD)
    if vectors:
        np.concatenate(vectors, out=words)
    return tuple(words[at : at + ARRAY_WORDS] for at in range(0, words.size, ARRAY_WORDS))


def unpack_words(arrays: Sequence[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """The vectors of these sizes that ``pack_words`` packed. Raises LayoutMismatch for more or fewer words."""
    if (have := sum(words.size for words in arrays)) != (want := sum(sizes)):
        raise LayoutMismatch(f"The arrays hold {have} words of lanes; by the plan there are {want}.")
    words = arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, _WORD), *arrays])
    return np.split(words, np.cumsum(sizes, dtype=np.int64))[:-1]


# --- payloads that are plain lists --------------------------------------------------------------------------------


def pack_blobs(items: list[bytes] | tuple[bytes, ...]) -> bytes:
    return bytes(Writer().each(items, _BLOB))


def unpack_blobs(data: bytes) -> tuple[bytes, ...]:
    src = Reader(data)
    items = src.each(Reader.blob)
    src.end()
    return items


def pack_two(
    first: list[bytes] | tuple[bytes, ...], second: list[tuple[str, bytes]] | tuple[tuple[str, bytes], ...]
) -> bytes:
    """Signed messages, and blobs by silo: deals and rows (contribute), attestations and slots (unmask-slots)."""
    return bytes(Writer().each(first, _BLOB).each(second, _NAMED_BLOB))


def unpack_two(data: bytes) -> tuple[tuple[bytes, ...], tuple[tuple[str, bytes], ...]]:
    src = Reader(data)
    first, second = src.each(Reader.blob), src.each(_read_named_blob)
    src.end()
    return first, second


def pack_ranges(ranges: list[tuple[str, int, int]]) -> bytes:
    """fetch: (lane, first word, word after the last)."""
    return bytes(Writer().each(ranges, lambda w, item: w.text(item[0]).u64(item[1]).u64(item[2])))


def unpack_ranges(data: bytes) -> tuple[tuple[str, int, int], ...]:
    src = Reader(data)
    ranges = src.each(lambda s: (s.text(), s.u64(), s.u64()))
    src.end()
    return ranges
