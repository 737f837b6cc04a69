"""What one row can change in what a plan opens: nothing is in a private plan whose change nobody has bounded.

Everything that opens counts: the words of a lane, its weights and contributors, every slot. A private method names the
blocks that its noise covers and the slots that are the same whatever the rows are. Anything else in its plan is refused
by name, so a slot that is added to a method later does not slip into a private job.
"""

from __future__ import annotations

from collections.abc import Collection

from crypto.errors import SpecError
from crypto.plan import Plan, Scope


def check_private(plan: Plan, *, noised: Collection[str], constant: Collection[str]) -> None:
    """Raise SpecError for the first sum of a plan that has no bounded sensitivity per record.

    ``noised``: blocks that are summed with noise for one row's change. ``constant``: slots that no row changes."""
    for lane in plan.lanes:
        if lane.scope not in (Scope.ALL, Scope.LOCAL):
            raise SpecError(
                f"job.privacy, lane {lane.name}",
                got="a lane that not every silo holds: who holds it may depend on rows",
                want="lanes of all silos",
            )
        if len(lane.grid) > 1:
            raise SpecError(
                f"job.privacy, lane {lane.name}",
                got="weights that may follow the number of rows",
                want="one weight for every silo",
            )
    for step in plan.steps:
        for slot in step.slots:
            if slot.name not in constant:
                raise SpecError(
                    f"job.privacy, slot {slot.name} of step {step.name}",
                    got="a figure without a bounded sensitivity per record",
                    want="no figures of rows in a private plan",
                )
        for part in step.sums:
            if part.block not in noised:
                raise SpecError(
                    f"job.privacy, block {part.block} of step {step.name}",
                    got="a sum without noise",
                    want="sums that the mechanism covers",
                )
