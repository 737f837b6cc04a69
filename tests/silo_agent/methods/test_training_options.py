"""Optimizers, schedules, clips and class weights: against torch.optim, and by name where they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crypto.errors import SpecError
from silo_agent.data import DataSet
from silo_agent.methods import method, parse
from silo_agent.methods.fedavg import Params
from silo_agent.models.tasks import Classes, Labels
from silo_agent.training import Descending, Descent, weighted
from tests.silo_agent.methods.test_methods import LIMITS

JOB: dict[str, object] = {"features": 4, "classes": 2, "rounds": 4}


def options(**more: object) -> Params:
    return parse(Params, {"rounds": 4, **more})


def data(labels: np.ndarray) -> DataSet:
    x = np.zeros((len(labels), 4), np.float32)
    return DataSet("d", x, labels, x[:2], labels[:2], 2)


def descended(descent: Descent, steps: int = 5, **how: Any) -> list[np.ndarray]:
    tensors = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([[0.5, 4.0]])]
    going = Descending(tensors, descent, **how)
    for _ in range(steps):
        going.step((tensors[0] ** 4).sum() + (tensors[1] ** 2).sum() + tensors[0].sum())
    return [tensor.detach().numpy() for tensor in tensors]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_each_optimizer_is_the_one_of_torch(optimizer: str, decay: float) -> None:
    found = descended(Descent(learning_rate=0.01, momentum=0.9, optimizer=optimizer, weight_decay=decay), models=[0, 0])
    tensors = [torch.tensor([1.0, -2.0, 3.0], requires_grad=True), torch.tensor([[0.5, 4.0]], requires_grad=True)]
    theirs: torch.optim.Optimizer = {
        "sgd": lambda: torch.optim.SGD(tensors, 0.01, momentum=0.9, weight_decay=decay),
        "adam": lambda: torch.optim.Adam(tensors, 0.01, weight_decay=decay),
        "adamw": lambda: torch.optim.AdamW(tensors, 0.01, weight_decay=decay),
    }[optimizer]()
    for _ in range(5):
        theirs.zero_grad()
        ((tensors[0] ** 4).sum() + (tensors[1] ** 2).sum() + tensors[0].sum()).backward()
        theirs.step()
    for mine, other in zip(found, tensors, strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=2e-6)


def test_a_gradient_is_clipped_for_each_model() -> None:
    clipped = Descent(learning_rate=1.0, momentum=0.0, gradient_clip=0.5)
    one, other = descended(clipped, 1, models=[0, 1])
    assert np.linalg.norm(one - [1, -2, 3]) == pytest.approx(0.5)
    assert np.linalg.norm(other - [[0.5, 4.0]]) == pytest.approx(0.5)
    one, other = descended(clipped, 1, models=[0, 0])
    assert np.hypot(np.linalg.norm(one - [1, -2, 3]), np.linalg.norm(other - [[0.5, 4.0]])) == pytest.approx(0.5)
    stacked = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    going = Descending([stacked], clipped)
    going.step((stacked**2).sum() / 2)
    np.testing.assert_allclose(stacked.detach().numpy(), [[2.7, 3.6], [0.0, 0.0]], atol=1e-6)


def test_a_schedule_is_a_function_of_the_round_and_what_is_done_of_it() -> None:
    assert options().descent(3, data(np.arange(20) % 2), Classes(2)).factors == ()
    cosine = options(schedule="cosine", local_steps=4)
    rates = [cosine.descent(k, data(np.arange(20) % 2), Classes(2)).factors for k in range(4)]
    flat = [rate for of_round in rates for rate in of_round]
    assert len(flat) == 16 and flat == sorted(flat, reverse=True) and flat[0] > 0.99 and flat[-1] < 0.01
    step = options(schedule="step", schedule_every=2, schedule_drop=0.5)
    assert [step.factor(k, 0.5) for k in range(4)] == [1, 1, 0.5, 0.5]
    warm = options(warmup_rounds=2)
    assert [round(warm.factor(k, 0.0), 3) for k in range(4)] == [0, 0.5, 1, 1]
    assert cosine.descent(None, data(np.arange(20) % 2), Classes(2)).factors == (), "fine-tuning is in no round"
    halved = Descent(learning_rate=0.1, momentum=0.0, factors=(0.5, 0.0))
    once = Descent(learning_rate=0.05, momentum=0.0)
    for mine, other in zip(descended(halved, 4, models=[0, 0]), descended(once, 1, models=[0, 0]), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_epochs_are_capped_by_steps() -> None:
    assert options(local_epochs=2, batch=10, local_steps=50).steps(35) == 6
    assert options(local_epochs=2, batch=10, local_steps=5).steps(35) == 5
    assert options(local_epochs=1, batch=64).steps(20) == 1 and options(batch=10).steps(35) == 20


def test_class_weights_are_public_or_of_the_silos_own_rows() -> None:
    y = np.array([0] * 18 + [1] * 2)
    assert options(class_weights="1 8").weights_of(Classes(2), y) == (1, 8)
    assert options(class_weights="balanced").weights_of(Classes(2), y) == (20 / 36, 20 / 4)
    assert options(class_weights="balanced").weights_of(Classes(3), y) == (20 / 36, 20 / 4, 0)
    descent = options(class_weights="1 8").descent(0, data(y), Classes(2))
    found = weighted(torch.tensor([[-1.0, -1.0]]), torch.tensor([0, 1]), descent)
    assert found.tolist() == [[-1, -8]]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"optimizer": "lion"}, r"params\.optimizer: got 'lion', want one of sgd, adam, adamw"),
        ({"optimizer": 3}, r"params\.optimizer: got 3"),
        ({"schedule": "linear"}, r"params\.schedule: .* want one of constant, cosine, step"),
        ({"weight_decay": -1}, r"params\.weight_decay"),
        ({"gradient_clip": float("nan")}, r"params\.gradient_clip"),
        ({"local_epochs": 1.5}, r"params\.local_epochs: .*an integer"),
        ({"warmup_rounds": 5}, r"params\.warmup_rounds: got 5, want at most the rounds, 4"),
        ({"class_weights": "1"}, r"params\.class_weights: .*2 numbers"),
        ({"class_weights": "1 two"}, r"params\.class_weights"),
        ({"class_weights": "1  2"}, r"params\.class_weights"),
        ({"class_weights": "0 0"}, r"params\.class_weights"),
        ({"class_weights": "1 -2"}, r"params\.class_weights"),
        ({"class_weights": 3}, r"params\.class_weights: got 3, want a text"),
        ({"task": "multilabel", "class_weights": "1 2"}, r"params\.class_weights: .*none: multilabel"),
    ],
)
@pytest.mark.parametrize("name", ["fedavg", "fedcoe"])
def test_what_does_not_fit_is_refused_at_entry(name: str, params: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        method(name).plan({**JOB, **params}, LIMITS)
    with pytest.raises(SpecError, match=said):
        method(name)({**JOB, **params})


def test_a_plan_says_nothing_of_how_a_silo_trains() -> None:
    plain = method("fedavg").plan(JOB, LIMITS)
    more = {"optimizer": "adamw", "schedule": "cosine", "class_weights": "balanced", "gradient_clip": 1.0}
    assert bytes(method("fedavg").plan({**JOB, **more}, LIMITS)) == bytes(plain)


def test_several_labels_have_no_class_weights() -> None:
    with pytest.raises(SpecError, match="multilabel"):
        options(class_weights="balanced").check(Labels(3))
