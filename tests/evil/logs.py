"""What the silos' own logs say of a game: each refusal and each sum that stays shut, no more and no less."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from tests.evil.server import ANSWERED, Book

#: Was a request refused, or does a section or lane stay shut; which phase, section or lane; the code.
Line = tuple[Literal["refused", "shut"], str, str]

_REFUSED = re.compile(r"refused ([a-z-]+)(?: of step \d+)?: \[([A-Z_]+)\]")
_SHUT = re.compile(r"(\S+) stays shut for us: \[([A-Z_]+)\]")


@contextmanager
def heard(log: list[str]) -> Iterator[None]:
    """What a silo's agent in this process logs meanwhile goes into ``log``, too."""
    logger, keep = logging.getLogger("consilium.silo"), logging.Handler()
    keep.emit = lambda record: log.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(keep)
    try:
        yield
    finally:
        logger.removeHandler(keep)


def lines(text: str) -> Counter[Line]:
    """How often a log says what."""
    found: Counter[Line] = Counter(("refused", phase, code) for phase, code in _REFUSED.findall(text))
    found.update(("shut", name, code) for name, code in _SHUT.findall(text))
    return found


def due(book: Book, silo: str) -> Counter[Line]:
    """What a silo's log must say, by the book of the game."""
    found: Counter[Line] = Counter(
        ("refused", trick.phase, trick.got[silo]) for trick in book.tricks if trick.got.get(silo, ANSWERED) != ANSWERED
    )
    found.update(("shut", name, code) for one, name, code in book.withheld if one == silo)
    return found


def differences(book: Book, logged: Mapping[str, Counter[Line]]) -> list[str]:
    """One sentence for each silo whose log is not as it must be. ``logged``: silo → what its log says."""
    return [
        f"the log of {silo} says {sorted(found.items())}; it must say {sorted(must.items())}"
        for silo, found in logged.items()
        if found != (must := due(book, silo))
    ]
