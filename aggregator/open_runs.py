"""The runs on a ledger that have no end yet, kept up to date line by line.

A run without a ``run-finished`` or ``run-failed`` line is under way or was interrupted. One that failed for want of
silos, or of disk space, is kept too: it can go on once they are back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aggregator.errors import RunGivenUp
from aggregator.ledger.format import Entry
from aggregator.ledger.records import (
    OfRun,
    Record,
    Refusal,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepClosed,
    StepOpened,
    StepVoid,
)
from aggregator.rounds.attempt import STEADY
from aggregator.run_record import job_fields
from crypto.errors import NoSpace, RoundLost

#: How a run may have failed for a reason that time can mend.
MENDABLE: Final = frozenset({RoundLost.code, RunGivenUp.code, NoSpace.code})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """``k``: the step that it is at. ``ended``: steps that are closed or void, ``closed`` those with a result.
    ``last``: time of its last line, and ``progress`` of the last step's end or of the start, seconds since 1970.
    ``failed``: its end, if it failed. ``refused``: codes of the refusals since the last step that ended."""

    run: str
    name: str
    protocol: str
    charter: str
    code: str
    job_digest: str
    job: Mapping[str, Any]
    k: int = 0
    closed: int = 0
    last: int = 0
    progress: int = 0
    failed: RunFailed | None = None
    refused: frozenset[str] = field(default_factory=frozenset)

    @property
    def mendable(self) -> bool:
        """Whether it failed, after some results, for want of silos that may come back or of space; not because silos
        refuse it, and not because its own time was up."""
        end = self.failed
        if end is None or end.code not in MENDABLE or not self.closed or self.refused & STEADY:
            return False
        return end.code != RoundLost.code or bool(end.missing)


class OpenRuns:
    """``take`` each line of the ledger, in order."""

    def __init__(self) -> None:
        self._runs: dict[str, OpenRun] = {}

    def __iter__(self) -> Iterator[OpenRun]:
        return iter(tuple(self._runs.values()))

    def take(self, entry: Entry[Record]) -> None:
        record = entry.record
        if not isinstance(record, OfRun):
            return
        if isinstance(record, RunStarted):
            self._runs[record.run] = OpenRun(
                run=record.run,
                name=record.model_name,
                protocol=record.protocol,
                charter=record.charter_digest,
                code=record.code_digest or "",
                job_digest=record.job_digest,
                job=job_fields(record),
                last=entry.seconds,
                progress=entry.seconds,
            )
            return
        run = self._runs.get(record.run)
        if run is None:
            return
        run = replace(run, last=entry.seconds)
        match record:
            case RunFinished():
                # The same job, begun earlier and finished anew, needs nobody any more.
                self._runs = {
                    name: one
                    for name, one in self._runs.items()
                    if one.job_digest != run.job_digest or one.progress > run.progress
                }
                self._runs.pop(record.run, None)
                return
            case RunFailed():
                run = replace(run, failed=record)
            case RunResumed():
                run = replace(run, failed=None, k=record.k, refused=frozenset())
            case StepOpened():
                run = replace(run, k=record.k)
            case Refusal():
                run = replace(run, refused=run.refused | {record.code})
            case StepClosed() | StepVoid():
                closed = run.closed + isinstance(record, StepClosed)
                run = replace(run, k=record.k + 1, closed=closed, progress=entry.seconds, refused=frozenset())
        self._runs[record.run] = run
