"""When the silos' records are complete: the rule of atoms protects only against the openings that a releaser knows.

A small model of who knows what. A silo counts a set when its own shares leave. With ``told``, each advert says what its
silo counts, and everyone in the cohort counts that too. Sessions come one after another. Colluders release anything.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

import pytest

from crypto.atoms import Openings
from crypto.errors import CohortDifference
from tests.benchmarks.liveness_model import FLOORS, LEAST, complete_n_min, threshold

C = FLOORS.colluders


class Federation:
    """``silos`` members, numbered from 1; the last c of them collude."""

    def __init__(self, silos: int, n_min: int, told: bool) -> None:
        self.n_min, self.told = n_min, told
        self.honest = range(1, silos + 1 - C)
        self.records = dict.fromkeys(self.honest, Openings())
        self.opened = Openings()

    def open(self, cohort: Collection[int], contributors: Collection[int], asked: Iterable[int]) -> bool:
        """Try one session; whether its sum opened. ``asked``: the silos that the aggregator asks for their shares."""
        assert set(contributors) <= set(cohort)
        if len(cohort) < self.n_min or len(contributors) < max(LEAST, threshold(len(cohort))):
            return False
        here = [i for i in self.honest if i in cohort]
        now = frozenset(map(str, contributors))
        if self.told:
            together = Openings()
            for i in here:
                together |= self.records[i]
            self.records |= dict.fromkeys(here, together)
        shares = sum(i not in self.honest for i in contributors)
        for i in asked:
            if i in here and i in contributors and not self.records[i].conflicts(now, LEAST):
                self.records[i] = self.records[i].refine(now)
                shares += 1
        if shares < threshold(len(cohort)):
            return False
        self.opened = self.opened.refine(now)
        return True

    def fewest(self) -> int:
        """The fewest honest silos in an atom of what really opened, or the least that is allowed."""
        honest = {str(i) for i in self.honest}
        return min((len(atom & honest) for atom in self.opened.atoms if atom & honest), default=FLOORS.honest)


#: N = 8, silo 8 colludes. The silos that release the third set have not heard of the second.
UNHEARD = [
    (range(1, 9), range(1, 9), [1, 2, 5, 6]),
    ([1, 2, 3, 4, 8], [1, 2, 3, 4, 8], [1, 2, 3]),
    ([4, 5, 6, 7, 8], [4, 5, 6, 7, 8], [5, 6, 7]),
]


@pytest.mark.parametrize(("n_min", "told", "opens"), [(5, True, 3), (5, False, 3), (6, True, 1)])
def test_a_releaser_that_has_not_heard_of_an_opening_protects_nobody(n_min: int, told: bool, opens: int) -> None:
    federation = Federation(8, n_min, told)
    assert sum(federation.open(*session) for session in UNHEARD) == opens
    assert federation.fewest() == (1 if opens == 3 else 7)  # silo 4 is alone


def test_with_the_whole_record_the_third_set_is_refused() -> None:
    whole = Openings()
    for _, contributors, _ in UNHEARD[:2]:
        whole.check(map(str, contributors), LEAST)
        whole = whole.refine(map(str, contributors))
    with pytest.raises(CohortDifference):
        whole.check(map(str, UNHEARD[2][1]), LEAST)


def broken(silos: int, told: bool, tries: int) -> int:
    """How often an adversary that plays with some sense leaves fewer than m honest silos in an atom, where n_min is
    that of complete records. It asks those first that count the fewest sets, and likes sets that cut earlier ones."""
    rng, members, found = random.Random(silos), range(1, silos + 1), 0
    for _ in range(tries):
        federation = Federation(silos, complete_n_min(silos), told)
        earlier: list[list[int]] = []
        for _ in range(5):
            cohort = rng.sample(members, rng.randint(federation.n_min, silos))
            cuts = [
                [i for i in cohort if (i in one) == kept or i == silos] for one in earlier for kept in (True, False)
            ]
            size = rng.randint(threshold(len(cohort)), len(cohort))
            contributors = rng.choice([cohort, *cuts] if rng.random() < 0.6 else [cohort[:size]])
            known = {i: len(federation.records[i].sets) for i in federation.honest}
            asked = sorted(contributors, key=lambda i: known.get(i, 0) + rng.random())[: threshold(len(cohort))]
            if federation.open(cohort, contributors, asked):
                earlier.append(contributors)
        found += federation.fewest() < FLOORS.honest
    return found


@pytest.mark.parametrize("silos", [5, 6, 8, 10])
def test_told_records_hold_where_every_cohort_has_an_honest_silo_of_every_opening(silos: int) -> None:
    assert broken(silos, told=True, tries=1000) == 0


@pytest.mark.parametrize("silos", [8, 10])
def test_records_that_are_kept_to_oneself_do_not_hold_there(silos: int) -> None:
    assert broken(silos, told=False, tries=300) > 0


@pytest.mark.parametrize("silos", range(4, 65))
def test_two_thirds_are_enough(silos: int) -> None:
    assert complete_n_min(silos) <= (2 * silos + C) // 3 + 1
