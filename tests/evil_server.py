"""A server that follows no rule: it keeps every byte, shows each silo what it likes, and owns up to c of the silos.

It drives honest ``SiloSession`` objects directly, one phase at a time. ``ask`` is the only way to a silo: it records
what the silo sent, or the refusal by which it ended. ``verdict`` then looks at the raw bytes of everything that every
honest silo ever sent, and at what the colluders were dealt, and asserts the two sentences that matter:

* no honest silo sent a mask-seed share and a self-seed share of the same party;
* no honest party has both its mask seed and a self seed within the reach of t shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.atoms import Openings
from crypto.blocks import Contribution, Encoded, encode
from crypto.cohort import Context, manifest_commitment
from crypto.errors import FederationError
from crypto.messages import Attestation, Deal, Row, SharePack, TagRequest
from crypto.opened_sets import Told
from crypto.plan import Plan
from crypto.server_session import ServerSession
from crypto.session import SessionState
from crypto.silo_session import SiloSession
from tests.federation import BLOCKS, Federation, View, assert_never_both, contribution, holding, kinds_of_shares, stream


def openings(records: Iterable[Told], quantity: bytes) -> Openings:
    """The sets of a quantity in what a silo recorded as opened."""
    return Openings(frozenset(silos for told in records for one, silos in told.sets if one == quantity))


#: What a silo is shown, as a function of the silo; None: what everyone sent.
Shown = Callable[[str], Any] | None


class EvilServer:
    def __init__(
        self,
        fed: Federation,
        plan: Plan,
        *,
        weights: Mapping[str, Mapping[str, int]] | None = None,
        colluders: Iterable[str] = (),
        context: Context | None = None,
        contexts: Mapping[str, Context] | None = None,
        records: dict[str, list[Told]] | None = None,
        values: Callable[[str], Contribution] | None = None,
        label: str = "evil",
    ) -> None:
        """``records``: silo → what it has recorded as opened, which this session goes on with; ``values``: silo → what
        it contributes."""
        self.fed, self.plan = fed, plan
        self.context = context or fed.context(plan)
        self.weights = weights or holding(fed.silos)
        self.colluders = frozenset(colluders)
        self.records = {silo: [] for silo in fed.silos} if records is None else records
        self.values = values or (lambda silo: contribution(plan, self.context.step, silo))
        self.sessions = {
            silo: SiloSession(
                (contexts or {}).get(silo, self.context),
                silo,
                fed.identities[silo],
                blocks=BLOCKS,
                entropy=stream(f"{label}/{silo}"),
            )
            for silo in fed.silos
        }
        for silo in self.colluders:  # a colluder's code does not hold it to what it announced
            self.sessions[silo]._check_announced = lambda encoded: None  # type: ignore[method-assign]
        self.view = View()
        self.packs: dict[str, dict[str, SharePack]] = {}
        self.refused: dict[str, FederationError] = {}
        self.adverts: dict[str, bytes] = {}
        self.deals: dict[str, bytes] = {}
        self.rows: dict[str, dict[str, bytes]] = {}
        self.headers: dict[str, bytes] = {}
        self.masked_slots: dict[str, bytes] = {}
        self.words: dict[str, dict[str, np.ndarray]] = {}
        self.attested: dict[str, bytes] = {}
        self.slot_shares: dict[str, bytes] = {}
        self.lane_shares: dict[str, bytes] = {}
        self.tags: dict[str, bytes] = {}

    # asking

    def ask(self, silo: str, event: str, *args: Any, **options: Any) -> Any:
        """The silo's answer, or None: then ``refused[silo]`` says why, and the session is over and empty."""
        session = self.sessions[silo]
        try:
            return getattr(session, event)(*args, **options)
        except FederationError as refusal:
            self.refused[silo] = refusal
            assert session.state is SessionState.REFUSED, (silo, event, session.state, refusal)
            assert not session._packs and not session._seeds and not session._mask_seed and not session.masked
            return None

    def sent(self, silo: str, phase: str, *data: bytes) -> None:
        for part in data:
            self.view.add(silo, phase, part)

    def willing(self, among: Iterable[str] | None = None) -> list[str]:
        return [silo for silo in (self.fed.silos if among is None else among) if silo not in self.refused]

    def codes(self) -> dict[str, str]:
        """silo → the code it refused with."""
        return {silo: error.code for silo, error in self.refused.items()}

    # phases

    def open(
        self, silos: Iterable[str] | None = None, manifests: Mapping[str, Mapping[str, int]] | None = None
    ) -> None:
        """``manifests``: silo → lane → the weight that it claims, where that is a lie."""
        for silo in self.willing(silos):
            claims = {**self.weights[silo], **(manifests or {}).get(silo, {})}
            signed = self.ask(silo, "advert", weights=claims, releases=0, data=bytes(32), approval=bytes(32))
            if signed is not None:
                self.adverts[silo] = signed
                self.sent(silo, "open", signed)

    def deal(self, shown: Shown = None, silos: Iterable[str] | None = None) -> None:
        everything = [self.adverts[silo] for silo in sorted(self.adverts)]
        for silo in self.willing(self.adverts if silos is None else silos):
            told = [told.under(self.fed.charter) for told in self.records[silo]]
            answer = self.ask(silo, "deal", shown(silo) if shown else everything, told=told)
            if answer is not None:
                self.deals[silo], self.rows[silo] = answer
                self.sent(silo, "deal", answer[0], *answer[1].values())

    def rows_for(self, silo: str, dealers: Iterable[str]) -> dict[str, bytes]:
        return {dealer: self.rows[dealer][silo] for dealer in dealers if dealer != silo}

    def contribute(
        self,
        shown: Shown = None,
        rows: Callable[[str], Mapping[str, bytes]] | None = None,
        silos: Iterable[str] | None = None,
    ) -> None:
        everything = [self.deals[silo] for silo in sorted(self.deals)]
        for silo in self.willing(self.deals if silos is None else silos):
            self.ask(
                silo,
                "open_rows",
                shown(silo) if shown else everything,
                rows(silo) if rows else self.rows_for(silo, sorted(self.deals)),
            )
            if silo in self.refused:
                continue
            self.packs[silo] = dict(self.sessions[silo]._packs)
            answer = self.ask(silo, "upload", self.encoded(silo))
            if answer is not None:
                self.headers[silo], self.masked_slots[silo] = answer
                self.words[silo] = dict(self.sessions[silo].masked)
                self.sent(silo, "contribute", *answer, *(words.tobytes() for words in self.words[silo].values()))

    def encoded(self, silo: str) -> Encoded:
        return encode(self.plan, self.context.step, self.values(silo), self.weights[silo])

    def attest(self, shown: Shown = None, silos: Iterable[str] | None = None) -> None:
        everything = [self.headers[silo] for silo in sorted(self.headers)]
        for silo in self.willing(self.headers if silos is None else silos):
            self.ask(silo, "survivors", shown(silo) if shown else everything)
            if silo in self.refused:
                continue
            signed = self.ask(silo, "attest")
            if signed is not None:
                self.attested[silo] = signed
                self.sent(silo, "attest", signed)

    def unmask_slots(
        self,
        shown: Shown = None,
        masked: Shown = None,
        silos: Iterable[str] | None = None,
    ) -> None:
        everything = [self.attested[silo] for silo in sorted(self.attested)]
        for silo in self.willing(self.attested if silos is None else silos):
            survivors = self.sessions[silo].cohort
            given = masked(silo) if masked else {s: self.masked_slots[s] for s in survivors}
            attested = shown(silo) if shown else everything
            records = self.records[silo]
            signed = self.ask(
                silo, "release_slots", attested, given, known=partial(openings, records), record=records.append
            )
            if signed is not None:
                self.slot_shares[silo] = signed
                self.sent(silo, "unmask-slots", signed)

    def unmask_lanes(
        self,
        shown: Shown = None,
        silos: Iterable[str] | None = None,
        floors: Mapping[str, int] | None = None,
    ) -> None:
        everything = [self.slot_shares[silo] for silo in sorted(self.slot_shares)]
        for silo in self.willing(self.slot_shares if silos is None else silos):
            signed = self.ask(
                silo,
                "release_lanes",
                shown(silo) if shown else everything,
                floors=floors or {},
                record=self.records[silo].append,
            )
            if signed is not None:
                self.lane_shares[silo] = signed
                self.sent(silo, "unmask-lanes", signed)

    def tag(self, shown: Shown = None, silos: Iterable[str] | None = None) -> None:
        """``shown``: silo → TagRequest; else what an honest server announces."""
        request = None if shown else self.announce()[1]
        for silo in self.willing(self.lane_shares if silos is None else silos):
            signed = self.ask(silo, "tag", shown(silo) if shown else request)
            if signed is not None:
                self.tags[silo] = signed
                self.sent(silo, "tag", signed)

    def until(self, phase: str, **options: Any) -> EvilServer:
        """Play honestly up to and with a phase; ``options`` go to that phase."""
        for name in ("open", "deal", "contribute", "attest", "unmask_slots", "unmask_lanes", "tag"):
            getattr(self, name)(**(options if name == phase else {}))
            if name == phase:
                return self
        raise ValueError(phase)

    # an honest server

    def honest_until_deals(self) -> ServerSession:
        server = ServerSession(self.context)
        for silo, signed in self.adverts.items():
            server.advert(silo, signed)
        server.close_adverts()
        for silo, signed in self.deals.items():
            server.deal(silo, signed, self.rows[silo])
        server.close_deals()
        return server

    def honest(self, drop: Iterable[str] = ()) -> ServerSession:
        """What an honest server makes of the same messages, up to the attestations."""
        server = self.honest_until_deals()
        for silo, signed in self.headers.items():
            if silo not in drop:
                server.header(silo, signed, self.masked_slots[silo])
                server.words(silo, self.words[silo])
        server.close_uploads()
        for silo, signed in self.attested.items():
            server.attestation(silo, signed)
        server.close_attestations()
        return server

    def announce(self, drop: Iterable[str] = ()) -> tuple[ServerSession, TagRequest]:
        """An honest server that has opened the lanes, and what it asks of the survivors."""
        server = self.honest(drop)
        for silo, signed in self.slot_shares.items():
            server.slot_shares(silo, signed)
        server.open_slots()
        for silo, signed in self.lane_shares.items():
            server.lane_shares(silo, signed)
        return server, server.open_lanes(self.upload)

    def upload(self, silo: str, lane: str) -> np.ndarray:
        return self.words[silo][lane]

    # colluders

    def other_attestation(self, silo: str, t3: bytes) -> bytes:
        """A colluder signs whatever the server likes."""
        assert silo in self.colluders
        (sets,) = {one._sets.digest for one in self.sessions.values() if hasattr(one, "_sets") and one.t3 == t3}
        return Attestation(silo=silo, t3=t3, sets=sets).sign(self.fed.identities[silo])

    def redeal(
        self,
        dealer: str,
        change: Callable[[str, SharePack], SharePack],
        *,
        honest_hashes: bool = False,
        hashes: int | None = None,
    ) -> None:
        """A bad dealer: its rows again, with packs changed per recipient, signed by itself.

        The deal commits to the manifest in the first changed pack. ``honest_hashes``: publish the hashes of the
        unchanged shares. ``hashes``: publish only so many.
        """
        session = self.sessions[dealer]
        cohort = session._cohort
        rows: dict[str, bytes] = {}
        for peer in cohort.signed:
            if peer == dealer:
                continue
            before = self._pack_for(dealer, peer)
            pack = change(peer, before)
            published = before if honest_hashes else pack
            names = ("", *cohort.lanes_of(dealer))
            lanes = names[: 1 + len(published.self_seeds)]
            listed = tuple(
                cohort.share_hash(dealer, peer, lane, share)
                for lane, share in zip(lanes, (published.mask, *published.self_seeds), strict=False)
            )[:hashes]
            key, aad = cohort.seal_key(session._channels[peer].agree(cohort.channel(peer, dealer)), dealer, peer)
            rows[peer] = bytes(Row(AESGCM(key).encrypt(bytes(12), bytes(pack), aad), listed))
        first = change(next(iter(rows)), self._pack_for(dealer, next(iter(rows))))
        self.sign_deal(dealer, rows, manifest=manifest_commitment(dealer, first))

    def sign_deal(self, dealer: str, rows: Mapping[str, bytes], *, manifest: bytes | None = None) -> None:
        """The dealer signs these rows, and another commitment to its manifest if one is given."""
        session = self.sessions[dealer]
        before = Deal.open(self.deals[dealer], lambda m: self.fed.charter.member(m.silo).agent)
        digests = tuple(Row.from_bytes(rows[peer]).digest for peer in sorted(rows))
        deal = replace(before, rows=digests, manifest=manifest or before.manifest)
        session._signed_deal = self.deals[dealer] = deal.sign(self.fed.identities[dealer])
        self.rows[dealer] = dict(rows)

    def _pack_for(self, dealer: str, peer: str) -> SharePack:
        session = self.sessions[dealer]
        cohort = session._cohort
        key, aad = cohort.seal_key(session._channels[peer].agree(cohort.channel(peer, dealer)), dealer, peer)
        return SharePack.from_bytes(AESGCM(key).decrypt(bytes(12), Row.from_bytes(self.rows[dealer][peer]).sealed, aad))

    # the verdict

    def known(self, lane: str | None) -> dict[str, set[str]]:
        """Honest party → the silos whose share of its seed of ``lane`` (None: mask seed) the server has, by any way."""
        known: dict[str, set[str]] = {}
        for holder, dealt in self.packs.items():
            seen = None if holder in self.colluders else self.view.of(holder)
            for party, pack in dealt.items():
                if party in self.colluders:
                    continue
                share = (
                    pack.mask if lane is None else dict(zip(self._lanes(party), pack.self_seeds, strict=True)).get(lane)
                )
                if share is not None and (seen is None or share in seen):
                    known.setdefault(party, set()).add(holder)
        return known

    def _lanes(self, silo: str) -> tuple[str, ...]:
        return self.context.lanes_for(silo, ["open"] if self.weights[silo].get("open") else [])

    def threshold(self) -> int:
        """The lowest threshold of any cohort that a silo has dealt to."""
        return min(session._cohort.threshold for session in self.sessions.values() if hasattr(session, "_cohort"))

    def verdict(self) -> None:
        honest = {silo: dealt for silo, dealt in self.packs.items() if silo not in self.colluders}
        assert_never_both(self.view, honest)
        if not self.packs:
            return
        t = self.threshold()
        masks = {party for party, holders in self.known(None).items() if len(holders) >= t}
        step = self.context.step
        for lane in (*step.sections, *(lane.name for lane in self.plan.lanes_of(step))):
            seeds = {party for party, holders in self.known(lane).items() if len(holders) >= t}
            assert not masks & seeds, f"the server opened the uploads of {sorted(masks & seeds)}"

    def assert_shut(self, lane: str) -> None:
        """What the server saw and its colluders hold is less than t shares of any honest seed of the lane."""
        assert all(len(holders) < self.threshold() for holders in self.known(lane).values())
        honest = {silo: dealt for silo, dealt in self.packs.items() if silo not in self.colluders}
        assert not [
            1
            for holder, dealt in honest.items()
            for party, pack in dealt.items()
            if self._sent(holder, party, pack, lane)
        ]

    def _sent(self, holder: str, party: str, pack: SharePack, lane: str) -> bool:
        share = dict(zip(self._lanes(party), pack.self_seeds, strict=True)).get(lane)
        return share is not None and share in self.view.of(holder)

    def kinds(self) -> dict[tuple[str, str], set[str]]:
        return kinds_of_shares(self.view, self.packs)
