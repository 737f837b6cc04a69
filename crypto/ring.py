"""Floats to Z/2^32 and back, with head-room proved at construction.

A silo encodes ``q(clip(x) · share)`` with ``share = w / w_max`` in (0, 1]. With
``limit = ⌊(2^31 − 1) / n_max⌋`` every |q| ≤ limit, so the sum of n_max of them fits in 32 bits, two's complement:
it cannot wrap whatever the silos send honestly (secagg literature calls this no-overflow by construction).
Rounding is to nearest, ties to even: each silo errs by at most ``clip / (2 · limit)``, in units of ``clip(x) · share``.
The mean divides by the sum of shares, and no share is below a quarter (see ``plan``), so it errs by at most
``2 · clip / limit`` per value.
"""

from __future__ import annotations

import numpy as np

from crypto.errors import HeadroomExceeded, NonFinite, OutOfRange

#: Elements encoded at a time: small enough to stay in the second-level cache.
_CHUNK = 1 << 16


def limit(n_max: int) -> int:
    """Largest magnitude one silo may add so that ``n_max`` of them cannot wrap."""
    bound = (2**31 - 1) // n_max
    if bound < 2**8:
        raise HeadroomExceeded(f"With {n_max} silos fewer than 8 bits a value are left.")
    return bound


def encode(x: np.ndarray, out: np.ndarray, *, clip: float, share: float, n_max: int) -> None:
    """Write ``q(clip(x) · share)`` into ``out`` (uint32, same length as the flat float array ``x``).

    Raises NonFinite for NaN or infinity anywhere in ``x`` and OutOfRange for a share outside (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise OutOfRange(f"A weight share of {share} is outside (0, 1].")
    scale = share * limit(n_max) / clip
    for at in range(0, x.size, _CHUNK):
        part = x[at : at + _CHUNK].astype(np.float64)
        if not np.isfinite(part).all():
            raise NonFinite("A value to be summed is NaN or infinite.")
        np.clip(part, -clip, clip, out=part)
        part *= scale
        np.rint(part, out=part)
        out[at : at + _CHUNK] = part.astype(np.int64).astype(np.uint32)


def decode(total: np.ndarray, *, clip: float, n_max: int) -> np.ndarray:
    """The opened sum (uint32) as float64, in units of ``clip(x) · share``."""
    return total.view(np.int32).astype(np.float64) * (clip / limit(n_max))
