"""Any t shares give the secret; t − 1 give nothing; strict encodings."""

from contextlib import suppress
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import shamir
from crypto.errors import Malformed
from tests.federation import stream

SECRETS = st.binary(min_size=32, max_size=32)


def test_p_is_the_smallest_prime_above_2_to_256():
    """Fermat and Miller–Rabin to twelve bases for p; a small factor or a Fermat witness for each number between."""

    def probably_prime(number: int) -> bool:
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            power = pow(base, odd, number)
            if power not in (1, number - 1) and all(
                (power := power * power % number) != number - 1 for _ in range(twos - 1)
            ):
                return False
        return True

    assert [number for number in range(2**256 + 1, 2**256 + 298) if probably_prime(number)] == [shamir.P]


def test_a_known_polynomial():
    """f(x) = 5 + 7x + 11x²: entropy 33 bytes big-endian, one call per coefficient, the lowest power first."""
    coefficients = iter([(7).to_bytes(33, "big"), (11).to_bytes(33, "big")])
    shares = shamir.split((5).to_bytes(32, "big"), 3, [1, 2, 3, 4], lambda size: next(coefficients))
    assert [int.from_bytes(share, "big") for share in shares] == [23, 63, 125, 209]


def test_uniform_rejects_what_is_not_below_p():
    draws = iter([b"\x01" + b"\xff" * 32, shamir.P.to_bytes(33, "big"), b"\xff" + bytes(31) + b"\x09"])
    assert shamir._uniform(lambda size: next(draws)) == 2**256 + 9


@given(SECRETS, st.integers(1, 7), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_t_of_n_agree(secret, t, more, random):
    points = random.sample(range(1, 200), t + more)
    shares = dict(zip(points, shamir.split(secret, t, points, stream("shamir")), strict=True))
    for chosen in list(combinations(points, t))[:20]:
        assert shamir.combine({x: shares[x] for x in chosen}, t) == secret
    assert shamir.combine(shares, t) == secret


@given(SECRETS, SECRETS, st.integers(2, 6))
def test_fewer_than_t_shares_fit_every_secret(secret, other, t):
    """For any other secret there is exactly one polynomial that gives the same t − 1 shares: so they tell nothing."""
    points = list(range(1, t + 1))
    shares = shamir.split(secret, t, points, stream("hide"))
    known = {x: int.from_bytes(share, "big") for x, share in zip(points[:-1], shares, strict=False)}
    # Lagrange through (0, other) and the known shares, evaluated at the missing point.
    xs = [0, *known]
    ys = [int.from_bytes(other, "big"), *known.values()]
    last = 0
    for i, x in enumerate(xs):
        top = bottom = 1
        for j, z in enumerate(xs):
            if i != j:
                top, bottom = top * (t - z) % shamir.P, bottom * (x - z) % shamir.P
        last = (last + ys[i] * top * pow(bottom, -1, shamir.P)) % shamir.P
    forged = {**{x: value.to_bytes(33, "big") for x, value in known.items()}, t: last.to_bytes(33, "big")}
    assert shamir.combine(forged, t) == other


def test_a_changed_share_changes_the_secret_or_is_malformed():
    shares = dict(zip((1, 2, 3), shamir.split(b"s" * 32, 3, (1, 2, 3), stream("x")), strict=True))
    for bit in range(0, 256, 7):
        forged = int.from_bytes(shares[2], "big") ^ 1 << bit
        if forged < shamir.P:
            with suppress(Malformed):
                assert shamir.combine({**shares, 2: forged.to_bytes(33, "big")}, 3) != b"s" * 32


def test_a_value_above_2_to_256_is_no_secret():
    share = (2**256 + 5).to_bytes(33, "big")
    with pytest.raises(Malformed, match="32-byte"):
        shamir.combine({1: share}, 1)


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34), shamir.P.to_bytes(33, "big"), b"\xff" * 33])
def test_only_canonical_elements_are_shares(share):
    with pytest.raises(Malformed):
        shamir.value_of(share)
    with pytest.raises(Malformed):
        shamir.combine({1: bytes(33), 2: share}, 2)


def test_the_largest_element_is_a_share():
    assert shamir.value_of((shamir.P - 1).to_bytes(33, "big")) == shamir.P - 1
    assert shamir.value_of(bytes(33)) == 0


@pytest.mark.parametrize(
    ("secret", "t", "points"),
    [
        (bytes(31), 1, [1]),
        (bytes(33), 1, [1]),
        (bytes(32), 0, [1]),
        (bytes(32), 3, [1, 2]),
        (bytes(32), 2, [1, 1]),
        (bytes(32), 2, [0, 1]),
    ],
)
def test_misuse_is_a_value_error(secret, t, points):
    with pytest.raises(ValueError):
        shamir.split(secret, t, points, stream("x"))


def test_too_few_shares_is_a_value_error():
    with pytest.raises(ValueError, match="threshold"):
        shamir.combine({1: bytes(33)}, 2)


def test_points_are_distinct_and_non_zero_mod_p():
    with pytest.raises(ValueError):
        shamir.split(bytes(32), 2, [shamir.P, 1], stream("x"))


def test_default_entropy_is_fresh():
    assert shamir.split(bytes(32), 2, [1, 2]) != shamir.split(bytes(32), 2, [1, 2])
