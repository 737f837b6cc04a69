"""Sums replayed from kept uploads, and what is said where they were not kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.ledger.records import Kind
from aggregator.run_record import RunRecord
from aggregator.verify.checks import verify_run
from aggregator.verify.report import CheckOutcome
from tests import local, tampering
from tests.tampering import (
    Finished,
    Lines,
    closed,
    detail,
    line_of,
    names,
    quiet,
    records,
    refused,
    rewrite,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("bits", "keep"), [(24, "all"), (32, "last")])
def test_a_24_bit_ring_and_the_last_uploads(tmp_path: Path, bits: int, keep: str) -> None:
    job = replace(local.spec(rounds=3, ring_bits=bits), keep_uploads=keep)
    run = tampering.finish(tmp_path / "f", job)
    report = verify_run(run.home, run.run)
    if keep == "all":
        assert detail(report, "sums").startswith("3 lane sums")
        assert "sums" not in names(report, CheckOutcome.NOT_CHECKED)
    else:  # M1: the last step has slots only, so the last one with sums is the step before it
        assert detail(report, "sums").startswith("1 lane sums")
        assert "steps 1, 2 not replayed" in report.of(CheckOutcome.NOT_CHECKED)[1].detail


def test_without_uploads_it_says_what_still_binds_the_sums(tmp_path: Path) -> None:
    run = tampering.finish(tmp_path / "f", replace(local.spec(), keep_uploads="none"))
    report = verify_run(run.home, run.run)
    assert "sums" not in names(report, CheckOutcome.OK)
    assert names(report, CheckOutcome.NOT_CHECKED) == ["consortium", "sums", "state", "code"]
    assert "steps 1, 2 not replayed: uploads not kept (policy none)" in detail(report, "sums")
    assert detail(report, "binding") == "the sums were signed: of steps 1, 2 by 8 silos"
    assert "2 of 4 steps" in next(line for line in report.of(CheckOutcome.NOT_CHECKED) if line.name == "state").detail

    # The chain follows from the result that they signed: another one is found at once, without the uploads.
    def change(lines: Lines) -> None:
        records(lines, Kind.STEP_CLOSED)[1]["chain"] = "ab" * 32

    rewrite(run.home, change)
    error = refused(run)
    assert error.where == f"ledger.jsonl line {line_of(run.home, Kind.STEP_CLOSED, 1)} (step-closed), chain"
    assert error.found == "ab" * 32


def test_where_some_uploads_are_gone_it_goes_on_from_a_checkpoint(honest: Finished, tmp_path: Path) -> None:
    run = honest.copy(tmp_path / "f")
    shutil.rmtree(run.folder / "uploads" / "000001")
    report = verify_run(run.home, run.run)
    assert detail(report, "sums").startswith("1 lane sums replayed")
    assert detail(report, "state").startswith("the blocks after 2 of 4")


def test_the_last_sums_are_signed_too(honest: Finished, tmp_path: Path) -> None:
    run = honest.copy(tmp_path / "f")
    shutil.rmtree(run.folder / "uploads")

    def cut(lines: Lines) -> None:
        del lines[next(place for place, line in enumerate(lines) if line[1].get("k") == 3) :]

    rewrite(run.home, cut)
    report = verify_run(run.home, run.run)
    bindings = [(line.outcome, line.detail) for line in report.lines if line.name == "binding"]
    assert bindings == [(CheckOutcome.OK, "the sums were signed: of steps 1, 2 by 8 silos")]

    rewrite(run.home, lambda lines: closed(lines, 2).pop("chain"))
    assert refused(run).expected == "a chain value"


def test_lanes_are_replayed_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tampering.finish(tmp_path / "f", local.spec("fedcoe"))
    reader = type(RunRecord.read(run.home, run.run).reader)
    apply, lanes = reader.apply, []

    def one(self: Any, plan: Any, step: Any, state: Any, sums: dict[str, np.ndarray], slots: Any) -> Any:
        lanes.append(list(sums))
        return apply(self, plan, step, state, sums, slots)

    monkeypatch.setattr(reader, "apply", one)
    verify_run(run.home, run.run)
    assert len(lanes) == 11 and all(len(names) == 1 for names in lanes)


# --- void steps -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def void(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Step 1 void: four of eight silos fall silent when the slots open, and are back for step 2."""
    faults = {f"silo-{i}": quiet("unmask-slots", 1) for i in range(1, 5)}
    return tampering.finish(tmp_path_factory.mktemp("void") / "f", local.spec(rounds=3), faults=faults)


def test_the_chain_goes_on_over_a_void_step(void: Finished) -> None:
    report = verify_run(void.home, void.run)
    assert detail(report, "steps").startswith("4 released, 1 void")
    assert detail(report, "state").startswith("the blocks after 4 of 4")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda void: void.update(transcript="ab" * 32), r"\(step-void\), chain"),
        (lambda void: void.update(chain="ab" * 32), r"\(step-void\), chain"),
        (lambda void: void.pop("chain"), r"\(step-void\), chain"),
        (lambda void: void.pop("transcript"), r"\(step-void\)"),
    ],
)
def test_a_void_step_told_otherwise(
    void: Finished, tmp_path: Path, change: Callable[[dict[str, Any]], object], where: str
) -> None:
    run = void.copy(tmp_path / "f")
    rewrite(run.home, lambda lines: change(records(lines, Kind.STEP_VOID)[0]))
    assert re.search(f"{where}$", refused(run).where)
