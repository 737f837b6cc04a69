"""What the checks of one run stand on: the ledger's lines, the charters, and the run's own first record.

Checks 1 to 3 of ``aggregator.verify.checks``. Whatever comes later compares with these values, so each is made from
bytes that a signature covers, or is recomputed.
"""

from __future__ import annotations

import binascii
import fcntl
import json
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aggregator.ledger.format import Entry, ledger_path, read, verify
from aggregator.ledger.records import Kind
from aggregator.rounds.storage import run_folder
from aggregator.run_record import History
from aggregator.verify.charters import Epochs, KeyRing, consortium_key, read_epochs, signing_charters
from aggregator.verify.report import Report, checking, same
from crypto import transcript
from crypto.blocks import initial_state, state_digest
from crypto.charter import Charter
from crypto.errors import EvidenceError
from crypto.keys import PublicIdentity
from crypto.plan import Plan, Scope

#: The lines that only a run under way makes: signed by the aggregator of the run's own charter.
OF_A_RUN = frozenset(Kind) - {Kind.CHARTER, Kind.WITHDRAWAL, Kind.RECOVERED, Kind.MODEL_PUBLISHED}


#: Bytes of blocks that are made without a checkpoint as large to show for.
UNSEEN = 1 << 28


def at(entry: Entry, field: str = "") -> str:
    """Names a line of the ledger for an error."""
    return f"ledger.jsonl line {entry.seq + 1} ({entry.kind}){f', {field}' if field else ''}"


def seconds(entry: Entry) -> int:
    """When a line was written, in seconds since 1970."""
    try:
        return int(datetime.fromisoformat(entry.time).timestamp())
    except ValueError as bad:
        raise EvidenceError(at(entry, "time"), expected="a time of the calendar", found=entry.time) from bad


@dataclass(frozen=True, kw_only=True)
class Book:
    """A ledger and its charters, both checked. ``signers``: whose key signed each line."""

    history: History
    epochs: Epochs
    signers: tuple[PublicIdentity, ...]

    @property
    def home(self) -> Path:
        return self.history.home

    def line(self, digest: str) -> Entry | None:
        """The line of that digest."""
        return next((entry for entry in self.history.entries if entry.digest == digest), None)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run. ``id``: the whole run id; ``lines``: all that the ledger says of it; ``steps``: for each step in order
    the line that ended it, released or void; ``ended``: the line run-finished, if the run got there."""

    book: Book
    run: str
    id: bytes
    lines: tuple[Entry, ...]
    started: Entry
    charter: Charter
    plan: Plan
    steps: tuple[Entry, ...]
    ended: Entry | None

    @property
    def folder(self) -> Path:
        return run_folder(self.book.home, self.run)

    def of(self, kind: Kind) -> Iterator[Entry]:
        return (entry for entry in self.lines if entry.kind is kind)

    def window(self, closed: Entry) -> tuple[int, int]:
        """From when to when a released step was under way, by the ledger's times."""
        opened = [
            entry for entry in self.of(Kind.STEP_OPENED) if entry.record["k"] == closed.record["k"]
            and entry.record.get("attempt", 0) == closed.record.get("attempt", 0) and entry.seq < closed.seq
        ]  # fmt: skip
        if not opened:
            raise EvidenceError(at(closed), expected="a line step-opened before it", found="none")
        return seconds(opened[-1]), seconds(closed)


# --- 1 and 2: ledger and charters --------------------------------------------------------------------------------


def read_book(home: Path, consortium: str | Path | None, report: Report) -> Book:
    """Check the ledger whole (form, order, chain, signatures, head file) and every charter that is on it or beside it.

    ``consortium``: see ``keyring.consortium_key``. Raises EvidenceError that names the line or the file.
    """
    key = consortium_key(home, consortium, report)
    with snapshot(ledger_path(home)) as copy:
        ring = KeyRing(signing_charters(home, copy, key))
        head = verify(copy, ring)
        entries = tuple(read(copy))
    if not entries:
        raise EvidenceError("ledger.jsonl", expected="at least one line", found="none")
    epochs = read_epochs(home, entries, key, report)
    report.ok("ledger", f"{len(entries)} lines, chained and signed; head {head[:16]}")
    charters = {charter.digest.hex(): charter for charter in epochs.charters}
    history = History(home, epochs.newest, charters, entries)
    return Book(history=history, epochs=epochs, signers=tuple(ring.used[: len(entries)]))


@contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """Ledger and head as they were between two writes: writers hold the lock that is shared here."""
    with TemporaryDirectory(prefix="consilium-") as folder:
        copy = Path(folder) / path.name
        head = path.with_name(f"{path.name}.head")
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                copy.write_bytes(file.read())
                if head.exists():
                    copy.with_name(head.name).write_bytes(head.read_bytes())
        except OSError as missing:
            remedy = "Give the aggregator's home, or a bundle, with --home."
            raise EvidenceError(path.name, expected="a ledger", found=missing.strerror, remedy=remedy) from missing
        yield copy


# --- 3: the run --------------------------------------------------------------------------------------------------


def open_case(book: Book, run: str, report: Report) -> Case:
    """Check that the run is what its first line says: id, job, plan, charter, predictor; and that its lines are all
    there, in order, under the right key."""
    started = _only(book, Kind.RUN_STARTED, run)
    if started is None:
        raise EvidenceError("ledger.jsonl", expected=f"a line run-started of run {run}", found="none")
    record = started.record
    charter = book.epochs.find(record["charter_digest"], at(started, "charter_digest"))
    same(at(started, "job_digest"), transcript.digest("job", record["job"]).hex(), record["job_digest"])
    plan = _plan(started)
    run_id = _run_id(started, run)
    _initial(book.home, started, plan)
    for field, expected in (
        ("silos", list(charter.silos)),
        ("threshold", charter.threshold(len(charter.members))),
        ("method", plan.method),
        ("federation", charter.federation),
        ("model_name", job_facts(started).get("name")),
        ("purpose", job_facts(started).get("purpose")),
    ):
        same(at(started, field), expected, record.get(field))
    _in_force(charter, seconds(started), seconds(started), at(started))
    _predictor(book.home, started)
    lines = tuple(entry for entry in book.history.entries if entry.record.get("run") == run)
    _signed_by(book, run, charter)
    _resumed(lines, started)
    ended = _only(book, Kind.RUN_FINISHED, run)
    steps = _steps(lines, plan, ended)
    case = Case(
        book=book, run=run, id=run_id, lines=lines, started=started,
        charter=charter, plan=plan, steps=steps, ended=ended,
    )  # fmt: skip
    for entry in steps:
        if entry.kind is Kind.STEP_CLOSED:
            _in_force(charter, *case.window(entry), at(entry))
    report.ok(
        "run",
        f"{run}: id, job {record['job_digest'][:16]}, plan {record['plan_digest'][:16]}, charter epoch {charter.epoch}"
        f"{', predictor' if 'predictor' in record else ''}, recomputed",
    )
    return case


def job_facts(started: Entry) -> Mapping[str, Any]:
    """The job's text as fields. Its digest is what silos approved."""
    try:
        facts = json.loads(started.record["job"])
    except (ValueError, RecursionError) as bad:
        raise EvidenceError(at(started, "job"), expected="a job's canonical text", found="no JSON") from bad
    if not isinstance(facts, dict):
        raise EvidenceError(at(started, "job"), expected="a job's canonical text", found=type(facts).__name__)
    return facts


def _plan(started: Entry) -> Plan:
    with checking(at(started, "plan"), "a plan"):
        try:
            plan = Plan.from_bytes(b64decode(started.record["plan"], validate=True))
        except binascii.Error as bad:
            raise EvidenceError(at(started, "plan"), expected="base64 of a plan", found=str(bad)) from bad
    same(at(started, "plan_digest"), plan.digest.hex(), started.record["plan_digest"])
    return plan


