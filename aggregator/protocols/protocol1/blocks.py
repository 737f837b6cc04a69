"""The shared state of protocol 1: initial blocks, and opened sums to new blocks. Arrays are float32 and read-only."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256, shake_128

import numpy as np

from aggregator.protocols.protocol1.encoding import blob, u32, u64
from aggregator.protocols.protocol1.plan import Apply, Plan, Scope, Step
from crypto import ring

State = Mapping[str, np.ndarray]


def initial_state(plan: Plan) -> dict[str, np.ndarray]:
    """Uniform in ±init from SHAKE-128 over (seed, block name), zeros where init is 0; no LOCAL block."""
    state = {}
    for block in plan.blocks:
        if plan.lane_of(block.name).scope is Scope.LOCAL:
            continue
        values = np.zeros(block.size)
        if block.init:
            label = blob("consilium/1/init") + u64(plan.seed) + blob(block.name)
            words = np.frombuffer(shake_128(label).digest(4 * block.size), dtype=">u4")
            values = (words.astype(np.float64) / 2**31 - 1.0) * block.init
        state[block.name] = _frozen(values, block.shape)
    return state


def state_digest(state: State) -> bytes:
    """SHA-256 over names, shapes and little-endian float32 bytes, sorted by name."""
    digest = sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name], dtype="<f4")
        digest.update(blob(name) + u32(array.ndim) + b"".join(map(u32, array.shape)))
        digest.update(array.data.cast("B"))
    return digest.digest()


def apply(plan: Plan, step: Step, state: State, sums: State, slots: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The state after a step. ``sums``: opened lane → uint32 vector, as ``CheckedStep.replay`` gives it."""
    new = dict(state)
    for lane in plan.lanes_of(step):
        if lane.name not in sums or (weight := slots[lane.weight_figure]) == 0:
            continue
        for block, part, at in plan.blocks_of(step, lane.name):
            words = sums[lane.name][at : at + block.size]
            total = ring.decode(words, clip=block.clip, n_max=plan.n_max, bits=plan.ring_bits) * lane.grid[-1]
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
