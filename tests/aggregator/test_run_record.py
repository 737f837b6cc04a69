"""One run decoded from the ledger's lines: what is read where, and how a run ended."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind, Record
from aggregator.run_record import RunRecord
from crypto import transcript
from crypto.errors import EvidenceError
from crypto.transcript import PROTOCOL
from tests.made_ledger import PLAN, RUN, make_job
from tests.records import partial_entry

STARTED = {
    "plan": b64encode(bytes(PLAN)).decode(), "plan_digest": PLAN.digest.hex(), "job": '{"name":"digits"}',
    "protocol": PROTOCOL,
}  # fmt: skip


def run_of_lines(*lines: tuple[Kind, dict[str, Any]], **started: Any) -> RunRecord:
    entries: list[Entry[Record]] = [partial_entry(Kind.RUN_STARTED, {"run": "r", **STARTED, **started})]
    for seq, (kind, fields) in enumerate(lines, 1):
        entries.append(partial_entry(kind, {"run": "r", **fields}, seq=seq, time=f"2026-01-02T03:04:{seq:02d}.000Z"))
    return RunRecord.among(entries, "r")


FAILED = (Kind.RUN_FAILED, {"code": "ROUND_LOST"})
RESUMED: tuple[Kind, dict[str, Any]] = (Kind.RUN_RESUMED, {"k": 0})
FINISHED: tuple[Kind, dict[str, Any]] = (Kind.RUN_FINISHED, {})


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((), "not finished"),
        ((FAILED,), "failed: ROUND_LOST"),
        ((FAILED, RESUMED), "not finished"),
        ((FAILED, RESUMED, FINISHED), "finished"),
        ((FAILED, RESUMED, (Kind.RUN_FAILED, {"code": "ABORTED"})), "failed: ABORTED"),
    ],
)
def test_a_run_that_went_on_is_not_a_failed_one(lines: tuple[tuple[Kind, dict[str, Any]], ...], status: str) -> None:
    assert run_of_lines(*lines).status == status


def test_a_run_that_the_ledger_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="a line run-started of run 0000"):
        RunRecord.among((), "0000")
    with pytest.raises(EvidenceError, match="run-started"):
        RunRecord.among([partial_entry(Kind.RUN_FINISHED, {"run": "r"})], "r")


@pytest.mark.parametrize(
    ("change", "where"),
    [({"plan": "§"}, "plan"), ({"plan": "AAAA"}, "plan"), ({"plan_digest": "ab" * 32}, "plan_digest")],
)
def test_a_plan_is_the_one_of_its_digest(change: dict[str, str], where: str) -> None:
    with pytest.raises(EvidenceError) as refused:
        assert run_of_lines(**change).plan
    assert refused.value.where.endswith(f", {where}")


def test_the_whole_id_follows_from_the_nonce() -> None:
    named = {"job_digest": "11" * 32, "charter_digest": "22" * 32}
    assert run_of_lines(**named).id is None
    whole = transcript.run_id(bytes.fromhex("11" * 32), bytes.fromhex("22" * 32), bytes.fromhex("33" * 32))
    assert run_of_lines(**named, nonce="33" * 32).id == whole


def test_the_time_of_a_step_is_that_of_its_own_attempt() -> None:
    record = run_of_lines(
        (Kind.STEP_OPENED, {"k": 0, "name": "a", "attempt": 0}),
        (Kind.STEP_OPENED, {"k": 0, "name": "a", "attempt": 1}),
        (Kind.STEP_CLOSED, {"k": 0, "name": "a", "attempt": 1}),
    )
    since, until = record.window(record.closed[0])
    assert (until - since, since) == (1, record.opened[1].seconds)
    with pytest.raises(EvidenceError, match="step-opened before it"):
        record.window(partial_entry(Kind.STEP_CLOSED, {"run": "r", "k": 5, "name": "b"}))  # type: ignore[arg-type]


def test_a_whole_job_is_read_once_in_order(tmp_path: Path) -> None:
    make_job(tmp_path)
    record = RunRecord.read(AggregatorHome(tmp_path), RUN)
    assert [entry.record.k for entry in record.outcomes] == list(range(21))
    assert len(record.closed) == 20 and len(record.void) == 1 and record.status == "finished"
    assert [(one.kind, one.record.silo) for one in record.absences] == [(Kind.REFUSAL, "silo-3")]
    assert record.slots["train/7"]["global.correct"] == 47
