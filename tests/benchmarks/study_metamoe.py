"""MetaMoE: what a varied choice of proxies is worth, and whether the router is worth more than the surest expert.

Twelve silos, three of each of four domains of classes, in groups at the demonstration's lane floor of three; a public
pool that sees all classes unevenly, with near copies of a few pictures and pictures of something else. Rules of choice
differ in nothing but the choice: same relevance, experts, floors, seeds. All through production's rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from silo_agent import experts, proxies
from silo_agent.data import DataSet, check
from silo_agent.methods import Published
from silo_agent.methods import metamoe_router as routing
from silo_agent.methods.fedavg import FedAvg
from silo_agent.methods.metamoe import MetaMoE
from silo_agent.methods.plans import network
from tests.benchmarks import method_splits as splits
from tests.benchmarks.method_federation import federate
from tests.benchmarks.study import Bar, Case, Figures, Setting, difference
from tests.benchmarks.study import Rule as BarRule
from tests.benchmarks.study_fedcoe import equal_hidden

#: Classes of each domain, and silos of each.
DOMAINS, PER_DOMAIN = ((0, 2, 6), (5, 7), (1, 3), (4, 8, 9)), 3

#: Proxies of a silo in the bars' cases; and as many as make about ten a domain. Public rows by lot, the default.
FEW, MORE, FEWEST = 10, 30, 3
BACKGROUND = 30


@dataclass(frozen=True, slots=True)
class World:
    """``group``: silo → its domain."""

    silos: Mapping[str, DataSet]
    group: Mapping[str, int]
    pool: DataSet

    @property
    def params(self) -> dict[str, object]:
        names = [" ".join(s for s, of in self.group.items() if of == g) for g in range(len(DOMAINS))]
        pool = {"pool": self.pool.name, "pool_sha256": proxies.digest(self.pool)}
        shape = {"features": self.pool.features, "classes": self.pool.classes}
        return shape | pool | {f"group-{g}": silos for g, silos in enumerate(names)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """``pictures``: of the source, unevenly by class; ``copies`` of each of ``copied`` of them; ``foreign`` others."""

    pictures: int
    copied: int
    copies: int
    foreign: int


def world(source: splits.Source, foreign: np.ndarray, sizes: Pool, seed: int) -> World:
    """``foreign``: pictures of something else; their labels mean nothing here."""
    deal_rng, split_rng, pool_rng = (np.random.default_rng([seed, purpose]) for purpose in (1, 2, 3))
    x, y = source.pictures.reshape(len(source.labels), -1), source.labels
    centre = float(x.mean())
    order = deal_rng.permutation(len(y))
    shares = np.maximum(pool_rng.dirichlet(np.ones(10)), 0.02)
    quota = np.minimum(np.round(sizes.pictures * shares / shares.sum()), np.bincount(y) // 2).astype(np.int64)
    rank = np.zeros(len(y), dtype=np.int64)
    for label in range(10):
        rank[order[y[order] == label]] = np.arange((y == label).sum())
    public, private = order[rank[order] < quota[y[order]]], order[rank[order] >= quota[y[order]]]
    copied = np.repeat(pool_rng.choice(public, sizes.copied, replace=False), sizes.copies)
    others = foreign[pool_rng.permutation(len(foreign))[: sizes.foreign]].reshape(sizes.foreign, -1)
    pooled = np.concatenate([x[public], x[copied] + pool_rng.normal(0, 0.02, (len(copied), x.shape[1])), others])
    labels = np.concatenate([y[public], y[copied], pool_rng.integers(0, 10, sizes.foreign)])
    silos, group = {}, {}
    for g, classes in enumerate(DOMAINS):
        rows = private[np.isin(y[private], classes)]
        for at, hand in enumerate(np.array_split(rows, PER_DOMAIN)):
            name = f"silo-{g * PER_DOMAIN + at + 1:02}"
            silos[name], group[name] = splits.dataset(name, x[hand] - centre, y[hand], split_rng), g
    arrays = {"x_train": pooled - centre, "y_train": labels, "x_test": pooled[:1], "y_test": labels[:1]}
    return World(silos, group, check("pool", arrays | {"classes": np.array(10)}))


def digits(seed: int, setting: Setting) -> World:
    """What is something else: digits with their pixels shuffled."""
    source = splits.digits()
    flat = source.pictures.reshape(len(source.labels), -1)
    foreign = flat[:, np.random.default_rng([seed, 4]).permutation(flat.shape[1])]
    return world(source, foreign, Pool(pictures=500, copied=10, copies=20, foreign=200), seed)


def mnist(seed: int, setting: Setting) -> World:
    """What is something else: clothes."""
    foreign = splits.fashion(setting.data).pictures
    return world(splits.mnist(setting.data), foreign, Pool(pictures=2000, copied=25, copies=60, foreign=1500), seed)


# --- rules of choice -------------------------------------------------------------------------------------------------

#: (relevance of each row of the pool, the pool, how many, of how many candidates, generator) → row numbers.
Rule = Callable[[np.ndarray, np.ndarray, int, int, np.random.Generator], np.ndarray]


def k_center(
    relevance_N: np.ndarray, pool_ND: np.ndarray, count: int, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Of the most relevant, again and again the one farthest from those chosen."""
    near = proxies.candidates(relevance_N, pool_ND, most)
    x, chosen = pool_ND[near], [0]
    apart = ((x - x[0]) ** 2).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, ((x - x[chosen[-1]]) ** 2).sum(axis=1))
    return near[np.array(chosen)]


