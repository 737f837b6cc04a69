"""The security log of a home: ``<home>/security.jsonl``, apart from every debug log.

One JSON object a line, {seq, at, event, fields, prev}: ``at`` is UTC with milliseconds, ``prev`` the SHA-256 of the
line before, so a line that is changed, taken out or put in breaks the chain. ``security.head`` says where the log ends,
so that lines cut off at its end are missed too; whoever can write both files can still rewrite history from there on:
ship the log off this machine for more (docs/records.md). The first line of a file says what it is for and how long it
is kept. A new month, or 16 MiB, begins a new file; the old one becomes ``security-<YYYY-MM>.jsonl`` and the chain goes
on in the new one.

Several processes may append: each line is written under a lock, in one write, synced. Half a line, which a killed
process left, is cut off and told in a ``log-recovered``. A log that does not end where it was left is told in a
``log-altered``, and goes on: it is ``check`` that finds fault, an agent that cannot log is no safer.

**Full disk.** Some events must be on disk before what they speak of happens (``Kind.must``): shares leave, an approval
counts, a bundle or a salt is handed out. For these the caller gets ``NoSpace`` and does not go on. Others are written
to the debug log instead, as a warning.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from crypto.errors import EvidenceError, NoSpace, SpecError
from jobs.security_events import PURPOSE, RETENTION, Event, check

log = logging.getLogger("consilium.security")

NAME: Final = "security.jsonl"
HEAD: Final = "security.head"
SCHEMA: Final = 1
#: A file that is longer than this is put aside before its month is over. Bytes.
MOST_BYTES: Final = 16 << 20
#: Longest line. Bytes; the shapes of the fields keep well below it.
MOST_LINE: Final = 1 << 14

_START: Final = "0" * 64
_KEYS: Final = {"seq", "at", "event", "fields", "prev"}
_ROTATED: Final = re.compile(r"security-(\d{4}-\d{2})(\.\d+)?\.jsonl")


@dataclass(frozen=True, slots=True)
class Line:
    """``digest``: SHA-256 of the line, which the next one carries."""

    seq: int
    at: str
    event: Event
    fields: Mapping[str, Any]
    prev: str
    digest: str


@dataclass(frozen=True, slots=True)
class _End:
    """Where a log ends: ``month`` of its last line, "" where that is unknown."""

    seq: int = -1
    digest: str = _START
    month: str = ""


class SecurityLog:
    """Call it with an event's name and its fields. It holds nothing open. ``now``: seconds since 1970, UTC."""

    def __init__(self, home: Path, *, now: Callable[[], float] = time.time) -> None:
        self.home = home
        self._now = now

    def __call__(self, event: str, **fields: object) -> None:
        """Append one event. Raises SpecError for what is not of the list, NoSpace as described above."""
        kind = check(event, fields)
        try:
            self._append(event, fields)
        except OSError as failed:
            if kind.must:
                raise NoSpace(
                    f"The security log cannot be written ({failed.strerror}), so {event} must not happen.",
                    remedy="Free space on the volume of this home, or make its security.jsonl writable.",
                ) from failed
            log.warning("%s %s could not be written to the security log: %s", event, fields, failed.strerror)

    def last(self, event: str) -> Line | None:
        """The newest line of an event, in any file."""
        return next((line for file in reversed(files(self.home)) for line in _newest(file, event)), None)

    def policy(self, digest: str) -> None:
        """Tell of a policy that is not the one of the last start. ``digest``: hexadecimal."""
        before = self.last(Event.POLICY_CHANGED)
        if before is None:
            self(Event.POLICY_CHANGED, after=digest)
        elif before.fields["after"] != digest:
            self(Event.POLICY_CHANGED, before=before.fields["after"], after=digest)

    def _append(self, event: str, fields: Mapping[str, object]) -> None:
        with self._locked() as fd:
            end, notes = self._end(fd)
            if (at := self._time())[:7] != (end.month or at[:7]) or os.fstat(fd).st_size > MOST_BYTES:
                self._put_aside(end.month or at[:7])
            else:
                self._write(fd, end, [*notes, (event, fields)])
                return
        with self._locked() as fd:  # another process may have been first: then this is its file
            end, notes = self._end(fd)
            self._write(fd, end, [*notes, (event, fields)])

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, held alone. A file that was put aside while we waited is not the one we want."""
        path = self.home / NAME
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                flock(fd, LOCK_EX)
                if _same(fd, path):
                    yield fd
                    return
            finally:
                os.close(fd)

    def _end(self, fd: int) -> tuple[_End, list[tuple[str, Mapping[str, object]]]]:
        """Where the log ends, and what has to be said before it goes on."""
        notes: list[tuple[str, Mapping[str, object]]] = []
        size = os.fstat(fd).st_size
        tail = os.pread(fd, 2 * MOST_LINE, max(0, size - 2 * MOST_LINE))
        whole, _, torn = tail.rpartition(b"\n")
        if torn:
            os.ftruncate(fd, size - len(torn))
            notes.append((Event.LOG_RECOVERED, {"bytes": len(torn), "sha256": sha256(torn).hexdigest()}))
        if whole:
            end = _end_of(whole.rpartition(b"\n")[2])
        else:
            older = files(self.home)[:-1]
            end = _end_of(older[-1].read_bytes().rstrip(b"\n").rpartition(b"\n")[2]) if older else _End()
            header = {"purpose": PURPOSE, "retention": RETENTION, "schema": SCHEMA, "site": _site(self.home)}
            notes.insert(0, (Event.LOG_OPENED, header))
        head = _head(self.home)
        if head is not None and (head.seq > end.seq or (head.seq == end.seq and head.digest != end.digest)):
            notes.append((Event.LOG_ALTERED, {"wanted": head.seq, "there": max(end.seq, 0)}))
        return end, notes

    def _write(self, fd: int, end: _End, events: list[tuple[str, Mapping[str, object]]]) -> None:
        start = size = os.fstat(fd).st_size
        seq, prev = end.seq, end.digest
        try:
            for event, fields in events:
                seq += 1
                line = _encode({"seq": seq, "at": self._time(), "event": event, "fields": dict(fields), "prev": prev})
                prev = sha256(line).hexdigest()
                if os.write(fd, line + b"\n") != len(line) + 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                size += len(line) + 1
            os.fsync(fd)
            if not start:
                _sync_folder(self.home)
        except OSError:
            os.ftruncate(fd, start)
            raise
        self._write_head(seq, prev)

    def _write_head(self, seq: int, digest: str) -> None:
        """Not synced: a head that lags behind after a crash is caught up by the next line. It never runs ahead."""
        fd = os.open(self.home / HEAD, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(fd, f"{seq:020d} {digest}\n".encode(), 0)
        finally:
            os.close(fd)

    def _put_aside(self, month: str) -> None:
        names = (f"security-{month}{f'.{n}' if n else ''}.jsonl" for n in range(1 << 16))
        free = next(name for name in names if not (self.home / name).exists())
        os.rename(self.home / NAME, self.home / free)
        _sync_folder(self.home)

    def _time(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- reading -----------------------------------------------------------------------------------------------------


def files(home: Path) -> list[Path]:
    """Every file of a home's log, oldest first: by the number of its first line."""
    aside = [path for path in home.glob("security-*.jsonl") if _ROTATED.fullmatch(path.name)]
    ordered = sorted(aside, key=_first)
    return [*ordered, *([home / NAME] if (home / NAME).exists() else [])]


