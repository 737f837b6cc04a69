"""From floats to words and back to blocks: egress refusals one by one, the right mean, the same bytes everywhere."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import ring
from crypto.blocks import Contribution, apply, encode, initial_state, state_digest
from crypto.errors import EgressDenied, LayoutMismatch, NonFinite, OutOfRange, SpecError
from crypto.plan import MAX_CLIP, MAX_RATE, MIN_CLIP, Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from tests.federation import contribution, small_plan

PLAN = small_plan()
RUN, OTHER = b"r" * 32, b"o" * 32
STEP = PLAN.steps[0]
WEIGHTS = {"trunk": 8, "quiet": 1, "open": 0}
HONEST = contribution(PLAN, STEP, "silo-1")


def changed(sums=None, slots=None, drop=()):
    return Contribution(
        {name: value for name, value in {**HONEST.sums, **(sums or {})}.items() if name not in drop},
        {name: value for name, value in {**HONEST.slots, **(slots or {})}.items() if name not in drop},
    )


def summed(plan, step, parts):
    """(opened sums, lane → sum of its weights) of several (contribution, weights), as the protocol would give them."""
    encoded = [encode(plan, step, given, weights) for given, weights in parts]
    sums = {
        lane.name: np.sum([e.lanes[lane.name] for e in encoded], axis=0, dtype=np.uint32)
        for lane in plan.lanes_of(step)
    }
    return sums, {lane.name: sum(e.weights[lane.name] for e in encoded) for lane in plan.lanes_of(step)}


def test_encode_fills_lanes_and_slots_in_plan_order():
    encoded = encode(PLAN, STEP, HONEST, WEIGHTS)
    assert {name: (words.dtype, words.size) for name, words in encoded.lanes.items()} == {
        "trunk": (np.uint32, 35),
        "quiet": (np.uint32, 7),
        "open": (np.uint32, 6),
    }
    assert encoded.slots.tolist() == [HONEST.slots["rows"], HONEST.slots["correct"]]
    assert encoded.weights == WEIGHTS and encode(PLAN, STEP, HONEST, {"trunk": 4}).weights["quiet"] == 0
    want = np.zeros(5, dtype=np.uint32)
    ring.encode(HONEST.sums["trunk.b"], want, clip=0.5, share=0.5, n_max=5)
    assert (encoded.lanes["trunk"][30:] == want).all()


def test_a_lane_without_weight_is_all_zeros_whatever_was_given():
    encoded = encode(PLAN, STEP, changed({"open.w": np.full((2, 3), 9.0)}), WEIGHTS)
    assert not encoded.lanes["open"].any()
    assert not encode(PLAN, STEP, changed({"open.w": np.full((2, 3), np.nan)}), {}).lanes["open"].any()


@pytest.mark.parametrize(
    ("given", "weights", "error", "field"),
    [
        (changed({"raw": np.zeros(1)}), WEIGHTS, EgressDenied, "raw"),
        (changed(slots={"age": 3}), WEIGHTS, EgressDenied, "age"),
        (changed(slots={"trunk.weight": 3}), WEIGHTS, EgressDenied, "trunk.weight"),
        (changed(slots={"trunk.contributors": 3}), WEIGHTS, EgressDenied, "trunk.contributors"),
        (HONEST, {**WEIGHTS, "other": 1}, EgressDenied, "other"),
        (HONEST, {**WEIGHTS, "trunk": 5}, OutOfRange, None),
        (HONEST, {**WEIGHTS, "trunk": -4}, OutOfRange, None),
        (HONEST, {**WEIGHTS, "trunk": 32}, OutOfRange, None),
        (changed(drop=["trunk.b"]), WEIGHTS, LayoutMismatch, None),
        (changed(drop=["rows"]), WEIGHTS, LayoutMismatch, None),
        (changed({"trunk.b": np.zeros(6)}), WEIGHTS, LayoutMismatch, None),
        (changed({"trunk.w": np.zeros((5, 6))}), WEIGHTS, LayoutMismatch, None),
        (changed({"trunk.b": np.array([0, 0, np.nan, 0, 0])}), WEIGHTS, NonFinite, None),
        (changed({"trunk.b": np.array([0, 0, np.inf, 0, 0])}), WEIGHTS, NonFinite, None),
        (changed(slots={"rows": 10_001}), WEIGHTS, OutOfRange, None),
        (changed(slots={"rows": -1}), WEIGHTS, OutOfRange, None),
        (changed(slots={"rows": 1.5}), WEIGHTS, NonFinite, None),
        (changed(slots={"rows": float("nan")}), WEIGHTS, NonFinite, None),
        (changed(slots={"rows": None}), WEIGHTS, NonFinite, None),
    ],
)
def test_what_the_plan_does_not_list_does_not_leave(given, weights, error, field):
    with pytest.raises(error) as refused:
        encode(PLAN, STEP, given, weights)
    if field:
        assert refused.value.field == field


def test_a_refusal_names_a_slot_but_not_its_value():
    with pytest.raises(OutOfRange) as refused:
        encode(PLAN, STEP, changed(slots={"rows": 123_456}), WEIGHTS)
    assert "123456" not in str(refused.value)


def test_bounds_themselves_are_allowed():
    assert encode(PLAN, STEP, changed(slots={"rows": 10_000, "correct": 0}), WEIGHTS).slots[-2:].tolist() == [10_000, 0]
    assert encode(PLAN, STEP, changed(slots={"rows": np.int64(7)}), WEIGHTS).slots[-2] == 7


@given(st.lists(st.tuples(st.sampled_from([0, 4, 8, 16]), st.integers(0, 2**32)), min_size=1, max_size=5))
def test_the_mean_is_right(rows):
    """Against float64 with fractions of weights; the error is within half a step a silo."""
    parts, inputs = [], []
    for weight, seed in rows:
        rng = np.random.default_rng(seed)
        given = changed({"trunk.w": rng.normal(size=(6, 5)), "trunk.b": rng.normal(size=5)})
        parts.append((given, {"trunk": weight}))
        inputs.append((np.clip(given.sums["trunk.w"], -2, 2), weight))
    sums, weights = summed(PLAN, STEP, parts)
    state = initial_state(PLAN, RUN)
    total = sum(weight for _, weight in inputs)
    assert weights == {"trunk": total, "quiet": 0, "open": 0}
    if total == 0:
        assert not sums["trunk"].any()  # and no such lane opens: it has no contributors
        return
    new = apply(PLAN, STEP, state, {"trunk": sums["trunk"]}, weights)
    mean = sum(x * weight for x, weight in inputs) / total
    bound = len(rows) * 0.5 * 2.0 / ring.limit(5) * 16 / total + 2.0**-22
    assert np.abs(new["trunk.w"] - state["trunk.w"].astype(np.float64) - mean).max() <= bound


@pytest.mark.parametrize(
    ("kind", "want"), [(Apply.PUBLISH, 3.0), (Apply.AVERAGE, 1 + 0.5 * 3.0), (Apply.ADD, 1 + 0.5 * 18.0)]
)
def test_the_three_ways_to_apply(kind, want):
    """Σ w x = 2 · 4 + 4 · 2.5 = 18 and Σ w = 6, on a block that starts at 1, with rate 0.5."""
    plan = Plan(
        method="m",
        seed=0,
        n_max=4,
        lanes=(Lane(name="l", scope=Scope.ALL, floor=1, grid=(2, 4)),),
        blocks=(Block(name="b", shape=(1,), lane="l", clip=8.0),),
        steps=(Step(task="t", index=0, sums=(Sum("b", kind, 0.5),)),),
    )
    parts = [(Contribution({"b": np.array([4.0])}, {}), {"l": 2}), (Contribution({"b": np.array([2.5])}, {}), {"l": 4})]
    sums, weights = summed(plan, plan.steps[0], parts)
    new = apply(plan, plan.steps[0], {"b": np.ones(1, dtype=np.float32)}, sums, weights)
    assert new["b"][0] == pytest.approx(want, abs=1e-6)


def test_a_shut_lane_keeps_its_blocks_and_the_state_is_not_changed():
    sums, weights = summed(PLAN, STEP, [(HONEST, {"trunk": 4, "quiet": 1, "open": 1})] * 3)
    state = initial_state(PLAN, RUN)
    before = state_digest(state)
    del sums["quiet"]
    new = apply(PLAN, STEP, state, sums, weights)
    assert new["quiet.w"] is state["quiet.w"] and (new["trunk.w"] != state["trunk.w"]).any()
    assert state_digest(state) == before != state_digest(new)


@pytest.mark.parametrize(
    "vector", [np.zeros(34, np.uint32), np.zeros(35, np.int32), np.zeros(35, np.uint64), np.zeros((35, 1), np.uint32)]
)
def test_an_opened_sum_of_another_layout_is_refused(vector):
    with pytest.raises(LayoutMismatch):
        apply(PLAN, STEP, initial_state(PLAN, RUN), {"trunk": vector}, {"trunk": 4})


def test_the_sum_of_a_foreign_lane_is_refused():
    with pytest.raises(LayoutMismatch):
        apply(PLAN, STEP, initial_state(PLAN, RUN), {"other": np.zeros(3, np.uint32)}, {})


def test_the_initial_state_is_a_function_of_plan_and_run():
    state = initial_state(PLAN, RUN)
    assert set(state) == {"trunk.w", "trunk.b", "quiet.w", "open.w"}
    assert not state["trunk.b"].any() and state["trunk.w"].any() and np.abs(state["trunk.w"]).max() <= 0.1
    assert all(array.dtype == np.float32 and not array.flags.writeable for array in state.values())
    assert state_digest(state) == state_digest(initial_state(PLAN, RUN))
    assert state_digest(state) != state_digest(initial_state(replace(PLAN, seed=8), RUN))
    other = initial_state(PLAN, OTHER)
    for block in PLAN.blocks:
        assert np.array_equal(state[block.name], other[block.name]) == (not block.init), block.name
    # Frozen: any machine, any numpy.
    assert state_digest(state).hex() == "e762db7cbcb81830d59321a173c630c6409ed6bccf7ac9c7f60b5c0114fe16eb"


def test_a_local_block_has_no_state_to_publish():
    lanes = (Lane(name="l", scope=Scope.LOCAL, floor=1),)
    plan = Plan(
        method="m",
        seed=0,
        n_max=3,
        lanes=lanes,
        blocks=(Block(name="b", shape=(1,), lane="l", clip=1.0),),
        steps=(Step(task="t", index=0, slots=(Slot("s", 1, Basis.STATE),)),),
    )
    assert initial_state(plan, RUN) == {}


def test_the_digest_depends_on_name_shape_and_every_bit():
    base = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"].reshape(6), "b": base["b"]},
        {"a": base["a"]},
        {"a": base["a"], "b": -base["b"]},
        {"a": np.nextafter(base["a"], np.float32(9)), "b": base["b"]},
        {"a": base["a"].T.copy().T[::-1], "b": base["b"]},
    ]
    digests = {state_digest(state) for state in [base, *others]}
    assert len(digests) == 1 + len(others)
    assert state_digest(dict(reversed(base.items()))) == state_digest(base)
    assert state_digest({"a": np.asfortranarray(base["a"]), "b": base["b"]}) == state_digest(base)
    assert state_digest({"a": base["a"].astype(">f4"), "b": base["b"]}) == state_digest(base)


@pytest.mark.parametrize("clip", [1e300, 2e9, 5e-324])
def test_a_clip_that_no_state_could_hold_is_refused_with_the_plan(clip):
    with pytest.raises(SpecError):
        Block(name="b", shape=(1,), lane="l", clip=clip)


@pytest.mark.parametrize("kind", list(Apply))
@pytest.mark.parametrize("clip", [MIN_CLIP, MAX_CLIP])
@pytest.mark.parametrize("weight", [1, 2**32 - 1])
@pytest.mark.parametrize("n_max", [4, (2**31 - 1) // 2**8])
def test_a_state_stays_finite(kind, clip, weight, n_max):
    """The largest clip, rate, weight and number of silos that a plan may have, all at their bound."""
    plan = Plan(
        method="m",
        seed=0,
        n_max=n_max,
        lanes=(Lane(name="l", scope=Scope.ALL, floor=1, grid=(weight,)),),
        blocks=(Block(name="b", shape=(2,), lane="l", clip=clip),),
        steps=(Step(task="t", index=0, sums=(Sum("b", kind, MAX_RATE),)),),
    )
    words = np.zeros(2, np.uint32)
    ring.encode(np.array([1e300, -1e300]), words, clip=clip, share=1.0, n_max=n_max)
    total = (words.view(np.int32) * np.int64(n_max)).astype(np.int32).view(np.uint32)
    new = apply(plan, plan.steps[0], {"b": np.zeros(2, np.float32)}, {"l": total}, {"l": n_max * weight})
    rate = 1.0 if kind is Apply.PUBLISH else MAX_RATE
    want = clip * rate * (n_max * weight if kind is Apply.ADD else 1)
    assert np.isfinite(new["b"]).all() and new["b"].tolist() == pytest.approx([want, -want], rel=1e-6)
