"""The plan of protocol 1: decoded with every check it was made under, and the questions that verification asks it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from math import copysign, prod
from typing import TypeVar

from aggregator.protocols.protocol1.encoding import Reader
from crypto import ring
from crypto.errors import EgressDenied, HeadroomExceeded, Malformed, SpecError

MAX_WEIGHT_RATIO, MAX_WEIGHTS = 4, 4
MIN_CLIP, MAX_CLIP, MAX_RATE = 1e-9, 1e9, 1e3
#: A plan of a few bytes can name any sizes, and whoever verifies it allocates them. No plan of a method came near.
MAX_WORDS = 2**29
MAX_SIDES, MAX_LANES, MAX_BLOCKS, MAX_STEPS, MAX_SLOTS = 8, 1024, 2**16, 2**16, 2**12

E = TypeVar("E", bound=StrEnum)

_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")


class Scope(StrEnum):
    ALL = "all"
    HELD = "held"
    GROUP = "group"
    LOCAL = "local"


class Apply(StrEnum):
    PUBLISH = "publish"
    AVERAGE = "average"
    ADD = "add"


@dataclass(frozen=True, slots=True)
class Lane:
    """Fields in the order of their bytes, as in all classes here."""

    name: str
    scope: Scope
    floor: int
    grid: tuple[int, ...]
    hidden: bool
    members: tuple[str, ...]
    guard_moves: bool

    @classmethod
    def read(cls, src: Reader) -> Lane:
        lane = cls(
            src.text(), _enum(Scope, src.text()), src.u32(), src.each(Reader.u32), src.flag(),
            src.each(Reader.text), src.flag(),
        )  # fmt: skip
        grid = lane.grid
        _name("lane", lane.name)
        _want(lane.floor >= 1, f"lane {lane.name}.floor", lane.floor, "at least 1")
        coarse = 1 <= len(grid) <= MAX_WEIGHTS and list(grid) == sorted(set(grid)) and grid[0] >= 1
        _want(coarse, f"lane {lane.name}.grid", grid, f"1 to {MAX_WEIGHTS} ascending positive integers")
        near = grid[-1] <= MAX_WEIGHT_RATIO * grid[0]
        _want(near, f"lane {lane.name}.grid", grid, f"largest at most {MAX_WEIGHT_RATIO} × smallest")
        ordered = list(lane.members) == sorted(set(lane.members))
        _want(ordered, f"lane {lane.name}.members", lane.members, "distinct silos in ascending order")
        named = (lane.scope is Scope.GROUP) == bool(lane.members)
        _want(named, f"lane {lane.name}.members", lane.members, "silos for a GROUP lane, none for another")
        return lane

    @property
    def visible(self) -> bool:
        """Whether the holders of a HELD lane announce themselves."""
        return self.scope is Scope.HELD and not self.hidden

    def uploaders(self, silos: Iterable[str], holdings: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        """Those of ``silos`` that upload this lane. ``holdings``: silo → the visible lanes that it announced."""
        if self.scope is Scope.LOCAL:
            return ()
        if self.scope is Scope.GROUP:
            return tuple(silo for silo in silos if silo in self.members)
        if self.visible:
            return tuple(silo for silo in silos if self.name in holdings.get(silo, ()))
        return tuple(silos)

    @property
    def weight_figure(self) -> str:
        return f"{self.name}.weight"

    @property
    def contributors_figure(self) -> str:
        return f"{self.name}.contributors"

    def own_slots(self) -> tuple[Slot, ...]:
        return (Slot(self.weight_figure, self.grid[-1]), Slot(self.contributors_figure, 1))


@dataclass(frozen=True, slots=True)
class Block:
    name: str
    shape: tuple[int, ...]
    lane: str
    clip: float
    init: float

    @classmethod
    def read(cls, src: Reader) -> Block:
        block = cls(src.text(), src.each(Reader.u32), src.text(), src.f64(), src.f64())
        _name("block", block.name)
        sized = 1 <= len(block.shape) <= MAX_SIDES and 1 <= block.size <= MAX_WORDS
        _want(sized, f"block {block.name}.shape", block.shape, f"positive sides, at most {MAX_WORDS} words")
        clips = f"from {MIN_CLIP} to {MAX_CLIP}"
        _want(MIN_CLIP <= block.clip <= MAX_CLIP, f"block {block.name}.clip", block.clip, clips)
        seeded = 0 <= block.init <= MAX_CLIP and copysign(1, block.init) > 0
        _want(seeded, f"block {block.name}.init", block.init, f"from 0 to {MAX_CLIP}")
        return block

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Slot:
    name: str
    bound: int

    @classmethod
    def read(cls, src: Reader) -> Slot:
        slot = cls(src.text(), src.u64())
        _want(0 < slot.bound < 2**63, f"slot {slot.name}.bound", slot.bound, "between 1 and 2^63 - 1")
        return slot


@dataclass(frozen=True, slots=True)
class Sum:
    block: str
    apply: Apply
    rate: float

    @classmethod
    def read(cls, src: Reader) -> Sum:
        part = cls(src.text(), _enum(Apply, src.text()), src.f64())
        _want(0 < part.rate <= MAX_RATE, f"block {part.block}.rate", part.rate, f"more than 0, at most {MAX_RATE}")
        return part


@dataclass(frozen=True, slots=True)
class Step:
    task: str
    index: int
    sums: tuple[Sum, ...]
    slots: tuple[Slot, ...]

    @classmethod
    def read(cls, src: Reader) -> Step:
        step = cls(src.text(), src.u32(), src.each(Sum.read), src.each(Slot.read))
        _name("task", step.task)
        return step

    @property
    def name(self) -> str:
        return f"{self.task}/{self.index}"


@dataclass(frozen=True)
class Plan:
    """Made by ``from_bytes``. Equal plans have equal bytes; ``digest`` is their SHA-256."""

    method: str
    seed: int
    n_max: int
    ring_bits: int
    lanes: tuple[Lane, ...]
    blocks: tuple[Block, ...]
    steps: tuple[Step, ...]
    digest: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Raises Malformed, SpecError, HeadroomExceeded or EgressDenied for a plan that was never safe."""
        src = Reader(data)
        src.version("A plan")
        method, seed, n_max, bits = src.text(), src.u64(), src.u32(), src.u32()
        lanes, blocks, steps = src.each(Lane.read), src.each(Block.read), src.each(Step.read)
        src.end()
        plan = cls(method, seed, n_max, bits, lanes, blocks, steps, sha256(data).digest())
        plan._check()
        return plan

    def _check(self) -> None:
        _name("method", self.method)
        for kind, found, most in (
            ("lanes", len(self.lanes), MAX_LANES),
            ("blocks", len(self.blocks), MAX_BLOCKS),
            ("steps", len(self.steps), MAX_STEPS),
            ("slots", max((len(step.slots) for step in self.steps), default=0), MAX_SLOTS),
        ):
            _want(found <= most, f"plan.{kind}", found, f"at most {most}")
        _want(self.n_max >= 1, "plan.n_max", self.n_max, "at least 1")
        _want(self.ring_bits in (24, 32), "plan.ring_bits", self.ring_bits, "24 or 32")
        ring.limit(self.n_max, self.ring_bits)
        for kind, names in (
            ("lane", [lane.name for lane in self.lanes]),
            ("block", [block.name for block in self.blocks]),
            ("step", [step.name for step in self.steps]),
        ):
            _want(len(set(names)) == len(names), f"plan.{kind}s", names, "each name once")
        for block in self.blocks:
            _want(block.lane in self._lanes, f"block {block.name}.lane", block.lane, f"one of {sorted(self._lanes)}")
        leaving = sum(block.size for block in self.blocks if self._lanes[block.lane].scope is not Scope.LOCAL)
        _want(leaving <= MAX_WORDS, "plan.blocks", f"{leaving} words", f"at most {MAX_WORDS} that leave a silo")
        for step in self.steps:
            self._check_step(step)

    def _check_step(self, step: Step) -> None:
        parts, where = [part.block for part in step.sums], f"step {step.name}"
        _want(len(set(parts)) == len(parts), where, parts, "each block once")
        for block in parts:
            _want(block in self._blocks, where, block, "a block of the plan")
            if self.lane_of(block).scope is Scope.LOCAL:
                raise EgressDenied(block, remedy="A LOCAL block may not be part of a step.")
        slots = self.slots_of(step)
        names = [slot.name for slot in slots]
        _want(bool(slots) and len(set(names)) == len(names), f"{where}.slots", names, "at least one, each name once")
        for slot in slots:
            _name("slot", slot.name)
            if slot.bound * self.n_max >= 2**64:
                raise HeadroomExceeded(f"Slot {slot.name!r} of {where} could overflow with {self.n_max} silos.")

    @cached_property
    def _lanes(self) -> dict[str, Lane]:
        return {lane.name: lane for lane in self.lanes}

    @cached_property
    def _blocks(self) -> dict[str, Block]:
        return {block.name: block for block in self.blocks}

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
        """Length of the lane's upload in this step, in uint32 words."""
        return ring.wire_words(self.words_of(step, lane), self.ring_bits)

    def slots_of(self, step: Step) -> tuple[Slot, ...]:
        """Every slot of the step: the lanes' own first, then the method's."""
        return tuple(slot for lane in self.lanes_of(step) for slot in lane.own_slots()) + step.slots


def _want(holds: bool, path: str, got: object, want: str) -> None:
    if not holds:
        raise SpecError(path, got=got, want=want)


def _name(kind: str, name: str) -> None:
    fits = _NAME.fullmatch(name) is not None
    _want(fits, f"{kind} name", name, "lower-case letters, digits and . _ / -, at most 63")


def _enum(kind: type[E], value: str) -> E:
    try:
        return kind(value)
    except ValueError as bad:
        raise Malformed(f"{value!r} is not a {kind.__name__}.") from bad
