"""MetaMoE: groups make experts, a router comes of sums of proxies, and nobody learns which proxies a silo chose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import DataRefused, EgressDenied, NonFinite, SpecError
from crypto.plan import Plan, Scope, Step
from silo_agent import experts, proxies
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Published
from silo_agent.methods.metamoe import MetaMoE
from silo_agent.methods.plans import ever_opened
from silo_agent.proxies import Choice
from tests import digits, plain

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=8)
DIGITS: dict[str, object] = {
    **digits.GROUPS, "features": 64, "classes": 10, "rounds": 6, "proxies": 10, "background": 20, "seed": 5,
}  # fmt: skip
SMALL = DIGITS | {"rounds": 2, "local_steps": 2, "hidden": 4, "projection": 4, "candidates": 30}


def silos() -> dict[str, DataSet]:
    return digits.silos(digits.domains())


federate = partial(plain.run, limits=LIMITS)


def away(**tasks: Collection[str]) -> Callable[[Step], Collection[str]]:
    """Who misses all steps of a task."""
    return lambda step: tasks.get(step.task, ())


def start(params: Mapping[str, object], cohort: Collection[str]) -> tuple[Plan, dict[str, MetaMoE]]:
    return MetaMoE.plan(params, LIMITS), {silo: MetaMoE(params, silo) for silo in cohort}


@cache
def learned() -> tuple[Plan, Published, dict[str, MetaMoE]]:
    plan, members = start(DIGITS, silos())
    return plan, federate(plan, members, silos()), members


def union() -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate([getattr(data, part) for data in silos().values()]) for part in ("x_test", "y_test"))  # type: ignore[return-value]


# --- parameters and plan ---------------------------------------------------------------------------------------------

NONE = "none of this"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"group-0": "silo-1"}, "params.group-0"),
        ({"group-0": "silo-1 silo-2"}, "params.group-0"),
        ({"group-0": "silo-1 silo-2 silo-2"}, "params.group-0"),
        ({"group-0": "silo-1  silo-2 silo-3"}, "params.group-0"),
        ({"group-0": "Silo! silo-2 silo-3"}, "params.group-0"),
        ({"group-0": 3}, "params.group-0"),
        ({"group-1": "silo-4 silo-5 silo-6"}, "params.group-1"),
        ({"group-1": NONE}, "params.group-1"),
        ({"group-3": "silo-7 silo-8 silo-9"}, "params.group-2"),
        ({"group-x": "silo-7 silo-8 silo-9"}, "params.group-x"),
        ({"group-2": "silo-9 silo-10 silo-11"}, "params.groups"),
        ({"group-1": "silo-5 silo-6 silo-7 silo-8 silo-9"}, "params.groups"),
        ({f"group-{g}": f"silo-{g + 9}" for g in range(2, 17)}, "params.groups"),
        ({"pool": NONE}, "params.pool"),
        ({"pool": ""}, "params.pool"),
        ({"pool": 3}, "params.pool"),
        ({"pool_sha256": NONE}, "params.pool_sha256"),
        ({"pool_sha256": "5d3c"}, "params.pool_sha256"),
        ({"pool_sha256": "G" * 64}, "params.pool_sha256"),
        ({"variant": "theirs"}, "params.variant"),
        ({"candidates": 19}, "params.candidates"),
        ({"proxies": 1}, "params.proxies"),
        ({"held_out": 0}, "params.held_out"),
        ({"projection": 65}, "params.projection"),
        ({"experts": 2}, "params.experts"),
    ],
)
def test_what_leaves_no_plan_is_refused_by_name(change: dict[str, object], path: str) -> None:
    params = {key: value for key, value in (DIGITS | change).items() if value != NONE}
    with pytest.raises(SpecError) as refused:
        MetaMoE.plan(params, LIMITS)
    assert refused.value.path == path


def test_an_expert_of_one_silo_cannot_be_said() -> None:
    with pytest.raises(SpecError, match=r"from 3 to 8.*no plan has one"):
        MetaMoE.plan(DIGITS | {"group-0": "silo-1"}, LIMITS)
    with pytest.raises(SpecError, match="no plan has one"):
        MetaMoE.plan(DIGITS | {"group-0": "silo-1 silo-2 silo-3"}, Limits(n_max=8, lane_floor=4))
    with pytest.raises(SpecError, match="no plan has one"):
        MetaMoE.plan(DIGITS | {"group-0": "silo-1 silo-2 silo-3"}, Limits(n_max=8, colluders=2, lane_floor=3))
    MetaMoE.plan(DIGITS | {"group-0": "silo-1 silo-2 silo-3"}, LIMITS)


def test_more_experts_than_the_floors_allow_are_refused() -> None:
    three = DIGITS | {"group-0": "a b c", "group-1": "d e f", "group-2": "g h i"}
    with pytest.raises(SpecError, match="at most 2: 8 silos in groups of 3 or more"):
        MetaMoE.plan(three, LIMITS)
    MetaMoE.plan(three, Limits(n_max=9))


@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_the_plan_lists_groups_slots_and_what_never_leaves(variant: str) -> None:
    plan = MetaMoE.plan(DIGITS | {"rounds": 2, "variant": variant}, LIMITS)
    assert [step.name for step in plan.steps] == ["rows/0", "train/0", "train/1", "route/0", "choose/0", "eval/0"]
    groups = {lane.name: lane.members for lane in plan.lanes if lane.scope is Scope.GROUP}
    assert groups == {f"expert-{g}": tuple(f"silo-{i + 4 * g}" for i in range(1, 5)) for g in (0, 1)}
    assert [block.name for block in plan.blocks if plan.lane_of(block.name).scope is Scope.LOCAL] == ["proxies"]
    route = next(step for step in plan.steps if step.task == "route")
    assert {part.block for part in route.sums} == {"expert-0.centre", "expert-1.centre"} | (
        {"moments"} if variant == "ours" else set()
    )
    assert any(lane.scope is Scope.ALL for lane in plan.lanes_of(route)) == (variant == "ours")
    sizes = {block.name: block.size for block in plan.blocks}
    assert all(sizes[f"expert-{g}.centre"] == 64 + (2 if variant == "ours" else 0) for g in (0, 1))
    assert not any("prox" in slot.name for step in plan.steps for slot in step.slots)


def test_groups_weigh_alike_in_the_router() -> None:
    params = DIGITS | {"group-0": "silo-1 silo-2 silo-3 silo-4 silo-5", "group-1": "silo-6 silo-7 silo-8"}
    plan, data = MetaMoE.plan(params, LIMITS), silos()["silo-1"]
    route = next(step for step in plan.steps if step.task == "route")
    seen = Published(blocks.initial_state(plan, plain.RUN))
    assert MetaMoE(params, "silo-1").weights(route, seen, data) == {"everyone": 2, "expert-0": 2, "expert-1": 0}
    assert MetaMoE(params, "silo-8").weights(route, seen, data) == {"everyone": 4, "expert-0": 0, "expert-1": 4}
    assert MetaMoE(params, "stranger").weights(route, seen, data) == {"everyone": 0, "expert-0": 0, "expert-1": 0}
    large = DIGITS | {"group-0": " ".join(f"a{i}" for i in range(40)), "group-1": "b c d"}
    assert MetaMoE(large, "a1").weights(route, seen, data)["everyone"] == 1, "no weight below the grid"


# --- what it learns --------------------------------------------------------------------------------------------------


def test_experts_of_groups_answer_for_all_classes_together() -> None:
    _, published, members = learned()
    end = published.slots["eval/0"]
    rows = end["test.rows"]
    assert rows == sum(len(data.y_test) for data in silos().values())
    assert end["personal.correct"] / rows > 0.9
    assert end["global.correct"] / rows > 0.8 and end["router.correct"] / rows > 0.8
    x, y = union()
    answers = [member.predict(published, x, "global") for member in members.values()]
    assert all(answer.tobytes() == answers[0].tobytes() for answer in answers), "the same at every silo"
    assert MetaMoE(DIGITS).predict(published, x, "cold").tobytes() == answers[0].tobytes()
    assert (answers[0].argmax(axis=1) == y).sum() == end["global.correct"]
    np.testing.assert_allclose(answers[0].sum(axis=1), 1.0, atol=1e-6)


def test_every_silo_derives_the_same_router_from_sums() -> None:
    _, published, members = learned()
    found = [member.router(published) for member in (*members.values(), MetaMoE(DIGITS))]
    for router in found:
        assert router is not None and found[0] is not None
        assert router.rows_EF.tobytes() == found[0].rows_EF.tobytes()
        assert router.bias_E.tobytes() == found[0].bias_E.tobytes()


def test_the_router_is_what_a_server_with_all_proxies_would_fit() -> None:
    """From sums of eight silos, to the ring's resolution."""
    _, published, members = learned()
    pool = proxies.shipped("digits-public")
    rows = np.concatenate([member.chosen(silos()[silo]).train for silo, member in members.items()])
    groups = np.repeat([0, 1], 40)
    features = members["silo-1"]._features(published, pool.x_train[rows])
    for g in (0, 1):
        np.testing.assert_allclose(
            published.blocks[f"expert-{g}.centre"], features[groups == g].mean(axis=0), atol=1e-5
        )
    np.testing.assert_allclose(published.blocks["moments"], features.T @ features / len(features), atol=1e-4)


