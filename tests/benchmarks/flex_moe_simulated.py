"""FLEX-MoE under other rules of assignment, for benchmarks: what prices cost, and what they gain over less.

``greedy``, ``penalised`` and ``random`` need nothing but what each silo has. ``lp`` solves the linear programme on the
ranks of every silo's fitness in one place, as a server would. No plan of a job has such a rule, so no federation can
run one: these classes live in one process. All rules have the plan of prices, less its bids: same lanes, floors,
weights, batches and seeds.

    Greedy = simulated("greedy", cohort)      # a Method: Greedy.plan(params, limits), Greedy(params, silo)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.errors import SpecError
from crypto.plan import Plan, Step
from silo_agent.data import DataSet
from silo_agent.expert_prices import SUBSIDY, UNIT, Bounds, best, bounds, units
from silo_agent.methods import Limits, Published
from silo_agent.methods.flex_moe import FlexMoE
from silo_agent.methods.flex_moe_plan import check_limits, market, plan, read
from silo_agent.training import generator
from tests.benchmarks.assignment_rules import penalised, ranks, solve

RULES = ("price", "greedy", "penalised", "random", "lp")


@dataclass(slots=True)
class Everyone:
    """All silos of a simulation in one place, which no party of a federation ever sees.

    ``rounds``: of each training step, silo → its fitness and what it held.
    """

    cohort: Mapping[str, DataSet]
    members: dict[str, FlexMoE] = field(default_factory=dict)
    rounds: dict[int, dict[str, tuple[np.ndarray, tuple[int, ...]]]] = field(default_factory=dict)
    _solved: dict[int, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def fitness(self, k: int, published: Published) -> np.ndarray:
        """F_NE in round k, before it is over; silos in the order of ``members``."""
        return np.stack([member.fitness(k, published, self.cohort[silo]) for silo, member in self.members.items()])

    @property
    def capacities(self) -> list[int]:
        return [member.capacity for member in self.members.values()]

    @property
    def wanted(self) -> Bounds:
        """The bounds of a round in which everybody takes part."""
        job = next(iter(self.members.values())).job
        return bounds(places=sum(self.capacities), silos=len(self.members), experts=job.experts, floor=job.params.floor)

    def assigned(self, k: int, published: Published) -> dict[str, tuple[int, ...]]:
        """Silo → its experts in round k, by the linear programme on ranks and deficits; solved once a round."""
        if k not in self._solved:
            job = next(iter(self.members.values())).job
            deficits_E = np.array(market(job, published.slots, k, 0)[0].deficits)
            worth_NE = ranks(self.fitness(k, published)) + SUBSIDY / UNIT * deficits_E
            held_NE, _ = solve(worth_NE, self.capacities, self.wanted)
            rows = zip(self.members, held_NE, strict=True)
            self._solved = {k: {silo: tuple(np.flatnonzero(held_E).tolist()) for silo, held_E in rows}}
        return self._solved[k]

    def held(self) -> np.ndarray:
        """What was held in each round: bool (rounds, N, E)."""
        return np.array(
            [[[e in own for e in range(len(row))] for row, own in rounds.values()] for rounds in self.rounds.values()]
        )

    def shares(self) -> list[float]:
        """Each round's total fitness as a share of the most that capacities and bounds allow."""
        found = []
        for rounds in self.rounds.values():
            fitness_NE = np.stack([row for row, _ in rounds.values()])
            capacities = [self.members[silo].capacity for silo in rounds]
            most_NE, _ = solve(fitness_NE, capacities, self.wanted)
            mine = sum(float(row[list(own)].sum()) for row, own in rounds.values())
            found.append(mine / float((fitness_NE * most_NE).sum()))
        return found


class Simulated(FlexMoE):
    """A silo that chooses by ``rule``. Made by ``simulated``."""

    rule: ClassVar[str]
    everyone: ClassVar[Everyone]

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        super().__init__(self.given(params), silo)
        if silo in self.everyone.cohort:
            self.everyone.members[silo] = self

    @classmethod
    def given(cls, params: Mapping[str, object]) -> dict[str, object]:
        """The parameters under this rule: only prices need bids."""
        return dict(params) | ({} if cls.rule == "price" else {"inner_steps": 0})

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        job = read(cls.given(params))
        check_limits(job, limits)
        return plan(job, limits)

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        sent = super().contribute(step, published, data)
        if step.task == "train":
            k = step.index
            told = self.fitness(k, published, data), self.held(k, published, data)
            self.everyone.rounds.setdefault(k, {})[self.silo] = told
        return sent

    def assign(self, k: int, published: Published, data: DataSet) -> tuple[int, ...]:
        own = units(self.fitness(k, published, data))
        match self.rule:
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
                return self.everyone.assigned(k, published)[self.silo]


def simulated(rule: str, cohort: Mapping[str, DataSet]) -> type[Simulated]:
    """FLEX-MoE under a rule of ``RULES`` for one simulation of these silos. Raises SpecError for another."""
    if rule not in RULES:
        raise SpecError("rule", got=rule, want=f"one of {', '.join(RULES)}")
    return type(f"Simulated_{rule}", (Simulated,), {"rule": rule, "everyone": Everyone(cohort)})


def _past_loads(experts: int, k: int, published: Published) -> list[int]:
    """Loads of all rounds before k together."""
    steps = [published.slots.get(f"train/{r}", {}) for r in range(k)]
    return [sum(slots.get(f"load-{e}", 0) for slots in steps) for e in range(experts)]
