"""Whole sessions for the benchmark, through the production classes; nothing of the protocol is written again here.

Two liberties, both stated in docs/performance.md. The digest of the masked words is measured apart, so the timed calls
run with it switched off. Above ``THIN`` words in all, the silos that are not measured leave out pair masks that cancel
among themselves, which changes neither the measured silo's work nor the server's.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from crypto import cohort, masking, opening, proof, shamir, silo_session
from crypto.atoms import Openings
from crypto.blocks import Encoded
from crypto.cohort import Context, Dealt
from crypto.encoding import Reader
from crypto.keys import SIGNATURE_BYTES, SessionKey
from crypto.messages import Advert, Attestation, Deal, Header, Shares, Wire
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Section, Slot, Step, Sum
from crypto.server_session import ServerSession
from crypto.silo_session import SiloSession
from crypto.transcript import label_bytes
from tests.benchmarks.limits import best
from tests.federation import BLOCKS, Federation

T = TypeVar("T")
S = TypeVar("S", SiloSession, ServerSession)

#: n · d above which cancelling pair masks of unmeasured silos are left out.
THIN = 10**9
CLIP = 1.0


def plan_of(n: int, blocks: dict[str, int], *, hidden: bool = True) -> Plan:
    """One ALL lane ``trunk``; every other name a HELD lane. One block of so many words each, one step."""
    lanes = tuple(
        Lane(name=name, scope=Scope.ALL if name == "trunk" else Scope.HELD, floor=3, hidden=hidden) for name in blocks
    )
    return Plan(
        method="benchmark",
        seed=0,
        n_max=n,
        lanes=lanes,
        blocks=tuple(Block(name=f"{name}.w", shape=(size,), lane=name, clip=CLIP) for name, size in blocks.items()),
        steps=(
            Step(
                task="train",
                index=0,
                sums=tuple(Sum(f"{name}.w", Apply.AVERAGE) for name in blocks),
                slots=(Slot("rows", 1 << 20, Basis.DATA),),
            ),
        ),
    )


@contextmanager
def without_digests() -> Iterator[None]:
    """Digests of headers and sums cost what ``words_digest`` costs, which has a row of its own."""
    real, modules = cohort.words_digest, (cohort, silo_session, opening, proof)
    try:
        for module in modules:
            module.words_digest = lambda words: bytes(32)
        yield
    finally:
        for module in modules:
            module.words_digest = real


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Masks and tags with so many threads."""
    before = masking.THREADS
    try:
        masking.THREADS = count
        yield
    finally:
        masking.THREADS = before


class Thin(Dealt):
    """U2 as a silo sees it that masks only against ``special`` peers, or that is special itself."""

    silo = ""
    special: frozenset[str] = frozenset()

    def pair_secrets(self, key: SessionKey, peers: list[str]) -> dict[str, bytes]:  # type: ignore[override]
        if self.silo not in self.special:
            peers = [peer for peer in peers if peer in self.special]
        return super().pair_secrets(key, peers)


def thin(session: SiloSession, special: frozenset[str]) -> None:
    dealt = session._dealt
    kind = type("ThinHere", (Thin,), {"silo": session.silo, "special": special})
    session._dealt = kind(dealt.cohort, dealt.signed, dealt.deals)


def fork(session: S) -> S:
    """The same session once more, to be taken on by another way."""
    twin = copy.copy(session)
    for name, value in vars(session).items():
        if isinstance(value, dict | set):
            setattr(twin, name, copy.copy(value))
    return twin


