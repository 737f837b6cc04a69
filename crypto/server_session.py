"""The server's side of one step: collects, opens, adds, proves. Sans-IO, used once. Uploads stay with the caller.

Every check here is for robustness and blame; the silos' privacy depends on none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from crypto import proof, tags
from crypto.cohort import Cohort, Context, Dealt, Survivors, check_slots, check_words
from crypto.errors import (
    BadShare,
    FederationError,
    LayoutMismatch,
    Replay,
    RosterMismatch,
    SumNotProven,
    SurvivorInvalid,
    TranscriptMismatch,
)
from crypto.evidence import StepEvidence
from crypto.messages import Header, Row, Shares, StepResult, TagRequest, Tags
from crypto.opening import LaneTotal, Opening
from crypto.plan import SECTIONS
from crypto.proof import Sum
from crypto.session import SERVER, Session

#: (silo, lane) → its masked words as uploaded and checked by ``words``.
Uploads = Callable[[str, str], np.ndarray]


class ServerSession(Session):
    """One attempt at one step.

    Each phase takes one message per silo and is ended by a ``close_…`` or ``open_…`` method. A silo's message that
    fails raises a ProtocolError and changes nothing: the caller drops that silo. A phase that can't be ended raises
    (CohortTooSmall, SurvivorInvalid) and ends the session. Silo ids are those that the courier authenticated; messages
    are the signed bytes of ``crypto.messages``.
    """

    table = SERVER

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self._adverts: dict[str, bytes] = {}
        self._deals: dict[str, bytes] = {}
        self._rows: dict[str, dict[str, bytes]] = {}
        self._headers: dict[str, tuple[Header, bytes]] = {}
        self._masked_slots: dict[str, bytes] = {}
        self._added: set[str] = set()
        self._attestations: dict[str, bytes] = {}
        #: Survivors that attested to other sets than the others, after ``close_attestations``. Each was left out.
        self.strayed: tuple[str, ...] = ()
        self._slot_shares: dict[str, tuple[Shares, bytes]] = {}
        self._lane_shares: dict[str, tuple[Shares, bytes]] = {}
        self._seeds: dict[str, dict[str, bytes]] = {}
        self._tags: dict[str, tuple[Tags, bytes]] = {}  # owner → its tags, by itself or another
        #: Lanes that enough survivors released and that could not be opened or are beyond the clip, with the reason.
        self.failed: dict[str, FederationError] = {}
        #: Silos whose signed tags were false, with those tags. Each was left out.
        self.false_tags: dict[str, bytes] = {}
        #: Opened lanes, after ``open_lanes``.
        self.sums: dict[str, Sum] = {}

    # M0
    def advert(self, silo: str, signed: bytes) -> None:
        with self.on("advert", fatal=False):
            if self.context.check_advert(signed).silo != silo:
                raise RosterMismatch(f"{silo!r} sent another silo's advert.")
            self._adverts[silo] = signed

    def close_adverts(self) -> list[bytes]:
        """Fix U1. The signed adverts to send to each of its silos. Raises CohortTooSmall, DuplicateKey."""
        with self.on("close-adverts"):
            self.cohort = Cohort.form(self.context, self._adverts.values())
            return list(self.cohort.signed.values())

    # M1
    def deal(self, silo: str, signed: bytes, rows: Mapping[str, bytes]) -> None:
        with self.on("deal", fatal=False):
            deal = Dealt.check_deal(self.cohort, signed)
            if deal.silo != silo:
                raise RosterMismatch(f"{silo!r} sent another silo's deal.")
            peers = [peer for peer in self.cohort.signed if peer != silo]
            if rows.keys() != set(peers) or tuple(Row.from_bytes(rows[peer]).digest for peer in peers) != deal.rows:
                raise BadShare(f"The rows from {silo!r} are not those it signed.", dealer=silo)
            if any(len(Row.from_bytes(row).hashes) != 1 + len(self.cohort.lanes_of(silo)) for row in rows.values()):
                raise BadShare(f"A row from {silo!r} has not one hash for each secret.", dealer=silo)
            self._deals[silo] = signed
            self._rows[silo] = dict(rows)

    def at_fault(self, silo: str, dealer: str, key: bytes) -> str:
        """Who is to blame where a silo complains of its row: see ``Dealt.at_fault``. Raises RosterMismatch for a dealer
        whose row it did not get."""
        if silo not in self._rows.get(dealer, {}):
            raise RosterMismatch(f"{silo!r} blames {dealer!r}, who dealt it nothing.")
        return self.dealt.at_fault(silo, dealer, self._rows[dealer][silo], key)

    def close_deals(self) -> tuple[list[bytes], dict[str, list[tuple[str, bytes]]]]:
        """Fix U2. The deals for every silo, and silo → (dealer, row) of its rows. Raises SurvivorInvalid."""
        with self.on("close-deals"):
            self.dealt = Dealt.form(self.cohort, self._deals.values())
            rows = {
                silo: [(dealer, self._rows[dealer][silo]) for dealer in self.dealt.signed if dealer != silo]
                for silo in self.dealt.signed
            }
            return list(self.dealt.signed.values()), rows

    # M2
    def header(self, silo: str, signed: bytes, slots: bytes) -> Header:
        """Take an upload's signed header and masked slots (little-endian uint64); ``words`` takes the lanes."""
        with self.on("header", fatal=False):
            header = Survivors.check_header(self.dealt, signed)
            if header.silo != silo:
                raise RosterMismatch(f"{silo!r} sent another silo's header.")
            if silo in self._added:
                raise Replay(f"{silo!r} sent a second header after its words were added.")
            check_slots(header, slots, self.context.step)
            self._headers[silo] = (header, signed)
            self._masked_slots[silo] = slots
            return header

    def words(self, silo: str, lanes: Mapping[str, np.ndarray]) -> None:
        """Check a silo's complete upload: lane → masked words (uint32, as packed for the wire).

        It counts only if every lane's digest is that of the header.
        """
        with self.on("words", fatal=False):
            if silo not in self._headers or silo in self._added:
                raise LayoutMismatch(f"Masked words from {silo!r} came without a header, or twice.")
            header, _ = self._headers[silo]
            if set(lanes) != {lane for lane, _ in header.lanes} - SECTIONS:
                raise LayoutMismatch(f"{silo!r} sent other lanes than it signed.")
            plan, step = self.context.plan, self.context.step
            for lane, words in lanes.items():
                check_words(header, lane, words, plan.wire_words_of(step, lane))
            self._added.add(silo)

    @property
    def uploaded(self) -> tuple[str, ...]:
        """The silos whose uploads are complete."""
        return tuple(sorted(self._added))

    def close_uploads(self, among: Iterable[str] | None = None) -> list[bytes]:
        """Fix U3: those of ``among`` whose uploads are complete, all without it. The signed headers to attest. Raises
        SurvivorInvalid."""
        with self.on("close-uploads"):
            kept = self._added if among is None else self._added.intersection(among)
            self.survivors = Survivors.form(self.dealt, [self._headers[silo][1] for silo in sorted(kept)])
            return list(self.survivors.signed.values())

    # M4
    def attestation(self, silo: str, signed: bytes) -> None:
        with self.on("attestation", fatal=False):
            if self.survivors.check_attestation(signed).silo != silo:
                raise RosterMismatch(f"{silo!r} sent another silo's attestation.")
            self._attestations[silo] = signed

    def close_attestations(self) -> tuple[list[bytes], list[tuple[str, bytes]]]:
        """The signed attestations, and (survivor, masked slots) of U3. Raises SurvivorInvalid for fewer than t that
        agree; it blames one that strayed, where more than the colluders say otherwise."""
        with self.on("close-attestations"):
            _, agreeing = self.survivors.most_attested(self._attestations.values())
            if len(agreeing) > self.context.charter.colluders:  # an honest one is among them, so all honest ones are
                self.strayed = tuple(sorted(self._attestations.keys() - agreeing))
                self._attestations = {silo: one for silo, one in self._attestations.items() if silo in agreeing}
            try:
                self.survivors.check_attested(self._attestations.values())
            except SurvivorInvalid as few:
                few.blame = next(iter(self.strayed), "")
                raise
            return list(self._attestations.values()), list(self._slots_of_survivors.items())

    @property
    def _slots_of_survivors(self) -> dict[str, bytes]:
        return {silo: self._masked_slots[silo] for silo in self.survivors.signed}

    # M5, slots
    def slot_shares(self, silo: str, signed: bytes) -> None:
        with self.on("slot-shares", fatal=False):
            shares = self.survivors.check_slot_shares(signed)
            self._check_hashes(silo, shares)
            self._slot_shares[silo] = (shares, signed)

    def open_slots(self) -> list[bytes]:
        """Open the slots into ``slots`` (plan order). The signed slot shares for the silos, who open them again.

        Raises SurvivorInvalid for fewer than t shares, BadShare for a dealer whose shares do not combine.
        """
        with self.on("open-slots"):
            shares = [opened for opened, _ in self._slot_shares.values()]
            self._opening = Opening.form(self.survivors, self._slots_of_survivors, shares)
            self.slots = self._opening.slots
            return [signed for _, signed in self._slot_shares.values()]

    # M5, lanes
    def lane_shares(self, silo: str, signed: bytes) -> None:
        with self.on("lane-shares", fatal=False):
            shares = self.survivors.check_lane_shares(signed)
            self._check_hashes(silo, shares)
            self._lane_shares[silo] = (shares, signed)

    def open_lanes(self, uploads: Uploads) -> TagRequest:
        """Open each lane that at least t survivors released with one count into ``sums``, and announce the result: what
        each survivor signs and proves its part of.

        The other lanes stay shut, as does one whose dealer's shares don't combine or whose sum is beyond the clip (then
        it is in ``failed``); the other lanes are not affected.
        """
        with self.on("open-lanes"):
            plan, step = self.context.plan, self.context.step
            released = [shares for shares, _ in self._lane_shares.values()]
            announced = []
            for lane in plan.lanes_of(step):
                try:
                    found = self._opening.recover(lane.name, released)
                except BadShare as bad:
                    self.failed[lane.name] = bad
                    continue
                if found is None:
                    continue
                seeds, count = found
                total = LaneTotal.zero(plan.words_of(step, lane.name), plan.ring_bits, len(seeds))
                scratch = np.empty_like(total.words)
                for silo, seed in seeds.items():
                    total.add(self._opening.residue(silo, lane.name, uploads(silo, lane.name), seed, out=scratch))
                one = total.announced(lane.name, tuple(seeds), count)
                try:
                    proof.check_bounds(self.context.charter, plan, self.context.k, one, total.words)
                except SumNotProven as beyond:
                    self.failed[lane.name] = beyond
                    continue
                self._seeds[lane.name], self.sums[lane.name] = seeds, Sum(total.words, total.carries)
                announced.append(one)
            self.result = StepResult(
                step=self.context.k,
                chain=self.context.chain,
                t3=self.survivors.t3,
                released=True,
                slots=self.slots,
                sums=tuple(announced),
            )
            return TagRequest(self.result, tuple(tuple(self._seeds[one.lane].values()) for one in announced))

    # M6
    def tags(self, silo: str, signed: bytes, *, owner: str | None = None) -> None:
        """Take a survivor's tags, of its own upload or of the ``owner``'s that it stands in for."""
        with self.on("tags", fatal=False):
            found = proof.open_tags(self.context.charter, self.result, signed)
            if (found.silo, found.owner) != (silo, owner or silo) or found.owner not in self.survivors.signed:
                raise RosterMismatch(f"{silo!r} sent tags of {found.owner!r} as {found.silo!r}.")
            if found.owner not in self._tags:
                self._tags[found.owner] = (found, signed)

    @property
    def uploaders(self) -> frozenset[str]:
        """Survivors whose uploads are in the result's lanes: they alone may stand in for others."""
        return frozenset(silo for one in self.result.sums for silo in one.uploaders)

    @property
    def untagged(self) -> tuple[str, ...]:
        """Those of them whose uploads have no tags yet."""
        return tuple(sorted(self.uploaders - self._tags.keys()))

    def drop_false_tags(self, uploads: Uploads) -> tuple[str, ...]:
        """Leave out the tags that are not those of the uploads they are of; whose they were. To be called when the
        tags do not prove the result: the server can compute each of them again."""
        for owner, (found, signed) in list(self._tags.items()):
            lanes = self.result.lanes_of(owner)
            words = {lane: uploads(owner, lane) for lane in lanes}
            seeds = {lane: self._seeds[lane][owner] for lane in lanes}
            if tuple(map(tags.write, self._opening.tags_of(self.result, owner, words, seeds))) != found.tags:
                self.false_tags[found.silo] = signed
                del self._tags[owner]
        return tuple(sorted(self.false_tags))

    @property
    def signed_tags(self) -> tuple[bytes, ...]:
        """Those taken so far: once they suffice, the proof of the result."""
        return tuple(signed for _, signed in self._tags.values())

    def close_tags(self) -> tuple[bytes, ...]:
        """The proof of the result. Raises SumNotProven where the tags do not prove it; then more may come."""
        with self.on("close-tags", fatal=False):
            proof.check_result(self.context.charter, self.context.plan, self.result, self.sums, self.signed_tags)
            return self.signed_tags

    def evidence(self) -> StepEvidence:
        """Every signed message from which the opened slots and lanes follow, for later checks of the step."""
        return StepEvidence(
            adverts=tuple(self.cohort.signed.values()),
            deals=tuple(self.dealt.signed.values()),
            headers=tuple(self.survivors.signed.values()),
            attestations=tuple(self._attestations.values()),
            slots=tuple(self._slots_of_survivors.items()),
            slot_shares=tuple(signed for _, signed in self._slot_shares.values()),
            lane_shares=tuple(signed for _, signed in self._lane_shares.values()),
            result=bytes(self.result),
            tags=self.signed_tags,
        )

    def _check_hashes(self, silo: str, shares: Shares) -> None:
        """Raises TranscriptMismatch unless each share has the hash that its dealer published.

        A sender of another share is to blame, not the dealer.
        """
        if shares.silo != silo:
            raise RosterMismatch(f"{silo!r} sent another silo's shares.")
        for dealer, lane, share in [(dealer, "", share) for dealer, share in shares.masks] + list(shares.seeds):
            if dealer == silo:
                continue  # a dealer's own share has no row; the commitment check after combining covers it
            row = Row.from_bytes(self._rows[dealer][silo])
            place = ("", *self.cohort.lanes_of(dealer)).index(lane)
            if self.cohort.share_hash(dealer, silo, lane, share) != row.hashes[place]:
                raise TranscriptMismatch(f"{silo!r} sent a share that {dealer!r} did not deal.")
