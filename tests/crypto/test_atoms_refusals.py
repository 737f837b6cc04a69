"""What a refusal says, what would pass instead, and which contributors to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.atoms import Change, Conflict, Openings
from crypto.errors import CohortDifference
from tests.crypto.test_atoms import histories, named, silos


@pytest.mark.parametrize(
    ("opened", "now", "alone", "remedy"),
    [
        ([range(1, 6)], range(1, 5), "leave silo-5 as", "pass with silo-5 as well. A set"),
        (
            [range(1, 9)],
            range(1, 8),
            "leave silo-8 as",
            "pass with silo-8 as well, or without 2 of silo-1, silo-2, silo-3, silo-4, silo-5, silo-6, silo-7. A set",
        ),
        (
            [range(4, 9)],
            [*range(1, 4), 4],
            "leave silo-4 as",
            "pass with silo-5, silo-6, silo-7, silo-8 as well, or without silo-4. A set",
        ),
        (
            [range(4, 10)],
            [*range(1, 4), 4],
            "leave silo-4 as",
            "as well, or without silo-4, or with 2 of silo-5, silo-6, silo-7, silo-8, silo-9 as well. A set",
        ),
        (
            [range(1, 6)],
            range(1, 7),
            "leave silo-6 as",
            "pass without silo-6, or with 2 or more others that have not contributed before. A set",
        ),
        (
            [range(1, 6)],
            [1, 2, 3, 6],
            "leave silo-4, silo-5; and silo-6 as",
            "pass with silo-4, silo-5 as well; and without silo-6, or with 2 or more others that",
        ),
        ([range(1, 13)], range(1, 12), "leave silo-12 as", "silo-4, silo-5, silo-6 and 3 more. A set"),
    ],
)
def test_a_refusal_says_who_is_alone_and_what_would_pass(
    opened: list[Iterable[int]], now: Iterable[int], alone: str, remedy: str
) -> None:
    with pytest.raises(CohortDifference) as refused:
        named(opened).check(silos(*now), 3)
    assert alone in refused.value.detail and "m + c = 3" in refused.value.detail
    assert remedy in refused.value.remedy


def applied(change: Change, now: frozenset[str], free: Sequence[str], draw: st.DataObject) -> frozenset[str]:
    """The contributors after one way to make a change."""
    ready = sorted(change.silos) or list(free)
    some = frozenset(draw.draw(st.permutations(ready))[: change.count])
    return now | some if change.join else now - some


@st.composite
def records(draw: st.DrawFn) -> tuple[list[frozenset[str]], frozenset[str], int]:
    """(sets, contributors, m + c): sets of any kind of up to seven silos, whether or not a rule would allow them."""
    some = st.frozensets(st.sampled_from([f"silo-{i}" for i in range(draw(st.integers(1, 7)))]))
    large = some.filter(lambda one: len(one) >= 3)
    return draw(st.lists(large if draw(st.booleans()) else some, max_size=4)), draw(some), draw(st.integers(1, 4))


@given(records())
def test_whatever_is_known_a_set_passes_exactly_if_every_group_is_large_enough(
    drawn: tuple[list[frozenset[str]], frozenset[str], int],
) -> None:
    family, now, least = drawn
    record = Openings()
    for one in family:
        record = record.refine(one)

    def passes(now: frozenset[str]) -> bool:
        groups = Counter(tuple(silo in one for one in (*family, now)) for silo in frozenset().union(now, *family))
        return not now or all(size >= least for size in groups.values())

    assert bool(record.conflicts(now, least)) != passes(now)
    # The most that can be kept, found among all subsets.
    kept = record.fit(now, least)
    smaller = (frozenset(some) for size in range(len(now), -1, -1) for some in combinations(sorted(now), size))
    assert kept <= now and not record.conflicts(kept, least) and passes(kept)
    assert len(kept) == len(next(filter(passes, smaller)))
    assert (kept == now) == passes(now)


def test_who_is_left_out_is_the_last_by_name() -> None:
    record = named([range(1, 9)])
    assert record.fit(silos(1, 2, 3, 4, 5, 6, 7), 3) == silos(1, 2, 3, 4, 5)
    assert record.fit(silos(*range(1, 8), 9, 10, 11), 3) == silos(1, 2, 3, 4, 5, 9, 10, 11)
    assert record.fit(silos(*range(1, 8), 9, 10), 3) == silos(1, 2, 3, 4, 5)
    assert record.fit(silos(*range(1, 9)), 3) == silos(*range(1, 9))
    assert record.fit(silos(7, 8), 3) == record.fit([], 3) == frozenset()
    assert named([range(1, 6)]).fit(silos(1, 2, 3, 4), 3) == frozenset()


@given(histories(most=24), st.data())
def test_each_way_that_a_refusal_names_makes_it_pass(
    history: tuple[int, int, list[frozenset[str]]], data: st.DataObject
) -> None:
    _, least, tried = history
    record = Openings()
    for now in tried:
        conflicts = record.conflicts(now, least)
        fitted = record.fit(now, least)
        assert not record.conflicts(fitted, least) and (fitted == now) == (not conflicts)
        if not conflicts:
            record = record.refine(now)
            continue
        better, free = now, [f"new-{i}" for i in range(least)]
        for conflict in conflicts:
            better = applied(data.draw(st.sampled_from(conflict.changes(least))), better, free, data)
        assert not record.conflicts(better, least), (record.plain(), sorted(now), sorted(better))


def test_a_conflict_knows_its_small_parts() -> None:
    assert Conflict(silos(1, 2), silos(3)).small(3) == (silos(3), silos(1, 2))
    assert Conflict(silos(1, 2, 3), silos(4)).small(3) == (silos(4),)
    assert Conflict(silos(1, 2), frozenset()).changes(3) == ()
