"""MetaMoE with experts of single silos, as the paper has it, on mock data alone.

An expert of one silo *is* that silo's model, and no sum hides it: a plan cannot say such a thing (``metamoe_plan``
refuses it, and every silo makes the plan anew). To see what groups cost, an admin may simulate it on the invented rows
of the silos' public halves. This module reads those and nothing else; everything stays in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crypto import blocks, transcript
from crypto.plan import Plan
from silo_agent.data import DataSet, check
from silo_agent.methods import Limits, Published
from silo_agent.methods.metamoe import MetaMoE
from silo_agent.methods.metamoe_plan import plan, read
from silo_agent.pysyft.mock import read_mocks

#: In place of a run's id, so that a simulation begins the same each time.
RUN = bytes(transcript.DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Simulation:
    """What came of it: the published state, and each silo's method and mock rows."""

    published: Published
    methods: Mapping[str, MetaMoE]
    mocks: Mapping[str, DataSet]


class OneSilo(MetaMoE):
    """MetaMoE whose groups may be of any size. It is in no registry, so no job can name it."""

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        """Lanes that open for one silo. No agent would release its share of them: charters have floors."""
        return plan(read(params), Limits(n_max=limits.n_max, colluders=0, honest=1, lane_floor=1))


def on_mocks(params: Mapping[str, object], box: Path, dataset: str) -> Simulation:
    """Play a job on the mocks of ``dataset`` in an admin's box. Raises DataRefused where there are none."""
    mocks = {silo: check(dataset, arrays) for silo, arrays in read_mocks(box, dataset).items()}
    programme = OneSilo.plan(params, Limits(n_max=len(mocks)))
    methods = {silo: OneSilo(params, silo) for silo in mocks}
    state, slots = blocks.initial_state(programme, RUN), dict[str, dict[str, int]]()
    for step in programme.steps:
        seen = Published(state, slots)
        sent = [
            blocks.encode(
                programme, step, one.contribute(step, seen, mocks[silo]), one.weights(step, seen, mocks[silo])
            )
            for silo, one in methods.items()
        ]
        totals = np.add.reduce([encoded.slots for encoded in sent])
        figures = dict(zip((slot.name for slot in step.slots), map(int, totals), strict=True))
        sums, weights = dict[str, np.ndarray](), dict[str, int]()
        for lane in programme.lanes_of(step):
            mine = [encoded.weights[lane.name] for encoded in sent]
            if any(mine):
                sums[lane.name] = np.add.reduce([encoded.lanes[lane.name] for encoded in sent], dtype=np.uint32)
                weights[lane.name] = sum(mine)
                figures |= {lane.weight_figure: sum(mine), lane.contributors_figure: sum(map(bool, mine))}
        slots = slots | {step.name: figures}
        state = blocks.apply(programme, step, state, sums, weights)
    return Simulation(Published(state, slots), methods, mocks)
