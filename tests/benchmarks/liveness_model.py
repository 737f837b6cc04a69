"""The model of ``tests.benchmarks.liveness``: a federation that works through a run while silos drop out.

A step has eight phases. A silo that is still in drops out in each of them with probability p, independently; it is then
out for the rest of this attempt and back at the next ``open``. Floors are the charter's defaults
(``crypto.charter_defaults``), t that of the silos that answered ``open``.

- Fewer than n_min at ``open``, than t after ``deal``, than t or m + c after ``fetch`` and after ``tag``, or than t at
  ``attest``: the attempt is lost and the step is tried again. Three lost attempts and the step is *lost*: the run
  breaks off and is resumed.
- Fewer than t at ``unmask-slots``: the step is *void*, and no share of a lane has left.
- At ``unmask-lanes`` a silo gives its shares if the sets that it counts as opened for this base state allow the
  contributors of now, and then counts them too. Fewer than t such silos: the lanes are *shut* (too few silos), or
  *refused* (enough silos, but the rule). The base state stays.

A step *goes through* if its lanes open; then the next has another base state, of which nothing is opened.

Figures of a step (accuracy before it) are a quantity of the same base state, static figures (rows) one of the data.
Both are taken to have masks of their own that are lifted at ``unmask-slots``, under the same rule. Figures are wanted
in each step; static figures are wanted once a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import or_

import numpy as np

from crypto.atoms import Openings
from crypto.charter_defaults import Floors
from tests.last_release import DIFFERENCES, VOIDS, LastRelease

OPEN, DEAL, CONTRIBUTE, FETCH, TAG, ATTEST, SLOTS, LANES = range(8)
FLOORS = Floors()
LEAST = FLOORS.honest + FLOORS.colluders
NAMES = [f"silo-{i}" for i in range(1, 65)]


def threshold(n: int) -> int:
    """t of a cohort of n."""
    return (n + FLOORS.colluders) // 2 + 1


class Rule(StrEnum):
    ATOMS = "atoms"
    NONE = "none"
    LAST = "last release"  #: the rule before decision 23


class End(StrEnum):
    THROUGH = "through"
    LOST = "lost"  #: three lost attempts
    VOID = "void"
    SHUT = "shut"  #: too few silos at unmask-lanes
    REFUSED = "refused"  #: enough of them, but the rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """``drop``: p. All after ``rule`` changes the protocol. ``asks``: how often a silo is asked in each phase; it drops
    out if it misses all. ``rounds``: how often those of U4 are asked in each phase from ``attest`` on; who dropped out
    is back for the next round, its session kept on disk. ``shared``: adverts tell all silos what each counts as opened.
    ``early``: the rule is asked at ``attest``, so that a refusal costs an attempt. ``fitted``: before ``attest`` the
    aggregator leaves silos out, as if they had sent no tag, until the rule allows the rest."""

    silos: int
    drop: float
    steps: int = 100
    rule: Rule = Rule.ATOMS
    attempts: int = 3
    asks: int = 1
    rounds: int = 1
    n_min: int | None = None
    shared: bool = False
    early: bool = False
    fitted: bool = False

    @property
    def smallest(self) -> int:
        """The charter's n_min; if not said otherwise the least with n > (N + c) / 2, which charters had before."""
        return self.n_min or threshold(self.silos)


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one run. ``figures``: steps that went through with their figures. ``stall``: most steps in a row that did
    not go through."""

    ends: Counter[End]
    figures: int
    stall: int


class Records:
    """What each silo counts as opened of one quantity. A silo is its number."""

    def __init__(self, silos: int) -> None:
        self._of = [Openings()] * silos

    def forget(self) -> None:
        self._of = [Openings()] * len(self._of)

    def share(self, among: Iterable[int]) -> None:
        among = list(among)
        together = reduce(or_, {self._of[i] for i in among}, Openings())
        for i in among:
            self._of[i] = together

    def allow(self, among: Iterable[int], contributors: frozenset[str]) -> list[int]:
        """The silos of ``among`` that would release a sum over these contributors."""
        among = list(among)
        refused = {record: bool(record.conflicts(contributors, LEAST)) for record in {self._of[i] for i in among}}
        return [i for i in among if not refused[self._of[i]]]

    def count(self, among: Iterable[int], contributors: frozenset[str]) -> None:
        among = list(among)
        longer = {record: record.refine(contributors) for record in {self._of[i] for i in among}}
        for i in among:
            self._of[i] = longer[self._of[i]]

    def known(self) -> Openings:
        """What all silos count, together: the aggregator asked for it, so it knows it."""
        return reduce(or_, set(self._of), Openings())


def names(silos: Iterable[int]) -> frozenset[str]:
    return frozenset(map(NAMES.__getitem__, silos))


@dataclass(frozen=True, slots=True)
class Weather:
    """One attempt. ``done_N``: the phases that each silo completes, 0 to 8. ``back_NP``: whether it answers in a later
    round of a phase, once it is back."""

    done_N: Sequence[int]
    back_NP: Sequence[Sequence[bool]]

    def left(self, phase: int, among: Iterable[int]) -> list[int]:
        """The silos that answer in a phase without having dropped out."""
        return [i for i in among if self.done_N[i] > phase]

    def answers(self, phase: int, among: Iterable[int]) -> list[int]:
        """The silos that answer in a phase in some round."""
        return [i for i in among if self.done_N[i] > phase or self.back_NP[i][phase]]


def weather(setting: Setting, rng: np.random.Generator) -> list[list[Weather]]:
    """For each step of a run, for each of its attempts."""
    missed_SANP, late_SANP = rng.random((2, setting.steps, setting.attempts, setting.silos, 8))
    missed_SANP = missed_SANP < setting.drop**setting.asks
    done_SAN = np.where(missed_SANP.any(axis=3), missed_SANP.argmax(axis=3), 8)
    back_SANP = late_SANP >= setting.drop ** (setting.asks * (setting.rounds - 1))
    steps = zip(done_SAN.tolist(), back_SANP.tolist(), strict=True)
    return [[Weather(*attempt) for attempt in zip(*step, strict=True)] for step in steps]


def fitted(silos: Sequence[int], opened: Openings) -> list[int]:
    """The silos less those that have to stay out so that the rule allows the rest."""
    now, out = names(silos), frozenset[str]()
    for conflict in opened.conflicts(now, LEAST):
        inside, spare = sorted(conflict.inside), len(conflict.inside) - LEAST
        more = LEAST - len(conflict.outside)
        out |= frozenset(inside[:more] if 0 < more <= spare and conflict.outside else inside)
    return [i for i in silos if not names([i]) & out]


class Run:
    """One run: ``tally`` plays it to its end. ``static``: what is opened of static figures, in earlier runs too."""

    def __init__(self, setting: Setting, static: Records) -> None:
        self.setting = setting
        self.lanes, self.figures, self.static = Records(setting.silos), Records(setting.silos), static
        self.last: list[LastRelease | None] = [LastRelease(LEAST, DIFFERENCES, VOIDS) for _ in range(setting.silos)]
        self.counts_figures = 0
        self.static_at: int | None = None

    def tally(self, steps: Sequence[Sequence[Weather]]) -> Tally:
        ends: Counter[End] = Counter()
        stall = longest = 0
        for k, attempts in enumerate(steps):
            end = self.step(k, attempts)
            ends[end] += 1
            stall = 0 if end is End.THROUGH else stall + 1
            longest = max(longest, stall)
        return Tally(ends, self.counts_figures, longest)

    def static_opens(self, steps: Sequence[Sequence[Weather]]) -> int | None:
        """The step in which static figures open, or None: the run is played no further."""
        for k, attempts in enumerate(steps):
            self.step(k, attempts)
            if self.static_at is not None:
                break
        return self.static_at

    def step(self, k: int, attempts: Sequence[Weather]) -> End:
        for now in attempts:
            if (end := self._attempt(k, now)) is not None:
                return end
        return End.LOST

    def _attempt(self, k: int, now: Weather) -> End | None:
        """The end of the step, or None if the attempt is lost."""
        setting = self.setting
        announced = [i for i in now.left(OPEN, range(setting.silos)) if self.last[i] is not None]
        t = threshold(len(announced))
        floor = max(t, LEAST)
        if len(announced) < setting.smallest:
            return None
        if setting.shared:
            for records in (self.lanes, self.figures, self.static):
                records.share(announced)
        tagged = now.left(TAG, announced)
        if len(now.left(DEAL, announced)) < t or len(now.left(FETCH, announced)) < floor:
            return None
        if setting.fitted:
            tagged = fitted(tagged, self.lanes.known())
        if len(tagged) < floor:
            return None
        contributors = names(tagged)
        if len(self._attesting(now.answers(ATTEST, tagged), contributors)) < t:
            return None
        return self._unmask(k, t, contributors, now.answers(SLOTS, tagged), now.answers(LANES, tagged))

    def _attesting(self, silos: list[int], contributors: frozenset[str]) -> list[int]:
        if self.setting.rule is Rule.LAST:
            return [i for i in silos if (rule := self.last[i]) is not None and rule.allows(contributors)]
        return self.lanes.allow(silos, contributors) if self.setting.early else silos

    def _unmask(self, k: int, t: int, contributors: frozenset[str], at_slots: list[int], at_lanes: list[int]) -> End:
        ruled = self.setting.rule is Rule.ATOMS
        if self.setting.rule is Rule.LAST:
            for i in at_slots:
                self.last[i] = rule.released(contributors) if (rule := self.last[i]) is not None else None
        figures = self._release(self.figures, at_slots, contributors)
        static = self._release(self.static, at_slots, contributors) if self.static_at is None else []
        if len(at_slots) < t:
            for i in at_slots if self.setting.rule is Rule.LAST else ():
                self.last[i] = rule.voided() if (rule := self.last[i]) is not None else None
            return End.VOID
        if len(static) >= t:
            self.static_at = k
        releasing = self._release(self.lanes, at_lanes, contributors)
        if len(releasing) < t:
            return End.REFUSED if ruled and len(at_lanes) >= t else End.SHUT
        self.counts_figures += len(figures) >= t
        self.lanes.forget()
        self.figures.forget()
        return End.THROUGH

    def _release(self, records: Records, silos: list[int], contributors: frozenset[str]) -> list[int]:
        """The silos that give their shares, under the rule of atoms if that is the rule; they count the set."""
        if self.setting.rule is not Rule.ATOMS:
            return silos
        releasing = records.allow(silos, contributors)
        records.count(releasing, contributors)
        return releasing
