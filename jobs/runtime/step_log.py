"""A run in sentences, one for each record of the ledger that changes it: the aggregator's log, and ``--watch``."""

from __future__ import annotations

from aggregator.ledger.records import (
    Record,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepClosed,
    StepVoid,
)
from crypto.scores import headline
from jobs.runtime.status import RunStatus


def line(status: RunStatus, record: Record) -> str:
    """What this record says. ``status``: after it. "" for a record that is no news of its own."""
    match record:
        case RunStarted():
            return f"run {record.run} begins: job {record.job_digest[:16]}, {status.steps} steps"
        case RunResumed():
            return f"run {record.run} goes on before step {record.k + 1} of {status.steps}"
        case StepClosed():
            return closed(status, headline(record.slots))
        case StepVoid():
            return f"step {record.name} is void: shares may have left, so it is not tried again"
        case RunFinished():
            signed = f"{len(record.countersignatures)} silos signed its end"
            return f"run {record.run} has finished: {status.released} steps closed, {status.void} void; {signed}"
        case RunFailed():
            why = record.detail or "no detail"
            return f"run {record.run} has ended with {record.code} in phase {record.phase}: {why}"
        case _:
            return ""


def closed(status: RunStatus, scores: str) -> str:
    """The last closed step: which of how many, how many silos are in its sums, what stayed shut. ``scores``: the line
    of the metrics that opened in it, if any."""
    last = status.closed
    if last is None:
        return ""
    parts = [f"step {last.name} ({last.k + 1} of {status.steps}) closed with {last.survivors} of {last.invited} silos"]
    if last.shut:
        parts.append(f"shut: {', '.join(last.shut)}")
    if last.withheld:
        parts.append(f"figures withheld: {', '.join(last.withheld)}")
    if scores:
        parts.append(scores)
    return "; ".join(parts)
