"""What this silo allows: its own floors, and how cohorts may change. The server cannot loosen either.

Differencing is the attack that masking doesn't stop: two sums over nearly the same silos, of the same data or model,
differ by one silo's figures. Hard rule: a step that ended void is repeated only with the same cohort or one that
differs by at least m + c silos each way. Soft rule: a cohort that differs from the one before by fewer is counted
against the charter's budget. What is left is bounded, not closed: only differential privacy closes it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crypto.charter import Charter
from crypto.errors import CohortDifference, SpecError
from crypto.transcript import digest


@dataclass(frozen=True, slots=True)
class Policy:
    """``floors``: lane → fewest contributors this silo insists on. The strictest of charter, plan and policy holds."""

    floors: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read ``policy.toml``: a table ``[floors]``. No file means no floors. Raises SpecError."""
        try:
            raw = tomllib.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as bad:
            raise SpecError(str(path), got=str(bad), want="TOML") from bad
        for key in raw.keys() - {"floors"}:
            remedy = "Approvals are signed: see `fed approve`." if key in ("approval", "approved") else ""
            raise SpecError(f"policy.{key}", got=raw[key], want="floors", remedy=remedy)
        floors = raw.get("floors", {})
        if not isinstance(floors, dict) or not all(
            isinstance(v, int) and not isinstance(v, bool) and 0 < v < 2**32 for v in floors.values()
        ):
            raise SpecError("policy.floors", got=floors, want="lane = positive integer")
        return cls(floors)

    @property
    def digest(self) -> bytes:
        """What an approval binds: an approval holds for one policy."""
        return digest("policy", *(part for lane, floor in sorted(self.floors.items()) for part in (lane, floor)))


class CohortWatch:
    """Compares each survivor set of a run with the one of the last release."""

    def __init__(self, charter: Charter) -> None:
        self._least = charter.honest + charter.colluders
        self._differences_left = charter.difference_budget
        self._voids_left = charter.void_budget
        self._last: frozenset[str] | None = None
        self._last_void = False

    def check(self, cohort: Iterable[str]) -> None:
        """Raise CohortDifference if this cohort may not follow the last one."""
        if self._last is None:
            return
        now = frozenset(cohort)
        moved = [len(now - self._last), len(self._last - now)]
        close = any(0 < count < self._least for count in moved)
        if close and self._last_void:
            raise CohortDifference(
                "The step before ended void and this cohort differs from its by fewer than m + c silos.",
                remedy="The same silos must take part again, or at least m + c others.",
            )
        if close and self._differences_left == 0:
            raise CohortDifference(
                "This cohort differs by fewer than m + c silos and the run's budget for that is spent.",
                remedy="Wait for the same silos, or start a new run under a charter with a larger budget.",
            )

    def released(self, cohort: Iterable[str]) -> None:
        """Record that shares leave for this cohort."""
        now = frozenset(cohort)
        if self._last is not None and any(0 < len(part) < self._least for part in (now - self._last, self._last - now)):
            self._differences_left -= 1
        self._last = now
        self._last_void = False

    def snapshot(self) -> dict[str, Any]:
        """The state for a restarted agent, as plain values."""
        return {
            "last": None if self._last is None else sorted(self._last),
            "void": self._last_void,
            "voids_left": self._voids_left,
            "differences_left": self._differences_left,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self._last = None if snapshot["last"] is None else frozenset(snapshot["last"])
        self._last_void = bool(snapshot["void"])
        self._voids_left = int(snapshot["voids_left"])
        self._differences_left = int(snapshot["differences_left"])

    def void(self) -> None:
        """The step of the last release ended without a result. Raises CohortDifference when the budget is spent."""
        if self._voids_left == 0:
            raise CohortDifference(
                "The run's budget of void steps is spent.", remedy="Start a new run; find out why steps are lost."
            )
        self._voids_left -= 1
        self._last_void = True
