"""The security log of a home: ``<home>/security.jsonl``, separate from the debug logs.

One JSON object a line, {seq, at, event, fields, prev}: ``at`` is UTC with milliseconds, ``prev`` the SHA-256 of the
line before, so a line that is changed, removed or inserted breaks the chain. ``security.head`` holds number and digest
of the last line, so that removed last lines are detected too. A process that can write both files can still rewrite the
log: copy it to another machine against that (docs/records.md). The first line of a file gives its purpose and
retention. A new month, or 16 MiB, begins a new file; the old one becomes ``security-<YYYY-MM>.jsonl`` and the chain
continues in the new one.

Several processes may append: each line is written under a lock, in one write, synced. An incomplete last line of a
killed process is removed and reported by a ``log-recovered``. If the last line is not the one that was written last, a
``log-altered`` reports it and the log continues: ``check_log`` fails then, but an agent that cannot log is no safer.

**Full disk.** Some events must be on disk before they happen (``Kind.must``): shares leave, an approval becomes valid,
a bundle or a salt is disclosed. For these the caller gets ``NoSpace`` and stops. Others are written to the debug log
instead, as a warning.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from crypto import durable
from crypto.errors import NoSpace, SpecError
from crypto.home import Home
from jobs.security_log.events import PURPOSE, RETENTION, Event, check
from jobs.security_log.reader import MOST_LINE, LogEnd, LogLine, encode, end_of, newest, read_head
from jobs.security_log.reader import check_log as check_log
from jobs.security_log.reader import files as files
from silo_agent.home import SiloHome

log = logging.getLogger("consilium.security")

SCHEMA: Final = 1
#: A file longer than this is renamed before its month is over. Bytes.
MOST_BYTES: Final = 16 << 20
#: Events an hour that one writer accepts, not counting those that must be written: a server that sends bad requests
#: must not fill the silo's disk. When it is reached, a ``log-flooded`` is written.
MOST_AN_HOUR: Final = 3000

#: Events, with their fields, to be written before the log continues.
Notes = list[tuple[str, Mapping[str, object]]]


class SecurityLog:
    """Call it with an event's name and its fields. It keeps no file open. ``now``: seconds since 1970, UTC."""

    def __init__(self, home: Home, *, now: Callable[[], float] = time.time) -> None:
        self.home = home
        self._now = now
        self._hour, self._count = 0, 0

    def __call__(self, event: str, **fields: object) -> None:
        """Append one event. Raises SpecError for what is not in the list, NoSpace as described above."""
        kind = check(event, fields)
        if not kind.must and (excess := self._excess()):
            if excess > 1:
                return
            event, fields = Event.LOG_FLOODED, {}
        try:
            self._append(event, fields)
        except OSError as failed:
            if kind.must:
                raise NoSpace(
                    f"The security log cannot be written ({failed.strerror}), so {event} must not happen.",
                    remedy="Free space on the volume of this home, or make its security.jsonl writable.",
                ) from failed
            log.warning("%s %s could not be written to the security log: %s", event, fields, failed.strerror)

    def _excess(self) -> int:
        """The number of events beyond the limit in this hour."""
        hour = int(self._now() // 3600)
        self._hour, self._count = hour, self._count + 1 if hour == self._hour else 1
        return max(0, self._count - MOST_AN_HOUR)

    def last(self, event: str) -> LogLine | None:
        """The newest line of an event, in any file."""
        return next((line for file in reversed(files(self.home)) for line in newest(file, event)), None)

    def policy(self, digest: str) -> None:
        """Record a policy that differs from the last start's. ``digest``: hexadecimal."""
        before = self.last(Event.POLICY_CHANGED)
        if before is None:
            self(Event.POLICY_CHANGED, after=digest)
        elif before.fields["after"] != digest:
            self(Event.POLICY_CHANGED, before=before.fields["after"], after=digest)

    def _append(self, event: str, fields: Mapping[str, object]) -> None:
        recovered: Notes = []
        while True:
            with self._locked() as fd:
                end, notes = self._end(fd)
                month, size = self._time()[:7], os.fstat(fd).st_size
                if not size or (end.month in ("", month) and size <= MOST_BYTES):
                    self._write(fd, end, [*notes, *recovered, (event, fields)])
                    return
                recovered = [note for note in notes if note[0] is Event.LOG_RECOVERED]
                self._rename_full(end.month or month)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, locked. If it was renamed while we waited, the new one is locked instead."""
        path = self.home.security_log
        while True:
            with durable.locked(path, follow=False) as fd:
                if _same(fd, path):
                    yield fd
                    return

    def _end(self, fd: int) -> tuple[LogEnd, Notes]:
        """The log's end, and what must be written before it continues. An incomplete last line is removed."""
        notes: Notes = []
        whole, torn = durable.cut_torn_line(fd, 2 * MOST_LINE)
        if torn:
            notes.append((Event.LOG_RECOVERED, {"bytes": len(torn), "sha256": sha256(torn).hexdigest()}))
        if whole:
            end = end_of(whole.rpartition(b"\n")[2])
        else:
            older = files(self.home)[:-1]
            end = end_of(older[-1].read_bytes().rstrip(b"\n").rpartition(b"\n")[2]) if older else LogEnd()
            header = {"purpose": PURPOSE, "retention": RETENTION, "schema": SCHEMA, "site": _site(self.home)}
            notes.insert(0, (Event.LOG_OPENED, header))
        head = read_head(self.home)
        if head is not None and (head.seq > end.seq or (head.seq == end.seq and head.digest != end.digest)):
            notes.append((Event.LOG_ALTERED, {"wanted": head.seq, "there": max(end.seq, 0)}))
        return end, notes

    def _write(self, fd: int, end: LogEnd, events: Notes) -> None:
        seq, prev, lines = end.seq, end.digest, []
        for event, fields in events:
            seq += 1
            line = encode({"seq": seq, "at": self._time(), "event": event, "fields": dict(fields), "prev": prev})
            prev = sha256(line).hexdigest()
            lines.append(line + b"\n")
        if not os.fstat(fd).st_size:
            durable.sync_folder(self.home.root)
        durable.append(fd, b"".join(lines))
        self._write_head(seq, prev)

    def _write_head(self, seq: int, digest: str) -> None:
        """Not synced: after a crash the head may lag behind, and the next line corrects it. It is never ahead."""
        fd = os.open(self.home.security_head, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(fd, f"{seq:020d} {digest}\n".encode(), 0)
        finally:
            os.close(fd)

    def _rename_full(self, month: str) -> None:
        names = (f"security-{month}{f'.{n}' if n else ''}.jsonl" for n in range(1 << 16))
        free = next(name for name in names if not (self.home.root / name).exists())
        durable.move(self.home.security_log, self.home.root / free)

    def _time(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _same(fd: int, path: Path) -> bool:
    opened = os.fstat(fd)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (opened.st_ino, opened.st_dev) == (there.st_ino, there.st_dev)


def _site(home: Home) -> str:
    """The silo's id, or "aggregator"."""
    try:
        return SiloHome(home.root).silo
    except SpecError:
        return "aggregator"
