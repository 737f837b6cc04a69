"""The numbers of a charter: what a consortium decides on, apart from who its members are."""

from __future__ import annotations

from dataclasses import dataclass

from crypto.charter import least_cohort


@dataclass(frozen=True, slots=True)
class Floors:
    """``colluders``: c, silos that may collude with the server. ``honest``: m, others in a sum. ``lane_floor``: m_e,
    silos in a lane that not everyone holds. The defaults are the demonstration's.
    """

    colluders: int = 1
    honest: int = 2
    lane_floor: int = 3

    def n_min(self, silos: int) -> int:
        """The smallest cohort of so many silos that a charter may have."""
        return least_cohort(silos, self.colluders)
