"""U1, U2, U3: each value exists only if its evidence checks. One test for each check."""

from dataclasses import replace

import numpy as np
import pytest

from crypto import shamir, transcript
from crypto.cohort import Cohort, Dealt, Survivors, check_words, commitment, mask_key, words_digest
from crypto.errors import (
    BadShare,
    BadSignature,
    CohortTooSmall,
    DuplicateKey,
    HeadroomExceeded,
    LayoutMismatch,
    Malformed,
    RosterMismatch,
    SpecError,
    SurvivorInvalid,
    ThresholdInfeasible,
    TranscriptMismatch,
)
from crypto.messages import Advert, Attestation, Deal, Header, Shares
from tests.federation import Federation, Run, identity, showing, shown_key, small_plan, stream

#: Of the plan's step, in order.
SECTIONS = ("Static", "Fresh")

FED = Federation(5)
PLAN = small_plan()
RUN = Run(FED, PLAN, drop={"silo-5": "fetch"})
RUN.play()
COHORT, DEALT, U3 = RUN.server.cohort, RUN.server.dealt, RUN.server.survivors
CONTEXT = RUN.context
SLOT_SHARES, LANE_SHARES = RUN.signed["unmask-slots"], RUN.signed["unmask-lanes"]


def again(kind, signed, signer, **change):
    """A signed message with fields changed, signed again by ``signer``."""
    message = kind.open(signed, lambda m: FED.charter.member(m.silo).agent)
    return replace(message, **change).sign(FED.identities.get(signer) or identity(signer))


def advert(silo="silo-2", signer=None, **change):
    return again(Advert, COHORT.signed[silo], signer or silo, **change)


def with_advert(signed):
    return [*(data for silo, data in COHORT.signed.items() if silo != "silo-2"), signed]


# --- context ------------------------------------------------------------------------------------------------------


def test_lanes_by_scope():
    plan = small_plan(group=["silo-1", "silo-2", "silo-3"])
    context = FED.context(plan)
    assert context.lanes_for("silo-1", []) == (*SECTIONS, "trunk", "quiet", "ward")
    assert context.lanes_for("silo-5", ["open"]) == (*SECTIONS, "trunk", "quiet", "open")
    assert context.lanes_for("silo-5", ["nonsense", "quiet"]) == (*SECTIONS, "trunk", "quiet")


def test_t0_binds_the_view():
    two = replace(PLAN, steps=(PLAN.steps[0], replace(PLAN.steps[0], index=1)))
    base = FED.context(PLAN)
    others = [
        FED.context(PLAN, attempt=1),
        FED.context(PLAN, run=b"R" * 32),
        FED.context(PLAN, chain=b"S" * 32),
        FED.context(small_plan(scale=2)),
        Federation(5, n_min=5).context(PLAN),
        FED.context(two),
        FED.context(two, k=1),
    ]
    assert len({base.t0, *(other.t0 for other in others)}) == 1 + len(others)
    assert base.t0 == FED.context(PLAN).t0


@pytest.mark.parametrize("k", [-1, 1, 2**32])
def test_a_step_that_the_plan_does_not_have(k):
    with pytest.raises(LayoutMismatch):
        FED.context(PLAN, k=k)


def test_a_plan_with_head_room_for_fewer_silos_than_the_charter_has_is_refused():
    with pytest.raises(HeadroomExceeded):
        FED.context(small_plan(4))
    assert FED.context(small_plan(5)) and FED.context(small_plan(6))


# --- U1 -----------------------------------------------------------------------------------------------------------


def test_a_cohort_is_the_same_whatever_the_order():
    other = Cohort.form(CONTEXT, reversed(list(COHORT.signed.values())))
    assert (other.t1, list(other.signed), other.points) == (COHORT.t1, list(COHORT.signed), COHORT.points)
    assert other.points == {silo: place for place, silo in enumerate(FED.silos, start=1)}


