"""Noise is Gaussian with the right variance, from keys that nobody keeps; samples are Poisson."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest

from crypto.masking import apply_streams
from silo_agent.privacy import noise
from silo_agent.privacy.noise import Randomness

KEY = bytes(range(16))
VECTOR_WORDS = [9543493301319685800, 12789707909184498880]
VECTOR_NOISE = [0.6793407936827687, -0.557916432188943, -0.5359747232412199]
VECTOR_SAMPLE = [2, 4, 11, 26, 32, 36, 39]


def test_vectors() -> None:
    """Of an injected key: whoever changes how noise is made changes these."""
    made = Randomness(KEY)
    assert made.words(2).tolist() == VECTOR_WORDS
    assert made.gaussians(3) == pytest.approx(VECTOR_NOISE, rel=1e-12)
    assert made.sample(40, 0.2).tolist() == VECTOR_SAMPLE


def test_each_stretch_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[bytes] = []

    def seen(words: np.ndarray, streams: list[tuple[bytes, int]]) -> None:
        keys.extend(key for key, _ in streams)
        apply_streams(words, streams)

    monkeypatch.setattr(noise, "apply_streams", seen)
    for made in (Randomness(), Randomness(KEY)):
        first, second = made.gaussians(5), made.gaussians(5)
        assert not np.array_equal(first, second)
    assert len(set(keys)) == len(keys) == 4


def test_the_system_is_asked_for_each_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(noise.os, "urandom", lambda count: asked.append(count) or KEY)
    Randomness().words(3)
    Randomness().gaussians(3)
    assert asked == [16, 16]


def test_gaussians_have_the_distribution() -> None:
    """χ² over 64 cells of equal probability: with 10^6 draws it sees a variance that is off by 0.5 % with a probability
    above 0.99; the key is fixed, so it does not fail by chance."""
    draws = Randomness(KEY).gaussians(1_000_000)
    cells = 64
    uniform = np.array([(1 + erf(x / sqrt(2))) / 2 for x in draws[:200_000]])
    counts = np.bincount((uniform * cells).astype(int).clip(0, cells - 1), minlength=cells)
    expected = len(uniform) / cells
    assert ((counts - expected) ** 2 / expected).sum() < 120  # 63 degrees of freedom: P(> 120) < 2·10⁻⁵
    assert draws.mean() == pytest.approx(0, abs=4e-3)
    assert draws.var() == pytest.approx(1, abs=6e-3)
    assert (draws**4).mean() == pytest.approx(3, abs=0.05)
    assert 1 < np.abs(draws).max() < 7
    assert np.corrcoef(draws[:-1], draws[1:])[0, 1] == pytest.approx(0, abs=5e-3)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_as_many_as_asked_for(count: int) -> None:
    assert Randomness(KEY).gaussians(count).shape == (count,)


def test_long_stretches_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_CHUNK", 4)
    made = Randomness(KEY).gaussians(10)
    assert made.shape == (10,) and len(set(made.tolist())) == 10


def test_samples_take_each_row_by_itself() -> None:
    made, counts = Randomness(KEY), np.zeros(50)
    sizes = []
    for _ in range(4_000):
        picked = made.sample(50, 0.3)
        counts[picked] += 1
        sizes.append(len(picked))
    assert counts / 4_000 == pytest.approx(np.full(50, 0.3), abs=0.035)
    assert np.mean(sizes) == pytest.approx(15, abs=0.25)
    assert np.var(sizes) == pytest.approx(50 * 0.3 * 0.7, rel=0.12)  # a fixed batch size would have 0
    assert 0 in {len(made.sample(3, 0.1)) for _ in range(20)}


def test_a_rate_of_one_takes_all_rows() -> None:
    assert Randomness(KEY).sample(5, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert Randomness(KEY).sample(0, 0.5).tolist() == []
