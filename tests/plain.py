"""A federation without its secrets: plain sums, with the floors, the rule of atoms and the void steps of the real one.

Masks cancel, so this ends where the real rounds end, bit for bit (``tests/benchmarks`` checks that), in a fraction of
the time. For tests of methods, and for nothing that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from unittest.mock import patch

import numpy as np

from crypto import blocks, quantities
from crypto.atoms import Openings
from crypto.plan import Plan, Scope, Step
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Method, Published

Name = TypeVar("Name", bound=str)

#: A run id, for first blocks that are the same whenever a test is run.
RUN = b"r" * 32


@contextmanager
def fixed_run_id(run: bytes = RUN) -> Iterator[None]:
    """Runs in this process get this id, whatever their job, charter and nonce. The homes of a federation are made with
    new keys, so no nonce alone could give its runs the same first blocks each time."""
    with patch("crypto.transcript.run_id", lambda job, charter, nonce: run):
        yield


#: Sees each step before it is added up: what was published before, who is here, their weights.
Watch = Callable[[Step, Published, Mapping[str, Method], Mapping[str, Mapping[str, int]]], None]

#: What the aggregator announces: the step, lane → words of the true sum, and all else that opened → lane → words.
Announce = Callable[[Step, Mapping[str, np.ndarray], Mapping[str, int]], Mapping[str, np.ndarray]]


def federate(
    kind: type[Method],
    params: Mapping[str, object],
    cohort: Mapping[str, DataSet],
    limits: Limits,
    void: Collection[str] = (),
    watch: Watch = lambda step, seen, here, weights: None,
    run_id: bytes = RUN,
) -> tuple[Plan, Published, dict[str, Method]]:
    """The plan, the last published state, and each silo's method."""
    plan, members = kind.plan(params, limits), {silo: kind(params, silo) for silo in cohort}
    return plan, run(plan, members, cohort, limits, void=void, watch=watch, run_id=run_id), members


def run(
    plan: Plan,
    members: Mapping[str, Method],
    cohort: Mapping[str, DataSet],
    limits: Limits,
    *,
    absent: Callable[[Step], Collection[str]] = lambda step: (),
    void: Collection[str] = (),
    withheld: Callable[[str, str], bool] = lambda step, slot: False,
    watch: Watch = lambda step, seen, here, weights: None,
    announce: Announce = lambda step, sums, figures: sums,
    run_id: bytes = RUN,
) -> Published:
    """The last published state. ``absent``: who stays away from a step; ``void``: steps that bring no result;
    ``withheld``: whether a step's slot stays shut; ``announce``: the words that all silos apply; ``run_id``: first
    blocks are made from it and the plan's seed."""
    state, slots = blocks.initial_state(plan, run_id), dict[str, dict[str, int]]()
    opened: dict[bytes, Openings] = {}
    least = limits.honest + limits.colluders
    for step in plan.steps:
        base = blocks.state_digest(state)
        seen = Published(state, slots)
        here = {silo: member for silo, member in members.items() if silo not in absent(step)}
        weights = {silo: member.weights(step, seen, cohort[silo]) for silo, member in here.items()}
        sent = [
            blocks.encode(plan, step, member.contribute(step, seen, cohort[silo]), weights[silo])
            for silo, member in here.items()
        ]
        watch(step, seen, here, weights)
        if step.name in void or not sent:
            continue
        added = np.add.reduce([encoded.slots for encoded in sent])
        sections = {section: quantities.of_section(step, section, base) for section in step.sections}
        open_ones = _open(sections, dict.fromkeys(sections, frozenset(here)), opened, least)
        places = {place for section in open_ones for place in step.places(section)}
        figures = {
            slot.name: int(added[place])
            for place, slot in enumerate(step.slots)
            if place in places and not withheld(step.name, slot.name)
        }
        now = {
            lane.name: frozenset(silo for silo in here if weights[silo].get(lane.name)) for lane in plan.lanes_of(step)
        }
        lanes = {
            lane.name: quantities.of_lane(plan, step, lane.name, base)
            for lane in plan.lanes_of(step)
            if len(now[lane.name]) >= max(lane.floor, least, 0 if lane.scope is Scope.ALL else limits.lane_floor)
        }
        sums, total = dict[str, np.ndarray](), dict[str, int]()
        passed = _open(lanes, now, opened, least)
        for lane in plan.lanes_of(step):
            if lane.name in passed:
                sums[lane.name] = np.add.reduce([encoded.lanes[lane.name] for encoded in sent], dtype=np.uint32)
                total[lane.name] = sum(weights[silo][lane.name] for silo in now[lane.name])
                figures |= {lane.weight_figure: total[lane.name], lane.contributors_figure: len(now[lane.name])}
        slots = slots | {step.name: figures}
        state = blocks.apply(plan, step, state, announce(step, sums, figures), total)
    return Published(state, slots)


def _open(
    of: Mapping[Name, Collection[bytes]],
    sets: Mapping[str, frozenset[str]],
    opened: dict[bytes, Openings],
    least: int,
) -> set[Name]:
    """Those of these lanes or sections that the rule of atoms lets open; they are added to ``opened``. ``of``: their
    quantities; ``sets``: their contributors."""
    refused = set[bytes]()
    for quantity in {one for found in of.values() for one in found}:
        known = opened.get(quantity, Openings())
        for name in (name for name, found in of.items() if quantity in found):
            if known.conflicts(sets[name], least):
                refused.add(quantity)
            known = known.refine(sets[name])
    passed = {name for name, found in of.items() if refused.isdisjoint(found)}
    for name in passed:
        for quantity in of[name]:
            opened[quantity] = opened.get(quantity, Openings()).refine(sets[name])
    return passed
