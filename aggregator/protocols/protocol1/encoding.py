"""Canonical bytes of protocol 1: read strictly, and made as far as digests and labels need them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

from crypto.errors import Malformed

T = TypeVar("T")

#: First byte of every message, plan, charter and piece of evidence.
VERSION = 1
DIGEST_BYTES = 32


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def blob(value: bytes | str) -> bytes:
    """Length and bytes; text is UTF-8."""
    data = value.encode() if isinstance(value, str) else value
    return u32(len(data)) + data


class Reader:
    """Reads fields in order. Raises Malformed for anything that the encoder did not make."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._at = 0

    def fixed(self, size: int) -> bytes:
        start, end = self._at, self._at + size
        if end > len(self._data):
            raise Malformed(f"A field of {size} bytes at offset {start} runs past the end ({len(self._data)} bytes).")
        self._at = end
        return self._data[start:end]

    def u8(self) -> int:
        return self.fixed(1)[0]

    def flag(self) -> bool:
        value = self.u8()
        if value > 1:
            raise Malformed(f"A flag byte is {value}.")
        return bool(value)

    def u32(self) -> int:
        return int.from_bytes(self.fixed(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.fixed(8), "big")

    def f64(self) -> float:
        return float(struct.unpack(">d", self.fixed(8))[0])

    def digest(self) -> bytes:
        return self.fixed(DIGEST_BYTES)

    def blob(self) -> bytes:
        return self.fixed(self.u32())

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

    def version(self, what: str) -> None:
        if (found := self.u8()) != VERSION:
            raise Malformed(f"{what} of version {found}; protocol 1 has version {VERSION}.")

    def end(self) -> None:
        if self._at != len(self._data):
            raise Malformed(f"{len(self._data) - self._at} bytes follow the last field.")