def _initial(home: Path, started: Entry, plan: Plan) -> None:
    """The first state is the plan's. A few bytes of plan may name more blocks than any memory holds: they are made
    only where a checkpoint shows that there is such a model."""
    need = 4 * sum(block.size for block in plan.blocks if plan.lane_of(block.name).scope is not Scope.LOCAL)
    kept = (run_folder(home, started.record["run"]) / "checkpoints").glob("*.safetensors")
    if need > UNSEEN and need > (most := max((path.stat().st_size for path in kept), default=0)):
        expected = f"a checkpoint of at least {need} bytes, for the plan's blocks"
        raise EvidenceError(at(started, "plan"), expected=expected, found=f"{most} bytes")
    same(at(started, "state_digest"), state_digest(initial_state(plan)).hex(), started.record["state_digest"])


def _run_id(started: Entry, run: str) -> bytes:
    record = started.record
    if "nonce" not in record:
        raise EvidenceError(at(started), expected="the run's nonce", found="none: an earlier version wrote this line")
    job, charter, nonce = (bytes.fromhex(record[name]) for name in ("job_digest", "charter_digest", "nonce"))
    run_id = transcript.run_id(job, charter, nonce)
    same(at(started, "run"), run_id.hex()[:16], run)
    return run_id


def _in_force(charter: Charter, since: int, until: int, where: str) -> None:
    """A silo looked at its own clock between these two times of the aggregator's."""
    if until < charter.not_before or since > charter.not_after:
        expected = f"a time within the charter's validity, {charter.not_before} to {charter.not_after}"
        raise EvidenceError(where, expected=expected, found=f"{since} to {until}")


def _predictor(home: Path, started: Entry) -> None:
    facts = started.record.get("predictor")
    if facts is None:
        return
    where = f"{started.record['run']}/predictor.py"
    same(at(started, "predictor.file"), "predictor.py", facts.get("file"))
    try:
        code = (run_folder(home, started.record["run"]) / "predictor.py").read_bytes()
    except OSError as missing:
        raise EvidenceError(where, expected=f"SHA-256 {facts.get('sha256')}", found=missing.strerror) from missing
    same(where, f"SHA-256 {facts.get('sha256')}", f"SHA-256 {sha256(code).hexdigest()}")


def _signed_by(book: Book, run: str, charter: Charter) -> None:
    for entry, signer in zip(book.history.entries, book.signers, strict=True):
        if entry.kind in OF_A_RUN and entry.record["run"] == run and signer != charter.aggregator:
            expected = f"the aggregator key of epoch {charter.epoch}, {charter.aggregator.fingerprint}"
            raise EvidenceError(at(entry, "signature"), expected=expected, found=signer.fingerprint)


def _resumed(lines: Iterable[Entry], started: Entry) -> None:
    """Wherever the run went on, it did so from the state of the last step that the ledger had released."""
    state = started.record["state_digest"]
    for entry in lines:
        if entry.kind is Kind.RUN_RESUMED:
            same(at(entry, "state_digest"), state, entry.record["state_digest"])
        elif entry.kind is Kind.STEP_CLOSED:
            state = entry.record["state_digest"]


def _only(book: Book, kind: Kind, run: str) -> Entry | None:
    found = list(book.history.of(kind, run))
    if len(found) > 1:
        raise EvidenceError(at(found[1]), expected=f"one line {kind} of run {run}", found=f"{len(found)}")
    return found[0] if found else None


def _steps(lines: Iterable[Entry], plan: Plan, ended: Entry | None) -> tuple[Entry, ...]:
    """The line that ended each step, in order: one for each k, from 0, none after the end."""
    steps = [entry for entry in lines if entry.kind in (Kind.STEP_CLOSED, Kind.STEP_VOID)]
    for k, entry in enumerate(steps):
        same(at(entry, "k"), k, entry.record["k"])
        if k >= len(plan.steps) or (ended is not None and entry.seq > ended.seq):
            raise EvidenceError(at(entry), expected="no step after the run's end", found=f"step {k}")
        same(at(entry, "name"), plan.steps[k].name, entry.record["name"])
    if ended is not None:
        same(at(ended), f"after {len(plan.steps)} steps", f"after {len(steps)} steps")
    return tuple(steps)
