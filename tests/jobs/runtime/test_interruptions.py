"""What becomes of an interrupted run: read from the ledger's lines, the job store and the job's policy."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from aggregator.interrupted import Standing
from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind, Record
from aggregator.open_runs import OpenRun, OpenRuns
from crypto import transcript
from jobs.runtime.interruptions import FORGOTTEN_S, SETTLED_S, Site, StoredJob, judge
from tests.records import partial_entry

RUN = "0123456789abcdef"
SITE = Site(charter="c" * 64, code="d" * 64)
NOW = 1_767_225_700.0


def at(second: int) -> str:
    return f"2026-01-01T00:00:{second:02d}.000Z"  # 1_767_225_600 and on


def started(
    run: str = RUN, job: dict[str, Any] | None = None, second: int = 0, digest: str = "a" * 64
) -> Entry[Record]:
    facts = {"run": run, "job": json.dumps(job or {}), "job_digest": digest, "charter_digest": SITE.charter}
    facts |= {"code_digest": SITE.code, "protocol": transcript.PROTOCOL, "model_name": "demo"}
    return partial_entry(Kind.RUN_STARTED, facts, time=at(second))


def line(kind: Kind, second: int, run: str = RUN, **facts: Any) -> Entry[Record]:
    return partial_entry(kind, {"run": run, **facts}, time=at(second))


def runs(*entries: Entry[Record]) -> dict[str, OpenRun]:
    found = OpenRuns()
    for entry in entries:
        found.take(entry)
    return {run.run: run for run in found}


CLOSED = line(Kind.STEP_CLOSED, 10, k=0)
FAILED = line(Kind.RUN_FAILED, 20, code="ROUND_LOST", phase="deal", missing=("silo-1",))
FIRST = StoredJob(job_id="one", status="FINISHED:ABNORMAL", run=RUN, at=1_767_225_600.0)


def judged(run: OpenRun, *jobs: StoredJob, seen: float = NOW, now: float = NOW) -> Any:
    return judge(run, jobs or (FIRST,), SITE, seen=seen, now=now)


def attempts(run: OpenRun) -> list[StoredJob]:
    """Five of them since the last step that ended, all in vain."""
    ended: dict[str, Any] = {"status": "FINISHED:ABNORMAL", "run": RUN, "resumes": RUN, "by_service": True}
    return [StoredJob(job_id=f"try-{i}", at=run.progress + i, **ended) for i in range(1, 6)]


# --- which runs are open -----------------------------------------------------------------------------------------


def test_a_run_is_open_until_it_finishes() -> None:
    lines = (started(), line(Kind.STEP_OPENED, 5, k=0), CLOSED, line(Kind.STEP_VOID, 11, k=1))
    run = runs(*lines)[RUN]
    assert (run.k, run.closed, run.progress, run.last) == (2, 1, 1_767_225_611, 1_767_225_611)
    assert runs(*lines, line(Kind.RUN_FINISHED, 12)) == {}
    assert runs(line(Kind.STEP_OPENED, 5, k=0)) == {}, "lines of a run without a beginning are none"


def test_a_failed_run_is_mendable_only_for_want_of_silos_or_space_and_after_some_result() -> None:
    def mendable(*entries: Entry[Record]) -> bool:
        return runs(started(), *entries)[RUN].mendable

    assert mendable(CLOSED, FAILED)
    assert not mendable(FAILED), "nothing would be lost"
    assert not mendable(CLOSED, line(Kind.RUN_FAILED, 20, code="ROUND_LOST", phase="open", missing=())), (
        "its time is up"
    )
    for code, expected in (("GIVEN_UP", True), ("NO_SPACE", True), ("ABORTED", False), ("REQUIRED_LOST", False)):
        failed = line(Kind.RUN_FAILED, 20, code=code, phase="", missing=("silo-1",))
        assert mendable(CLOSED, failed) is expected, code
    refusal = line(Kind.REFUSAL, 15, k=1, silo="silo-2", phase="open", code="NOT_APPROVED")
    assert not mendable(CLOSED, refusal, FAILED), "it would be refused again"
    assert mendable(refusal, CLOSED, FAILED), "that was before the last step"


def test_going_on_takes_the_end_away() -> None:
    run = runs(started(), CLOSED, FAILED, line(Kind.RUN_RESUMED, 30, k=1))[RUN]
    assert run.failed is None and run.last == 1_767_225_630


def test_the_same_job_that_finished_anew_needs_nobody() -> None:
    other = "f" * 16
    after = (started(other, second=20), line(Kind.STEP_CLOSED, 25, other, k=0), line(Kind.RUN_FINISHED, 26, other))
    assert runs(started(), CLOSED, *after) == {}
    different = (started(other, second=20, digest="b" * 64), line(Kind.RUN_FINISHED, 26, other))
    assert set(runs(started(), CLOSED, *different)) == {RUN}


# --- what becomes of one -----------------------------------------------------------------------------------------


def test_it_waits_for_its_pause_and_then_it_is_due() -> None:
    one = judged(runs(started(), CLOSED)[RUN])
    assert (one.standing, one.job, one.due, one.attempt, one.attempts) == (Standing.WAITING, "one", NOW + 10, 0, 5)
    assert one.command == "" and RUN in str(one)


def test_attempts_in_a_row_wait_longer_and_end() -> None:
    run = runs(started(), CLOSED)[RUN]
    tries = attempts(run)
    assert judged(run, FIRST, *tries[:2]).due == NOW + 40
    assert judged(run, FIRST, *tries[:2]).job == "try-2", "the copy of the last one has the same folder"
    given_up = judged(run, FIRST, *tries)
    assert given_up.standing is Standing.GIVEN_UP
    assert given_up.command == f"fed submit demo.toml --resume {RUN} --kit KIT --charter CHARTER"
    further = replace(run, progress=run.progress + 4)
    assert judged(further, FIRST, *tries).attempt == 1, "a step that ended starts the row anew"
    by_hand = [replace(one, by_service=False) for one in tries]
    assert judged(run, FIRST, *by_hand).attempt == 0


@pytest.mark.parametrize("status", ["SUBMITTED", "DISPATCHED", "RUNNING"])
def test_one_that_is_submitted_already_is_not_submitted_twice(status: str) -> None:
    again = StoredJob(job_id="two", status=status, resumes=RUN, at=NOW)
    one = judged(runs(started(), CLOSED)[RUN], FIRST, again)
    assert (one.standing, one.job, one.next_job) == (Standing.QUEUED, "one", "two")


def test_a_job_that_waited_to_go_on_and_was_aborted_is_not_submitted_again() -> None:
    aborted = StoredJob(job_id="two", status="FINISHED:ABORTED", resumes=RUN, by_service=True, at=NOW)
    one = judged(runs(started(), CLOSED)[RUN], FIRST, aborted)
    assert one.standing is Standing.NEVER and "an administrator aborted job two" in one.why and one.command
    by_hand = StoredJob(job_id="three", status="SUBMITTED", resumes=RUN, at=NOW + 1)
    assert judged(runs(started(), CLOSED)[RUN], FIRST, aborted, by_hand).standing is Standing.QUEUED


@pytest.mark.parametrize(("policy", "standing"), [("ask", Standing.ASK), ("never", Standing.NEVER)])
def test_the_jobs_policy_decides(policy: str, standing: Standing) -> None:
    one = judged(runs(started(job={"resume": {"policy": policy}}), CLOSED)[RUN])
    assert one.standing is standing and f"--resume {RUN}" in one.command


@pytest.mark.parametrize(
    ("change", "why"),
    [({"charter": "e" * 64}, "charter"), ({"code": "e" * 64}, "release"), ({"protocol": "consilium/1"}, "consilium/1")],
)
def test_what_it_began_with_must_be_here(change: dict[str, str], why: str) -> None:
    one = judged(replace(runs(started(), CLOSED)[RUN], **change))
    assert one.standing is Standing.BLOCKED and why in one.why and "as a new run" in one.why


def test_without_its_job_in_the_store_somebody_has_to_submit_it() -> None:
    other = StoredJob(job_id="other", status="FINISHED:COMPLETED", run="f" * 16)
    run = runs(started(), CLOSED)[RUN]
    assert judged(run, other).standing is Standing.WAITING, "NVFlare takes seconds to clear a job away"
    one = judged(run, other, seen=NOW - SETTLED_S)
    assert one.standing is Standing.BLOCKED and one.command


def test_a_job_whose_policy_cannot_be_read_is_left_to_somebody() -> None:
    assert judged(runs(started(job={"resume": {"policy": "perhaps"}}), CLOSED)[RUN]).standing is Standing.ASK
    assert judged(runs(started(job={"resume": 3}), CLOSED)[RUN]).standing is Standing.ASK


def test_a_failed_run_is_taken_up_only_by_itself() -> None:
    run = runs(started(), CLOSED, FAILED)[RUN]
    assert judged(run).standing is Standing.WAITING
    for job in ({"resume": {"policy": "ask"}}, {"resume": {"policy": "never"}}):
        assert judged(runs(started(job=job), CLOSED, FAILED)[RUN]) is None, "it has an end, which is told"
    assert judged(replace(run, code="e" * 64)) is None
    tries = attempts(run)
    assert judged(run, FIRST, *tries) is None, "it failed for good"


def test_what_nobody_has_looked_after_for_two_weeks_is_history() -> None:
    run = runs(started(), CLOSED)[RUN]
    assert judged(run, now=run.last + FORGOTTEN_S) is not None
    assert judged(run, now=run.last + FORGOTTEN_S + 1) is None
