"""The ledger's lines of one run, decoded once; and a ledger whose chain, signatures and charters have been checked.

Everything that draws conclusions from a run reads it here: verification, replay, lineage, MLflow's pages, reports,
status, withdrawal, retention. ``aggregator.verify.verified_run.read_ledger`` does the checking; a ``RunRecord`` by
itself checks form only.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from aggregator.epochs import Epochs
from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry, at, is_of, of_kind, read
from aggregator.ledger.records import (
    ApprovalShown,
    ModelPublished,
    Record,
    Refusal,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    SiloLost,
    StepAttested,
    StepClosed,
    StepOpened,
    StepVoid,
    run_of,
)
from aggregator.protocols.choice import reader
from aggregator.protocols.interface import Charter, Plan, Reader
from crypto.errors import EvidenceError, FederationError
from crypto.keys import PublicIdentity

R = TypeVar("R", bound=Record)

#: Deepest JSON inside a record. A job has three levels; brackets in its texts count, too.
_DEEPEST = 100


@dataclass(frozen=True)
class RunRecord:
    """One run. ``run``: its short id; ``entries``: all lines of it, in order, the first of them run-started."""

    run: str
    entries: tuple[Entry[Record], ...]

    @classmethod
    def read(cls, home: AggregatorHome, run: str) -> RunRecord:
        """The run on the ledger of an aggregator's home. Signatures are not checked. Raises EvidenceError for a run
        that the ledger does not know, or a line without form."""
        return cls.among(read(home.ledger_path), run)

    @classmethod
    def among(cls, entries: Iterable[Entry[Record]], run: str) -> RunRecord:
        """The run among the lines of a ledger. Raises EvidenceError for one that is not there."""
        mine = tuple(entry for entry in entries if run_of(entry.record) == run)
        if not any(True for _ in of_kind(mine, RunStarted)):
            raise EvidenceError(
                "ledger.jsonl",
                expected=f"a line run-started of run {run}",
                found="none",
                remedy="The folders under jobs/ of the aggregator's home are the runs.",
            )
        return cls(run, mine)

    def of(self, kind: type[R]) -> Iterator[Entry[R]]:
        """The lines of one kind, in order."""
        return of_kind(self.entries, kind)

    # --- its beginning --------------------------------------------------------------------------------------------

    @cached_property
    def started(self) -> Entry[RunStarted]:
        return next(self.of(RunStarted))

    @cached_property
    def reader(self) -> Reader:
        """Of the protocol that the run was made under. Raises EvidenceError for one that is not known."""
        return reader(self.started.record.protocol, at(self.started, "protocol"))

    @cached_property
    def plan(self) -> Plan:
        """Raises EvidenceError unless the record has a plan of the digest that it names."""
        record, use = self.started.record, self.reader
        try:
            plan = use.plan(b64decode(record.plan, validate=True))
        except ValueError as bad:  # binascii.Error, or text that is not ASCII
            raise EvidenceError(at(self.started, "plan"), expected="base64 of a plan", found=str(bad)) from bad
        except FederationError as bad:
            found = f"[{bad.code}] {bad.detail}"
            raise EvidenceError(at(self.started, "plan"), expected="a plan", found=found) from bad
        if (digest := plan.digest.hex()) != record.plan_digest:
            raise EvidenceError(at(self.started, "plan_digest"), expected=digest, found=record.plan_digest)
        return plan

    @cached_property
    def job(self) -> Mapping[str, Any]:
        """The job's text as fields; its digest is what data owners approved. Raises EvidenceError for other text."""
        where, expected = at(self.started, "job"), "a job's canonical text"
        try:
            fields = nested_json(self.started.record.job)
        except ValueError as bad:
            raise EvidenceError(where, expected=expected, found="no JSON") from bad
        if not isinstance(fields, dict):
            raise EvidenceError(where, expected=expected, found=type(fields).__name__)
        return fields

    @cached_property
    def id(self) -> bytes | None:
        """The whole run id (32 bytes), of which ``run`` is the beginning; None where the record names no nonce."""
        record = self.started.record
        if record.nonce is None:
            return None
        named = (record.job_digest, record.charter_digest, record.nonce)
        return self.reader.run_id(*map(bytes.fromhex, named))

    # --- its steps ------------------------------------------------------------------------------------------------

    @cached_property
    def closed(self) -> tuple[Entry[StepClosed], ...]:
        """The released steps."""
        return tuple(self.of(StepClosed))

    @cached_property
    def void(self) -> tuple[Entry[StepVoid], ...]:
        return tuple(self.of(StepVoid))

    @cached_property
    def outcomes(self) -> tuple[Entry[StepClosed] | Entry[StepVoid], ...]:
        """The line that ended each step, released or void, in order."""
        return tuple(sorted((*self.closed, *self.void), key=lambda entry: entry.seq))

    @cached_property
    def opened(self) -> tuple[Entry[StepOpened], ...]:
        """Each attempt at a step."""
        return tuple(self.of(StepOpened))

    @cached_property
    def attested(self) -> tuple[Entry[StepAttested], ...]:
        return tuple(self.of(StepAttested))

    @cached_property
    def attested_at(self) -> Mapping[int, tuple[Entry[StepAttested], ...]]:
        """Step → its lines step-attested."""
        found: dict[int, list[Entry[StepAttested]]] = {}
        for entry in self.attested:
            found.setdefault(entry.record.k, []).append(entry)
        return {k: tuple(entries) for k, entries in found.items()}

    @cached_property
    def lost(self) -> tuple[Entry[SiloLost], ...]:
        """Silos that did not answer."""
        return tuple(self.of(SiloLost))

    @cached_property
    def refusals(self) -> tuple[Entry[Refusal], ...]:
        return tuple(self.of(Refusal))

    @cached_property
    def absences(self) -> tuple[Entry[SiloLost] | Entry[Refusal], ...]:
        """Silos that did not answer or refused, in order."""
        return tuple(sorted((*self.lost, *self.refusals), key=lambda entry: entry.seq))

    @cached_property
    def approvals(self) -> tuple[Entry[ApprovalShown], ...]:
        return tuple(self.of(ApprovalShown))

    @cached_property
    def shown(self) -> Mapping[str, Entry[ApprovalShown]]:
        """Digest of an approval → the first line that has it."""
        return {entry.record.digest: entry for entry in reversed(self.approvals)}

    @cached_property
    def slots(self) -> Mapping[str, Mapping[str, int]]:
        """Name of the step → slot → opened sum."""
        return {entry.record.name: dict(entry.record.slots) for entry in self.closed}

    def window(self, closed: Entry[StepClosed]) -> tuple[int, int]:
        """From when to when a released step was under way, by the ledger's times, in seconds since 1970."""
        place = (closed.record.k, closed.record.attempt or 0)
        began = next((entry for entry in reversed(self._opened_at.get(place, ())) if entry.seq < closed.seq), None)
        if began is None:
            raise EvidenceError(at(closed), expected="a line step-opened before it", found="none")
        return began.seconds, closed.seconds

    @cached_property
    def _opened_at(self) -> Mapping[tuple[int, int], list[Entry[StepOpened]]]:
        found: dict[tuple[int, int], list[Entry[StepOpened]]] = {}
        for entry in self.opened:
            found.setdefault((entry.record.k, entry.record.attempt or 0), []).append(entry)
        return found

    # --- its end --------------------------------------------------------------------------------------------------

    @cached_property
    def finished(self) -> Entry[RunFinished] | None:
        return next(self.of(RunFinished), None)

    @cached_property
    def failed(self) -> Entry[RunFailed] | None:
        """The line that ended a run which did not finish; None if it went on afterwards."""
        last = next((entry for entry in reversed(self.entries) if isinstance(entry.record, _ENDS)), None)
        return last if last is not None and is_of(last, RunFailed) else None

    @property
    def status(self) -> str:
        """``finished``, ``failed: CODE`` or ``not finished``."""
        if self.finished is not None:
            return "finished"
        return f"failed: {self.failed.record.code}" if self.failed is not None else "not finished"

    @cached_property
    def published(self) -> tuple[Entry[ModelPublished], ...]:
        """Each time that an alias was moved to the run's model."""
        return tuple(self.of(ModelPublished))


