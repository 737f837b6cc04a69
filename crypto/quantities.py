"""What a step opens sums of: the quantities to which the rule of atoms applies (``crypto.atoms``).

| what opens                     | quantity                                                            |
|--------------------------------|---------------------------------------------------------------------|
| blocks of a named quantity     | that name                                                           |
| a lane's other blocks          | the published blocks before the step, the lane                      |
| slots of basis DATA            | each slot's name                                                    |
| slots of basis STATE           | the published blocks before the step                                |
| slots of basis STEP            | none                                                                |

A quantity is named by 32 bytes that contain no run, no attempt, no step number and no task: a step that is repeated, a
void step and the next one, another job or another run on the same data and blocks opens sums of the same quantity. A
task is in none because methods train the same blocks in several tasks, from one state to nearly the same values. Slots
of basis STEP are new values in each step, and no silo releases a step twice, so there is nothing to compare them with.

A contributor is a silo with the data that it has committed to: a silo that brings other data is another one, since the
difference of two sums would show the difference of its two values.
"""

from __future__ import annotations

from crypto.plan import Basis, Plan, Section, Step
from crypto.transcript import digest

#: Hexadecimal digits of a data commitment in a contributor's id.
_DATA_DIGITS = 16


def contributor(silo: str, data: bytes) -> str:
    """The id of a silo with one data set. ``data``: the commitment that its advert names."""
    return f"{silo}:{data.hex()[:_DATA_DIGITS]}"


def of_lane(plan: Plan, step: Step, lane: str, blocks: bytes) -> frozenset[bytes]:
    """The quantities of a lane's sum. ``blocks``: digest of the published blocks before the step."""
    here = [block for block, _, _ in plan.blocks_of(step, lane)]
    found = {digest("quantity", "static", block.quantity) for block in here if block.quantity}
    if any(not block.quantity for block in here):
        found.add(digest("quantity", "update", blocks, lane))
    return frozenset(found)


def of_step(plan: Plan, step: Step, blocks: bytes) -> dict[str, frozenset[bytes]]:
    """Section or lane → its quantities, of all that a step opens."""
    sections = {str(section): of_section(step, section, blocks) for section in step.sections}
    return sections | {lane.name: of_lane(plan, step, lane.name, blocks) for lane in plan.lanes_of(step)}


def static(plan: Plan, step: Step) -> frozenset[bytes]:
    """The quantities of a step that depend on a silo's data alone."""
    named = {block.quantity for lane in plan.lanes_of(step) for block, _, _ in plan.blocks_of(step, lane.name)}
    figures = {slot.name for slot in step.slots if slot.basis is Basis.DATA}
    found = {digest("quantity", "static", name) for name in named if name}
    return frozenset(found | {digest("quantity", "figure", name) for name in figures})


def of_section(step: Step, section: Section, blocks: bytes) -> frozenset[bytes]:
    """The quantities of a section of slots. ``blocks``: digest of the published blocks before the step."""
    here = [step.slots[place] for place in step.places(section)]
    found = {digest("quantity", "figure", slot.name) for slot in here if slot.basis is Basis.DATA}
    if any(slot.basis is Basis.STATE for slot in here):
        found.add(digest("quantity", "figures", blocks))
    return frozenset(found)
