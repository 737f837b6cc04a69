"""The numbers of a charter: what a consortium decides on, apart from who its members are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Floors:
    """``colluders``: c, silos that may collude with the server. ``honest``: m, others in a sum. ``lane_floor``: m_e,
    silos in a lane that not everyone holds. The budgets are silos' own: of void steps and of small cohort differences.
    The defaults are the demonstration's.
    """

    colluders: int = 1
    honest: int = 2
    lane_floor: int = 3
    void_budget: int = 4
    difference_budget: int = 16

    def n_min(self, silos: int) -> int:
        """The smallest cohort of so many silos: the least n with n > (N + c) / 2."""
        return (silos + self.colluders) // 2 + 1
