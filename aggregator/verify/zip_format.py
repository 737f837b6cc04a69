"""The subset of zip that bundles are written in: names, sizes and contents determine every byte of the file.

Any tool opens it: members are stored in a fixed order, without extra fields or comments, all dated 1980-01-01.
``Checker`` compares every byte. Members are stored and not deflated: masked uploads and weights do not shrink, two
versions of a compressor write different bytes, and a stored member cannot be a zip bomb.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from crypto.errors import EvidenceError, SpecError

#: The format counts members in 16 bits and bytes in 32.
MOST_MEMBERS, MOST_BYTES = 2**16 - 2, 2**32 - 2
CHUNK = 1 << 20

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_NEEDED, _UNIX, _DATE, _MODE = 20, 3 << 8, 0x0021, 0o100600 << 16


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive: everything about it that the zip's own structures repeat."""

    name: str
    size: int
    crc: int

    def local(self) -> bytes:
        name = self.name.encode("ascii")
        fixed = (_NEEDED, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(name), 0)
        return _LOCAL.pack(_LOCAL_MARK, *fixed) + name

    def central(self, offset: int) -> bytes:
        name = self.name.encode("ascii")
        fixed = (_UNIX | _NEEDED, _NEEDED, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(name))
        return _CENTRAL.pack(_CENTRAL_MARK, *fixed, 0, 0, 0, 0, _MODE, offset) + name


def directory(members: Iterable[Member]) -> bytes:
    """Everything behind the last member's data."""
    found = list(members)
    parts, offset = [], 0
    for member in found:
        parts.append(member.central(offset))
        offset += len(member.local()) + member.size
    size = sum(map(len, parts))
    end = _END.pack(_END_MARK, 0, 0, len(found), len(found), size, offset, 0)
    return b"".join(parts) + end


def total(sizes: Iterable[tuple[str, int]]) -> int:
    """The archive's length, from names and sizes alone. Raises SpecError for more than the format can hold."""
    found = list(sizes)
    size = _END.size + sum(_LOCAL.size + _CENTRAL.size + 2 * len(name) + length for name, length in found)
    if len(found) > MOST_MEMBERS or size > MOST_BYTES:
        raise SpecError(
            "bundle",
            got=f"{len(found)} files, {size} bytes",
            want=f"at most {MOST_MEMBERS} files and {MOST_BYTES} bytes",
            remedy="Write it without uploads, or hand over the aggregator's home itself.",
        )
    return size


def measure(path: Path) -> tuple[int, int, str]:
    """(size, CRC-32, SHA-256) of a file."""
    size, crc, digest = 0, 0, sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), crc32(chunk, crc)
            digest.update(chunk)
    return size, crc, digest.hexdigest()


class Checker:
    """Reads an archive front to back and compares every byte that is not a member's own with what it must be."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self._file = file
        self._name = name
        self._size = size
        self._members: list[Member] = []

    def first(self, name: str, most: int) -> bytes:
        """The first member's data: the only one whose size is not known before, so ``most`` bounds it."""
        head = self._file.read(_LOCAL.size + len(name))
        if head[:4] != _LOCAL_MARK or len(head) < _LOCAL.size + len(name):
            raise self._error(expected="a zip file", found=f"{head[:4]!r}, {self._size} bytes")
        _, _, flags, method, _, _, crc, _, size, _, _ = _LOCAL.unpack(head[: _LOCAL.size])
        if flags & 1 or method:
            found = "encryption" if flags & 1 else f"compression (method {method})"
            raise self._error(expected=f"a bundle of stored files, {name} first", found=found)
        if head[_LOCAL.size :] != name.encode():
            raise self._error(expected=f"a bundle, {name} first", found=repr(head[_LOCAL.size :]))
        if size > most or size > self._size:
            raise self._error(name, expected=f"at most {min(most, self._size)} bytes", found=f"{size} bytes")
        data = self._file.read(size)
        if (found_crc := crc32(data)) != crc or len(data) != size:
            raise self._error(name, expected=f"CRC-32 {crc:08x} over {size} bytes", found=f"{found_crc:08x}")
        self._accept(Member(name, size, crc), head)
        return data

    def member(self, name: str, size: int, digest: str, out: BinaryIO) -> None:
        """Copy the next member to ``out``. Raises EvidenceError unless it has this name, size and SHA-256."""
        head = self._file.read(_LOCAL.size + len(name))
        crc, found, left = 0, sha256(), size
        while left and (chunk := self._file.read(min(CHUNK, left))):
            crc, left = crc32(chunk, crc), left - len(chunk)
            found.update(chunk)
            out.write(chunk)
        if found.hexdigest() != digest:
            raise self._error(name, expected=f"SHA-256 {digest}", found=found.hexdigest())
        self._accept(Member(name, size, crc), head)

    def end(self) -> None:
        """The directory, and nothing behind it."""
        at = self._file.tell()
        wanted = directory(self._members)
        self._compare(at, wanted, self._file.read(len(wanted) + 1), "the directory")

    def _accept(self, member: Member, head: bytes) -> None:
        at = sum(len(before.local()) + before.size for before in self._members)
        self._compare(at, member.local(), head, f"header of {member.name}")
        self._members.append(member)

    def _compare(self, at: int, wanted: bytes, found: bytes, what: str) -> None:
        if wanted == found:
            return
        place = next((i for i, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other), None)
        place = min(len(wanted), len(found)) if place is None else place
        expected, got = wanted[place : place + 8].hex() or "the end", found[place : place + 8].hex() or "the end"
        raise self._error(f"zip structure at byte {at + place} ({what})", expected=expected, found=got)

    def _error(self, place: str = "", *, expected: str, found: str) -> EvidenceError:
        return EvidenceError(f"{self._name}{f', {place}' if place else ''}", expected=expected, found=found)