def of_lanes(*names):
    return tuple((name, bytes(32)) for name in names)


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        (advert(signer="stranger"), BadSignature),
        (advert(signer="silo-3"), BadSignature),
        (advert(silo="silo-2", signer="silo-2")[:-1], Malformed),
        (advert(t0=bytes(32)), TranscriptMismatch),
        (advert(held=("quiet",)), LayoutMismatch),
        (advert(held=("nonsense",)), LayoutMismatch),
        (advert(held=("open",)), LayoutMismatch),
        (advert(silo="silo-4", held=("open", "open")), LayoutMismatch),
        (advert(commitments=()), LayoutMismatch),
        (advert(commitments=of_lanes(*SECTIONS, "quiet", "trunk")), LayoutMismatch),
        (advert(commitments=of_lanes(*SECTIONS, "trunk", "quiet", "open")), LayoutMismatch),
        (advert(commitments=of_lanes("trunk", "quiet")), LayoutMismatch),
        (advert(commitments=of_lanes("Static", "trunk", "quiet")), LayoutMismatch),
    ],
)
def test_an_advert_is_refused(signed, error):
    with pytest.raises(error):
        CONTEXT.check_advert(signed)
    with pytest.raises(error):
        Cohort.form(CONTEXT, with_advert(signed))


def test_a_stranger_is_not_in_the_charter():
    signed = replace(
        Advert.open(COHORT.signed["silo-2"], lambda m: FED.charter.member(m.silo).agent), silo="silo-9"
    ).sign(identity("silo-9"))
    with pytest.raises(RosterMismatch):
        Cohort.form(CONTEXT, with_advert(signed))


def test_a_silo_appears_once():
    with pytest.raises(RosterMismatch, match="twice"):
        Cohort.form(CONTEXT, [*COHORT.signed.values(), COHORT.signed["silo-2"]])


@pytest.mark.parametrize("field", ["channel", "mask"])
@pytest.mark.parametrize("of", ["channel", "mask"])
@pytest.mark.parametrize("silo", ["silo-1", "silo-2"])
def test_an_ephemeral_key_is_shown_once(field, of, silo):
    if silo == "silo-2" and field == of:
        return
    key = shown_key(COHORT.adverts[silo], of)
    with pytest.raises(DuplicateKey):
        Cohort.form(CONTEXT, with_advert(advert(**showing(COHORT.adverts["silo-2"], field, key))))


def test_a_copied_key_is_seen_whatever_its_top_bit():
    key = bytearray(COHORT.adverts["silo-1"].mask)
    key[31] |= 0x80
    with pytest.raises(Malformed, match="second encoding"):
        Cohort.form(CONTEXT, with_advert(advert(mask=bytes(key))))
    own = bytearray(shown_key(COHORT.adverts["silo-2"], "channel"))
    own[31] |= 0x80
    with pytest.raises(Malformed, match="second encoding"):
        CONTEXT.check_advert(advert(**showing(COHORT.adverts["silo-2"], "channel", bytes(own))))


@pytest.mark.parametrize("field", ["channel", "mask"])
def test_an_advert_with_a_key_of_low_order_is_refused(field):
    with pytest.raises(Malformed):
        CONTEXT.check_advert(advert(**showing(COHORT.adverts["silo-2"], field, bytes(32))))


def test_an_advert_with_twice_the_same_key_is_refused():
    with pytest.raises(DuplicateKey):
        CONTEXT.check_advert(advert(mask=shown_key(COHORT.adverts["silo-2"], "channel")))


CHANNELS = COHORT.adverts["silo-2"].channels


@pytest.mark.parametrize(
    "channels",
    [
        (),
        CHANNELS[1:],
        (*CHANNELS, bytes(32)),
        (*CHANNELS, CHANNELS[0]),
    ],
)
def test_an_advert_has_one_channel_to_each_other_member(channels):
    assert [COHORT.channel("silo-2", f"silo-{peer}") for peer in (1, 3, 4, 5)] == list(CHANNELS)
    with pytest.raises(LayoutMismatch, match="channels"):
        CONTEXT.check_advert(advert(channels=channels))


def test_a_cohort_below_the_minimum():
    with pytest.raises(CohortTooSmall):
        Cohort.form(CONTEXT, list(COHORT.signed.values())[: FED.charter.n_min - 1])


# --- U2 -----------------------------------------------------------------------------------------------------------


def deal(silo="silo-2", signer=None, **change):
    return again(Deal, DEALT.signed[silo], signer or silo, **change)


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        (deal(signer="silo-3"), BadSignature),
        (deal(t1=bytes(32)), TranscriptMismatch),
        (deal(rows=()), LayoutMismatch),
        (deal(rows=DEALT.deals["silo-2"].rows[1:]), LayoutMismatch),
        (deal(rows=(*DEALT.deals["silo-2"].rows, bytes(32))), LayoutMismatch),
    ],
)
def test_a_deal_is_refused(signed, error):
    with pytest.raises(error):
        Dealt.form(COHORT, [*(data for silo, data in DEALT.signed.items() if silo != "silo-2"), signed])


