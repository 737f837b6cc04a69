"""The basis of the checks of one run: the ledger's lines, the charters, and the run's own first record.

Checks 1 to 3 of ``aggregator.verify.checks``. The later checks compare with these values, so each is decoded from
bytes that a signature covers, or is recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from aggregator.home import AggregatorHome, RunFolder
from aggregator.ledger.format import at, read, verify
from aggregator.ledger.records import (
    ApprovalShown,
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
from aggregator.protocols.interface import Charter, Plan, Reader
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.verify.charters import KeyRing, consortium_key, read_epochs, signing_charters
from aggregator.verify.report import VerificationReport, same
from crypto import durable
from crypto.errors import EvidenceError
from crypto.plan import Scope

#: Records written only while a run is under way: signed by the aggregator of the run's own charter.
_UNDER_WAY = (
    RunStarted, RunResumed, ApprovalShown, StepOpened, StepAttested, SiloLost, Refusal, StepVoid, StepClosed,
    RunFinished, RunFailed,
)  # fmt: skip

#: Largest initial state, in bytes, that is computed without a checkpoint of at least that size on disk.
MOST_UNPROVEN = 1 << 28


@dataclass(frozen=True, kw_only=True)
class VerifiedRun:
    """One run whose first record, lines and order have been checked. ``id``: the whole run id."""

    ledger: CheckedLedger
    record: RunRecord
    id: bytes
    charter: Charter

    @property
    def run(self) -> str:
        return self.record.run

    @property
    def reader(self) -> Reader:
        return self.record.reader

    @property
    def plan(self) -> Plan:
        return self.record.plan

    @property
    def folder(self) -> RunFolder:
        return self.ledger.home.run_folder(self.run)


# --- 1 and 2: ledger and charters --------------------------------------------------------------------------------


def read_ledger(
    home: AggregatorHome, consortium: str | Path | None, report: VerificationReport, *, under_way: bool = False
) -> CheckedLedger:
    """Check the whole ledger (form, order, chain, signatures, head file) and every charter on it or in the home.

    ``consortium``: see ``charters.consortium_key``. ``under_way``: a run may be writing, so bytes after the last
    complete line are ignored; otherwise they are an error. Raises EvidenceError that names the line or the file.
    """
    key = consortium_key(home, consortium, report)
    with snapshot(home.ledger_path) as copy:
        if under_way:
            data = copy.read_bytes()
            copy.write_bytes(data[: data.rfind(b"\n") + 1])
        ring = KeyRing(signing_charters(home, copy, key))
        head = verify(copy, ring)
        entries = tuple(read(copy))
    if not entries:
        raise EvidenceError("ledger.jsonl", expected="at least one line", found="none")
    epochs = read_epochs(home, entries, key, report)
    report.ok("ledger", f"{len(entries)} lines, chained and signed; head {head[:16]}")
    return CheckedLedger(home, epochs, entries, tuple(ring.used[: len(entries)]))


@contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """A copy of ledger and head, taken between two writes: writers hold exclusively the lock that is shared here."""
    with TemporaryDirectory(prefix="consilium-") as folder:
        copy = Path(folder) / path.name
        head = path.with_name(f"{path.name}.head")
        try:
            with durable.locked(path, shared=True, create=False):
                copy.write_bytes(path.read_bytes())
                if head.exists():
                    copy.with_name(head.name).write_bytes(head.read_bytes())
        except OSError as missing:
            remedy = "Give the aggregator's home, or a bundle, with --home."
            raise EvidenceError(path.name, expected="a ledger", found=missing.strerror, remedy=remedy) from missing
        yield copy


# --- 3: the run --------------------------------------------------------------------------------------------------


def open_run(ledger: CheckedLedger, run: str, report: VerificationReport) -> VerifiedRun:
    """Check what the run's first line says (id, job, plan, charter), and that its lines are complete, in
    order and signed with the right key. Raises EvidenceError."""
    record = ledger.run(run)
    started, first = record.started, record.started.record
    _once(record, RunStarted)
    charter = ledger.epochs.find(first.charter_digest, at(started, "charter_digest"))
    same(at(started, "job_digest"), record.reader.job_digest(first.job).hex(), first.job_digest)
    plan = record.plan
    run_id = _run_id(record)
    _initial(ledger.home, record, run_id)
    for field, expected, found in (
        ("silos", charter.silos, first.silos),
        ("threshold", charter.threshold(len(charter.members)), first.threshold),
        ("method", plan.method, first.method),
        ("federation", charter.federation, first.federation),
        ("model_name", record.job.get("name"), first.model_name),
        ("purpose", record.job.get("purpose"), first.purpose),
    ):
        same(at(started, field), expected, found)
    _in_force(charter, started.seconds, started.seconds, at(started))
    _signed_by(ledger, run, charter)
    _resumed(record)
    _once(record, RunFinished)
    _steps(record)
    for entry in record.closed:
        _in_force(charter, *record.window(entry), at(entry))
    report.ok(
        "run",
        f"{run}: id, job {first.job_digest[:16]}, plan {first.plan_digest[:16]}, charter epoch {charter.epoch}, "
        "recomputed",
    )
    if record.reader.note:
        report.note("protocol", f"{record.reader.name}: {record.reader.note}")
    return VerifiedRun(ledger=ledger, record=record, id=run_id, charter=charter)


def _initial(home: AggregatorHome, record: RunRecord, run: bytes) -> None:
    """The first state is that of this plan and run. A small plan can name more blocks than fit into memory, so a large
    state is computed only where a checkpoint of that size exists."""
    started, plan, use = record.started, record.plan, record.reader
    need = 4 * sum(block.size for block in plan.blocks if plan.lane_of(block.name).scope != Scope.LOCAL)
    kept = home.run_folder(started.record.run).checkpoints_folder.glob("*.safetensors")
    if need > MOST_UNPROVEN and need > (most := max((path.stat().st_size for path in kept), default=0)):
        expected = f"a checkpoint of at least {need} bytes, for the plan's blocks"
        raise EvidenceError(at(started, "plan"), expected=expected, found=f"{most} bytes")
    same(at(started, "state_digest"), use.state_digest(use.initial_state(plan, run)).hex(), started.record.state_digest)


def _run_id(record: RunRecord) -> bytes:
    if record.id is None:
        found = "none: an earlier version wrote this line"
        raise EvidenceError(at(record.started), expected="the run's nonce", found=found)
    same(at(record.started, "run"), record.id.hex()[:16], record.run)
    return record.id


def _in_force(charter: Charter, since: int, until: int, where: str) -> None:
    """The charter was valid at some time between these two, by the aggregator's clock."""
    if until < charter.not_before or since > charter.not_after:
        expected = f"a time within the charter's validity, {charter.not_before} to {charter.not_after}"
        raise EvidenceError(where, expected=expected, found=f"{since} to {until}")


