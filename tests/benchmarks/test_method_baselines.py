"""Baselines are as good as they should be: each against a slow plain implementation, or an identity."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest

from crypto import blocks
from crypto.plan import Plan
from silo_agent import experts
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Method, Published
from silo_agent.methods.fedavg import FedAvg
from silo_agent.methods.fedcoe import FedCoE
from silo_agent.training import Descent, batches, cross_entropy, generator, train
from tests import plain
from tests.benchmarks import method_splits as splits
from tests.benchmarks.method_baselines import (
    IFCA,
    Ditto,
    Paired,
    alone,
    fine_tuned,
    label_shift_em,
    max_confidence,
    model_of,
    with_prior,
)

LIMITS = Limits(n_max=6)
PARAMS: Mapping[str, object] = {"features": 64, "classes": 10, "hidden": 5, "rounds": 3, "local_steps": 4, "seed": 3}


@cache
def cohort() -> dict[str, DataSet]:
    split = splits.deal(splits.digits(), 9, silos=6, newcomers=0, styles=splits.TURNS[:2], skew=1.0)
    return dict(split.silos)


def run(kind: type[Method], **more: object) -> tuple[Published, dict[str, Method]]:
    _, published, members = plain.federate(kind, {**PARAMS, **more}, cohort(), LIMITS)
    return published, members


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], *, atol: float = 0.0) -> bool:
    return all(np.allclose(one[part], other[part], rtol=0, atol=atol) for part in experts.PARTS)


# --- FedProx ---------------------------------------------------------------------------------------------------------


def slow_sgd(
    start: Mapping[str, np.ndarray],
    anchor: Mapping[str, np.ndarray],
    data: DataSet,
    order: np.ndarray,
    *,
    rate: float,
    momentum: float,
    pull: float,
) -> dict[str, np.ndarray]:
    """Gradient descent on cross-entropy + pull/2 · ‖w − anchor‖², derived by hand, in float64 numpy."""
    w = {part: start[part].astype(np.float64) for part in experts.PARTS}
    v = {part: np.zeros_like(value) for part, value in w.items()}
    for rows in order:
        x, y = data.x_train[rows].astype(np.float64), data.y_train[rows]
        h = np.maximum(x @ w["w1"] + w["b1"], 0)
        z = h @ w["w2"] + w["b2"]
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        dz = (p - np.eye(data.classes)[y]) / len(y)
        dh = (dz @ w["w2"].T) * (h > 0)
        gradient = {"w1": x.T @ dh, "b1": dh.sum(axis=0), "w2": h.T @ dz, "b2": dz.sum(axis=0)}
        for part in experts.PARTS:
            v[part] = momentum * v[part] + gradient[part] + pull * (w[part] - anchor[part])
            w[part] = w[part] - rate * v[part]
    return w


@pytest.mark.parametrize("pull", [0.0, 0.7])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_training_is_the_textbooks(pull: float, elsewhere: bool) -> None:
    data, rng = cohort()["silo-01"], np.random.default_rng(0)
    shapes = experts.shapes(64, 5, 10)
    start, other = (
        {part: rng.normal(scale=0.3, size=shape).astype(np.float32) for part, shape in shapes.items()} for _ in "ab"
    )
    order = batches(data.rows, 12, 8, rng)
    descent = Descent(learning_rate=0.1, momentum=0.9, proximal=pull)
    anchors = [other] if elsewhere else None
    (fast,) = train([start], data.x_train, data.y_train, order, descent, cross_entropy, anchors=anchors)
    slow = slow_sgd(start, other if elsewhere else start, data, order, rate=0.1, momentum=0.9, pull=pull)
    assert same(fast, slow, atol=1e-4)


def test_fedprox_with_no_pull_is_fedavg_and_with_much_stays_where_it_is() -> None:
    fedavg, _ = run(Paired)
    assert same(model_of(run(Paired, proximal=0.0)[0]), model_of(fedavg))
    start = model_of(Published(blocks.initial_state(Paired.plan(PARAMS, LIMITS), plain.RUN)))
    # With no momentum and μ = 1/rate, each step throws the last one away: w ← anchor − rate · gradient.
    held, _ = run(Paired, proximal=10.0, learning_rate=0.1, momentum=0.0)
    free, _ = run(Paired, learning_rate=0.1, momentum=0.0)
    moved = [np.abs(model_of(one)["w1"] - start["w1"]).max() for one in (held, free)]
    assert 0 < moved[0] < moved[1] / 2


def test_paired_fedavg_is_fedavg_but_for_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "initial_state", by_part)
    paired, _ = run(Paired)
    plan, published, members = plain.federate(FedAvg, PARAMS, cohort(), LIMITS)
    ours = {name.rsplit(".", 1)[1]: value for name, value in published.blocks.items()}
    assert same(model_of(paired), ours) and paired.slots == published.slots
    x = cohort()["silo-01"].x_test
    np.testing.assert_array_equal(
        Paired(PARAMS).predict(paired, x, "cold"), members["silo-01"].predict(published, x, "cold")
    )
    assert len(plan.blocks) == len(Paired.plan(PARAMS, LIMITS).blocks)


# --- Ditto -----------------------------------------------------------------------------------------------------------


def test_dittos_published_model_is_fedavgs() -> None:
    assert same(model_of(run(Ditto, pull=0.3)[0]), model_of(run(Paired)[0]))


def test_ditto_without_pull_is_training_alone() -> None:
    _, members = run(Ditto, pull=0.0)
    for silo, member in members.items():
        own = alone(PARAMS, silo, cohort()[silo], LIMITS, plain.RUN)
        assert isinstance(member, Ditto) and member.own is not None
        assert same(member.own, own)
        x = cohort()[silo].x_test
        published = run(Paired)[0]
        np.testing.assert_array_equal(member.predict(published, x, "personal"), experts.predict([own], x)[0])


def test_dittos_own_model_is_pulled_to_the_published_one() -> None:
    more: dict[str, object] = {"pull": 2.0, "learning_rate": 0.1, "momentum": 0.0}
    published, before = run(Ditto, **more, rounds=2)
    _, after = run(Ditto, **more)
    data, one, other = cohort()["silo-01"], before["silo-01"], after["silo-01"]
    assert isinstance(one, Ditto) and one.own is not None and isinstance(other, Ditto) and other.own is not None
    order = batches(data.rows, 4, 16, generator("batches", 3, "silo-01", 2))
    slow = slow_sgd(one.own, model_of(published), data, order, rate=0.1, momentum=0.0, pull=2.0)
    assert same(other.own, slow, atol=1e-4)
    apart = [
        np.abs(member.own["w1"] - model_of(published)["w1"]).max()
        for member in (other, run(Ditto, **{**more, "pull": 10.0})[1]["silo-01"])
        if isinstance(member, Ditto) and member.own is not None
    ]
    assert apart[1] < apart[0], "the stronger the pull, the nearer"


# --- IFCA ------------------------------------------------------------------------------------------------------------


def by_part(plan: Plan, run: bytes) -> dict[str, np.ndarray]:
    """Initial blocks that depend on what they are a part of, not on what they are called."""
    rng = np.random.default_rng(5)
    values = {part: rng.normal(scale=0.2, size=s).astype(np.float32) for part, s in experts.shapes(64, 5, 10).items()}
    return {block.name: values[block.name.rsplit(".", 1)[1]] for block in plan.blocks}


def test_ifca_with_one_cluster_is_fedavg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "initial_state", by_part)
    ifca, members = run(IFCA, clusters=1)
    fedavg, _ = run(Paired)
    assert same(model_of(ifca, "model-0"), model_of(fedavg))
    x = cohort()["silo-01"].x_test
    for mode in ("global", "personal", "cold"):
        np.testing.assert_array_equal(
            members["silo-01"].predict(ifca, x, mode), Paired(PARAMS).predict(fedavg, x, "global")
        )


def test_ifca_moves_the_model_that_fits_best_and_no_other() -> None:
    plan = IFCA.plan({**PARAMS, "clusters": 3}, LIMITS)
    seen = Published(blocks.initial_state(plan, plain.RUN), {"rows/0": {"rows": 6, "silos": 6}})
    data = cohort()["silo-02"]
    member, step = IFCA({**PARAMS, "clusters": 3}, "silo-02"), plan.steps[1]
    loss = []
    for e in range(3):
        p_BC = experts.predict([model_of(seen, f"model-{e}")], data.x_train)[0]
        loss.append(-np.mean([np.log(p_BC[row, label]) for row, label in enumerate(data.y_train)]))
    best = int(np.argmin(loss))
    weights = member.weights(step, seen, data)
    assert [weights[f"model-{e}"] > 0 for e in range(3)] == [e == best for e in range(3)]
    assert {name.split(".")[0] for name in member.contribute(step, seen, data).sums} == {f"model-{best}"}


# --- what needs no federation ----------------------------------------------------------------------------------------


def test_fedcoes_generalist_is_fedavg() -> None:
    """So that differences between FedCoE and FedAvg are the experts' doing, and the fallback costs nothing."""
    fedcoe, _ = run(FedCoE, experts=2)
    assert same(model_of(fedcoe), model_of(run(Paired)[0]), atol=1e-4)