def test_a_row_alone_is_answered_as_in_a_batch() -> None:
    """In the release a batch of one domain gives the domain away."""
    _, published, _ = learned()
    asked, (x, _) = MetaMoE(DIGITS), union()
    every = asked._answers(published, x[:40], routed=True)
    for at in range(0, 40, 7):
        np.testing.assert_allclose(asked._answers(published, x[at : at + 1], routed=True)[0], every[at], atol=1e-6)


def choose(published: Published, router: int, surest: int) -> Published:
    votes = {"held.rows": 80, "router.only": router, "surest.only": surest}
    return Published(published.blocks, {**published.slots, "choose/0": votes})


def test_without_proof_on_held_out_proxies_the_surest_expert_speaks() -> None:
    _, published, _ = learned()
    asked, (x, _) = MetaMoE(DIGITS), union()
    routed, surest = (asked._answers(published, x, routed=one) for one in (True, False))
    assert not np.array_equal(routed, surest)
    for votes, expected in (((40, 4), routed), ((8, 8), surest), ((9, 6), surest), ((4, 40), surest)):
        np.testing.assert_array_equal(asked.predict(choose(published, *votes), x, "global"), expected)
    void = Published(published.blocks, {name: s for name, s in published.slots.items() if name != "choose/0"})
    np.testing.assert_array_equal(asked.predict(void, x, "global"), surest)
    p_EBC = experts.predict(
        [{part: published.blocks[f"expert-{g}.{part}"] for part in experts.PARTS} for g in (0, 1)], x
    )
    np.testing.assert_array_equal(surest.max(axis=1), p_EBC.max(axis=(0, 2)))


