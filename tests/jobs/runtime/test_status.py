"""The status of a run, folded from what happens to it: pure, so these tests need no run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.ledger.format import Entry
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from crypto.keys import Identity
from crypto.transcript import PROTOCOL
from jobs.job import encode_plan
from jobs.runtime import status
from jobs.runtime.status import Absent, Answered, Asked, RunState, RunStatus, Stopped, after, as_json, from_json
from jobs.runtime.status_tracker import StatusTracker
from silo_agent.methods import Limits, method
from tests import local
from tests.records import as_record
from tests.scored import TWO

SILOS = ("silo-1", "silo-2", "silo-3")
NOW = "2026-01-01T00:00:00.000Z"
JOB = local.spec("fedavg")

Line = Callable[..., Entry]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """Appends a record to a ledger of its own."""
    ledger = Ledger.open(tmp_path / "ledger.jsonl", Identity.generate())
    return lambda kind, **record: ledger.append(as_record(kind, {"run": "r1", **record}))


def started(line: Line) -> Entry:
    plan = method("fedavg").plan(JOB.params, Limits(n_max=8))
    digests = {f"{name}_digest": "00" for name in ("job", "charter", "state")} | {"plan_digest": plan.digest.hex()}
    names = {
        "job": JOB.text,
        "plan": encode_plan(plan),
        "method": "fedavg",
        "model_name": "m",
        "protocol": PROTOCOL,
    }
    return line(Kind.RUN_STARTED, silos=list(SILOS), threshold=2, **digests, **names)


def asked(phase: str, *silos: str, absent: dict[str, Absent] | None = None, step: str = "train/0", k: int = 1) -> Asked:
    return Asked(NOW, phase, k, step, silos, absent or {})


def closed(line: Line, survivors: list[str], shut: list[str] | None = None, **slots: int) -> Entry:
    lists = {"invited": list(SILOS), "survivors": survivors, "lanes_open": ["everyone"], "lanes_shut": shut or []}
    names = ("lost", "refusals", "slots", "upload_digests", "phase_ms", "data_commitments")
    maps: dict[str, Any] = {key: {} for key in names} | {"slots": slots}
    return line(
        Kind.STEP_CLOSED, k=1, name="train/0", transcript="00", state_digest="00", upload_bytes=1, **lists, **maps
    )


def folded(*events: status.StatusEvent) -> RunStatus:
    found = RunStatus()
    for event in events:
        found = after(found, event)
    return found


def test_it_starts_with_nothing_and_runs_once_the_ledger_says_so(line: Line) -> None:
    assert RunStatus().state is RunState.STARTING
    found = folded(started(line))
    assert (found.state, found.run, found.job, found.steps) == (RunState.RUNNING, "r1", "00", 4)


def test_who_is_missing_in_the_phase_that_is_under_way(line: Line) -> None:
    found = folded(started(line), asked("deal", *SILOS), Answered("silo-2"))
    assert (found.phase, found.step, found.k, found.since) == ("deal", "train/0", 1, NOW)
    assert found.missing == ("silo-1", "silo-3")
    assert folded(started(line), asked("deal", *SILOS), Answered("silo-2"), asked("fetch", "silo-2")).missing == (
        "silo-2",
    )


def test_an_answer_counts_once_and_only_of_who_was_asked() -> None:
    found = folded(asked("open", "silo-1"), Answered("silo-1"), Answered("silo-1"), Answered("silo-9"))
    assert found.answered == ("silo-1",)


def test_absences_stay_until_the_silo_is_back(line: Line) -> None:
    out = {"silo-1": Absent("train/0", "open", "NOT_APPROVED"), "silo-2": Absent("train/0", "open")}
    live = folded(asked("deal", "silo-3", absent=out))
    assert live.absent == out
    lost = line(Kind.SILO_LOST, k=1, name="train/0", silo="silo-2", phase="open")
    refused = line(Kind.REFUSAL, k=1, name="train/0", silo="silo-1", phase="open", code="NOT_APPROVED")
    assert folded(lost, refused).absent == out
    assert folded(lost, refused, closed(line, ["silo-2", "silo-3"])).absent == {"silo-1": out["silo-1"]}


def test_the_last_closed_step_and_its_shut_lanes(line: Line) -> None:
    found = folded(closed(line, ["silo-1", "silo-2"], shut=["expert-0"]))
    assert found.released == 1 and found.closed is not None
    assert (found.closed.name, found.closed.survivors, found.closed.invited) == ("train/0", 2, 3)
    assert found.closed.shut == ("expert-0",)


def test_the_last_closed_step_and_what_the_silos_withheld(line: Line) -> None:
    whole = {"global.correct": 1, "test.rows": 2}
    for slots, missing in ((whole, ()), ({"global.correct": 1}, ("test.rows",)), ({}, tuple(whole))):
        found = folded(started(line), closed(line, ["silo-1", "silo-2"], **slots))
        assert found.closed is not None and found.closed.withheld == missing
        again = from_json(as_json(found))
        assert again == found and again.plan is None, "the plan does not travel"


def test_the_leading_metric_is_that_of_the_last_step_that_opened_any(line: Line) -> None:
    assert folded(closed(line, ["silo-1"])).headline == ""
    found = folded(closed(line, ["silo-1"], **TWO), closed(line, ["silo-1"]))
    assert found.headline.startswith("global AUROC 0.833 ± 0.167 (baseline 0.500); class 1 in 25.00 % of the rows")
    assert from_json(as_json(found)) == found


def test_the_attempt_and_void_steps_are_counted(line: Line) -> None:
    opened = line(Kind.STEP_OPENED, k=1, name="train/0", invited=list(SILOS), attempt=2)
    void = line(Kind.STEP_VOID, k=1, name="train/0", reason="ROUND_LOST", phase="unmask-slots", missing=[])
    found = folded(opened, void)
    assert (found.attempt, found.void) == (2, 1)


@pytest.mark.parametrize(("code", "state"), [("ROUND_LOST", RunState.FAILED), ("ABORTED", RunState.ABORTED)])
def test_the_outcome_is_the_ledgers(line: Line, code: str, state: RunState) -> None:
    failed = line(Kind.RUN_FAILED, code=code, phase="deal", missing=["silo-1"], detail="why", k=1)
    found = folded(asked("deal", *SILOS), failed)
    assert found.state is state and found.outcome is not None
    assert (found.outcome.code, found.outcome.phase, found.outcome.missing) == (code, "deal", ("silo-1",))
    assert found.outcome.recorded and found.outcome.detail == "why"
    assert as_json(found)["missing"] == [] and found.phase == "deal"
    resumed = after(found, line(Kind.RUN_RESUMED, k=1, state_digest="00"))
    assert resumed.state is RunState.RUNNING and resumed.outcome is None and resumed.missing == ()


def test_a_finished_run_is_finished(line: Line) -> None:
    texts = {"state_digest": "00", "chain": "00", "weights_sha256": "00", "checkpoint": "c"}
    found = folded(line(Kind.RUN_FINISHED, countersignatures={}, **texts))
    assert found.state is RunState.FINISHED and found.outcome is not None and found.outcome.code == ""


def test_an_end_without_a_line_is_told_unless_the_ledger_has_one(line: Line) -> None:
    found = folded(Stopped(NOW, "SPEC", "another charter"))
    assert found.state is RunState.FAILED and found.outcome is not None
    assert (found.outcome.code, found.outcome.recorded) == ("SPEC", False)
    assert folded(Stopped(NOW, "ABORTED", "")).state is RunState.ABORTED
    failed = line(Kind.RUN_FAILED, code="ROUND_LOST", phase="deal", missing=[])
    assert folded(failed, Stopped(NOW, "INTERNAL", "x")) == folded(failed)


def everything(line: Line) -> RunStatus:
    out = {"silo-1": Absent("train/0", "open", "NOT_APPROVED")}
    failed = line(Kind.RUN_FAILED, code="ROUND_LOST", phase="deal", missing=["silo-1"], detail="d")
    return folded(started(line), closed(line, ["silo-2"], ["a"]), asked("deal", *SILOS, absent=out), failed)


def test_it_travels_as_json(line: Line) -> None:
    found = everything(line)
    again = from_json(json.loads(json.dumps(as_json(found))))
    assert again == found
    assert from_json(as_json(RunStatus())) == RunStatus()


@pytest.mark.parametrize(
    "change",
    [
        {"state": "happy"},
        {"asked": "silo-1"},
        {"step": None},
        {"absent": {"silo-1": "why"}},
        {"last_closed": []},
        {"run": 7},
        {"steps_void": "many"},
    ],
)
def test_what_is_no_status_is_refused(line: Line, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no status"):
        from_json(as_json(everything(line)) | change)


def test_what_a_server_sends_cannot_steer_a_terminal(line: Line) -> None:
    found = from_json(as_json(everything(line)) | {"phase": "deal\x1b[2J\n", "run": "x" * 5000})
    assert found.phase == "deal [2J " and len(found.run) == status.MOST_TEXT


# --- the tracker -------------------------------------------------------------------------------------------------


def test_a_board_that_cannot_write_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tracker = StatusTracker(tmp_path / "file" / "job.json")
    tracker.stopped(ValueError("a secret"))
    assert tracker.status.outcome is not None
    assert (tracker.status.outcome.code, tracker.status.outcome.detail) == ("INTERNAL", "ValueError")
    assert replace(tracker.status, outcome=None, state=RunState.STARTING, since="") == RunStatus()