def test_a_deal_has_the_digest_of_each_row_in_its_place():
    """The deal names no silo: a digest in another's place is that of another row."""
    rows = DEALT.deals["silo-2"].rows
    swapped = deal(rows=(rows[1], rows[0], *rows[2:]))
    dealt = Dealt.form(COHORT, [*(data for silo, data in DEALT.signed.items() if silo != "silo-2"), swapped])
    for recipient in ("silo-1", "silo-3"):
        with pytest.raises(TranscriptMismatch, match="not the one it signed"):
            dealt.open_row("silo-2", recipient, RUN.rows[recipient]["silo-2"], bytes(32))


def test_a_dealer_has_announced_itself():
    small = Cohort.form(CONTEXT, [data for silo, data in COHORT.signed.items() if silo != "silo-2"])
    with pytest.raises(RosterMismatch, match="without having announced"):
        Dealt.check_deal(small, DEALT.signed["silo-2"])


def test_a_silo_deals_once():
    with pytest.raises(RosterMismatch, match="twice"):
        Dealt.form(COHORT, [*DEALT.signed.values(), DEALT.signed["silo-2"]])


def test_fewer_dealers_than_the_threshold():
    assert COHORT.threshold == 4
    assert Dealt.form(COHORT, list(DEALT.signed.values())[:4]).t2 != DEALT.t2
    with pytest.raises(SurvivorInvalid):
        Dealt.form(COHORT, list(DEALT.signed.values())[:3])


def test_pair_keys_are_common_and_bound_to_lane_and_transcript():
    assert DEALT.pair_key(b"s", "a", "b", "trunk") == DEALT.pair_key(b"s", "b", "a", "trunk")
    other = Dealt.form(COHORT, list(DEALT.signed.values())[:4])
    keys = {
        DEALT.pair_key(b"s", "a", "b", "trunk"),
        DEALT.pair_key(b"s", "a", "b", "quiet"),
        DEALT.pair_key(b"s", "a", "c", "trunk"),
        DEALT.pair_key(b"t", "a", "b", "trunk"),
        DEALT.self_key(b"s", "a", "trunk"),
        DEALT.self_key(b"s", "b", "trunk"),
        DEALT.self_key(b"s", "a", "quiet"),
        other.pair_key(b"s", "a", "b", "trunk"),
        other.self_key(b"s", "a", "trunk"),
    }
    assert len(keys) == 9 and all(len(key) == 16 for key in keys)


def test_pair_masks_go_between_uploaders_of_the_lane_only():
    silo = "silo-5"
    session = Run(FED, PLAN, label="streams")
    session.deals()
    dealt = session.server.dealt
    seed = bytes(32)

    def secrets(silo):
        return dealt.pair_secrets(session.sessions[silo]._mask, [peer for peer in dealt.signed if peer != silo])

    assert len(dealt.upload_streams(silo, "trunk", seed, secrets(silo))) == 5
    assert len(dealt.upload_streams(silo, "open", seed, secrets(silo))) == 3
    signs = [sign for _, sign in dealt.upload_streams("silo-3", "trunk", seed, secrets("silo-3"))]
    assert signs == [1, -1, -1, 1, 1]
    assert secrets("silo-1")["silo-2"] == secrets("silo-2")["silo-1"]


# --- U3 -----------------------------------------------------------------------------------------------------------


def header(silo="silo-2", signer=None, **change):
    return again(Header, U3.signed[silo], signer or silo, **change)


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        (header(signer="silo-3"), BadSignature),
        (header(t2=bytes(32)), TranscriptMismatch),
        (header(lanes=()), LayoutMismatch),
        (header(lanes=tuple(reversed(U3.headers["silo-2"].lanes))), LayoutMismatch),
        (header(lanes=U3.headers["silo-4"].lanes), LayoutMismatch),
    ],
)
def test_a_header_is_refused(signed, error):
    with pytest.raises(error):
        Survivors.form(DEALT, [*(data for silo, data in U3.signed.items() if silo != "silo-2"), signed])