class Group:
    """n silos and a server that have dealt. ``seconds``: event → processor seconds of each silo."""

    def __init__(self, n: int, blocks: dict[str, int], *, hidden: bool = True, c: int | None = None) -> None:
        self.fed = Federation(n, c=n // 3 if c is None else c)
        self.plan = plan_of(n, blocks, hidden=hidden)
        self.context: Context = self.fed.context(self.plan)
        self.step = self.context.step
        self.server = ServerSession(self.context)
        keys = self.fed.identities
        self.silos = {silo: SiloSession(self.context, silo, keys[silo], blocks=BLOCKS) for silo in self.fed.silos}
        self.seconds: dict[str, list[float]] = {}

    def timed(self, event: str, call: Callable[..., T], *args: Any, **options: Any) -> T:
        start = time.process_time()
        result = call(*args, **options)
        self.seconds.setdefault(event, []).append(time.process_time() - start)
        return result

    def ms(self, *events: str) -> float:
        """The best silo's milliseconds, summed over events."""
        return sum(min(self.seconds[event]) for event in events) * 1e3

    def setup(self, holdings: Mapping[str, Iterable[str]] | None = None, opening: int | None = None) -> None:
        """M0 and M1. ``holdings``: silo → its lanes (default: all). ``opening``: how many silos open their rows."""
        names = [lane.name for lane in self.plan.lanes]
        for silo, session in self.silos.items():
            held = names if holdings is None else holdings[silo]
            self.server.advert(
                silo,
                self.timed(
                    "advert",
                    session.advert,
                    weights=dict.fromkeys(held, 1),
                    releases=0,
                    data=bytes(32),
                    approval=bytes(32),
                ),
            )
        adverts = self.server.close_adverts()
        for silo, session in self.silos.items():
            self.server.deal(silo, *self.timed("deal", session.deal, adverts))
        deals, rows = self.server.close_deals()
        for silo in list(self.silos)[:opening]:
            self.timed("open_rows", self.silos[silo].open_rows, deals, dict(rows[silo]))

    def signatures_ms(self) -> float:
        """Milliseconds to verify everyone's advert and deal, and nothing else: no silo's setup takes less."""
        return verify_ms(self, {Advert: self.server.cohort.signed.values(), Deal: self.server.dealt.signed.values()})

    def encoded(self, words: Mapping[str, np.ndarray], held: Iterable[str]) -> Encoded:
        """Words that were encoded before, with weight 1 in each lane held."""
        weights = dict.fromkeys((lane.name for lane in self.plan.lanes_of(self.step)), 0) | dict.fromkeys(held, 1)
        return Encoded(words, np.ones(len(self.step.slots), dtype=np.uint64), weights)


def verify_ms(group: Group, shown: Mapping[type[Wire], Iterable[bytes]]) -> float:
    """Milliseconds of the Ed25519 verifications alone. ``shown``: kind → signed messages of the members."""
    work = []
    for kind, messages in shown.items():
        for signed in messages:
            src = Reader(signed)
            body, signature = src.blob(), src.fixed(SIGNATURE_BYTES)
            key = group.fed.charter.member(kind.from_bytes(body).silo).agent  # type: ignore[attr-defined]
            work.append((key, signature, label_bytes(kind.LABEL, [body])))

    def verify() -> None:
        for key, signature, message in work:
            key.verify(signature, message)

    return best({"verify": verify}, rounds=9)["verify"] * 1e3


class Closing:
    """From the uploads on: the survivors attest, release and open; times of each event, and the opened lanes."""

    def __init__(self, group: Group, server: ServerSession, silos: Mapping[str, SiloSession]) -> None:
        self.group, self.server, self.silos = group, server, silos

    def attest(self) -> None:
        headers = self.server.close_uploads()
        for silo in self.server.survivors.signed:
            self.group.timed("survivors", self.silos[silo].survivors, headers)
            self.server.attestation(silo, self.group.timed("attest", self.silos[silo].attest))
        attestations, masked = self.server.close_attestations()
        options = {"known": lambda quantity: Openings(), "record": lambda told: None}
        for silo in self.server.survivors.signed:
            call = self.silos[silo].release_slots
            shares = self.group.timed("release_slots", call, attestations, dict(masked), **options)
            self.server.slot_shares(silo, shares)

    def release(self, *, cold: int = 3) -> None:
        """The first ``cold`` silos are timed with an empty cache of Lagrange weights, as if each were alone."""
        shares = self.server.open_slots()
        for place, silo in enumerate(self.server.survivors.signed):
            call = self.silos[silo].release_lanes
            if place < cold:
                shamir._weights.cache_clear()
                signed = self.group.timed("release_lanes", call, shares, floors={}, record=lambda told: None)
            else:
                signed = call(shares, floors={}, record=lambda told: None)
            self.server.lane_shares(silo, signed)

    def signatures_ms(self) -> float:
        """Milliseconds to verify what a silo is shown from the uploads to its release: headers, attestations and slot
        shares."""
        server, shares = self.server, [signed for _, signed in self.server._slot_shares.values()]
        shown = {Header: server.survivors.signed.values(), Attestation: server._attestations.values(), Shares: shares}
        return verify_ms(self.group, shown)

    def recover(self) -> tuple[dict[str, SessionKey], dict[str, bytes]]:
        """The server's secrets: mask keys of the dropped and the trunk's self seeds (the slots' are opened as well)."""
        shamir._weights.cache_clear()
        survivors = self.server.survivors
        slot_shares = [opened for opened, _ in self.server._slot_shares.values()]
        masks = survivors.recover_masks(slot_shares)
        survivors.recover_seeds(Section.STATIC, slot_shares)
        return masks, survivors.recover_seeds("trunk", [opened for opened, _ in self.server._lane_shares.values()])
