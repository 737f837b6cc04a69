"""An announced result is applied only if enough members signed it and the tags, counts and bounds are right."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import proof, ring
from crypto.cohort import words_digest
from crypto.errors import BadSignature, FederationError, Malformed, RosterMismatch, SumNotProven
from crypto.messages import TagRequest, Tags
from crypto.proof import Sum, carry_type, carry_words, check_bounds, check_result, check_signed, coin_key, wire_sizes
from tests.federation import Run, identity
from tests.proven import BITS, CHARTER, FED, OPENED, PLAN, PLANS, PROOF, RESULT, RUN, RUNS, fork, sums_of

# --- what is announced and what is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["trunk", "quiet", "open"])
def test_words_and_carries_are_those_announced(lane):
    for field in ("words", "carries"):
        sums = sums_of(RUN)
        getattr(sums[lane], field)[0] ^= 1
        with pytest.raises(SumNotProven, match="not those announced"):
            check_result(CHARTER, PLAN, RESULT, sums, PROOF)


def test_each_lane_has_its_sum():
    sums = sums_of(RUN)
    del sums["quiet"]
    with pytest.raises(SumNotProven, match="'quiet' is missing"):
        check_result(CHARTER, PLAN, RESULT, sums, PROOF)


@pytest.mark.parametrize("words", [np.zeros(34, np.uint32), np.zeros(35, np.int32), np.zeros((35, 1), np.uint32)])
def test_a_sum_has_the_plans_layout(words):
    with pytest.raises(SumNotProven, match=r"has \(.*\) words of"):
        check_result(CHARTER, PLAN, RESULT, {**sums_of(RUN), "trunk": Sum(words, np.zeros(35, np.uint8))}, PROOF)


FALSE = [
    ({"slots": (1, 2)}, "another result"),
    ({"slots": RESULT.slots[:1]}, "slots"),
    ({"slots": (*RESULT.slots, 0)}, "slots"),
    ({"step": 1}, "step"),
    ({"step": 2**32 - 1}, "step"),
    ({"t3": b"3" * 32}, "another result"),
    ({"chain": b"c" * 32}, "another result"),
    ({"sums": RESULT.sums[:2]}, "another result"),
    ({"sums": RESULT.sums[::-1]}, "another result"),
    ({"released": False, "slots": (), "sums": ()}, "slots"),
    *[
        ({"sums": (replace(RESULT.sums[0], **change), *RESULT.sums[1:])}, "another result")
        for change in (
            {"lane": "nonsense"},
            {"words": bytes(32)},
            {"carries": bytes(32)},
            {"uploaders": FED.silos[:4]},
            {"weight": RESULT.sums[0].weight + 1},
            {"contributors": 4},
        )
    ],
]


@pytest.mark.parametrize(("change", "why"), FALSE)
def test_a_result_other_than_the_one_signed(change, why):
    with pytest.raises(SumNotProven, match=why):
        check_result(CHARTER, PLAN, replace(RESULT, **change), sums_of(RUN), PROOF)


@pytest.mark.parametrize("change", [change for change, _ in FALSE if not change.keys() & {"sums"}])
@pytest.mark.parametrize("silo", ["silo-1", "silo-5"])
def test_a_silo_signs_no_result_that_it_did_not_open_itself(change, silo):
    false = replace(RESULT, **change)
    session = fork(RUN.sessions[silo])
    with pytest.raises(SumNotProven):
        session.tag(TagRequest(false, RUN.request.seeds[: len(false.sums)]))
    assert not session.masked and session.result is None


@pytest.mark.parametrize(
    "change",
    [
        {"lane": "nonsense"},
        {"lane": "Slots"},
        {"uploaders": FED.silos[:4]},
        {"uploaders": FED.silos[::-1]},
        {"uploaders": (*FED.silos, "silo-9")},
        {"weight": RESULT.sums[0].weight + 1},
        {"weight": 0},
        {"contributors": 4},
    ],
)
@pytest.mark.parametrize("silo", ["silo-1", "silo-5"])
def test_a_silo_signs_no_count_other_than_its_own(change, silo):
    false = replace(RESULT, sums=(replace(RESULT.sums[0], **change), *RESULT.sums[1:]))
    session = fork(RUN.sessions[silo])
    with pytest.raises(SumNotProven):
        session.tag(TagRequest(false, RUN.request.seeds))
    assert not session.masked and session.result is None


# --- tags ---------------------------------------------------------------------------------------------------------


def signed_as(one: Tags, **change) -> bytes:
    other = replace(one, **change)
    return other.sign(FED.identities[other.silo])


def refuse(signed, why, error=SumNotProven):
    with pytest.raises(error, match=why):
        check_result(CHARTER, PLAN, RESULT, sums_of(RUN), signed)


def test_tags_of_another_step_attempt_or_session():
    for context in (FED.context(PLAN, attempt=1), FED.context(PLAN, chain=b"x" * 32), FED.context(PLAN, run=b"q" * 32)):
        other = Run(FED, PLAN, context=context, label="proof-other")
        other.play()
        refuse((*other.proof[:1], *PROOF[1:]), "another result")
        refuse(other.proof, "another result")
    refuse((signed_as(OPENED[0], t3=bytes(32)), *PROOF[1:]), "another result")
    refuse((signed_as(OPENED[0], result=bytes(32)), *PROOF[1:]), "another result")


def test_tags_of_another_lane():
    trunk, quiet = OPENED[0].tags
    refuse((signed_as(OPENED[0], tags=(quiet, trunk)), *PROOF[1:]), "'trunk' is not the sum of its 5")
    refuse((signed_as(OPENED[0], tags=(trunk, trunk)), *PROOF[1:]), "'quiet' is not the sum of its 5")


@pytest.mark.parametrize("bit", [0, 7, 127, 128, 639])
def test_tags_with_one_bit_changed(bit):
    false = bytearray(OPENED[0].tags[0])
    false[bit // 8] ^= 1 << bit % 8
    refuse((signed_as(OPENED[0], tags=(bytes(false), OPENED[0].tags[1])), *PROOF[1:]), "is not the sum")


def test_tags_of_another_upload():
    one, other = OPENED[0], OPENED[1]
    refuse((signed_as(one, tags=other.tags), *PROOF[1:]), "is not the sum")
    swapped = (signed_as(one, owner=other.owner), signed_as(other, owner=one.owner))
    check_result(CHARTER, PLAN, RESULT, sums_of(RUN), (*swapped, *PROOF[2:]))  # a sum does not ask in which order
    refuse((signed_as(one, owner="silo-2"), *PROOF[1:]), "Two members' tags")
    refuse((signed_as(one, owner="silo-9", tags=()), *PROOF[1:]), "without the tags of all its uploads")


def test_tags_that_are_missing_short_or_twice():
    refuse(PROOF[1:], "without the tags of all its uploads")
    refuse((), "it takes m")
    refuse((*PROOF, PROOF[0]), "Two members' tags")
    refuse((signed_as(OPENED[0], tags=OPENED[0].tags[:1]), *PROOF[1:]), "sent 1 tags for the 2 lanes")
    refuse((signed_as(OPENED[0], tags=(*OPENED[0].tags, bytes(80))), *PROOF[1:]), "sent 3 tags for the 2 lanes")
    refuse((signed_as(OPENED[0], tags=()), *PROOF[1:]), "sent 0 tags")
    for cut in (0, 1, 79):
        refuse((PROOF[0][:cut], *PROOF[1:]), None, Malformed)


def test_tags_signed_by_another():
    refuse((OPENED[0].sign(FED.identities["silo-2"]), *PROOF[1:]), "not verify", BadSignature)
    refuse((OPENED[0].sign(FED.aggregator), *PROOF[1:]), "not verify", BadSignature)
    refuse((OPENED[0].sign(identity("silo-1/owner")), *PROOF[1:]), "not verify", BadSignature)
    stranger = replace(OPENED[0], silo="silo-9").sign(identity("silo-9"))
    refuse((stranger, *PROOF[1:]), "charter", RosterMismatch)


def by(signers: int) -> tuple[bytes, ...]:
    """All uploads' tags, by the first members only: they stand in for the others."""
    out = []
    for silo in FED.silos[:signers]:
        session = fork(RUN.sessions[silo])
        session.state = RUN.sessions[silo].state
        out.append(session.tag(TagRequest(RESULT, RUN.request.seeds)))
    for owner in FED.silos[signers:]:
        out.append(session.stand_in(owner, RUN.uploads_of(owner)))
    return tuple(out)


