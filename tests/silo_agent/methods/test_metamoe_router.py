"""MetaMoE's router: the discriminant that a server with all proxies would fit, from sums, the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silo_agent import cluster_gates
from silo_agent.methods import metamoe_router as routing


def groups(seed: int, experts: int = 3, features: int = 5, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(experts, features))
    labels = np.repeat(np.arange(experts), rows)
    mix = rng.normal(size=(features, features))
    return centres[labels] * 2 + rng.normal(size=(len(labels), features)) @ mix, labels


def summed(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    found = [routing.statistics(x[labels == e]) for e in range(labels.max() + 1)]
    shares = [float((labels == e).mean()) for e in range(labels.max() + 1)]
    moments = sum(share * moment for share, (_, moment) in zip(shares, found, strict=True))
    return np.stack([mean for mean, _ in found]), np.asarray(moments), shares


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), experts=st.integers(2, 4), features=st.integers(1, 8))
def test_it_is_the_linear_discriminant_of_all_rows_together(seed: int, experts: int, features: int) -> None:
    """Against numpy, from the rows themselves."""
    x, labels = groups(seed, experts, features)
    found = routing.discriminant(*summed(x, labels))
    centres = np.stack([x[labels == e].mean(axis=0) for e in range(experts)])
    within = sum((x[labels == e] - centres[e]).T @ (x[labels == e] - centres[e]) for e in range(experts)) / len(x)
    off = ~np.eye(features, dtype=bool)
    within = np.where(off, (1 - routing.SHRINKAGE) * within, within)
    rows = np.linalg.solve(within, centres.T).T
    np.testing.assert_allclose(found.rows_EF, rows, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.bias_E, -0.5 * (rows * centres).sum(axis=1), rtol=1e-8, atol=1e-8)


def test_rows_go_to_the_group_they_look_like() -> None:
    x, labels = groups(4)
    found = routing.discriminant(*summed(x, labels))
    assert (found.route(x) == labels).mean() > 0.8
    assert found.route(x).dtype.kind == "i" and found.route(x).shape == (len(x),)


def test_features_that_do_not_vary_say_nothing() -> None:
    x, labels = groups(4)
    still = np.concatenate([x, np.full((len(x), 2), 3.0)], axis=1)
    plain, wider = (routing.discriminant(*summed(one, labels)) for one in (x, still))
    np.testing.assert_allclose(wider.rows_EF[:, :-2], plain.rows_EF, rtol=1e-9)
    assert not wider.rows_EF[:, -2:].any()
    nothing = routing.discriminant(np.zeros((2, 3)), np.zeros((3, 3)), [0.5, 0.5])
    assert not nothing.rows_EF.any() and nothing.route(np.ones((4, 3))).tolist() == [0, 0, 0, 0]


def test_dependent_features_are_borne() -> None:
    x, labels = groups(4)
    found = routing.discriminant(*summed(np.concatenate([x, x, -x], axis=1), labels))
    assert np.isfinite(found.rows_EF).all() and np.isfinite(found.bias_E).all()


def test_no_library_decides_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silos with another BLAS derive the same router: none is asked, and the order of sums does not matter."""
    x, labels = groups(9, 3, 6)
    centres, moments, shares = summed(x, labels)
    plain = routing.discriminant(centres, moments, shares)

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    for name in ("dot", "matmul", "einsum", "tensordot", "inner"):
        monkeypatch.setattr(np, name, never)
    for name in ("solve", "inv", "cholesky", "eigh"):
        monkeypatch.setattr(np.linalg, name, never)
    turned = routing.discriminant(centres[::-1], moments, shares[::-1])
    assert plain.rows_EF.tobytes() == turned.rows_EF[::-1].tobytes()
    assert plain.bias_E.tobytes() == turned.bias_E[::-1].tobytes()


def test_the_context_of_a_row_is_its_own() -> None:
    """Alone or among others a row has the same features; as released it has not."""
    rng = np.random.default_rng(2)
    x, p_EBC = rng.normal(size=(6, 9)).astype(np.float32), rng.dirichlet(np.ones(4), size=(3, 6))
    projection = cluster_gates.signs(1, "projection", (9, 4))
    every = routing.features(x, projection, p_EBC)
    assert every.shape == (6, 4 + 3)
    for at in range(6):
        np.testing.assert_allclose(routing.features(x[at : at + 1], projection, p_EBC[:, at : at + 1])[0], every[at])
    released = routing.paper_features(x, projection)
    assert not np.allclose(routing.paper_features(x[:1], projection)[0], released[0])


def test_certain_experts_have_bounded_confidence() -> None:
    p_EBC = np.array([[[1.0, 0.0]], [[0.5, 0.5]]])
    found = routing.features(np.zeros((1, 2), np.float32), np.ones((2, 1)), p_EBC)
    assert found[0].tolist() == [0.0, routing.ODDS, 0.0]


@pytest.mark.parametrize(
    ("router", "surest", "wins"),
    [(0, 0, False), (3, 0, False), (4, 0, False), (5, 0, True), (20, 10, False), (22, 10, True), (10, 22, False)],
)
def test_the_router_wins_only_beyond_chance(router: int, surest: int, wins: bool) -> None:
    assert routing.beats(router, surest) is wins


def test_as_released_the_router_gets_no_gradient() -> None:
    """The chosen weight divided by itself is 1: its derivative is zero. Without the division it is not."""
    import torch

    torch.manual_seed(0)
    rows = torch.randn(3, 4, requires_grad=True)
    z, likelihood = torch.randn(7, 4), torch.rand(7, 3) + 0.1
    weights = (z @ rows.T).softmax(-1)
    top = weights.max(-1, keepdim=True)
    chosen = likelihood.gather(-1, top.indices)
    released = -(top.values / top.values.sum(-1, keepdim=True) * chosen).log().mean()
    switched = -(top.values * chosen).log().mean()
    (none,) = torch.autograd.grad(released, rows, retain_graph=True)
    (some,) = torch.autograd.grad(switched, rows)
    assert none.abs().max() < 1e-6 < some.abs().max()
