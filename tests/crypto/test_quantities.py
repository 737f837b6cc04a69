"""What a sum is a sum of: equal where the values of a silo would be equal, and different where they are not."""

from dataclasses import replace
from itertools import combinations

import pytest

from crypto import quantities
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Section, Slot, Step, Sum
from tests.federation import BLOCKS

OTHER_BLOCKS = b"b" * 32


def plan_of(*blocks: Block, steps: tuple[Step, ...] = (), **options) -> Plan:
    lanes = tuple(Lane(name=name, scope=Scope.ALL, floor=3) for name in sorted({block.lane for block in blocks}))
    sums = tuple(Sum(block.name, Apply.AVERAGE) for block in blocks)
    given = {"method": "m", "seed": 7, "n_max": 8} | options
    return Plan(lanes=lanes, blocks=blocks, steps=steps or (Step(task="train", index=0, sums=sums),), **given)


def block(name: str, lane: str = "trunk", **options) -> Block:
    return Block(name=name, shape=(2,), lane=lane, clip=1.0, **options)


W, B = block("w"), block("b")
PLAN = plan_of(W, B, block("head", "head"))
STEP = PLAN.steps[0]


def trunk(plan: Plan = PLAN, *, step: Step | None = None, blocks: bytes = BLOCKS, lane: str = "trunk"):
    return quantities.of_lane(plan, step or plan.steps[0], lane, blocks)


# --- contributors -------------------------------------------------------------------------------------------------


def test_a_contributor_is_a_silo_with_its_data():
    assert quantities.contributor("silo-1", bytes(range(32))) == "silo-1:0001020304050607"
    ids = {quantities.contributor(silo, data) for silo in ("silo-1", "silo-2") for data in (bytes(32), b"d" * 32)}
    assert len(ids) == 4


# --- lanes --------------------------------------------------------------------------------------------------------


def test_updates_of_a_lane_are_one_quantity_of_its_base_state():
    assert len(trunk()) == 1
    different = [trunk(), trunk(blocks=OTHER_BLOCKS), trunk(lane="head")]
    assert not any(one & other for one, other in combinations(different, 2))


@pytest.mark.parametrize(
    "again",
    [
        trunk(step=replace(STEP, index=5)),
        trunk(step=replace(STEP, task="tune")),
        trunk(step=replace(STEP, sums=STEP.sums[:1])),
        trunk(plan_of(W, B, block("head", "head"), seed=9, method="n")),
        trunk(plan_of(replace(W, clip=0.5), replace(B, init=0.5))),
        trunk(step=replace(STEP, slots=(Slot("rows", 9, Basis.DATA),))),
        trunk(step=replace(STEP, sums=tuple(replace(part, rate=0.5, apply=Apply.ADD) for part in STEP.sums))),
    ],
    ids=["another step", "another task", "fewer blocks", "another job", "another clip", "other slots", "another rate"],
)
def test_a_step_from_the_same_state_is_of_the_same_quantity(again):
    assert again == trunk()


def test_blocks_of_one_named_quantity_are_one_whatever_the_lane_the_state_or_the_step():
    """All less left less right: three lanes, one quantity."""
    plan = plan_of(*(block(name, name, quantity="signature") for name in ("all", "left", "right")))
    found = {
        quantities.of_lane(plan, step, lane, blocks)
        for lane in ("all", "left", "right")
        for blocks in (BLOCKS, OTHER_BLOCKS)
        for step in (plan.steps[0], replace(plan.steps[0], task="again", index=3))
    }
    assert len(found) == 1 and len(found.pop()) == 1


def test_a_lane_may_be_of_several_quantities():
    mixed = plan_of(
        W, block("mean", quantity="mean"), block("spread", quantity="spread"), block("mean.2", quantity="mean")
    )
    assert len(trunk(mixed)) == 3 and trunk(plan_of(block("mean", quantity="mean"))) < trunk(mixed)
    assert trunk(plan_of(W)) < trunk(mixed)  # the update in it is that of the same blocks without the others


def test_a_named_quantity_is_no_figure_and_no_update():
    """The names are apart, whatever they say."""
    named = trunk(plan_of(block("w", quantity="rows")))
    figure = quantities.of_section(
        Step(task="t", index=0, slots=(Slot("rows", 9, Basis.DATA),)), Section.STATIC, BLOCKS
    )
    assert len(named | figure | trunk(plan_of(W))) == 3


# --- sections -----------------------------------------------------------------------------------------------------


def sections(*slots: Slot, task: str = "train", blocks: bytes = BLOCKS):
    step = Step(task=task, index=0, slots=slots)
    return {section: quantities.of_section(step, section, blocks) for section in Section}


ROWS, TEST = Slot("rows", 9, Basis.DATA), Slot("test.rows", 9, Basis.DATA)
CORRECT, LOSS, BIDS = Slot("correct", 9, Basis.STATE), Slot("loss", 9, Basis.STATE), Slot("bids", 9, Basis.STEP)


def test_a_figure_of_the_data_is_its_name_in_every_state_and_step():
    one = sections(ROWS, TEST, CORRECT)
    assert len(one[Section.STATIC]) == 2
    assert one[Section.STATIC] == sections(TEST, BIDS, ROWS, task="other", blocks=OTHER_BLOCKS)[Section.STATIC]
    assert sections(ROWS)[Section.STATIC] < one[Section.STATIC]
    assert sections(replace(ROWS, bound=7))[Section.STATIC] == sections(ROWS)[Section.STATIC]


def test_figures_of_a_state_are_one_quantity_of_that_state():
    """Whatever they are called and whichever step asks."""
    one = sections(CORRECT, LOSS)[Section.FRESH]
    assert len(one) == 1 and one == sections(LOSS, ROWS, task="other")[Section.FRESH]
    assert one.isdisjoint(sections(CORRECT, blocks=OTHER_BLOCKS)[Section.FRESH])


def test_new_values_in_each_step_are_of_no_quantity():
    assert sections(BIDS) == {Section.STATIC: frozenset(), Section.FRESH: frozenset()}
    assert sections(BIDS, CORRECT)[Section.FRESH] == sections(CORRECT)[Section.FRESH]


# --- what depends on the data alone -------------------------------------------------------------------------------


def test_static_quantities_are_those_that_a_step_has_from_every_base_state():
    """Releases before the record of openings count for these."""
    slots = (Slot("rows", 9, Basis.DATA), Slot("correct", 9, Basis.STATE), Slot("bid", 9, Basis.STEP))
    plan = plan_of(block("s", "head", quantity="signature"), W)
    step = replace(plan.steps[0], slots=slots)
    one, other = (frozenset().union(*quantities.of_step(plan, step, b).values()) for b in (BLOCKS, OTHER_BLOCKS))
    assert quantities.static(plan, step) == one & other and len(one & other) == 2
    assert len(one) == len(other) == 4
    assert quantities.static(plan, replace(step, slots=slots[1:], sums=step.sums[1:])) == frozenset()
