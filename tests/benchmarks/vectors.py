"""The vectors on which ours and the peers are compared; imported by both sides, so numpy is all it needs."""

from __future__ import annotations

import numpy as np

#: Nothing in the vectors is larger; Flower's default clipping range, 8, holds them too.
EXTREME = 4.5


def update(size: int) -> np.ndarray:
    """A heavy-tailed update, float32, largest magnitude 4."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=size) * rng.lognormal(sigma=1.5, size=size)
    return (x * (4.0 / np.abs(x).max())).astype(np.float32)


def noisy(x: np.ndarray, place: int) -> np.ndarray:
    """Silo ``place``'s update: the shared one with every value moved by up to a tenth, and by 0.1."""
    rng = np.random.default_rng(place)
    noise = rng.uniform(-0.1, 0.1, size=x.size) * (1 + np.abs(x))
    return (x + noise).astype(np.float32)
