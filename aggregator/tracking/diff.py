"""Differences between expected and found values, each in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

NOTHING = "nothing"
_MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """``where``: the place in MLflow; ``expected``: computed from the ledger; ``found``: in MLflow."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


def same(where: str, expected: object, found: object) -> Iterator[Difference]:
    """One difference unless they are equal."""
    if expected != found:
        yield Difference(where, _shown(expected), _shown(found))


def tables(where: str, expected: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Difference]:
    """One difference for each key whose value is not as expected, or that is in one table only."""
    for key in sorted(expected.keys() | found.keys()):
        yield from same(f"{where} {key}", expected.get(key, NOTHING), found.get(key, NOTHING))


def sets(where: str, expected: set[Any], found: set[Any]) -> Iterator[Difference]:
    """One difference for all that is in one set of rows only."""
    if expected != found:
        yield Difference(where, _listed(expected - found), _listed(found - expected))


def named(content: bytes | Path) -> str:
    """A file's content by its digest."""
    return f"SHA-256 {sha256(content.read_bytes() if isinstance(content, Path) else content).hexdigest()}"


def _listed(rows: set[Any]) -> str:
    shown = "; ".join(", ".join(map(str, row)) for row in sorted(rows, key=str)[:_MOST_SHOWN])
    more = f" and {len(rows) - _MOST_SHOWN} more" if len(rows) > _MOST_SHOWN else ""
    return f"({shown}{more})" if rows else NOTHING


def _shown(value: object) -> str:
    """A long text is shown by its beginning and its digest."""
    text = str(value)
    return text if len(text) <= 160 else f"{text[:120]}… (SHA-256 {sha256(text.encode()).hexdigest()[:16]})"
