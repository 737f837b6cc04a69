"""False sums of every shape, told to everyone: whoever checks the tags of the honest survivors refuses them."""

from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import proof, ring, tags
from crypto.errors import SumNotProven
from crypto.proof import Sum, check_result, coin_key
from tests.kernel import unseen
from tests.proven import BITS, CHARTER, PLAN, RESULT, RUN, RUNS, assert_refused, changed, sums_of, tell

# --- the true sum, and false ones ---------------------------------------------------------------------------------


@BITS
def test_the_true_sum_is_proven(bits):
    run = RUNS[bits]
    result, signed = tell(run, sums_of(run))
    assert result == run.server.result and [one.lane for one in result.sums] == ["trunk", "quiet", "open"]
    check_result(CHARTER, run.plan, result, sums_of(run), signed)
    for lane, found in sums_of(run).items():
        assert (found.words == run.expected(lane)).all()
        assert found.carries.any()  # the residues look random: some sum of them wraps


@BITS
@pytest.mark.parametrize("lane", ["trunk", "quiet", "open"])
@pytest.mark.parametrize("power", range(20))
def test_one_word_with_one_more_of_a_power_of_two(bits, lane, power):
    def change(found):
        found.words[-1] = (int(found.words[-1]) + 2**power) % 2**bits

    assert_refused(RUNS[bits], changed(RUNS[bits], lane, change))


@BITS
@pytest.mark.parametrize("power", range(20))
def test_two_words_with_opposite_changes(bits, power):
    """Their sum stays, and the sum of any power-of-two column: odd products see them all the same."""

    def change(found):
        for place, sign in ((3, 1), (17, -1)):
            found.words[place] = (int(found.words[place]) + sign * 2**power) % 2**bits

    assert_refused(RUNS[bits], changed(RUNS[bits], "trunk", change))


@pytest.mark.parametrize("power", [24, 28, 29, 30, 31])
def test_high_powers_are_noticed_before_the_clip_is(power, monkeypatch):
    """A change that large is beyond the clip; without that check the tags notice it."""
    monkeypatch.setattr(proof, "check_bounds", lambda *args: None)

    def change(found):
        found.words[:1] += np.uint32(2**power)

    assert_refused(RUN, changed(RUN, "trunk", change))


@BITS
def test_a_multiple_of_the_modulus(bits):
    """2^32 or 2^24 more or less, by the carries alone: the ring's sum is the true one, the integers are not."""
    run = RUNS[bits]
    places = sums_of(run)["trunk"].carries
    for one, other in ((1, 0), (1, -1), (-1, 1)):

        def change(found, one=one, other=other):
            low, high = int(np.argmin(places)), int(np.argmax(places))
            first, second = (low, high) if one > 0 else (high, low)
            found.carries[first] = int(found.carries[first]) + one
            found.carries[second] = int(found.carries[second]) + other

        assert_refused(run, changed(run, "trunk", change))


def test_a_change_of_a_word_that_its_carry_takes_back(monkeypatch):
    """+2^31 twice is 2^32: one word by 2^31, another by its carry; nothing cancels."""
    monkeypatch.setattr(proof, "check_bounds", lambda *args: None)

    def change(found):
        found.words[:2] += np.uint32(2**31)
        found.carries[2:3] -= np.uint8(1)

    assert_refused(RUN, changed(RUN, "trunk", change))


def test_a_24_bit_sum_has_one_encoding():
    """2^24 more in the word and one less in its carry is the same integer, with other digests."""
    run = RUNS[24]

    def change(found):
        at = int(np.argmax(found.carries))
        found.words[at] += np.uint32(2**24)
        found.carries[at] -= np.uint8(1)

    assert_refused(run, changed(run, "trunk", change), "more than 24 bits")


@BITS
def test_swapped_words_and_shifted_ones(bits):
    def swap(found):
        found.words[[0, 1]] = found.words[[1, 0]]

    def swap_both(found):
        swap(found)
        found.carries[[0, 1]] = found.carries[[1, 0]]

    def roll(found):
        found.words[:], found.carries[:] = np.roll(found.words, 1), np.roll(found.carries, 1)

    for change in (swap, swap_both, roll):
        assert_refused(RUNS[bits], changed(RUNS[bits], "trunk", change))


@BITS
def test_the_sum_of_another_lane_of_zeros_and_of_one_silo_less(bits):
    run = RUNS[bits]
    one = Sum(run.plain["silo-1"].lanes["trunk"], np.zeros(35, np.uint8))
    less = ring.reduce(sums_of(run)["trunk"].words - run.plain["silo-1"].lanes["trunk"], bits)
    for false in (
        Sum(np.zeros(35, np.uint32), np.zeros(35, np.uint8)),
        Sum(less, sums_of(run)["trunk"].carries),
        Sum(ring.reduce(one.words, bits), one.carries),
    ):
        assert_refused(run, {**sums_of(run), "trunk": false})


def test_a_vector_that_a_coin_known_beforehand_does_not_see():
    """The coin of the honest result is public once it is announced. A short vector in its kernel is found by lattice
    reduction; added to the sum it passes the old coin, and not that of the result which announces it."""
    key = coin_key(RESULT, "trunk")
    coins = []
    for place in range(14):
        unit = np.zeros(35, np.uint32)
        unit[place] = 1
        coins.append(tags.tag(unit, key))
    false = np.array([*unseen(coins), *[0] * 21], dtype=object)
    assert any(false) and max(map(abs, false)) < 2**16
    honest = sums_of(RUN)["trunk"]
    integers = honest.words.astype(object) + 2**32 * honest.carries.astype(object) + false
    forged = Sum((integers % 2**32).astype(np.uint32), (integers // 2**32).astype(np.uint8))
    assert (forged.words != honest.words).any()
    assert tags.tag(forged.words, key, carries=forged.carries) == proof.lane_tag(PLAN, RESULT, "trunk", honest)
    assert_refused(RUN, {**sums_of(RUN), "trunk": forged})


def test_without_the_check_the_forged_sum_is_taken(monkeypatch):
    """Positive control: what refuses a false sum is the comparison of tags and nothing else."""

    def change(found):
        found.words[0] ^= np.uint32(1)

    false = changed(RUN, "trunk", change)
    result, signed = tell(RUN, false)
    with pytest.raises(SumNotProven):
        check_result(CHARTER, PLAN, result, false, signed)
    monkeypatch.setattr(proof, "lane_tag", lambda *args: ANY)
    check_result(CHARTER, PLAN, result, false, signed)


@given(st.data())
def test_no_other_integers_are_proven(data):
    """Any change of any words and carries within the clip."""
    lane = data.draw(st.sampled_from(["trunk", "quiet", "open"]))
    sums = sums_of(RUN)
    size = sums[lane].words.size
    places = data.draw(st.dictionaries(st.integers(0, size - 1), st.integers(-(2**24), 2**24), max_size=4))
    bumps = data.draw(st.dictionaries(st.integers(0, size - 1), st.integers(0, 255), max_size=2))
    for place, by in places.items():
        sums[lane].words[place] = (int(sums[lane].words[place]) + by) % 2**32
    for place, by in bumps.items():
        sums[lane].carries[place] = by
    result, signed = tell(RUN, sums)
    if result == RUN.server.result:
        check_result(CHARTER, PLAN, result, sums, signed)
        return
    with pytest.raises(SumNotProven):
        check_result(CHARTER, PLAN, result, sums, signed)
