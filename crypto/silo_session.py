"""The silo's side of one step: announces keys, deals shares, masks, attests, releases. Sans-IO, used once.

(Double masking after K. Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS
2017, in the malicious-server variant, with one self seed per lane so that lanes open one by one.)

Security: as long as fewer than t silos (the charter's c among them) collude with the server and the primitives hold,
the server learns of an opened lane the sum over the survivors who upload it, and of a shut lane nothing. Two shares
of one party never leave this silo in one session: its self seeds if it survived, its mask seed if it did not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto import ring, shamir
from crypto.blocks import Encoded
from crypto.cohort import Cohort, Context, Dealt, Survivors, commitment, mask_key, words_digest
from crypto.errors import (
    BadShare,
    BothShares,
    CohortDifference,
    DuplicateKey,
    LaneBelowFloor,
    LayoutMismatch,
    Malformed,
    RoundRefused,
    SurvivorInvalid,
    TranscriptMismatch,
)
from crypto.keys import Identity, SessionKey
from crypto.masking import apply_streams
from crypto.messages import SLOTS, Advert, Attestation, Deal, Header, Row, SharePack, Shares
from crypto.plan import Lane
from crypto.session import SILO, Session, SessionState

_NONCE = bytes(12)

#: Who contributed to a lane, each time it opened.
Openings = tuple[frozenset[str], ...]


class SiloSession(Session):
    """One silo, one attempt at one step.

    The order: ``advert``, ``deal``, ``open_rows``, ``upload``, ``survivors``, ``attest``, ``release_slots``,
    ``release_lanes``. Each may be called once, in its state; else Unexpected. Every other error ends the session and
    wipes its secrets. Messages are the signed bytes of ``crypto.messages``.
    """

    table = SILO

    def __init__(
        self, context: Context, silo: str, identity: Identity, *, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        """``context``: this silo's own view of run, plan, step and state. ``identity``: the agent's signing key.
        ``entropy``: source of secret bytes, os.urandom outside of test vectors."""
        super().__init__()
        self.context = context
        self.silo = silo
        self._identity = identity
        self._entropy = entropy
        self._channel: SessionKey | None = None
        self._mask: SessionKey | None = None
        self._channel_secrets: dict[str, bytes] = {}
        self._mask_seed = b""
        self._seeds: dict[str, bytes] = {}
        self._own_pack: SharePack | None = None
        self._packs: dict[str, SharePack] = {}
        self._sections: dict[str, np.ndarray] = {}
        #: Masked words by lane, after ``upload``; the courier takes them from here.
        self.masked: dict[str, np.ndarray] = {}
        self.slots: dict[str, int] = {}
        self._spent = False
        #: Lanes this silo released, those it withheld and why, and who contributed to each by the manifests.
        self.released: tuple[str, ...] = ()
        self.withheld: dict[str, RoundRefused] = {}
        self.contributors: dict[str, frozenset[str]] = {}

    # M0
    def advert(self, *, contributes: Iterable[str], releases: int, data: bytes, approval: bytes) -> bytes:
        """The signed advert: fresh keys and commitments.

        ``contributes``: the lanes in which this silo has a weight. Those with visible holdings are announced; only the
        peers learn the others, inside the encrypted shares. ``releases``: how often this silo has ever released.
        ``data``: the data set's salted commitment; ``approval``: the digest of the owner's approval; 32 bytes each.
        Raises LayoutMismatch for a lane that the step does not have.
        """
        with self.on("advert"):
            lanes = self.context.plan.lanes_of(self.context.step)
            self._contributes = set(contributes)
            if foreign := self._contributes - {lane.name for lane in lanes}:
                raise LayoutMismatch(f"This step has no lanes {sorted(foreign)}.")
            visible = [lane.name for lane in lanes if lane.visible]
            held = tuple(name for name in visible if name in self._contributes)
            self._mask_seed = self._entropy(shamir.SECRET_BYTES)
            self._mask = mask_key(self._mask_seed)
            self._channel = SessionKey(self._entropy(shamir.SECRET_BYTES))
            self._seeds = {lane: self._entropy(shamir.SECRET_BYTES) for lane in self.context.lanes_for(self.silo, held)}
            self._signed_advert = Advert(
                silo=self.silo,
                t0=self.context.t0,
                channel=self._channel.public,
                mask=self._mask.public,
                commitments=tuple((lane, commitment(self.silo, lane, seed)) for lane, seed in self._seeds.items()),
                held=held,
                releases=releases,
                data=data,
                approval=approval,
                nonce=self._entropy(16),
            ).sign(self._identity)
            return self._signed_advert

    # M1
    def deal(self, adverts: Sequence[bytes]) -> tuple[bytes, dict[str, bytes]]:
        """The signed deal, and peer → row, from the signed adverts of U1.

        Raises DuplicateKey unless this silo's own advert is among them; else as ``Cohort.form``.
        """
        with self.on("deal"):
            cohort = Cohort.form(self.context, adverts)
            if cohort.signed.get(self.silo) != self._signed_advert:
                raise DuplicateKey("The cohort does not show this silo's own advert.")
            assert self._channel is not None
            points = list(cohort.points.values())
            mask_shares = shamir.split(self._mask_seed, cohort.threshold, points, self._entropy)
            seed_shares = {
                lane: shamir.split(seed, cohort.threshold, points, self._entropy) for lane, seed in self._seeds.items()
            }
            manifest = tuple(lane.name in self._contributes for lane in self.context.plan.lanes_of(self.context.step))
            rows: dict[str, Row] = {}
            for place, peer in enumerate(cohort.signed):
                shares = [seed_shares[lane][place] for lane in self._seeds]
                pack = SharePack(mask_shares[place], tuple(shares), manifest)
                if peer == self.silo:
                    self._own_pack = pack
                    continue
                self._channel_secrets[peer] = self._channel.agree(cohort.adverts[peer].channel)
                key, aad = cohort.seal_key(self._channel_secrets[peer], self.silo, peer)
                hashes = tuple(
                    cohort.share_hash(self.silo, peer, lane, share)
                    for lane, share in zip(("", *self._seeds), (pack.mask, *shares), strict=True)
                )
                rows[peer] = Row(AESGCM(key).encrypt(_NONCE, bytes(pack), aad), hashes)
            self._cohort = cohort
            deal = Deal(silo=self.silo, t1=cohort.t1, rows=tuple((peer, row.digest) for peer, row in rows.items()))
            self._signed_deal = deal.sign(self._identity)
            return self._signed_deal, {peer: bytes(row) for peer, row in rows.items()}

    # M1 of the others → M2
    def open_rows(self, deals: Sequence[bytes], rows: Mapping[str, bytes]) -> None:
        """Check U2 and every share addressed to this silo, before training.

        ``rows``: dealer → its row for this silo. Raises BadShare, which blames the dealer, for a share that does not
        open or has another hash; TranscriptMismatch or LayoutMismatch for deals or rows of another set.
        """
        with self.on("open-rows"):
            dealt = Dealt.form(self._cohort, deals)
            if dealt.signed.get(self.silo) != self._signed_deal:
                raise TranscriptMismatch("The dealers do not include this silo's own deal.")
            if set(rows) != set(dealt.signed) - {self.silo}:
                raise LayoutMismatch("The rows are not one from each other dealer.")
            assert self._own_pack is not None
            self._packs = {self.silo: self._own_pack}
            for dealer, data in rows.items():
                self._packs[dealer] = self._open_row(dealt, dealer, data)
            self._dealt = dealt

    def _open_row(self, dealt: Dealt, dealer: str, data: bytes) -> SharePack:
        cohort = dealt.cohort
        row = Row.from_bytes(data)
        if dict(dealt.deals[dealer].rows)[self.silo] != row.digest:
            raise TranscriptMismatch(f"The row from {dealer!r} is not the one it signed.")
        key, aad = cohort.seal_key(self._channel_secrets[dealer], dealer, self.silo)
        try:
            pack = SharePack.from_bytes(AESGCM(key).decrypt(_NONCE, row.sealed, aad))
        except (InvalidTag, Malformed) as bad:
            raise BadShare(f"The shares from {dealer!r} do not open.", dealer=dealer) from bad
        lanes = ("", *cohort.lanes_of(dealer))
        shares = (pack.mask, *pack.self_seeds)
        if len(lanes) != len(shares) or len(row.hashes) != len(shares):
            raise BadShare(f"{dealer!r} dealt {len(shares)} shares for {len(lanes)} secrets.", dealer=dealer)
        if len(pack.contributes) != len(self.context.plan.lanes_of(self.context.step)):
            raise BadShare(f"The manifest of {dealer!r} has not one entry for each lane.", dealer=dealer)
        for lane, share, known in zip(lanes, shares, row.hashes, strict=True):
            try:
                shamir.value_of(share)
            except Malformed as bad:
                raise BadShare(f"A share from {dealer!r} is no field element.", dealer=dealer) from bad
            if cohort.share_hash(dealer, self.silo, lane, share) != known:
                raise BadShare(f"A share from {dealer!r} does not match its published hash.", dealer=dealer)
        return pack

    def upload(self, encoded: Encoded) -> tuple[bytes, bytes]:
        """The signed header and the masked slot section (little-endian uint64).

        Masks ``encoded`` in place; the masked words of the lanes (uint32, packed for the wire) are then in ``masked``.
        Raises LayoutMismatch for weights in other lanes than were announced.
        """
        with self.on("upload"):
            assert self._mask is not None
            self._check_announced(encoded)
            lanes = self._dealt.cohort.lanes_of(self.silo)
            self.masked = {}
            secrets = self._dealt.pair_secrets(self._mask, [peer for peer in self._dealt.signed if peer != self.silo])
            for lane in lanes:
                words = encoded.slots if lane == SLOTS else encoded.lanes[lane]
                apply_streams(words, self._dealt.upload_streams(self.silo, lane, self._seeds[lane], secrets))
                self.masked[lane] = words if lane == SLOTS else ring.pack(words, self.context.plan.ring_bits)
            header = Header(
                silo=self.silo,
                t2=self._dealt.t2,
                lanes=tuple((lane, words_digest(self.masked[lane])) for lane in lanes),
            )
            self._signed_header = header.sign(self._identity)
            return self._signed_header, self.masked.pop(SLOTS).astype("<u8").tobytes()

    def _check_announced(self, encoded: Encoded) -> None:
        """Raises LayoutMismatch unless this silo has a weight in exactly the lanes that its manifest announced."""
        names = [slot.name for slot in self.context.plan.slots_of(self.context.step)]
        for lane in self.context.plan.lanes_of(self.context.step):
            counted = int(encoded.slots[names.index(lane.contributors_slot)])
            if counted != (lane.name in self._contributes):
                raise LayoutMismatch(f"This silo's upload of lane {lane.name!r} is not what it announced.")

    # M3 → M4
    def survivors(self, headers: Sequence[bytes]) -> tuple[str, ...]:
        """The silos of U3, from their signed headers. The caller checks them against its policy before ``attest``.

        Raises SurvivorInvalid for too few survivors, or without this silo's own upload.
        """
        with self.on("survivors"):
            survivors = Survivors.form(self._dealt, headers)
            if survivors.signed.get(self.silo) != self._signed_header:
                raise SurvivorInvalid("The survivors do not include this silo's own upload.")
            self._survivors = survivors
            return tuple(survivors.signed)

    def attest(self) -> bytes:
        """The signature over T3. The masked words are no longer needed: every survivor's upload is complete."""
        with self.on("attest"):
            self.masked = {}
            return Attestation(silo=self.silo, t3=self._survivors.t3).sign(self._identity)

    @property
    def peers(self) -> Mapping[str, Advert]:
        """U1 without this silo."""
        return {silo: advert for silo, advert in self._cohort.adverts.items() if silo != self.silo}

    @property
    def spent(self) -> bool:
        """Whether shares may have left."""
        return self._spent

    @property
    def done(self) -> bool:
        """Whether this silo opened the slots itself and released what passed."""
        return self.state is SessionState.DONE

    @property
    def t3(self) -> bytes:
        return self._survivors.t3

    @property
    def cohort(self) -> tuple[str, ...]:
        """U3."""
        return tuple(self._survivors.signed)

    # M5, slots
    def release_slots(self, attestations: Sequence[bytes], sections: Mapping[str, bytes]) -> bytes:
        """The signed shares of the slot seeds and of the dropped silos' mask seeds. From here on the step is ``spent``.

        ``sections``: survivor → its masked slot section. Raises SurvivorInvalid for fewer attestations than t,
        LayoutMismatch or TranscriptMismatch for sections that the headers do not sign.
        """
        with self.on("release-slots"):
            survivors = self._survivors
            survivors.check_attested(attestations)
            self._spent = True
            if set(sections) != set(survivors.signed):
                raise LayoutMismatch("The slot sections are not one from each survivor.")
            self._sections = {silo: survivors.check_section(silo, section) for silo, section in sections.items()}
            masks = tuple((silo, self._packs[silo].mask) for silo in survivors.dropped)
            return self._shares(masks, [SLOTS])

    # M5, lanes
    def release_lanes(
        self, slot_shares: Sequence[bytes], *, floors: Mapping[str, int], previous: Mapping[str, Openings | None]
    ) -> bytes:
        """Open the slots, then the signed shares of the lanes that pass this silo's checks.

        ``floors``: lane → this silo's own floor. ``previous``: guarded lane → who contributed each time it opened in
        this run, or None where this silo can't know. Afterwards ``slots``, ``released``, ``withheld`` and
        ``contributors`` are set. Raises TranscriptMismatch for shares that do not open what was committed to.
        """
        with self.on("release-lanes"):
            survivors = self._survivors
            shares = [survivors.check_slot_shares(signed) for signed in slot_shares]
            if len({s.silo for s in shares}) != len(shares):
                raise LayoutMismatch("A survivor's slot shares appear twice.")
            total = np.zeros(survivors.slot_count, dtype=np.uint64)
            for section in self._sections.values():
                np.add(total, section, out=total)
            try:
                survivors.unmask(SLOTS, total, survivors.recover_seeds(SLOTS, shares), survivors.recover_masks(shares))
            except BadShare as bad:
                # We have not seen the hashes of others' shares: a survivor, a dealer or the server may be lying.
                raise TranscriptMismatch("The slot shares do not open what was committed to.") from bad
            context = self.context
            names = [slot.name for slot in context.plan.slots_of(context.step)]
            self.slots = dict(zip(names, (int(value) for value in total), strict=True))
            lanes = context.plan.lanes_of(context.step)
            self.contributors = {lane.name: self._contributors(lane) for lane in lanes}
            refused = {lane.name: self._check_lane(lane, floors, previous) for lane in lanes}
            self.withheld = {lane: why for lane, why in refused.items() if why is not None}
            self.released = tuple(lane for lane, why in refused.items() if why is None)
            signed = self._shares((), self.released)
        self.wipe()
        return signed

    def _contributors(self, lane: Lane) -> frozenset[str]:
        """The survivors that have a weight in a lane, by the manifests inside the shares they dealt us."""
        place = self.context.plan.lanes_of(self.context.step).index(lane)
        here = self._dealt.cohort.holders(lane.name, self._survivors.signed)
        return frozenset(silo for silo in here if self._packs[silo].contributes[place])

    def _check_lane(
        self, lane: Lane, floors: Mapping[str, int], previous: Mapping[str, Openings | None]
    ) -> RoundRefused | None:
        """Why this silo withholds its shares of a lane, or nothing."""
        try:
            self._check_floor(lane, floors.get(lane.name, 0))
            if lane.guard_moves:
                self._check_moves(lane, previous.get(lane.name, ()))
        except RoundRefused as refused:
            return refused
        return None

    def _check_floor(self, lane: Lane, own: int) -> None:
        """At least the strictest floor contributes, by the opened slot and by the manifests."""
        least = self.context.charter.floor(lane, own)
        if min(self.slots[lane.contributors_slot], len(self.contributors[lane.name])) < least:
            raise LaneBelowFloor(lane.name)

    def _check_moves(self, lane: Lane, openings: Openings | None) -> None:
        """Who joined or left since each earlier opening are none or at least m + c."""
        now = self.contributors[lane.name]
        if openings is None:
            raise CohortDifference(f"Lane {lane.name!r} may have opened without us: its moves can't be counted.")
        if self.slots[lane.contributors_slot] != len(now):
            raise CohortDifference(f"Slot and manifests of lane {lane.name!r} count different contributors.")
        least = self.context.charter.honest + self.context.charter.colluders
        if any(0 < len(before ^ now) < least for before in openings):
            raise CohortDifference(f"Too few silos joined or left lane {lane.name!r} since it opened.")

    def _shares(self, masks: tuple[tuple[str, bytes], ...], lanes: Sequence[str]) -> bytes:
        """Sign shares out. Both kinds of one party's shares never leave in one session: BothShares."""
        survivors = self._survivors
        seeds = tuple(
            (
                silo,
                lane,
                dict(zip(survivors.dealt.cohort.lanes_of(silo), self._packs[silo].self_seeds, strict=True))[lane],
            )
            for lane in lanes
            for silo in survivors.dealt.cohort.holders(lane, survivors.signed)
        )
        both = {silo for silo, _ in masks} & {silo for silo, _, _ in seeds}
        if both or any(silo in survivors.signed for silo, _ in masks):
            raise BothShares(f"Both shares of {sorted(both)} would leave this silo.")
        return Shares(silo=self.silo, t3=survivors.t3, masks=masks, seeds=seeds).sign(self._identity)

    def wipe(self) -> None:
        self._channel = self._mask = self._own_pack = None
        self._mask_seed = b""
        self._channel_secrets = {}
        self._seeds = {}
        self._packs = {}
        self.masked = {}
