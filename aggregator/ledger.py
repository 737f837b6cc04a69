"""The ledger: what happened, once, in order, signed. MLflow holds the copy people browse; this file is the truth.

**File.** One JSON object a line, appended and synced to disk before ``append`` returns, never rewritten. A line is
``canonical(object) + b"\\n"`` with exactly the keys ``seq`` (from 0), ``kind``, ``time`` (UTC, milliseconds), ``prev``,
``record`` and ``signature``. *Canonical*: sorted keys, no spaces, ASCII, and only objects, lists, strings, integers
(of any size: slots are uint64), true, false and null. Floats are refused, because two writers print one float in two
ways: figures are integers in a named unit, or strings.

**Chain.** The digest of a line is SHA-256 over its bytes *including* the newline. ``prev`` is the digest of the line
before (``GENESIS`` for the first), so the last digest, the *head*, stands for the whole file.

**Signature.** Ed25519 by the aggregator key over ``b"consilium/1/ledger\\n" + SHA-256(canonical(line without the key
"signature"))``, as lower-case hex.

**Head file.** ``<path>.head`` names how many lines are on disk at least, and their head, signed with the label
``consilium/1/ledger-head``. It is written after each line, so a ledger cut at a line boundary is noticed. Whoever can
restore an old pair of files is caught by the heads that silos countersign at the end of each run: pass one to
``verify``.

**Writers.** Every append holds an exclusive ``flock`` and re-reads what others added: several job processes may share
one ledger. A process killed in the middle of a write leaves bytes without a newline, never acknowledged to anybody;
the next writer cuts them off and says so in a ``recovered`` record.

**Records** (``SCHEMA``): closed kinds with required and optional keys; anything else is refused at append and at
verify. Records of a run name it first: ``run``. Digests are hex; phases are those
of a step, codes and reasons a closed list (``REASONS``); ``slots``, ``phase_ms`` and sizes are whole
numbers.

======================  ==============================================================================================
charter                 epoch · charter_digest · charter (hex of the signed bytes); before the first run under it
run-started             job (spec text) · job_digest · plan (base64) · plan_digest · charter_digest · state_digest ·
                        method · model_name · silos · threshold · protocol · [nonce · code_digest · purpose ·
                        predictor · federation · attempt · parent · versions]; ``predictor`` as made by
                        ``state.stage_predictor``; ``nonce`` makes the run's whole id
approval                k · silo · digest · approval (hex of the data owner's signed bytes), when first shown
run-resumed             k · state_digest
step-opened             k · name · invited · [attempt]
step-attested           k · name · attempt · transcript · survivors; written before shares are asked for
silo-lost               k · name · silo · phase
refusal                 k · name · silo · phase · code · [decline (hex of the silo's signed bytes)]
step-void               k · name · reason · phase · missing · [transcript · chain · invited · lost · refusals];
                        weights stay
step-closed             k · name · transcript · invited · survivors · lost · refusals · lanes_open · lanes_shut ·
                        slots · state_digest · upload_digests · upload_bytes · phase_ms · data_commitments ·
                        [evidence_sha256 · chain · attempt · approvals · holdings · policies]
run-finished            state_digest · chain · countersignatures · weights_sha256 · checkpoint · [ledger_head]
run-failed              code · phase · missing · [k · detail]; ``ABORTED``: by the admin, ``GIVEN_UP``: by NVFlare
model-published         model_name · version · alias · weights_sha256 · [by]
withdrawal              silo · reason · epoch · charter_digest · models · remedies: nobody's run, so no ``run``
recovered               bytes · sha256
======================  ==============================================================================================
"""

from __future__ import annotations

import fcntl
import json
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from aggregator.aborted import RunAborted, RunGivenUp
from crypto.errors import BY_CODE, FULL, BadSignature, EvidenceError, FederationError, NoSpace, SpecError
from crypto.messages import PHASES

#: ``prev`` of the first line.
GENESIS = "0" * 64

#: Why a silo dropped out of a step, a step is void or a run ended: refusals' codes, what a server says that came back,
#: and that it was ended from outside.
REASONS = frozenset(BY_CODE) | {FederationError.code, "INTERRUPTED", RunAborted.code, RunGivenUp.code}

_LINE_LABEL = b"consilium/1/ledger\n"
_HEAD_LABEL = b"consilium/1/ledger-head\n"

_LINE_KEYS = {"seq", "kind", "time", "prev", "record", "signature"}
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Signer(Protocol):
    """What the aggregator's identity offers: a 64-byte Ed25519 signature."""

    def sign(self, message: bytes) -> bytes: ...


