"""Untrusted text, made safe to print on a terminal: control characters, line breaks and bidirectional marks."""

from __future__ import annotations


def printable(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """The text on one line, each character that a terminal could act on replaced by ``instead``."""
    return "".join(character if character.isprintable() else instead for character in text)


def escaped(value: object) -> str:
    r"""The value's text on one line. If a terminal could act on it, all but printable ASCII is escaped (``\x1b``)."""
    text = str(value)
    return text if text.isprintable() else ascii(text)[1:-1]
