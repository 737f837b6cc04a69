"""What a study of a method is: cases to run under seeds, and bars to hold their figures to.

A study is a module ``tests.benchmarks.study_*`` with ``CASES`` and ``BARS``; ``methods.STUDIES`` names it. A case runs
under one seed and gives figures by name (accuracies in per cent). A bar is a function of one case's figures and a
target; its values are paired by construction, one a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

Figures = Mapping[str, float]

#: Seeds of the splits that bars are measured on. No constant or hyper-parameter was chosen on them.
SEEDS = (0, 1, 2, 3, 4)

#: How many of a case's seeds, from the first on, the suite ``test`` runs if the case names no number.
SEEDS_OF_TEST = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """``full``: every baseline; else those that bars are about. ``data``: the folder of data that no package brings."""

    full: bool
    data: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``run(seed, setting)``: figures. Suite ``test`` needs scikit-learn alone, ``full`` may read ``setting.data``.
    ``seeds_of_test``: how many seeds the suite ``test`` runs; more than two where two leave a bar little margin."""

    name: str
    run: Callable[[int, Setting], Figures]
    suites: tuple[str, ...] = ("test", "full")
    seeds: Sequence[int] = SEEDS
    seeds_of_test: int = SEEDS_OF_TEST

    def seeds_in(self, suite: str) -> Sequence[int]:
        return self.seeds[: self.seeds_of_test] if suite == "test" else self.seeds


class Rule(StrEnum):
    """When a bar holds."""

    GAIN = "gain"  #: b > 0: mean ≥ b and mean − SE ≥ b/2. b ≤ 0 (non-inferiority): mean ≥ b and mean − SE ≥ 2b
    LEAST = "least"  #: the mean is at least the target
    MOST = "most"  #: the mean is at most the target
    ALWAYS = "always"  #: every value is at least the target


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """``value``: from the figures of one seed. ``missed``: why a bar is not met, once that has been understood."""

    name: str
    case: str
    value: Callable[[Figures], float]
    target: float
    rule: Rule = Rule.GAIN
    missed: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar held against its values. ``se``: standard error of the mean, 0 for a single value."""

    mean: float
    se: float
    values: tuple[float, ...]
    target: float
    holds: bool


def standard_error(values: Sequence[float]) -> float:
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def judge(bar: Bar, figures: Sequence[Figures]) -> Verdict:
    """``figures``: those of the bar's case, one for each seed."""
    values = tuple(bar.value(one) for one in figures)
    at, error, b = mean(values), standard_error(values), bar.target
    match bar.rule:
        case Rule.GAIN:
            holds = at >= b and at - error >= (b / 2 if b > 0 else 2 * b)
        case Rule.LEAST:
            holds = at >= b
        case Rule.MOST:
            holds = at <= b
        case Rule.ALWAYS:
            holds = min(values) >= b
    return Verdict(at, error, values, b, holds)


def difference(ours: str, *theirs: str) -> Callable[[Figures], float]:
    """Ours less the best of theirs."""
    return lambda figures: figures[ours] - max(figures[name] for name in theirs)