class Verifier(Protocol):
    """The public half; raises BadSignature, returns nothing."""

    def verify(self, signature: bytes, message: bytes) -> None: ...


# --- records -----------------------------------------------------------------------------------------------------


class Kind(StrEnum):
    CHARTER = "charter"
    RUN_STARTED = "run-started"
    RUN_RESUMED = "run-resumed"
    APPROVAL = "approval"
    STEP_OPENED = "step-opened"
    STEP_ATTESTED = "step-attested"
    SILO_LOST = "silo-lost"
    REFUSAL = "refusal"
    STEP_VOID = "step-void"
    STEP_CLOSED = "step-closed"
    RUN_FINISHED = "run-finished"
    RUN_FAILED = "run-failed"
    MODEL_PUBLISHED = "model-published"
    WITHDRAWAL = "withdrawal"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a value in a record must look like: the words for people, and the test."""

    want: str
    holds: Callable[[Any], bool]


def _map(of: Shape) -> Shape:
    return Shape(f"object of {of.want}", lambda value: isinstance(value, dict) and all(map(of.holds, value.values())))


_text = Shape("text", lambda value: isinstance(value, str))
_count = Shape("whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_hex = Shape("lower-case hex", lambda value: isinstance(value, str) and _HEX.fullmatch(value) is not None)
_table = Shape("object", lambda value: isinstance(value, dict))
_phase = Shape("a phase of a step, or nothing", lambda value: value == "" or value in PHASES)
_code = Shape("a code of the error tree", lambda value: isinstance(value, str) and value in REASONS)
_texts = Shape("list of text", lambda value: isinstance(value, list) and all(map(_text.holds, value)))


def _keys(**shapes: Shape) -> dict[str, Shape]:
    return shapes


_STEP = _keys(run=_text, k=_count, name=_text)

#: kind → (required keys, optional keys), each with its shape.
SCHEMA: dict[Kind, tuple[dict[str, Shape], dict[str, Shape]]] = {
    Kind.CHARTER: (_keys(epoch=_count, charter_digest=_hex, charter=_hex), {}),
    Kind.RUN_STARTED: (
        _keys(
            run=_text, job=_text, job_digest=_hex, plan=_text, plan_digest=_hex, charter_digest=_hex, state_digest=_hex
        )
        | _keys(method=_text, model_name=_text, silos=_texts, threshold=_count, protocol=_text),
        _keys(predictor=_table, federation=_text, attempt=_count, parent=_hex, versions=_map(_text))
        | _keys(nonce=_hex, code_digest=_hex, purpose=_text),
    ),
    Kind.RUN_RESUMED: (_keys(run=_text, k=_count, state_digest=_hex), {}),
    Kind.APPROVAL: (_keys(run=_text, k=_count, silo=_text, digest=_hex, approval=_hex), {}),
    Kind.STEP_OPENED: (_STEP | _keys(invited=_texts), _keys(attempt=_count)),
    Kind.STEP_ATTESTED: (_STEP | _keys(attempt=_count, transcript=_hex, survivors=_texts), {}),
    Kind.SILO_LOST: (_STEP | _keys(silo=_text, phase=_phase), {}),
    Kind.REFUSAL: (_STEP | _keys(silo=_text, phase=_phase, code=_code), _keys(decline=_hex)),
    Kind.STEP_VOID: (
        _STEP | _keys(reason=_code, phase=_phase, missing=_texts),
        _keys(invited=_texts, lost=_map(_phase), refusals=_map(_code), transcript=_hex, chain=_hex),
    ),
    Kind.STEP_CLOSED: (
        _STEP
        | _keys(transcript=_hex, invited=_texts, survivors=_texts, lost=_map(_phase), refusals=_map(_code))
        | _keys(lanes_open=_texts, lanes_shut=_texts, slots=_map(_count), state_digest=_hex)
        | _keys(upload_digests=_map(_hex), upload_bytes=_count, phase_ms=_map(_count), data_commitments=_map(_hex)),
        _keys(
            evidence_sha256=_hex,
            chain=_hex,
            attempt=_count,
            approvals=_map(_hex),
            holdings=_map(_texts),
            policies=_map(_hex),
        ),
    ),
    Kind.RUN_FINISHED: (
        _keys(run=_text, state_digest=_hex, chain=_hex, countersignatures=_map(_hex), weights_sha256=_hex)
        | _keys(checkpoint=_text),
        _keys(ledger_head=_hex),
    ),
    Kind.RUN_FAILED: (_keys(run=_text, code=_code, phase=_phase, missing=_texts), _keys(k=_count, detail=_text)),
    Kind.MODEL_PUBLISHED: (
        _keys(run=_text, model_name=_text, version=_text, alias=_text, weights_sha256=_hex),
        _keys(by=_text),
    ),
    Kind.WITHDRAWAL: (
        _keys(silo=_text, reason=_text, epoch=_count, charter_digest=_hex, models=_texts, remedies=_map(_texts)),
        {},
    ),
    Kind.RECOVERED: (_keys(bytes=_count, sha256=_hex), {}),
}


def check_record(kind: Kind, record: Mapping[str, Any]) -> None:
    """Raise SpecError unless the record has every required key, no unknown one, and values of the right shape."""
    required, optional = SCHEMA[kind]
    if missing := sorted(required.keys() - record.keys()):
        raise SpecError(f"ledger {kind}", got=sorted(record), want=f"also {', '.join(missing)}")
    if unknown := sorted(record.keys() - required.keys() - optional.keys()):
        raise SpecError(f"ledger {kind}", got=unknown, want=f"only {', '.join(sorted(required | optional))}")
    for key, value in record.items():
        shape = (required | optional)[key]
        if not shape.holds(value):
            raise SpecError(f"ledger {kind}.{key}", got=value, want=shape.want)


def plain(value: object, path: str = "record") -> Any:
    """A copy made of dict, list, str, int, bool and None only. Raises SpecError for floats, bytes and other things."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpecError(path, got=key, want="text keys")
        return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{path}[{place}]") for place, item in enumerate(value)]
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise SpecError(
            path, got=value, want="text, a whole number, a list or an object (no floats, no bytes)"
        ) from None


