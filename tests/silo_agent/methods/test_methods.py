"""Methods: plans that every silo recomputes alike, and a federation of plain sums that learns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import DataRefused, NonFinite, SpecError
from crypto.plan import Basis, Plan, Scope, Step
from silo_agent import experts
from silo_agent.data import DataSet, check
from silo_agent.methods import METHODS, Limits, Method, Published, contextual, display_name, method, weight
from silo_agent.training import Descent, batches, cross_entropy, generator, mixture, train
from tests import digits, plain, texts

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=8)
DIGITS = {"features": 64, "classes": 10, "seed": 7}
#: Two experts, the first with visible holdings. silo-8 holds both, silo-1 none.
LANES = {"experts": 2, "visible": 1, "holders-0": "silo-2 silo-3 silo-4 silo-8", "holders-1": "silo-8 silo-7 silo-6"}

#: Of methods that need more than a few numbers.
PARAMS: Mapping[str, Mapping[str, object]] = {
    "fedavg-lanes": DIGITS | LANES,
    "flex": texts.shape() | {"rounds": 8, "seed": 7},
    "metamoe": DIGITS | digits.GROUPS | {"proxies": 30, "rounds": 12},
}


def params(name: str) -> dict[str, object]:
    """What a plan of this method needs."""
    return dict(PARAMS.get(name, DIGITS))


def silos() -> dict[str, DataSet]:
    return digits.silos(digits.turned())


def federate(
    name: str, params: Mapping[str, object], cohort: Mapping[str, DataSet], void: Collection[str] = (), **how: Any
) -> tuple[Plan, Published, dict[str, Method]]:
    return plain.federate(method(name), params, cohort, LIMITS, void, **how)


class Holders:
    """Step → lane → how many have a weight in it, whether it opens or not. To be given as ``watch``."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, int]] = {}

    def __call__(
        self, step: Step, seen: Published, here: Mapping[str, Method], weights: Mapping[str, Mapping[str, int]]
    ) -> None:
        held = Counter(lane for lanes in weights.values() for lane, weight in lanes.items() if weight)
        self.of[step.name] = held


@cache
def trained() -> tuple[Plan, Published, dict[str, Method]]:
    return federate("fedcoe", DIGITS, silos())