def test_a_survivor_has_dealt():
    small = Dealt.form(COHORT, [data for silo, data in DEALT.signed.items() if silo != "silo-2"])
    with pytest.raises(SurvivorInvalid, match="without having dealt"):
        Survivors.check_header(small, header(t2=small.t2))


def test_a_survivor_appears_once():
    with pytest.raises(RosterMismatch, match="twice"):
        Survivors.form(DEALT, [*U3.signed.values(), U3.signed["silo-2"]])


def test_fewer_survivors_than_the_threshold():
    with pytest.raises(SurvivorInvalid, match="threshold"):
        Survivors.form(DEALT, list(U3.signed.values())[:3])


def test_fewer_honest_survivors_than_m_is_unreachable_behind_the_threshold():
    """t − c ≥ m is proved when the charter is made, so |U3| ≥ t implies |U3| − c ≥ m: the second check is a belt."""
    for n in range(3, 20):
        for c in range(6):
            try:
                charter = Federation(n, c=c).charter
            except (SpecError, ThresholdInfeasible):
                continue
            assert all(charter.threshold(size) - c >= charter.honest for size in range(charter.n_min, n + 1))


def test_fewer_honest_survivors_than_m_all_the_same(monkeypatch):
    """The belt holds if the charter's proof were wrong: m raised behind its back, with the threshold already known."""
    assert COHORT.threshold == 4
    monkeypatch.setitem(vars(FED.charter), "honest", 5)
    with pytest.raises(SurvivorInvalid, match="honest inputs"):
        Survivors.form(DEALT, U3.signed.values())


def test_who_dropped():
    assert U3.dropped == ("silo-5",) and U3.step == PLAN.steps[0]


def test_transcripts_follow_each_other():
    assert U3.t3 != DEALT.t2 != COHORT.t1 != CONTEXT.t0
    assert COHORT.t1 == transcript.t1(CONTEXT.t0, COHORT.signed.values())
    assert DEALT.t2 == transcript.t2(COHORT.t1, DEALT.signed.values())
    assert U3.t3 == transcript.t3(DEALT.t2, U3.signed.values())


def attestation(silo, signer=None, t3=None, sets=b"s" * 32):
    return Attestation(silo=silo, t3=t3 or U3.t3, sets=sets).sign(FED.identities[signer or silo])


def test_attestations():
    four = [attestation(silo) for silo in U3.signed]
    assert U3.check_attested(four) == b"s" * 32
    assert U3.check_attested([*four, *four]) == b"s" * 32
    with pytest.raises(SurvivorInvalid, match="3 attestations"):
        U3.check_attested(four[:3])
    with pytest.raises(SurvivorInvalid, match="3 attestations"):
        U3.check_attested([*four[:3], four[0]])
    with pytest.raises(SurvivorInvalid, match="does not survive"):
        U3.check_attested([*four[:3], attestation("silo-5")])
    with pytest.raises(BadSignature):
        U3.check_attested([*four[:3], attestation("silo-4", "silo-1")])
    with pytest.raises(TranscriptMismatch):
        U3.check_attested([*four[:3], attestation("silo-4", t3=bytes(32))])
    with pytest.raises(SurvivorInvalid, match="0 attestations"):
        U3.check_attested([])


@pytest.mark.parametrize("other", FED.silos[:4])
def test_attestations_of_other_sets_do_not_count(other):
    """t of them must name the same sets; whose is another one does not matter."""
    mixed = [attestation(silo, sets=b"o" * 32 if silo == other else b"s" * 32) for silo in U3.signed]
    with pytest.raises(SurvivorInvalid, match="3 attestations agree"):
        U3.check_attested(mixed)
    with pytest.raises(SurvivorInvalid, match="3 attestations agree"):
        U3.check_attested(mixed[::-1])
    whole = Run(FED, PLAN, label="whole")
    whole.uploads()
    u3 = whole.server.survivors
    five = [attestation(silo, t3=u3.t3, sets=b"o" * 32 if silo == other else b"s" * 32) for silo in u3.signed]
    assert u3.check_attested(five) == u3.check_attested(five[::-1]) == b"s" * 32


