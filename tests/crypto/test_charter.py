"""Thresholds, floors, epochs; canonical bytes; the consortium's signature."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.charter import SUITE, Charter, Member, SignedCharter, least_cohort, threshold
from crypto.charter_defaults import Floors
from crypto.encoding import Writer
from crypto.errors import (
    BadSignature,
    CohortTooSmall,
    FederationError,
    Malformed,
    RosterMismatch,
    SpecError,
    ThresholdInfeasible,
)
from crypto.keys import Identity
from crypto.plan import Lane, Scope
from tests.federation import Federation, identity

FED = Federation(5)
CHARTER = FED.charter
CONSORTIUM = identity("consortium")
SIGNED = bytes(SignedCharter.sign(CHARTER, CONSORTIUM))


# DESIGN.md §6: n, c, m, t, drop-outs survived, smallest lane floor.
@pytest.mark.parametrize(
    ("n", "c", "m", "t", "drops", "floor"),
    [(3, 0, 2, 2, 1, 2), (4, 1, 2, 3, 1, 3), (8, 1, 2, 5, 3, 3), (12, 1, 2, 7, 5, 3), (16, 5, 3, 11, 5, 7)],
)
def test_the_table_of_the_design(n, c, m, t, drops, floor):
    charter = Federation(n, c=c, m=m).charter
    assert charter.threshold(n) == t
    assert n - t == drops
    assert charter.lane_floor == floor
    with pytest.raises(SpecError, match="lane_floor"):
        replace(charter, lane_floor=floor - 1)


@pytest.mark.parametrize("scope", list(Scope))
def test_the_floor_of_a_lane_is_the_strictest_of_charter_plan_and_silo(scope):
    charter = Federation(8, c=1, m=3, lane_floor=5).charter
    members = ("silo-1",) if scope is Scope.GROUP else ()
    own = 4 if scope is Scope.ALL else 5  # m + c for everyone's lanes, m_e where that is more

    def lane(floor):
        return Lane(name="l", scope=scope, floor=floor, members=members)

    assert charter.floor(lane(1)) == charter.floor(lane(own)) == charter.floor(lane(1), own) == own
    assert charter.floor(lane(own + 1)) == charter.floor(lane(1), own + 1) == own + 1
    assert charter.floor(lane(own + 1), own + 2) == charter.floor(lane(own + 2), own + 1) == own + 2
    assert replace(charter, lane_floor=3).floor(lane(1)) == 4  # never below m + c


@given(st.integers(3, 40), st.integers(0, 12), st.integers(2, 6))
def test_a_threshold_is_safe_or_refused(n, c, m):
    """2t > n + c: no two survivor sets; t − c ≥ m honest inputs; t ≤ n; n_min + t(n_min) > N + c."""
    try:
        charter = Federation(n, c=c, m=m).charter
    except (SpecError, ThresholdInfeasible):
        smallest = least_cohort(n, c)
        agree = threshold(smallest, c)
        assert smallest > n or agree > smallest or agree - c < m
        return
    for size in range(n + 1):
        try:
            t = charter.threshold(size)
        except CohortTooSmall:
            assert size < charter.n_min
        else:
            assert 2 * t > size + c and t - c >= m and t <= size
            assert 2 * charter.n_min > n + c and charter.n_min + charter.threshold(charter.n_min) > n + c


def test_three_silos_with_a_colluder_survive_no_drop_out():
    assert Federation(3, c=1, n_min=3, lane_floor=3).charter.threshold(3) == 3


# N with c = 1: the least n_min.
@pytest.mark.parametrize(("n", "least"), [(3, 3), (4, 3), (5, 4), (6, 5), (8, 6), (16, 11), (64, 43)])
def test_any_cohort_has_an_honest_silo_of_any_that_opened_sums(n, least):
    charter = Federation(n, n_min=least).charter
    assert Floors().n_min(n) == least_cohort(n, 1) == least
    assert least + charter.threshold(least) > n + 1
    with pytest.raises(SpecError, match=rf"charter\.n_min: got {least - 1}, want at least {least} "):
        replace(charter, n_min=least - 1)


def test_a_charter_of_before_may_have_the_n_min_of_before():
    before = replace(Federation(8).charter, version=1, budgets=(4, 16), n_min=5)
    again = Charter.from_bytes(bytes(before), earlier=True)
    assert again == before and bytes(again) == bytes(before) and again.digest == before.digest
    assert len(bytes(before)) == len(bytes(replace(before, version=2, budgets=(), n_min=6))) + 8
    with pytest.raises(SpecError, match=r"charter\.n_min: got 5, want at least 6 "):
        replace(before, version=2, budgets=())
    with pytest.raises(SpecError, match=r"charter\.n_min: got 4, want at least 5 "):
        replace(before, n_min=4)


def test_thresholds_are_refused_not_lowered():
    with pytest.raises(CohortTooSmall):
        CHARTER.threshold(CHARTER.n_min - 1)
    with pytest.raises(ThresholdInfeasible):
        Federation(3, c=1, m=3, n_min=3)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"members": CHARTER.members[:2], "n_min": 2}, "members"),
        ({"members": CHARTER.members[::-1]}, "members"),
        ({"members": (CHARTER.members[0], *CHARTER.members)}, "members"),
        ({"members": (replace(CHARTER.members[0], silo="Silo"), *CHARTER.members[1:])}, "members"),
        ({"members": (replace(CHARTER.members[0], silo=""), *CHARTER.members[1:])}, "members"),
        ({"members": (replace(CHARTER.members[0], silo="a\n"), *CHARTER.members[1:])}, "members"),
        ({"members": (replace(CHARTER.members[0], agent=CHARTER.members[1].agent), *CHARTER.members[1:])}, "members"),
        ({"members": (replace(CHARTER.members[0], owner=CHARTER.members[0].agent), *CHARTER.members[1:])}, "members"),
        ({"aggregator": CHARTER.members[0].agent}, "members"),
        ({"previous": bytes(31)}, "previous"),
        ({"n_min": 3}, "n_min"),
        ({"n_min": 6}, "n_min"),
        ({"honest": 1}, "honest"),
        ({"lane_floor": 2}, "lane_floor"),
        ({"not_after": 0}, "not_after"),
        ({"suite": 2}, "suite"),
        ({"not_before": -1}, "not_before"),
        ({"not_after": 2**64}, "not_after"),
        ({"epoch": 2**32}, "epoch"),
        ({"budgets": (4, 16)}, "budgets"),
        ({"version": 1}, "budgets"),
    ],
)
def test_a_charter_that_is_not_safe_is_refused_by_field(change, path):
    with pytest.raises(SpecError, match=f"charter.{path}"):
        replace(CHARTER, **change)


def test_a_negative_count_is_refused():
    with pytest.raises(SpecError):
        replace(CHARTER, colluders=-1, lane_floor=1)


def test_members_are_found_by_id():
    assert CHARTER.member("silo-3").agent == FED.identities["silo-3"].public
    assert CHARTER.silos == FED.silos
    with pytest.raises(RosterMismatch):
        CHARTER.member("silo-9")


@pytest.mark.parametrize("now", [-1, 2_000_000_001])
def test_validity_is_checked_against_the_callers_clock(now):
    CHARTER.check_validity(0)
    CHARTER.check_validity(2_000_000_000)
    with pytest.raises(SpecError, match=r"charter\.not_after"):
        CHARTER.check_validity(now)


def test_round_trip_and_digest():
    again = Charter.from_bytes(bytes(CHARTER))
    assert again == CHARTER and bytes(again) == bytes(CHARTER) and again.digest == CHARTER.digest
    assert replace(CHARTER, epoch=2).digest != CHARTER.digest
    assert CHARTER.suite == SUITE == 1


def test_another_version_is_malformed():
    with pytest.raises(Malformed, match="version 1"):
        Charter.from_bytes(b"\x01" + bytes(CHARTER)[1:])


@given(st.integers(0, len(bytes(CHARTER)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_another_charter(at, flip):
    data = bytearray(bytes(CHARTER))
    data[at] ^= flip
    try:
        charter = Charter.from_bytes(bytes(data))
    except FederationError:
        return
    assert charter != CHARTER and bytes(charter) == bytes(data)


@given(st.binary(max_size=400))
def test_noise_is_refused(noise):
    for data in (noise, b"\x01" + noise, bytes(CHARTER)[: len(noise)] + noise):
        with pytest.raises(FederationError):
            Charter.from_bytes(data)
        with pytest.raises(FederationError):
            SignedCharter.open(data, CONSORTIUM.public)


def test_a_signed_charter_opens_under_the_pinned_key_only():
    assert SignedCharter.open(SIGNED, CONSORTIUM.public) == CHARTER
    with pytest.raises(BadSignature):
        SignedCharter.open(SIGNED, FED.aggregator.public)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_a_signed_charter_with_a_changed_byte_does_not_open(at, flip):
    data = bytearray(SIGNED)
    data[at] ^= flip
    with pytest.raises((BadSignature, Malformed)):
        SignedCharter.open(bytes(data), CONSORTIUM.public)


@given(st.integers(0, len(SIGNED) - 1), st.binary(min_size=1, max_size=4))
def test_a_signed_charter_is_exactly_as_long_as_it_is(cut, tail):
    with pytest.raises(Malformed):
        SignedCharter.open(SIGNED + tail, CONSORTIUM.public)
    with pytest.raises(Malformed):
        SignedCharter.open(SIGNED[:cut], CONSORTIUM.public)


def test_a_signature_over_other_content_is_refused():
    other = SignedCharter(replace(CHARTER, n_min=5), SignedCharter.sign(CHARTER, CONSORTIUM).signature)
    with pytest.raises(BadSignature):
        SignedCharter.open(bytes(other), CONSORTIUM.public)


def test_a_bare_signature_without_the_label_is_refused():
    forged = bytes(Writer().blob(bytes(CHARTER)).fixed(CONSORTIUM.sign(bytes(CHARTER)), 64))
    with pytest.raises(BadSignature):
        SignedCharter.open(forged, CONSORTIUM.public)


def test_members_round_trip():
    member = Member("a.b-c", Identity(bytes(32)).public, Identity(b"\x01" * 32).public)
    out = Writer()
    member.write(out)
    assert len(bytes(out)) == 4 + 5 + 64


NEXT = {"epoch": CHARTER.epoch + 1, "previous": CHARTER.digest}


def test_the_next_epoch_names_its_predecessor():
    replace(CHARTER, **NEXT).check_succeeds(CHARTER)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"federation": "another"}, "charter.federation"),
        ({"epoch": CHARTER.epoch}, "charter.epoch"),
        ({"epoch": CHARTER.epoch + 2}, "charter.epoch"),
        ({"previous": bytes(32)}, "charter.previous"),
    ],
)
def test_an_older_a_skipped_or_a_foreign_epoch_is_refused(change, path):
    with pytest.raises(SpecError) as refused:
        replace(CHARTER, **NEXT | change).check_succeeds(CHARTER)
    assert refused.value.path == path
