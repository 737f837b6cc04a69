"""The model of ``tests.benchmarks.liveness``: a federation that works through a run while silos drop out.

A step has eight phases. A silo that is still in misses the request of each with probability p, independently. It is
then out for the rest of this attempt and back at the next ``open``. In ``attest``, ``unmask-slots`` and
``unmask-lanes`` it has a second chance: if fewer than t have answered, the others are asked once more. Who was merely
out of reach answers then with 1 - p; who has lost its session with its process does not (``died``). Floors are those of
complete records: n_min + t(n_min) > N + c. t is that of the silos that answered ``open``.

- Fewer than n_min at ``open`` or ``deal``, than t or m + c after ``fetch``, or than t at ``attest``: the attempt is
  lost and the step is tried again. Three lost attempts and the step is *lost*: the run breaks off and is resumed.
- After ``fetch`` the aggregator leaves silos out until the rule allows the rest. It goes by the sums of this base state
  that it asked for since the run began or was resumed (``Openings.fit``).
- Fewer than t at ``unmask-slots``: the step is *void*, and no share of a lane has left.
- At ``unmask-lanes`` a silo gives its shares if what it counts as opened for this base state allows the contributors of
  now, and then counts these too. Fewer than t such silos: the lanes are *shut* (too few silos), or *refused* (enough
  silos, but the rule). The base state stays.
- Fewer than m + c at ``tag``: nobody takes the sums for proven, and the step is *void*. Stand-ins for tags that are
  missing are asked one after another as long as a silo is left, and are not modelled.

At ``deal`` each silo tells what it counts; who is still in at ``contribute`` counts it from then on.

A step *goes through* if its lanes open; then the next has another base state, of which nothing is opened.

Figures of a step (accuracy before it) are a quantity of the same base state, static figures (rows) one of the data.
Both have masks of their own that are lifted at ``unmask-slots``, under the same rule. Figures are wanted in each step;
static figures are wanted once a run. Nobody is left out for their sake.
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

OPEN, DEAL, CONTRIBUTE, FETCH, ATTEST, SLOTS, LANES, TAG = range(8)
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
    """``drop``: p. ``died``: who misses a request has lost its session. All after ``rule`` changes the protocol.
    ``asks``: how often a silo is asked in each phase before others are waited for. ``again``: phases in which those
    that did not answer are asked once more. ``told``: silos tell what they count, and it takes n_min of them at
    ``deal``, not t. ``fitted``: the aggregator leaves silos out. ``remembers``: it knows what it asked for before the
    run was resumed."""

    silos: int
    drop: float
    steps: int = 100
    died: bool = False
    rule: Rule = Rule.ATOMS
    attempts: int = 3
    asks: int = 1
    again: tuple[int, ...] = (ATTEST, SLOTS, LANES, TAG)
    n_min: int | None = None
    told: bool = True
    fitted: bool = True
    remembers: bool = True

    @property
    def smallest(self) -> int:
        return self.n_min or FLOORS.n_min(self.silos)


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

    def tell(self, by: Iterable[int], to: Iterable[int]) -> None:
        together = reduce(or_, {self._of[i] for i in by}, Openings())
        for i in to:
            self._of[i] |= together

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


def names(silos: Iterable[int]) -> frozenset[str]:
    return frozenset(map(NAMES.__getitem__, silos))


@dataclass(frozen=True, slots=True)
class Weather:
    """One attempt: whether each silo answers in a phase when it is asked, and when it is asked once more."""

    first_NP: Sequence[Sequence[bool]]
    second_NP: Sequence[Sequence[bool]]

    def answers(self, phase: int, among: Iterable[int], least: int = 0) -> list[int]:
        """The silos that answer. ``least``: if fewer do, the others are asked once more."""
        asked = list(among)
        first = [i for i in asked if self.first_NP[i][phase]]
        if len(first) >= least:
            return first
        return [i for i in asked if self.first_NP[i][phase] or self.second_NP[i][phase]]


def weather(setting: Setting, rng: np.random.Generator) -> list[list[Weather]]:
    """For each step of a run, for each of its attempts."""
    first_SANP, second_SANP = rng.random((2, setting.steps, setting.attempts, setting.silos, 8))
    missed = setting.drop**setting.asks
    first, second = first_SANP >= missed, (second_SANP >= missed) & (not setting.died)
    steps = zip(first.tolist(), second.tolist(), strict=True)
    return [[Weather(*attempt) for attempt in zip(*step, strict=True)] for step in steps]


class Run:
    """One run: ``tally`` plays it to its end. ``static``: what is opened of static figures, in earlier runs too."""

    def __init__(self, setting: Setting, static: Records) -> None:
        self.setting = setting
        self.lanes, self.figures, self.static = Records(setting.silos), Records(setting.silos), static
        self.asked_for = Openings()
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
        if not self.setting.remembers:
            self.asked_for = Openings()
        return End.LOST

    def _attempt(self, k: int, now: Weather) -> End | None:
        """The end of the step, or None if the attempt is lost."""
        setting = self.setting
        announced = [i for i in now.answers(OPEN, range(setting.silos)) if self.last[i] is not None]
        t = threshold(len(announced))
        floor = max(t, LEAST)
        if len(announced) < setting.smallest:
            return None
        dealt = now.answers(DEAL, announced)
        if len(dealt) < (setting.smallest if setting.told else t):
            return None
        survivors = now.answers(CONTRIBUTE, dealt)
        if setting.told:
            for records in (self.lanes, self.figures, self.static):
                records.tell(dealt, survivors)
        survivors = self._fitted(now.answers(FETCH, survivors))
        if len(survivors) < floor:
            return None
        contributors = names(survivors)
        attesting = now.answers(ATTEST, self._willing(survivors, contributors), self._again(ATTEST, t))
        if len(attesting) < t:
            return None
        return self._unmask(k, t, contributors, now, attesting)

    def _again(self, phase: int, t: int) -> int:
        return t if phase in self.setting.again else 0

    def _fitted(self, silos: list[int]) -> list[int]:
        if not self.setting.fitted or self.setting.rule is not Rule.ATOMS:
            return silos
        kept = self.asked_for.fit(names(silos), LEAST)
        return [i for i in silos if NAMES[i] in kept]

    def _willing(self, silos: list[int], contributors: frozenset[str]) -> list[int]:
        if self.setting.rule is not Rule.LAST:
            return silos
        return [i for i in silos if (rule := self.last[i]) is not None and rule.allows(contributors)]

    def _unmask(self, k: int, t: int, contributors: frozenset[str], now: Weather, silos: list[int]) -> End:
        at_slots = now.answers(SLOTS, silos, self._again(SLOTS, t))
        if self.setting.rule is Rule.LAST:
            for i in at_slots:
                self.last[i] = rule.released(contributors) if (rule := self.last[i]) is not None else None
        figures = self._release(self.figures, at_slots, contributors)
        static = self._release(self.static, at_slots, contributors) if self.static_at is None else []
        if len(at_slots) < t:
            return self._void(at_slots)
        if len(static) >= t:
            self.static_at = k
        self.asked_for = self.asked_for.refine(contributors)
        at_lanes = now.answers(LANES, at_slots, self._again(LANES, t))
        if len(self._release(self.lanes, at_lanes, contributors)) < t:
            return End.REFUSED if len(at_lanes) >= t else End.SHUT
        if len(now.answers(TAG, at_lanes, self._again(TAG, LEAST))) < LEAST:
            return self._void(at_slots)
        self.counts_figures += len(figures) >= t
        self.asked_for = Openings()
        self.lanes.forget()
        self.figures.forget()
        return End.THROUGH

    def _void(self, silos: list[int]) -> End:
        for i in silos if self.setting.rule is Rule.LAST else ():
            self.last[i] = rule.voided() if (rule := self.last[i]) is not None else None
        return End.VOID

    def _release(self, records: Records, silos: list[int], contributors: frozenset[str]) -> list[int]:
        """The silos that give their shares, under the rule of atoms if that is the rule; they count the set."""
        if self.setting.rule is not Rule.ATOMS:
            return silos
        releasing = records.allow(silos, contributors)
        records.count(releasing, contributors)
        return releasing
