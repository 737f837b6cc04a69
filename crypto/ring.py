"""Floats to Z/2^b and back, b = 32 or 24, with head-room proved at construction.

A silo encodes ``q(clip(x) · share)`` with ``share = w / w_max`` in (0, 1]. With
``limit = ⌊(2^(b−1) − 1) / n_max⌋`` every |q| ≤ limit, so the sum of n_max of them fits in b bits, two's complement:
it cannot wrap for any honest inputs (no overflow by construction).
Words are uint32 in memory for both; the 24-bit ring is Z/2^32 with the top byte ignored, so masks and sums are the
same operations, and only three bytes of each word travel.
Rounding is to nearest, ties to even: each silo errs by at most ``clip / (2 · limit)``, in units of ``clip(x) · share``.
The mean divides by the sum of shares, and no share is below a quarter (see ``plan``), so it errs by at most
``2 · clip / limit`` per value.
"""

from __future__ import annotations

from math import isfinite

import numpy as np

from crypto.errors import HeadroomExceeded, NonFinite, OutOfRange

#: Elements encoded at a time, in a mebibyte of scratch: fewer cost more in calls, more leave the cache.
_CHUNK = 1 << 17


def limit(n_max: int, bits: int = 32) -> int:
    """Largest magnitude one silo may add so that ``n_max`` of them cannot wrap ``bits`` bits."""
    bound = ((1 << (bits - 1)) - 1) // n_max
    if bound < 2**8:
        raise HeadroomExceeded(f"With {n_max} silos fewer than 8 bits a value are left.")
    return bound


def encode(x: np.ndarray, out: np.ndarray, *, clip: float, share: float, n_max: int, bits: int = 32) -> None:
    """Write ``q(clip(x) · share)`` into ``out`` (uint32, same length as the flat float array ``x``).

    Computed in float64 for any dtype of ``x``, in one pass over it with a mebibyte of scratch memory.
    Raises NonFinite for NaN or infinity anywhere in ``x`` and OutOfRange for a share outside (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise OutOfRange(f"A weight share of {share} is outside (0, 1].")
    scale = share * limit(n_max, bits) / clip
    bound = round(clip * scale)
    words = out.view(np.int32)
    scratch = np.empty(min(_CHUNK, x.size), dtype=np.float64)
    for at in range(0, x.size, _CHUNK):
        part, word = x[at : at + _CHUNK], words[at : at + _CHUNK]
        # Both extremes are NaN if one value is, and infinite values are extremes: one test finds forbidden values
        # and whether anything is to be clipped. Scaling and rounding keep the order of values, so it makes no
        # difference whether that happens before or after them; after, it is done on half as many bytes.
        low, high = float(np.minimum.reduce(part)), float(np.maximum.reduce(part))
        if not (isfinite(low) and isfinite(high)):
            raise NonFinite("A value to be summed is NaN or infinite.")
        value = scratch[: part.size]
        np.copyto(value, part)
        largest = max(-low, high)
        if largest * scale > 2**31 - 1:
            np.clip(value, -clip, clip, out=value)
        np.multiply(value, scale, out=value)
        np.rint(value, out=value)
        np.copyto(word, value, casting="unsafe")
        if largest > clip:
            np.clip(word, -bound, bound, out=word)


def decode(total: np.ndarray, *, clip: float, n_max: int, bits: int = 32) -> np.ndarray:
    """The opened sum (uint32) as float64, in units of ``clip(x) · share``."""
    return signed(total, bits).astype(np.float64) * (clip / limit(n_max, bits))


def signed(words: np.ndarray, bits: int) -> np.ndarray:
    """Ring words (uint32) as the integers that they stand for (int32): two's complement in ``bits`` bits."""
    integers: np.ndarray = words.view(np.int32) if bits == 32 else (words << (32 - bits)).view(np.int32) >> (32 - bits)
    return integers


def bound(n_max: int, bits: int, *, weight: int, heaviest: int, contributors: int) -> int:
    """The largest magnitude of an honest sum: of ``contributors`` vectors whose weights, each at most ``heaviest``, add
    up to ``weight``. A silo adds at most ``limit · w / heaviest`` rounded to nearest; one unit is for float64."""
    return limit(n_max, bits) * weight // heaviest + (contributors + 1) // 2 + 1


def reduce(total: np.ndarray, bits: int) -> np.ndarray:
    """The canonical words of a sum: those of 24-bit rings have a zero top byte. In place."""
    if bits != 32:
        np.bitwise_and(total, np.uint32(2**bits - 1), out=total)
    return total


def wire_words(count: int, bits: int) -> int:
    """How many uint32 words ``count`` ring words take on the wire."""
    return -(-count * bits // 32)


def pack(words: np.ndarray, bits: int) -> np.ndarray:
    """Ring words as they travel: themselves for 32 bits; the three low bytes of each, zero-padded, for 24."""
    if bits == 32:
        return words
    packed = np.zeros(4 * wire_words(words.size, bits), dtype=np.uint8)
    packed[: 3 * words.size].reshape(-1, 3)[:] = words.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)[:, :3]
    return packed.view("<u4").astype(np.uint32, copy=False)


def unpack(wire: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The ring words again, as uint32. ``wire`` has ``wire_words(count, bits)`` words."""
    if bits == 32:
        return wire
    words = np.zeros((count, 4), dtype=np.uint8)
    words[:, :3] = np.ascontiguousarray(wire, dtype="<u4").view(np.uint8)[: 3 * count].reshape(-1, 3)
    return words.reshape(-1).view("<u4").astype(np.uint32, copy=False)