def test_a_result_is_signed_by_m_plus_c_members():
    check_result(CHARTER, PLAN, RESULT, sums_of(RUN), by(3))
    for few in (1, 2):
        refuse(by(few), f"{few} members signed the result .* it takes m")


def test_who_stands_in_has_uploaded():
    """A colluder outside of the survivors could else bring a false tag of an honest silo's upload."""
    run = Run(FED, PLAN, drop={"silo-5": "fetch"}, label="outside")
    run.play()
    check_result(CHARTER, PLAN, run.server.result, run.server.sums, run.proof)
    one = proof.open_tags(CHARTER, run.server.result, run.proof[0])
    outside = signed_as(one, silo="silo-5")
    with pytest.raises(SumNotProven, match="without having uploaded"):
        check_signed(CHARTER, PLAN, run.server.result, (outside, *run.proof[1:]))


def test_the_signatures_of_a_step_are_by_owner():
    owners = check_signed(CHARTER, PLAN, RESULT, PROOF)
    assert {owner: one.silo for owner, one in owners.items()} == {silo: silo for silo in FED.silos}
    assert {owner: one.silo for owner, one in check_signed(CHARTER, PLAN, RESULT, by(4)).items()}["silo-5"] == "silo-4"


@pytest.mark.parametrize("change", ["step", "chain", "t3", "slots", "words", "carries", "uploaders", "weight", "lane"])
def test_a_coin_is_of_everything_that_is_announced(change):
    if change in ("words", "carries", "uploaders", "weight"):
        value = getattr(RESULT.sums[2], change)
        other = value + 1 if isinstance(value, int) else value[::-1]
        changed = replace(RESULT, sums=(*RESULT.sums[:2], replace(RESULT.sums[2], **{change: other})))
    else:
        value = getattr(RESULT, change, None)
        new = {"step": 1, "chain": bytes(32), "t3": bytes(32), "slots": (0, 0)}
        changed = RESULT if change == "lane" else replace(RESULT, **{change: new[change]})
    lane = "quiet" if change == "lane" else "trunk"
    assert len(coin_key(changed, lane)) == 16 and coin_key(changed, lane) != coin_key(RESULT, "trunk")


