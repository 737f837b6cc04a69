"""What a verification found: one line a check, in order, and one sentence at the end.

A check that fails raises EvidenceError and there is no verdict. What could not be checked is a line of its own, with
the reason: a missing line never counts as a check that passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from crypto.errors import EvidenceError, FederationError
from crypto.text import printable


class CheckOutcome(StrEnum):
    OK = "ok"
    WARNING = "warning"
    NOT_CHECKED = "not checked"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One check. ``detail``: what was checked, or why it could not be."""

    name: str
    outcome: CheckOutcome
    detail: str

    def __str__(self) -> str:
        return printable(f"{self.outcome:<11}  {self.name:<11}  {self.detail}")


@dataclass
class VerificationReport:
    """The lines of one verification. ``show`` is called with each line at once: a large run takes long."""

    target: str
    show: Callable[[CheckLine], None] = lambda line: None
    lines: list[CheckLine] = field(default_factory=list)

    def ok(self, name: str, detail: str) -> None:
        self._add(CheckLine(name, CheckOutcome.OK, detail))

    def warn(self, name: str, detail: str) -> None:
        self._add(CheckLine(name, CheckOutcome.WARNING, detail))

    def not_checked(self, name: str, why: str) -> None:
        self._add(CheckLine(name, CheckOutcome.NOT_CHECKED, why))

    def note(self, name: str, detail: str) -> None:
        """What a reader of the verdict must know and no check decides; said once."""
        line = CheckLine(name, CheckOutcome.NOTE, detail)
        if line not in self.lines:
            self._add(line)

    def _add(self, line: CheckLine) -> None:
        self.lines.append(line)
        self.show(line)

    def of(self, outcome: CheckOutcome) -> list[CheckLine]:
        return [line for line in self.lines if line.outcome is outcome]

    @property
    def verdict(self) -> str:
        """One sentence. "Holds" never comes without the number of things that were not checked."""
        counted = (CheckOutcome.OK, CheckOutcome.WARNING, CheckOutcome.NOT_CHECKED)
        held, warned, left = (len(self.of(outcome)) for outcome in counted)
        warnings = f" {warned} warning{'s' * (warned != 1)}." if warned else ""
        rest = f"{left} not checked" if left else "none skipped"
        return f"{self.target} holds: {held} checks passed, {rest}.{warnings}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        lines = [{"name": line.name, "outcome": str(line.outcome), "detail": line.detail} for line in self.lines]
        unchecked = [f"{line.name}: {line.detail}" for line in self.of(CheckOutcome.NOT_CHECKED)]
        return {"target": self.target, "verdict": self.verdict, "lines": lines, "not_checked": unchecked}


@contextmanager
def checking(where: str, expected: object) -> Iterator[None]:
    """Turn a FederationError raised inside into EvidenceError at ``where``; an EvidenceError passes unchanged."""
    try:
        yield
    except EvidenceError:
        raise
    except FederationError as bad:
        raise EvidenceError(where, expected=expected, found=f"[{bad.code}] {bad.detail}") from bad


def same(where: str, expected: object, found: object) -> None:
    """Raise EvidenceError unless they are equal."""
    if expected != found:
        raise EvidenceError(where, expected=expected, found=found)
