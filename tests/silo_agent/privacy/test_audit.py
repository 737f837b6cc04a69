"""An attack on the mechanism itself: whether a canary was in the data, guessed from what left, many times over.

From the shares of right and wrong guesses follows a lower bound of ε that holds with 95 % (Jagielski, Ullman, Oprea
2020). It must not exceed what the accountant claims; for a mechanism that was broken on purpose it must.
"""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from silo_agent.models.experts import Perceptrons
from silo_agent.models.tasks import Classes
from silo_agent.privacy import training
from silo_agent.privacy.accountant import Release, epsilon
from silo_agent.privacy.noise import Randomness
from silo_agent.privacy.training import Noised, train_privately
from silo_agent.training import Descent

NET = Perceptrons(4, 3, Classes(3))
TRIALS, DELTA, CLIP = 600, 1e-3, 0.5
DESCENT = Descent(learning_rate=1.0, momentum=0.0)


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Five rows, and a canary with a gradient far above the clip."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, 4)).astype(np.float32)
    x[5] = 40.0
    return x, np.array([0, 1, 2, 0, 1, 2])


def scores(canary: bool, noise: float, randomness: Randomness) -> np.ndarray:
    """How far each training moved along the canary's gradient."""
    x, y = rows()
    rng = np.random.default_rng(3)
    model = {part.code: rng.normal(size=part.shape).astype(np.float32) for part in NET.parts}
    along = NET.row_gradients(model, x[5:], y[5:])[0].astype(np.float64)
    assert np.linalg.norm(along) > CLIP
    along /= np.linalg.norm(along)
    count = 6 if canary else 5
    noised = Noised(clip=CLIP, noise=noise, rate=1.0, lot=1, steps=1)
    found = []
    for _ in range(TRIALS):
        made = train_privately(NET, model, x[:count], y[:count], DESCENT, noised, randomness)
        moved = np.concatenate([(model[part.code] - made[part.code]).reshape(-1) for part in NET.parts])
        found.append(float(moved @ along))
    return np.array(found)


def lower_bound(noise: float) -> float:
    """The largest ε that the guesses of half of the trials' best threshold show on the other half."""
    randomness = Randomness(bytes(range(16)))
    there, gone = scores(True, noise, randomness), scores(False, noise, randomness)
    half = TRIALS // 2
    at = max(np.concatenate([there[:half], gone[:half]]), key=lambda at: bound(there[:half], gone[:half], at))
    return bound(there[half:], gone[half:], float(at))


def bound(there: np.ndarray, gone: np.ndarray, at: float) -> float:
    """ln((P(guessed | there) − δ) / P(guessed | gone)), each by Hoeffding's or the rule of three's worse end."""
    right, wrong = float((there >= at).mean()), int((gone >= at).sum())
    least = right - np.sqrt(log(40) / (2 * len(there)))
    most = 3.7 / len(gone) if not wrong else wrong / len(gone) + np.sqrt(log(40) / (2 * len(gone)))
    return log((least - DELTA) / most) if least > DELTA else 0.0


def test_the_mechanism_shows_no_more_than_is_claimed() -> None:
    claimed = epsilon([Release(1.5, 1.0, 1)], DELTA)
    assert lower_bound(1.5) <= claimed < 3


def test_with_the_noise_of_another_job_the_audit_finds_more_than_is_claimed() -> None:
    """The positive control: what claims a multiplier of 1.5 and adds a tenth of it."""
    assert lower_bound(0.15) > epsilon([Release(1.5, 1.0, 1)], DELTA)


def test_without_the_clip_the_audit_finds_more_than_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_BELOW_CLIP", 1e9)
    assert lower_bound(1.5) > epsilon([Release(1.5, 1.0, 1)], DELTA)