# --- bounds -------------------------------------------------------------------------------------------------------


@BITS
@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_beyond_the_clip(bits, sign):
    run, one = RUNS[bits], RUNS[bits].server.result.sums[0]
    most = ring.bound(5, bits, weight=one.weight, heaviest=16, contributors=one.contributors)
    words = np.zeros(35, np.uint32)
    words[34] = sign * most % 2**bits
    check_bounds(CHARTER, run.plan, 0, one, words)
    words[34] = sign * (most + 1) % 2**bits
    with pytest.raises(SumNotProven, match="beyond the clip"):
        check_bounds(CHARTER, run.plan, 0, one, words)


@BITS
def test_a_sum_beyond_the_clip_is_refused_although_its_tags_are_right(bits):
    """silo-5 uploads what it likes, and honest tags prove the sum: the mean may not leave the clip all the same."""
    plan = PLANS[bits]

    class Rude(Run):
        def encoded(self, silo):
            encoded = super().encoded(silo)
            if silo == "silo-5":
                encoded.lanes["trunk"][0] = 2 ** (bits - 1) - 1 - 2 ** (bits - 4)
            return encoded

    run = Rude(FED, plan, label="rude")
    run.lanes()
    assert run.server.failed["trunk"].code == "SUM_NOT_PROVEN" and "trunk" not in run.server.sums
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "check_bounds", lambda *args: None)
        run = Rude(FED, plan, label="rude")
        run.play()
    with pytest.raises(SumNotProven, match="beyond the clip"):
        check_result(CHARTER, plan, run.server.result, run.server.sums, run.proof)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"contributors": 2}, "below its floor or roster"),
        ({"contributors": 6}, "below its floor or roster"),
        ({"contributors": 0}, "below its floor or roster"),
        ({"weight": 19}, "No 5 weights"),
        ({"weight": 81}, "No 5 weights"),
        ({"weight": 0}, "No 5 weights"),
        ({"weight": 2**64 - 1}, "No 5 weights"),
        ({"uploaders": FED.silos[::-1]}, "distinct members in order"),
        ({"uploaders": ("silo-1", *FED.silos)}, "distinct members in order"),
        ({"uploaders": (*FED.silos, "silo-9")}, "distinct members in order"),
        ({"uploaders": FED.silos[:4]}, "below its floor or roster"),
        ({"lane": "nonsense"}, "no lane 'nonsense'"),
    ],
)
def test_weights_contributors_and_uploaders_are_possible(change, why):
    with pytest.raises(SumNotProven, match=why):
        check_bounds(CHARTER, PLAN, 0, replace(RESULT.sums[0], **change), sums_of(RUN)["trunk"].words)


