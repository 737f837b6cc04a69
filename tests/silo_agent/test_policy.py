"""The silo's own floors, and which cohort may follow which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crypto.charter import Charter, Member
from crypto.errors import CohortDifference, SpecError
from crypto.keys import Identity
from silo_agent.policy import CohortWatch, Policy

ALL = frozenset(f"silo-{i}" for i in range(1, 9))


def charter(**changes: int) -> Charter:
    members = tuple(Member(silo, Identity.generate().public, Identity.generate().public) for silo in sorted(ALL))
    base = Charter(
        federation="f", epoch=1, previous=bytes(32), members=members, aggregator=Identity.generate().public, n_min=5,
        colluders=1, honest=2, lane_floor=3, void_budget=1, difference_budget=2, not_before=0, not_after=9,
    )  # fmt: skip
    return replace(base, **changes)


def test_the_first_cohort_and_the_same_again_are_fine() -> None:
    watch = CohortWatch(charter(difference_budget=0))
    watch.check(ALL)
    watch.released(ALL)
    watch.check(ALL)


@pytest.mark.parametrize("left", [1, 2])
def test_a_cohort_that_differs_by_few_spends_the_budget(left: int) -> None:
    watch = CohortWatch(charter(difference_budget=1))
    small = frozenset(sorted(ALL)[left:])
    watch.released(ALL)
    watch.check(small)
    watch.released(small)
    with pytest.raises(CohortDifference, match="budget"):
        watch.check(ALL)


def test_a_cohort_that_differs_by_enough_costs_nothing() -> None:
    watch = CohortWatch(charter(difference_budget=0))
    watch.released(ALL)
    watch.check(frozenset(sorted(ALL)[3:]))


def test_after_a_void_step_few_changes_are_refused_whatever_the_budget() -> None:
    watch = CohortWatch(charter(difference_budget=99))
    watch.released(ALL)
    watch.void()
    with pytest.raises(CohortDifference, match="void"):
        watch.check(frozenset(sorted(ALL)[1:]))
    watch.check(ALL)
    watch.check(frozenset(sorted(ALL)[3:]))
    watch.released(ALL)
    watch.check(frozenset(sorted(ALL)[1:]))  # the rule is about the step after


def test_the_budget_of_void_steps_ends() -> None:
    watch = CohortWatch(charter(void_budget=1))
    watch.void()
    with pytest.raises(CohortDifference, match="void"):
        watch.void()


def test_a_missing_policy_approves_nothing(tmp_path: Path) -> None:
    policy = Policy.load(tmp_path / "policy.toml")
    assert not policy.approves("ab")


def test_policies_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('approval = "listed"\napproved = ["ab"]\n[floors]\n"expert-0" = 5\n')
    policy = Policy.load(path)
    assert policy.approves("ab") and not policy.approves("cd")
    assert policy.floors == {"expert-0": 5}
    for text in (
        'approval = "yes"',
        "floors = 3",
        "[floors]\na = 0",
        "[floors]\na = true",
        "approved = [1]",
        "other = 1",
        "=",
    ):
        path.write_text(text)
        with pytest.raises(SpecError):
            Policy.load(path)
