"""The evidence of one released step of protocol 1: every signature, T0 to T3, the slots opened again, lanes replayed.

U1 are the silos whose adverts verify, U2 those of U1 whose deals verify, U3, the survivors, those of U2 whose upload
headers verify. At least t survivors attest T3 and give the shares that open what the step opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np

from aggregator.protocols.protocol1 import transcript
from aggregator.protocols.protocol1.encoding import Reader
from aggregator.protocols.protocol1.messages import SLOTS, Advert, Attestation, Deal, Header, Shares
from aggregator.protocols.protocol1.plan import Plan, Step
from crypto import ring, shamir
from crypto.errors import (
    BadShare,
    DuplicateKey,
    EvidenceError,
    HeadroomExceeded,
    LayoutMismatch,
    Malformed,
    RosterMismatch,
    SurvivorInvalid,
    TranscriptMismatch,
)
from crypto.keys import LOW_ORDER, SessionKey
from crypto.masking import KEY_BYTES, apply_streams

M = TypeVar("M", Advert, Deal, Header, Attestation, Shares)


def words_digest(words: np.ndarray) -> bytes:
    """SHA-256 of the words as little-endian bytes."""
    little = np.ascontiguousarray(words, dtype=words.dtype.newbyteorder("<"))
    return sha256(little.data.cast("B")).digest()


@dataclass(frozen=True, slots=True)
class StepEvidence:
    """Signed messages in the order of their bytes; ``sections``: silo → masked slot section."""

    adverts: tuple[bytes, ...]
    deals: tuple[bytes, ...]
    headers: tuple[bytes, ...]
    attestations: tuple[bytes, ...]
    sections: tuple[tuple[str, bytes], ...]
    slot_shares: tuple[bytes, ...]
    lane_shares: tuple[bytes, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> StepEvidence:
        src = Reader(data)
        src.version("Evidence")
        adverts, deals, headers, attestations = (src.each(Reader.blob) for _ in range(4))
        sections = src.each(lambda s: (s.text(), s.blob()))
        shares = src.each(Reader.blob), src.each(Reader.blob)
        evidence = cls(adverts, deals, headers, attestations, sections, *shares)
        src.end()
        return evidence

    @property
    def messages(self) -> int:
        parts = (self.adverts, self.deals, self.headers, self.attestations, self.slot_shares, self.lane_shares)
        return sum(map(len, parts))


@dataclass(frozen=True, slots=True)
class Context:
    """One attempt at one step, as everyone in it saw it. ``charter``: with members, thresholds and digest."""

    charter: Any
    plan: Plan
    run: bytes
    k: int
    attempt: int
    chain: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.k < len(self.plan.steps):
            raise LayoutMismatch(f"The plan has no step {self.k}.")
        if (members := len(self.charter.members)) > self.plan.n_max:
            raise HeadroomExceeded(f"The plan has headroom for {self.plan.n_max} silos; the charter has {members}.")

    @property
    def step(self) -> Step:
        return self.plan.steps[self.k]

    @property
    def t0(self) -> bytes:
        return transcript.t0(self.charter.digest, self.run, self.plan.digest, self.k, self.attempt, self.chain)

    def opened(self, kind: type[M], signed: Iterable[bytes], check: Callable[[M], None]) -> list[tuple[M, bytes]]:
        """(message, as signed): each verified under its silo's key, then checked."""
        found = []
        for one in signed:
            message = kind.open(one, lambda m: self.charter.member(m.silo).agent)
            check(message)
            found.append((message, one))
        return found

    def by_silo(self, kind: type[M], signed: Iterable[bytes], check: Callable[[M], None]) -> dict[str, tuple[M, bytes]]:
        """The same by silo, sorted; RosterMismatch if one is named twice."""
        found = sorted(self.opened(kind, signed, check), key=lambda item: item[0].silo)
        if len({message.silo for message, _ in found}) != len(found):
            raise RosterMismatch("A silo is named twice.")
        return {message.silo: (message, one) for message, one in found}


