"""What leaves a silo looks like noise: bytes by chi-square, words by correlation with the silo's own update.

Both checks must fail when the masks are off, or they would prove nothing.
"""

from itertools import combinations

import numpy as np
import pytest

from crypto import silo_session
from tests.federation import Federation, Run, holding, small_plan

FED = Federation(5)
PLAN = small_plan(scale=200, group=["silo-1", "silo-2", "silo-4"])  # every lane has at least 800 words, the floats 1000
LANES = ["trunk", "quiet", "open"]
WEIGHTS = holding(FED.silos, group=["silo-1", "silo-2", "silo-4"])


def chi_square(words: np.ndarray) -> float:
    """Standardised: (χ² − 255) / √510 over the 256 byte values; about normal for uniform bytes."""
    counts = np.bincount(np.frombuffer(words.tobytes(), dtype=np.uint8), minlength=256)
    expected = words.nbytes / 256
    return float((((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(510))


def correlation(words: np.ndarray, plain: np.ndarray) -> float:
    """Of the words as signed numbers; in units of 1/√d."""
    one, other = (part.view(np.int32).astype(np.float64) for part in (words, plain))
    return float(np.corrcoef(one, other)[0, 1] * np.sqrt(words.size))


@pytest.fixture(scope="module")
def masked():
    """lane → silo → (plain, masked) of one run up to the uploads."""
    run = Run(FED, PLAN, weights=WEIGHTS, label="uniform")
    run.uploads()
    table = {lane: {} for lane in LANES}
    for silo, session in run.sessions.items():
        for lane in LANES:
            if lane in session.masked:
                table[lane][silo] = (run.plain[silo].lanes[lane], session.masked[lane])
    return table


def test_the_lanes_are_long_enough(masked):
    assert {lane: sorted(parts) for lane, parts in masked.items()}["open"] == ["silo-3", "silo-4", "silo-5"]
    assert all(words.size >= 1000 for parts in masked.values() for _, words in parts.values())


@pytest.mark.parametrize("lane", LANES)
def test_masked_bytes_are_uniform(masked, lane):
    for _, words in masked[lane].values():
        assert abs(chi_square(words)) < 6


@pytest.mark.parametrize("lane", LANES)
def test_masked_words_do_not_follow_the_update(masked, lane):
    compared = 0
    for plain, words in masked[lane].values():
        if plain.any():
            assert abs(correlation(words, plain)) < 6
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize("lane", LANES)
def test_no_sum_of_uploads_tells_anything_before_the_release(masked, lane):
    """Every subset of silos, all of them included: the self masks stay, whatever pair masks cancel."""
    for size in range(1, len(masked[lane]) + 1):
        for silos in combinations(masked[lane], size):
            plain = np.sum([masked[lane][silo][0] for silo in silos], axis=0, dtype=np.uint32)
            words = np.sum([masked[lane][silo][1] for silo in silos], axis=0, dtype=np.uint32)
            assert abs(chi_square(words)) < 6
            if plain.any():
                assert abs(correlation(words, plain)) < 6


@pytest.mark.parametrize("lane", LANES)
def test_silos_do_not_follow_each_other(masked, lane):
    for one, other in combinations(masked[lane].values(), 2):
        assert abs(correlation(one[1], other[1])) < 6


def test_slots_are_masked():
    """Too short for chi-square: over 40 sessions no masked slot is small, though every plain one is."""
    words = []
    for trial in range(40):
        run = Run(
            Federation(3, c=0),
            small_plan(3, floor=2),
            weights=holding(["silo-1", "silo-2", "silo-3"]),
            label=f"slots{trial}",
        )
        run.uploads()
        words += [np.frombuffer(slots, "<u8") for slots in run.masked_slots.values()]
        assert all(encoded.slots.max() < 2**14 for encoded in run.plain.values())
    everything = np.concatenate(words)
    assert abs(chi_square(everything)) < 6
    assert (everything < 2**40).mean() < 0.01
    assert len(words[0]) == 2  # one of each section


def test_both_checks_fail_without_masks(monkeypatch):
    """Negative control: with apply_streams switched off, bytes are far from uniform and words follow the update."""
    monkeypatch.setattr(silo_session, "apply_streams", lambda vector, streams: None)
    run = Run(FED, PLAN, weights=WEIGHTS, label="off")
    run.uploads()
    for silo, session in run.sessions.items():
        for lane in LANES:
            if lane in session.masked and run.plain[silo].lanes[lane].any():
                words, plain = session.masked[lane], run.plain[silo].lanes[lane]
                assert abs(chi_square(words)) > 6
                assert abs(correlation(words, plain)) > 6


def test_the_correlation_check_fails_with_a_leak(monkeypatch):
    """Negative control: a mask that leaves the top bits alone is found, by both checks."""
    real = silo_session.apply_streams

    def weak(vector, streams):
        noise = np.zeros_like(vector)
        real(noise, streams)
        vector += noise >> np.array(8, dtype=vector.dtype)

    monkeypatch.setattr(silo_session, "apply_streams", weak)
    run = Run(FED, PLAN, weights=WEIGHTS, label="weak")
    run.uploads()
    words, plain = run.sessions["silo-1"].masked["trunk"], run.plain["silo-1"].lanes["trunk"]
    assert abs(correlation(words, plain)) > 6
    assert abs(chi_square(words)) > 6
