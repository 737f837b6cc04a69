"""Signatures, clusters and gates: properties that hold for any data."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from silo_agent import cluster_gates

RNG = np.random.default_rng(5)


def batch(rows: int, scale: float = 1.0, features: int = 12) -> np.ndarray:
    return RNG.normal(size=(rows, features)) * scale


def test_signs_are_fixed_for_ever() -> None:
    signs = cluster_gates.signs(7, "projection", (64, 16))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.1
    digest = hashlib.sha256(signs.astype(np.int8).tobytes()).hexdigest()
    assert digest == "8181f4f082d93914ca19c9c56e97bc71d5c8e6ce5b2d24d21e6362c87751f6b5"
    assert not np.array_equal(signs, cluster_gates.signs(8, "projection", (64, 16)))
    assert not np.array_equal(signs, cluster_gates.signs(7, "probes", (64, 16)))


def test_a_signature_is_mean_and_covariance_and_their_variance() -> None:
    x, projection = batch(50), cluster_gates.signs(1, "projection", (12, 3))
    seen = cluster_gates.signature(x, projection)
    z = cluster_gates.bounded(x) @ projection / np.sqrt(12)
    upper = np.triu_indices(3)
    np.testing.assert_allclose(seen.entries, np.concatenate([z.mean(0), np.cov(z.T, bias=True)[upper]]))
    centred = z - z.mean(0)
    products = centred[:, upper[0]] * centred[:, upper[1]]
    np.testing.assert_allclose(seen.spread, np.concatenate([z.var(0), products.var(0)]))
    assert len(seen.entries) == cluster_gates.entries(3) == 9


def test_rows_are_bounded_and_small_ones_stay_as_they_are() -> None:
    x = batch(50) * np.logspace(-3, 30, 50)[:, None]
    found = cluster_gates.bounded(x)
    sizes = [np.sqrt((rows.astype(np.longdouble) ** 2).mean(axis=1)) for rows in (x, found)]
    limit = cluster_gates.ROW_LIMIT
    np.testing.assert_allclose(sizes[1], sizes[0] / np.sqrt(1 + (sizes[0] / limit) ** 2), rtol=1e-6)
    assert sizes[1].max() <= limit * (1 + 1e-9) and np.isfinite(found).all()
    np.testing.assert_array_equal(np.sign(found), np.sign(x))
    assert not cluster_gates.bounded(np.zeros((2, 3))).any()


def test_a_mixed_batch_lies_between_centroids_and_a_single_one_does_not() -> None:
    projection = cluster_gates.signs(1, "projection", (12, 4))
    rng, low = np.random.default_rng(3), np.repeat([0.3, 1.0], 6)
    styles = [lambda rows: rng.normal(size=(rows, 12)) * low, lambda rows: rng.normal(size=(rows, 12)) * low[::-1]]
    seen = [cluster_gates.signature(style(2000), projection) for style in styles]
    spread = np.mean([s.spread for s in seen], axis=0)
    context = cluster_gates.ClusterContext(projection, spread, np.stack([s.entries for s in seen]))
    for style in styles:
        assert context.mixed(style(400)) == 0.0
    assert context.between(np.concatenate([style(400) for style in styles])) == pytest.approx(0.5, abs=0.1)
    assert context.mixed(np.concatenate([style(400) for style in styles])) == 1.0
    one = cluster_gates.ClusterContext(projection, spread, context.centroids_EF[:1])
    assert one.between(styles[1](400)) == 0.0, "with one cluster there is nothing to be between"
    equal = cluster_gates.ClusterContext(projection, spread, context.centroids_EF[[0, 0]])
    assert equal.between(styles[1](400)) == 0.0


def test_a_signature_ignores_the_order_of_rows() -> None:
    x, projection = batch(50), cluster_gates.signs(1, "projection", (12, 4))
    one, other = cluster_gates.signature(x, projection), cluster_gates.signature(x[::-1], projection)
    np.testing.assert_allclose(one.entries, other.entries, atol=1e-12)


def test_scaled_leaves_out_what_never_varies() -> None:
    scaled = cluster_gates.scaled(np.array([3.0, 5.0]), np.array([1.0, 1.0]), np.array([4.0, 0.0]))
    np.testing.assert_array_equal(scaled, [1.0, 0.0])


def test_the_direction_parts_two_groups_and_is_bit_stable() -> None:
    away = RNG.normal(size=20)
    signatures = np.stack([side * 3 * away + RNG.normal(size=20) for side in (-1, -1, -1, -1, 1, 1, 1, 1)]) + 9.0
    probes, spread = cluster_gates.signs(3, "probes", (20, 2)), np.full(20, 2.0)
    sketch = np.mean([cluster_gates.sketch(s, probes) for s in signatures], axis=0).astype(np.float32)
    centroid = signatures.mean(axis=0).astype(np.float32)
    v = cluster_gates.direction(sketch, centroid, spread, probes)
    sides = cluster_gates.scaled(signatures, centroid, spread) @ v > 0
    assert list(sides) in ([False] * 4 + [True] * 4, [True] * 4 + [False] * 4)
    assert np.linalg.norm(v) == pytest.approx(1.0)
    assert v[np.abs(v).argmax()] > 0, "the sign is canonical"
    again = cluster_gates.direction(np.asfortranarray(sketch), centroid.copy(), spread, probes)
    assert v.tobytes() == again.tobytes()


def test_the_direction_of_nothing_is_nothing() -> None:
    zero = cluster_gates.direction(np.zeros((4, 2)), np.zeros(4), np.ones(4), cluster_gates.signs(1, "probes", (4, 2)))
    assert not zero.any()


@pytest.mark.parametrize("distances", [[0.0, 1.0], [3.0, 1.0, 2.0], [5.0], [1e-300, 1e300], [0.0, 0.0, 4.0]])
def test_the_gate_is_a_distribution_that_prefers_the_nearest(distances: list[float]) -> None:
    gate = cluster_gates.centroid_gate(np.array(distances))
    assert gate.sum() == pytest.approx(1.0)
    assert (gate >= 0).all()
    order = np.argsort(distances, kind="stable")
    assert (np.diff(gate[order]) <= 0).all()


def test_the_gate_has_no_scale_and_no_distant_influence() -> None:
    near = np.array([1.0, 4.0])
    np.testing.assert_allclose(cluster_gates.centroid_gate(near), cluster_gates.centroid_gate(1000 * near))
    np.testing.assert_allclose(
        cluster_gates.centroid_gate(np.array([1.0, 4.0, 900.0]))[:2], cluster_gates.centroid_gate(near)
    )
    np.testing.assert_array_equal(cluster_gates.centroid_gate(np.array([0.0, 7.0, 0.0])), [0.5, 0.0, 0.5])


def test_trust_falls_with_distance() -> None:
    values = [cluster_gates.trust(r, 1.0) for r in (0.0, 1.0, 4.0, 10.0, 100.0)]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[2]) == (1.0, 0.5)
    assert (cluster_gates.trust(0.0, 0.0), cluster_gates.trust(1.0, 0.0)) == (1.0, 0.0)


def test_context_gates_a_batch_to_its_own_cluster_and_allows_for_sampling() -> None:
    """Styles differ in which features vary; how much all of them do together counts for little."""
    projection = cluster_gates.signs(1, "projection", (12, 4))
    styles = [np.repeat([0.3, 1.0], 6), np.repeat([1.0, 0.3], 6)]
    silos = [batch(400) * style for style in styles]
    seen = [cluster_gates.signature(x, projection) for x in silos]
    spread = np.mean([s.spread for s in seen], axis=0)
    context = cluster_gates.ClusterContext(projection, spread, np.stack([s.entries for s in seen]))
    for own, style in enumerate(styles):
        for x in (batch(40) * style, 1.5 * batch(40) * style):
            assert context.gate(x).argmax() == own
            assert context.trust(x) > 0.5
    assert context.trust(batch(40) * np.eye(12)[0]) < 0.1
    distances, noise = context.distances(silos[0])
    assert distances[0] == 0.0 < noise


def test_mutual_information_wants_sure_and_varied() -> None:
    sure_varied, sure_same, unsure = np.eye(3), np.tile([1.0, 0.0, 0.0], (3, 1)), np.full((3, 3), 1 / 3)
    assert cluster_gates.mutual_information(sure_varied) == pytest.approx(np.log(3))
    assert cluster_gates.mutual_information(sure_same) == cluster_gates.mutual_information(np.eye(3)[:1]) == 0.0
    assert cluster_gates.mutual_information(unsure) == pytest.approx(0.0, abs=1e-12)


def test_the_information_gate_follows_information_and_leans_on_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    informed, blank = np.eye(4) * 0.96 + 0.01, np.full((4, 4), 0.25)
    assert cluster_gates.information_gate(informed, blank, 0.9) > 0.99
    assert cluster_gates.information_gate(blank, informed, 0.9) < 0.01
    shares = [cluster_gates.information_gate(blank, blank, t) for t in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert shares == sorted(shares)
    assert shares[2] < 0.5, "a tie is the generalist's: the mixture must tell more"
    monkeypatch.setattr(cluster_gates, "MI_HANDICAP", 0.0)
    assert cluster_gates.information_gate(blank, blank, 0.5) == pytest.approx(0.5)


def test_a_newcomers_gate_weighs_the_signature_with_the_experts_information() -> None:
    gate = np.array([0.6, 0.4, 0.0])
    np.testing.assert_allclose(cluster_gates.newcomer_gate(gate, np.ones(3)), gate, atol=1e-5)
    assert cluster_gates.newcomer_gate(gate, np.array([1.0, 1.3, 0.0])).argmax() == 1
    assert cluster_gates.newcomer_gate(gate, np.array([1.0, 1.3, 1.5])).argmax() == 1, (
        "an expert the signature excludes"
    )
    assert cluster_gates.newcomer_gate(np.zeros(2), np.array([0.0, 0.5])).argmax() == 1
    assert cluster_gates.newcomer_gate(gate, np.array([0.0, 900.0, 0.0])).sum() == pytest.approx(1.0)