RULES: dict[str, Rule] = {
    "dpp": lambda relevance_N, pool_ND, count, most, rng: proxies.varied(relevance_N, pool_ND, count, most),
    "top": lambda relevance_N, pool_ND, count, most, rng: np.argsort(-relevance_N, kind="stable")[:count],
    "random": lambda relevance_N, pool_ND, count, most, rng: rng.permutation(len(pool_ND))[:count],
    "sampled": lambda relevance_N, pool_ND, count, most, rng: rng.choice(
        len(pool_ND), count, replace=False, p=relevance_N / relevance_N.sum()
    ),
    "k-center": k_center,
}


def chooses(rule: str, public: DataSet) -> type[MetaMoE]:
    """MetaMoE with another rule of choice, on this pool."""

    class Chooses(MetaMoE):
        def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
            super().__init__(params, silo)
            if silo:
                self.provide(public)

        def choose(self, relevance_N: np.ndarray, pool_ND: np.ndarray) -> np.ndarray:
            if not self.job.ours:
                return super().choose(relevance_N, pool_ND)
            p, rng = self.params, np.random.default_rng([self.params.seed, 5, *self.silo.encode()])
            return RULES[rule](relevance_N, pool_ND, p.chosen, p.considered, rng)

    return Chooses


# --- figures ---------------------------------------------------------------------------------------------------------


def scored(name: str, made: Any, given: World) -> dict[str, float]:
    """``global``: what the federation publishes; ``router``, ``surest``, ``uniform``, ``owner``: its experts joined by
    the router alone, by max-confidence, by their plain mean, by knowing each row's domain; ``oracle``: by a router of
    all silos' private rows. ``routing``: rows that the router sends to their domain's expert. ``inside``: proxies of
    the silo's own classes. ``proved``: 1 if the router showed on held-out proxies that it is better."""
    published: Published = made.published
    asked: MetaMoE = made.stranger
    x = np.concatenate([data.x_test for data in given.silos.values()])
    y = np.concatenate([data.y_test for data in given.silos.values()])
    of = np.concatenate([np.full(len(data.y_test), given.group[silo]) for silo, data in given.silos.items()])
    p_EBC = experts.predict([network(published, f"expert-{g}") for g in range(asked.job.experts)], x)

    def right(p_BC: np.ndarray) -> float:
        return 100 * float((p_BC.argmax(axis=1) == y).mean())

    end = published.slots["eval/0"]
    found = {
        "global": 100 * end["global.correct"] / end["test.rows"],
        "personal": 100 * end["personal.correct"] / end["test.rows"],
        "router": 100 * end["router.correct"] / end["test.rows"],
        "surest": 100 * end["surest.correct"] / end["test.rows"],
        "uniform": right(p_EBC.mean(axis=0)),
        "owner": right(p_EBC[of, np.arange(len(y))]),
        "proved": float(asked.routed(published)),
    }
    router = asked.router(published)
    if router is not None and asked.job.ours:
        found["routing"] = 100 * float((router.route(asked._features(published, x)) == of).mean())
        found["oracle"] = right(
            p_EBC[_oracle(asked, published, given).route(asked._features(published, x)), range(len(y))]
        )
    inside = [
        np.isin(given.pool.y_train[one.choice.train], DOMAINS[given.group[silo]]).mean()
        for silo, one in made.methods.items()
    ]
    found["inside"] = 100 * float(np.mean(inside))
    found |= {"bytes_round": made.bytes_round, "seconds": made.seconds}
    return {f"{name}.{figure}": value for figure, value in found.items()}


def _oracle(asked: MetaMoE, published: Published, given: World) -> routing.Router:
    """The same discriminant on private rows, which no server ever has."""
    features, count = (
        {silo: asked._features(published, data.x_train) for silo, data in given.silos.items()},
        len(DOMAINS),
    )
    by = [np.concatenate([features[s] for s, of in given.group.items() if of == g]) for g in range(count)]
    found = [routing.statistics(rows) for rows in by]
    return routing.discriminant(
        np.stack([mean for mean, _ in found]), np.mean([moments for _, moments in found], axis=0), [1 / count] * count
    )


