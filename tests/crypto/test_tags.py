"""Tags are exact, linear and the same for any number of threads; no change of one word or of a few goes unnoticed."""

import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import masking, tags
from crypto.plan import MAX_WORDS
from crypto.tags import BLOCK, COLUMN_BYTES, COLUMNS, TAG_BYTES

KEY = bytes(range(16))
RNG = np.random.default_rng(1)


def exact(integers: list[int], key: bytes = KEY) -> tuple[int, ...]:
    """The same with Python integers, from the module's docstring: r = u_a · v_j, v below 2^25, u below 2^32."""
    blocks = -(-len(integers) // BLOCK)
    count = (BLOCK + blocks) * COLUMNS
    stream = Cipher(AES128(key), CTR(bytes(16))).encryptor().update(bytes(4 * count))
    numbers = struct.unpack(f"<{count}I", stream)
    v, u = numbers[: BLOCK * COLUMNS], numbers[BLOCK * COLUMNS :]
    return tuple(
        sum(
            x * (v[place % BLOCK * COLUMNS + k] % 2**25) * u[place // BLOCK * COLUMNS + k]
            for place, x in enumerate(integers)
        )
        for k in range(COLUMNS)
    )


def words(size: int, bits: int = 32) -> np.ndarray:
    return RNG.integers(0, 2**bits, size=size, dtype=np.uint32)


@pytest.mark.parametrize("size", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 16 * BLOCK, 17 * BLOCK + 1])
@pytest.mark.parametrize(("bits", "dtype"), [(32, None), (32, np.uint8), (24, np.uint8), (24, np.uint16)])
def test_a_tag_is_exact(size, bits, dtype):
    x = words(size, bits)
    if dtype is None:
        assert tags.tag(x, KEY, bits=bits) == exact(x.tolist())
        return
    carries = RNG.integers(0, np.iinfo(dtype).max, size=size, dtype=dtype, endpoint=True)
    found = tags.tag(x, KEY, carries=carries, bits=bits)
    assert found == exact([w + 2**bits * c for w, c in zip(x.tolist(), carries.tolist(), strict=True)])


@pytest.mark.parametrize("word", [0, 1, 0xFFFF, 0x10000, 0xFFFFFFFF])
@pytest.mark.parametrize("carry", [0, 1, 0xFFFF])
def test_the_largest_and_smallest_integers_are_exact(word, carry):
    x = np.full(2 * BLOCK, word, dtype=np.uint32)
    found = tags.tag(x, KEY, carries=np.full(x.size, carry, dtype=np.uint16))
    assert found == exact([word + 2**32 * carry] * x.size)


def test_sums_of_a_block_are_exact_in_float64_and_columns_fit():
    assert BLOCK * (2**16 - 1) * (2**25 - 1) < 2**53
    assert 2 ** (8 * COLUMN_BYTES) > MAX_WORDS * 2**32 * 2**25 * 2**32
    assert TAG_BYTES == COLUMNS * COLUMN_BYTES == 80


@pytest.mark.parametrize("size", [BLOCK, 64 * BLOCK, 127 * BLOCK + 3, 128 * BLOCK, 200 * BLOCK + 1])
def test_any_number_of_threads_makes_the_same_tag(size):
    x, carries = words(size), RNG.integers(0, 4, size=size, dtype=np.uint8)
    found = tags.tag(x, KEY, carries=carries, threads=1)
    assert all(tags.tag(x, KEY, carries=carries, threads=count) == found for count in (None, 2, 3, 16))


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_threads_are_as_many_as_the_process_may_use(cores, monkeypatch):
    x = words(130 * BLOCK)
    monkeypatch.setattr(masking, "THREADS", cores)
    assert tags.tag(x, KEY) == tags.tag(x, KEY, threads=1)


@given(
    st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=9, max_size=9), min_size=1, max_size=4),
    st.binary(min_size=16, max_size=16),
)
@settings(max_examples=25)
def test_tags_are_linear(rows, key):
    """The tags of uploads add up to the tag of their sum over the integers, as words and carries."""
    parts = [tags.tag(np.array(row, dtype=np.uint32), key) for row in rows]
    total = np.array(rows, dtype=np.uint64).sum(axis=0)
    found = tags.tag(total.astype(np.uint32), key, carries=(total >> np.uint64(32)).astype(np.uint8))
    assert tags.add(parts) == found == exact([int(value) for value in total], key)


def test_the_tag_of_nothing_is_zero():
    assert tags.tag(np.zeros(0, np.uint32), KEY) == tags.tag(np.zeros(3, np.uint32), KEY) == tags.add([]) == (0,) * 5


def test_words_may_be_a_view_and_are_left_alone():
    x = words(200)
    before = x.copy()
    assert tags.tag(x[::2], KEY) == exact(x[::2].tolist())
    x.flags.writeable = False
    assert tags.tag(x, KEY) == exact(before.tolist()) and (x == before).all()


@pytest.mark.parametrize(
    "x",
    [np.zeros(3, np.int32), np.zeros(3, np.uint64), np.zeros(3, np.float32), np.zeros((3, 1), np.uint32)],
)
def test_a_tag_is_of_flat_words(x):
    with pytest.raises(TypeError, match="flat uint32"):
        tags.tag(x, KEY)


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("power", range(33))
def test_every_power_of_two_in_every_column_is_noticed(bits, power):
    """Over the integers no column loses a high bit: each of the five differs, for each 2-adic size of a change."""
    if power > bits:
        return
    x, carries = np.zeros(BLOCK + 2, np.uint32), np.zeros(BLOCK + 2, np.uint8)
    if power < bits:
        x[BLOCK + 1] = 1 << power
    else:
        carries[BLOCK + 1] = 1
    found = tags.tag(x, KEY, carries=carries, bits=bits)
    assert all(found) and found == exact([0] * (BLOCK + 1) + [1 << power])


def test_columns_blocks_and_keys_have_coins_of_their_own():
    """Also equal words in the same place of two blocks, with opposite signs over the integers."""
    one, other = np.zeros(2 * BLOCK, np.uint32), np.zeros(2 * BLOCK, np.uint32)
    one[5], other[BLOCK + 5] = 1, 1
    a, b = tags.tag(one, KEY), tags.tag(other, KEY)
    assert len({*a, *b}) == 2 * COLUMNS
    assert not set(a) & set(tags.tag(one, bytes(16)))


@given(st.tuples(*[st.integers(0, 2**128 - 1)] * COLUMNS))
def test_a_tag_is_80_bytes(one):
    data = tags.write(one)
    assert len(data) == TAG_BYTES and tags.read(data) == one


def test_big_endian():
    assert tags.write((1, 0, 0, 0, 2**127))[:16] == bytes(15) + b"\x01"
    assert tags.read(bytes(64) + b"\x80" + bytes(15)) == (0, 0, 0, 0, 2**127)
    assert tags.add([(1, 2, 3, 4, 5), (10, 20, 30, 40, 2**128 - 1)]) == (11, 22, 33, 44, 2**128 + 4)


def test_cores_are_those_of_the_process(monkeypatch):
    assert masking.workers_of(None) >= 1
    monkeypatch.setattr(masking.os, "sched_getaffinity", lambda pid: range(99))
    assert masking.workers_of(None) == 16
    assert masking.workers_of(40) == 40
    monkeypatch.delattr(masking.os, "sched_getaffinity")
    monkeypatch.setattr(masking.os, "cpu_count", lambda: None)
    assert masking.workers_of(None) == 1
