"""Any module trains: only its parts move, alike whenever asked again, each model on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from crypto.errors import DataRefused, NonFinite, SpecError
from silo_agent.models import registry
from silo_agent.models.description import Role
from silo_agent.models.experts import Perceptrons, log_likelihood, moved
from silo_agent.models.module_experts import ModuleExperts
from silo_agent.models.tasks import Classes
from silo_agent.models.views import pooled
from silo_agent.training import Descent, batches, cross_entropy
from tests.models import blank, params, rows

pytestmark = pytest.mark.slow

DESCENT = Descent(learning_rate=0.05, momentum=0.9)
X, Y = rows(120, 6, 3)


def experts(model: str, **more: object) -> ModuleExperts:
    return registry.experts_of(registry.split(params(model, "6", 3, **more))[0], 7)


def train(
    of: ModuleExperts, models: list[dict[str, np.ndarray]], steps: int = 60, **how: object
) -> list[dict[str, np.ndarray]]:
    order = batches(len(Y), steps, 16, np.random.default_rng(2))
    given = {"seed": 5, "objective": cross_entropy, "order": order, "x": X, "y": Y, "descent": DESCENT} | how
    return of.train(models, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["zoo-odd", "zoo-half", "zoo-normed", "zoo-trunk"])
def test_it_learns_and_a_second_call_gives_the_same_bytes(model: str) -> None:
    of = experts(model)
    start = blank(of.parts)
    (one,), (again,) = train(of, [start]), train(of, [start])
    assert all(one[code].dtype == np.float32 and one[code].tobytes() == again[code].tobytes() for code in start)
    assert all(not array.any() for array in start.values())
    right = [(of.predict([model], X)[0].argmax(1) == Y).mean() for model in (start, one)]
    assert right[1] > 0.9 > 0.6 > right[0]
    p_EBC = of.predict([start, one], X)
    np.testing.assert_allclose(p_EBC.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(log_likelihood(of, [start, one], X, Y), np.log(p_EBC[:, np.arange(120), Y]))


def test_dropout_follows_the_seed() -> None:
    of = experts("zoo-odd")
    (one,), (other,) = train(of, [blank(of.parts)], 3), train(of, [blank(of.parts)], 3, seed=6)
    assert any(one[code].tobytes() != other[code].tobytes() for code in one)
    before = torch.random.get_rng_state()
    train(of, [blank(of.parts)], 1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("model", ["zoo-trunk", "zoo-normed"])
def test_models_do_not_leak_into_each_other(model: str) -> None:
    """Running statistics included: the second model's predictions are those it has alone."""
    of = experts(model)
    start = blank(of.parts)
    (one,) = train(of, [start], 20)
    together = train(of, [start, one], 10, together=False)
    alone = [train(of, [model], 10)[0] for model in (start, one)]
    for a, b in zip(together, alone, strict=True):
        assert all(a[code].tobytes() == b[code].tobytes() for code in a)
    both = of.predict(together, X)
    assert all(np.array_equal(both[e], of.predict([together[e]], X)[0]) for e in range(2))


def test_a_shared_trunk_is_one_tensor_of_all_experts() -> None:
    of = experts("zoo-trunk")
    shared = [part.code for part in of.parts if part.role is Role.SHARED]
    start = blank(of.parts)
    half = len(Y) // 2
    order = batches(half, 30, 16, np.random.default_rng(2))
    one, two = train(of, [start, start], order=np.stack([order, order + half], axis=1))
    assert shared == ["t0", "t1"]
    assert all(one[code].tobytes() == two[code].tobytes() and one[code].any() for code in shared)
    assert one["t2"].tobytes() != two["t2"].tobytes()
    assert of.opened(one) and not of.opened(start)


def test_training_with_rows_of_their_own_and_a_proximal_pull() -> None:
    of = experts("zoo-half")
    (free,) = train(of, [blank(of.parts)])
    (pulled,) = train(of, [blank(of.parts)], descent=Descent(learning_rate=0.05, momentum=0.9, proximal=1.0))
    length = [sum(float((model[code] ** 2).sum()) for code in model) for model in (free, pulled)]
    assert 0 < length[1] < length[0]


