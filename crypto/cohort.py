"""U1, U2 and U3 of a step, each a value that exists only if its evidence checks.

Server and silos build the same three values from the same signed messages with the same code, and each value fixes
the next transcript hash. Nothing here depends on the side.

    Cohort   (U1, T1)   silos whose adverts verify
    Dealt    (U2, T2)   those of U1 whose deals verify
    Survivors(U3, T3)   those of U2 whose upload headers verify

This module is one file because the three values are one argument, each made from the one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TypeVar

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto import shamir, transcript
from crypto.charter import Charter
from crypto.errors import (
    BadShare,
    DuplicateKey,
    FederationError,
    HeadroomExceeded,
    LayoutMismatch,
    Malformed,
    RosterMismatch,
    SurvivorInvalid,
    TranscriptMismatch,
)
from crypto.keys import LOW_ORDER, SessionKey
from crypto.masking import KEY_BYTES, apply_streams
from crypto.messages import Advert, Attestation, Deal, Header, Row, SharePack, Shares
from crypto.opened_sets import Told
from crypto.plan import SECTIONS, Plan, Step

M = TypeVar("M", Advert, Deal, Header)

#: Of a row's AES-256-GCM: each key seals one row.
ROW_NONCE = bytes(12)


@dataclass(frozen=True, kw_only=True)
class Context:
    """One attempt at one step of one run, as one party sees it. Equal views have equal T0."""

    charter: Charter
    plan: Plan
    run: bytes
    k: int
    attempt: int
    chain: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.k < len(self.plan.steps):
            raise LayoutMismatch(f"The plan has no step {self.k}.")
        if len(self.charter.members) > self.plan.n_max:
            raise HeadroomExceeded(
                f"The plan has headroom for {self.plan.n_max} silos; the charter has {len(self.charter.members)}.",
                remedy="Write the job again under this charter.",
            )

    @property
    def step(self) -> Step:
        return self.plan.steps[self.k]

    @cached_property
    def t0(self) -> bytes:
        return transcript.t0(self.charter.digest, self.run, self.plan.digest, self.k, self.attempt, self.chain)

    def lanes_for(self, silo: str, held: Iterable[str]) -> tuple[str, ...]:
        """What this silo uploads in this step: the sections of slots, then its lanes. ``held``: visible HELD lanes it
        announced."""
        holdings = {silo: frozenset(held)}
        lanes = self.plan.lanes_of(self.step)
        return (*self.step.sections, *(lane.name for lane in lanes if lane.uploaders([silo], holdings)))

    def check_advert(self, signed: bytes) -> Advert:
        """A verified advert made under our T0, or a refusal."""
        advert = Advert.open(signed, lambda m: self.charter.member(m.silo).agent)
        if advert.t0 != self.t0:
            raise TranscriptMismatch(
                f"{advert.silo!r} announced itself for another charter, run, plan, step, attempt or state.",
                remedy="Its view differs from ours: compare job, charter and state digests at both ends.",
            )
        if len(advert.channels) != (others := len(self.charter.silos) - 1):
            raise LayoutMismatch(f"{advert.silo!r} announced {len(advert.channels)} channels to {others} members.")
        keys = [*advert.channels, advert.mask]
        if len(set(keys)) != len(keys):
            raise DuplicateKey(f"{advert.silo!r} announced one key for two uses.")
        for key in keys:
            if key[-1] & 0x80:
                raise Malformed(
                    f"{advert.silo!r} announced a key in a second encoding (RFC 7748 §5 ignores the top bit)."
                )
            if key in LOW_ORDER:
                raise Malformed(f"{advert.silo!r} announced a key of low order: no peer can use it.")
        visible = {lane.name for lane in self.plan.lanes_of(self.step) if lane.visible}
        if len(set(advert.held)) != len(advert.held) or not set(advert.held) <= visible:
            raise LayoutMismatch(f"{advert.silo!r} announced lanes that are not visible HELD lanes of this step.")
        if tuple(name for name, _ in advert.commitments) != self.lanes_for(advert.silo, advert.held):
            raise LayoutMismatch(f"{advert.silo!r} committed to other lanes than those it uploads.")
        return advert


@dataclass(frozen=True)
class Cohort:
    """U1. ``signed``: silo → its advert as signed, sorted; ``adverts``: the same, opened. Made by ``form``."""

    context: Context
    signed: Mapping[str, bytes]
    adverts: Mapping[str, Advert]

    @classmethod
    def form(cls, context: Context, adverts: Iterable[bytes]) -> Cohort:
        opened = _by_silo([(context.check_advert(signed), signed) for signed in adverts])
        keys = [key for advert, _ in opened.values() for key in (*advert.channels, advert.mask)]
        if len(set(keys)) != len(keys):
            raise DuplicateKey("Two adverts show the same ephemeral key.")
        context.charter.threshold(len(opened))
        return cls(context, {silo: s for silo, (_, s) in opened.items()}, {silo: a for silo, (a, _) in opened.items()})

    @cached_property
    def threshold(self) -> int:
        return self.context.charter.threshold(len(self.signed))

    @cached_property
    def points(self) -> Mapping[str, int]:
        """Shamir point of each silo: its place in the sorted cohort, from 1."""
        return {silo: place for place, silo in enumerate(self.signed, start=1)}

    @cached_property
    def t1(self) -> bytes:
        return transcript.t1(self.context.t0, self.signed.values())

    def lanes_of(self, silo: str) -> tuple[str, ...]:
        """The sections and lanes a silo uploads: those it committed to, which ``form`` has checked."""
        return tuple(lane for lane, _ in self.adverts[silo].commitments)

    def words_of(self, silo: str) -> tuple[str, ...]:
        """The lanes among them, whose words are fetched."""
        return tuple(lane for lane in self.lanes_of(silo) if lane not in SECTIONS)

    def holders(self, lane: str, among: Iterable[str]) -> tuple[str, ...]:
        """The silos of ``among`` that upload this lane, sorted."""
        return tuple(silo for silo in sorted(among) if any(name == lane for name, _ in self.adverts[silo].commitments))

    def channel(self, owner: str, other: str) -> bytes:
        """The public key of ``owner`` for the rows from and to ``other``."""
        return self.adverts[owner].channels[_place(self._members, owner, other)]

    @cached_property
    def _members(self) -> Mapping[str, int]:
        return {silo: place for place, silo in enumerate(self.context.charter.silos)}

    def row_place(self, dealer: str, recipient: str) -> int:
        """Where a deal has the digest of the row to ``recipient``."""
        return _place(self.points, dealer, recipient) - 1

    def seal_key(self, secret: bytes, sender: str, recipient: str) -> tuple[bytes, bytes]:
        """(AES-256-GCM key, associated data) for the one row from ``sender`` to ``recipient``."""
        key = transcript.derive(secret, self.t1, "share", sender, recipient)
        return key, transcript.label_bytes("share-aad", [self.t1, sender, recipient])

    def share_hash(self, dealer: str, recipient: str, lane: str, share: bytes) -> bytes:
        """Public hash of one share. ``lane`` is "" for the mask seed."""
        return transcript.digest("share-hash", self.t1, dealer, recipient, lane, share)


@dataclass(frozen=True)
class Dealt:
    """U2. ``signed``: silo → its deal as signed, sorted; ``deals``: the same, opened. Made by ``form``."""

    cohort: Cohort
    signed: Mapping[str, bytes]
    deals: Mapping[str, Deal]

    @classmethod
    def form(cls, cohort: Cohort, deals: Iterable[bytes]) -> Dealt:
        opened = _by_silo([(cls.check_deal(cohort, signed), signed) for signed in deals])
        if len(opened) < (least := max(cohort.threshold, cohort.context.charter.n_min)):
            # Not only t: among fewer than n_min, none might know of a sum that was opened before.
            raise SurvivorInvalid(f"{len(opened)} silos dealt; this cohort and charter ask for {least}.")
        return cls(cohort, {silo: s for silo, (_, s) in opened.items()}, {silo: d for silo, (d, _) in opened.items()})

    @staticmethod
    def check_deal(cohort: Cohort, signed: bytes) -> Deal:
        deal = Deal.open(signed, lambda m: cohort.context.charter.member(m.silo).agent)
        if deal.silo not in cohort.signed:
            raise RosterMismatch(f"{deal.silo!r} dealt without having announced itself.")
        if deal.t1 != cohort.t1:
            raise TranscriptMismatch(f"{deal.silo!r} dealt for another cohort.")
        if len(deal.rows) != (peers := len(cohort.signed) - 1):
            raise LayoutMismatch(f"{deal.silo!r} dealt {len(deal.rows)} rows to {peers} peers.")
        return deal

    def open_row(self, dealer: str, recipient: str, data: bytes, secret: bytes) -> SharePack:
        """The shares in the row from ``dealer`` to ``recipient``, every one as it was promised.

        ``secret``: the agreement of their channel keys. Raises TranscriptMismatch for a row that the dealer did not
        sign, BadShare, which blames the dealer, for one that does not open or is not what its deal commits to.
        """
        cohort, context = self.cohort, self.cohort.context
        if self.deals[dealer].rows[cohort.row_place(dealer, recipient)] != transcript.digest("row", data):
            raise TranscriptMismatch(f"The row from {dealer!r} is not the one it signed.")
        try:
            row = Row.from_bytes(data)
            key, aad = cohort.seal_key(secret, dealer, recipient)
            pack = SharePack.from_bytes(AESGCM(key).decrypt(ROW_NONCE, row.sealed, aad))
        except (InvalidTag, Malformed) as bad:
            raise BadShare(f"The shares from {dealer!r} do not open.", dealer=dealer) from bad
        lanes = ("", *cohort.lanes_of(dealer))
        shares = (pack.mask, *pack.self_seeds)
        if len(lanes) != len(shares) or len(row.hashes) != len(shares):
            raise BadShare(f"{dealer!r} dealt {len(shares)} shares for {len(lanes)} secrets.", dealer=dealer)
        rules = context.plan.lanes_of(context.step)
        if len(pack.manifest) != len(rules):
            raise BadShare(f"The manifest of {dealer!r} has not one entry for each lane.", dealer=dealer)
        if any(place > len(rule.grid) for rule, place in zip(rules, pack.manifest, strict=True)):
            raise BadShare(f"The manifest of {dealer!r} has a weight that is not on its lane's grid.", dealer=dealer)
        if manifest_commitment(dealer, pack) != self.deals[dealer].manifest:
            raise BadShare(f"The manifest of {dealer!r} is not the one it committed to.", dealer=dealer)
        try:
            for told in pack.told:
                if told not in self._proven:
                    Told.proven(told, context.charter)
                    self._proven.add(told)
        except FederationError as bad:
            raise BadShare(f"{dealer!r} tells of an opening that is not proven: {bad.detail}", dealer=dealer) from bad
        for lane, share, known in zip(lanes, shares, row.hashes, strict=True):
            try:
                shamir.value_of(share)
            except Malformed as bad:
                raise BadShare(f"A share from {dealer!r} is no field element.", dealer=dealer) from bad
            if cohort.share_hash(dealer, recipient, lane, share) != known:
                raise BadShare(f"A share from {dealer!r} does not match its published hash.", dealer=dealer)
        return pack

    @cached_property
    def _proven(self) -> set[bytes]:
        """What was told and is proven: with many silos most dealers tell the same."""
        return set()

    def at_fault(self, recipient: str, dealer: str, row: bytes, key: bytes) -> str:
        """Who is to blame where ``recipient`` complains of its row from ``dealer`` and shows ``key``, its private key
        of the channel between them: the dealer of a bad row, or a recipient that complains of a good one or shows
        another key. Anyone who has the adverts, the deals and the row finds the same."""
        try:
            channel = SessionKey(key)
            if channel.public != self.cohort.channel(recipient, dealer):
                return recipient
            self.open_row(dealer, recipient, row, channel.agree(self.cohort.channel(dealer, recipient)))
        except BadShare:
            return dealer
        return recipient

    @cached_property
    def t2(self) -> bytes:
        return transcript.t2(self.cohort.t1, self.signed.values())

    def self_key(self, seed: bytes, silo: str, lane: str) -> bytes:
        return transcript.derive(seed, self.t2, "self", silo, lane, size=KEY_BYTES)

    def pair_key(self, secret: bytes, one: str, other: str, lane: str) -> bytes:
        return transcript.derive(secret, self.t2, "pair", min(one, other), max(one, other), lane, size=KEY_BYTES)

    def pair_secrets(self, key: SessionKey, peers: Iterable[str]) -> dict[str, bytes]:
        """Peer → the secret that a mask key shares with it."""
        return {peer: key.agree(self.cohort.adverts[peer].mask) for peer in peers}

    def upload_streams(
        self, silo: str, lane: str, seed: bytes, secrets: Mapping[str, bytes]
    ) -> list[tuple[bytes, int]]:
        """The streams a silo adds to one lane: its self mask, and one pair mask per peer that uploads the lane."""
        streams = [(self.self_key(seed, silo, lane), 1)]
        for peer in self.cohort.holders(lane, secrets):
            streams.append((self.pair_key(secrets[peer], silo, peer, lane), 1 if silo < peer else -1))
        return streams


@dataclass(frozen=True)
class Survivors:
    """U3. ``signed``: silo → its upload header as signed, sorted; ``headers``: the same, opened. Made by ``form``."""

    dealt: Dealt
    signed: Mapping[str, bytes]
    headers: Mapping[str, Header]

    @classmethod
    def form(cls, dealt: Dealt, headers: Iterable[bytes]) -> Survivors:
        opened = _by_silo([(cls.check_header(dealt, signed), signed) for signed in headers])
        charter, cohort = dealt.cohort.context.charter, dealt.cohort
        if len(opened) < cohort.threshold:
            raise SurvivorInvalid(f"{len(opened)} silos survive; the threshold of this cohort is {cohort.threshold}.")
        if len(opened) - charter.colluders < charter.honest:
            raise SurvivorInvalid(f"{len(opened)} survivors leave fewer than m = {charter.honest} honest inputs.")
        return cls(dealt, {silo: s for silo, (_, s) in opened.items()}, {silo: h for silo, (h, _) in opened.items()})

    @staticmethod
    def check_header(dealt: Dealt, signed: bytes) -> Header:
        header = Header.open(signed, lambda m: dealt.cohort.context.charter.member(m.silo).agent)
        if header.silo not in dealt.signed:
            raise SurvivorInvalid(f"{header.silo!r} uploaded without having dealt.")
        if header.t2 != dealt.t2:
            raise TranscriptMismatch(f"{header.silo!r} masked for another set of dealers.")
        if tuple(lane for lane, _ in header.lanes) != dealt.cohort.lanes_of(header.silo):
            raise LayoutMismatch(f"{header.silo!r} uploaded other lanes than it announced.")
        return header

    @property
    def dropped(self) -> tuple[str, ...]:
        """U2 without U3: their mask seeds may be shared, their self seeds never."""
        return tuple(silo for silo in self.dealt.signed if silo not in self.signed)

    @cached_property
    def t3(self) -> bytes:
        return transcript.t3(self.dealt.t2, self.signed.values())

    def check_attestation(self, signed: bytes) -> Attestation:
        attestation = Attestation.open(signed, lambda m: self.dealt.cohort.context.charter.member(m.silo).agent)
        if attestation.silo not in self.signed:
            raise SurvivorInvalid(f"{attestation.silo!r} attests but does not survive.")
        if attestation.t3 != self.t3:
            raise TranscriptMismatch(f"{attestation.silo!r} attested another survivor set.")
        return attestation

    def check_attested(self, attestations: Iterable[bytes]) -> bytes:
        """The digest of the sets that at least t survivors signed with this T3. With 2t > n + c no second survivor set
        can gather as many, nor a second digest. Raises SurvivorInvalid for fewer."""
        sets, agreeing = self.most_attested(attestations)
        if len(agreeing) < self.dealt.cohort.threshold:
            raise SurvivorInvalid(
                f"{len(agreeing)} attestations agree; the threshold is {self.dealt.cohort.threshold}."
            )
        return sets

    def most_attested(self, attestations: Iterable[bytes]) -> tuple[bytes, frozenset[str]]:
        """The digest of sets that most survivors signed with this T3, and who they are."""
        found = {one.silo: one.sets for one in map(self.check_attestation, attestations)}
        most = max(Counter(found.values()).items(), key=lambda item: item[1], default=(b"", 0))[0]
        return most, frozenset(silo for silo, sets in found.items() if sets == most)

    def check_slots(self, silo: str, slots: bytes) -> np.ndarray:
        """The masked slots (uint64, in plan order) that match the silo's header."""
        return check_slots(self.headers[silo], slots, self.step)

    @property
    def step(self) -> Step:
        return self.dealt.cohort.context.step

    def check_slot_shares(self, signed: bytes) -> Shares:
        """A survivor's shares of every dropped silo's mask seed, and of every survivor's seed of the sections that it
        lets open."""
        shares = self._check_shares(signed)
        if tuple(silo for silo, _ in shares.masks) != self.dropped:
            raise LayoutMismatch(f"{shares.silo!r} sent mask shares of other silos than the dropped ones.")
        named = {lane for _, lane, _ in shares.seeds}
        wanted = [(silo, section) for section in self.step.sections if section in named for silo in self.signed]
        if shares.counts or [(silo, lane) for silo, lane, _ in shares.seeds] != wanted:
            raise LayoutMismatch(f"{shares.silo!r} sent other seed shares than those of the slots.")
        return shares

    def check_lane_shares(self, signed: bytes) -> Shares:
        """A survivor's shares of the lanes it lets open: for each of them every uploader's seed and its own count of
        the weights; and no mask seed."""
        shares = self._check_shares(signed)
        if shares.masks:
            raise LayoutMismatch(f"{shares.silo!r} sent mask shares with the lanes.")
        lanes = list(dict.fromkeys(lane for _, lane, _ in shares.seeds))
        known = {lane.name for lane in self.dealt.cohort.context.plan.lanes_of(self.dealt.cohort.context.step)}
        wanted = [(silo, lane) for lane in lanes for silo in self.dealt.cohort.holders(lane, self.signed)]
        counted = [lane for lane, _, _ in shares.counts]
        if not set(lanes) <= known or [(silo, lane) for silo, lane, _ in shares.seeds] != wanted or counted != lanes:
            raise LayoutMismatch(f"{shares.silo!r} sent an incomplete or foreign set of lane shares.")
        return shares

    def _check_shares(self, signed: bytes) -> Shares:
        shares = Shares.open(signed, lambda m: self.dealt.cohort.context.charter.member(m.silo).agent)
        if shares.silo not in self.signed:
            raise SurvivorInvalid(f"{shares.silo!r} sent shares but does not survive.")
        if shares.t3 != self.t3:
            raise TranscriptMismatch(f"{shares.silo!r} sent shares for another survivor set.")
        return shares

    def recover_masks(self, shares: Iterable[Shares]) -> dict[str, SessionKey]:
        """Dropped silo → its mask key, checked against its advert. BadShare blames the dealer: right only where each
        share was checked against the hash that its dealer published, as the server does.
        """
        points, threshold = self.dealt.cohort.points, self.dealt.cohort.threshold
        shares = list(shares)
        keys = {}
        for silo in self.dropped:
            seed = _combine(silo, {points[s.silo]: dict(s.masks)[silo] for s in shares}, threshold)
            keys[silo] = mask_key(seed)
            if keys[silo].public != self.dealt.cohort.adverts[silo].mask:
                raise BadShare(f"The shares of {silo!r}'s mask seed do not give its advertised key.", dealer=silo)
        return keys

    def recover_seeds(self, lane: str, shares: Iterable[Shares]) -> dict[str, bytes]:
        """Survivor → its self seed of a lane, checked against its advert's commitment. Blame: see ``recover_masks``."""
        points, threshold = self.dealt.cohort.points, self.dealt.cohort.threshold
        tables = [(points[s.silo], {silo: share for silo, name, share in s.seeds if name == lane}) for s in shares]
        seeds = {}
        for silo in self.dealt.cohort.holders(lane, self.signed):
            found = {point: table[silo] for point, table in tables}
            if len(found) > threshold:
                found.pop(points[silo], None)  # nobody else could check its own share of its own seed
            seeds[silo] = _combine(silo, found, threshold)
            if commitment(silo, lane, seeds[silo]) != dict(self.dealt.cohort.adverts[silo].commitments)[lane]:
                raise BadShare(f"The shares of {silo!r}'s self seed do not match its commitment.", dealer=silo)
        return seeds

    def unmask(self, lane: str, total: np.ndarray, seeds: Mapping[str, bytes], masks: Mapping[str, SessionKey]) -> None:
        """Remove, in place, every stream that does not cancel in the survivors' sum of a lane."""
        streams = [one for silo in seeds for one in self.own_streams(silo, lane, seeds[silo], masks)]
        apply_streams(total, streams)

    def own_streams(
        self, silo: str, lane: str, seed: bytes, masks: Mapping[str, SessionKey]
    ) -> list[tuple[bytes, int]]:
        """What to add to a survivor's upload of a lane so that only the pair streams with other survivors are left,
        which cancel in the sum. ``masks``: mask keys of the dropped silos."""
        streams = [(self.dealt.self_key(seed, silo, lane), -1)]
        for gone in self.dealt.cohort.holders(lane, self.dropped):
            secret = self.dealt.pair_secrets(masks[gone], [silo])[silo]
            streams.append((self.dealt.pair_key(secret, silo, gone, lane), -1 if silo < gone else 1))
        return streams


