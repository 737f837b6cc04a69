"""The silo's side of one step: announces keys, deals shares, masks, attests, releases, tags. Sans-IO, used once.

(Double masking after K. Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS
2017, in the malicious-server variant, with one self seed per lane so that lanes open one by one.)

Security: as long as fewer than t silos (the charter's c among them) collude with the server and the primitives hold,
the server learns of an opened lane the sum over the survivors who upload it, and of a shut lane nothing. Two shares
of one party never leave this silo in one session: its self seeds if it survived, its mask seed if it did not.

This module is one file because it is all that a silo ever does with its secrets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto import quantities, ring, shamir, tags
from crypto.atoms import Openings
from crypto.blocks import Encoded
from crypto.cohort import (
    ROW_NONCE,
    Cohort,
    Context,
    Dealt,
    Survivors,
    check_words,
    commitment,
    manifest_commitment,
    mask_key,
    words_digest,
)
from crypto.errors import (
    BadShare,
    BothShares,
    CohortDifference,
    DuplicateKey,
    LaneBelowFloor,
    LayoutMismatch,
    RoundRefused,
    SumNotProven,
    SurvivorInvalid,
    TranscriptMismatch,
)
from crypto.keys import Identity, SessionKey
from crypto.masking import apply_streams
from crypto.messages import (
    Advert,
    Attestation,
    Deal,
    Header,
    Row,
    SharePack,
    Shares,
    StepResult,
    TagRequest,
    Tags,
)
from crypto.opened_sets import OpenedSet, SessionSets, Told, session_salt
from crypto.opening import Count, Opening
from crypto.plan import SECTIONS, Lane
from crypto.session import SILO, Session

#: Records what this silo is about to let open, before its shares leave.
Record = Callable[[Told], None]


class SiloSession(Session):
    """One silo, one attempt at one step.

    The order: ``advert``, ``deal``, ``open_rows``, ``upload``, ``survivors``, ``attest``, ``release_slots``,
    ``release_lanes``, ``tag``, and then ``stand_in`` as often as asked. Each of the others may be called once, in its
    state; else Unexpected. Every other error ends the session and wipes its secrets. Messages are the signed bytes of
    ``crypto.messages``.
    """

    table = SILO

    def __init__(
        self,
        context: Context,
        silo: str,
        identity: Identity,
        *,
        blocks: bytes,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """``context``: this silo's own view of run, plan, step and state. ``identity``: the agent's signing key.
        ``blocks``: digest of the published blocks before the step. ``entropy``: source of secret bytes, os.urandom
        outside of test vectors."""
        super().__init__()
        self.context = context
        self._blocks = blocks
        self.silo = silo
        self._identity = identity
        self._entropy = entropy
        self._channels: dict[str, SessionKey] = {}
        self._mask: SessionKey | None = None
        self._channel_secrets: dict[str, bytes] = {}
        self._mask_seed = b""
        self._seeds: dict[str, bytes] = {}
        self._own_pack: SharePack | None = None
        self._packs: dict[str, SharePack] = {}
        self._weights: dict[str, int] = {}
        self._masked_slots: dict[str, bytes] = {}
        self._released_seeds: dict[str, dict[str, bytes]] = {}
        #: Masked words by lane, after ``upload``; the courier takes them from here.
        self.masked: dict[str, np.ndarray] = {}
        self.slots: dict[str, int] = {}
        #: The announced result that this silo signed, after ``tag``.
        self.result: StepResult | None = None
        self._spent = False
        #: Lanes this silo released, sections and lanes it withheld and why, and who contributed to each lane by the
        #: manifests.
        self.released: tuple[str, ...] = ()
        self.withheld: dict[str, RoundRefused] = {}
        self.contributors: dict[str, frozenset[str]] = {}
        self._known: dict[bytes, Openings] = {}

    # M0
    def advert(self, *, weights: Mapping[str, int], releases: int, data: bytes, approval: bytes) -> bytes:
        """The signed advert: fresh keys and commitments.

        ``weights``: lane → this silo's weight, 0 or on the lane's grid; a lane that is left out has 0. Lanes with
        visible holdings are announced; only the peers learn the weights, inside the encrypted shares. ``releases``: how
        often this silo has ever released. ``data``: the data set's salted commitment; ``approval``: the digest of the
        owner's approval; 32 bytes each. Raises LayoutMismatch for a lane that the step does not have, and for a weight
        that is not on its lane's grid.
        """
        with self.on("advert"):
            lanes = self.context.plan.lanes_of(self.context.step)
            if foreign := weights.keys() - {lane.name for lane in lanes}:
                raise LayoutMismatch(f"This step has no lanes {sorted(foreign)}.")
            self._weights = {lane.name: weights.get(lane.name, 0) for lane in lanes}
            self._manifest = tuple(_place(lane, self._weights[lane.name]) for lane in lanes)
            held = tuple(lane.name for lane in lanes if lane.visible and self._weights[lane.name])
            self._mask_seed = self._entropy(shamir.SECRET_BYTES)
            self._mask = mask_key(self._mask_seed)
            others = [peer for peer in self.context.charter.silos if peer != self.silo]
            self._channels = {peer: SessionKey(self._entropy(shamir.SECRET_BYTES)) for peer in others}
            self._seeds = {lane: self._entropy(shamir.SECRET_BYTES) for lane in self.context.lanes_for(self.silo, held)}
            self._signed_advert = Advert(
                silo=self.silo,
                t0=self.context.t0,
                channels=tuple(key.public for key in self._channels.values()),
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
    def deal(self, adverts: Sequence[bytes], *, told: Iterable[Told] = ()) -> tuple[bytes, dict[str, bytes]]:
        """The signed deal, and peer → row, from the signed adverts of U1. ``told``: what this silo counts as opened of
        the quantities of this step, each proven under the charter.

        Raises DuplicateKey unless this silo's own advert is among them; else as ``Cohort.form``.
        """
        with self.on("deal"):
            cohort = Cohort.form(self.context, adverts)
            if cohort.signed.get(self.silo) != self._signed_advert:
                raise DuplicateKey("The cohort does not show this silo's own advert.")
            points = list(cohort.points.values())
            mask_shares = shamir.split(self._mask_seed, cohort.threshold, points, self._entropy)
            seed_shares = {
                lane: shamir.split(seed, cohort.threshold, points, self._entropy) for lane, seed in self._seeds.items()
            }
            nonce = self._entropy(shamir.SECRET_BYTES)
            telling = tuple(map(bytes, told))
            rows: dict[str, Row] = {}
            for place, peer in enumerate(cohort.signed):
                shares = [seed_shares[lane][place] for lane in self._seeds]
                pack = SharePack(mask_shares[place], tuple(shares), self._manifest, telling, nonce)
                if peer == self.silo:
                    self._own_pack = pack
                    continue
                self._channel_secrets[peer] = self._channels[peer].agree(cohort.channel(peer, self.silo))
                key, aad = cohort.seal_key(self._channel_secrets[peer], self.silo, peer)
                hashes = tuple(
                    cohort.share_hash(self.silo, peer, lane, share)
                    for lane, share in zip(("", *self._seeds), (pack.mask, *shares), strict=True)
                )
                rows[peer] = Row(AESGCM(key).encrypt(ROW_NONCE, bytes(pack), aad), hashes)
            self._cohort = cohort
            assert self._own_pack is not None
            deal = Deal(
                silo=self.silo,
                t1=cohort.t1,
                manifest=manifest_commitment(self.silo, self._own_pack),
                rows=tuple(row.digest for row in rows.values()),
            )
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
            telling = {told for pack in self._packs.values() for told in pack.told}
            for quantity, silos in {one for told in telling for one in Told.from_bytes(told).sets}:
                self._known[quantity] = self._known.get(quantity, Openings()).refine(silos)
            self._dealt = dealt

    def _open_row(self, dealt: Dealt, dealer: str, data: bytes) -> SharePack:
        try:
            return dealt.open_row(dealer, self.silo, data, self._channel_secrets[dealer])
        except BadShare as bad:
            bad.key = self._channels[dealer].reveal()  # it opens the two rows between us, and nothing else
            raise

    def upload(self, encoded: Encoded) -> tuple[bytes, bytes]:
        """The signed header and the masked slots (little-endian uint64).

        ``encoded`` is left as it is; the masked words of the lanes (uint32, packed for the wire) are then in
        ``masked``. Raises LayoutMismatch for other weights than the manifest's.
        """
        with self.on("upload"):
            assert self._mask is not None
            self._check_announced(encoded)
            secrets = self._dealt.pair_secrets(self._mask, [peer for peer in self._dealt.signed if peer != self.silo])

            def mask(lane: str, words: np.ndarray) -> np.ndarray:
                apply_streams(words, self._dealt.upload_streams(self.silo, lane, self._seeds[lane], secrets))
                return words

            slots, digests = encoded.slots.astype("<u8"), {}
            for section in self.context.step.sections:
                places = list(self.context.step.places(section))
                slots[places] = masked = mask(section, encoded.slots[places])
                digests[str(section)] = words_digest(masked)
            for lane in self._dealt.cohort.words_of(self.silo):
                self.masked[lane] = ring.pack(mask(lane, encoded.lanes[lane].copy()), self.context.plan.ring_bits)
            digests |= {lane: words_digest(words) for lane, words in self.masked.items()}
            header = Header(silo=self.silo, t2=self._dealt.t2, lanes=tuple(digests.items()))
            self._signed_header = header.sign(self._identity)
            return self._signed_header, slots.tobytes()

    def _check_announced(self, encoded: Encoded) -> None:
        """Raises LayoutMismatch unless the upload is weighted as this silo's manifest says."""
        if encoded.weights != self._weights:
            raise LayoutMismatch("This silo's upload has other weights than its manifest.")

    # M3 → M4
    def survivors(self, headers: Sequence[bytes]) -> tuple[str, ...]:
        """The silos of U3, from their signed headers.

        Raises SurvivorInvalid for too few survivors, or without this silo's own upload.
        """
        with self.on("survivors"):
            survivors = Survivors.form(self._dealt, headers)
            if survivors.signed.get(self.silo) != self._signed_header:
                raise SurvivorInvalid("The survivors do not include this silo's own upload.")
            self._survivors = survivors
            return tuple(survivors.signed)

    def attest(self) -> bytes:
        """The signature over T3 and over the sets that this step's sums are over."""
        with self.on("attest"):
            self._count()
            return Attestation(silo=self.silo, t3=self._survivors.t3, sets=self._sets.digest).sign(self._identity)

    def _count(self) -> None:
        """Who contributes to each section and lane, by the survivors and by the manifests in the shares they dealt."""
        step, plan = self.context.step, self.context.plan
        lanes = plan.lanes_of(step)
        self.contributors = {lane.name: self._contributors(lane) for lane in lanes}
        self._counts = {lane.name: self._count_of(lane) for lane in lanes}
        self._quantities = quantities.of_step(plan, step, self._blocks)
        salt = session_salt({silo: pack.nonce for silo, pack in self._packs.items()})
        everyone = self._contributor_ids(self._survivors.signed)
        self._sets = SessionSets.of(self.t3, salt, everyone, self._sets_of(self._quantities))

    @property
    def peers(self) -> Mapping[str, Advert]:
        """U1 without this silo."""
        return {silo: advert for silo, advert in self._cohort.adverts.items() if silo != self.silo}

    @property
    def spent(self) -> bool:
        """Whether shares may have left."""
        return self._spent

    @property
    def t3(self) -> bytes:
        return self._survivors.t3

    @property
    def cohort(self) -> tuple[str, ...]:
        """U3."""
        return tuple(self._survivors.signed)

    # M5, slots
    def release_slots(
        self,
        attestations: Sequence[bytes],
        masked: Mapping[str, bytes],
        *,
        known: Callable[[bytes], Openings],
        record: Record,
    ) -> bytes:
        """The signed shares of the dropped silos' mask seeds, and of the seeds of the sections of slots that pass the
        rule of atoms. From here on the step is ``spent``.

        ``masked``: survivor → its masked slots. ``known``: what this silo itself counts as opened of a quantity.
        ``record``: called with what it is about to let open, when every check has passed and before any share is
        signed; if it raises, the session ends and nothing has left. Raises SurvivorInvalid for fewer attestations than
        t, TranscriptMismatch for attestations of other sets than this silo's, LayoutMismatch or TranscriptMismatch for
        slots that the headers do not sign.
        """
        with self.on("release-slots"):
            survivors = self._survivors
            if survivors.check_attested(attestations) != self._sets.digest:
                raise TranscriptMismatch("The survivors attested to other contributors than this silo counts.")
            if set(masked) != set(survivors.signed):
                raise LayoutMismatch("The masked slots are not those of each survivor.")
            for silo, slots in masked.items():
                survivors.check_slots(silo, slots)
            self._masked_slots = dict(masked)
            self._attestations = tuple(attestations)
            for found in self._quantities.values():
                for quantity in found:
                    self._known[quantity] = self._known.get(quantity, Openings()) | known(quantity)
            self.withheld = self._check_rule(self.context.step.sections)
            released = [section for section in self.context.step.sections if section not in self.withheld]
            record(self._told(released))
            self._spent = True
            masks = tuple((silo, self._packs[silo].mask) for silo in survivors.dropped)
            return self._shares(masks, released)

    # M5, lanes
    def release_lanes(self, slot_shares: Sequence[bytes], *, floors: Mapping[str, int], record: Record) -> bytes:
        """Open the slots, then the signed shares of the lanes that pass this silo's checks.

        ``floors``: lane → this silo's own floor. ``record``: as for ``release_slots``. Afterwards ``slots``,
        ``released`` and ``withheld`` are set. Raises TranscriptMismatch for shares that do not open what was committed
        to.
        """
        with self.on("release-lanes"):
            shares = [self._survivors.check_slot_shares(signed) for signed in slot_shares]
            try:
                self._opening = Opening.form(self._survivors, self._masked_slots, shares)
            except BadShare as bad:
                # We have not seen the hashes of others' shares: a survivor, a dealer or the server may be lying.
                raise TranscriptMismatch("The slot shares do not open what was committed to.") from bad
            self.slots = self._opening.figures
            lanes = self.context.plan.lanes_of(self.context.step)
            below = {lane.name: self._check_floor(lane, floors.get(lane.name, 0)) for lane in lanes}
            refused = {lane: why for lane, why in below.items() if why is not None}
            refused |= self._check_rule([lane.name for lane in lanes if lane.name not in refused])
            self.withheld |= refused
            self.released = tuple(lane.name for lane in lanes if lane.name not in refused)
            if self.released:
                record(self._told(self.released))
            signed = self._shares((), self.released)
            self._wipe_secrets()
        return signed

    def _contributors(self, lane: Lane) -> frozenset[str]:
        """The survivors that have a weight in a lane, by the manifests inside the shares they dealt us."""
        uploaders = self._survivors.dealt.cohort.holders(lane.name, self._survivors.signed)
        return frozenset(silo for silo in uploaders if self._weight(silo, lane))

    def _count_of(self, lane: Lane) -> Count:
        """The sum of the contributors' weights, and how many they are."""
        contributors = self.contributors[lane.name]
        return sum(self._weight(silo, lane) for silo in contributors), len(contributors)

    def _weight(self, silo: str, lane: Lane) -> int:
        place = self.context.plan.lanes_of(self.context.step).index(lane)
        return lane.weight_of(self._packs[silo].manifest[place])

    def _check_floor(self, lane: Lane, own: int) -> RoundRefused | None:
        """Why a lane stays shut unless at least the strictest floor contributes, by the manifests."""
        if len(self.contributors[lane.name]) < self.context.charter.floor(lane, own):
            return LaneBelowFloor(lane.name)
        return None

    def _check_rule(self, names: Sequence[str]) -> dict[str, RoundRefused]:
        """Those of these sections or lanes that the rule of atoms keeps shut, and why.

        Sums of one quantity open together or not at all: the halves of a split, for instance."""
        least = self.context.charter.honest + self.context.charter.colluders
        refused: dict[bytes, RoundRefused] = {}
        for quantity in sorted({one for name in names for one in self._quantities[name]}):
            openings = self._known[quantity]
            for _, silos in self._sets_of([name for name in names if quantity in self._quantities[name]], quantity):
                try:
                    openings.check(silos, least)
                except CohortDifference as why:
                    refused[quantity] = why
                    break
                openings = openings.refine(silos)
        why_of = {name: [refused[one] for one in self._quantities[name] if one in refused] for name in names}
        return {name: found[0] for name, found in why_of.items() if found}

    def _sets_of(self, names: Iterable[str], quantity: bytes | None = None) -> list[OpenedSet]:
        """The sets of these sections or lanes: of each of their quantities, or only of one."""
        sets = []
        for name in names:
            ids = self._contributor_ids(self._survivors.signed if name in SECTIONS else self.contributors[name])
            sets += [(one, ids) for one in sorted(self._quantities[name]) if quantity in (None, one)]
        return sets

    def _contributor_ids(self, silos: Iterable[str]) -> frozenset[str]:
        return frozenset(quantities.contributor(silo, self._cohort.adverts[silo].data) for silo in silos)

    def _told(self, names: Iterable[str]) -> Told:
        return Told.of(self._sets, self._sets_of(names), self._attestations)

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
        counts = tuple((lane, *self._counts[lane]) for lane in lanes if lane not in SECTIONS)
        return Shares(silo=self.silo, t3=survivors.t3, masks=masks, seeds=seeds, counts=counts).sign(self._identity)

    # M6
    def tag(self, request: TagRequest) -> bytes:
        """The signature over the announced result, with the tags of this silo's upload in the result's lanes.

        Raises SumNotProven for slots, weights or uploaders other than this silo's own, and for seeds that do not show
        that a lane is open: the tags of a shut lane would tell about its sum.
        """
        with self.on("tag"):
            result = request.result
            self._check_announced_result(result)
            for one, seeds in zip(result.sums, request.seeds, strict=True):
                self._released_seeds[one.lane] = self._opening.check_seeds(one.lane, seeds)
            self.result = result
            signed = self._tags(self.silo, self.masked)
        self.masked = {}
        return signed

    def stand_in(self, owner: str, masked: Mapping[str, np.ndarray]) -> bytes:
        """The same for a survivor that sent no tags. ``masked``: the lanes of the result that it uploaded, as uploaded.

        Raises TranscriptMismatch or LayoutMismatch for words that the owner's header does not sign.
        """
        with self.on("stand-in", fatal=False):
            if owner not in self._survivors.signed:
                raise SurvivorInvalid(f"{owner!r} did not survive: nobody stands in for it.")
            assert self.result is not None
            wanted = set(self.result.lanes_of(owner))
            if masked.keys() != wanted:
                raise LayoutMismatch(f"The upload of {owner!r} came with lanes {sorted(masked)}, not {sorted(wanted)}.")
            plan, step = self.context.plan, self.context.step
            for lane, words in masked.items():
                check_words(self._survivors.headers[owner], lane, words, plan.wire_words_of(step, lane))
            return self._tags(owner, masked)

    def _check_announced_result(self, result: StepResult) -> None:
        mine = (self.context.k, self.context.chain, self._survivors.t3, True)
        if (result.step, result.chain, result.t3, result.released) != mine:
            raise SumNotProven("The announced result is of another session.")
        if result.slots != self._opening.slots:
            raise SumNotProven("The announced slots are not those that this silo opened.")
        for one in result.sums:
            if one.lane not in self._counts or (one.weight, one.contributors) != self._counts[one.lane]:
                raise SumNotProven(f"The announced weights of lane {one.lane!r} are not those of the manifests.")
            if one.uploaders != self._opening.uploaders(one.lane):
                raise SumNotProven(f"The announced uploaders of lane {one.lane!r} are not the survivors.")

    def _tags(self, owner: str, masked: Mapping[str, np.ndarray]) -> bytes:
        assert self.result is not None
        seeds = {lane: self._released_seeds[lane][owner] for lane in self.result.lanes_of(owner)}
        found = self._opening.tags_of(self.result, owner, masked, seeds)
        signed = Tags(
            silo=self.silo,
            t3=self._survivors.t3,
            owner=owner,
            result=self.result.digest,
            tags=tuple(map(tags.write, found)),
        )
        return signed.sign(self._identity)

    def wipe(self) -> None:
        self._wipe_secrets()
        self.masked = {}

    def _wipe_secrets(self) -> None:
        self._mask = self._own_pack = None
        self._channels = {}
        self._mask_seed = b""
        self._channel_secrets = {}
        self._seeds = {}
        self._packs = {}


def _place(lane: Lane, weight: int) -> int:
    """A manifest's entry for a weight; see ``Lane.weight_of``."""
    if weight not in (0, *lane.grid):
        raise LayoutMismatch(f"Weight {weight} of lane {lane.name!r} is neither 0 nor on its grid {lane.grid}.")
    return lane.grid.index(weight) + 1 if weight else 0