def domains(make: Callable[[int, Setting], World], hidden: int) -> Callable[[int, Setting], Figures]:
    """Rules of choice on one world, with the default's background rows and without; and FedAvg, with as many public
    rows a silo as MetaMoE's proxies and background, and with as many parameters as all experts."""

    def run(seed: int, setting: Setting) -> Figures:
        given = make(seed, setting)
        base = given.params | {"hidden": hidden, "seed": seed}
        none: dict[str, object] = {"proxies": FEW, "background": 0}
        wanted: dict[str, tuple[str, dict[str, object]]] = {
            rule: (rule, none) for rule in (RULES if setting.full else ("dpp", "top", "random"))
        }
        if setting.full:
            for count in (FEWEST, MORE):
                wanted |= {f"{rule} {count}": (rule, none | {"proxies": count}) for rule in ("dpp", "top", "random")}
            wanted["paper"] = ("dpp", none | {"variant": "paper"})
        backed = ("dpp", "top", "random") if setting.full else ("dpp",)
        wanted |= {f"{rule} background": (rule, {"proxies": FEW}) for rule in backed}
        return compared(given, base, wanted) | baselines(given, base)

    return run


def compared(
    given: World, base: Mapping[str, object], wanted: Mapping[str, tuple[str, Mapping[str, object]]]
) -> dict[str, float]:
    """Name → (rule of choice, change of the parameters): their figures."""
    figures: dict[str, float] = {}
    for name, (rule, change) in wanted.items():
        kind = chooses(rule, given.pool)
        figures |= scored(name, federate(kind, {**base, **change}, given.silos), given)
    return figures


def baselines(given: World, base: Mapping[str, object]) -> dict[str, float]:
    """FedAvg on private rows, with public rows too, and then with as many parameters as all experts together."""
    plain = {key: base[key] for key in ("features", "classes", "hidden", "seed")} | {"rounds": 12}
    wide = plain | {"hidden": equal_hidden(MetaMoE, base, len(given.silos))}
    public = {silo: with_public(given, silo, FEW + BACKGROUND) for silo in given.silos}
    cohorts = {"fedavg": (plain, given.silos), "fedavg public": (plain, public), "fedavg public equal": (wide, public)}
    found = {}
    for name, (params, cohort) in cohorts.items():
        end = federate(FedAvg, params, cohort).published.slots["eval/0"]
        found[f"{name}.global"] = 100 * end["global.correct"] / end["test.rows"]
    return found


def with_public(given: World, silo: str, rows: int) -> DataSet:
    """A silo's data with rows of the pool by lot among its training rows."""
    data, rng = given.silos[silo], np.random.default_rng([6, *silo.encode()])
    mine = rng.permutation(len(given.pool.y_train))[:rows]
    return replace(
        data,
        x_train=np.concatenate([data.x_train, given.pool.x_train[mine]]),
        y_train=np.concatenate([data.y_train, given.pool.y_train[mine]]),
    )


def choice(make: Callable[[int, Setting], World], hidden: int) -> Callable[[int, Setting], Figures]:
    """The varied choice against the most relevant rows alone: they differ by less than a seed does."""

    def run(seed: int, setting: Setting) -> Figures:
        given = make(seed, setting)
        base = given.params | {"hidden": hidden, "seed": seed}
        none = {"proxies": FEW, "background": 0}
        return compared(given, base, {rule: (rule, none) for rule in ("dpp", "top")})

    return run


DIGITS, MNIST = "digits in four domains", "mnist in four domains"

CHOICE = {DIGITS: "choice of proxies, digits", MNIST: "choice of proxies, mnist"}

#: Seeds of ``CHOICE``: a seed's difference varies by 2.5 points, so five seeds decide nothing.
MANY = tuple(range(1000, 1020))

CASES = (
    Case(name=DIGITS, run=domains(digits, hidden=16)),
    Case(name=MNIST, run=domains(mnist, hidden=32), suites=("full",)),
    Case(name=CHOICE[DIGITS], run=choice(digits, hidden=16), suites=("full",), seeds=MANY),
    Case(name=CHOICE[MNIST], run=choice(mnist, hidden=32), suites=("full",), seeds=MANY),
)


def _bars(case: str) -> tuple[Bar, ...]:
    surest = difference("dpp.global", "dpp.surest")
    fedavg = difference("dpp background.global", "fedavg.global", "fedavg public.global", "fedavg public equal.global")
    router, varied = difference("dpp.router", "random.router"), difference("dpp.router", "top.router")
    return (
        Bar(name=f"{case}, {FEW} proxies: router, DPP ≥ random + 25", case=case, value=router, target=25),
        Bar(name=f"{case}, {FEW} proxies: global ≥ max-confidence − 0.5", case=case, value=surest, target=-0.5),
        Bar(name=f"{case}: global ≥ best FedAvg, with public rows and equal parameters", case=case, value=fedavg,
            target=0, rule=BarRule.LEAST),
        Bar(name=f"{CHOICE[case]}: router, DPP ≥ top relevance + 0.5", case=CHOICE[case], value=varied, target=0.5),
    )  # fmt: skip


BARS = (*_bars(DIGITS), *_bars(MNIST))
