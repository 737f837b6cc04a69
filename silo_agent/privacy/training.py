"""DP-SGD at one silo (Abadi et al. 2016): gradients of single rows, clipped, summed over a Poisson sample, with noise.

What a step adds to the model is ``rate · (Σ clip(gᵢ) + noise) / lot``. ``lot`` is a public constant of the job, never
the number of rows in the sample or at the silo: that number is private. Momentum and the proximal pull only see what
already has noise. A row whose gradient is NaN or infinite counts as zero: a refusal would tell that the row is there.

Each gradient is computed from its row alone, so no layer can mix rows. Sums are float64; a row's norm is held to
(1 − 2^−30) · clip, so that rounding cannot lift a sum's change above the clip.

Shapes: B rows, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from silo_agent.models.experts import Experts
from silo_agent.privacy.noise import Randomness
from silo_agent.training import Descent

#: Numbers of gradients held at a time: 64 MiB of float64.
_NUMBERS = 1 << 23

_BELOW_CLIP = 1 - 2.0**-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """Settings of a private training. ``clip``: of a row's gradient, L2. ``noise``: standard deviation over ``clip``.
    ``rate``: of the Poisson sampling. ``lot``: the public divisor. ``steps``: gradient steps."""

    clip: float
    noise: float
    rate: float
    lot: int
    steps: int


def train_privately(
    experts: Experts,
    model: Mapping[str, np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    descent: Descent,
    noised: Noised,
    randomness: Randomness,
) -> dict[str, np.ndarray]:
    """The model after ``noised.steps`` steps, part code → float64. ``model``: of the published parts."""
    start = _flat(experts, model)
    weights, velocity = start.copy(), np.zeros_like(start)
    for _ in range(noised.steps):
        picked = randomness.sample(len(y), noised.rate)
        total = clipped_sum(experts, _parts(experts, weights), x[picked], y[picked], noised.clip)
        total += noised.noise * noised.clip * randomness.gaussians(total.size)
        velocity = descent.momentum * velocity + total / noised.lot
        if descent.proximal:
            velocity += descent.proximal * (weights - start)
        weights = weights - descent.learning_rate * velocity
    return _parts(experts, weights)


def clipped_sum(
    experts: Experts, model: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray, clip: float
) -> np.ndarray:
    """Σ of the rows' gradients (P,), float64, each scaled down to a norm of at most ``clip``; zeros of no rows."""
    total = np.zeros(sum(part.size for part in model.values()))
    narrow = {code: part.astype(np.float32) for code, part in model.items()}
    at_once = max(1, _NUMBERS // max(1, total.size))
    for at in range(0, len(y), at_once):
        gradients = experts.row_gradients(narrow, x[at : at + at_once], y[at : at + at_once]).astype(np.float64)
        finite = np.isfinite(gradients).all(axis=1)
        gradients[~finite] = 0.0
        norms = np.sqrt(np.einsum("bp,bp->b", gradients, gradients))
        total += np.minimum(1.0, _BELOW_CLIP * clip / np.maximum(norms, clip * 1e-12)) @ gradients
    return total


def _flat(experts: Experts, model: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(model[part.code], dtype=np.float64).reshape(-1) for part in experts.parts])


def _parts(experts: Experts, flat: np.ndarray) -> dict[str, np.ndarray]:
    """The opposite of ``_flat``."""
    found, at = {}, 0
    for part in experts.parts:
        size = int(np.prod(part.shape))
        found[part.code] = flat[at : at + size].reshape(part.shape)
        at += size
    return found
