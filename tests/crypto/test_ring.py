"""Floats to Z/2^32 and back: exact sums, no wrap, bounded error, no NaN."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crypto import ring
from crypto.errors import HeadroomExceeded, NonFinite, OutOfRange
from crypto.plan import MAX_CLIP, MIN_CLIP

N_MAX = [1, 2, 3, 5, 8, 16, 100, 1000]
VALUES = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-4, 4))


def encoded(x, **options):
    out = np.zeros(x.size, dtype=np.uint32)
    ring.encode(x, out, **options)
    return out


@pytest.mark.parametrize("n", N_MAX)
def test_n_max_extreme_values_do_not_wrap(n):
    """All at +clip and all at −clip, full share: the sum is exactly ± n · limit."""
    x = np.array([1e30, -1e30, 2.5, -2.5])
    words = encoded(x, clip=2.5, share=1.0, n_max=n)
    total = np.zeros(4, dtype=np.uint32)
    for _ in range(n):
        total += words
    bound = n * ring.limit(n)
    assert bound <= 2**31 - 1
    assert total.view(np.int32).tolist() == [bound, -bound, bound, -bound]
    assert ring.decode(total, clip=2.5, n_max=n).tolist() == pytest.approx(
        [2.5 * n, -2.5 * n, 2.5 * n, -2.5 * n], rel=1e-15
    )


@given(st.sampled_from(N_MAX), st.data())
def test_the_ring_sum_is_the_sum_of_the_integers(n, data):
    count = data.draw(st.integers(1, min(n, 12)))
    size = data.draw(st.integers(1, 8))
    clip = data.draw(st.sampled_from([1e-6, 0.3, 1.0, 7.0, 1e12]))
    total, exact = np.zeros(size, dtype=np.uint32), [0] * size
    for _ in range(count):
        x = data.draw(hnp.arrays(np.float64, size, elements=st.floats(-1e13, 1e13)))
        share = data.draw(st.sampled_from([0.25, 0.5, 1.0]))
        words = encoded(x, clip=clip, share=share, n_max=n)
        quantised = [round(Fraction(min(max(value, -clip), clip) * (share * ring.limit(n) / clip))) for value in x]
        assert words.view(np.int32).tolist() == quantised
        total += words
        exact = [a + b for a, b in zip(exact, quantised, strict=True)]
    assert total.view(np.int32).tolist() == exact


@given(VALUES, st.sampled_from(N_MAX), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_decode_after_encode_is_within_half_a_step(x, n, share):
    words = encoded(x, clip=2.0, share=share, n_max=n)
    back = ring.decode(words, clip=2.0, n_max=n)
    step = 2.0 / ring.limit(n)
    assert np.abs(back - np.clip(x, -2, 2) * share).max() <= step * 0.5 * (1 + 1e-6)


def test_rounding_is_to_nearest_ties_to_even():
    half = 1.0 / ring.limit(8)
    words = encoded(np.array([0.4, 0.5, 0.6, 1.5, 2.5, -0.5, -1.5]) * half, clip=1.0, share=1.0, n_max=8)
    assert words.view(np.int32).tolist() == [0, 0, 1, 2, 2, 0, -2]


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 4]), st.floats(-1.5, 1.5)), min_size=1, max_size=8))
@example([(1, 1.96 / ring.limit(8))] * 8)  # × 1/4 → 0.49, rounds to 0: the whole value is lost, for every silo
def test_the_error_of_the_mean_is_at_most_twice_clip_over_limit(rows):
    """Weights from 1 to 4 of 4: no share is below a quarter."""
    n, clip = 8, 1.0
    step = clip / ring.limit(n)
    total = np.zeros(1, dtype=np.uint32)
    for weight, x in rows:
        total += encoded(np.array([x]), clip=clip, share=weight / 4, n_max=n)
    weights = sum(weight for weight, _ in rows)
    mean = ring.decode(total, clip=clip, n_max=n)[0] * 4 / weights
    want = sum(Fraction(min(max(x, -clip), clip)) * weight for weight, x in rows) / weights
    assert abs(mean - float(want)) <= 2 * step * (1 + 1e-6)


def test_that_bound_is_reached():
    x = np.array([1.96 / ring.limit(4)])
    assert encoded(x, clip=1.0, share=1 / 4, n_max=4).tolist() == [0]


@given(VALUES, st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 19))
def test_one_value_that_is_not_finite_is_refused(x, bad, place):
    x[place % x.size] = bad
    with pytest.raises(NonFinite):
        encoded(x, clip=1.0, share=1.0, n_max=4)


def test_a_value_that_is_not_finite_is_found_in_a_later_chunk():
    x = np.zeros(ring._CHUNK + 3, dtype=np.float32)
    x[-1] = np.nan
    with pytest.raises(NonFinite):
        encoded(x, clip=1.0, share=1.0, n_max=4)


def test_chunks_change_nothing(monkeypatch):
    x = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    whole = encoded(x, clip=1.0, share=0.5, n_max=9)
    for chunk in (1, 7, 4999, 5000, 6000):
        monkeypatch.setattr(ring, "_CHUNK", chunk)
        assert (encoded(x, clip=1.0, share=0.5, n_max=9) == whole).all()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.0000001, 2.0, float("nan"), float("inf")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(OutOfRange):
        encoded(np.ones(1), clip=1.0, share=share, n_max=4)


def test_head_room_is_refused_below_8_bits():
    largest = (2**31 - 1) // 2**8
    assert ring.limit(largest) == 2**8
    with pytest.raises(HeadroomExceeded):
        ring.limit(largest + 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_the_input_is_not_changed_whatever_its_dtype(dtype):
    x = np.array([3, -3, 0, 1], dtype=dtype)
    before = x.copy()
    words = encoded(x, clip=2.0, share=1.0, n_max=4)
    assert (x == before).all()
    assert words.view(np.int32).tolist() == [ring.limit(4), -ring.limit(4), 0, round(ring.limit(4) / 2)]


@pytest.mark.parametrize("clip", [MIN_CLIP, MAX_CLIP])
@pytest.mark.parametrize("n", N_MAX)
def test_the_smallest_and_the_largest_clip_of_a_plan_encode(clip, n):
    words = encoded(np.array([1e300, -1e300, clip, 0.0, 5e-324]), clip=clip, share=1.0, n_max=n)
    assert words.view(np.int32).tolist() == [ring.limit(n), -ring.limit(n), ring.limit(n), 0, 0]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_three_bytes_a_word_travel_and_come_back(words):
    vector = np.array(words, dtype=np.uint32)
    wire = ring.pack(vector, 24)
    assert wire.dtype == np.uint32 and wire.size == ring.wire_words(vector.size, 24) == -(-3 * vector.size // 4)
    assert (ring.unpack(wire, vector.size, 24) == vector & 0xFFFFFF).all()
    assert ring.pack(vector, 32) is vector and ring.unpack(vector, vector.size, 32) is vector


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.integers(1, 8))
def test_a_24_bit_ring_sums_exactly_and_decodes_within_its_error(values, n):
    """n silos with the same values and full shares: the sum modulo 2^24 decodes to n times what each encoded."""
    x = np.array(values)
    total = np.zeros(x.size, np.uint32)
    for _ in range(n):
        one = np.empty(x.size, np.uint32)
        ring.encode(x, one, clip=1.0, share=1.0, n_max=8, bits=24)
        total += ring.unpack(ring.pack(one, 24), x.size, 24)
    mean = ring.decode(ring.reduce(total, 24), clip=1.0, n_max=8, bits=24) / n
    assert np.abs(mean - x).max() <= 0.5 / ring.limit(8, 24) * (1 + 1e-9)