def test_slots_are_those_of_the_header():
    slots = RUN.masked_slots["silo-2"]
    assert U3.check_slots("silo-2", slots).dtype == np.uint64
    with pytest.raises(LayoutMismatch):
        U3.check_slots("silo-2", slots[:-8])
    with pytest.raises(LayoutMismatch):
        U3.check_slots("silo-2", b"")
    with pytest.raises(TranscriptMismatch):
        U3.check_slots("silo-3", slots)


@pytest.mark.parametrize("place", [0, 1])
def test_the_slots_of_each_section_are_those_of_the_header(place):
    """One slot is in each of the sections: both have a digest of their own."""
    slots = bytearray(RUN.masked_slots["silo-2"])
    slots[8 * place] ^= 1
    with pytest.raises(TranscriptMismatch, match=("Static", "Fresh")[place]):
        U3.check_slots("silo-2", bytes(slots))


def test_slots_of_odd_length_are_refused_by_name():
    with pytest.raises(LayoutMismatch):
        U3.check_slots("silo-2", RUN.masked_slots["silo-2"][:-1])


def test_words_are_those_of_the_header():
    words = np.arange(4, dtype=np.uint32)
    head = Header(silo="silo-1", t2=bytes(32), lanes=(("trunk", words_digest(words)),))
    assert check_words(head, "trunk", words, 4) is words
    with pytest.raises(LayoutMismatch):
        check_words(head, "trunk", words, 5)
    with pytest.raises(LayoutMismatch):
        check_words(head, "trunk", words.reshape(2, 2), 4)
    with pytest.raises(TranscriptMismatch):
        check_words(head, "trunk", words + np.uint32(1), 4)


@pytest.mark.parametrize("kind", ["<u4", ">u4"])
def test_the_digest_of_words_is_over_little_endian_bytes(kind):
    assert words_digest(np.arange(4).astype(kind)) == words_digest(np.arange(4, dtype=np.uint32))
    assert words_digest(np.arange(8, dtype=np.uint32)[::2]) == words_digest(np.arange(0, 8, 2, dtype=np.uint32))


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8])
def test_words_of_another_dtype_are_refused(dtype):
    words = np.arange(4, dtype=dtype)
    head = Header(silo="silo-1", t2=bytes(32), lanes=(("trunk", words_digest(words)),))
    with pytest.raises(LayoutMismatch):
        check_words(head, "trunk", words, 4)


# --- shares -------------------------------------------------------------------------------------------------------


def shares(signed, signer=None, **change):
    silo = Shares.open(signed, lambda m: FED.charter.member(m.silo).agent).silo
    return again(Shares, signed, signer or silo, **change)


SLOT = U3.check_slot_shares(SLOT_SHARES["silo-2"])
LANE = U3.check_lane_shares(LANE_SHARES["silo-2"])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"signer": "silo-1"}, BadSignature),
        ({"t3": bytes(32)}, TranscriptMismatch),
        ({"masks": ()}, LayoutMismatch),
        ({"masks": SLOT.masks * 2}, LayoutMismatch),
        ({"masks": (("silo-1", SLOT.masks[0][1]),)}, LayoutMismatch),
        ({"seeds": SLOT.seeds[1:]}, LayoutMismatch),
        ({"seeds": tuple(reversed(SLOT.seeds))}, LayoutMismatch),
        ({"seeds": tuple((silo, "trunk", share) for silo, _, share in SLOT.seeds)}, LayoutMismatch),
        ({"seeds": (*SLOT.seeds, ("silo-5", "Fresh", SLOT.seeds[0][2]))}, LayoutMismatch),
        ({"seeds": SLOT.seeds[4:] + SLOT.seeds[:4]}, LayoutMismatch),
        ({"seeds": SLOT.seeds[:7]}, LayoutMismatch),
        ({"seeds": (*SLOT.seeds, *SLOT.seeds)}, LayoutMismatch),
        ({"seeds": (*SLOT.seeds, *LANE.seeds)}, LayoutMismatch),
        ({"counts": (("trunk", 16, 4),)}, LayoutMismatch),
    ],
)
def test_slot_shares_are_all_and_only_those(change, error):
    with pytest.raises(error):
        U3.check_slot_shares(shares(SLOT_SHARES["silo-2"], **change))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"signer": "silo-1"}, BadSignature),
        ({"t3": bytes(32)}, TranscriptMismatch),
        ({"masks": SLOT.masks}, LayoutMismatch),
        ({"seeds": LANE.seeds[1:]}, LayoutMismatch),
        ({"seeds": (*LANE.seeds, *SLOT.seeds)}, LayoutMismatch),
        ({"seeds": tuple((silo, "nonsense", share) for silo, _, share in LANE.seeds)}, LayoutMismatch),
        ({"seeds": LANE.seeds + LANE.seeds}, LayoutMismatch),
        ({"counts": ()}, LayoutMismatch),
        ({"counts": LANE.counts[1:]}, LayoutMismatch),
        ({"counts": LANE.counts[::-1]}, LayoutMismatch),
        ({"counts": (*LANE.counts, LANE.counts[0])}, LayoutMismatch),
        ({"counts": (*LANE.counts, ("open", 3, 3))}, LayoutMismatch),
    ],
)
def test_lane_shares_are_whole_lanes(change, error):
    with pytest.raises(error):
        U3.check_lane_shares(shares(LANE_SHARES["silo-2"], **change))


