"""A model of the rule before decision 23, to compare with: each survivor set is compared with the last release only.

A cohort that differs from the last one by fewer than m + c silos, in either direction, is allowed as often as a budget
says, and never after a void step. A new run starts afresh.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: The budgets of a charter then, per silo and run: close cohorts, and void steps.
DIFFERENCES, VOIDS = 16, 4


@dataclass(frozen=True, slots=True)
class LastRelease:
    """The rule's state in one run. ``least``: m + c. ``differences`` and ``voids``: what is left of the budgets."""

    least: int
    differences: int = 0
    voids: int = 0
    last: frozenset[str] | None = None
    void: bool = False

    def _close(self, now: frozenset[str]) -> bool:
        return self.last is not None and any(0 < len(part) < self.least for part in (now - self.last, self.last - now))

    def allows(self, now: frozenset[str]) -> bool:
        return not self._close(now) or (not self.void and self.differences > 0)

    def released(self, now: frozenset[str]) -> LastRelease:
        return replace(self, last=now, void=False, differences=self.differences - self._close(now))

    def voided(self) -> LastRelease | None:
        """After a void step; None if the budget is spent, and then the silo refuses every later step."""
        return replace(self, void=True, voids=self.voids - 1) if self.voids else None
