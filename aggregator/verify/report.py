"""What a verification found: one line a check, in order, and one sentence at the end.

A check that fails raises EvidenceError and there is no verdict. What could not be checked is a line of its own with
the reason, so that silence never passes for proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from crypto.errors import EvidenceError, FederationError
from crypto.text import printable


class Outcome(StrEnum):
    OK = "ok"
    WARNING = "warning"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Line:
    """One check. ``detail``: what held, or why it could not be looked at."""

    name: str
    outcome: Outcome
    detail: str

    def __str__(self) -> str:
        return printable(f"{self.outcome:<11}  {self.name:<11}  {self.detail}")


@dataclass
class Report:
    """The lines of one verification. ``show`` is called with each as it is found: big runs take their time."""

    target: str
    show: Callable[[Line], None] = lambda line: None
    lines: list[Line] = field(default_factory=list)

    def ok(self, name: str, detail: str) -> None:
        self._add(Line(name, Outcome.OK, detail))

    def warn(self, name: str, detail: str) -> None:
        self._add(Line(name, Outcome.WARNING, detail))

    def not_checked(self, name: str, why: str) -> None:
        self._add(Line(name, Outcome.NOT_CHECKED, why))

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        self.show(line)

    def of(self, outcome: Outcome) -> list[Line]:
        return [line for line in self.lines if line.outcome is outcome]

    @property
    def verdict(self) -> str:
        """One sentence. It says "holds" only beside the number of things nobody looked at."""
        held, warned, left = (len(self.of(outcome)) for outcome in Outcome)
        warnings = f" {warned} warning{'s' * (warned != 1)}." if warned else ""
        rest = f"{left} not checked" if left else "none skipped"
        return f"{self.target} holds: {held} checks passed, {rest}.{warnings}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        lines = [{"name": line.name, "outcome": str(line.outcome), "detail": line.detail} for line in self.lines]
        unchecked = [f"{line.name}: {line.detail}" for line in self.of(Outcome.NOT_CHECKED)]
        return {"target": self.target, "verdict": self.verdict, "lines": lines, "not_checked": unchecked}


@contextmanager
def checking(where: str, expected: object) -> Iterator[None]:
    """Whatever the protocol finds amiss inside becomes EvidenceError at ``where``; one that names its place goes by."""
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
