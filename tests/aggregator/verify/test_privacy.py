"""A claim of privacy beside a plan that opens more than it covers does not verify."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aggregator.verify.privacy import check_privacy
from aggregator.verify.report import CheckOutcome, VerificationReport
from crypto.errors import EvidenceError
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from tests.aggregator.test_privacy import TABLE

SILOS = Slot("silos", 1, Basis.STEP)


def record(job: dict[str, Any], **changes: Any) -> Any:
    """A run of two noised steps of which one opened, as far as the check looks."""
    lane = Lane(name="everyone", scope=changes.get("scope", Scope.ALL), floor=3, grid=changes.get("grid", (1,)))
    sums = (Sum("model.w", Apply.AVERAGE),)
    plan = Plan(
        method="fedavg",
        seed=1,
        n_max=4,
        lanes=(lane,),
        blocks=(Block(name="model.w", shape=(2,), lane="everyone", clip=1.0),),
        steps=tuple(Step(task="train", index=k, sums=sums, slots=changes.get("slots", (SILOS,))) for k in range(2)),
    )
    closed = (SimpleNamespace(record=SimpleNamespace(lanes_open=("everyone",))),)
    started = SimpleNamespace(record=SimpleNamespace(kind="run-started"), seq=3, kind="run-started")
    return SimpleNamespace(started=started, plan=plan, closed=closed, job=job)


def test_a_private_run_says_what_was_checked_and_what_was_not() -> None:
    report = VerificationReport("run x")
    check_privacy(record({"privacy": TABLE}), report)
    assert [line.outcome for line in report.lines] == [CheckOutcome.OK, CheckOutcome.NOT_CHECKED]
    assert "epsilon 4" in report.lines[0].detail and "1 of 2 noised steps" in report.lines[0].detail


def test_a_run_without_a_claim_has_no_line() -> None:
    report = VerificationReport("run x")
    check_privacy(record({}, slots=(SILOS, Slot("rows", 9, Basis.DATA))), report)
    assert report.lines == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"slots": (SILOS, Slot("rows", 9, Basis.DATA))}, "slot rows of step train/0"),
        ({"grid": (1, 2)}, "lane everyone"),
        ({"scope": Scope.HELD}, "lane everyone"),
    ],
)
def test_a_plan_that_opens_more_than_the_claim_covers(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(EvidenceError, match=found):
        check_privacy(record({"privacy": TABLE}, **changes), VerificationReport("run x"))