# --- registry, parameters, plans -------------------------------------------------------------------------------------


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(SpecError, match="fedavg, fedavg-lanes, fedcoe"):
        method("fedprox")


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"hiden": 4}, "params.hiden"),
        ({"features": None}, "params.features"),
        ({"rounds": "12"}, "params.rounds"),
        ({"rounds": 12.0}, "params.rounds"),
        ({"rounds": True}, "params.rounds"),
        ({"rounds": 0}, "params.rounds"),
        ({"learning_rate": float("nan")}, "params.learning_rate"),
        ({"momentum": 1}, "params.momentum"),
        ({"seed": -1}, "params.seed"),
    ],
)
def test_parameters_are_strict(name: str, change: dict[str, object], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        method(name).plan(params(name) | change, LIMITS)
    assert refused.value.path == path


def test_each_method_has_its_own_name_for_people() -> None:
    kinds = {name: method(name) for name in METHODS}
    assert {name: kind.name for name, kind in kinds.items()} == {name: name for name in METHODS}
    shown = {name: display_name(name) for name in METHODS}
    assert shown == {name: kind.display_name for name, kind in kinds.items()}
    assert len(set(shown.values())) == len(METHODS) and not set(shown.values()) & METHODS.keys()
    assert display_name("of-an-older-release") == "of-an-older-release"
    assert [name for name in METHODS if contextual(name)] == ["fedcoe"] and not contextual("of-an-older-release")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_features_and_classes_have_no_default(name: str) -> None:
    with pytest.raises(SpecError, match="features"):
        method(name).plan({}, LIMITS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_plans_are_functions_of_parameters_and_limits(name: str) -> None:
    given = params(name)
    plan = method(name).plan(given, LIMITS)
    assert plan == Plan.from_bytes(bytes(plan))
    assert plan.digest == method(name).plan(dict(reversed(given.items())), LIMITS).digest
    assert plan.digest != method(name).plan(given | {"seed": 8}, LIMITS).digest
    assert plan.digest != method(name).plan(given, Limits(n_max=9)).digest
    assert all(lane.floor == LIMITS.lane_floor for lane in plan.lanes)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_each_slot_says_what_its_values_depend_on(name: str) -> None:
    """What is the same in each step must never be called new: a drop-out would show that silo's figure."""
    plan = method(name).plan(params(name), LIMITS)
    basis = {slot.name: slot.basis for step in plan.steps for slot in step.slots}
    assert {basis[figure] for figure in ("rows", "test.rows", "test.tokens") if figure in basis} == {Basis.DATA}
    if name.startswith("fedcoe"):  # rows times gate: they add up to the rows
        assert {of for figure, of in basis.items() if figure.startswith("load-")} == {Basis.DATA}
    with_metrics = {figure.removesuffix(".brier.q16") for figure in basis if figure.endswith(".brier.q16")}
    assert bool(with_metrics) is (name in ("fedavg", "fedcoe"))
    scored = {figure: of for figure, of in basis.items() if figure.startswith(("global.", "generalist.", "personal."))}
    # Counts of a class add up to its rows, and what follows from them may not open apart from them: so do the correct
    # answers of a model that names one class.
    right = {of for figure, of in basis.items() if figure.endswith(".correct")}
    assert right == ({Basis.STATE} if name == "fedavg-lanes" else {Basis.DATA})
    if with_metrics:
        assert set(scored.values()) == {Basis.DATA}
    assert {of for figure, of in scored.items() if figure == "personal.loss"} <= {Basis.STEP}
    assert {of for figure, of in scored.items() if figure == "global.loss"} <= {Basis.STATE}


@pytest.mark.parametrize("name", ["fedavg", "fedcoe"])
def test_metrics_open_at_the_end_and_every_so_many_rounds(name: str) -> None:
    """Whatever opens a score opens the test rows with it: then all scores have the same sets of silos."""

    def with_metrics(**more: int) -> set[str]:
        plan = method(name).plan(params(name) | {"rounds": 5} | more, LIMITS)
        for step in plan.steps:
            slots = {slot.name for slot in step.slots}
            assert ("global.correct" in slots) is ("test.rows" in slots)
        return {step.name for step in plan.steps if any(slot.name == "global.brier.q16" for slot in step.slots)}

    assert with_metrics() == {"eval/0"}
    assert with_metrics(metrics_every=2) == {"eval/0", "train/0", "train/2", "train/4"}


@pytest.mark.parametrize(("count", "before_training"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4)])
def test_fedcoe_has_few_steps_and_lanes_for_each_expert(count: int, before_training: int) -> None:
    plan = method("fedcoe").plan(DIGITS | {"experts": count, "rounds": 4}, LIMITS)
    assert [step.task for step in plan.steps] == ["cluster"] * before_training + ["train"] * 4 + ["eval"]
    held = {lane.name: lane for lane in plan.lanes if lane.scope is Scope.HELD}
    assert sum(name.startswith("expert-") for name in held) == count
    assert all(lane.hidden for lane in held.values())
    of_data = {block.lane: block.quantity for block in plan.blocks if block.quantity}
    clusters = [name for name in held if name.startswith("cluster-")]
    assert of_data == dict.fromkeys(["everyone", *clusters], "signature"), "sums of the silos' data alone"
    assert not plan.steps[-1].sums, "scores are slots"


@pytest.mark.parametrize(("mass", "expected"), [(0.1, 1), (50, 1), (100, 2), (150, 3), (10_000, 4)])
def test_the_weight_rule_is_a_coarse_grid(mass: float, expected: int) -> None:
    assert weight(mass, mean=100) == expected


# --- training --------------------------------------------------------------------------------------------------------


def test_draws_are_separate() -> None:
    one = generator("batches", 7, "silo-1", 0).integers(2**62)
    others = [
        ("split", 7, "silo-1", 0),
        ("batches", 8, "silo-1", 0),
        ("batches", 7, "silo-2", 0),
        ("batches", 7, "silo-1", 1),
    ]
    assert len({one} | {generator(*key).integers(2**62) for key in others}) == 5
    assert one == generator("batches", 7, "silo-1", 0).integers(2**62)


@pytest.mark.parametrize(("rows", "size"), [(100, 16), (16, 16), (5, 16), (33, 16)])
def test_batches_repeat_no_row_within_an_epoch(rows: int, size: int) -> None:
    order = batches(rows, 7, size, np.random.default_rng(0))
    per_epoch = max(rows // size, 1)
    assert order.shape == (7, min(rows, size))
    assert len(np.unique(order[:per_epoch])) == order[:per_epoch].size


def test_training_leaves_what_it_was_given_alone_and_stacks_change_nothing() -> None:
    rng = np.random.default_rng(1)
    shapes = experts.shapes(5, 4, 3)
    models = [{part: rng.normal(size=shape).astype(np.float32) for part, shape in shapes.items()} for _ in range(2)]
    before = [{part: array.copy() for part, array in model.items()} for model in models]
    x, y = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(3, size=30)
    order, descent = batches(30, 8, 10, rng), Descent(learning_rate=0.1, momentum=0.9)
    together = train(models, x, y, order, descent, cross_entropy)
    alone = [train([model], x, y, order, descent, cross_entropy)[0] for model in models]
    own_rows = train(models, x, y, np.stack([order, order], axis=1), descent, cross_entropy)
    for e in range(2):
        for part in experts.PARTS:
            np.testing.assert_array_equal(models[e][part], before[e][part])
            np.testing.assert_allclose(together[e][part], alone[e][part], atol=1e-5)
            np.testing.assert_allclose(together[e][part], own_rows[e][part], atol=1e-5)
    gated = train(models, x, y, order, descent, mixture(np.array([1.0, 0.0])))
    np.testing.assert_allclose(gated[0]["w1"], alone[0]["w1"], atol=1e-5)
    np.testing.assert_allclose(gated[1]["w1"], models[1]["w1"], atol=1e-5)


# --- federations -----------------------------------------------------------------------------------------------------


def test_fedavg_learns_and_every_mode_is_the_model() -> None:
    params = DIGITS | {"rounds": 6}
    _, published, members = federate("fedavg", params, silos())
    curve = [published.slots[f"train/{k}"]["global.correct"] for k in range(6)]
    end = published.slots["eval/0"]
    assert end["test.rows"] == sum(len(data.y_test) for data in silos().values())
    assert end["global.correct"] / end["test.rows"] > 0.7 > 0.3 > curve[0] / end["test.rows"]
    x = silos()["silo-1"].x_test
    one, *others = (members["silo-1"].predict(published, x, mode) for mode in ("global", "personal", "cold"))
    assert all(np.array_equal(one, other) for other in others)
    np.testing.assert_allclose(one.sum(axis=1), 1.0, atol=1e-6)


def test_fedcoe_finds_the_styles_and_beats_fedavg() -> None:
    _, published, _ = trained()
    for e in range(2):
        assert published.slots["train/0"][f"expert-{e}.contributors"] == 4
    end, baseline = published.slots["eval/0"], federate("fedavg", DIGITS, silos())[1].slots["eval/0"]
    rows = end["test.rows"]  # not the training rows: these opened over another cohort, and their difference is a silo's
    assert sum(end[f"load-{e}"] for e in range(2)) == pytest.approx(rows, abs=16)
    assert end["global.correct"] / rows > baseline["global.correct"] / rows + 0.03
    assert end["personal.correct"] / rows > 0.9


def test_fedcoe_serves_newcomers_without_labels_or_training() -> None:
    _, published, _ = trained()
    stranger, rows, right = method("fedcoe")(DIGITS), 0, 0
    for name in ("newcomer-1", "newcomer-2"):
        data = digits.turned()[name]
        right += int((stranger.predict(published, data.x_test, "cold").argmax(1) == data.y_test).sum())
        rows += len(data.y_test)
    assert right / rows > 0.85


def test_global_scores_follow_from_published_state_alone() -> None:
    _, published, _ = trained()
    stranger = method("fedcoe")(DIGITS)
    right = sum(
        int((stranger.predict(published, d.x_test.astype(np.float64), "global").argmax(1) == d.y_test).sum())
        for d in silos().values()
    )
    assert right == published.slots["eval/0"]["global.correct"]


def test_small_batches_get_the_generalist() -> None:
    _, published, _ = trained()
    stranger, x = method("fedcoe")(DIGITS), silos()["silo-1"].x_test
    generalist = {part: published.blocks[f"generalist.{part}"] for part in experts.PARTS}
    for mode in ("global", "cold"):
        np.testing.assert_array_equal(
            stranger.predict(published, x[:15], mode), experts.predict([generalist], x[:15])[0]
        )
        assert not np.allclose(stranger.predict(published, x[:16], mode), experts.predict([generalist], x[:16])[0])


def test_personal_needs_the_local_expert() -> None:
    _, published, members = trained()
    x = silos()["silo-1"].x_test
    np.testing.assert_allclose(members["silo-1"].predict(published, x, "personal").sum(axis=1), 1.0, atol=1e-6)
    with pytest.raises(DataRefused, match="no local expert"):
        method("fedcoe")(DIGITS).predict(published, x, "personal")


def test_bad_batches_modes_and_data_sets_are_refused() -> None:
    plan, published, members = trained()
    member, x = members["silo-1"], silos()["silo-1"].x_test
    with pytest.raises(SpecError, match="mode"):
        member.predict(published, x, "best")
    for bad in (x[0], x[:, :5], x[:0], x.astype(str)):
        with pytest.raises(DataRefused, match="batch"):
            member.predict(published, bad, "global")
    with pytest.raises(NonFinite):
        member.predict(published, np.full_like(x, np.nan), "global")
    y = silos()["silo-1"].y_test
    split = {"x_train": x[:, :9], "y_train": y, "x_test": x[:, :9], "y_test": y, "classes": np.array(10)}
    narrow = check("narrow", split)
    with pytest.raises(DataRefused, match="9 features"):
        member.contribute(plan.steps[0], published, narrow)


def test_contributions_are_repeatable() -> None:
    plan, published, _ = trained()
    data = silos()["silo-2"]
    for step in plan.steps:
        one, other = (method("fedcoe")(DIGITS, "silo-2").contribute(step, published, data) for _ in range(2))
        assert one.slots == other.slots
        assert all(np.array_equal(one.sums[block], other.sums[block]) for block in one.sums)


def test_an_expert_that_never_opened_or_fell_behind_leaves_its_silos_to_the_generalist() -> None:
    """Not to the expert of the other style, which would be the wrong one."""
    plan, published, members = trained()
    asked, data = method("fedcoe")(DIGITS), silos()["silo-1"]
    mine = int(asked._gate(published, data.x_train).argmax())  # type: ignore[attr-defined]
    opened = f"expert-{mine}.contributors"
    generalist_BC = experts.predict(
        [{part: published.blocks[f"generalist.{part}"] for part in experts.PARTS}], data.x_test
    )[0]
    first = blocks.initial_state(plan, plain.RUN)
    blank = {name: first[name] for name in published.blocks if name.startswith(f"expert-{mine}.")}

    def without(rounds: int) -> Published:
        """The lane of this silo's expert opened in so many rounds only."""
        slots = {
            step: {
                name: n for name, n in seen.items() if name != opened or step in {f"train/{k}" for k in range(rounds)}
            }
            for step, seen in published.slots.items()
        }
        return Published(dict(published.blocks) | ({} if rounds else blank), slots)

    for mode in ("global", "cold"):
        never, early, whole = (asked.predict(without(rounds), data.x_test, mode) for rounds in (0, 1, 12))
        np.testing.assert_array_equal(whole, asked.predict(published, data.x_test, mode))
        apart = np.abs(whole - generalist_BC).max()
        assert np.abs(never - generalist_BC).max() < 0.05 < 0.3 < apart
        assert np.abs(early - generalist_BC).max() < apart / 3
    member = members["silo-1"]
    member.personalise(without(0), data)  # type: ignore[attr-defined]


def test_newcomers_in_one_batch_get_the_generalist_and_each_alone_its_style() -> None:
    _, published, _ = trained()
    asked, two = method("fedcoe")(DIGITS), [digits.turned()[name] for name in ("newcomer-1", "newcomer-2")]
    generalist = {part: published.blocks[f"generalist.{part}"] for part in experts.PARTS}
    size = min(len(data.x_test) for data in two)
    together = np.concatenate([data.x_test[:size] for data in two])
    np.testing.assert_allclose(
        asked.predict(published, together, "cold"), experts.predict([generalist], together)[0], atol=1e-6
    )
    for data in two:
        alone = asked.predict(published, data.x_test, "cold")
        assert np.abs(alone - experts.predict([generalist], data.x_test)[0]).max() > 0.3


def test_a_style_of_too_few_silos_never_becomes_a_cluster() -> None:
    """Two turned silos among six: a sum over either half would bare the sum of two, so both lanes stay shut."""
    six = {name: data for name, data in silos().items() if name not in ("silo-7", "silo-8")}
    holders = Holders()
    _, published, members = federate("fedcoe", DIGITS | {"rounds": 2, "finetune_steps": 1}, six, watch=holders)
    assert sorted(holders.of["cluster/1"][f"cluster-{path}"] for path in range(2)) == [2, 4]
    assert not published.slots["cluster/1"], "of a lane that is shut nobody learns how many are in it"
    assert np.array_equal(published.blocks["centroid-0"], published.blocks["centroid-1"])
    assert published.slots["train/0"]["expert-0.contributors"] == 6
    assert holders.of["train/0"]["expert-1"] == 0
    x = silos()["silo-1"].x_test
    np.testing.assert_allclose(members["silo-1"].predict(published, x, "cold").sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "change"),
    [("times 16", lambda x: 16 * x), ("huge", lambda x: 1e30 * x), ("constant", lambda x: np.ones_like(x))],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_silo_far_from_all_others_does_not_cost_the_clusters(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """In a signature no row is larger than a standardised one. Without that such a silo takes the first split alone,
    its lanes stay shut, and one expert serves all."""
    far = check("far", raw(silos()["silo-8"]) | {"x_train": change(silos()["silo-8"].x_train)})
    params = DIGITS | {"rounds": 1, "local_steps": 1, "finetune_steps": 1}
    holders = Holders()
    _, published, _ = federate("fedcoe", params, silos() | {"silo-8": far}, watch=holders)
    held = holders.of["cluster/1"]
    assert min(held[f"cluster-{path}"] for path in range(2)) >= LIMITS.lane_floor, held
    assert published.slots["cluster/1"].keys() >= {f"cluster-{path}.contributors" for path in range(2)}
    assert all(np.isfinite(block).all() for block in published.blocks.values())


def raw(data: DataSet) -> dict[str, np.ndarray]:
    arrays = {name: getattr(data, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    return arrays | {"classes": np.array(data.classes)}


def test_more_experts_than_the_floors_allow_are_silent() -> None:
    """Eight silos of two styles: no four clusters of three. Two open; the others keep their start and never speak."""
    _, published, members = federate("fedcoe", DIGITS | {"experts": 4, "rounds": 2, "finetune_steps": 1}, silos())
    opened = [bool(published.blocks[f"expert-{e}.b2"].any()) for e in range(4)]
    assert 1 <= sum(opened) < 4
    assert sum(published.slots["eval/0"][f"load-{e}"] > 0 for e in range(4)) <= sum(opened)
    x = silos()["silo-1"].x_test
    for mode in ("global", "personal", "cold"):
        np.testing.assert_allclose(members["silo-1"].predict(published, x, mode).sum(axis=1), 1.0, atol=1e-6)


def test_a_silo_that_weighs_nothing_moves_nothing() -> None:
    """All-zero weights: a sum of such uploads is zero, no lane opens, and every block keeps its value."""
    plan = method("fedcoe").plan(DIGITS, LIMITS)
    state, step = blocks.initial_state(plan, plain.RUN), next(step for step in plan.steps if step.task == "train")
    member, data = method("fedcoe")(DIGITS, "silo-1"), silos()["silo-1"]
    weights = dict.fromkeys((lane.name for lane in plan.lanes_of(step)), 0)
    sent = blocks.encode(plan, step, member.contribute(step, Published(state), data), weights)
    assert not any(words.any() for words in sent.lanes.values())
    assert not any(sent.weights.values())
    idle = {f"silo-{i}": member for i in range(1, 9)}
    for one in idle.values():
        one.weights = lambda step, seen, data: weights  # type: ignore[method-assign]
    quiet = replace(plan, steps=(step,))
    published = plain.run(quiet, idle, dict.fromkeys(idle, data), LIMITS)
    assert not set(published.slots[step.name]) & {lane.weight_figure for lane in plan.lanes_of(step)}
    assert all(np.array_equal(published.blocks[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("name", "void"), [("fedavg", ["rows/0"]), ("fedcoe", ["cluster/0"]), ("fedcoe", ["cluster/1", "train/0"])]
)
def test_a_void_step_stops_nobody(name: str, void: list[str]) -> None:
    params = DIGITS | {"rounds": 3} | ({"finetune_steps": 1} if name == "fedcoe" else {})
    end = federate(name, params, silos(), void)[1].slots["eval/0"]
    assert end["global.correct"] / end["test.rows"] > 0.3


# --- FedAvg in lanes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"holders-1": None}, "params.holders-1"),
        ({"holders-1": ""}, "params.holders-1"),
        ({"holders-1": 3}, "params.holders-1"),
        ({"holders-1": "silo-1 silo-2 silo-2"}, "params.holders-1"),
        ({"holders-1": "silo-1  silo-2 silo-3"}, "params.holders-1"),
        ({"holders-1": "silo-1 silo-2 Silo-3"}, "params.holders-1"),
        ({"holders-1": "silo-1 silo-2"}, "params.holders-1"),
        ({"holders-1": " ".join(f"silo-{i}" for i in range(1, 10))}, "params.holders-1"),
        ({"holders-2": "silo-1 silo-2 silo-3"}, "params.holders-2"),
        ({"holders-64": "silo-1 silo-2 silo-3"}, "params.holders-64"),
        ({"visible": 3}, "params.visible"),
        ({"experts": 3}, "params.holders-2"),
    ],
)
def test_holders_are_checked(change: dict[str, object], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        method("fedavg-lanes").plan(params("fedavg-lanes") | change, LIMITS)
    assert refused.value.path == path


def test_a_lane_for_each_expert_and_one_for_the_trunk() -> None:
    plan = method("fedavg-lanes").plan(params("fedavg-lanes"), LIMITS)
    assert [(lane.name, lane.scope, lane.hidden) for lane in plan.lanes] == [
        ("trunk", Scope.ALL, True),
        ("expert-0", Scope.HELD, False),
        ("expert-1", Scope.HELD, True),
    ]
    assert {block.name: block.lane for block in plan.blocks} == {
        "trunk.w1": "trunk", "trunk.b1": "trunk", "expert-0.w2": "expert-0", "expert-0.b2": "expert-0",
        "expert-1.w2": "expert-1", "expert-1.b2": "expert-1",
    }  # fmt: skip
    assert [step.name for step in plan.steps] == ["rows/0", *(f"train/{k}" for k in range(4)), "eval/0"]


@pytest.mark.parametrize(("silo", "held"), [("silo-1", ()), ("silo-2", (0,)), ("silo-7", (1,)), ("silo-8", (0, 1))])
def test_a_silo_sends_the_heads_it_holds_and_no_other(silo: str, held: tuple[int, ...]) -> None:
    plan = method("fedavg-lanes").plan(params("fedavg-lanes"), LIMITS)
    member, data = method("fedavg-lanes")(params("fedavg-lanes"), silo), digits.turned()[silo]
    seen = Published(blocks.initial_state(plan, plain.RUN), {"rows/0": {"rows": 8 * data.rows, "silos": 8}})
    step = plan.steps[1]
    assert member.weights(step, seen, data) == {"trunk": 2} | {f"expert-{e}": 2 * (e in held) for e in range(2)}
    sums = member.contribute(step, seen, data).sums
    assert set(sums) == {"trunk.w1", "trunk.b1"} | {f"expert-{e}.{part}" for e in held for part in ("w2", "b2")}
    assert all(np.abs(delta).max() > 0 for delta in sums.values())


def test_fedavg_lanes_learns_and_predicts_alike_in_all_modes() -> None:
    given = params("fedavg-lanes") | {"holders-0": " ".join(silos()), "rounds": 8}
    _, published, members = federate("fedavg-lanes", given, silos())
    first, last = (published.slots[name]["global.correct"] for name in ("train/0", "eval/0"))
    assert last > 0.6 * published.slots["eval/0"]["test.rows"] > 2 * first
    x = digits.turned()["newcomer-1"].x_test
    member = members["silo-1"]
    p_BC = member.predict(published, x, "global")
    assert np.allclose(p_BC.sum(axis=1), 1.0)
    assert all(np.array_equal(p_BC, member.predict(published, x, mode)) for mode in ("personal", "cold"))
    with pytest.raises(SpecError):
        member.predict(published, x, "best")
