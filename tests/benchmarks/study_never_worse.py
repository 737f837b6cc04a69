"""Where FedCoE once lost to FedAvg without a word: styles below the floor, a scaled silo, a leaver, mixed newcomers.

Through ``tests.plain``: sums without masks, the floors and the rule of atoms as they are. The first blocks of FedAvg
and of FedCoE's generalist are the same, so a difference is the experts' doing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crypto.plan import Step
from silo_agent.data import DataSet
from silo_agent.methods import Method, Published
from silo_agent.methods.fedcoe import FedCoE
from tests import plain
from tests.benchmarks import method_splits as splits
from tests.benchmarks.method_baselines import Paired
from tests.benchmarks.method_federation import limits
from tests.benchmarks.study import Bar, Case, Figures, Rule, Setting, difference

TRAINING = {"hidden": 16, "rounds": 12, "local_steps": 20, "batch": 16}

#: Of silo after silo the style. ``BELOW``: two styles have four silos, two have two, below the floor of three.
EVEN, BELOW, PAIR = (
    tuple(i % 4 for i in range(12)),
    (0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 1),
    tuple(i % 2 for i in range(12)),
)

#: The silo that is scaled, or leaves.
ODD = "silo-02"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """``judged``: silos of the cohort whose test rows count. ``absent``: as in ``plain.run``."""

    cohort: Mapping[str, DataSet]
    newcomers: Mapping[str, DataSet]
    judged: Collection[str]
    experts: int
    absent: Callable[[Step], Collection[str]] = lambda step: ()


def world(seed: int, styles: Sequence[int], experts: int) -> World:
    """Digits in the given styles, dealt evenly; newcomers are of the first four silos' styles."""
    split = splits.deal(splits.digits(), seed, styles=[splits.TURNS[style] for style in styles])
    return World(cohort=split.silos, newcomers=split.strangers, judged=tuple(split.silos), experts=experts)


def below(seed: int) -> World:
    return world(seed, BELOW, 4)


def scaled(seed: int, change: Callable[[np.ndarray], np.ndarray] = lambda x: 16 * x) -> World:
    """One silo's inputs are changed. It can't be helped; the others are judged."""
    made = world(seed, PAIR, 2)
    odd = made.cohort[ODD]
    other = replace(odd, x_train=change(odd.x_train).astype(np.float32), x_test=change(odd.x_test).astype(np.float32))
    rest = tuple(silo for silo in made.cohort if silo != ODD)
    return replace(made, cohort={**made.cohort, ODD: other}, judged=rest)


def leaver(seed: int, after: int = 1) -> World:
    """One of the three silos of a style leaves after so many rounds: its expert's lane stays shut from then on."""

    def absent(step: Step) -> Collection[str]:
        return (ODD,) if step.task == "eval" or (step.task == "train" and step.index >= after) else ()

    return replace(world(seed, EVEN, 4), absent=absent)


def mixed(seed: int) -> World:
    """The newcomers' rows come shuffled together, in batches of fifty."""
    made = world(seed, EVEN, 4)
    together = list(made.newcomers.values())
    x, y = (np.concatenate([getattr(data, name) for data in together]) for name in ("x_test", "y_test"))
    order = np.random.default_rng([seed, 9]).permutation(len(y))
    parts = [order[at : at + 50] for at in range(0, len(y) - 50, 50)]
    batches = {f"batch-{n}": replace(together[0], x_test=x[part], y_test=y[part]) for n, part in enumerate(parts)}
    return replace(made, newcomers=batches)


def figures(made: World, seed: int, training: Mapping[str, object] = TRAINING) -> Figures:
    """Accuracies in per cent of FedAvg and of FedCoE: of silos judged, and of newcomers."""
    one = next(iter(made.cohort.values()))
    base = {"features": one.features, "classes": one.classes, "seed": seed, **training}
    mine = base | {"experts": made.experts, "finetune_steps": 1}
    found: dict[str, float] = {}
    kinds: dict[str, tuple[type[Method], dict[str, object]]] = {"fedavg": (Paired, base), "fedcoe": (FedCoE, mine)}
    for name, (kind, params) in kinds.items():
        bounds = limits(len(made.cohort))
        members = {silo: kind(params, silo) for silo in made.cohort}
        published = plain.run(kind.plan(params, bounds), members, made.cohort, bounds, absent=made.absent)
        asked, judged = kind(params), {silo: made.cohort[silo] for silo in made.judged}
        found[f"{name}.global"] = accuracy(asked, published, judged, "global")
        found[f"{name}.cold"] = accuracy(asked, published, made.newcomers, "cold")
    return found


def accuracy(asked: Method, published: Published, sets: Mapping[str, DataSet], mode: str) -> float:
    right = [asked.predict(published, data.x_test, mode).argmax(axis=1) == data.y_test for data in sets.values()]
    return 100 * float(np.concatenate(right).mean())


def _case(name: str, make: Callable[[int], World], seeds: Sequence[int]) -> Case:
    def run(seed: int, setting: Setting) -> Figures:
        return figures(make(seed), seed)

    return Case(name=name, run=run, suites=("full",), seeds=seeds)


#: Seeds that no constant was chosen on.
SEEDS = tuple(range(1000, 1010))
_MADE = {
    "styles below the floor": (below, "global"),
    "one silo times 16": (scaled, "global"),
    "a silo leaves after a round": (leaver, "global"),
    "newcomers in one batch": (mixed, "cold"),
}
CASES = tuple(_case(name, make, SEEDS) for name, (make, _) in _MADE.items())


def _bars(name: str, mode: str) -> tuple[Bar, ...]:
    value = difference(f"fedcoe.{mode}", f"fedavg.{mode}")
    return (
        Bar(name=f"{name}: {mode} ≥ fedavg − 0.5", case=name, value=value, target=-0.5),
        Bar(name=f"{name}: {mode} ≥ fedavg − 2, each seed", case=name, value=value, target=-2, rule=Rule.ALWAYS),
    )


BARS = tuple(bar for name, (_, mode) in _MADE.items() for bar in _bars(name, mode))