@pytest.mark.parametrize("kept", [(), ("Static",), ("Fresh",)])
def test_each_section_of_slots_may_be_withheld_as_a_whole(kept):
    some = tuple(one for one in SLOT.seeds if one[1] in kept)
    assert len(some) == 4 * len(kept)
    assert U3.check_slot_shares(shares(SLOT_SHARES["silo-2"], seeds=some)).seeds == some


def test_slot_shares_are_no_lane_shares_nor_the_other_way_round():
    with pytest.raises(LayoutMismatch):
        U3.check_lane_shares(SLOT_SHARES["silo-2"])
    with pytest.raises(LayoutMismatch):
        U3.check_slot_shares(LANE_SHARES["silo-2"])


def test_only_survivors_send_shares():
    with pytest.raises(SurvivorInvalid):
        U3.check_slot_shares(replace(SLOT, silo="silo-5").sign(FED.identities["silo-5"]))


def test_no_lane_may_be_released_at_all():
    assert U3.check_lane_shares(replace(LANE, seeds=(), counts=()).sign(FED.identities["silo-2"])).seeds == ()


# --- recovery -----------------------------------------------------------------------------------------------------

ALL_SLOT = [U3.check_slot_shares(signed) for signed in SLOT_SHARES.values()]


def test_masks_and_seeds_are_recovered_by_any_t():
    assert set(U3.recover_masks(ALL_SLOT)) == {"silo-5"}
    for section in SECTIONS:
        seeds = U3.recover_seeds(section, ALL_SLOT)
        assert set(seeds) == set(U3.signed)
        assert all(
            commitment(silo, section, seed) == dict(COHORT.adverts[silo].commitments)[section]
            for silo, seed in seeds.items()
        )


@pytest.mark.parametrize(
    "recover", [lambda some: U3.recover_masks(some), lambda some: U3.recover_seeds("Static", some)]
)
def test_recovery_needs_t_shares(recover):
    with pytest.raises(SurvivorInvalid, match="threshold"):
        recover(ALL_SLOT[:3])
    with pytest.raises(SurvivorInvalid, match="threshold"):
        recover([*ALL_SLOT[:3], ALL_SLOT[0]])


@pytest.mark.parametrize("share", [bytes(33), shamir.P.to_bytes(33, "big"), b"\xff" * 33])
def test_a_wrong_share_blames_the_dealer(share):
    forged = replace(SLOT, masks=(("silo-5", share),), seeds=((*SLOT.seeds[0][:2], share), *SLOT.seeds[1:]))
    others = [s for s in ALL_SLOT if s.silo != forged.silo]
    with pytest.raises(BadShare) as blamed:
        U3.recover_masks([*others, forged])
    assert blamed.value.dealer == "silo-5"
    with pytest.raises(BadShare) as blamed:
        U3.recover_seeds("Static", [*others, forged])
    assert blamed.value.dealer == SLOT.seeds[0][0]


def test_commitments_name_silo_and_lane():
    seed = bytes(32)
    assert (
        len(
            {
                commitment("a", "x", seed),
                commitment("b", "x", seed),
                commitment("a", "y", seed),
                commitment("a", "x", b"\x01" * 32),
            }
        )
        == 4
    )


def test_the_mask_key_is_derived_from_its_seed():
    assert mask_key(bytes(32)).public == mask_key(bytes(32)).public != mask_key(b"\x01" * 32).public
    assert stream("a")(4) != stream("b")(4)