@dataclass(frozen=True, kw_only=True)
class _Cohort:
    """``adverts``: of U1; ``headers``: of U3, the survivors, sorted; ``upload_digests``: of their signed headers;
    ``dropped``: U2 without U3; ``t2``, ``t3``: transcript hashes."""

    context: Context
    adverts: Mapping[str, Advert]
    headers: Mapping[str, Header]
    upload_digests: Mapping[str, bytes]
    dropped: tuple[str, ...]
    threshold: int
    t2: bytes
    t3: bytes

    @property
    def survivors(self) -> tuple[str, ...]:
        return tuple(self.headers)

    @cached_property
    def points(self) -> Mapping[str, int]:
        """Shamir point of each silo: its place in the sorted cohort, from 1."""
        return {silo: place for place, silo in enumerate(self.adverts, start=1)}

    def holders(self, lane: str, among: Iterable[str]) -> tuple[str, ...]:
        return tuple(silo for silo in sorted(among) if lane in dict(self.adverts[silo].commitments))

    def check_survivor(self, message: Attestation | Shares) -> None:
        if message.silo not in self.headers:
            raise SurvivorInvalid(f"{message.silo!r} attested or sent shares, but does not survive.")
        if message.t3 != self.t3:
            raise TranscriptMismatch(f"{message.silo!r} attested, or sent shares for, another survivor set.")

    def check_slot_shares(self, shares: Shares) -> None:
        """Shares of every survivor's slot seed and every dropped silo's mask seed: all and only these."""
        self.check_survivor(shares)
        if tuple(silo for silo, _ in shares.masks) != self.dropped:
            raise LayoutMismatch(f"{shares.silo!r} sent mask shares of other silos than the dropped ones.")
        if [(silo, lane) for silo, lane, _ in shares.seeds] != [(silo, SLOTS) for silo in self.survivors]:
            raise LayoutMismatch(f"{shares.silo!r} sent other seed shares than those of the slots.")

    def check_lane_shares(self, shares: Shares) -> None:
        """Shares of the lanes that a survivor lets open: of each every uploader's seed, and no mask seed."""
        self.check_survivor(shares)
        if shares.masks:
            raise LayoutMismatch(f"{shares.silo!r} sent mask shares with the lanes.")
        lanes = list(dict.fromkeys(lane for _, lane, _ in shares.seeds))
        known = {lane.name for lane in self.context.plan.lanes_of(self.context.step)}
        wanted = [(silo, lane) for lane in lanes for silo in self.holders(lane, self.survivors)]
        if not set(lanes) <= known or [(silo, lane) for silo, lane, _ in shares.seeds] != wanted:
            raise LayoutMismatch(f"{shares.silo!r} sent an incomplete or foreign set of lane shares.")

    def check_words(self, silo: str, lane: str, words: np.ndarray) -> np.ndarray:
        if words_digest(words) != dict(self.headers[silo].lanes)[lane]:
            raise TranscriptMismatch(f"The words of lane {lane!r} are not those that {silo!r} signed.")
        return words

    def recover_masks(self, shares: Iterable[Shares]) -> dict[str, SessionKey]:
        """Dropped silo → its mask key, checked against its advert."""
        shares, keys = list(shares), {}
        for silo in self.dropped:
            seed = self._combine(silo, {self.points[one.silo]: dict(one.masks)[silo] for one in shares})
            keys[silo] = SessionKey(transcript.derive(seed, b"", "mask-sk"))
            if keys[silo].public != self.adverts[silo].mask:
                raise BadShare(f"The shares of {silo!r}'s mask seed do not give its advertised key.", dealer=silo)
        return keys

    def recover_seeds(self, lane: str, shares: Iterable[Shares]) -> dict[str, bytes]:
        """Survivor → its self seed of a lane, checked against its advert's commitment."""
        tables = [(self.points[s.silo], {silo: share for silo, name, share in s.seeds if name == lane}) for s in shares]
        seeds = {}
        for silo in self.holders(lane, self.survivors):
            found = {point: table[silo] for point, table in tables}
            if len(found) > self.threshold:
                found.pop(self.points[silo], None)  # nobody else could check its own share of its own seed
            seeds[silo] = self._combine(silo, found)
            if transcript.digest("commit", silo, lane, seeds[silo]) != dict(self.adverts[silo].commitments)[lane]:
                raise BadShare(f"The shares of {silo!r}'s self seed do not match its commitment.", dealer=silo)
        return seeds

    def _combine(self, dealer: str, shares: Mapping[int, bytes]) -> bytes:
        if len(shares) < self.threshold:
            raise SurvivorInvalid(f"{len(shares)} shares of {dealer!r}; the threshold is {self.threshold}.")
        try:
            return shamir.combine(shares, self.threshold)
        except Malformed as bad:
            raise BadShare(f"The shares of {dealer!r} do not combine.", dealer=dealer) from bad

    def unmask(self, lane: str, total: np.ndarray, seeds: Mapping[str, bytes], masks: Mapping[str, SessionKey]) -> None:
        """Remove, in place, every stream that does not cancel in the survivors' sum of a lane."""
        here = self.holders(lane, self.survivors)
        streams = [(transcript.derive(seeds[silo], self.t2, "self", silo, lane, size=KEY_BYTES), -1) for silo in here]
        for gone in self.holders(lane, self.dropped):
            for silo in here:
                secret, pair = masks[gone].agree(self.adverts[silo].mask), sorted([silo, gone])
                key = transcript.derive(secret, self.t2, "pair", *pair, lane, size=KEY_BYTES)
                streams.append((key, -1 if silo < gone else 1))
        apply_streams(total, streams)


