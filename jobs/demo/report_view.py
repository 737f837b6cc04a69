"""What the report is drawn from: one run of a checked ledger, and the charter that it was made under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

from aggregator import privacy
from aggregator.figures import ratios, withheld_in
from aggregator.ledger.records import StepClosed, StepVoid
from aggregator.protocols.interface import Charter, Plan
from aggregator.run_record import CheckedLedger, RunRecord, job_fields
from crypto.errors import EvidenceError

NONE = "–"


@dataclass(frozen=True)
class RunView:
    """One run as the report shows it."""

    ledger: CheckedLedger
    record: RunRecord
    charter: Charter

    @classmethod
    def of(cls, ledger: CheckedLedger, run: str) -> RunView:
        """Raises EvidenceError for a run that is not on the ledger."""
        if run not in ledger.runs:
            found = f"the runs {', '.join(sorted(ledger.runs)) or NONE}"
            raise EvidenceError("ledger.jsonl", expected=f"a run {run!r}", found=found)
        record = ledger.run(run)
        charter = ledger.epochs.find(record.started.record.charter_digest, "run-started.charter_digest")
        return cls(ledger, record, charter)

    @property
    def run(self) -> str:
        return self.record.run

    @property
    def plan(self) -> Plan:
        return self.record.plan

    @property
    def silos(self) -> tuple[str, ...]:
        return self.record.started.record.silos

    @cached_property
    def closed(self) -> Mapping[int, StepClosed]:
        """Number of the step → its record."""
        return {entry.record.k: entry.record for entry in self.record.closed}

    @cached_property
    def void(self) -> Mapping[int, StepVoid]:
        return {entry.record.k: entry.record for entry in self.record.void}

    @property
    def shut(self) -> int:
        return sum(len(record.lanes_shut) for record in self.closed.values())

    @cached_property
    def withheld(self) -> Mapping[str, tuple[str, ...]]:
        """Name of the step → its figures that the silos withheld, of the steps that lack any."""
        return withheld_in(self.plan, self.record.closed)

    @cached_property
    def privacy(self) -> str:
        """What the job says of differential privacy; nothing where it promises none."""
        job = job_fields(self.record.started.record)
        return privacy.sentence(job) if privacy.claim(job) is not None else ""

    def trained(self) -> list[int]:
        """Closed steps of the task ``train``; of all with open lanes where none is called so."""
        closed = [k for k in self.closed if self.plan.steps[k].sums]
        return [k for k in closed if self.plan.steps[k].task == "train"] or closed

    def scored(self) -> list[tuple[int, dict[str, tuple[int, int]]]]:
        """(number of the step, name.accuracy → (part, whole)) of the steps that opened both counts of any."""
        steps = [(k, ratios(record.slots)) for k, record in sorted(self.closed.items())]
        return [(k, found) for k, found in steps if found]


def is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def per_cent(value: Any) -> str:
    return f"{value:.1f}" if is_figure(value) else NONE
