"""Mask streams: AES-128-CTR keystream added to, or taken from, a vector of ring words.

A key is derived for one purpose, used for one stream and forgotten; the counter starts at 0, so word i of a lane is
always masked by the same four (or eight) bytes of its key, whatever the block size or the number of threads. AES in
counter mode is a pseudorandom function family (NIST SP 800-38A §6.5): the masked vector is computationally
indistinguishable from uniform as long as one stream's key is unknown. Keystream and addition are fused over blocks
that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR

KEY_BYTES = 16
#: Bytes of keystream per block: the fastest of 16…512 KiB on the machines measured.
BLOCK = 1 << 17

_ZEROS = bytes(BLOCK)


def apply_streams(vector: np.ndarray, streams: Iterable[tuple[bytes, int]]) -> None:
    """Add (sign +1) or subtract (−1) each key's keystream, in place. ``vector``: uint32 or uint64, contiguous.

    Words are little-endian in the keystream on every machine.
    """
    if vector.dtype not in (np.uint32, np.uint64) or vector.ndim != 1:
        raise TypeError(f"ring words are flat uint32 or uint64, not {vector.dtype} of {vector.ndim} dimensions")
    size = vector.dtype.itemsize
    word = np.dtype(f"<u{size}")
    contexts = [(Cipher(AES128(key), CTR(bytes(16))).encryptor(), sign) for key, sign in streams]
    buffer = bytearray(BLOCK + 15)
    keystream = np.frombuffer(buffer, dtype=word, count=BLOCK // size)
    for at in range(0, vector.size, BLOCK // size):
        part = vector[at : at + BLOCK // size]
        for context, sign in contexts:
            context.update_into(memoryview(_ZEROS)[: part.size * size], buffer)
            if sign > 0:
                np.add(part, keystream[: part.size], out=part)
            else:
                np.subtract(part, keystream[: part.size], out=part)
