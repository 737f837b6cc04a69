"""What is summed: the plan of a job.

Every server step of every method is ``block ← block + η · Σᵢ wᵢΔᵢ / Σᵢ wᵢ`` or "publish this sum". The plan lists
the blocks, the lanes they travel in, the slots (the only metrics that leave a silo) and the steps. It is computed
when a job is written, recomputed and compared by every silo, hashed into every transcript, and printed by
``fed egress``: it *is* the egress manifest and the aggregator's programme.

A lane is a group of blocks that open together or not at all. Each lane of each step has masks and self seeds of its
own, so the silos can withhold one lane and open the others. Besides the lanes every step has a section of uint64
slots in two sections, opened first. Weights are no slots: silos tell each other theirs in the manifests inside the
encrypted shares, count from these for themselves which lanes reach their floor, and sign the sum of the weights with a
lane's release. Each block and slot says what it is a sum of, for the rule of atoms (``crypto.quantities``).

This module is one file because the parts of a plan are checked against each other, and their bytes are the digest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from math import copysign, prod
from typing import TypeVar

from crypto import ring
from crypto.encoding import VERSION, Reader, Writer
from crypto.errors import EgressDenied, HeadroomExceeded, Malformed, SpecError

#: Largest ratio between two non-zero weights in one lane. A count of contributors then bounds how far one dominates.
MAX_WEIGHT_RATIO = 4

#: Most non-zero weights a lane may choose from: a weight that a difference of two weight sums shows is a coarse bucket.
MAX_WEIGHTS = 4

#: Bounds that keep every encoding finite and every sum of n · clip within float32.
MIN_CLIP, MAX_CLIP, MAX_RATE = 1e-9, 1e9, 1e3

#: Words of one block, and of all blocks that leave a silo: 2 GiB of float32, twice what one step can carry. A plan of a
#: few bytes can name any number, and aggregator and silos allocate them all.
MAX_WORDS = 2**29

#: Sides of a block's shape; lanes, blocks and steps of a plan; slots of a step. Far above every plan of a method, and
#: low enough that checking a plan takes seconds.
MAX_SIDES, MAX_LANES, MAX_BLOCKS, MAX_STEPS, MAX_SLOTS = 8, 1024, 2**16, 2**16, 2**12

E = TypeVar("E", bound=StrEnum)

_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")


class Scope(StrEnum):
    """Who contributes to a lane."""

    ALL = "all"  #: every silo of the cohort
    HELD = "held"  #: the silos that hold it in this step
    GROUP = "group"  #: silos named in the plan
    LOCAL = "local"  #: no silo: these blocks never leave a silo


class Apply(StrEnum):
    """What a step does with an opened sum."""

    PUBLISH = "publish"  #: block ← Σ wᵢxᵢ / Σ wᵢ
    AVERAGE = "average"  #: block ← block + rate · Σ wᵢΔᵢ / Σ wᵢ
    ADD = "add"  #: block ← block + rate · Σ wᵢxᵢ


class Basis(StrEnum):
    """What the values of a slot depend on."""

    DATA = "data"  #: a silo's data alone
    STATE = "state"  #: its data and the published blocks
    STEP = "step"  #: anything else as well: earlier figures, what a silo keeps to itself


class Section(StrEnum):
    """A group of a step's slots that opens as a whole or not at all. No lane can have one of these names: they have an
    upper-case letter."""

    STATIC = "Static"  #: the slots of basis DATA, each opened over one set of silos or sets that are far apart
    FRESH = "Fresh"  #: the others, so that static ones that stay shut leave them open

    @classmethod
    def of(cls, basis: Basis) -> Section:
        return cls.STATIC if basis is Basis.DATA else cls.FRESH


#: All sections, by name.
SECTIONS = frozenset(Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A group of blocks with one set of contributors, masked and opened on its own."""

    name: str
    """Lower-case, at most 63 characters."""
    scope: Scope
    """Who contributes."""
    floor: int
    """Fewest contributors for which the lane opens by the plan; ``Charter.floor`` is the rule that silos apply."""
    grid: tuple[int, ...] = (1,)
    """The non-zero weights a silo may use: ascending, at most 4, the largest at most 4 × the smallest."""
    hidden: bool = True
    """For HELD. True: every silo uploads the lane, zeros included, and only the silos learn who holds it. False: only
    holders upload it, and their adverts say so."""
    members: tuple[str, ...] = ()
    """For GROUP: the contributors' silo ids, ascending. Else empty."""

    def __post_init__(self) -> None:
        _check_name("lane", self.name)
        if self.floor < 1:
            raise SpecError(f"lane {self.name}.floor", got=self.floor, want="at least 1")
        coarse = 1 <= len(self.grid) <= MAX_WEIGHTS
        if not coarse or list(self.grid) != sorted(set(self.grid)) or self.grid[0] < 1:
            want = f"1 to {MAX_WEIGHTS} ascending positive integers"
            raise SpecError(f"lane {self.name}.grid", got=self.grid, want=want)
        if self.grid[-1] > MAX_WEIGHT_RATIO * self.grid[0]:
            raise SpecError(
                f"lane {self.name}.grid", got=self.grid, want=f"largest at most {MAX_WEIGHT_RATIO} × smallest"
            )
        _check_size(f"lane {self.name}", 32, self.floor, *self.grid)
        if list(self.members) != sorted(set(self.members)):
            raise SpecError(f"lane {self.name}.members", got=self.members, want="distinct silos in ascending order")
        if (self.scope is Scope.GROUP) != bool(self.members):
            raise SpecError(
                f"lane {self.name}.members", got=self.members, want="silos for a GROUP lane, none for another"
            )

    @property
    def visible(self) -> bool:
        """Whether the holders of a HELD lane announce themselves."""
        return self.scope is Scope.HELD and not self.hidden

    def uploaders(self, silos: Iterable[str], holdings: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        """Those of ``silos`` that upload this lane, in their order.

        ``holdings``: silo → the lanes with visible holdings that it announced; a silo without an entry holds none.
        """
        match self.scope:
            case Scope.LOCAL:
                return ()
            case Scope.GROUP:
                return tuple(silo for silo in silos if silo in self.members)
            case Scope.HELD if self.visible:
                return tuple(silo for silo in silos if self.name in holdings.get(silo, ()))
            case _:
                return tuple(silos)

    @property
    def weight_figure(self) -> str:
        """Name of the sum of weights among the figures of a step in which the lane opened."""
        return f"{self.name}.weight"

    @property
    def contributors_figure(self) -> str:
        """Name of the number of contributors, alike."""
        return f"{self.name}.contributors"

    def weight_of(self, place: int) -> int:
        """The weight of a manifest's entry: 0, or the place of a weight on the grid, from 1."""
        return self.grid[place - 1] if place else 0

    def write(self, out: Writer) -> None:
        out.text(self.name).text(self.scope.value).u32(self.floor).each(self.grid, Writer.u32)
        out.u8(self.hidden).each(self.members, Writer.text)

    @classmethod
    def read(cls, src: Reader) -> Lane:
        return cls(
            name=src.text(),
            scope=_enum(Scope, src.text()),
            floor=src.u32(),
            grid=src.each(Reader.u32),
            hidden=src.flag(),
            members=src.each(Reader.text),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A named float32 array of the shared state."""

    name: str
    """Lower-case, at most 63 characters."""
    shape: tuple[int, ...]
    """One to ``MAX_SIDES`` positive sides, at most ``MAX_WORDS`` elements."""
    lane: str
    """The lane it is summed in."""
    clip: float
    """Values are clamped to [-clip, clip] before they are encoded. The ring's resolution is clip · n / 2^(bits − 1)."""
    init: float = 0.0
    """Half-width of the seeded uniform initial values; 0: zeros."""
    quantity: str = ""
    """Empty for an update from the state before the step. Else the sum is of something that depends on a silo's data
    alone, and this is its name: all blocks of that name are sums of the same quantity."""

    def __post_init__(self) -> None:
        _check_name("block", self.name)
        if self.quantity:
            _check_name(f"block {self.name}.quantity", self.quantity)
        if not 1 <= len(self.shape) <= MAX_SIDES:
            want = f"1 to {MAX_SIDES} sides"
            raise SpecError(f"block {self.name}.shape", got=f"{len(self.shape)} sides", want=want)
        if any(side < 1 for side in self.shape) or self.size > MAX_WORDS:
            raise SpecError(
                f"block {self.name}.shape", got=self.shape, want=f"positive sides, at most {MAX_WORDS} words"
            )
        _check_size(f"block {self.name}.shape", 32, *self.shape)
        if not MIN_CLIP <= self.clip <= MAX_CLIP:
            raise SpecError(f"block {self.name}.clip", got=self.clip, want=f"from {MIN_CLIP} to {MAX_CLIP}")
        if not 0 <= self.init <= MAX_CLIP or copysign(1, self.init) < 0:
            raise SpecError(f"block {self.name}.init", got=self.init, want=f"from 0 to {MAX_CLIP}")

    @property
    def size(self) -> int:
        return prod(self.shape)

    def write(self, out: Writer) -> None:
        out.text(self.name).each(self.shape, Writer.u32).text(self.lane).f64(self.clip).f64(self.init)
        out.text(self.quantity)

    @classmethod
    def read(cls, src: Reader) -> Block:
        name, shape, lane = src.text(), src.each(Reader.u32), src.text()
        return cls(name=name, shape=shape, lane=lane, clip=src.f64(), init=src.f64(), quantity=src.text())


@dataclass(frozen=True, slots=True)
class Slot:
    """A named uint64 sum."""

    name: str
    """Lower-case, at most 63 characters."""
    bound: int
    """The most one silo may add; n_max · bound must be below 2^64."""
    basis: Basis
    """What its values depend on. One that is called more static than it is stays shut more often; the reverse would let
    a difference of two sums show one silo's figure."""

    def __post_init__(self) -> None:
        _check_name("slot", self.name)
        if not 0 < self.bound < 2**63:
            raise SpecError(f"slot {self.name}.bound", got=self.bound, want="between 1 and 2^63 - 1")

    def write(self, out: Writer) -> None:
        out.text(self.name).u64(self.bound).text(self.basis.value)

    @classmethod
    def read(cls, src: Reader) -> Slot:
        return cls(src.text(), src.u64(), _enum(Basis, src.text()))


@dataclass(frozen=True, slots=True)
class Sum:
    """One block's part in a step."""

    block: str
    """The block's name."""
    apply: Apply
    """What the opened sum does to the block."""
    rate: float = 1.0
    """η of the update; 1 takes the mean as it is."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= MAX_RATE:
            raise SpecError(f"block {self.block}.rate", got=self.rate, want=f"more than 0, at most {MAX_RATE}")

    def write(self, out: Writer) -> None:
        out.text(self.block).text(self.apply.value).f64(self.rate)

    @classmethod
    def read(cls, src: Reader) -> Sum:
        return cls(src.text(), _enum(Apply, src.text()), src.f64())


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One secure sum. A step without ``sums`` ends when its slots are open."""

    task: str
    """Selects what the method contributes."""
    index: int
    """Number among the steps of the same task, from 0."""
    sums: tuple[Sum, ...] = ()
    """The blocks that are summed, in the order of their words within each lane."""
    slots: tuple[Slot, ...] = ()
    """The figures that are summed beside the lanes."""

    def __post_init__(self) -> None:
        _check_name("task", self.task)
        _check_size(f"step {self.task}.index", 32, self.index)

    @property
    def name(self) -> str:
        return f"{self.task}/{self.index}"

    @property
    def sections(self) -> tuple[Section, ...]:
        """Those that have a slot in this step."""
        return tuple(section for section in Section if self.places(section))

    def places(self, section: Section) -> tuple[int, ...]:
        """The places of a section's slots among ``slots``."""
        return tuple(place for place, slot in enumerate(self.slots) if Section.of(slot.basis) is section)

    def write(self, out: Writer) -> None:
        out.text(self.task).u32(self.index)
        out.each(self.sums, lambda w, s: s.write(w)).each(self.slots, lambda w, s: s.write(w))

    @classmethod
    def read(cls, src: Reader) -> Step:
        return cls(task=src.text(), index=src.u32(), sums=src.each(Sum.read), slots=src.each(Slot.read))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole programme of a job. Equal plans have equal bytes, so ``digest`` is what silos compare and approve.

    Raises SpecError, HeadroomExceeded or EgressDenied for a plan that is not safe.
    """

    method: str
    """The method's id in the registry."""
    seed: int
    """Initial blocks and derived projections come from it; 64 bits."""
    n_max: int
    """Most silos, for which headroom in the ring is proved: the charter's member count."""
    lanes: tuple[Lane, ...]
    """All lanes, in the order of manifests."""
    blocks: tuple[Block, ...]
    """All blocks of the shared state, and LOCAL ones to show that they never leave."""
    steps: tuple[Step, ...]
    """The steps, in order."""
    ring_bits: int = 32
    """Bits of a ring element: 32, or 24, of which three bytes travel."""

    def __post_init__(self) -> None:
        _check_name("method", self.method)
        for kind, found, most in (
            ("lanes", len(self.lanes), MAX_LANES),
            ("blocks", len(self.blocks), MAX_BLOCKS),
            ("steps", len(self.steps), MAX_STEPS),
            ("slots of a step", max((len(step.slots) for step in self.steps), default=0), MAX_SLOTS),
        ):
            if found > most:
                raise SpecError(f"plan.{kind}", got=found, want=f"at most {most}")
        if self.n_max < 1:
            raise SpecError("plan.n_max", got=self.n_max, want="at least 1")
        _check_size("plan.seed", 64, self.seed)
        if self.ring_bits not in (24, 32):
            raise SpecError("plan.ring_bits", got=self.ring_bits, want="24 or 32")
        if (2 ** (self.ring_bits - 1) - 1) // self.n_max < 2**8:
            raise HeadroomExceeded(
                f"A {self.ring_bits}-bit ring leaves fewer than 8 bits a value for {self.n_max} silos."
            )
        for kind, names in (
            ("lane", [lane.name for lane in self.lanes]),
            ("block", [block.name for block in self.blocks]),
            ("step", [step.name for step in self.steps]),
        ):
            if len(set(names)) != len(names):
                raise SpecError(f"plan.{kind}s", got=names, want="each name once")
        for block in self.blocks:
            if block.lane not in self._lanes:
                raise SpecError(f"block {block.name}.lane", got=block.lane, want=f"one of {sorted(self._lanes)}")
        leaving = sum(block.size for block in self.blocks if self._lanes[block.lane].scope is not Scope.LOCAL)
        if leaving > MAX_WORDS:
            raise SpecError(
                "plan.blocks",
                got=f"{leaving} words in all blocks that leave a silo",
                want=f"at most {MAX_WORDS}, {MAX_WORDS >> 18} MiB",
                remedy="Take a smaller model, or a method that sends less of it.",
            )
        for step in self.steps:
            if len({part.block for part in step.sums}) != len(step.sums):
                raise SpecError(f"step {step.name}", got=[part.block for part in step.sums], want="each block once")
            for part in step.sums:
                if part.block not in self._blocks:
                    raise SpecError(f"step {step.name}", got=part.block, want="a block of the plan")
                if self.lane_of(part.block).scope is Scope.LOCAL:
                    raise EgressDenied(part.block, remedy="A LOCAL block may not be part of a step.")
            figures = [slot.name for slot in step.slots]
            for lane in self.lanes_of(step):
                figures += [lane.weight_figure, lane.contributors_figure]
            if len(set(figures)) != len(figures):
                raise SpecError(f"step {step.name}.slots", got=figures, want="each name once")
            if not step.slots and not step.sums:
                raise SpecError(f"step {step.name}", got="neither sums nor slots", want="at least one of them")
            for slot in step.slots:
                if slot.bound * self.n_max >= 2**64:
                    raise HeadroomExceeded(
                        f"Slot {slot.name!r} of step {step.name!r} could overflow with {self.n_max} silos."
                    )

    @cached_property
    def _lanes(self) -> dict[str, Lane]:
        return {lane.name: lane for lane in self.lanes}

    @cached_property
    def _blocks(self) -> dict[str, Block]:
        return {block.name: block for block in self.blocks}

    def block(self, name: str) -> Block:
        return self._blocks[name]

    def lane_of(self, block: str) -> Lane:
        return self._lanes[self._blocks[block].lane]

    def lanes_of(self, step: Step) -> tuple[Lane, ...]:
        """The lanes that have a block in this step, in plan order."""
        used = {self._blocks[part.block].lane for part in step.sums}
        return tuple(lane for lane in self.lanes if lane.name in used)

    def blocks_of(self, step: Step, lane: str) -> Iterator[tuple[Block, Sum, int]]:
        """(block, its sum, word offset in the lane's vector) for this step and lane, in the step's order."""
        offset = 0
        for part in step.sums:
            block = self._blocks[part.block]
            if block.lane == lane:
                yield block, part, offset
                offset += block.size

    def words_of(self, step: Step, lane: str) -> int:
        """Length of the lane's vector in this step, in ring words."""
        return sum(block.size for block, _, _ in self.blocks_of(step, lane))

    def wire_words_of(self, step: Step, lane: str) -> int:
        """Length of the lane's upload in this step, in uint32 words on the wire."""
        return ring.wire_words(self.words_of(step, lane), self.ring_bits)

    def __bytes__(self) -> bytes:
        out = Writer().u8(VERSION).text(self.method).u64(self.seed).u32(self.n_max).u32(self.ring_bits)
        out.each(self.lanes, lambda w, x: x.write(w))
        out.each(self.blocks, lambda w, x: x.write(w))
        out.each(self.steps, lambda w, x: x.write(w))
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        src = Reader(data)
        if (version := src.u8()) != VERSION:
            raise Malformed(f"A plan of version {version}; this code reads version {VERSION}.")
        method, seed, n_max, ring_bits = src.text(), src.u64(), src.u32(), src.u32()
        lanes, blocks, steps = src.each(Lane.read), src.each(Block.read), src.each(Step.read)
        src.end()
        return cls(method=method, seed=seed, n_max=n_max, ring_bits=ring_bits, lanes=lanes, blocks=blocks, steps=steps)

    @cached_property
    def digest(self) -> bytes:
        return sha256(bytes(self)).digest()


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SpecError(f"{kind} name", got=name, want="lower-case letters, digits and . _ / -, at most 63")


def _check_size(path: str, bits: int, *values: int) -> None:
    for value in values:
        if not 0 <= value < 2**bits:
            raise SpecError(path, got=value, want=f"0 or more, in {bits} bits")


def _enum(kind: type[E], value: str) -> E:
    try:
        return kind(value)
    except ValueError as bad:
        raise Malformed(f"{value!r} is not a {kind.__name__}.") from bad
