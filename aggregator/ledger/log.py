"""The ledger: what happened, once, in order, signed. MLflow holds a copy for people; this file is authoritative.

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
``consilium/1/ledger-head``. It is written after each line, so a ledger cut at a line boundary is noticed. An
attacker who restores an old pair of files is detected by the heads that silos countersign at the end of each run: pass
one to ``verify``.

**Writers.** Every append holds an exclusive ``flock`` and re-reads what others added: several job processes may share
one ledger. A process killed in the middle of a write leaves bytes without a newline, never acknowledged; the next
writer cuts them off and adds a ``recovered`` record.

**Records**: see ``records``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from aggregator.ledger.format import (
    GENESIS,
    Entry,
    S,
    Signer,
    canonical,
    head_bytes,
    head_path,
    parse_head,
    parse_line,
    plain,
    read,
    signed_part,
)
from aggregator.ledger.records import Kind, Record, Recovered, check_fields
from crypto import durable
from crypto.errors import FULL, EvidenceError, NoSpace

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
        with durable.locked(path) as fd:
            if os.fstat(fd).st_size == 0 and not head_path(path).exists():
                ledger._write_head()
            count, digest, _ = parse_head(path)
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

    def append(self, record: S) -> Entry[S]:
        """Write one line and sync it. Raises SpecError for a value of another shape than its field, NoSpace on a full
        disk."""
        facts = plain(record.fields())
        check_fields(record.kind, facts)
        with durable.locked(self.path) as fd:
            for entry in read(self.path, after=self._last):
                self._last = (entry.seq, entry.digest, entry.end)
            self._mend(fd)
            return cast(Entry[S], self._append(fd, record.kind, facts))

    def _append(self, fd: int, kind: Kind, record: dict[str, Any]) -> Entry[Record]:
        seq, prev, start = self._last[0] + 1, self._last[1], self._last[2]
        time = self._clock()
        signature = self._signer.sign(signed_part(seq, kind, time, prev, record)).hex()
        fields = {"seq": seq, "kind": kind, "time": time, "prev": prev, "record": record, "signature": signature}
        line = canonical(fields) + b"\n"
        try:
            durable.append(fd, line)
        except OSError as full:
            raise NoSpace(
                f"The ledger {self.path.name} could not be written: {full.strerror}.", remedy="Free disk space."
            ) from full
        entry = parse_line(self.path, line, seq, prev, start)
        self._last = (entry.seq, entry.digest, entry.end)
        self._write_head()
        return entry

    def _mend(self, fd: int) -> None:
        """Cut off what a killed writer left half-written. The lock is held, so no other writer is at work."""
        if torn := durable.cut(fd, self._last[2]):
            self._append(fd, Kind.RECOVERED, Recovered(bytes=len(torn), sha256=sha256(torn).hexdigest()).fields())

    def _write_head(self) -> None:
        """Replace the head file. When the disk is full the old head stays: it promises fewer lines, still truly."""
        head, data = head_path(self.path), head_bytes(self._signer, self._last[0] + 1, self._last[1])
        try:
            durable.replace(head, data)
        except OSError as full:
            durable.unfinished(head).unlink(missing_ok=True)
            if full.errno not in FULL or not head.exists():
                raise