_ENDS = (RunFinished, RunFailed, RunResumed)


@dataclass(frozen=True)
class CheckedLedger:
    """A ledger whose chain, signatures and charters have been checked, whole.

    ``epochs``: each epoch that was found, signed by the consortium; ``signers``: whose key signed each line.
    """

    home: AggregatorHome
    epochs: Epochs
    entries: tuple[Entry[Record], ...]
    signers: tuple[PublicIdentity, ...] = ()

    @property
    def charter(self) -> Charter:
        """The newest epoch."""
        return self.epochs.newest

    @cached_property
    def charters(self) -> Mapping[str, Charter]:
        """Digest (hex) → charter."""
        return {charter.digest.hex(): charter for charter in self.epochs.charters}

    @property
    def head(self) -> str:
        return self.entries[-1].digest

    def of(self, kind: type[R]) -> Iterator[Entry[R]]:
        """The lines of one kind, of all runs, in order."""
        return of_kind(self.entries, kind)

    def line(self, digest: str | None) -> Entry[Record] | None:
        """The line of that digest."""
        return self._lines.get(digest or "")

    @cached_property
    def _lines(self) -> Mapping[str, Entry[Record]]:
        return {entry.digest: entry for entry in self.entries}

    @cached_property
    def shown(self) -> Mapping[str, tuple[Entry[ApprovalShown], ...]]:
        """Digest of an approval → its lines, of all runs."""
        found: dict[str, list[Entry[ApprovalShown]]] = {}
        for entry in self.of(ApprovalShown):
            found.setdefault(entry.record.digest, []).append(entry)
        return {digest: tuple(entries) for digest, entries in found.items()}

    @cached_property
    def runs(self) -> Mapping[str, RunRecord]:
        """Short id → every run that was started, oldest first."""
        lines: dict[str, list[Entry[Record]]] = {}
        for entry in self.entries:
            lines.setdefault(run_of(entry.record), []).append(entry)
        started = dict.fromkeys(entry.record.run for entry in self.of(RunStarted))
        return {run: RunRecord(run, tuple(lines[run])) for run in started}

    def run(self, run: str) -> RunRecord:
        """Raises EvidenceError for a run that the ledger does not know."""
        return self.runs.get(run) or RunRecord.among((), run)


def nested_json(text: str) -> Any:
    """JSON inside a record's text. Raises ValueError for what is none, or is nested deeper than anything of ours: what
    can just be parsed may be too deep to be compared or printed."""
    depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if depth > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} deep")
    return json.loads(text)


def job_fields(start: RunStarted) -> Mapping[str, Any]:
    """The job's own fields; none where its text is not the JSON that our jobs are."""
    try:
        found = nested_json(start.job)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