@dataclass(frozen=True, repr=False)
class CheckedStep:
    """A step whose signatures all held, its slots opened again. Made by ``check``.

    ``masks``: mask keys of the silos that dropped out; ``released``: each survivor's shares of the lanes it let open;
    ``messages``: how many were signed.
    """

    _cohort: _Cohort
    slots: tuple[int, ...]
    masks: Mapping[str, SessionKey]
    released: tuple[Shares, ...]
    messages: int

    @property
    def step(self) -> Step:
        return self._cohort.context.step

    @property
    def transcript(self) -> bytes:
        """T3."""
        return self._cohort.t3

    @property
    def adverts(self) -> Mapping[str, Advert]:
        """Silo → advert, of U1."""
        return self._cohort.adverts

    @property
    def survivors(self) -> tuple[str, ...]:
        return self._cohort.survivors

    @property
    def upload_digests(self) -> Mapping[str, bytes]:
        """Survivor → digest of its signed header."""
        return self._cohort.upload_digests

    @property
    def figures(self) -> Mapping[str, int]:
        """Slot → opened sum; weights and contributors were slots."""
        plan = self._cohort.context.plan
        return dict(zip((slot.name for slot in plan.slots_of(self.step)), self.slots, strict=True))

    @property
    def signers(self) -> tuple[str, ...]:
        """No silo signed what a step opened."""
        return ()

    def holders(self, lane: str) -> tuple[str, ...]:
        """The survivors that upload this lane, sorted."""
        return self._cohort.holders(lane, self.survivors)

    def words_signed(self, silo: str, lane: str) -> bytes:
        """SHA-256 of a survivor's masked words of a lane, by its header."""
        return dict(self._cohort.headers[silo].lanes)[lane]

    def lanes_open(self) -> tuple[str, ...]:
        """The lanes that the shares open, in plan order: released by at least t survivors with shares that combine."""
        lanes = self._cohort.context.plan.lanes_of(self.step)
        return tuple(lane.name for lane in lanes if self._opens(lane.name))

    def replay(self, lane: str, uploads: Mapping[str, np.ndarray]) -> np.ndarray:
        """The opened sum of a lane (uint32). ``uploads``: each holder's masked words, as many as the plan has.

        Raises TranscriptMismatch for words that the silo's header does not sign.
        """
        plan, cohort = self._cohort.context.plan, self._cohort
        words, bits = plan.words_of(self.step, lane), plan.ring_bits
        seeds = cohort.recover_seeds(lane, self._shares_of(lane))
        total = np.zeros(words, dtype=np.uint32)
        for silo in self.holders(lane):
            np.add(total, ring.unpack(cohort.check_words(silo, lane, uploads[silo]), words, bits), out=total)
        cohort.unmask(lane, total, seeds, self.masks)
        return ring.reduce(total, bits)

    def chain_after(self, sums: Sequence[tuple[str, bytes]] | None) -> bytes | None:
        if sums is None:
            return None  # no silo signed what opened
        """S after this step. ``sums``: each open lane in plan order with the digest of its words."""
        context = self._cohort.context
        result = transcript.opened(context.k, self.transcript, self.slots, sums)
        return transcript.next_chain(context.chain, self.transcript, result, released=True)

    def _opens(self, lane: str) -> bool:
        shares = self._shares_of(lane)
        if len({one.silo for one in shares}) < self._cohort.threshold:
            return False
        try:
            self._cohort.recover_seeds(lane, shares)
        except BadShare:
            return False
        return True

    def _shares_of(self, lane: str) -> list[Shares]:
        return [shares for shares in self.released if any(name == lane for _, name, _ in shares.seeds)]