def test_votes_are_counted_on_held_out_proxies() -> None:
    plan, published, members = learned()
    step = next(step for step in plan.steps if step.task == "choose")
    pool, counted = proxies.shipped("digits-public"), dict.fromkeys(("held.rows", "router.only", "surest.only"), 0)
    for silo, member in members.items():
        out = member.chosen(silos()[silo]).held_out
        assert len(out) == 10
        right = {
            routed: member._answers(published, pool.x_train[out], routed=routed).argmax(axis=1) == pool.y_train[out]
            for routed in (True, False)
        }
        counted["held.rows"] += len(out)
        counted["router.only"] += int((right[True] & ~right[False]).sum())
        counted["surest.only"] += int((right[False] & ~right[True]).sum())
    assert published.slots[step.name] == counted and counted["held.rows"] == 80
    assert counted["router.only"] + counted["surest.only"] > 0


def test_personal_is_the_groups_expert() -> None:
    _, published, members = learned()
    data = silos()["silo-6"]
    own = {part: published.blocks[f"expert-1.{part}"] for part in experts.PARTS}
    np.testing.assert_array_equal(
        members["silo-6"].predict(published, data.x_test, "personal"), experts.predict([own], data.x_test)[0]
    )
    stranger = MetaMoE(DIGITS)
    np.testing.assert_array_equal(
        stranger.predict(published, data.x_test, "personal"), stranger.predict(published, data.x_test, "global")
    )
    with pytest.raises(SpecError, match="mode"):
        stranger.predict(published, data.x_test, "best")
    with pytest.raises(DataRefused, match="batch"):
        stranger.predict(published, data.x_test[:, :9], "global")
    with pytest.raises(NonFinite):
        stranger.predict(published, np.full((2, 64), np.nan), "global")


def test_experts_learn_from_private_rows_proxies_and_background() -> None:
    plan, _, members = learned()
    seen = Published(blocks.initial_state(plan, plain.RUN), {"rows/0": {"rows": 800, "silos": 8}})
    step, data = next(step for step in plan.steps if step.task == "train"), silos()["silo-2"]
    choice, more = members["silo-2"].chosen(data), members["silo-2"]._background(data)
    assert len(more) == len(set(more.tolist())) == 20
    greedy = MetaMoE(DIGITS | {"background": 10_000}, "silo-2")
    greedy.choice = choice
    assert set(greedy._background(data)) == set(range(599)) - set(choice.held_out), "what is held out is never seen"
    sums = {}
    for name, changed in (("plain", {}), ("none", {"background": 0})):
        member = MetaMoE(DIGITS | changed, "silo-2")
        member.load_state_dict(members["silo-2"].state_dict())
        sums[name] = member.contribute(step, seen, data).sums
        assert set(sums[name]) == {f"expert-0.{part}" for part in experts.PARTS}
    member = MetaMoE(DIGITS | {"background": 0}, "silo-2")
    member.choice = Choice(choice.train[:0], choice.held_out)
    sums["private alone"] = member.contribute(step, seen, data).sums
    assert len({value["expert-0.w1"].tobytes() for value in sums.values()}) == 3


