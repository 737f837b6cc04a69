"""The plan: canonical, complete, and refused by field when it is not safe."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.encoding import VERSION, Writer
from crypto.errors import EgressDenied, FederationError, HeadroomExceeded, Malformed, SpecError
from crypto.plan import (
    MAX_CLIP,
    MAX_RATE,
    MAX_WEIGHT_RATIO,
    MIN_CLIP,
    Apply,
    Basis,
    Block,
    Lane,
    Plan,
    Scope,
    Slot,
    Step,
    Sum,
)
from tests.federation import small_plan

PLAN = small_plan(group=["silo-1", "silo-2", "silo-3"])
DATA = bytes(PLAN)
SLOT_OF_LANE = Slot("l.weight", 2, Basis.STATE)


def lane(**change):
    return Lane(**{"name": "l", "scope": Scope.ALL, "floor": 3, **change})


def block(**change):
    return Block(**{"name": "b", "shape": (2,), "lane": "l", "clip": 1.0, **change})


def plan(**change):
    step = Step(task="t", index=0, sums=(Sum("b", Apply.ADD),))
    return Plan(
        **{"method": "m", "seed": 1, "n_max": 5, "lanes": (lane(),), "blocks": (block(),), "steps": (step,), **change}
    )


def test_round_trip():
    again = Plan.from_bytes(DATA)
    assert again == PLAN and bytes(again) == DATA and again.digest == PLAN.digest


def test_who_uploads_a_lane():
    silos, holdings = ("silo-3", "silo-1", "silo-2"), {"silo-1": ("l",), "silo-2": ("other",)}
    some = ("silo-1", "silo-3")
    assert lane().uploaders(silos, holdings) == silos
    assert lane(scope=Scope.HELD).uploaders(silos, holdings) == silos  # hidden: zeros included
    assert lane(scope=Scope.HELD, hidden=False).uploaders(silos, holdings) == ("silo-1",)
    assert lane(scope=Scope.GROUP, members=some).uploaders(silos, holdings) == ("silo-3", "silo-1")
    assert lane(scope=Scope.LOCAL).uploaders(silos, holdings) == ()
    visible = [
        one.visible for one in (lane(hidden=False), lane(scope=Scope.HELD), lane(scope=Scope.HELD, hidden=False))
    ]
    assert visible == [False, False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "n"},
        {"seed": 2},
        {"n_max": 6},
        {"lanes": (lane(floor=4),)},
        {"lanes": (lane(grid=(1, 2)),)},
        {"lanes": (lane(scope=Scope.HELD),)},
        {"lanes": (lane(scope=Scope.HELD, hidden=False),)},
        {"lanes": (lane(scope=Scope.GROUP, members=("silo-1",)),)},
        {"lanes": (lane(), lane(name="k"))},
        {"blocks": (block(shape=(3,)),)},
        {"blocks": (block(shape=(1, 2)),)},
        {"blocks": (block(clip=2.0),)},
        {"blocks": (block(init=0.5),)},
        {"blocks": (block(quantity="figure"),)},
        {"steps": (Step(task="u", index=0, sums=(Sum("b", Apply.ADD),)),)},
        {"steps": (Step(task="t", index=1, sums=(Sum("b", Apply.ADD),)),)},
        {"steps": (Step(task="t", index=0, sums=(Sum("b", Apply.AVERAGE),)),)},
        {"steps": (Step(task="t", index=0, sums=(Sum("b", Apply.ADD, 0.5),)),)},
        {"steps": (Step(task="t", index=0, sums=(Sum("b", Apply.ADD),), slots=(Slot("s", 1, Basis.STATE),)),)},
    ],
)
def test_every_field_is_in_the_digest(change):
    assert plan(**change).digest != plan().digest


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_another_plan(at, flip):
    data = bytearray(DATA)
    data[at] ^= flip
    try:
        other = Plan.from_bytes(bytes(data))
    except FederationError:
        return
    assert other != PLAN and bytes(other) == bytes(data)


@given(st.integers(0, len(DATA) - 1), st.binary(min_size=1, max_size=4), st.binary(max_size=200))
def test_cut_extended_and_random_bytes_are_refused(cut, tail, noise):
    for data in (DATA[:cut], DATA + tail, noise, b"\x01" + noise):
        with pytest.raises(FederationError):
            Plan.from_bytes(data)
    try:  # another end may make another plan
        other = Plan.from_bytes(DATA[:cut] + noise)
    except FederationError:
        return
    assert bytes(other) == DATA[:cut] + noise


def test_another_version_or_ring_is_refused():
    with pytest.raises(Malformed):
        Plan.from_bytes(b"\x01" + DATA[1:])
    with pytest.raises(SpecError):
        plan(ring_bits=16)


@pytest.mark.parametrize("flag", [2, 255])
def test_flags_are_0_or_1(flag):
    out = Writer()
    lane().write(out)
    data = bytes(out)
    with pytest.raises(Malformed, match="flag"):
        Plan.from_bytes(bytes(plan()).replace(data, data[:-5] + bytes([flag]) + data[-4:]))


@pytest.mark.parametrize(
    ("old", "new"), [(b"\x00\x00\x00\x03all", b"\x00\x00\x00\x03alt"), (b"\x00\x00\x00\x03add", b"\x00\x00\x00\x03adc")]
)
def test_unknown_enum_values_are_malformed(old, new):
    with pytest.raises(Malformed, match="is no"):
        Plan.from_bytes(bytes(plan()).replace(old, new))


@pytest.mark.parametrize(
    "make",
    [
        lambda: lane(name=""),
        lambda: lane(name="Slots"),
        lambda: lane(name="a b"),
        lambda: lane(name="a\n"),
        lambda: lane(name="x" * 64),
        lambda: lane(floor=0),
        lambda: lane(grid=()),
        lambda: lane(grid=(0, 1)),
        lambda: lane(grid=(2, 1)),
        lambda: lane(grid=(1, 1)),
        lambda: lane(grid=(1, MAX_WEIGHT_RATIO + 1)),
        lambda: lane(grid=(4, 5, 6, 7, 8)),
        lambda: lane(scope=Scope.GROUP),
        lambda: lane(members=("silo-1",)),
        lambda: block(name="B"),
        lambda: block(shape=()),
        lambda: block(shape=(2, 0)),
        lambda: block(shape=(-1,)),
        lambda: block(clip=0.0),
        lambda: block(clip=-1.0),
        lambda: block(clip=float("inf")),
        lambda: block(clip=float("nan")),
        lambda: block(init=-0.5),
        lambda: block(init=float("nan")),
        lambda: Slot("", 1, Basis.STATE),
        lambda: Slot("s", 0, Basis.STATE),
        lambda: Slot("s", 2**63, Basis.STATE),
        lambda: block(shape=()),
        lambda: block(shape=(1,) * 9),
        lambda: block(shape=(2**30,)),
        lambda: plan(method="M"),
        lambda: plan(n_max=0),
        lambda: plan(lanes=(lane(), lane())),
        lambda: plan(blocks=(block(), block())),
        lambda: plan(blocks=(block(lane="other"),)),
        lambda: plan(steps=plan().steps * 2),
        lambda: plan(steps=(Step(task="t", index=0, sums=(Sum("other", Apply.ADD),)),)),
        lambda: plan(steps=(Step(task="t", index=0),)),
        lambda: plan(steps=(Step(task="t", index=0, slots=(Slot("s", 1, Basis.STATE), Slot("s", 2, Basis.STATE))),)),
        lambda: plan(steps=(Step(task="t", index=0, sums=(Sum("b", Apply.ADD),), slots=(SLOT_OF_LANE,)),)),
    ],
)
def test_a_plan_that_is_not_well_formed_is_refused(make):
    with pytest.raises(SpecError):
        make()


def test_a_few_bytes_do_not_name_gigabytes():
    """M3: blocks that no step sums were unbounded, and both sides allocate every block that leaves a silo."""
    huge = tuple(block(name=f"h{i}", shape=(2**28,)) for i in range(2))
    out = Writer().u8(VERSION).text("m").u64(1).u32(5).u32(32)
    out.each((lane(),), lambda w, x: x.write(w)).each((block(), *huge), lambda w, x: x.write(w))
    data = bytes(out.each(plan().steps, lambda w, x: x.write(w)))
    assert len(data) < 300
    with pytest.raises(SpecError, match=r"plan\.blocks.*536870914 words.*at most 536870912"):
        Plan.from_bytes(data)
    with pytest.raises(SpecError, match=r"plan\.blocks"):
        plan(blocks=(block(), *huge))
    assert plan(blocks=(block(), *huge[:1]))
    outside = (lane(), lane(name="mine", scope=Scope.LOCAL))  # LOCAL blocks are allocated by nobody but their silo
    assert plan(lanes=outside, blocks=(block(), *(replace(one, lane="mine") for one in huge)))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"lanes": tuple(lane(name=f"l{i}") for i in range(1025))}, r"plan\.lanes"),
        ({"blocks": (block(),) * (2**16 + 1)}, r"plan\.blocks"),
        ({"steps": (Step(task="t", index=0, slots=(Slot("s", 1, Basis.STATE),)),) * (2**16 + 1)}, r"plan\.steps"),
        (
            {"steps": (Step(task="t", index=0, slots=tuple(Slot(f"s{i}", 1, Basis.STATE) for i in range(2**12 + 1))),)},
            r"plan\.slots of a step",
        ),
    ],
    ids=["lanes", "blocks", "steps", "slots"],
)
def test_counts_are_bounded(change, path):
    """M3: checked before anything is done with them."""
    with pytest.raises(SpecError, match=path):
        plan(**change)


def test_a_local_block_may_not_be_part_of_a_step():
    with pytest.raises(EgressDenied) as denied:
        plan(lanes=(lane(scope=Scope.LOCAL),))
    assert denied.value.field == "b"
    assert plan(
        lanes=(lane(scope=Scope.LOCAL),), steps=(Step(task="t", index=0, slots=(Slot("s", 1, Basis.STATE),)),)
    ).steps


def test_head_room_is_proved_at_construction():
    with pytest.raises(HeadroomExceeded, match="32-bit"):
        plan(n_max=2**23)
    big = Step(task="t", index=0, slots=(Slot("s", 2**62, Basis.STATE),))
    assert plan(n_max=3, steps=(big,)).n_max == 3
    with pytest.raises(HeadroomExceeded, match="'s'"):
        plan(n_max=4, steps=(big,))


def test_layout_of_a_step():
    step = PLAN.steps[0]
    assert [lane.name for lane in PLAN.lanes_of(step)] == ["trunk", "quiet", "open", "ward"]
    assert [(b.name, at) for b, _, at in PLAN.blocks_of(step, "trunk")] == [("trunk.w", 0), ("trunk.b", 30)]
    assert PLAN.words_of(step, "trunk") == 35 and PLAN.words_of(step, "open") == 6
    assert [slot.name for slot in step.slots] == ["rows", "correct"]
    assert [[lane.weight_of(place) for place in range(len(lane.grid) + 1)] for lane in PLAN.lanes_of(step)[:2]] == [
        [0, 4, 8, 16],
        [0, 1],
    ]
    assert PLAN.block("trunk.w").size == 30 and PLAN.lane_of("open.w").name == "open" and step.name == "train/0"


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_rate_is_finite(rate):
    with pytest.raises(SpecError):
        plan(steps=(Step(task="t", index=0, sums=(Sum("b", Apply.ADD, rate),)),))


def test_equal_plans_have_equal_bytes():
    """−0.0 equals 0.0 and has other bytes: it is refused, in a block and in bytes that come from elsewhere."""
    with pytest.raises(SpecError, match="init"):
        block(init=-0.0)
    data = bytes(plan())
    assert data.count(struct.pack(">dd", 1.0, 0.0)) == 1
    with pytest.raises(SpecError, match="init"):
        Plan.from_bytes(data.replace(struct.pack(">dd", 1.0, 0.0), struct.pack(">dd", 1.0, -0.0)))


@pytest.mark.parametrize("clip", [5e-324, MIN_CLIP * 0.999, MAX_CLIP * 1.001, 1e300])
def test_a_clip_is_one_that_the_ring_can_encode(clip):
    with pytest.raises(SpecError, match="clip"):
        block(clip=clip)
    assert block(clip=MIN_CLIP).clip < block(clip=MAX_CLIP).clip


@pytest.mark.parametrize("init", [MAX_CLIP * 1.001, float("inf")])
def test_initial_values_are_bounded(init):
    with pytest.raises(SpecError, match="init"):
        block(init=init)


@pytest.mark.parametrize("rate", [0.0, -0.5, MAX_RATE * 1.001])
def test_a_rate_is_positive_and_bounded(rate):
    with pytest.raises(SpecError, match="rate"):
        Sum("b", Apply.ADD, rate)


def test_a_block_is_summed_once_a_step():
    with pytest.raises(SpecError):
        plan(steps=(Step(task="t", index=0, sums=(Sum("b", Apply.ADD), Sum("b", Apply.ADD))),))


@pytest.mark.parametrize("task", ["", "a\nb", "x" * 1000])
def test_a_task_is_a_name(task):
    with pytest.raises(SpecError):
        plan(steps=(Step(task=task, index=0, sums=(Sum("b", Apply.ADD),)),))


@pytest.mark.parametrize(
    "make",
    [
        lambda: plan(seed=-1),
        lambda: plan(seed=2**64),
        lambda: plan(lanes=(lane(floor=2**32),)),
        lambda: plan(lanes=(lane(grid=(2**32,)),)),
        lambda: plan(blocks=(block(shape=(2**32,)),)),
        lambda: plan(blocks=(block(shape=(1, 2**33)),)),
        lambda: plan(steps=(Step(task="t", index=2**32, sums=(Sum("b", Apply.ADD),)),)),
        lambda: plan(steps=(Step(task="t", index=-1, sums=(Sum("b", Apply.ADD),)),)),
    ],
)
def test_numbers_fit_their_fields(make):
    with pytest.raises((SpecError, HeadroomExceeded)):
        bytes(make())


@pytest.mark.parametrize("members", [("silo-1", "silo-1"), ("silo-2", "silo-1")])
def test_members_of_a_group_are_ascending_and_distinct(members):
    with pytest.raises(SpecError):
        lane(scope=Scope.GROUP, members=members)


def test_a_block_has_a_bounded_size():
    with pytest.raises((SpecError, HeadroomExceeded)):
        plan(blocks=(block(shape=(2**32 - 1,) * 3),))


@given(st.data())
def test_replace_keeps_the_plan_canonical(data):
    seed = data.draw(st.integers(0, 2**64 - 1))
    other = replace(PLAN, seed=seed)
    assert Plan.from_bytes(bytes(other)) == other


# --- weight slots: one for each lane, shared by none (decision 11) ---------------------------------------------------


def test_no_plan_can_give_two_lanes_one_weight_figure():
    """The figure follows from the lane's name, which is unique; no field says otherwise, in code or in bytes."""
    for field in ("weight_slot", "slot"):
        with pytest.raises(TypeError):
            lane(**{field: "other.weight"})
    with pytest.raises(SpecError, match="each name once"):
        plan(lanes=(lane(), lane(floor=4)))
    two = plan(lanes=(lane(), lane(name="m")), blocks=(block(), block(name="c", lane="m")))
    out, twin = Writer(), Writer()
    two.lanes[1].write(out)
    lane(floor=4).write(twin)
    with pytest.raises(SpecError, match="each name once"):
        Plan.from_bytes(bytes(two).replace(bytes(out), bytes(twin)))


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9._/-]{0,20}", fullmatch=True), min_size=2, max_size=5, unique=True))
def test_lanes_of_different_names_have_different_figures(names):
    lanes = [lane(name=name) for name in names]
    assert len({figure for one in lanes for figure in (one.weight_figure, one.contributors_figure)}) == 2 * len(names)


@pytest.mark.parametrize("figure", ["weight", "contributors"])
def test_a_methods_slot_cannot_pass_for_a_lanes(figure):
    step = Step(task="t", index=0, sums=(Sum("b", Apply.ADD),), slots=(Slot(f"l.{figure}", 4, Basis.STATE),))
    with pytest.raises(SpecError, match="each name once"):
        plan(steps=(step,))