def check(context: Context, evidence: StepEvidence) -> CheckedStep:
    """Check every signature and open the slots again; else the protocol's own errors, or EvidenceError."""
    adverts = context.by_silo(Advert, evidence.adverts, lambda advert: _check_advert(context, advert))
    keys = [key for advert, _ in adverts.values() for key in (advert.channel, advert.mask)]
    if len(set(keys)) != len(keys):
        raise DuplicateKey("Two adverts show the same ephemeral key.")
    threshold = context.charter.threshold(len(adverts))
    t1 = _following("T1", context.t0, adverts)

    deals = context.by_silo(Deal, evidence.deals, lambda deal: _check_deal(deal, tuple(adverts), t1))
    if len(deals) < threshold:
        raise SurvivorInvalid(f"{len(deals)} silos dealt; the threshold of this cohort is {threshold}.")
    t2 = _following("T2", t1, deals)

    def check_header(header: Header) -> None:
        if header.silo not in deals:
            raise SurvivorInvalid(f"{header.silo!r} uploaded without having dealt.")
        if header.t2 != t2:
            raise TranscriptMismatch(f"{header.silo!r} masked for another set of dealers.")
        if [lane for lane, _ in header.lanes] != [lane for lane, _ in adverts[header.silo][0].commitments]:
            raise LayoutMismatch(f"{header.silo!r} uploaded other lanes than it announced.")

    headers = context.by_silo(Header, evidence.headers, check_header)
    if len(headers) < threshold:
        raise SurvivorInvalid(f"{len(headers)} silos survive; the threshold of this cohort is {threshold}.")
    cohort = _Cohort(
        context=context,
        adverts={silo: advert for silo, (advert, _) in adverts.items()},
        headers={silo: header for silo, (header, _) in headers.items()},
        upload_digests={silo: transcript.digest("upload", signed) for silo, (_, signed) in headers.items()},
        dropped=tuple(silo for silo in deals if silo not in headers),
        threshold=threshold,
        t2=t2,
        t3=_following("T3", t2, headers),
    )
    attested = context.opened(Attestation, evidence.attestations, cohort.check_survivor)
    if (count := len({message.silo for message, _ in attested})) < threshold:
        raise SurvivorInvalid(f"{count} attestations; the threshold is {threshold}.")
    return _open_slots(cohort, evidence)


def _open_slots(cohort: _Cohort, evidence: StepEvidence) -> CheckedStep:
    context = cohort.context
    shares = [one for one, _ in context.opened(Shares, evidence.slot_shares, cohort.check_slot_shares)]
    masks = cohort.recover_masks(shares)
    if (silos := [silo for silo, _ in evidence.sections]) != list(cohort.survivors):
        raise EvidenceError("slot sections", expected=list(cohort.survivors), found=silos)
    count = len(context.plan.slots_of(context.step))
    total = np.zeros(count, dtype=np.uint64)
    for silo, section in evidence.sections:
        if len(section) != 8 * count:
            raise LayoutMismatch(f"The slot section of {silo!r} has {len(section)} bytes; by the plan {8 * count}.")
        np.add(total, cohort.check_words(silo, SLOTS, np.frombuffer(section, dtype="<u8")), out=total)
    cohort.unmask(SLOTS, total, cohort.recover_seeds(SLOTS, shares), masks)
    released = tuple(one for one, _ in context.opened(Shares, evidence.lane_shares, cohort.check_lane_shares))
    return CheckedStep(cohort, tuple(map(int, total)), masks, released, evidence.messages)


def _following(label: str, before: bytes, messages: Mapping[str, tuple[object, bytes]]) -> bytes:
    return transcript.following(label, before, [signed for _, signed in messages.values()])


def _check_advert(context: Context, advert: Advert) -> None:
    silo, lanes = advert.silo, context.plan.lanes_of(context.step)
    if advert.t0 != context.t0:
        raise TranscriptMismatch(f"{silo!r} announced itself for another charter, run, plan, step, attempt or state.")
    for key in (advert.channel, advert.mask):
        if key[-1] & 0x80 or key in LOW_ORDER:
            raise Malformed(f"{silo!r} announced a key of low order or in a second encoding.")
    if len(set(advert.held)) != len(advert.held) or not set(advert.held) <= {one.name for one in lanes if one.visible}:
        raise LayoutMismatch(f"{silo!r} announced lanes that are not visible HELD lanes of this step.")
    uploads = [SLOTS, *(lane.name for lane in lanes if lane.uploaders([silo], {silo: advert.held}))]
    if [lane for lane, _ in advert.commitments] != uploads:
        raise LayoutMismatch(f"{silo!r} committed to other lanes than those it uploads.")


def _check_deal(deal: Deal, cohort: tuple[str, ...], t1: bytes) -> None:
    if deal.silo not in cohort:
        raise RosterMismatch(f"{deal.silo!r} dealt without having announced itself.")
    if deal.t1 != t1:
        raise TranscriptMismatch(f"{deal.silo!r} dealt for another cohort.")
    if [peer for peer, _ in deal.rows] != [silo for silo in cohort if silo != deal.silo]:
        raise LayoutMismatch(f"{deal.silo!r} dealt to other silos than its peers.")
