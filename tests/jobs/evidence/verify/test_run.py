"""What a run's own lines must be before anything is built on them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from aggregator.ledger.format import read
from aggregator.ledger.records import Kind
from aggregator.run_record import RunRecord
from aggregator.verify.checks import verify_run
from crypto.encoding import Writer
from crypto.errors import EvidenceError
from crypto.plan import Plan
from tests import tampering
from tests.records import partial_entry
from tests.tampering import (
    Finished,
    Lines,
    line_of,
    refused,
    rewrite,
    started,
)


def test_a_time_that_is_none(run: Finished) -> None:
    def change(lines: Lines) -> None:
        lines[next(place for place, line in enumerate(lines) if line[0] == Kind.RUN_STARTED)][2] = (
            "2026-13-01T00:00:00.000Z"
        )

    rewrite(run.home, change)
    assert refused(run).where.endswith("(run-started), time")


def test_a_plan_of_more_blocks_than_there_is_memory(run: Finished) -> None:
    """A kilobyte of plan for gigabytes of zeros: refused before they are made."""

    def change(lines: Lines) -> None:
        record = started(lines)
        plan = Plan.from_bytes(b64decode(record["plan"]))
        huge = replace(plan, blocks=tuple(replace(block, shape=(2**13, 2**14)) for block in plan.blocks))
        record.update(plan=b64encode(bytes(huge)).decode(), plan_digest=huge.digest.hex())

    rewrite(run.home, change)
    error = refused(run)
    assert error.where.endswith("(run-started), plan") and "bytes" in str(error.found)


def test_a_plan_with_a_block_beyond_the_bound(run: Finished) -> None:
    """Bytes that no plan of this code has: a block of terabytes."""

    def change(lines: Lines) -> None:
        record = started(lines)
        plan = Plan.from_bytes(b64decode(record["plan"]))
        block = plan.blocks[0]
        before, huge = (Writer().text(block.name).each(shape, Writer.u32) for shape in (block.shape, (2**18, 2**17)))
        data = bytes(plan).replace(bytes(before), bytes(huge))
        assert data != bytes(plan)
        record.update(plan=b64encode(data).decode(), plan_digest=sha256(data).hexdigest())

    rewrite(run.home, change)
    error = refused(run)
    assert error.where.endswith("(run-started), plan") and "positive sides, at most" in str(error.found)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_jobs_that_are_none(text: str) -> None:
    entry = partial_entry(Kind.RUN_STARTED, {"run": "r", "job": text})
    with pytest.raises(EvidenceError, match=r"run-started.*, job"):
        assert RunRecord("r", (entry,)).job


def test_a_run_without_a_predictor(run: Finished) -> None:
    rewrite(run.home, lambda lines: started(lines).pop("predictor"))
    tampering.countersign(run)
    assert "predictor" not in [line.name for line in verify_run(run.home, run.run).lines]


def test_a_run_that_went_on_from_another_state(run: Finished, tmp_path: Path) -> None:
    def resume(lines: Lines, state: str) -> None:
        place = next(place for place, line in enumerate(lines) if line[0] == Kind.STEP_CLOSED) + 1
        lines.insert(place, [str(Kind.RUN_RESUMED), {"run": run.run, "k": 1, "state_digest": state}, lines[place][2]])

    first = next(entry.record for entry in read(run.home.ledger_path) if entry.kind is Kind.STEP_CLOSED)
    other = run.copy(tmp_path / "other")
    rewrite(other.home, lambda lines: resume(lines, "ab" * 32))
    assert refused(other).where.endswith("(run-resumed), state_digest")
    rewrite(run.home, lambda lines: resume(lines, first.state_digest))
    tampering.countersign(run)
    verify_run(run.home, run.run)


def test_a_charter_that_was_not_in_force_when_a_step_was_under_way(run: Finished) -> None:
    rewrite(run.home, lambda lines: tampering.shift(lines[line_of(run.home, Kind.STEP_OPENED, 1) - 1 :], days=400))
    assert refused(run).where == f"ledger.jsonl line {line_of(run.home, Kind.STEP_CLOSED, 1)} (step-closed)"


def test_a_run_that_is_not_on_this_ledger(honest: Finished) -> None:
    with pytest.raises(EvidenceError, match="run-started of run 0123456789abcdef"):
        verify_run(honest.home, "0123456789abcdef")


def test_a_ledger_without_a_line(run: Finished) -> None:
    rewrite(run.home, list.clear)
    assert refused(run).expected == "at least one line"
