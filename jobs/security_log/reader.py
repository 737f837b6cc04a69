"""Reading and checking the security log of a home. ``writer`` describes its format."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from crypto.errors import EvidenceError, SpecError
from crypto.home import SECURITY_HEAD, SECURITY_LOG, Home
from jobs.security_log.events import Event, check

#: ``prev`` of the first line of all.
START: Final = "0" * 64
#: Longest line. Bytes; the shapes of the fields keep well below it.
MOST_LINE: Final = 1 << 14

_KEYS: Final = {"seq", "at", "event", "fields", "prev"}
_ASIDE: Final = re.compile(r"security-(\d{4}-\d{2})(\.\d+)?\.jsonl")


@dataclass(frozen=True, slots=True)
class LogLine:
    """``digest``: SHA-256 of the line, which the next one carries."""

    seq: int
    at: str
    event: Event
    fields: Mapping[str, Any]
    prev: str
    digest: str


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The last line of a log: its number, digest and month, "" if that is unknown."""

    seq: int = -1
    digest: str = START
    month: str = ""


def files(home: Home) -> list[Path]:
    """Every file of a home's log, oldest first: by the number of its first line."""
    aside = [path for path in home.root.glob("security-*.jsonl") if _ASIDE.fullmatch(path.name)]
    ordered = sorted(aside, key=_first)
    return [*ordered, *([home.security_log] if home.security_log.exists() else [])]


@dataclass(slots=True)
class LogSummary:
    """``first``, ``last``: time of the first and last line. ``torn``: the last line is incomplete."""

    files: int = 0
    lines: int = 0
    first: str = ""
    last: str = ""
    torn: bool = False
    events: dict[str, int] = field(default_factory=dict)


def check_log(home: Home) -> LogSummary:
    """Read the whole log and check it: form, schema, numbers, chain, head. Raises EvidenceError at the first fault.

    The oldest file may begin with any number: older ones were removed at the end of their retention.
    """
    found = LogSummary()
    head, head_found = read_head(home), False
    last: LogLine | None = None
    for path in files(home):
        found.files += 1
        data = path.read_bytes()
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            if path != home.security_log:
                raise EvidenceError(path.name, expected="whole lines", found="an incomplete last line")
            found.torn = True
        for number, raw in enumerate(whole.split(b"\n") if whole else [], start=1):
            where = f"{path.name} line {number}"
            line = _parse(raw, where)
            _follows(line, last, where, first=number == 1)
            if head is not None and line.seq == head.seq:
                head_found = True
                if line.digest != head.digest:
                    raise EvidenceError(where, expected=f"the line that {SECURITY_HEAD} names", found="another")
            found.lines += 1
            found.first = found.first or line.at
            found.events[str(line.event)] = found.events.get(str(line.event), 0) + 1
            last = line
    if last is None:
        raise EvidenceError(str(home.root), expected=SECURITY_LOG, found="no log")
    if not head_found:
        raise EvidenceError(SECURITY_HEAD, expected="the number and digest of a line", found="no such line")
    found.last = last.at
    return found


def _follows(line: LogLine, last: LogLine | None, where: str, *, first: bool) -> None:
    if first != (line.event is Event.LOG_OPENED):
        raise EvidenceError(where, expected="log-opened on the first line of a file and nowhere else", found=line.event)
    if last is not None and line.seq != last.seq + 1:
        raise EvidenceError(where, expected=f"number {last.seq + 1}", found=line.seq)
    if line.prev != (last.digest if last is not None else line.prev if line.seq else START):
        raise EvidenceError(where, expected="the digest of the line before", found="another: lines are missing")
    if line.event is Event.LOG_ALTERED:
        raise EvidenceError(
            where, expected=f"a log that ends at number {line.fields['wanted']}", found=line.fields["there"]
        )


def _parse(raw: bytes, where: str) -> LogLine:
    try:
        value = json.loads(raw)
        if value.keys() != _KEYS or encode(value) != raw:
            raise ValueError("not a line of this log")
        check(str(value["event"]), value["fields"])
        datetime.fromisoformat(value["at"])
        if type(value["seq"]) is not int or value["seq"] < 0:
            raise ValueError("no number")
        return LogLine(
            value["seq"], value["at"], Event(value["event"]), value["fields"], value["prev"], sha256(raw).hexdigest()
        )
    except (ValueError, TypeError, AttributeError, SpecError) as bad:
        raise EvidenceError(where, expected="an event of the list, in its form", found=str(bad)[:200]) from bad


def lines_of(path: Path, events: Collection[Event]) -> Iterator[LogLine]:
    """The lines of some events in one file, oldest first. Damaged lines are skipped."""
    marks = tuple(f'"event":"{event}"'.encode() for event in events)
    with path.open("rb") as lines:
        for raw in lines:
            if any(mark in raw for mark in marks):
                try:
                    yield _parse(raw.rstrip(b"\n"), path.name)
                except EvidenceError:
                    continue


def newest(path: Path, event: str) -> Iterator[LogLine]:
    """The newest line of an event in one file, or none. Damaged lines are skipped."""
    mark = f'"event":"{event}"'.encode()
    for raw in reversed(path.read_bytes().split(b"\n")):
        if mark in raw:
            try:
                yield _parse(raw, path.name)
            except EvidenceError:
                continue
            return


def end_of(raw: bytes) -> LogEnd:
    """A log's end from its last line; of an invalid line only the digest is known, and the next number is 0."""
    digest = sha256(raw).hexdigest()
    try:
        line = _parse(raw, "")
    except EvidenceError:
        return LogEnd(-1, digest)
    return LogEnd(line.seq, digest, line.at[:7])


def read_head(home: Home) -> LogEnd | None:
    try:
        seq, digest = home.security_head.read_text(encoding="ascii").split()
        return LogEnd(int(seq), digest)
    except (OSError, ValueError):
        return None


def _first(path: Path) -> tuple[int, str]:
    try:
        with path.open("rb") as file:
            return _parse(file.readline(MOST_LINE).rstrip(b"\n"), path.name).seq, path.name
    except (OSError, EvidenceError):
        return -1, path.name


def encode(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
