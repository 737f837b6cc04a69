"""The rule of atoms holds against every sequence of openings; the rule before it does not.

A void step, a further attempt and a second run from the same base state are openings of the same quantity, so a
sequence of any of them is a sequence of ``refine``. What may not be in the span of the opened sets is checked by ranks
over the rationals, which know nothing of atoms.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from fractions import Fraction
from itertools import combinations, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.atoms import Openings
from crypto.charter import threshold
from crypto.charter_defaults import Floors
from crypto.errors import CohortDifference, Malformed
from tests.last_release import LastRelease

Set = frozenset[int]
Family = tuple[Set, ...]


def named(family: Iterable[Iterable[int]]) -> Openings:
    return Openings(frozenset(frozenset(f"silo-{i}" for i in one) for one in family))


def silos(*numbers: int) -> frozenset[str]:
    return frozenset(f"silo-{i}" for i in numbers)


# --- the second implementation: linear algebra -----------------------------------------------------------------------


def rank(rows: Iterable[Sequence[int]]) -> int:
    """Over the rationals, by Gauss."""
    left, found = [[Fraction(value) for value in row] for row in rows], 0
    while left:
        row = left.pop()
        pivot = next((i for i, value in enumerate(row) if value), None)
        if pivot is None:
            continue
        found += 1
        left = [[a - other[pivot] / row[pivot] * b for a, b in zip(other, row, strict=True)] for other in left]
    return found


def supported(family: Collection[Set], members: Iterable[int], inside: Collection[int], known: Collection[int]) -> bool:
    """Whether some combination of the sums, less the ``known`` members' own values, depends on one or more of
    ``inside`` and on nobody else."""
    others = [i for i in members if i not in known]
    outside = [i for i in others if i not in inside]
    rows = lambda columns: ([int(i in opened) for i in columns] for opened in family)  # noqa: E731
    return rank(rows(outside)) < rank(rows(others))


def isolates(family: Collection[Set], n: int, least: int, known: Collection[int] = ()) -> bool:
    """Whether some combination depends on fewer than ``least`` of the members that are not ``known``."""
    others = [i for i in range(n) if i not in known]
    return any(supported(family, range(n), few, known) for few in combinations(others, least - 1))


def test_the_second_implementation_finds_what_is_there() -> None:
    assert rank([]) == rank([[0, 0]]) == 0 and rank([[1, 2], [2, 4]]) == 1 and rank([[0, 1], [1, 0], [1, 1]]) == 2
    pair = [frozenset({0, 1, 2}), frozenset({0, 1, 3})]
    assert isolates(pair, 4, 3) and not isolates(pair, 4, 2)  # the difference depends on 2 and 3
    assert isolates(pair, 4, 2, known=[3]) and not isolates([frozenset({0, 1, 2})], 4, 3)


# --- every sequence --------------------------------------------------------------------------------------------------


def canonical(family: Family, fixed: int = 0) -> tuple[tuple[int, ...], ...]:
    """The same for two families that differ by names of the members, or by the order after the ``fixed`` first sets."""
    members = range(max(map(max, family)) + 1)
    orders = (family[:fixed] + rest for rest in permutations(family[fixed:]))
    return min(tuple(sorted(tuple(int(i in one) for one in order) for i in members)) for order in orders)


def subsets(n: int, least: int = 1) -> list[Set]:
    return [frozenset(one) for size in range(least, n + 1) for one in combinations(range(n), size)]


def reachable(n: int, least: int, longest: int | None) -> Iterator[Family]:
    """Every family of sets that some sequence of at most ``longest`` different openings can open, up to symmetry.
    None: of whatever length."""
    level: list[Family] = [()]
    length = 0
    while level and length != longest:
        length += 1
        found: dict[object, Family] = {}
        for family in level:
            opened = named(family)
            for now in subsets(n):
                refused = opened.conflicts((f"silo-{i}" for i in now), least)
                groups = Counter(tuple(i in one for one in (*family, now)) for i in range(n))
                too_small = any(size < least for place, size in groups.items() if any(place))
                assert bool(refused) == too_small
                if not refused and now not in family:
                    found.setdefault(canonical((*family, now)), (*family, now))
        level = list(found.values())
        yield from level


@pytest.mark.parametrize("n", range(3, 9))
@pytest.mark.parametrize(("c", "m", "longest"), [(0, 2, 3), (1, 2, None), (2, 2, None), (1, 3, None)])
def test_no_sequence_of_openings_leaves_less_than_m_plus_c(n: int, c: int, m: int, longest: int | None) -> None:
    """Without a bound the search still ends: after a few different sets no new one is allowed."""
    families = 0
    for family in reachable(n, m + c, longest):
        families += 1
        assert not isolates(family, n, m + c)
        for colluders in combinations(range(n), c):
            assert not isolates(family, n, m, known=colluders)
    assert bool(families) == (n >= m + c)


# --- the positive control: the same search against the rule before ---------------------------------------------------


def shortest(n: int, runs: int) -> Family | None:
    """The shortest sequence of survivor sets that the last-release rule allows, with no budgets, and that leaves some
    combination of fewer than m + c. ``runs``: how often the adversary may begin."""
    floors = Floors()
    least = floors.honest + floors.colluders
    n_min = threshold(n, floors.colluders)  # what charters had then
    smallest = max(least, threshold(n_min, floors.colluders))
    level: list[tuple[Family, LastRelease, int]] = [((), LastRelease(least), runs - 1)]
    seen = set()
    while level:
        found = []
        for family, rule, left in level:
            ways = [(rule, left)] + ([(LastRelease(least), left - 1)] if left and family else [])
            for now, (before, rest) in product(subsets(n, smallest), ways):
                longer = (now, *family)  # the last one first: the rule looks at it
                if not before.allows(now) or (key := (canonical(longer, fixed=1), rest)) in seen:
                    continue
                seen.add(key)
                if isolates(longer, n, least):
                    return longer[::-1]
                found.append((longer, before.released(now), rest))
        level = found if found and len(found[0][0]) < 5 else []
    return None


@pytest.mark.parametrize("n", [6, 7, 8])
def test_the_rule_before_is_broken_within_one_run(n: int) -> None:
    found = shortest(n, runs=1)
    assert found is not None and len(found) <= 4
    record = Openings()
    with pytest.raises(CohortDifference):
        for one in found:
            record.check((f"silo-{i}" for i in one), 3)
            record = record.refine(f"silo-{i}" for i in one)


def test_of_five_silos_no_cohort_can_move_within_one_run() -> None:
    """The floors leave none that differs by three: why the control begins at six."""
    assert shortest(5, runs=1) is None


@pytest.mark.parametrize("n", range(6, 41))
def test_the_rule_before_is_broken_within_one_run_of_many_silos(n: int) -> None:
    """All, all but three, all, all but three others of which two are the same: two sums differ by two silos."""
    everyone = frozenset(range(n))
    sequence = [everyone, everyone - {0, 1, 2}, everyone, everyone - {1, 2, 3}]
    rule = LastRelease(least=3)
    for now in sequence:
        assert rule.allows(now)
        rule = rule.released(now)
    assert supported(sequence, range(n), {0, 3}, known=())


@pytest.mark.parametrize("n", [4, 5, 8])
def test_the_rule_before_is_broken_by_two_runs(n: int) -> None:
    found = shortest(n, runs=2)
    assert found is not None and len(found) == 2


def test_the_nine_steps_that_were_shown_are_refused() -> None:
    sequence = [set(range(1, 9)), {1, 2, 3, 4}, {1, 5, 6, 7}, {1, 2, 3, 4, 5, 6, 7}]
    rule, record, refused = LastRelease(least=3), Openings(), []
    for now in sequence:
        assert rule.allows(frozenset(now))  # type: ignore[arg-type]
        rule = rule.released(frozenset(now))  # type: ignore[arg-type]
        if record.conflicts(silos(*now), 3):
            refused.append(now)
        else:
            record = record.refine(silos(*now))
    assert refused == sequence[2:]


def test_the_rule_is_sufficient_and_not_necessary() -> None:
    sets = [frozenset({1, 2, 3, 4}), frozenset({3, 4, 5, 6})]
    assert named(sets[:1]).conflicts(silos(3, 4, 5, 6), 3)
    assert not isolates([frozenset(i - 1 for i in one) for one in sets], 6, 3)


# --- the record ------------------------------------------------------------------------------------------------------


def test_atoms_are_who_was_always_in_and_out_together() -> None:
    assert Openings().atoms == ()
    assert named([range(1, 7)]).atoms == (silos(1, 2, 3, 4, 5, 6),)
    assert named([range(1, 7), range(4, 9)]).atoms == (silos(7, 8), silos(1, 2, 3), silos(4, 5, 6))
    assert Openings().refine([]) == Openings()
    assert named([[1, 2]]) | named([[2, 3]]) == named([[2, 3], [1, 2]])


def test_a_set_that_was_opened_passes_again_while_nothing_else_has_cut_it() -> None:
    record = named([range(1, 9), range(1, 5)])
    record.check(silos(1, 2, 3, 4), 4)
    told = record | named([range(2, 9)])  # another silo counts all but silo-1
    for now in [*told.sets, silos(1, 2, 3, 4, 9, 10, 11)]:
        with pytest.raises(CohortDifference, match="leave silo-1; and") as refused:
            told.check(now, 4)
        assert refused.value.remedy == "No further sum of this quantity can be opened."
        assert not told.fit(now, 4)


def test_a_stricter_floor_shuts_what_a_weaker_one_has_opened() -> None:
    record = named([range(1, 9), range(1, 5)])
    with pytest.raises(CohortDifference, match="silo-1, silo-2, silo-3, silo-4; and silo-5") as refused:
        record.check(silos(1, 2, 3, 4), 5)
    assert refused.value.remedy == "No further sum of this quantity can be opened."


def test_too_few_contributors_are_refused_and_nobody_opens_nothing() -> None:
    with pytest.raises(CohortDifference):
        Openings().check(silos(1, 2), 3)
    Openings().check(silos(1, 2, 3), 3)
    Openings().check([], 3)


def test_plain_values_are_read_back() -> None:
    record = named([[10, 9], [1, 2, 3]])
    assert record.plain() == [["silo-1", "silo-2", "silo-3"], ["silo-10", "silo-9"]]
    assert Openings.read(record.plain()) == record and Openings.read([]) == Openings()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        "silo-1",
        ("a",),
        ["a"],
        [("a", "b")],
        [["a", 1]],
        [["a", ""]],
        [[]],
        [["b", "a"]],
        [["a", "a"]],
        [["b"], ["a"]],
        [["a"], ["a"]],
    ],
)
def test_any_other_value_is_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        Openings.read(value)


# --- any sequence among many silos ----------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn, most: int = 100) -> tuple[int, int, list[frozenset[str]]]:
    """(n, m + c, sets to try): sets of any kind, and small changes of those before."""
    n, least = draw(st.integers(3, most)), draw(st.integers(2, 7))
    everyone = [f"silo-{i}" for i in range(n)]
    tried: list[frozenset[str]] = [frozenset(everyone)]
    for _ in range(draw(st.integers(0, 7))):
        base = draw(st.sampled_from([frozenset(), *tried]))
        cut = draw(st.permutations(everyone))[: draw(st.sampled_from([1, least - 1, least, n // 2]))]
        tried.append(base ^ frozenset(cut))
    return n, least, tried


@given(histories(), st.data())
def test_whatever_is_tried_among_up_to_a_hundred_silos(
    history: tuple[int, int, list[frozenset[str]]], data: st.DataObject
) -> None:
    n, least, tried = history
    members, record = [f"silo-{i}" for i in range(n)], Openings()
    for now in tried:
        conflicts = record.conflicts(now, least)
        grouped = Counter(tuple(silo in one for one in (*record.sets, now)) for silo in members)
        assert bool(conflicts) == any(size < least for place, size in grouped.items() if any(place))
        if conflicts:
            with pytest.raises(CohortDifference):
                record.check(now, least)
        else:
            record = record.refine(now)
            record.check(now, least)
    assert Openings.read(record.plain()) == record
    assert frozenset().union(*record.atoms) == frozenset().union(*record.sets)
    assert sum(map(len, record.atoms)) == len(frozenset().union(*record.sets))
    nobody_is_isolated(record, members, least, data)


def nobody_is_isolated(record: Openings, members: list[str], least: int, data: st.DataObject) -> None:
    """Some sets of fewer than ``least``. The most to gain have all but one of an atom, or a few of several."""
    place = {silo: i for i, silo in enumerate(members)}
    family = [frozenset(place[silo] for silo in one) for one in record.sets]
    few = [sorted(atom)[: least - 1] for atom in record.atoms] + [data.draw(st.permutations(members))[: least - 1]]
    assert not any(supported(family, range(len(members)), {place[silo] for silo in some}, ()) for some in few)


class Ending(StrEnum):
    VOID = "void"  #: the shares of figures have left
    SHUT = "shut"  #: those of a lane too, and too few
    OPEN = "open"
    RERUN = "rerun"  #: opened, and then another run begins from the first base state


@given(histories(), st.data())
def test_no_sequence_of_steps_voids_attempts_and_runs_isolates_anyone(
    history: tuple[int, int, list[frozenset[str]]], data: st.DataObject
) -> None:
    """What is a sum of which quantity. A base state is what it came from: the sets that were opened before it."""
    n, least, tried = history
    members, base = [f"silo-{i}" for i in range(n)], tuple[frozenset[str], ...]()
    records: defaultdict[object, Openings] = defaultdict(Openings)
    for now in tried:
        ending = data.draw(st.sampled_from(Ending))
        figures, update = ["rows", ("correct", base)], ("update", base)
        for name in figures if ending is Ending.VOID else [*figures, update]:
            if not records[name].conflicts(now, least):
                records[name] = records[name].refine(now)
        if ending in (Ending.OPEN, Ending.RERUN) and now in records[update].sets:
            base = (*base, now) if ending is Ending.OPEN else ()
    for record in records.values():
        nobody_is_isolated(record, members, least, data)