def _signed_by(ledger: CheckedLedger, run: str, charter: Charter) -> None:
    for entry, signer in zip(ledger.entries, ledger.signers, strict=True):
        if isinstance(entry.record, _UNDER_WAY) and run_of(entry.record) == run and signer != charter.aggregator:
            expected = f"the aggregator key of epoch {charter.epoch}, {charter.aggregator.fingerprint}"
            raise EvidenceError(at(entry, "signature"), expected=expected, found=signer.fingerprint)


def _resumed(record: RunRecord) -> None:
    """Each time the run was resumed, it was from the state after the last released step."""
    state = record.started.record.state_digest
    for entry in record.entries:
        if isinstance(entry.record, RunResumed):
            same(at(entry, "state_digest"), state, entry.record.state_digest)
        elif isinstance(entry.record, StepClosed):
            state = entry.record.state_digest


def _once(record: RunRecord, kind: type[Record]) -> None:
    found = list(record.of(kind))
    if len(found) > 1:
        expected = f"one line {kind.kind} of run {record.run}"
        raise EvidenceError(at(found[1]), expected=expected, found=f"{len(found)}")


def _steps(record: RunRecord) -> None:
    """Exactly one line ends each step: k counts from 0 without gaps, and no step follows the run's end."""
    planned, ended = record.plan.steps, record.finished
    for k, entry in enumerate(record.outcomes):
        same(at(entry, "k"), k, entry.record.k)
        if k >= len(planned) or (ended is not None and entry.seq > ended.seq):
            raise EvidenceError(at(entry), expected="no step after the run's end", found=f"step {k}")
        same(at(entry, "name"), planned[k].name, entry.record.name)
    if ended is not None:
        same(at(ended), f"after {len(planned)} steps", f"after {len(record.outcomes)} steps")
