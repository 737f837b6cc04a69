"""FedAvg of a private job: what its plan opens, what it refuses, what a step costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crypto.errors import DataRefused, SpecError
from crypto.plan import Step
from silo_agent.data import DataSet, check
from silo_agent.methods import Limits, Published
from silo_agent.methods.fedavg import FedAvg
from silo_agent.methods.private import PRIVATE, Releasing, private
from silo_agent.methods.private_fedavg import PrivateFedAvg
from silo_agent.privacy.accountant import Release
from silo_agent.privacy.noise import Randomness
from silo_agent.privacy.terms import Privacy
from tests import models
from tests.silo_agent.models.zoo import FACTORIES

LIMITS = Limits(n_max=5)
PARAMS = {"features": 4, "classes": 3, "hidden": 2, "rounds": 3, "local_steps": 7, "batch": 10}
PRIVACY = Privacy(
    mechanism="local", unit="record", clip=1.0, sampling_rate=0.25, delta=1e-3, epsilon=9.0, noise_multiplier=1.1,
    accountant="an accountant",
)  # fmt: skip


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    from silo_agent.models import registry

    for name, place in FACTORIES.items():
        monkeypatch.setitem(registry.BUILT_IN, name, place)  # type: ignore[arg-type]


def made(randomness: Randomness | None = None, **params: Any) -> PrivateFedAvg:
    return PrivateFedAvg(PARAMS | params, "silo-1", privacy=PRIVACY, randomness=randomness)


def rows(count: int = 40) -> DataSet:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(count, 4)), np.arange(count) % 3
    return check("rows", {"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[:9], "classes": np.array(3)})


def published(params: dict[str, Any] | None = None) -> Published:
    plan = PrivateFedAvg.private_plan(params or PARAMS, LIMITS, PRIVACY)
    return Published({block.name: np.zeros(block.shape, np.float32) for block in plan.blocks})


def test_its_plan_opens_noised_sums_and_the_number_of_silos_alone() -> None:
    plan = PrivateFedAvg.private_plan(PARAMS, LIMITS, PRIVACY)
    assert [step.name for step in plan.steps] == ["train/0", "train/1", "train/2"]
    assert {slot.name for step in plan.steps for slot in step.slots} == {"silos"}
    assert [lane.grid for lane in plan.lanes] == [(1,)]
    ordinary = FedAvg.plan(PARAMS, LIMITS)
    assert plan.blocks == ordinary.blocks and plan.method == ordinary.method  # so that FedAvg's predictor reads it
    assert "rows" in {slot.name for step in ordinary.steps for slot in step.slots}


def test_a_step_costs_its_gradient_steps() -> None:
    plan, method = PrivateFedAvg.private_plan(PARAMS, LIMITS, PRIVACY), made()
    assert isinstance(method, Releasing)
    assert method.releases(plan.steps[0]) == (Release(1.1, 0.25, 7),)
    assert method.releases(Step(task="count", index=0, slots=plan.steps[0].slots)) == ()


def test_every_silo_has_the_same_weight_however_many_rows_it_has() -> None:
    step = PrivateFedAvg.private_plan(PARAMS, LIMITS, PRIVACY).steps[0]
    assert (
        made().weights(step, published(), rows(20)) == made().weights(step, published(), rows(900)) == {"everyone": 1}
    )


def test_a_contribution_has_noise_and_no_figure_of_rows() -> None:
    step = PrivateFedAvg.private_plan(PARAMS, LIMITS, PRIVACY).steps[1]
    first, second = (made().contribute(step, published(), rows()) for _ in range(2))
    assert first.slots == second.slots == {"silos": 1}
    assert set(first.sums) == {"model.w1", "model.b1", "model.w2", "model.b2"}
    assert not np.allclose(first.sums["model.w1"], second.sums["model.w1"])
    one, two = (made(Randomness(bytes(16))).contribute(step, published(), rows()).sums["model.w1"] for _ in range(2))
    assert np.array_equal(one, two)  # the randomness is all that differs


@pytest.mark.parametrize("name", ["zoo-normed", "norm-without-statistics"])
def test_a_layer_that_mixes_rows_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from silo_agent.models import registry

    monkeypatch.setitem(registry.BUILT_IN, "norm-without-statistics", f"{__name__}:unstatistical")  # type: ignore[arg-type]
    params = models.params(name, "4", 3)
    with pytest.raises(SpecError, match="layer 1, which normalises over rows"):
        PrivateFedAvg.private_plan(params, LIMITS, PRIVACY)
    with pytest.raises(SpecError, match="layer 1"):
        PrivateFedAvg(params, "silo-1", privacy=PRIVACY)


def test_batch_normalisation_that_never_moves_is_no_mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    from silo_agent.models import registry

    monkeypatch.setitem(registry.BUILT_IN, "fixed", f"{__name__}:fixed")  # type: ignore[arg-type]
    assert PrivateFedAvg.private_plan(models.params("fixed", "4", 3), LIMITS, PRIVACY).blocks


def test_parts_that_stay_at_a_silo_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match="stays at a silo"):
        PrivateFedAvg.private_plan(models.params("zoo-odd", "4", 3), LIMITS, PRIVACY)


@pytest.mark.parametrize("name", ["zoo-half", "zoo-trunk"])
def test_other_modules_train(name: str) -> None:
    params = models.params(name, "4", 3) | {"rounds": 1, "local_steps": 2, "batch": 10}
    plan = PrivateFedAvg.private_plan(params, LIMITS, PRIVACY)
    method = PrivateFedAvg(params, "silo-1", privacy=PRIVACY)
    found = method.contribute(plan.steps[0], published(params), rows())
    assert {block.name: block.shape for block in plan.blocks} == {name: x.shape for name, x in found.sums.items()}
    assert all(np.isfinite(x).all() and x.any() for x in found.sums.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics_every", 1),
        ("optimizer", "adam"),
        ("weight_decay", 0.1),
        ("gradient_clip", 1.0),
        ("schedule", "cosine"),
        ("warmup_rounds", 1),
        ("local_epochs", 1),
        ("class_weights", "1 2 3"),
        ("class_weights", "balanced"),
    ],
)
def test_options_that_a_private_job_does_not_have_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SpecError, match=name):
        PrivateFedAvg.private_plan(PARAMS | {name: value}, LIMITS, PRIVACY)
    with pytest.raises(SpecError, match=name):
        made(**{name: value})


def test_rows_that_are_too_few() -> None:
    step = PrivateFedAvg.private_plan(PARAMS | {"batch": 41}, LIMITS, PRIVACY).steps[0]
    with pytest.raises(DataRefused, match="batch of 41"):
        made(batch=41).contribute(step, published(), rows(40))
    with pytest.raises(DataRefused, match="delta"):
        made().contribute(step, published(), rows(1000))


def test_only_methods_that_can_are_in_the_registry() -> None:
    assert set(PRIVATE) == {"fedavg"} and private("fedavg") is PrivateFedAvg
    with pytest.raises(SpecError, match="method fedcoe"):
        private("fedcoe")


def unstatistical(shape: tuple[int, ...], classes: int) -> Any:
    from torch import nn

    from silo_agent.models.description import Model

    layers = (nn.Linear(shape[0], 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, classes))
    return Model(module=nn.Sequential(*layers), roles={"*": "shared"})


def fixed(shape: tuple[int, ...], classes: int) -> Any:
    from torch import nn

    from silo_agent.models.description import Model

    layers = (nn.Linear(shape[0], 8), nn.BatchNorm1d(8), nn.Linear(8, classes))
    return Model(module=nn.Sequential(*layers), roles={"*": "shared"}, buffers={"*": "constant"})
