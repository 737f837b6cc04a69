"""The ledger's lines and head file: their bytes, chain and signatures, read and checked."""

from __future__ import annotations

import json
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, Protocol, TypeGuard, TypeVar

from aggregator.ledger.records import Kind, Record, is_count, is_hex, parse_record
from crypto.errors import BadSignature, EvidenceError, SpecError

#: ``prev`` of the first line.
GENESIS = "0" * 64

_LINE_LABEL = b"consilium/1/ledger\n"
_HEAD_LABEL = b"consilium/1/ledger-head\n"

_LINE_KEYS = {"seq", "kind", "time", "prev", "record", "signature"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Signer(Protocol):
    """What the aggregator's identity offers: a 64-byte Ed25519 signature."""

    def sign(self, message: bytes) -> bytes: ...


class Verifier(Protocol):
    """The public half; raises BadSignature, returns nothing."""

    def verify(self, signature: bytes, message: bytes) -> None: ...


def plain(value: object, path: str = "record") -> Any:
    """A copy made of dict, list, str, int, bool and None only. Raises SpecError for floats, bytes, half
    surrogate pairs and other things."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpecError(path, got=key, want="text keys")
        return {_text(key, path): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{path}[{place}]") for place, item in enumerate(value)]
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise SpecError(
            path, got=value, want="text, a whole number, a list or an object (no floats, no bytes)"
        ) from None


def _text(value: str, path: str) -> str:
    """Half a surrogate pair is valid in JSON, but has no bytes: it can be neither hashed nor printed."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SpecError(path, got=ascii(value), want="text that has a form in UTF-8") from None
    return str(value)


def canonical(value: object) -> bytes:
    """The one encoding of a value: sorted keys, no spaces, ASCII, no floats."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


R = TypeVar("R", bound=Record, covariant=True)
S = TypeVar("S", bound=Record)


@dataclass(frozen=True, slots=True)
class Entry(Generic[R]):
    """One line. ``digest`` is the SHA-256 of its bytes with the newline; ``end`` the file offset behind it."""

    seq: int
    time: str
    prev: str
    record: R
    signature: str
    digest: str
    end: int

    @property
    def kind(self) -> Kind:
        return self.record.kind

    @property
    def seconds(self) -> int:
        """When the line was written, in seconds since 1970. Raises EvidenceError for a time of no calendar."""
        try:
            return int(datetime.fromisoformat(self.time).timestamp())
        except ValueError as bad:
            raise EvidenceError(at(self, "time"), expected="a time of the calendar", found=self.time) from bad

    def line(self) -> bytes:
        """The exact bytes on disk."""
        fields = {"seq": self.seq, "kind": self.kind, "time": self.time, "prev": self.prev}
        return canonical({**fields, "record": self.record.fields(), "signature": self.signature}) + b"\n"


def is_of(entry: Entry[Record], kind: type[S]) -> TypeGuard[Entry[S]]:
    """Whether the line's record is of that class."""
    return isinstance(entry.record, kind)


def of_kind(entries: Iterable[Entry[Record]], kind: type[S]) -> Iterator[Entry[S]]:
    """The lines whose record is of that class, in order."""
    return (entry for entry in entries if is_of(entry, kind))


def at(entry: Entry[Record], field: str = "") -> str:
    """Names a line of the ledger for an error."""
    return f"ledger.jsonl line {entry.seq + 1} ({entry.kind}){f', {field}' if field else ''}"


# --- reading -----------------------------------------------------------------------------------------------------


def read(path: Path, *, after: Entry[Record] | tuple[int, str, int] | None = None) -> Iterator[Entry[Record]]:
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
            entry = parse_line(path, line, seq + 1, prev, offset)
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
    return parse_head(path)[0]


def _place(after: Entry[Record] | tuple[int, str, int]) -> tuple[int, str, int]:
    return (after.seq, after.digest, after.end) if isinstance(after, Entry) else after


def parse_line(path: Path, line: bytes, seq: int, prev: str, offset: int) -> Entry[Record]:
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
    if not (is_hex(fields["signature"]) and len(fields["signature"]) == 128):
        raise EvidenceError(where, expected="a signature of 64 bytes in hex", found=fields["signature"])
    try:
        record = parse_record(fields["kind"], fields["record"] if isinstance(fields["record"], dict) else {})
    except (ValueError, SpecError) as bad:
        raise EvidenceError(where, expected="a known record", found=str(bad)) from bad
    return Entry(
        seq=seq,
        time=fields["time"],
        prev=prev,
        record=record,
        signature=fields["signature"],
        digest=sha256(line).hexdigest(),
        end=offset + len(line),
    )


def signed_part(seq: int, kind: str, time: str, prev: str, record: Mapping[str, Any]) -> bytes:
    body = canonical({"seq": seq, "kind": kind, "time": time, "prev": prev, "record": record})
    return _LINE_LABEL + sha256(body).digest()


def _verify_line(where: str, entry: Entry[Record], public_key: Verifier) -> None:
    message = signed_part(entry.seq, entry.kind, entry.time, entry.prev, entry.record.fields())
    try:
        public_key.verify(bytes.fromhex(entry.signature), message)
    except BadSignature as bad:
        where = f"{where} line {entry.seq + 1}"
        raise EvidenceError(where, expected="the aggregator's signature", found="one that fails") from bad


# --- the head file -----------------------------------------------------------------------------------------------


def head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def head_bytes(signer: Signer, count: int, digest: str) -> bytes:
    body = canonical({"count": count, "head": digest})
    signature = signer.sign(_HEAD_LABEL + sha256(body).digest()).hex()
    return canonical({"count": count, "head": digest, "signature": signature}) + b"\n"


def parse_head(path: Path) -> tuple[int, str, str]:
    where = head_path(path).name
    try:
        data = head_path(path).read_bytes()
        fields = json.loads(data)
        count, digest, signature = fields["count"], fields["head"], fields["signature"]
        exact = canonical({"count": count, "head": digest, "signature": signature}) + b"\n"
    except FileNotFoundError:
        raise EvidenceError(where, expected="a signed head beside the ledger", found="no file") from None
    except (ValueError, TypeError, KeyError, SpecError, RecursionError) as bad:
        raise EvidenceError(where, expected="a signed head", found=f"unreadable bytes ({type(bad).__name__})") from bad
    if exact != data or not (is_count(count) and count >= 0 and is_hex(digest) and is_hex(signature)):
        raise EvidenceError(where, expected="a signed head", found="other bytes")
    return count, digest, signature


def _read_head(path: Path, public_key: Verifier) -> tuple[int, str]:
    count, digest, signature = parse_head(path)
    try:
        public_key.verify(
            bytes.fromhex(signature), _HEAD_LABEL + sha256(canonical({"count": count, "head": digest})).digest()
        )
    except BadSignature as bad:
        where = head_path(path).name
        raise EvidenceError(where, expected="the aggregator's signature", found="one that fails") from bad
    return count, digest
