"""Canonical bytes: one value, one encoding.

Fixed field order, big-endian, u32 length prefixes; no JSON, no pickle, nothing optional. A ``Reader`` accepts
exactly what a ``Writer`` makes: a truncated, over-long or non-canonical message raises ``Malformed``, and no
length field is trusted before the bytes behind it are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import TypeVar

from crypto.errors import Malformed

T = TypeVar("T")

#: First byte of every message. A new wire format gets a new number and is refused by old code.
VERSION = 2


class Writer:
    """Appends fields; ``bytes(writer)`` is the message."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def u8(self, value: int) -> Writer:
        self._parts.append(struct.pack(">B", value))
        return self

    def u32(self, value: int) -> Writer:
        self._parts.append(struct.pack(">I", value))
        return self

    def u64(self, value: int) -> Writer:
        self._parts.append(struct.pack(">Q", value))
        return self

    def f64(self, value: float) -> Writer:
        self._parts.append(struct.pack(">d", value))
        return self

    def fixed(self, value: bytes, size: int) -> Writer:
        if len(value) != size:
            raise ValueError(f"a field of {size} bytes got {len(value)}")
        self._parts.append(value)
        return self

    def blob(self, value: bytes) -> Writer:
        self._parts += (struct.pack(">I", len(value)), value)
        return self

    def text(self, value: str) -> Writer:
        return self.blob(value.encode())

    def each(self, items: Iterable[T], write: Callable[[Writer, T], object]) -> Writer:
        rows = list(items)
        self.u32(len(rows))
        for row in rows:
            write(self, row)
        return self

    def each_fixed(self, items: Iterable[bytes], size: int) -> Writer:
        """The same bytes as ``each`` of ``fixed``."""
        return self.each(items, lambda out, item: out.fixed(item, size))

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)


class Reader:
    """Reads fields in order; ``end()`` raises if bytes are left."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._at = 0

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise Malformed(
                f"A field of {size} bytes at offset {self._at} runs past the end ({len(self._data)} bytes)."
            )
        part = self._data[self._at : end]
        self._at = end
        return part

    def u8(self) -> int:
        return self._take(1)[0]

    def flag(self) -> bool:
        value = self.u8()
        if value > 1:
            raise Malformed(f"A flag byte is {value}.")
        return bool(value)

    def u32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def f64(self) -> float:
        return float(struct.unpack(">d", self._take(8))[0])

    def fixed(self, size: int) -> bytes:
        start, end = self._at, self._at + size
        if end > len(self._data):
            return self._take(size)
        self._at = end
        return self._data[start:end]

    def blob(self) -> bytes:
        # One slice where the field is whole, since a session reads ten thousand of them. A short one is left to _take,
        # which raises.
        start = self._at + 4
        end = start + int.from_bytes(self._data[self._at : start], "big")
        if end > len(self._data):
            return self._take(self.u32())
        self._at = end
        return self._data[start:end]

    def text(self) -> str:
        try:
            return self.blob().decode()
        except UnicodeDecodeError as bad:
            raise Malformed(f"A text field is not UTF-8: {bad.reason}.") from bad

    def each(self, read: Callable[[Reader], T]) -> tuple[T, ...]:
        count = self.u32()
        # Every item takes at least one byte, so a larger count is false: refuse it before allocating.
        if count > len(self._data) - self._at:
            raise Malformed(f"A list announces {count} items in {len(self._data) - self._at} bytes.")
        return tuple(read(self) for _ in range(count))

    def each_fixed(self, size: int) -> tuple[bytes, ...]:
        """What ``each`` of ``fixed`` reads, in one piece: a session reads ten thousand keys and digests."""
        part = self._take(self.u32() * size)
        return tuple([part[at : at + size] for at in range(0, len(part), size)])

    def end(self) -> None:
        if self._at != len(self._data):
            raise Malformed(f"{len(self._data) - self._at} bytes follow the last field.")
