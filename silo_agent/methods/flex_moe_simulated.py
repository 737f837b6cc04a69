"""FLEX-MoE under other rules of assignment, for benchmarks: what prices cost, and what they gain over less.

``greedy``, ``penalised`` and ``random`` need nothing but what each silo has. ``lp`` solves the linear programme on the
ranks of every silo's fitness in one place, as a server would; no plan of a job has such a step, so no federation can
run it. All rules have the plan of prices, less its bids: same lanes, floors, weights, batches and seeds.

    plan, members = simulation(params, limits, cohort, "lp")     # then plan/weights/contribute/apply as ever
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from crypto.errors import SpecError
from crypto.plan import Plan
from silo_agent.assignment import SUBSIDY, UNIT, Bounds, best, bounds, penalised, ranks, solve, units
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Published
from silo_agent.methods.flex_moe import FlexMoE
from silo_agent.methods.flex_moe_plan import ASSIGNMENT, RULES, check_limits, market, plan, read
from silo_agent.training import generator


class Simulated(FlexMoE):
    """A silo that chooses by another rule. ``server`` is what a server of the linear programme would know."""

    server: Server

    def assign(self, k: int, published: Published, data: DataSet) -> tuple[int, ...]:
        own = units(self.fitness(k, published, data))
        match self.job.rule:
            case "price":
                return super().assign(k, published, data)
            case "greedy":
                return best(own, self.capacity)
            case "penalised":
                return penalised(own, self.capacity, _past_loads(self.job.experts, k, published))
            case "random":
                order = generator("random", self.params.seed, self.silo, k).permutation(self.job.experts)
                return tuple(sorted(order[: self.capacity].tolist()))
            case _:
                return self.server.assigned(k, published)[self.silo]


@dataclass(slots=True)
class Server:
    """Sees the ranks of all fitness, and solves once a round."""

    members: Mapping[str, FlexMoE]
    cohort: Mapping[str, DataSet]
    _solved: dict[int, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def assigned(self, k: int, published: Published) -> dict[str, tuple[int, ...]]:
        """Silo → its experts in round k."""
        if k not in self._solved:
            job = next(iter(self.members.values())).job
            deficits_E = np.array(market(job, published.slots, k, 0)[0].deficits)
            worth_NE = ranks(fitness_of(self.members, self.cohort, k, published)) + SUBSIDY / UNIT * deficits_E
            held_NE, _ = solve(worth_NE, _capacities(self.members), wanted(self.members))
            rows = zip(self.members, held_NE, strict=True)
            self._solved = {k: {silo: tuple(np.flatnonzero(held_E).tolist()) for silo, held_E in rows}}
        return self._solved[k]


def simulation(
    params: Mapping[str, object], limits: Limits, cohort: Mapping[str, DataSet], rule: str = "price"
) -> tuple[Plan, dict[str, FlexMoE]]:
    """Plan and members of a federation under a rule of ``RULES``. Raises SpecError for one that there is not."""
    if rule not in RULES:
        raise SpecError("rule", got=rule, want=f"one of {', '.join(RULES)}")
    given = dict(params) | {ASSIGNMENT: rule} | ({} if rule == "price" else {"inner_steps": 0})
    job = read(given)
    check_limits(job, limits)
    members: dict[str, FlexMoE] = {}
    server = Server(members, cohort)
    for silo in cohort:
        members[silo] = member = Simulated(given, silo)
        member.server = server
    return plan(job, limits), members


def objective(
    members: Mapping[str, FlexMoE], cohort: Mapping[str, DataSet], k: int, published: Published
) -> tuple[float, float]:
    """(total fitness of what the silos hold in round k, the most that the bounds allow). Ask before round k is over."""
    fitness_NE = fitness_of(members, cohort, k, published)
    held = [member.held(k, published, cohort[silo]) for silo, member in members.items()]
    most_NE, _ = solve(fitness_NE, _capacities(members), wanted(members))
    return sum(float(row[list(own)].sum()) for row, own in zip(fitness_NE, held, strict=True)), float(
        (fitness_NE * most_NE).sum()
    )


def fitness_of(
    members: Mapping[str, FlexMoE], cohort: Mapping[str, DataSet], k: int, published: Published
) -> np.ndarray:
    """F_NE of all silos: what only a simulation can put together."""
    return np.stack([member.fitness(k, published, cohort[silo]) for silo, member in members.items()])


def wanted(members: Mapping[str, FlexMoE]) -> Bounds:
    """The bounds of a round in which everybody takes part."""
    job = next(iter(members.values())).job
    return bounds(places=sum(_capacities(members)), silos=len(members), experts=job.experts, floor=job.params.floor)


def _capacities(members: Mapping[str, FlexMoE]) -> Sequence[int]:
    return [member.capacity for member in members.values()]


def _past_loads(experts: int, k: int, published: Published) -> list[int]:
    """Loads of all rounds before k together."""
    steps = [published.slots.get(f"train/{r}", {}) for r in range(k)]
    return [sum(slots.get(f"expert-{e}.contributors", 0) for slots in steps) for e in range(experts)]