def _by_silo(opened: list[tuple[M, bytes]]) -> dict[str, tuple[M, bytes]]:
    """silo → (message, its signed bytes), sorted; RosterMismatch if a silo is named twice."""
    found = {message.silo: (message, signed) for message, signed in sorted(opened, key=lambda item: item[0].silo)}
    if len(found) != len(opened):
        raise RosterMismatch("A silo is named twice.")
    return found


def _place(places: Mapping[str, int], owner: str, other: str) -> int:
    """The place of ``other`` where ``owner`` is left out. ``places``: silo → its place among all."""
    return places[other] - (places[other] > places[owner])


def mask_key(seed: bytes) -> SessionKey:
    """The X25519 mask key of a shared seed."""
    return SessionKey(transcript.derive(seed, b"", "mask-sk"))


def commitment(silo: str, lane: str, seed: bytes) -> bytes:
    return transcript.digest("commit", silo, lane, seed)


def words_digest(words: np.ndarray) -> bytes:
    """SHA-256 of the words as little-endian bytes."""
    little = np.ascontiguousarray(words, dtype=words.dtype.newbyteorder("<"))
    return sha256(little.data.cast("B")).digest()


def manifest_commitment(silo: str, pack: SharePack) -> bytes:
    """What a Deal commits to: the dealer's weights and what it tells, the same to all, under a nonce of 32 bytes, since
    few manifests are possible."""
    return transcript.digest("manifest", silo, pack.nonce, bytes(pack.manifest), *pack.told)


