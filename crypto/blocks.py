"""The shared state: initial blocks, contributions to integers, opened sums to new blocks.

Everything here is a pure function with one result on every machine: the aggregator and each silo apply a step
themselves and must reach the same bytes. Arrays of the state are float32 and read-only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256, shake_128

import numpy as np

from crypto import ring, transcript
from crypto.encoding import Writer
from crypto.errors import EgressDenied, LayoutMismatch, NonFinite, OutOfRange
from crypto.plan import Apply, Plan, Scope, Step

State = Mapping[str, np.ndarray]


def initial_state(plan: Plan, run: bytes) -> dict[str, np.ndarray]:
    """Seeded initial blocks: uniform in ±init from SHAKE-128 over (run, seed, block name), zeros where init is 0.

    ``run``: the run id, 32 bytes. With it two runs of one job start from different blocks, so the updates of one run
    are not the same quantities as those of the other, and the difference of two sums is no silo's update.
    A hash, not numpy's generator: any language and any numpy version gets the same bytes.
    """
    state = {}
    for block in plan.blocks:
        if plan.lane_of(block.name).scope is Scope.LOCAL:
            continue
        if block.init:
            label = transcript.label_bytes("init", (run, plan.seed, block.name))
            words = np.frombuffer(shake_128(label).digest(4 * block.size), dtype=">u4")
            values = (words.astype(np.float64) / 2**31 - 1.0) * block.init
        else:
            values = np.zeros(block.size)
        state[block.name] = _frozen(values, block.shape)
    return state


def state_digest(state: State) -> bytes:
    """SHA-256 over names, shapes and little-endian float32 bytes, sorted by name."""
    digest = sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name], dtype="<f4")
        digest.update(bytes(Writer().text(name).each(array.shape, Writer.u32)))
        digest.update(array.data.cast("B"))
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a method hands over for one step: Δ (or x) per block, float, and the step's slots.

    Blocks of lanes with weight 0 may be left out. Weights are not part of it: they are fixed before training (see
    ``encode``).
    """

    sums: Mapping[str, np.ndarray]
    slots: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A contribution as integers. ``lanes``: lane → ring words, uint32 in two's complement; ``slots``: the uint64
    section in plan order; ``weights``: lane → 0 or the weight that its words are multiplied with."""

    lanes: Mapping[str, np.ndarray]
    slots: np.ndarray
    weights: Mapping[str, int]


def encode(plan: Plan, step: Step, contribution: Contribution, weights: Mapping[str, int]) -> Encoded:
    """Clip, weigh, round to the ring. The only way from floats to anything that leaves a silo.

    ``weights``: lane → 0 or a value of the lane's grid. Raises EgressDenied for anything the plan does not list,
    OutOfRange for weights off the grid or slots above their bound, NonFinite for NaN or infinity.
    """
    lanes = plan.lanes_of(step)
    for name in contribution.sums:
        if name not in {part.block for part in step.sums}:
            raise EgressDenied(name)
    for name in contribution.slots:
        if name not in {slot.name for slot in step.slots}:
            raise EgressDenied(name)
    for name in weights:
        if name not in {lane.name for lane in lanes}:
            raise EgressDenied(name)
    vectors: dict[str, np.ndarray] = {}
    for lane in lanes:
        weight = weights.get(lane.name, 0)
        if weight not in (0, *lane.grid):
            raise OutOfRange(f"Weight {weight} of lane {lane.name!r} is neither 0 nor on its grid {lane.grid}.")
        vector = np.zeros(plan.words_of(step, lane.name), dtype=np.uint32)
        if weight:
            for block, _, at in plan.blocks_of(step, lane.name):
                if block.name not in contribution.sums:
                    raise LayoutMismatch(f"Lane {lane.name!r} has weight {weight} but block {block.name!r} is missing.")
                value = np.asarray(contribution.sums[block.name])
                if value.shape != block.shape:
                    raise LayoutMismatch(f"Block {block.name!r} has shape {value.shape}; the plan has {block.shape}.")
                out = vector[at : at + block.size]
                ring.encode(
                    value.reshape(-1),
                    out,
                    clip=block.clip,
                    share=weight / lane.grid[-1],
                    n_max=plan.n_max,
                    bits=plan.ring_bits,
                )
        vectors[lane.name] = vector
    section = np.zeros(len(step.slots), dtype=np.uint64)
    for place, slot in enumerate(step.slots):
        if slot.name not in contribution.slots:
            raise LayoutMismatch(f"Slot {slot.name!r} of step {step.name!r} is missing.")
        count = contribution.slots[slot.name]
        if not isinstance(count, int | np.integer):
            raise NonFinite(f"Slot {slot.name!r} is {type(count).__name__}, not an integer.")
        if not 0 <= count <= slot.bound:
            raise OutOfRange(f"Slot {slot.name!r} is outside 0…{slot.bound}.")
        section[place] = count
    return Encoded(vectors, section, {lane.name: weights.get(lane.name, 0) for lane in lanes})


def apply(
    plan: Plan, step: Step, state: State, sums: Mapping[str, np.ndarray], weights: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The state after a step. ``sums``: opened lane → uint32 vector, ``weights``: opened lane → sum of the weights in
    it; a lane that stayed shut keeps its blocks."""
    new = dict(state)
    if foreign := sums.keys() - {lane.name for lane in plan.lanes_of(step)}:
        raise LayoutMismatch(f"Sums of lanes that step {step.name!r} does not have: {sorted(foreign)}.")
    for lane in plan.lanes_of(step):
        if lane.name not in sums:
            continue
        vector = sums[lane.name]
        if vector.dtype != np.uint32 or vector.shape != (plan.words_of(step, lane.name),):
            raise LayoutMismatch(f"The opened sum of lane {lane.name!r} has {vector.shape} words of {vector.dtype}.")
        weight = weights[lane.name]
        for block, part, at in plan.blocks_of(step, lane.name):
            total = (
                ring.decode(vector[at : at + block.size], clip=block.clip, n_max=plan.n_max, bits=plan.ring_bits)
                * lane.grid[-1]
            )
            old = state[block.name].astype(np.float64).reshape(-1)
            match part.apply:
                case Apply.PUBLISH:
                    value = total / weight
                case Apply.AVERAGE:
                    value = old + part.rate * (total / weight)
                case Apply.ADD:
                    value = old + part.rate * total
            new[block.name] = _frozen(value, block.shape)
    return new


def _frozen(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = values.astype(np.float32).reshape(shape)
    array.flags.writeable = False
    return array