@dataclass(slots=True)
class Summary:
    """``first``, ``last``: time of the first and last line. ``torn``: half a line stands at the end."""

    files: int = 0
    lines: int = 0
    first: str = ""
    last: str = ""
    torn: bool = False
    events: dict[str, int] = field(default_factory=dict)


def check_log(home: Path) -> Summary:
    """Read the whole log and check it: form, schema, numbers, chain, head. Raises EvidenceError at the first fault.

    The oldest file may begin with any number: those before it have outlived their class.
    """
    found = Summary()
    head, met = _head(home), False
    last: Line | None = None
    for path in files(home):
        found.files += 1
        data = path.read_bytes()
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            if path.name != NAME:
                raise EvidenceError(path.name, expected="whole lines", found="half a line at its end")
            found.torn = True
        for number, raw in enumerate(whole.split(b"\n") if whole else [], start=1):
            where = f"{path.name} line {number}"
            line = _parse(raw, where)
            _follows(line, last, where, first=number == 1)
            if head is not None and line.seq == head.seq:
                met = True
                if line.digest != head.digest:
                    raise EvidenceError(where, expected=f"the line that {HEAD} names", found="another")
            found.lines += 1
            found.first = found.first or line.at
            found.events[line.event] = found.events.get(line.event, 0) + 1
            last = line
    if last is None:
        raise EvidenceError(str(home), expected=NAME, found="no log")
    if head is None or not met:
        raise EvidenceError(HEAD, expected="the number and digest of a line", found="none that is there")
    found.last = last.at
    return found