def test_the_least_and_the_most_that_are_possible():
    words = np.zeros(35, np.uint32)
    for weight, contributors in ((12, 3), (48, 3), (20, 5), (80, 5)):
        one = replace(RESULT.sums[0], weight=weight, contributors=contributors)
        check_bounds(CHARTER, PLAN, 0, one, words)


# --- arrays on the wire -------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.sampled_from([1, 2, 3, 255, 256, 257, 65_536]), st.integers(0, 2**32 - 1))
def test_a_sum_is_sent_and_read(size, uploaders, seed):
    rng = np.random.default_rng(seed)
    kind = carry_type(uploaders)
    carries = rng.integers(0, uploaders, size=size).astype(kind)
    found = Sum(rng.integers(0, 2**32, size=size, dtype=np.uint32), carries)
    words, packed = found.wire
    assert packed.dtype == np.uint32 and packed.size == carry_words(size, kind.itemsize)
    again = Sum.from_wire(words, packed, uploaders)
    assert again.carries.dtype == kind and (again.carries == carries).all() and (again.words == found.words).all()
    assert words_digest(again.carries) == words_digest(carries)


def test_carries_are_as_narrow_as_they_can_be():
    """Fewer carries than uploads: 256 of them fit one byte."""
    assert [carry_type(n) for n in (1, 256, 257, 65_536)] == [np.uint8, np.uint8, np.uint16, np.uint16]
    assert [carry_words(n, 1) for n in (0, 1, 4, 5)] == [0, 1, 1, 2] and carry_words(5, 2) == 3


def test_carries_are_little_endian_on_the_wire():
    _, packed = Sum(np.zeros(3, np.uint32), np.array([1, 2, 258], np.uint16)).wire
    assert packed.astype("<u4").tobytes() == bytes([1, 0, 2, 0, 2, 1, 0, 0])


def test_sizes_follow_from_the_result():
    assert wire_sizes(PLAN, RESULT) == [35, 9, 7, 2, 6, 2]
    many = replace(RESULT.sums[0], uploaders=tuple(f"silo-{i:03}" for i in range(257)))
    assert wire_sizes(PLAN, replace(RESULT, sums=(many,))) == [35, 18]
    assert [part.size for one in RESULT.sums for part in sums_of(RUN)[one.lane].wire] == wire_sizes(PLAN, RESULT)


def test_refusals_are_refusals():
    assert issubclass(SumNotProven, FederationError) and SumNotProven.code == "SUM_NOT_PROVEN"
