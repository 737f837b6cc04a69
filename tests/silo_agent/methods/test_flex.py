"""FLEx: experts and routers stay frozen, personal experts stay home, and what is averaged is the dense delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from crypto import blocks
from crypto.errors import DataRefused, EgressDenied, SpecError
from crypto.plan import Apply, Plan, Scope, Step, Sum
from silo_agent.data import check
from silo_agent.language.base_model import digest, library
from silo_agent.methods import Limits, Method, Published
from silo_agent.methods.flex import FLEx
from silo_agent.methods.flex_plan import NAT, adapted, grown, read
from tests import plain
from tests.texts import CLASSES, CONTEXT, ROWS, SHAPE, Here, arrays, base, params, silos

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=4)


def federate(void: tuple[str, ...] = (), **changes: object) -> tuple[Plan, Published, dict[str, Method]]:
    return plain.federate(Here, params(**changes), silos(), LIMITS, void)


@cache
def trained() -> tuple[Plan, Published, dict[str, Method]]:
    return federate(finetune_steps=16)


def member(silo: str = "silo-1", **changes: object) -> FLEx:
    return Here(params(**changes), silo)


def step_of(plan: Plan, name: str) -> Step:
    return next(step for step in plan.steps if step.name == name)


# --- parameters and plan ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"base": "abc"}, "params.base"),
        ({"base": 7}, "params.base"),
        ({"personal": 2}, "params.personal"),
        ({"heads": 3}, "params.heads"),
        ({"key_value_heads": 3}, "params.heads"),
        ({"features": 1}, "params.features"),
        ({"rank": 0}, "params.rank"),
        ({"width": 3}, "params.width"),
    ],
)
def test_wrong_parameters_are_refused_by_name(change: dict[str, object], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        FLEx.plan(params(**change), LIMITS)
    assert refused.value.path == path


def test_the_plan_lists_what_is_averaged_what_is_fixed_and_what_never_leaves() -> None:
    plan = FLEx.plan(params(), LIMITS)
    assert [step.name for step in plan.steps] == ["rows/0", "train/0", "train/1", "train/2", "eval/0"]
    lanes = {lane.name: {block.name for block in plan.blocks if block.lane == lane.name} for lane in plan.lanes}
    p, _ = read(params())
    assert lanes["everyone"] == {f"b/{name}" for name in adapted(p)} and len(lanes["everyone"]) == 14
    assert lanes["fixed"] == {f"a/{name}" for name in adapted(p)}
    assert lanes["own"] == {f"personal/{name}" for name in grown(p)} and len(lanes["own"]) == 6
    assert plan.lane_of("personal/layers.0.gate_up").scope is Scope.LOCAL
    for step in plan.steps:
        assert {part.block for part in step.sums} == (lanes["everyone"] if step.task == "train" else set())
    start = blocks.initial_state(plan, plain.RUN)
    assert not any(start[name].any() for name in lanes["everyone"])
    assert all(np.abs(start[name]).max() > 0.1 for name in lanes["fixed"])
    assert not lanes["own"] & start.keys()


def test_shared_experts_are_slices_and_personal_is_optional() -> None:
    p, _ = read(params(shared_experts=1, personal=0))
    names = adapted(p)
    assert names["layers.1.experts.gate_up.3"] == (32, 16) and names["layers.1.experts.down.0"] == (16, 16)
    assert len(names) == 14 + 2 * 2 * 4 and not grown(p)
    plan = FLEx.plan(params(shared_experts=1, personal=0), LIMITS)
    assert not any(slot.name.startswith("personal") for slot in step_of(plan, "eval/0").slots)


def test_flex_uploads_the_dense_part_alone() -> None:
    flex, fedavg = (
        FLEx.plan(params(**how), LIMITS).words_of(step_of(FLEx.plan(params(**how), LIMITS), "train/0"), "everyone")
        for how in ({}, {"shared_experts": 1, "personal": 0})
    )
    assert flex / fedavg < 0.4


# --- the model -------------------------------------------------------------------------------------------------------


def test_adapters_of_experts_are_slices_of_one_tensor() -> None:
    """W_e + (α/r) B·A for one expert alone: all the others give what they gave."""
    model = library().LanguageModel(base(), rank=4, alpha=8.0, experts=True, personal=False)
    plan = FLEx.plan(params(shared_experts=1, personal=0), LIMITS)
    start = blocks.initial_state(plan, plain.RUN)
    a = {name[2:]: value for name, value in start.items() if name.startswith("a/")}
    b = {name[2:]: value.copy() for name, value in start.items() if name.startswith("b/")}
    assert {name: view.shape for name, view in model.b.items()} == {name: value.shape for name, value in b.items()}
    assert {name: view.shape for name, view in model.a.items()} == {name: value.shape for name, value in a.items()}
    rng = np.random.default_rng(1)
    for name in ("layers.0.experts.gate_up.2", "layers.1.experts.down.1", "layers.1.self_attn.v_proj"):
        b[name] = rng.normal(size=b[name].shape).astype(np.float32)
    model.adapt(a, b)
    own = library().load(base())
    with torch.no_grad():
        layers = own.model.layers
        for target, name in (
            (layers[0].mlp.experts.gate_up_proj[2], "layers.0.experts.gate_up.2"),
            (layers[1].mlp.experts.down_proj[1], "layers.1.experts.down.1"),
            (layers[1].self_attn.v_proj.weight, "layers.1.self_attn.v_proj"),
        ):
            target += torch.from_numpy(2.0 * b[name] @ a[name])
        rows = torch.from_numpy(silos()["silo-1"].x_train.astype(np.int64))
        torch.testing.assert_close(model.net(rows).logits, own(rows).logits, rtol=1e-4, atol=1e-4)
    assert all(np.array_equal(value, b[name]) for name, value in model.adapters().items())


def test_the_grafted_expert_is_the_one_that_stands_in_best_for_its_layer() -> None:
    model = library().LanguageModel(base(), rank=4, alpha=8.0, experts=False, personal=True)
    rows = silos()["silo-2"].x_train[:8].astype(np.int64)
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    layers = model.net.base_model.model.model.layers
    for at, layer in enumerate(layers):
        layer.mlp.mixture.register_forward_hook(
            lambda _, given, made, at=at: seen.update({at: (given[0].flatten(0, 1), made.flatten(0, 1))})
        )
    errors = model.errors(rows)
    for at, layer in enumerate(layers):
        mixture, (h, whole) = layer.mlp.mixture, seen[at]
        with torch.no_grad():
            routed = whole - torch.sigmoid(mixture.shared_expert_gate(h)) * mixture.shared_expert(h)
            naive = []
            for gate_up, down in zip(mixture.experts.gate_up_proj, mixture.experts.down_proj, strict=True):
                gate, up = gate_up[:16] @ h.T, gate_up[16:] @ h.T
                alone = (down @ (torch.nn.functional.silu(gate) * up)).T  # the router's top weights add up to 1 here
                naive.append(float(((routed - alone) ** 2).sum(1).mean() / (routed**2).sum(1).mean()))
        np.testing.assert_allclose(errors[at], naive, rtol=1e-4)
    chosen = [int(layer.argmin()) for layer in errors]
    made = model.seedling(chosen)
    for at, e in enumerate(chosen):
        experts = library().load(base()).model.layers[at].mlp.experts
        np.testing.assert_array_equal(made[f"layers.{at}.gate_up"], experts.gate_up_proj[e].numpy())
        np.testing.assert_array_equal(made[f"layers.{at}.down"], experts.down_proj[e].numpy())
        assert not made[f"layers.{at}.gate"][:-1].any() and made[f"layers.{at}.gate"][-1] == -3.0


def test_a_graft_adds_its_expert_by_a_sigmoid_gate() -> None:
    module = library()
    model = module.LanguageModel(base(), rank=4, alpha=8.0, experts=False, personal=True)
    graft, h = model.grafts[0], torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    own = model.seedling([1, 2])
    own["layers.0.gate"] = np.linspace(-1, 1, 17, dtype=np.float32)
    model.graft(own)
    with torch.no_grad():
        shut = graft(h)
        with model.personal_experts(active=True):
            heard = graft(h)
        gate = torch.sigmoid(h @ graft.gate[:16] + graft.gate[16]).unsqueeze(-1)
        alone = module.expert(h, graft.gate_up, graft.down, graft.activation)
        torch.testing.assert_close(heard, shut + gate * alone)
        torch.testing.assert_close(shut, graft.mixture(h))
    assert {name: value.tolist() for name, value in model.personal().items()} == {
        name: value.tolist() for name, value in own.items()
    }


@pytest.mark.parametrize("shared_experts", [0, 1])
def test_pretrained_weights_are_frozen_and_the_folder_is_as_it_was(shared_experts: int) -> None:
    one = member(shared_experts=shared_experts)
    plan = FLEx.plan(params(shared_experts=shared_experts), LIMITS)
    seen = Published(blocks.initial_state(plan, plain.RUN))
    sums = one.contribute(step_of(plan, "train/0"), seen, silos()["silo-1"]).sums
    assert all(np.abs(delta).max() > 0 for name, delta in sums.items() if "self_attn" in name)
    net = one._net().net
    before = dict(library().load(base()).named_parameters())
    compared = 0
    for name, parameter in net.named_parameters():
        plain_name = name.removeprefix("base_model.model.")
        for wrapper in (".base_layer", ".mixture"):
            plain_name = plain_name.replace(wrapper, "")
        if "lora_" not in name and plain_name in before:
            compared += 1
            assert torch.equal(parameter, before[plain_name]), name
    assert compared == len(before)
    assert all(np.array_equal(view.numpy(), seen.blocks[f"a/{name}"]) for name, view in one._net().a.items())
    assert digest(base()) == base().name


# --- a federation ----------------------------------------------------------------------------------------------------


def loss(published: Published, members: Mapping[str, Method], mode: str) -> float:
    own = [members[silo].losses(published, data.x_test, data.y_test, mode).mean() for silo, data in silos().items()]  # type: ignore[attr-defined]
    return float(np.mean(own))


def test_silos_learn_together_and_personal_experts_help() -> None:
    plan, published, members = trained()
    start = Published(blocks.initial_state(plan, plain.RUN))
    assert loss(published, members, "global") < loss(start, members, "global") - 0.02
    assert loss(published, members, "personal") < loss(published, members, "global") - 0.04
    before = {name: start.blocks[name] for name in start.blocks if name.startswith("a/")}
    assert all(np.array_equal(published.blocks[name], value) for name, value in before.items())


def test_slots_are_counts_and_whole_units_of_loss() -> None:
    _, published, members = trained()
    end = published.slots["eval/0"]
    rows = sum(len(data.y_test) for data in silos().values())
    assert end["test.rows"] == rows and end["test.tokens"] == rows * CONTEXT
    for mode in ("global", "personal"):
        per_token = end[f"{mode}.loss"] / NAT / end["test.tokens"]
        assert abs(per_token - loss(published, members, mode)) < 1e-3
        right = sum(
            int((members[silo].predict(published, data.x_test, mode).argmax(1) == data.y_test).sum())
            for silo, data in silos().items()
        )
        assert end[f"{mode}.correct"] == right


def test_predictions_are_probabilities_of_the_next_token() -> None:
    _, published, members = trained()
    x = silos()["silo-1"].x_test
    stranger = Here(params())
    p_BC = stranger.predict(published, x, "cold")
    assert p_BC.shape == (len(x), CLASSES) and p_BC.dtype == np.float64
    np.testing.assert_allclose(p_BC.sum(axis=1), 1.0, atol=1e-9)
    np.testing.assert_array_equal(members["silo-1"].predict(published, x, "global"), p_BC)
    assert not np.array_equal(members["silo-1"].predict(published, x, "personal"), p_BC)
    y = silos()["silo-1"].y_test
    last = stranger.losses(published, x, y, "global")[:, -1]
    np.testing.assert_allclose(last, -np.log(p_BC[np.arange(len(y)), y]), rtol=1e-4, atol=1e-5)
    with pytest.raises(DataRefused, match="trained nothing"):
        stranger.predict(published, x, "personal")
    with pytest.raises(SpecError, match="mode"):
        stranger.predict(published, x, "best")


def test_steps_tried_again_come_out_the_same() -> None:
    plan, published, _ = trained()
    one = member(finetune_steps=16)
    for name in ("train/0", "train/1", "eval/0"):
        first, second = (one.contribute(step_of(plan, name), published, silos()["silo-1"]) for _ in range(2))
        assert first.slots == second.slots
        assert all(np.array_equal(first.sums[block], second.sums[block]) for block in first.sums)


def test_a_silo_that_restarts_goes_on_as_if_it_had_not() -> None:
    plan, published, _ = trained()
    data, one = silos()["silo-1"], member(finetune_steps=16)
    for k in range(2):
        one.contribute(step_of(plan, f"train/{k}"), published, data)
    twin = member(finetune_steps=16)
    twin.load_state_dict({name: value.copy() for name, value in one.state_dict().items()})
    for name in ("train/2", "eval/0"):
        mine, theirs = (each.contribute(step_of(plan, name), published, data) for each in (one, twin))
        assert mine.slots == theirs.slots
        assert all(np.array_equal(mine.sums[block], theirs.sums[block]) for block in mine.sums)
    kept = one.state_dict()
    again = member(finetune_steps=16)
    again.load_state_dict(kept)
    assert again.state_dict().keys() == kept.keys() and len({name.split("/")[1] for name in kept}) <= 5
    np.testing.assert_array_equal(
        again.predict(published, data.x_test, "personal"), one.predict(published, data.x_test, "personal")
    )


def test_void_steps_stop_nobody_and_a_silo_may_come_late() -> None:
    plan, published, _ = federate(void=("rows/0", "train/0", "train/2"), local_steps=2)
    assert {"train/1", "eval/0"} <= published.slots.keys()
    late = member(local_steps=2)
    slots = late.contribute(step_of(plan, "eval/0"), published, silos()["silo-1"]).slots
    assert slots["personal.loss"] > 0 and slots["test.rows"] == ROWS // 2


def test_weights_of_zero_leave_the_model_as_it_is() -> None:
    plan = FLEx.plan(params(), LIMITS)
    step, start = step_of(plan, "train/0"), blocks.initial_state(FLEx.plan(params(), LIMITS), plain.RUN)
    nothing = np.zeros(plan.words_of(step, "everyone"), dtype=np.uint32)
    contribution = member(local_steps=2).contribute(step, Published(start), silos()["silo-1"])
    sent = blocks.encode(plan, step, contribution, {"everyone": 0})
    assert np.array_equal(sent.lanes["everyone"], nothing) and sent.weights == {"everyone": 0}
    assert blocks.state_digest(blocks.apply(plan, step, start, {}, {})) == blocks.state_digest(start)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_job_without_a_base_can_be_read_but_not_joined() -> None:
    without = {name: value for name, value in params().items() if name != "base"}
    FLEx.plan(without, LIMITS)
    with pytest.raises(SpecError) as refused:
        Here(without, "silo-1").use(base().parent)
    assert refused.value.path == "params.base"


@pytest.mark.parametrize("name", ["hidden", "experts", "expert_width", "classes"])
def test_a_job_of_other_sizes_than_its_base_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="as the base") as refused:
        member(**{name: 2 * getattr(SHAPE, name)})._net()
    assert refused.value.path == f"params.{name}"


def test_rows_that_are_no_tokens_or_of_another_shape_are_refused() -> None:
    plan, published, members = trained()
    step, data = step_of(plan, "train/0"), silos()["silo-1"]
    for spoiled in (data.x_train + 0.5, np.full_like(data.x_train, CLASSES), -1 - data.x_train):
        with pytest.raises(DataRefused, match="no token ids from 0 to 26"):
            member().contribute(step, published, replace(data, x_train=spoiled.astype(np.float32)))
    with pytest.raises(DataRefused, match="9 features"):
        member().contribute(step, published, replace(data, x_train=data.x_train[:, :9]))
    with pytest.raises(DataRefused, match="28 classes"):
        member().contribute(step, published, replace(data, classes=28))
    with pytest.raises(DataRefused, match="batch"):
        members["silo-1"].predict(published, data.x_test[:, :9], "global")
    with pytest.raises(DataRefused, match="token ids"):
        members["silo-1"].predict(published, data.x_test + 0.5, "global")


def test_a_silo_of_one_row_is_no_data_set() -> None:
    own = arrays()["silo-1"]
    with pytest.raises(DataRefused, match="fewer than 16 training rows"):
        check("texts", {**own, "x_train": own["x_train"][:1], "y_train": own["y_train"][:1]})


# --- what never leaves -----------------------------------------------------------------------------------------------


def test_the_encoder_refuses_personal_experts_and_gates() -> None:
    plan, published, _ = trained()
    step, data = step_of(plan, "train/1"), silos()["silo-1"]
    one = member()
    weights, sent = one.weights(step, published, data), one.contribute(step, published, data)
    for name, value in one.personal[2].items():
        more = blocks.Contribution({**sent.sums, f"personal/{name}": value}, sent.slots)
        with pytest.raises(EgressDenied):
            blocks.encode(plan, step, more, weights)
    leak = replace(step, sums=(*step.sums, Sum("personal/layers.0.gate", Apply.PUBLISH)))
    with pytest.raises(EgressDenied):
        replace(plan, steps=(leak,))