def check_slots(header: Header, slots: bytes, step: Step) -> np.ndarray:
    """A silo's masked slots as uint64 words, in plan order.

    Raises LayoutMismatch for another length, TranscriptMismatch for words that the header does not sign.
    """
    if len(slots) != 8 * (count := len(step.slots)):
        raise LayoutMismatch(
            f"The slots of {header.silo!r} have {len(slots)} bytes; by the plan they have {8 * count}."
        )
    words = np.frombuffer(slots, dtype="<u8")
    for section in step.sections:
        places = step.places(section)
        check_words(header, section, words[list(places)], len(places))
    return words


def check_words(header: Header, lane: str, words: np.ndarray, count: int) -> np.ndarray:
    """The masked words of a lane, unchanged.

    Raises LayoutMismatch for another type or length, TranscriptMismatch for words that the header does not sign.
    """
    if words.dtype != (np.uint64 if lane in SECTIONS else np.uint32):
        raise LayoutMismatch(f"Lane {lane!r} of {header.silo!r} came as {words.dtype}.")
    if words.shape != (count,):
        raise LayoutMismatch(f"Lane {lane!r} of {header.silo!r} has {words.size} words; by the plan it has {count}.")
    if words_digest(words) != dict(header.lanes)[lane]:
        raise TranscriptMismatch(f"The words of lane {lane!r} are not those that {header.silo!r} signed.")
    return words


def _combine(dealer: str, shares: Mapping[int, bytes], threshold: int) -> bytes:
    if len(shares) < threshold:
        raise SurvivorInvalid(f"{len(shares)} shares of {dealer!r}; the threshold is {threshold}.")
    try:
        return shamir.combine(shares, threshold)
    except Malformed as bad:
        raise BadShare(f"The shares of {dealer!r} do not combine.", dealer=dealer) from bad
