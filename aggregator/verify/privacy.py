"""What a ledger can show of a claim of differential privacy: that the run's plan opens nothing that the claim forgets.

Noise is drawn at the silos, and their accounts are there: neither is on a ledger. Each silo computed the claim itself
before it took part; here it is read.
"""

from __future__ import annotations

from typing import Final

from aggregator import privacy
from aggregator.ledger.format import at
from aggregator.run_record import RunRecord
from aggregator.verify.report import VerificationReport
from crypto.errors import EvidenceError
from crypto.plan import Scope

#: The slots of a private plan: figures that no row changes.
CONSTANT: Final = frozenset({"silos"})


def check_privacy(record: RunRecord, report: VerificationReport) -> None:
    """Nothing for a job without a claim. Raises EvidenceError for a plan that opens a figure of rows, weights that may
    follow them, or a lane that not every silo holds."""
    try:
        job = record.job
    except EvidenceError:
        return  # no text of ours: it claims nothing
    if privacy.claim(job) is None:
        return
    where, plan = at(record.started, "plan"), record.plan
    for lane in plan.lanes:
        if lane.scope not in (Scope.ALL, Scope.LOCAL) or len(lane.grid) > 1:
            expected = "lanes of all silos with one weight, as a private job has"
            raise EvidenceError(where, expected=expected, found=f"lane {lane.name}")
    for step in plan.steps:
        if more := sorted({slot.name for slot in step.slots} - CONSTANT):
            expected = "no figures of rows, as a private job has"
            raise EvidenceError(where, expected=expected, found=f"slot {more[0]} of step {step.name}")
    opened = sum(bool(entry.record.lanes_open) for entry in record.closed)
    planned = sum(bool(step.sums) for step in plan.steps)
    report.ok("privacy", f"{privacy.short(job)}: the plan opens no figures of rows; {opened} of {planned} noised steps")
    report.not_checked("privacy", "that each silo added its noise, and what its account says: both are at the silos")
