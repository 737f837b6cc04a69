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


def test_a_missing_policy_has_no_floors_of_its_own(tmp_path: Path) -> None:
    assert Policy.load(tmp_path / "policy.toml") == Policy()


def test_policies_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[floors]\n"expert-0" = 5\n')
    assert Policy.load(path).floors == {"expert-0": 5}
    for text in ("floors = 3", "[floors]\na = 0", "[floors]\na = true", "[floors]\na = 4294967296", "other = 1", "="):
        path.write_text(text)
        with pytest.raises(SpecError):
            Policy.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(SpecError):
        Policy.load(path)


def test_the_approval_lists_of_old_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('approval = "automatic"\n')
    with pytest.raises(SpecError, match="fed approve"):
        Policy.load(path)


def test_the_digest_is_the_policys_content() -> None:
    digests = {
        policy.digest
        for policy in (Policy(), Policy({"a": 3}), Policy({"a": 4}), Policy({"b": 3}), Policy({"a": 3, "b": 3}))
    }
    assert len(digests) == 5
    assert Policy({"a": 3, "b": 4}).digest == Policy({"b": 4, "a": 3}).digest