def _follows(line: Line, last: Line | None, where: str, *, first: bool) -> None:
    if first != (line.event is Event.LOG_OPENED):
        raise EvidenceError(where, expected="log-opened on the first line of a file and nowhere else", found=line.event)
    if last is not None and line.seq != last.seq + 1:
        raise EvidenceError(where, expected=f"number {last.seq + 1}", found=line.seq)
    if line.prev != (last.digest if last is not None else line.prev if line.seq else _START):
        raise EvidenceError(where, expected="the digest of the line before", found="another: lines are missing")
    if line.event is Event.LOG_ALTERED:
        raise EvidenceError(
            where, expected=f"a log that ends at number {line.fields['wanted']}", found=line.fields["there"]
        )


def _parse(raw: bytes, where: str) -> Line:
    try:
        value = json.loads(raw)
        if not isinstance(value, dict) or value.keys() != _KEYS or _encode(value) != raw:
            raise ValueError("not a line of this log")
        check(str(value["event"]), value["fields"])
        datetime.fromisoformat(value["at"])
        if type(value["seq"]) is not int or value["seq"] < 0:
            raise ValueError("no number")
        return Line(
            value["seq"], value["at"], Event(value["event"]), value["fields"], value["prev"], sha256(raw).hexdigest()
        )
    except (ValueError, TypeError, AttributeError, SpecError) as bad:
        raise EvidenceError(where, expected="an event of the list, in its form", found=str(bad)[:200]) from bad


def _newest(path: Path, event: str) -> Iterator[Line]:
    """The newest line of an event in one file, or none. A damaged line is no line here."""
    mark = f'"event":"{event}"'.encode()
    for raw in reversed(path.read_bytes().split(b"\n")):
        if mark in raw:
            try:
                yield _parse(raw, path.name)
            except EvidenceError:
                continue
            return


def _end_of(raw: bytes) -> _End:
    """What the last line says; of a line that is none only its digest is known, and the next number is 0."""
    digest = sha256(raw).hexdigest()
    try:
        line = _parse(raw, "")
    except EvidenceError:
        return _End(-1, digest)
    return _End(line.seq, digest, line.at[:7])


def _head(home: Path) -> _End | None:
    try:
        seq, digest = (home / HEAD).read_text(encoding="ascii").split()
        return _End(int(seq), digest)
    except (OSError, ValueError):
        return None


def _first(path: Path) -> tuple[int, str]:
    try:
        with path.open("rb") as file:
            return _parse(file.readline(MOST_LINE).rstrip(b"\n"), path.name).seq, path.name
    except (OSError, EvidenceError):
        return -1, path.name


def _same(fd: int, path: Path) -> bool:
    mine = os.fstat(fd)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_ino, mine.st_dev) == (there.st_ino, there.st_dev)


def _site(home: Path) -> str:
    """The silo's id, or "aggregator"."""
    try:
        return str(json.loads((home / "silo.json").read_text())["silo"])
    except (OSError, ValueError, KeyError, TypeError):
        return "aggregator"


def _encode(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
