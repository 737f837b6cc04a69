"""A small federation for tests: charter, plan and whole sessions, with fixed entropy.

``Federation`` makes the keys and the charter, ``small_plan`` a plan with one lane of each kind, and ``Run`` plays one
session through the real ``SiloSession`` and ``ServerSession``, with drop-outs at any phase. It keeps every byte that
left a silo, so a test can look at what the server saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256, shake_256
from typing import Any

import numpy as np

from crypto import ring
from crypto.atoms import Openings
from crypto.blocks import Contribution, Encoded, encode
from crypto.charter import Charter, Member, least_cohort
from crypto.cohort import Context
from crypto.evidence import StepEvidence
from crypto.keys import Identity
from crypto.messages import STEP_PHASES, Advert, SharePack, TagRequest
from crypto.opened_sets import Told
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from crypto.server_session import ServerSession
from crypto.silo_session import SiloSession

#: Phases in which a silo may fall silent, in order.
DROPS = STEP_PHASES

#: For a release that nothing is known of before, and whose record nobody looks at.
UNRECORDED: dict[str, Any] = {"known": lambda quantity: Openings(), "record": lambda told: None}

#: Digest of the published blocks before the step.
BLOCKS = bytes(range(32))


def stream(label: str) -> Callable[[int], bytes]:
    """Fixed entropy: call number i gives SHAKE-256("consilium/test/<label>/<i>")."""
    calls = 0

    def draw(size: int) -> bytes:
        nonlocal calls
        out = shake_256(f"consilium/test/{label}/{calls}".encode()).digest(size)
        calls += 1
        return out

    return draw


def identity(name: str) -> Identity:
    return Identity(sha256(f"consilium/test/identity/{name}".encode()).digest())


class Federation:
    """n silos with identities made from their names, and a charter (lowest n_min, m_e = c + 2)."""

    def __init__(
        self, n: int = 5, *, c: int = 1, m: int = 2, n_min: int | None = None, lane_floor: int | None = None
    ) -> None:
        self.silos = tuple(sorted(f"silo-{i}" for i in range(1, n + 1)))
        self.identities = {silo: identity(silo) for silo in self.silos}
        self.aggregator = identity("aggregator")
        self.charter = Charter(
            federation="test",
            epoch=1,
            previous=bytes(32),
            members=tuple(Member(s, self.identities[s].public, identity(f"{s}/owner").public) for s in self.silos),
            aggregator=self.aggregator.public,
            n_min=least_cohort(n, c) if n_min is None else n_min,
            colluders=c,
            honest=m,
            lane_floor=c + 2 if lane_floor is None else lane_floor,
            not_before=0,
            not_after=2_000_000_000,
        )

    def context(
        self, plan: Plan, *, k: int = 0, attempt: int = 0, run: bytes = b"r" * 32, chain: bytes = b"s" * 32
    ) -> Context:
        return Context(charter=self.charter, plan=plan, run=run, k=k, attempt=attempt, chain=chain)


#: One of each section.
SLOTS = (Slot("rows", 10_000, Basis.DATA), Slot("correct", 10_000, Basis.STATE))


def small_plan(
    n: int = 5,
    *,
    floor: int = 3,
    group: Iterable[str] = (),
    scale: int = 1,
    slots: Sequence[Slot] | None = None,
    bits: int = 32,
) -> Plan:
    """One ALL lane (trunk), one hidden and one visible HELD lane (quiet, open), if asked a GROUP lane; one step."""
    lanes = [
        Lane(name="trunk", scope=Scope.ALL, floor=floor, grid=(4, 8, 16)),
        Lane(name="quiet", scope=Scope.HELD, floor=floor),
        Lane(name="open", scope=Scope.HELD, floor=floor, hidden=False, grid=(1, 2)),
    ]
    blocks = [
        Block(name="trunk.w", shape=(6 * scale, 5), lane="trunk", clip=2.0, init=0.1),
        Block(name="trunk.b", shape=(5,), lane="trunk", clip=0.5),
        Block(name="quiet.w", shape=(7 * scale,), lane="quiet", clip=1.0),
        Block(name="open.w", shape=(2, 3 * scale), lane="open", clip=1.0),
    ]
    group = tuple(group)
    if group:
        lanes.append(Lane(name="ward", scope=Scope.GROUP, floor=floor, members=group))
        blocks.append(Block(name="ward.w", shape=(4 * scale,), lane="ward", clip=1.0))
    step = Step(
        task="train",
        index=0,
        sums=tuple(Sum(block.name, Apply.AVERAGE) for block in blocks),
        slots=tuple(slots) if slots is not None else SLOTS,
    )
    return Plan(method="test", seed=7, n_max=n, lanes=tuple(lanes), blocks=tuple(blocks), steps=(step,), ring_bits=bits)


def holding(
    silos: Sequence[str], *, quiet: int = 3, visible: int = 3, group: Iterable[str] = ()
) -> dict[str, dict[str, int]]:
    """Weights: everyone in the trunk, the first ``quiet`` silos hold quiet, the last ``visible`` hold open."""
    group = set(group)
    return {
        silo: {
            "trunk": (4, 8, 16)[place % 3],
            "quiet": int(place < quiet),
            "open": int(place >= len(silos) - visible),
            **({"ward": int(silo in group)} if group else {}),
        }
        for place, silo in enumerate(silos)
    }


def shown_key(advert: Advert, field: str) -> bytes:
    """The mask key of an advert, or its first channel key."""
    return advert.mask if field == "mask" else advert.channels[0]


def showing(advert: Advert, field: str, key: bytes) -> dict[str, object]:
    """The change of an advert that shows this key in that place."""
    return {"mask": key} if field == "mask" else {"channels": (key, *advert.channels[1:])}


def contribution(plan: Plan, step: Step, silo: str) -> Contribution:
    """Floats and slots that depend on the silo's name only."""
    rng = np.random.default_rng(list(silo.encode()))
    sums = {part.block: rng.normal(scale=0.4, size=plan.block(part.block).shape) for part in step.sums}
    return Contribution(sums, {slot.name: int(rng.integers(0, min(slot.bound, 1000) + 1)) for slot in step.slots})