def test_it_is_plain_torch() -> None:
    """The same steps by torch.optim on the module itself come out the same, up to rounding."""
    of = experts("zoo-trunk")
    torch.manual_seed(7)
    module = registry.find("zoo-trunk")(shape=(6,), classes=3).module
    begin = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for picked in batches(len(Y), 60, 16, np.random.default_rng(2)):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(torch.tensor(X[picked])), torch.tensor(Y[picked])).backward()
        optimiser.step()
    (ours,) = train(of, [blank(of.parts)])
    for part in of.parts:
        theirs = dict(module.named_parameters())[part.name].detach() - begin[part.name]
        np.testing.assert_allclose(ours[part.code], theirs.numpy(), atol=1e-4)


# --- buffers ---------------------------------------------------------------------------------------------------------


def test_running_statistics_are_those_of_the_rows_at_home() -> None:
    """A site that sees everything twice as large and shifted gets the answers of the one that doesn't."""
    of = experts("zoo-normed")
    assert of.at_home
    assert {part.name for part in of.parts} == {"0.weight", "0.bias", "1.weight", "1.bias", "head.weight", "head.bias"}
    (model,) = train(of, [blank(of.parts)])
    here, there = of.predict([model], X[:40], X)[0], of.predict([model], 2 * X[:40], 2 * X)[0]
    np.testing.assert_allclose(here, there, atol=1e-3)
    assert np.abs(of.predict([model], 2 * X[:40], X)[0] - here).max() > 0.02
    with pytest.raises(DataRefused, match="too few to estimate"):
        of.predict([model], X[:15])
    assert of.predict([model], X[:1], X).shape == (1, 1, 3)
    with pytest.raises(SpecError, match="at least 2 rows"):
        train(of, [model], order=np.zeros((1, 1), np.int64))


def test_statistics_are_exact_whatever_the_momentum_and_the_order() -> None:
    of = experts("zoo-normed", model_momentum=0.7)
    many = np.concatenate([X] * 5)
    (model,) = train(of, [blank(of.parts)], 5)
    one, two = (of.predict([model], X, home)[0] for home in (X, many))
    np.testing.assert_allclose(one, two, atol=5e-3)


@pytest.mark.parametrize("replace", [False, True])
def test_a_buffer_that_moves_is_refused_by_its_name(replace: bool) -> None:
    of = experts("zoo-counting", model_replace=replace)
    with pytest.raises(SpecError, match=r"buffers, seen.*changed in training"):
        train(of, [blank(of.parts)], 2)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_rows_that_are_not_finite_are_named_by_the_parameter() -> None:
    of = experts("zoo-trunk")
    bad = X.copy()
    bad[3] = np.nan
    with pytest.raises(NonFinite, match=r"Parameter trunk\.0\.weight"):
        train(of, [blank(of.parts)], x=bad)


def test_half_precision_is_wide_outside_and_half_inside() -> None:
    """A small difference survives on the wire, where bfloat16 would have rounded it away."""
    of = experts("zoo-half")
    model = blank(of.parts)
    model["t0"] += 1e-6
    (trained,) = train(of, [model], 1, descent=Descent(learning_rate=1e-9, momentum=0.0))
    np.testing.assert_allclose(trained["t0"], 1e-6, atol=1e-7)
    delta = moved(model, trained)
    assert delta["t0"].dtype == np.float32


# --- views -----------------------------------------------------------------------------------------------------------


def test_a_view_pools_pictures_and_leaves_rows() -> None:
    assert np.array_equal(pooled(X), X)
    small = np.arange(2 * 64.0).reshape(2, 1, 8, 8)
    assert np.array_equal(pooled(small), small.reshape(2, -1))
    large = np.arange(2 * 3 * 30 * 17.0).reshape(2, 3, 30, 17)
    assert pooled(large).shape == (2, 3 * 64)
    assert pooled(np.full((1, 2, 20, 20, 9), 4.0)).shape == (1, 2 * 512)
    np.testing.assert_allclose(pooled(np.full((1, 2, 20, 20, 9), 4.0)), 4.0)
    assert Perceptrons(6, 2, Classes(3)).view(X) is X
