"""The tables [resume] and [require] of a job: what they may say, and what they mean."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.requirement import NOTHING, Requirement
from aggregator.resume_policy import ResumePolicy
from crypto.errors import SpecError

MEMBERS = tuple(f"silo-{i}" for i in range(1, 9))


def test_a_policy_has_defaults_and_is_written_whole() -> None:
    assert ResumePolicy.parse({}, "r").fields == {"policy": "always", "attempts": 5, "backoff": 10.0}
    given = ResumePolicy.parse({"policy": "ask", "attempts": 1, "backoff": 3}, "r")
    assert ResumePolicy.parse(given.fields, "r") == given
    assert ResumePolicy.of_job({}) == ResumePolicy()
    assert ResumePolicy.of_job({"resume": {"policy": "never"}}).policy == "never"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"policy": "sometimes"}, "r.policy"),
        ({"policy": True}, "r.policy"),
        ({"policy": ["ask"]}, "r.policy"),
        ({"attempts": 0}, "r.attempts"),
        ({"attempts": 101}, "r.attempts"),
        ({"attempts": True}, "r.attempts"),
        ({"attempts": 2.0}, "r.attempts"),
        ({"backoff": 0.5}, "r.backoff"),
        ({"backoff": float("nan")}, "r.backoff"),
        ({"backoff": float("inf")}, "r.backoff"),
        ({"backoff": True}, "r.backoff"),
        ({"backoff": "10"}, "r.backoff"),
        ({"wait": 1}, "r.wait"),
    ],
)
def test_what_is_no_policy_is_refused_by_its_field(raw: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        ResumePolicy.parse(raw, "r")
    assert refused.value.path == path


def test_the_pauses_double_up_to_ten_minutes_or_the_first() -> None:
    policy = ResumePolicy()
    assert [policy.pause_s(done) for done in (0, 1, 2, 5, 6, 99)] == [10, 20, 40, 320, 600, 600]
    assert [ResumePolicy(backoff=3600.0).pause_s(done) for done in (0, 1, 9)] == [3600] * 3


def test_a_requirement_is_written_as_it_was_read() -> None:
    given = Requirement.parse({"silos": ["silo-2", "silo-1"], "fraction": 1, "rows": 0.8}, "r")
    assert given.fields == {"silos": ["silo-1", "silo-2"], "fraction": 1.0, "rows": 0.8}
    assert Requirement.parse(given.fields, "r") == given
    assert Requirement.parse({"rows": 0.5}, "r").fields == {"rows": 0.5}


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({}, "r"),
        ({"silos": []}, "r.silos"),
        ({"silos": "silo-1"}, "r.silos"),
        ({"silos": ["silo-1", "silo-1"]}, "r.silos"),
        ({"silos": [1]}, "r.silos"),
        ({"silos": ["../silo"]}, "r.silos"),
        ({"fraction": 0}, "r.fraction"),
        ({"fraction": 1.01}, "r.fraction"),
        ({"fraction": True}, "r.fraction"),
        ({"fraction": float("nan")}, "r.fraction"),
        ({"rows": "all"}, "r.rows"),
        ({"rows": -1}, "r.rows"),
        ({"silo": ["silo-1"]}, "r.silo"),
    ],
)
def test_what_is_no_requirement_is_refused_by_its_field(raw: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        Requirement.parse(raw, "r")
    assert refused.value.path == path


def test_a_silo_that_the_charter_does_not_name_is_refused() -> None:
    with pytest.raises(SpecError, match="silo-9"):
        Requirement(silos=("silo-1", "silo-9")).check_members(MEMBERS)
    NOTHING.check_members(())


def test_what_is_lacking_is_said_in_words() -> None:
    assert NOTHING.lacking((), MEMBERS) == "" and NOTHING.least(8) == 0
    named = Requirement(silos=("silo-1", "silo-2"))
    assert named.lacking(("silo-1", "silo-2", "silo-3"), MEMBERS) == ""
    assert named.lacking(("silo-1",), MEMBERS) == "without silo-2"
    share = Requirement(fraction=0.75)
    assert share.lacking(MEMBERS[:6], MEMBERS) == ""
    assert share.lacking(MEMBERS[:5], MEMBERS) == "with 5 of 8 silos, and it requires 6"


@pytest.mark.parametrize(
    ("fraction", "n", "least"), [(0.75, 8, 6), (0.7, 10, 7), (0.1, 30, 3), (1.0, 7, 7), (0.01, 3, 1)]
)
def test_a_fraction_is_rounded_up_and_not_by_binary_dust(fraction: float, n: int, least: int) -> None:
    assert Requirement(fraction=fraction).least(n) == least