def test_fine_tuning_starts_from_what_was_published() -> None:
    published, _ = run(Paired)
    data = cohort()["silo-03"]
    tuned = fine_tuned(PARAMS, published, "silo-03", data)
    order = batches(data.rows, 100, 16, generator("fine-tuning", 3, "silo-03", 0))
    slow = slow_sgd(model_of(published), model_of(published), data, order, rate=0.05, momentum=0.9, pull=0.0)
    assert same(tuned, slow, atol=1e-2)


def test_a_flat_prior_changes_nothing_and_a_sharp_one_decides() -> None:
    rng = np.random.default_rng(2)
    p_BC = rng.dirichlet(np.ones(4), size=50)
    np.testing.assert_allclose(with_prior(p_BC, np.arange(4).repeat(10)), p_BC)
    shifted = with_prior(p_BC, np.zeros(10**6, dtype=np.int64))
    assert (shifted.argmax(axis=1) == 0).mean() > 0.95
    np.testing.assert_allclose(shifted.sum(axis=1), 1.0)


def test_label_shift_em_is_saerens_and_finds_the_prior_of_the_batch() -> None:
    """A calibrated predictor of two overlapping classes, trained at one half each; the batch has nine in ten."""
    rng = np.random.default_rng(4)
    y = (rng.random(4000) < 0.9).astype(int)
    x = rng.normal(loc=2.0 * y - 1.0)
    odds = np.exp(2.0 * x)  # of N(1, 1) against N(−1, 1) at equal priors
    p_BC = np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)
    prior = np.array([0.5, 0.5])
    fast = label_shift_em(p_BC, prior, steps=30)
    here, slow = [0.5, 0.5], p_BC
    for _ in range(30):
        slow = np.array([[p[c] * here[c] / prior[c] for c in range(2)] for p in p_BC])
        slow = np.array([row / sum(row) for row in slow])
        here = [float(np.mean(slow[:, c])) for c in range(2)]
    np.testing.assert_allclose(fast, slow, atol=1e-9)
    assert fast.mean(axis=0)[1] == pytest.approx(0.9, abs=0.02)
    right = [float((one.argmax(axis=1) == y).mean()) for one in (p_BC, fast)]
    assert right[1] > right[0] + 0.03


def test_label_shift_em_leaves_a_batch_like_the_training_rows_alone() -> None:
    p_BC = np.array([[0.9, 0.1], [0.1, 0.9]]).repeat(50, axis=0)
    np.testing.assert_allclose(label_shift_em(p_BC, np.array([0.5, 0.5])), p_BC, atol=1e-6)


def test_max_confidence_takes_each_rows_surest_expert() -> None:
    p_EBC = np.random.default_rng(6).dirichlet(np.ones(3), size=(4, 20))
    for row, found in enumerate(max_confidence(p_EBC)):
        surest = max(range(4), key=lambda e: p_EBC[e, row].max())
        np.testing.assert_array_equal(found, p_EBC[surest, row])
