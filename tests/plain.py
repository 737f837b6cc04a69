"""A federation without its secrets: plain sums, with the floors, guarded moves and void steps of the real one.

Masks cancel, so this ends where the real rounds end, bit for bit (``tests/benchmarks`` checks that), in a fraction of
the time. For tests of methods, and for nothing that is reported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from crypto import blocks
from crypto.blocks import Encoded
from crypto.plan import Plan, Scope
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Method, Published


def federate(
    kind: type[Method],
    params: Mapping[str, object],
    cohort: Mapping[str, DataSet],
    limits: Limits,
    void: Collection[str] = (),
) -> tuple[Plan, Published, dict[str, Method]]:
    """The plan, the last published state, and each silo's method. ``void``: steps that bring no result."""
    plan = kind.plan(params, limits)
    members = {silo: kind(params, silo) for silo in cohort}
    state = blocks.initial_state(plan)
    slots: dict[str, dict[str, int]] = {}
    opened: dict[str, list[frozenset[str]]] = {}
    for step in plan.steps:
        seen = Published(state, slots)
        sent: dict[str, Encoded] = {}
        holders: dict[str, set[str]] = {lane.name: set() for lane in plan.lanes_of(step)}
        for silo, member in members.items():
            weights = member.weights(step, seen, cohort[silo])
            sent[silo] = blocks.encode(plan, step, member.contribute(step, seen, cohort[silo]), weights)
            for held, value in weights.items():
                holders[held] |= {silo} if value else set()
        if step.name in void:
            continue
        section = np.add.reduce([encoded.slots for encoded in sent.values()])
        slots = slots | {step.name: dict(zip((s.name for s in plan.slots_of(step)), map(int, section), strict=True))}
        sums = {}
        for lane in plan.lanes_of(step):
            now, least = frozenset(holders[lane.name]), limits.honest + limits.colluders
            floor = max(lane.floor, least, 0 if lane.scope is Scope.ALL else limits.lane_floor)
            guarded = lane.guard_moves and any(0 < len(now ^ before) < least for before in opened.get(lane.name, ()))
            if len(now) >= floor and not guarded:
                sums[lane.name] = np.add.reduce(
                    [encoded.lanes[lane.name] for encoded in sent.values()], dtype=np.uint32
                )
                opened.setdefault(lane.name, []).append(now)
        state = blocks.apply(plan, step, state, sums, slots[step.name])
    return plan, Published(state, slots), members