# --- silos that stay away, steps that are void -----------------------------------------------------------------------


def test_an_expert_below_its_floor_never_speaks() -> None:
    plan, members = start(SMALL, silos())
    published = federate(
        plan, members, silos(), absent=lambda step: ("silo-5", "silo-6") if step.task == "train" else ()
    )
    assert ever_opened(published, 0) and not ever_opened(published, 1)
    x, _ = union()
    alone = experts.predict([{part: published.blocks[f"expert-0.{part}"] for part in experts.PARTS}], x)[0]
    np.testing.assert_array_equal(members["silo-5"].predict(published, x, "global"), alone)
    np.testing.assert_array_equal(members["silo-5"].predict(published, x, "personal"), alone)
    assert MetaMoE(SMALL).router(published) is None


@pytest.mark.parametrize("those", [("silo-5", "silo-6"), tuple(f"silo-{i}" for i in range(1, 9))])
def test_without_all_lanes_of_the_router_there_is_none(those: tuple[str, ...]) -> None:
    """A sum over groups of which one is missing would not be the groups' covariance."""
    plan, members = start(SMALL, silos())
    published = federate(plan, members, silos(), absent=away(route=those))
    asked, (x, _) = MetaMoE(SMALL), union()
    assert asked.router(published) is None
    surest = asked._answers(published, x, routed=False)
    np.testing.assert_array_equal(asked.predict(choose(published, 80, 0), x, "global"), surest)


def test_some_silos_less_are_no_matter() -> None:
    plan, members = start(SMALL, silos())
    published = federate(plan, members, silos(), absent=away(train=("silo-1",), route=("silo-5",)))
    assert MetaMoE(SMALL).router(published) is not None
    slots = published.slots["route/0"]
    assert (slots["everyone.weight"], slots["expert-0.weight"], slots["expert-1.weight"]) == (28, 16, 12)
    unopened = {**published.blocks, "moments": np.zeros_like(published.blocks["moments"])}
    assert MetaMoE(SMALL).router(Published(unopened, published.slots)) is None, "its floor may be higher than a group's"


@pytest.mark.parametrize("void", [["rows/0"], ["train/0"], ["route/0"], ["choose/0"], ["train/0", "train/1"]])
def test_a_void_step_stops_nobody(void: list[str]) -> None:
    plan, members = start(SMALL, silos())
    published = federate(plan, members, silos(), void=void)
    p_BC = MetaMoE(SMALL).predict(published, union()[0], "global")
    np.testing.assert_allclose(p_BC.sum(axis=1), 1.0, atol=1e-6)
    if len(void) == 2:
        assert (p_BC == 0.1).all(), "all weights zero: no expert was ever trained, and none is believed"


def test_a_silo_of_no_group_takes_part_and_adds_nothing() -> None:
    nine = {**silos(), "silo-9": replace(silos()["silo-1"], name="silo-9")}
    plan = MetaMoE.plan(SMALL, Limits(n_max=9))
    members = {silo: MetaMoE(SMALL, silo) for silo in nine}
    published = federate(plan, members, nine)
    assert members["silo-9"].choice is None and members["silo-9"].state_dict() == {}
    assert published.slots["choose/0"]["held.rows"] == 80 and published.slots["route/0"]["silos"] == 9
    assert published.slots["train/0"]["expert-0.contributors"] == 4


# --- the public pool -------------------------------------------------------------------------------------------------


def test_a_pool_that_is_not_the_jobs_is_refused_in_the_first_step() -> None:
    plan = MetaMoE.plan(SMALL, LIMITS)
    seen, data = Published(blocks.initial_state(plan, plain.RUN)), silos()["silo-1"]
    for change, said in (
        ({"pool_sha256": "0" * 64}, "has SHA-256"),
        ({"proxies": 590, "candidates": 1000}, "599 rows that differ; the job chooses 600"),
        ({"pool": "elsewhere"}, "neither registered at this silo nor shipped"),
    ):
        with pytest.raises(DataRefused, match=said):
            MetaMoE(SMALL | change, "silo-1").contribute(plan.steps[0], seen, data)
    narrow = replace(data, x_train=data.x_train[:, :9])
    with pytest.raises(DataRefused, match="9 features"):
        MetaMoE(SMALL, "silo-1").contribute(plan.steps[0], seen, narrow)