@dataclass
class View:
    """What the network saw of the silos: (silo, phase, bytes), in order."""

    sent: list[tuple[str, str, bytes]] = field(default_factory=list)

    def add(self, silo: str, phase: str, data: bytes) -> None:
        self.sent.append((silo, phase, bytes(data)))

    def of(self, silo: str) -> bytes:
        return b"|".join(data for who, _, data in self.sent if who == silo)


def kinds_of_shares(view: View, packs: Mapping[str, Mapping[str, SharePack]]) -> dict[tuple[str, str], set[str]]:
    """(silo, party) → which kinds of that party's share left the silo, found as raw bytes in all it ever sent.

    ``packs``: silo → dealer → the plaintext shares that silo was dealt (its own included). No decoding: a share that
    leaves in any message, signed or not, is found.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for silo, dealt in packs.items():
        seen = view.of(silo)
        for party, pack in dealt.items():
            kinds = found.setdefault((silo, party), set())
            if pack.mask in seen:
                kinds.add("mask")
            if any(share in seen for share in pack.self_seeds):
                kinds.add("self")
    return found


def assert_never_both(view: View, packs: Mapping[str, Mapping[str, SharePack]]) -> dict[tuple[str, str], set[str]]:
    found = kinds_of_shares(view, packs)
    both = sorted(pair for pair, kinds in found.items() if len(kinds) == 2)
    assert not both, f"both shares of one party left one silo: {both}"
    return found


class Run:
    """One session, played honestly. ``drop``: silo → the phase of DROPS in which it stops answering."""

    def __init__(
        self,
        fed: Federation,
        plan: Plan,
        *,
        weights: Mapping[str, Mapping[str, int]] | None = None,
        drop: Mapping[str, str] | None = None,
        context: Context | None = None,
        label: str = "run",
        floors: Mapping[str, int] | None = None,
        known: Callable[[bytes], Openings] = lambda quantity: Openings(),
        told: Iterable[Told] = (),
    ) -> None:
        """``known``, ``told``: what each silo counts as opened, and what it tells."""
        self.fed, self.plan = fed, plan
        self.context = context or fed.context(plan)
        self.step = self.context.step
        self.weights = weights or holding(fed.silos)
        self.drop = dict(drop or {})
        self.floors, self.known, self.told = floors or {}, known, tuple(told)
        #: silo → what it recorded as about to open.
        self.recorded: dict[str, list[Told]] = {silo: [] for silo in fed.silos}
        self.view = View()
        self.packs: dict[str, dict[str, SharePack]] = {}
        self.plain: dict[str, Encoded] = {}
        self.server = ServerSession(self.context)
        self.sessions = {
            silo: SiloSession(
                self.context, silo, fed.identities[silo], blocks=BLOCKS, entropy=stream(f"{label}/{silo}")
            )
            for silo in fed.silos
        }
        self.opened: dict[str, np.ndarray] = {}
        #: phase → silo → the signed message it sent; masked_slots: silo → its masked slots.
        self.signed: dict[str, dict[str, bytes]] = {phase: {} for phase in DROPS}
        self.rows: dict[str, dict[str, bytes]] = {}
        self.masked_slots: dict[str, bytes] = {}
        self.words: dict[str, dict[str, np.ndarray]] = {}

    def alive(self, phase: str, among: Iterable[str]) -> list[str]:
        return [silo for silo in among if silo not in self.drop or DROPS.index(phase) < DROPS.index(self.drop[silo])]

    def encoded(self, silo: str) -> Encoded:
        encoded = encode(self.plan, self.step, contribution(self.plan, self.step, silo), self.weights[silo])
        self.plain[silo] = encoded
        return encoded

    def sends(self, silo: str, phase: str, signed: bytes, *more: bytes) -> bytes:
        self.signed[phase][silo] = signed
        for data in (signed, *more):
            self.view.add(silo, phase, data)
        return signed

    # the phases, in order; each plays those before it

    def adverts(self) -> list[bytes]:
        for silo in self.alive("open", self.fed.silos):
            signed = self.sessions[silo].advert(
                weights=self.weights[silo], releases=0, data=bytes(32), approval=bytes(32)
            )
            self.server.advert(silo, self.sends(silo, "open", signed))
        return self.server.close_adverts()

    def deals(self) -> tuple[list[bytes], dict[str, list[tuple[str, bytes]]]]:
        adverts = self.adverts()
        for silo in self.alive("deal", self.server.cohort.signed):
            signed, self.rows[silo] = self.sessions[silo].deal(adverts, told=self.told)
            self.server.deal(silo, self.sends(silo, "deal", signed, *self.rows[silo].values()), self.rows[silo])
        return self.server.close_deals()

    def uploads(self) -> list[bytes]:
        deals, rows = self.deals()
        for silo in self.alive("contribute", self.server.dealt.signed):
            self.sessions[silo].open_rows(deals, dict(rows[silo]))
            self.packs[silo] = dict(self.sessions[silo]._packs)
            signed, slots = self.sessions[silo].upload(self.encoded(silo))
            self.masked_slots[silo] = slots
            self.server.header(silo, self.sends(silo, "contribute", signed, slots), slots)
        for silo in self.alive("fetch", self.signed["contribute"]):
            words = dict(self.sessions[silo].masked)
            self.sends(silo, "fetch", b"", *(part.tobytes() for part in words.values()))
            self.server.words(silo, words)
            self.words[silo] = words
        return self.server.close_uploads()

    def attestations(self) -> tuple[list[bytes], list[tuple[str, bytes]]]:
        headers = self.uploads()
        for silo in self.alive("attest", self.server.survivors.signed):
            self.sessions[silo].survivors(headers)
            self.server.attestation(silo, self.sends(silo, "attest", self.sessions[silo].attest()))
        return self.server.close_attestations()

    def slots(self) -> list[bytes]:
        attestations, masked = self.attestations()
        for silo in self.alive("unmask-slots", self.signed["attest"]):
            signed = self.sessions[silo].release_slots(
                attestations, dict(masked), known=self.known, record=self.recorded[silo].append
            )
            self.server.slot_shares(silo, self.sends(silo, "unmask-slots", signed))
        return self.server.open_slots()

    def lanes(self) -> TagRequest:
        shares = self.slots()
        for silo in self.alive("unmask-lanes", self.signed["unmask-slots"]):
            signed = self.sessions[silo].release_lanes(shares, floors=self.floors, record=self.recorded[silo].append)
            self.server.lane_shares(silo, self.sends(silo, "unmask-lanes", signed))
        self.request = TagRequest.from_bytes(bytes(self.server.open_lanes(self.upload)))
        return self.request

    def play(self) -> dict[str, np.ndarray]:
        """The opened lanes, proven."""
        request = self.lanes()
        for silo in self.alive("tag", self.signed["unmask-lanes"]):
            signed = self.sessions[silo].tag(request)
            self.server.tags(silo, self.sends(silo, "tag", signed))
        for owner in self.server.untagged:
            silo = self.alive("stand-in", self.signed["tag"])[0]
            signed = self.sessions[silo].stand_in(owner, self.uploads_of(owner))
            self.server.tags(silo, self.sends(silo, "stand-in", signed), owner=owner)
        self.proof = self.server.close_tags()
        self.opened = {lane: found.words for lane, found in self.server.sums.items()}
        return self.opened

    def upload(self, silo: str, lane: str) -> np.ndarray:
        return self.words[silo][lane]

    def uploads_of(self, owner: str) -> dict[str, np.ndarray]:
        """What a stand-in for this silo gets: its masked words in the lanes of the result."""
        sums = self.server.result.sums
        return {one.lane: self.upload(owner, one.lane) for one in sums if owner in one.uploaders}

    @cached_property
    def survivors(self) -> tuple[str, ...]:
        return tuple(self.server.survivors.signed)

    def expected(self, lane: str) -> np.ndarray:
        """The sum of the survivors' encoded words, from before they were masked."""
        total = np.zeros(self.plan.words_of(self.step, lane), dtype=np.uint64)
        for silo in self.survivors:
            if lane in self.server.cohort.lanes_of(silo):
                total += self.plain[silo].lanes[lane]
        return ring.reduce((total % 2**32).astype(np.uint32), self.plan.ring_bits)

    def expected_slots(self) -> tuple[int, ...]:
        total = np.array([self.plain[silo].slots for silo in self.survivors], dtype=np.uint64).sum(axis=0)
        return tuple(int(value) for value in total)

    def evidence(self) -> StepEvidence:
        """What a stranger needs to check the step, after ``play``."""
        survivors = self.server.survivors
        return StepEvidence(
            adverts=tuple(survivors.dealt.cohort.signed.values()),
            deals=tuple(survivors.dealt.signed.values()),
            headers=tuple(survivors.signed.values()),
            attestations=tuple(self.signed["attest"].values()),
            slots=tuple((silo, self.masked_slots[silo]) for silo in survivors.signed),
            slot_shares=tuple(self.signed["unmask-slots"].values()),
            lane_shares=tuple(self.signed["unmask-lanes"].values()),
            result=bytes(self.server.result),
            tags=self.proof,
        )

    def names(self) -> list[str]:
        return [slot.name for slot in self.step.slots]
