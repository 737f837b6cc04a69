"""Randomness that privacy rests on: AES-128 in counter mode under a key of the system, used once and never kept.

A generator whose state can be guessed from its outputs would let a reader of the model take the noise off again, and
numpy's and torch's can be. So noise and Poisson samples are made here, from the keystream that also masks uploads.

**Gaussians in floating point.** The values that a float64 Gaussian can take depend on the sum that it is added to, and
a single one can give that sum away (Mironov 2012). Each value here is the sum of four independent Gaussians over two,
which has the same distribution and takes about 2^159 guesses to invert (Holohan, Braghin 2021; Opacus' secure mode does
the same). It is a heuristic defence, not a proof: the account treats the noise as ideal. ``docs/privacy.md`` says so.
"""

from __future__ import annotations

import os
from fractions import Fraction
from math import pi

import numpy as np

from crypto.masking import KEY_BYTES, apply_streams

#: Gaussians that one value is the sum of; their number is a square, so that dividing by its root is exact.
PARTS = 4

#: Words made at a time: 8 MiB.
_CHUNK = 1 << 20


class Randomness:
    """A source of noise and samples. ``key``: for tests alone; a real one takes a new key from the system for each
    stretch of keystream, so no counter ever repeats."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key
        self._used = 0

    def words(self, count: int) -> np.ndarray:
        """uint64, uniform."""
        key = os.urandom(KEY_BYTES) if self._key is None else self._next()
        words = np.zeros(count, dtype=np.uint64)
        apply_streams(words, [(key, 1)])
        return words

    def gaussians(self, count: int) -> np.ndarray:
        """float64 of mean 0 and variance 1, independent."""
        return np.concatenate([self._gaussians(min(_CHUNK, count - at)) for at in range(0, count, _CHUNK)] or [_NONE])

    def sample(self, rows: int, rate: float) -> np.ndarray:
        """Numbers of the rows of a Poisson sample: each row by itself, with a probability of ``rate`` rounded down to a
        multiple of 2^−64. May be empty."""
        if rate >= 1:
            return np.arange(rows)
        below = int(Fraction(rate) * 2**64)
        return np.flatnonzero(self.words(rows) < np.uint64(below))

    def _gaussians(self, count: int) -> np.ndarray:
        """Box–Muller; the four of one value come from separate words."""
        halves = PARTS // 2
        words = self.words(2 * halves * count).reshape(2, halves, count)
        # (w + ½) / 2^64 is above 0 and keeps 53 bits near 0, where the tail comes from.
        radius = np.sqrt(-2 * np.log(np.minimum((words[0].astype(np.float64) + 0.5) * 2.0**-64, 1.0)))
        angle = words[1].astype(np.float64) * (2 * pi * 2.0**-64)
        both = radius * np.cos(angle) + radius * np.sin(angle)  # of one pair both are independent Gaussians
        total: np.ndarray = both.sum(axis=0) / np.sqrt(PARTS)
        return total

    def _next(self) -> bytes:
        """A key of its own for each stretch, also in tests."""
        assert self._key is not None
        self._used += 1
        return (int.from_bytes(self._key, "big") + self._used).to_bytes(KEY_BYTES + 1, "big")[-KEY_BYTES:]


_NONE = np.zeros(0)