def test_a_registered_pool_is_checked_when_it_is_provided() -> None:
    found = proxies.shipped("digits-public")
    mine = MetaMoE(SMALL | {"pool": "hospital-pool"}, "silo-1")
    assert mine.pool == "hospital-pool" and MetaMoE(SMALL).pool == ""
    mine.provide(found)
    assert mine.public() is found
    with pytest.raises(DataRefused, match="SHA-256"):
        mine.provide(replace(found, y_train=found.y_train[::-1].copy()))
    with pytest.raises(DataRefused, match="63 features"):
        mine.provide(replace(found, x_train=found.x_train[:, :63]))


# --- deterministic, and a restart ------------------------------------------------------------------------------------


def test_steps_tried_again_and_after_a_restart_come_out_the_same() -> None:
    plan, published, members = learned()
    data = silos()["silo-2"]
    fresh, back = MetaMoE(DIGITS, "silo-2"), MetaMoE(DIGITS, "silo-2")
    back.load_state_dict({name: array.copy() for name, array in members["silo-2"].state_dict().items()})
    for step in plan.steps:
        made = [member.contribute(step, published, data) for member in (fresh, fresh, back)]
        assert made[0].slots == made[1].slots == made[2].slots
        assert all(
            made[0].sums[block].tobytes() == other.sums[block].tobytes() for block in made[0].sums for other in made[1:]
        )
    assert back.state_dict()["train"].tolist() == fresh.state_dict()["train"].tolist()
    back.load_state_dict({})
    assert back.choice is not None


def test_a_silo_far_from_all_others_disturbs_nobody() -> None:
    noise = np.random.default_rng(5).normal(size=silos()["silo-8"].x_train.shape).astype(np.float32)
    plan, members = start(DIGITS | {"rounds": 4}, silos())
    published = federate(plan, members, {**silos(), "silo-8": replace(silos()["silo-8"], x_train=noise)})
    assert all(np.isfinite(block).all() for block in published.blocks.values())
    end = published.slots["eval/0"]
    assert end["global.correct"] / end["test.rows"] > 0.6


# --- the paper's variant ---------------------------------------------------------------------------------------------


def test_the_papers_variant_keeps_the_three_defects() -> None:
    params = SMALL | {"variant": "paper", "projection": 64}
    plan, members = start(params, silos())
    published = federate(plan, members, silos())
    asked, (x, _) = MetaMoE(params), union()
    router = asked.router(published)
    assert router is not None and not router.bias_E.any()
    pool = proxies.shipped("digits-public").x_train
    rows = [  # routing vectors are means of private rows and proxies, and nothing moves them
        np.concatenate([silos()[silo].x_train, pool[members[silo].chosen(silos()[silo]).train]]).mean(axis=0)
        for silo in ("silo-1", "silo-2", "silo-3", "silo-4")
    ]
    np.testing.assert_allclose(router.rows_EF[0], asked._projection().T @ np.mean(rows, axis=0) / 8, atol=1e-4)
    together = asked.predict(published, x, "global")
    alone = np.concatenate([asked.predict(published, x[at : at + 1], "global") for at in range(60)])
    assert not np.array_equal(together[:60].argmax(axis=1), alone.argmax(axis=1)), "a row's answer hangs on its batch"
    assert asked.routed(choose(published, 0, 80)), "nothing to fall back on"
    assert not len(members["silo-1"]._background(silos()["silo-1"]))
    flat = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    chosen = MetaMoE(params, "silo-1").choose(np.linspace(0.1, 0.9, 50), flat)
    assert len(chosen) == 20 > len(set(chosen.tolist()))


# --- what never leaves -----------------------------------------------------------------------------------------------


def test_the_encoder_refuses_the_proxies() -> None:
    plan, published, members = learned()
    step, data = plan.steps[1], silos()["silo-1"]
    mine = members["silo-1"]
    sent = mine.contribute(step, published, data)
    more = blocks.Contribution({**sent.sums, "proxies": np.zeros(20)}, sent.slots)
    with pytest.raises(EgressDenied):
        blocks.encode(plan, step, more, mine.weights(step, published, data))
    assert "proxies" not in blocks.initial_state(plan, plain.RUN)
