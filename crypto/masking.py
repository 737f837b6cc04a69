"""Mask streams: AES-128-CTR keystream added to, or taken from, a vector of ring words.

A key is derived for one purpose, used for one stream and forgotten; the counter starts at 0, so word i of a lane is
always masked by the same four (or eight) bytes of its key, for any block size and number of threads. AES in
counter mode is a pseudorandom function family (NIST SP 800-38A §6.5): the masked vector is computationally
indistinguishable from uniform as long as one stream's key is unknown. Keystream and addition are fused over blocks
that stay in cache; a thread starts anywhere in a stream, since its counter there is the byte offset over 16.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR

KEY_BYTES = 16
#: Bytes of keystream per block, a multiple of 16: the fastest of 16…512 KiB on the machines measured.
BLOCK = 1 << 17
#: Threads of one call, unless it is given a number; None: as many as the process may use, up to 16.
THREADS: int | None = None

#: Bytes of keystream that are worth a thread of their own.
_SHARE = 1 << 23
_AES_BLOCK = 16
_ZEROS = bytes(BLOCK)


def apply_streams(vector: np.ndarray, streams: Iterable[tuple[bytes, int]], *, threads: int | None = None) -> None:
    """Add (sign +1) or subtract (−1) each key's keystream, in place. ``vector``: uint32 or uint64, contiguous.

    Words are little-endian in the keystream on every machine. AES and the addition let other threads run: ``threads``
    (default: ``THREADS``) share the blocks, and small vectors are done in the caller's. Beyond the vector it takes
    one block of memory per thread, and about 1 KiB per stream and thread.
    """
    if vector.dtype not in (np.uint32, np.uint64) or vector.ndim != 1:
        raise TypeError(f"ring words are flat uint32 or uint64, not {vector.dtype} of {vector.ndim} dimensions")
    streams = list(streams)
    per_block = BLOCK // vector.dtype.itemsize
    blocks = -(-vector.size // per_block)
    workers = min(workers_of(threads), blocks, max(1, vector.nbytes * len(streams) // _SHARE))
    if workers <= 1:
        _apply(vector, streams, 0)
        return
    cuts = [blocks * i // workers * per_block for i in range(workers)] + [vector.size]
    with ThreadPoolExecutor(workers) as pool:
        parts = [pool.submit(_apply, vector[a:b], streams, a) for a, b in pairwise(cuts)]
    for part in parts:
        part.result()


def _apply(vector: np.ndarray, streams: Sequence[tuple[bytes, int]], first: int) -> None:
    """One thread's share: the words from ``first`` on, a whole number of blocks into the lane."""
    size = vector.dtype.itemsize
    counter = CTR((first * size // _AES_BLOCK).to_bytes(_AES_BLOCK, "big"))
    contexts = [
        (Cipher(AES128(key), counter).encryptor().update_into, np.add if sign > 0 else np.subtract)
        for key, sign in streams
    ]
    buffer = bytearray(BLOCK + _AES_BLOCK - 1)  # update_into wants room for a partial cipher block
    keystream = np.frombuffer(buffer, dtype=np.dtype(f"<u{size}"), count=BLOCK // size)
    zeros = memoryview(_ZEROS)
    for at in range(0, vector.size, BLOCK // size):
        part = vector[at : at + BLOCK // size]
        if part.size < keystream.size:
            keystream, zeros = keystream[: part.size], zeros[: part.nbytes]
        for update_into, operation in contexts:
            update_into(zeros, buffer)
            operation(part, keystream, out=part)


def workers_of(threads: int | None) -> int:
    """How many threads a call may use: as many as it says, else ``THREADS``, else the processors that this process may
    run on, at most 16: beyond that memory, not AES, is the limit."""
    if wanted := threads or THREADS:
        return wanted
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)
