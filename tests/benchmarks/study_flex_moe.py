"""FLEX-MoE: what prices cost against a linear programme that sees everything, and gain over rules that see less.

Twelve silos, three of each style, share eight experts out under the demonstration's lane floor of three: two places a
silo are just enough for every expert to open.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from silo_agent.expert_prices import Market, bounds, units
from silo_agent.methods import Published
from silo_agent.methods.fedavg import FedAvg
from tests.benchmarks import method_splits as splits
from tests.benchmarks.flex_moe_simulated import Everyone, simulated
from tests.benchmarks.method_federation import federate
from tests.benchmarks.study import Bar, Case, Figures, Rule, Setting, difference
from tests.benchmarks.study_fedcoe import shared_figures

SILOS, EXPERTS = 12, 8

#: As FedCoE on digits: two rounds for the generalist, then eighteen.
TRAINING = {"hidden": 16, "rounds": 18, "warm_rounds": 2, "local_steps": 20, "batch": 16, "experts": EXPERTS}

CAPACITIES = {
    "digits rot4, capacity 2": {"capacity": 2},
    "digits rot4, capacities 1 to 3": {f"capacity-silo-{i + 1:02}": 1 + i % 3 for i in range(SILOS)},
}

#: The last, which nothing is held to, in the full suite alone.
RULES = ("price", "lp", "greedy", "random", "penalised")


def loads(everyone: Everyone, rows: np.ndarray) -> dict[str, float]:
    """``load_cv``: of each expert's training rows over all rounds. ``round_cv``: the mean of the rounds' own.
    ``idle``: experts that were short of the floor in all of the last half of the rounds."""
    held_RNE = everyone.held()
    mass_RE = (held_RNE * rows[None, :, None]).sum(axis=1)
    late_RE = held_RNE[len(held_RNE) // 2 :].sum(axis=1)
    total_E = mass_RE.sum(axis=0)
    floor = next(iter(everyone.members.values())).params.floor
    return {
        "load_cv": float(total_E.std() / total_E.mean()),
        "round_cv": float((mass_RE.std(axis=1) / mass_RE.mean(axis=1)).mean()),
        "idle": float((late_RE < floor).all(axis=0).sum()),
        "over_capacity": float((held_RNE.sum(axis=2) > np.array(everyone.capacities)).sum()),
    }


def weight_cv(published: Published) -> float:
    """As ``load_cv``, of the weights that the lanes opened: rows by what the holders' routers make of each expert.

    Assignments bound how many silos train an expert, not how much each then uses it: this one is free.
    """
    trained = [slots for step, slots in published.slots.items() if step.startswith("train/")]
    sums = [sum(slots.get(f"expert-{e}.weight", 0) for slots in trained) for e in range(EXPERTS)]
    total_E = np.array(sums, dtype=float)
    return float(total_E.std() / total_E.mean())


def sharing(capacities: dict[str, int]) -> Callable[[int, Setting], Figures]:
    """Every rule of assignment on one split; in the full suite FedAvg too."""

    def run(seed: int, setting: Setting) -> Figures:
        split = splits.deal(splits.digits(), seed, silos=SILOS, styles=splits.TURNS)
        rows = np.array([data.rows for data in split.silos.values()])
        params = split.shape | TRAINING | capacities | {"seed": seed}
        figures: dict[str, float] = {}
        for rule in RULES if setting.full else RULES[:-1]:
            kind = simulated(rule, split.silos)
            model = federate(kind, params, split.silos)
            figures |= shared_figures(rule, model, split)
            figures |= {f"{rule}.{name}": value for name, value in loads(kind.everyone, rows).items()}
            figures[f"{rule}.weight_cv"] = weight_cv(model.published)
            if rule == "price":
                figures["price.of_best"] = float(np.mean(kind.everyone.shares()))
        if setting.full:  # no bar asks for it
            plain = split.shape | {"hidden": 16, "rounds": 20, "local_steps": 20, "batch": 16, "seed": seed}
            figures |= shared_figures("fedavg", federate(FedAvg, plain, split.silos), split)
        return figures

    return run


PRICES = "prices, 100 silos and 32 experts"


def prices(seed: int, setting: Setting) -> Figures:
    """``price.milliseconds``: the choices of 100 silos, one after another, and the move of the prices that follows; the
    least of five. A silo makes one choice and one move."""
    rng = np.random.default_rng(seed)
    own = [units(row) for row in rng.dirichlet(np.ones(32), size=100)]
    wanted = bounds(places=200, silos=100, experts=32, floor=3)
    seconds = []
    for _ in range(5):
        start = perf_counter()
        market = Market.opening(32)
        bids = [market.choice(mine, 2) for mine in own]
        market.moved([sum(e in bid for bid in bids) for e in range(32)], wanted)
        seconds.append(perf_counter() - start)
    return {"price.milliseconds": 1000 * min(seconds)}


#: Unequal capacities are the full suite's: ``test`` has five minutes, and test_flex_moe.py holds them to their bounds.
CASES = (
    *(
        Case(name=name, run=sharing(capacities), suites=("test", "full") if "capacity" in capacities else ("full",))
        for name, capacities in CAPACITIES.items()
    ),
    Case(name=PRICES, run=prices, suites=("full",)),
)


def _bars(case: str, most_cv: float) -> tuple[Bar, ...]:
    return (
        Bar(
            name=f"{case}: personal ≥ greedy − 1",
            case=case,
            value=difference("price.personal", "greedy.personal"),
            target=-1,
        ),
        Bar(
            name=f"{case}: personal ≥ random + 5",
            case=case,
            value=difference("price.personal", "random.personal"),
            target=5,
        ),
        Bar(name=f"{case}: personal ≥ LP − 1", case=case, value=difference("price.personal", "lp.personal"), target=-1),
        Bar(
            name=f"{case}: objective ≥ 95 % of the LP's",
            case=case,
            value=lambda f: f["price.of_best"],
            target=0.95,
            rule=Rule.LEAST,
        ),
        Bar(
            name=f"{case}: load CV ≤ {most_cv}",
            case=case,
            value=lambda f: f["price.load_cv"],
            target=most_cv,
            rule=Rule.MOST,
        ),
        Bar(name=f"{case}: no idle expert", case=case, value=lambda f: -f["price.idle"], target=0, rule=Rule.ALWAYS),
        Bar(
            name=f"{case}: never above capacity",
            case=case,
            value=lambda f: -f["price.over_capacity"],
            target=0,
            rule=Rule.ALWAYS,
        ),
    )


BARS = (
    *_bars("digits rot4, capacity 2", 0.25),
    *_bars("digits rot4, capacities 1 to 3", 0.40),
    Bar(name=f"{PRICES}: < 50 ms", case=PRICES, value=lambda f: f["price.milliseconds"], target=50, rule=Rule.MOST),
)
