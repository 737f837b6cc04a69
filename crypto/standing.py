"""How much an expert counts, by what everyone knows: in which training steps its lane opened.

A lane opens only with enough contributors. So an expert may never be trained, or stop being trained when silos leave,
while the generalist goes on. Then its initial or old values must not predict for the silos whose gate points at it: the
generalist does, in its place. The rule reads published figures alone, so silos, predictors and pages agree.
"""

from __future__ import annotations

from collections.abc import Mapping

#: An expert counts in full if its lane opened in this share of the training steps in which the generalist's did.
FULL = 0.75


def rounds(slots: Mapping[str, Mapping[str, int]], lane: str, *, task: str = "train") -> int:
    """In how many steps of the task a lane opened. ``slots``: step → the figures that opened in it; of a lane that
    opened they always have its contributors, whatever else was withheld."""
    return sum(f"{lane}.contributors" in seen for step, seen in slots.items() if step.startswith(f"{task}/"))


def standing(slots: Mapping[str, Mapping[str, int]], lane: str, *, everyone: str = "everyone") -> float:
    """From 0, never trained, to 1: how far a lane kept up with the generalist's, ``everyone``. 1 if no training step is
    known."""
    general = rounds(slots, everyone)
    return min(1.0, rounds(slots, lane) / (FULL * general)) if general else 1.0
