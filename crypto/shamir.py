"""Shamir's secret sharing of 32-byte seeds over the prime field p = 2^256 + 297.

(A. Shamir, How to share a secret, CACM 22(11), 1979.) p is the smallest prime above 2^256, so every 32-byte secret
is a field element; a share is 33 bytes, big-endian. Fewer than t shares reveal nothing about the secret: the
secrecy is information-theoretic. Python integers are fast enough up to some hundred silos.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from math import prod

from crypto.errors import Malformed

P = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33

Entropy = Callable[[int], bytes]


def _uniform(entropy: Entropy) -> int:
    """Uniform in [0, p) by rejection from 33 bytes cut to 257 bits."""
    while True:
        value = int.from_bytes(entropy(SHARE_BYTES), "big") & (2**257 - 1)
        if value < P:
            return value


def split(secret: bytes, threshold: int, points: Sequence[int], entropy: Entropy = os.urandom) -> list[bytes]:
    """One share per point x; any ``threshold`` of them give the secret back. Points are distinct and non-zero."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret of {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(points) or len(set(points)) != len(points) or not all(0 < x < P for x in points):
        raise ValueError("distinct non-zero points, at least as many as the threshold")
    coefficients = [int.from_bytes(secret, "big")] + [_uniform(entropy) for _ in range(threshold - 1)]
    highest_first = coefficients[::-1]
    shares = []
    for x in points:
        value = 0
        for coefficient in highest_first:
            value = value * x + coefficient  # points are small: reducing once at the end costs less than at each step
        shares.append((value % P).to_bytes(SHARE_BYTES, "big"))
    return shares


def value_of(share: bytes) -> int:
    """The field element, or Malformed for a wrong length or a value ≥ p."""
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= P:
        raise Malformed("A share that is no canonical field element.")
    return value


@lru_cache(maxsize=1024)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange weights at 0 for a set of points: the same for every secret that this set opens."""
    # w_i = Π_{j≠i} x_j / (x_j − x_i) = Π x_j / (x_i · Π_{j≠i} (x_j − x_i)), all denominators inverted at once.
    bottoms = [x * prod([other - x for other in points if other != x]) % P for x in points]
    before = list(accumulate(bottoms, lambda a, b: a * b % P, initial=1))
    inverse = pow(before[-1], -1, P) * prod(points) % P
    weights = []
    for bottom, product in zip(reversed(bottoms), reversed(before[:-1]), strict=True):
        weights.append(inverse * product % P)
        inverse = inverse * bottom % P
    return tuple(reversed(weights))


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from at least ``threshold`` shares (point → share); the lowest points are used.

    Raises Malformed if the result is no 32-byte secret, which shares of one honest dealer never give.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares do not reach the threshold {threshold}")
    points = tuple(sorted(shares)[:threshold])
    secret = sum(w * value_of(shares[x]) for w, x in zip(_weights(points), points, strict=True)) % P
    if secret >= 2**256:
        raise Malformed("The shares do not combine to a 32-byte secret.")
    return secret.to_bytes(SECRET_BYTES, "big")
