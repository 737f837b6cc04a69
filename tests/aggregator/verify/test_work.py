"""L4: verification takes work in proportion to the ledger. Counted are executed instructions of our code, not time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind, Record
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.verify.checks import verify_in
from aggregator.verify.models import parents, versions
from aggregator.verify.report import VerificationReport
from aggregator.verify.verified_run import read_ledger
from tests import made_ledger as made
from tests.records import partial_entry

#: Twice the ledger may take so much more: 2, and something for what does not grow.
MOST = 2.3


def work(do: Callable[[], object]) -> int:
    """Instructions of the packages that verify, executed by ``do``."""
    count, roots = 0, tuple(str(made.ROOT / room) for room in ("aggregator", "crypto"))

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes = frame.f_code.co_filename.startswith(roots)
            frame.f_trace_lines = False
            return trace if frame.f_trace_opcodes else None
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
    return count


def grows(make: Callable[[int], Callable[[], object]], small: int) -> float:
    one, two = make(small), make(2 * small)
    return work(two) / work(one)


def test_the_measure_tells_a_loop_in_a_loop() -> None:
    """A loop over all lines for each line is what must not come back."""

    def make(n: int) -> Callable[[], object]:
        record = RunRecord("r", tuple(partial_entry(Kind.RECOVERED, {}, seq=seq) for seq in range(n)))
        return lambda: [list(record.of(entry.record.__class__)) for entry in record.entries]

    assert grows(make, 40) > 3.5


def voided(home: Path, steps: int) -> CheckedLedger:
    home.mkdir()
    made.under_way(home, steps)
    return read_ledger(AggregatorHome(home), None, VerificationReport(""))


def test_void_steps(tmp_path: Path) -> None:
    """8,000 of them took 15 s."""

    def make(steps: int) -> Callable[[], object]:
        ledger = voided(tmp_path / str(steps), steps)
        (run,) = ledger.runs
        assert len(ledger.run(run).plan.steps) == steps + 2  # decoded before it is counted
        return lambda: verify_in(ledger, run, VerificationReport(run))

    assert grows(make, 150) < MOST


def lines(n: int, kind: Kind, **fields: Any) -> list[Entry[Record]]:
    return [partial_entry(kind, fields | {"run": "r", "k": k}, time="2026-01-02T03:04:05.250Z") for k in range(n)]


def test_the_time_of_each_step() -> None:
    def make(n: int) -> Callable[[], object]:
        found = [*lines(n, Kind.STEP_OPENED), *lines(n, Kind.STEP_CLOSED)]
        record = RunRecord("r", tuple(replace(entry, seq=seq) for seq, entry in enumerate(found)))
        return lambda: [record.window(entry) for entry in record.closed]

    assert grows(make, 80) < MOST


def test_the_approvals_of_each_step() -> None:
    def make(n: int) -> Callable[[], object]:
        found = [
            partial_entry(Kind.APPROVAL, {"run": "r", "digest": f"{i:064x}", "silo": "silo-1"}, seq=i) for i in range(n)
        ]
        record = RunRecord("r", tuple(found))
        ledger = CheckedLedger(None, None, tuple(found))  # type: ignore[arg-type]
        return lambda: [(record.shown[f"{i:064x}"], ledger.shown[f"{i:064x}"]) for i in range(n)]

    assert grows(make, 80) < MOST


def test_a_long_line_of_models(tmp_path: Path) -> None:
    """Each run starts from the one before, and silos withdraw."""

    def make(n: int) -> Callable[[], object]:
        found: list[Entry[Record]] = []
        for i in range(n):
            digests = {"state_digest": f"{i:064x}", "weights_sha256": f"{i + 2**32:064x}"}
            started = {"run": f"{i:016x}", "model_name": "m", "state_digest": f"{i - 1 if i else 2**40:064x}"}
            found.append(partial_entry(Kind.RUN_STARTED, started, seq=2 * i))
            found.append(partial_entry(Kind.RUN_FINISHED, {"run": f"{i:016x}"} | digests, seq=2 * i + 1))
        for i in range(3):
            gone = made.withdrawal(f"silo-{i}", [f"{k:016x}" for k in range(n)])
            found.append(partial_entry(Kind.WITHDRAWAL, gone, seq=2 * n + i))
        ledger = CheckedLedger(AggregatorHome(tmp_path), None, tuple(found))  # type: ignore[arg-type]
        return lambda: versions(ledger)

    assert grows(make, 40) < MOST
    newest = versions(make(5).__closure__[0].cell_contents)[-1]  # type: ignore[index]
    assert newest.withdrawn_silos == ("silo-0", "silo-1", "silo-2") and newest.parent == f"{3:016x}"


@pytest.mark.parametrize("order", ["a+ a- a-", "a- b- a+ b+", "a+ a- a+", "a+ b+ a- b- a+ b+"])
def test_no_run_descends_from_itself(order: str) -> None:
    """A lying aggregator's order of lines; a cycle of parents would never end."""
    found = []
    for seq, (run, sign) in enumerate(order.split()):
        other = {"a": "b", "b": "a"}[run] if "b" in order else run
        kind = Kind.RUN_STARTED if sign == "+" else Kind.RUN_FINISHED
        state = {"state_digest": (other if sign == "+" else run).encode().hex(), "weights_sha256": "ff"}
        fields = {"run": run} | (state if sign == "-" else {"state_digest": state["state_digest"]})
        found.append(partial_entry(kind, fields, seq=seq))
    above = parents(CheckedLedger(None, None, tuple(found)))  # type: ignore[arg-type]
    for run in above:
        seen, at = set(), run
        while (at := above.get(at) or "") and at not in seen:
            seen.add(at)
        assert run not in seen
