"""The generalist in the place of experts that are not used, because their lanes did not open (``crypto.standing``).

Dropping such an expert and sharing its gate's mass among the others would send rows to experts of other data.

Shapes: E experts, B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crypto.standing import standing
from silo_agent.methods import Published


def standing_of(published: Published, opened_E: Sequence[bool]) -> np.ndarray:
    """(E,) ``standing`` of the lanes ``expert-e``; 0 for one that never opened (``opened_E``)."""
    return np.array([standing(published.slots, f"expert-{e}") if ok else 0.0 for e, ok in enumerate(opened_E)])


def stood_in(p_EBC: np.ndarray, generalist_BC: np.ndarray, standing_E: np.ndarray) -> np.ndarray:
    """(E, B, C), or what else a task answers: each expert's as far as it counts, the generalist's for the rest."""
    share_E = standing_E.reshape(-1, *(1 for _ in generalist_BC.shape))
    answers_EBC: np.ndarray = share_E * p_EBC + (1 - share_E) * generalist_BC
    return answers_EBC