def canonical(value: object) -> bytes:
    """The one encoding of a value: sorted keys, no spaces, ASCII, no floats."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. ``digest`` is the SHA-256 of its bytes with the newline; ``end`` the file offset behind it."""

    seq: int
    kind: Kind
    time: str
    prev: str
    record: Mapping[str, Any]
    signature: str
    digest: str
    end: int

    def line(self) -> bytes:
        """The exact bytes on disk."""
        fields = {"seq": self.seq, "kind": self.kind, "time": self.time, "prev": self.prev, "record": self.record}
        return canonical({**fields, "signature": self.signature}) + b"\n"


def ledger_path(home: Path) -> Path:
    """The federation's one ledger in the aggregator's home."""
    return home / "ledger" / "ledger.jsonl"


def ratios(slots: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Name → (part, whole) for slots that count hits: ``X.correct`` over ``X.total``, ``X.rows`` or ``test.rows`` is
    ``X.accuracy``; bare ``correct`` is over ``total`` or ``rows``. Pairs whose whole is 0 are left out.
    """
    found = {}
    for name, part in slots.items():
        head, _, tail = name.rpartition(".")
        if tail != "correct":
            continue
        prefix = f"{head}." if head else ""
        names = (f"{prefix}total", f"{prefix}rows", "test.rows")
        if whole := next((slots[other] for other in names if other in slots), 0):
            found[f"{prefix}accuracy"] = (part, whole)
    return found


# --- reading -----------------------------------------------------------------------------------------------------


def read(path: Path, *, after: Entry | tuple[int, str, int] | None = None) -> Iterator[Entry]:
    """The entries in order, from the start or after one already read (an Entry, or its (seq, digest, end)).

    Checks canonical form, order, chain and schema, not signatures. Bytes behind the last newline are a write under
    way and are left alone. Raises EvidenceError at the first line that doesn't check.
    """
    seq, prev, offset = (-1, GENESIS, 0) if after is None else _place(after)
    with open(path, "rb") as file:
        if offset > (size := os.fstat(file.fileno()).st_size):
            raise EvidenceError(
                f"{path.name} line {seq + 1}", expected=f"at least {offset} bytes", found=f"{size} bytes"
            )
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            entry = _parse(path, line, seq + 1, prev, offset)
            seq, prev, offset = entry.seq, entry.digest, entry.end
            yield entry


def verify(path: Path, public_key: Verifier, *, head: str | None = None) -> str:
    """Check every byte and signature; returns the head digest.

    ``head``: a digest the ledger must contain (from a receipt that silos countersigned); without it the head file must
    be there and check. Raises EvidenceError naming the line on any flipped byte, missing, reordered or half line, a
    cut tail or another key.
    """
    where = path.name
    count, digest, seen = 0, GENESIS, {GENESIS}
    end = 0
    for entry in read(path):
        _verify_line(where, entry, public_key)
        count, digest, end = entry.seq + 1, entry.digest, entry.end
        seen.add(digest)
    if (size := path.stat().st_size) != end:
        raise EvidenceError(
            f"{where} line {count + 1}", expected="a newline at the end", found=f"{size - end} bytes without one"
        )
    if head is not None:
        if head not in seen:
            raise EvidenceError(
                f"{where} line {count + 1}", expected=f"a line with digest {head}", found="the end of the file"
            )
        return digest
    at_least, named = _read_head(path, public_key)
    if at_least > count:
        raise EvidenceError(f"{where} line {count + 1}", expected=f"{at_least} lines", found=f"{count}")
    if named not in seen:
        raise EvidenceError(f"{where} line {at_least}", expected=f"digest {named}", found="another line")
    return digest


def length(path: Path) -> int:
    """How many entries the ledger has, by the head file beside it and unchecked: a figure to show. Raises
    EvidenceError."""
    return _parse_head(path)[0]


def _place(after: Entry | tuple[int, str, int]) -> tuple[int, str, int]:
    return (after.seq, after.digest, after.end) if isinstance(after, Entry) else after


def _parse(path: Path, line: bytes, seq: int, prev: str, offset: int) -> Entry:
    where = f"{path.name} line {seq + 1}"
    try:
        fields = json.loads(line)
        exact = canonical(fields) + b"\n"
    except (ValueError, SpecError, RecursionError) as bad:
        raise EvidenceError(where, expected="canonical JSON", found=str(bad)) from bad
    if exact != line:
        raise EvidenceError(where, expected="canonical JSON", found="the same value in another spelling")
    if not isinstance(fields, dict) or fields.keys() != _LINE_KEYS:
        raise EvidenceError(where, expected=f"the keys {sorted(_LINE_KEYS)}", found=sorted(fields))
    if fields["seq"] != seq or isinstance(fields["seq"], bool):
        raise EvidenceError(where, expected=f"seq {seq}", found=fields["seq"])
    if fields["prev"] != prev:
        raise EvidenceError(where, expected=f"prev {prev}", found=fields["prev"])
    if not (isinstance(fields["time"], str) and _TIME.fullmatch(fields["time"])):
        raise EvidenceError(where, expected="a UTC time", found=fields["time"])
    if not (_hex.holds(fields["signature"]) and len(fields["signature"]) == 128):
        raise EvidenceError(where, expected="a signature of 64 bytes in hex", found=fields["signature"])
    try:
        kind = Kind(fields["kind"])
        check_record(kind, fields["record"] if isinstance(fields["record"], dict) else {})
    except (ValueError, SpecError) as bad:
        raise EvidenceError(where, expected="a known record", found=str(bad)) from bad
    return Entry(digest=sha256(line).hexdigest(), end=offset + len(line), **{**fields, "kind": kind})


def _signed_part(seq: int, kind: str, time: str, prev: str, record: Mapping[str, Any]) -> bytes:
    body = canonical({"seq": seq, "kind": kind, "time": time, "prev": prev, "record": record})
    return _LINE_LABEL + sha256(body).digest()


def _verify_line(where: str, entry: Entry, public_key: Verifier) -> None:
    message = _signed_part(entry.seq, entry.kind, entry.time, entry.prev, entry.record)
    try:
        public_key.verify(bytes.fromhex(entry.signature), message)
    except BadSignature as bad:
        where = f"{where} line {entry.seq + 1}"
        raise EvidenceError(where, expected="the aggregator's signature", found="one that fails") from bad


# --- the head file -----------------------------------------------------------------------------------------------


def _head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def _head_bytes(signer: Signer, count: int, digest: str) -> bytes:
    body = canonical({"count": count, "head": digest})
    signature = signer.sign(_HEAD_LABEL + sha256(body).digest()).hex()
    return canonical({"count": count, "head": digest, "signature": signature}) + b"\n"


def _parse_head(path: Path) -> tuple[int, str, str]:
    where = _head_path(path).name
    try:
        data = _head_path(path).read_bytes()
        fields = json.loads(data)
        count, digest, signature = fields["count"], fields["head"], fields["signature"]
        exact = canonical({"count": count, "head": digest, "signature": signature}) + b"\n"
    except FileNotFoundError:
        raise EvidenceError(where, expected="a signed head beside the ledger", found="no file") from None
    except (ValueError, TypeError, KeyError, SpecError, RecursionError) as bad:
        raise EvidenceError(where, expected="a signed head", found=f"unreadable bytes ({type(bad).__name__})") from bad
    if exact != data or not (_count.holds(count) and count >= 0 and _hex.holds(digest) and _hex.holds(signature)):
        raise EvidenceError(where, expected="a signed head", found="other bytes")
    return count, digest, signature


def _read_head(path: Path, public_key: Verifier) -> tuple[int, str]:
    count, digest, signature = _parse_head(path)
    try:
        public_key.verify(
            bytes.fromhex(signature), _HEAD_LABEL + sha256(canonical({"count": count, "head": digest})).digest()
        )
    except BadSignature as bad:
        where = _head_path(path).name
        raise EvidenceError(where, expected="the aggregator's signature", found="one that fails") from bad
    return count, digest


# --- writing -----------------------------------------------------------------------------------------------------


def utc_now() -> str:
    """UTC to the millisecond, as ledger lines carry it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Ledger:
    """The writing end. ``append`` returns when the line is on disk; a full disk leaves the file as it was."""

    def __init__(self, path: Path, signer: Signer, clock: Callable[[], str]) -> None:
        self.path = path
        self._signer = signer
        self._clock = clock
        self._last: tuple[int, str, int] = (-1, GENESIS, 0)

    @classmethod
    def open(cls, path: Path, signer: Signer, *, clock: Callable[[], str] = utc_now) -> Ledger:
        """Open or create. Checks the chain that is there, and refuses to go on from a cut ledger (EvidenceError)."""
        ledger = cls(path, signer, clock)
        path.parent.mkdir(parents=True, exist_ok=True)
        with ledger._locked() as fd:
            if os.fstat(fd).st_size == 0 and not _head_path(path).exists():
                ledger._write_head()
            count, digest, _ = _parse_head(path)
            found = GENESIS if count == 0 else ""
            for entry in read(path):
                ledger._last = (entry.seq, entry.digest, entry.end)
                found = entry.digest if entry.seq + 1 == count else found
            if found != digest:
                where = f"{path.name} line {count}"
                raise EvidenceError(
                    where, expected=f"digest {digest}", found=found or f"{ledger._last[0] + 1} lines in all"
                )
            ledger._mend(fd)
        return ledger

    @property
    def head(self) -> str:
        """Digest of the last line this writer has seen (``GENESIS`` for an empty ledger)."""
        return self._last[1]

    def append(self, kind: str, record: Mapping[str, Any]) -> Entry:
        """Write one line and sync it. Raises SpecError for a record outside the schema, NoSpace on a full disk."""
        try:
            known = Kind(kind)
        except ValueError:
            raise SpecError("ledger kind", got=kind, want=f"one of {', '.join(Kind)}") from None
        facts = plain(record)
        check_record(known, facts)
        with self._locked() as fd:
            for entry in read(self.path, after=self._last):
                self._last = (entry.seq, entry.digest, entry.end)
            self._mend(fd)
            return self._append(fd, known, facts)

    def _append(self, fd: int, kind: Kind, record: dict[str, Any]) -> Entry:
        seq, prev, start = self._last[0] + 1, self._last[1], self._last[2]
        time = self._clock()
        signature = self._signer.sign(_signed_part(seq, kind, time, prev, record)).hex()
        fields = {"seq": seq, "kind": kind, "time": time, "prev": prev, "record": record, "signature": signature}
        line = canonical(fields) + b"\n"
        try:
            _write_all(fd, line)
            os.fsync(fd)
        except OSError as full:
            os.ftruncate(fd, start)
            raise NoSpace(
                f"The ledger {self.path.name} could not be written: {full.strerror}.", remedy="Free disk space."
            ) from full
        entry = _parse(self.path, line, seq, prev, start)
        self._last = (entry.seq, entry.digest, entry.end)
        self._write_head()
        return entry

    def _mend(self, fd: int) -> None:
        """Cut off what a killed writer left half-written (we hold the lock, so nobody is writing it now)."""
        end = self._last[2]
        if torn := os.fstat(fd).st_size - end:
            rest = os.pread(fd, torn, end)
            os.ftruncate(fd, end)
            os.fsync(fd)
            self._append(fd, Kind.RECOVERED, {"bytes": torn, "sha256": sha256(rest).hexdigest()})

    def _write_head(self) -> None:
        """Replace the head file. When the disk is full the old head stays: it promises fewer lines, still truly."""
        head, data = _head_path(self.path), _head_bytes(self._signer, self._last[0] + 1, self._last[1])
        new = head.with_name(head.name + ".new")
        try:
            write_synced(new, data)
        except OSError as full:
            new.unlink(missing_ok=True)
            if full.errno not in FULL or not head.exists():
                raise
            return
        os.replace(new, head)
        sync_folder(head.parent)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Create or replace a file's bytes (0600) and sync them. Not atomic: write a new name, then rename."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
