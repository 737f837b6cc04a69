"""Streams: NIST SP 800-38A through our wrapper, one layout whatever the block, and cancellation."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from hypothesis import given
from hypothesis import strategies as st

from crypto import masking
from crypto.masking import apply_streams

# NIST SP 800-38A F.5.1 CTR-AES128.Encrypt: key, initial counter, the four output blocks (the keystream), and the
# plaintext and ciphertext, whose xor must be that keystream.
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
OUTPUT = bytes.fromhex(
    "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae6a2cc3787889374fbeb4c81b17ba6c44e89c399ff0f198c6d40a31db156cabfe"
)
PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
CIPHER = bytes.fromhex(
    "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
)

DTYPES = [np.uint32, np.uint64]
KEYS = st.binary(min_size=16, max_size=16)


def keystream(key: bytes, size: int) -> bytes:
    """AES-CTR written out: AES-ECB of the counters 0, 1, 2, …"""
    blocks = -(-size // 16)
    counters = b"".join(i.to_bytes(16, "big") for i in range(blocks))
    return Cipher(AES128(key), ECB()).encryptor().update(counters)[:size]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sp_800_38a(monkeypatch, dtype):
    """Our streams start at counter 0; with the NIST counter instead, the NIST output blocks come out."""
    assert bytes(a ^ b for a, b in zip(PLAIN, CIPHER, strict=True)) == OUTPUT
    monkeypatch.setattr(masking, "CTR", lambda nonce: CTR(COUNTER))
    vector = np.zeros(64 // np.dtype(dtype).itemsize, dtype=dtype)
    apply_streams(vector, [(KEY, 1)])
    assert vector.astype(vector.dtype.newbyteorder("<")).tobytes() == OUTPUT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size",
    [0, 1, 2, 3, 4, 5, 1023, masking.BLOCK // 8, masking.BLOCK // 4, masking.BLOCK // 4 + 1, masking.BLOCK // 2 + 3],
)
def test_word_i_is_masked_by_its_own_bytes_of_the_key_stream(dtype, size):
    vector = np.zeros(size, dtype=dtype)
    apply_streams(vector, [(KEY, 1)])
    want = np.frombuffer(keystream(KEY, vector.nbytes), dtype=np.dtype(dtype).newbyteorder("<"))
    assert (vector == want).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_block_size_changes_nothing(monkeypatch, dtype):
    rng = np.random.default_rng(0)
    start = rng.integers(0, 2**32, size=3001, dtype=dtype)
    streams = [(rng.bytes(16), sign) for sign in (1, -1, 1)]
    want = start.copy()
    apply_streams(want, streams)
    for block in (16, 48, 1024, 4096):
        monkeypatch.setattr(masking, "BLOCK", block)
        monkeypatch.setattr(masking, "_ZEROS", bytes(block))
        vector = start.copy()
        apply_streams(vector, streams)
        assert (vector == want).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 4097, 20_000])
def test_the_number_of_threads_changes_nothing(monkeypatch, dtype, size):
    rng = np.random.default_rng(1)
    start = rng.integers(0, 2**32, size=size, dtype=dtype)
    streams = [(rng.bytes(16), sign) for sign in (1, -1, -1)]
    want = start.copy()
    apply_streams(want, streams, threads=1)
    monkeypatch.setattr(masking, "BLOCK", 1024)
    monkeypatch.setattr(masking, "_ZEROS", bytes(1024))
    monkeypatch.setattr(masking, "_SHARE", 1)
    for threads in (2, 3, 7, 100):
        vector = start.copy()
        apply_streams(vector, iter(streams), threads=threads)
        assert (vector == want).all()


def test_a_failing_thread_is_heard(monkeypatch):
    monkeypatch.setattr(masking, "_SHARE", 1)
    with pytest.raises(ValueError):
        apply_streams(np.zeros(masking.BLOCK, dtype=np.uint32), [(b"short", 1)], threads=2)


@given(
    st.lists(st.tuples(KEYS, st.sampled_from([1, -1])), max_size=5),
    st.integers(0, 300),
    st.sampled_from(DTYPES),
    st.randoms(use_true_random=False),
)
def test_streams_add_up_in_any_order_and_split(streams, size, dtype, random):
    want = np.arange(size, dtype=dtype)
    for key, sign in streams:
        part = np.frombuffer(keystream(key, want.nbytes), dtype=np.dtype(dtype).newbyteorder("<"))
        want = want + part if sign > 0 else want - part
    vector = np.arange(size, dtype=dtype)
    shuffled = random.sample(streams, len(streams))
    cut = random.randint(0, len(streams))
    apply_streams(vector, shuffled[:cut])
    apply_streams(vector, iter(shuffled[cut:]))
    assert (vector == want).all()
    apply_streams(vector, [(key, -sign) for key, sign in streams])
    assert (vector == np.arange(size, dtype=dtype)).all()


def test_nothing_is_done_without_streams():
    vector = np.arange(10, dtype=np.uint32)
    apply_streams(vector, [])
    assert vector.tolist() == list(range(10))


def test_a_word_changes_only_its_own_masked_word():
    one, other = np.zeros(100, dtype=np.uint32), np.zeros(100, dtype=np.uint32)
    other[42] = 1
    for vector in (one, other):
        apply_streams(vector, [(KEY, 1), (KEY[::-1], -1)])
    assert np.flatnonzero(one != other).tolist() == [42]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_vector_that_is_not_of_ring_words_is_refused(dtype):
    with pytest.raises((TypeError, ValueError)):
        apply_streams(np.zeros(8, dtype=dtype), [(KEY, 1)])
