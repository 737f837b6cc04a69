"""Tags: short proofs that an announced sum is the sum of the uploads.

The coin r is public: for each word of a lane K = 5 integers, made by AES-128-CTR from a hash of the *announced* result.
The tag of a vector x of integers is the K inner products ⟨r, x⟩, over the integers. Tags are linear, so the tags of the
uploads add up to the tag of their sum, and to no other vector's tag but by chance.

r has two levels, so that it costs little to make: the words are cut into blocks of B, and word j of block a has
r = u_a · v_j, with v_j below 2^25 the same in all blocks and u_a below 2^32. Soundness: let D ≠ 0 be the announced sum
less the true one. Some block of D is not zero. Its product with v is zero for a share of at most 2^-25 of all v: fix
all of v but one word where D is not zero. If it is not zero, the sum over the blocks is zero for at most 2^-32 of u_a.
The K columns are independent, so D goes unnoticed with a chance of at most (2^-25 + 2^-32)^5 < 2^-124.

The coin depends on the announced words through SHA-256, so a server can't choose the words after the coin. It may try
many sums, each with its own coin: 2^124 of them (the transform of A. Fiat and A. Shamir, How to prove yourself, CRYPTO
1986; the check is R. Freivalds', Probabilistic machines can use less running time, IFIP 1977). The claim ends where
SHA-256 or AES-128 can be told from random functions. A coin that is fixed *before* the sum is announced would prove
nothing: vectors with ⟨r, D⟩ = 0 are found by linear algebra.

A tag is of words that the server holds anyway (``crypto.proof``), so it reveals nothing and is not masked.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR

from crypto.masking import workers_of

#: Inner products of one tag.
COLUMNS = 5
#: Bytes of one inner product of an upload, big-endian: less than 2^29 words · 2^32 · 2^25 · 2^32 = 2^118.
COLUMN_BYTES = 16
#: Bytes of one lane's tag.
TAG_BYTES = COLUMNS * COLUMN_BYTES

#: Words of a block. The sums of 2^12 products of 16 and 25 bits are at most 2^53: exact in float64 in any order.
BLOCK = 1 << 12
#: Bits of v.
_BITS = 25
#: Blocks at a time, in half a mebibyte of scratch; and those that are worth a thread of their own.
_BATCH, _SHARE = 16, 64

#: COLUMNS integers.
Tag = tuple[int, ...]


def tag(
    words: np.ndarray, key: bytes, *, carries: np.ndarray | None = None, bits: int = 32, threads: int | None = None
) -> Tag:
    """⟨r, x⟩ for each column of the coin under ``key`` (16 bytes). ``words``: (n,) uint32.

    x is ``words``, or with ``carries``, (n,) of at most 16 bits each, ``words + 2^bits · carries``. ``threads``: see
    ``masking.workers_of``.
    """
    if words.dtype != np.uint32 or words.ndim != 1:
        raise TypeError(f"a tag is of flat uint32 words, not {words.dtype} of {words.ndim} dimensions")
    blocks = -(-words.size // BLOCK)
    stream = Cipher(AES128(key), CTR(bytes(16))).encryptor()
    low_BK = np.frombuffer(stream.update(bytes(4 * BLOCK * COLUMNS)), dtype="<u4").reshape(BLOCK, COLUMNS)
    v_BK = (low_BK & ((1 << _BITS) - 1)).astype(np.float64)
    u_AK = np.frombuffer(stream.update(bytes(4 * blocks * COLUMNS)), dtype="<u4").reshape(blocks, COLUMNS)
    work = partial(_products, words, carries, bits, v_BK, u_AK)
    workers = max(1, min(workers_of(threads), blocks // _SHARE))
    cuts = [blocks * i // workers for i in range(workers + 1)]
    if workers == 1:
        parts = [work(0, blocks)]
    else:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda cut: work(*cut), pairwise(cuts)))
    return tuple(sum(column) for column in zip(*parts, strict=True))


def _products(
    words: np.ndarray,
    carries: np.ndarray | None,
    bits: int,
    v_BK: np.ndarray,
    u_AK: np.ndarray,
    first: int,
    last: int,
) -> list[int]:
    """The inner products of the blocks from ``first`` to before ``last``."""
    totals = [0] * COLUMNS
    limb_AB = np.empty((_BATCH, BLOCK))
    for block in range(first, last, _BATCH):
        part = slice(block * BLOCK, min(block + _BATCH, last) * BLOCK)
        x = words[part]
        u_KA = u_AK[block : min(block + _BATCH, last)].T.tolist()
        limbs = [(x & np.uint32(0xFFFF), 0), (x >> np.uint32(16), 16)]
        if carries is not None:
            limbs.append((carries[part], bits))
        for limb, shift in limbs:
            rows = -(-limb.size // BLOCK)
            flat = limb_AB.reshape(-1)
            np.copyto(flat[: limb.size], limb)
            flat[limb.size : rows * BLOCK] = 0.0
            products_KA = (limb_AB[:rows] @ v_BK).T.tolist()
            for column in range(COLUMNS):
                inner = sum(u * int(p) for u, p in zip(u_KA[column], products_KA[column], strict=True))
                totals[column] += inner << shift
    return totals


def write(one: Tag) -> bytes:
    return b"".join(value.to_bytes(COLUMN_BYTES, "big") for value in one)


def read(data: bytes) -> Tag:
    """The tag of TAG_BYTES bytes."""
    return tuple(int.from_bytes(data[at : at + COLUMN_BYTES], "big") for at in range(0, TAG_BYTES, COLUMN_BYTES))


def add(tags: list[Tag]) -> Tag:
    return tuple(sum(column) for column in zip(*tags, strict=True)) if tags else (0,) * COLUMNS
