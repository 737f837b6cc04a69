"""Security games: one for each attack of the list that concerns crypto/. Each ends in the named refusal.

The numbers A1…A20 are those of the design notes' attack list. After every game the verdict is taken on the raw bytes
that left the honest silos (``EvilServer.verdict``).
"""

import logging
import warnings
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto import shamir
from crypto.blocks import Contribution, encode
from crypto.cohort import Survivors
from crypto.errors import (
    BadShare,
    BothShares,
    EgressDenied,
    FederationError,
    LayoutMismatch,
    NonFinite,
    RosterMismatch,
    SpecError,
    SurvivorInvalid,
    ThresholdInfeasible,
    TranscriptMismatch,
    Unexpected,
)
from crypto.keys import SessionKey
from crypto.messages import Advert, Attestation, Header, Row, SharePack, Shares
from crypto.session import SessionState
from crypto.transcript import t3
from tests.evil_server import EvilServer
from tests.federation import (
    UNRECORDED,
    Federation,
    Run,
    contribution,
    holding,
    identity,
    showing,
    shown_key,
    small_plan,
)

FED = Federation(5)  # c = 1, m = 2, n_min = 4, t(5) = 4
PLAN = small_plan()
STEP = PLAN.steps[0]


@pytest.fixture
def play():
    """Makes evil servers, and takes the verdict on each after the game."""
    made: list[EvilServer] = []

    def make(fed=FED, plan=PLAN, **options):
        made.append(EvilServer(fed, plan, **options))
        return made[-1]

    yield make
    for evil in made:
        evil.verdict()


def signed_again(evil, kind, signed, signer, **change):
    message = kind.open(signed, lambda m: evil.fed.charter.member(m.silo).agent)
    return replace(message, **change).sign(evil.fed.identities.get(signer) or identity(signer))


def without(table, *silos):
    return [table[silo] for silo in sorted(table) if silo not in silos]


# --- A1: a live silo is called dropped ----------------------------------------------------------------------------


def test_a1_a_live_silo_is_called_dropped(play):
    """Everyone is told that silo-2 dropped. It refuses; the others give its mask share and never its self share."""
    evil = play().until("contribute")
    evil.attest(lambda silo: without(evil.headers, "silo-2"))
    evil.unmask_slots()
    evil.unmask_lanes()
    assert evil.codes() == {"silo-2": "SURVIVOR_INVALID"}
    kinds = evil.kinds()
    for silo in ("silo-1", "silo-3", "silo-4", "silo-5"):
        assert kinds[silo, "silo-2"] == {"mask"}
        assert kinds[silo, "silo-1"] == kinds[silo, "silo-3"] == {"self"}
    assert not any(kinds["silo-2", party] for party in FED.silos)


def test_a1_the_second_question_comes_too_late(play):
    """First the honest survivor set, then one without silo-2: the session has attested and does not go back."""
    evil = play().until("unmask_slots")
    for silo in FED.silos:
        with pytest.raises(Unexpected):
            evil.sessions[silo].survivors(without(evil.headers, "silo-2"))
        with pytest.raises(Unexpected):
            evil.sessions[silo].release_slots(list(evil.attested.values()), evil.masked_slots, **UNRECORDED)
        assert evil.sessions[silo].state is SessionState.SLOTS_OPEN
    evil.unmask_lanes()
    for silo in FED.silos:
        with pytest.raises(Unexpected):
            evil.sessions[silo].release_lanes(list(evil.slot_shares.values()), floors={}, record=UNRECORDED["record"])


def test_a1_both_shares_are_refused_whatever_the_rest_of_the_code_says(play, monkeypatch):
    """The last line of defence: a survivor among the dropped, by whatever bug, is BothShares and nothing leaves."""
    evil = play().until("attest")
    monkeypatch.setattr(Survivors, "dropped", property(lambda self: ("silo-2",)))
    evil.unmask_slots()
    assert set(evil.codes().values()) == {"BOTH_SHARES"} and len(evil.refused) == 5
    assert not evil.slot_shares and all(isinstance(error, BothShares) for error in evil.refused.values())


# --- A2: different survivor sets ----------------------------------------------------------------------------------


def split(evil: EvilServer, first: tuple[str, ...]) -> dict[bytes, list[bytes]]:
    """``first`` see all five survive, the other honest silos see U3 without silo-4; silo-5 signs both."""
    evil.attest(lambda silo: without(evil.headers, *(() if silo in first else ("silo-4",))), silos=FED.silos[:4])
    assert not evil.refused
    signed: dict[bytes, list[bytes]] = {}
    for silo, data in evil.attested.items():
        signed.setdefault(evil.sessions[silo].t3, []).append(data)
    assert len(signed) == 2
    return {t3: [*collected, evil.other_attestation("silo-5", t3)] for t3, collected in signed.items()}


def test_a2_two_survivor_sets_neither_attested(play):
    evil = play(colluders=["silo-5"]).until("contribute")
    signed = split(evil, ("silo-1", "silo-4"))
    evil.unmask_slots(lambda silo: signed[evil.sessions[silo].t3], silos=FED.silos[:4])
    assert set(evil.codes().values()) == {"SURVIVOR_INVALID"} and len(evil.refused) == 4 and not evil.slot_shares


def test_a2_two_survivor_sets_one_attested(play):
    """Three honest silos and the colluder reach t for one set; the fourth silo, on the other set, refuses."""
    evil = play(colluders=["silo-5"]).until("contribute")
    signed = split(evil, ("silo-1", "silo-2", "silo-4"))
    evil.unmask_slots(lambda silo: signed[evil.sessions[silo].t3], silos=FED.silos[:4])
    assert evil.codes() == {"silo-3": "SURVIVOR_INVALID"} and set(evil.slot_shares) == {"silo-1", "silo-2", "silo-4"}


def test_a2_the_attestations_of_both_sets_together(play):
    evil = play(colluders=["silo-5"]).until("contribute")
    signed = split(evil, ("silo-1", "silo-4"))
    mixed = [data for collected in signed.values() for data in collected]
    evil.unmask_slots(lambda silo: mixed, silos=FED.silos[:4])
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"} and len(evil.refused) == 4


def test_a2_no_two_survivor_sets_can_both_be_attested():
    """All n ≤ 8, all feasible c, all splits of the honest silos, every colluder set (by size) signing both."""
    for n in range(3, 9):
        for c in range(n):
            try:
                charter = Federation(n, c=c).charter
            except (SpecError, ThresholdInfeasible):
                continue
            for size in range(charter.n_min, n + 1):
                t = charter.threshold(size)
                for colluders in range(c + 1):
                    for first in range(size - colluders + 1):
                        second = size - colluders - first
                        assert not (first + colluders >= t and second + colluders >= t)


# --- A3: split adverts --------------------------------------------------------------------------------------------


def test_a3_two_cohorts_with_silos_in_both(play):
    """silo-1, silo-2 see everyone; the others see a cohort without silo-1. T1 differs: no deal fits the other."""
    evil = play().until("open")
    evil.deal(lambda silo: without(evil.adverts) if silo in ("silo-1", "silo-2") else without(evil.adverts, "silo-1"))
    assert not evil.refused

    def rows(silo):
        return {dealer: evil.rows[dealer].get(silo, b"") for dealer in evil.deals if dealer != silo}

    evil.contribute(rows=rows, silos=["silo-1", "silo-2"])
    assert evil.codes() == {"silo-1": "TRANSCRIPT_MISMATCH", "silo-2": "TRANSCRIPT_MISMATCH"}
    # What is left is one cohort of four, of which three dealt: t = 3 would do, but not n_min = 4 of complete records.
    three = ["silo-3", "silo-4", "silo-5"]
    evil.contribute(lambda silo: [evil.deals[s] for s in three], lambda silo: evil.rows_for(silo, three), silos=three)
    assert {evil.codes()[silo] for silo in three} == {"SURVIVOR_INVALID"} and not evil.headers


def test_a3_rows_do_not_open_under_another_cohort(play):
    """Even where the server could forge the deal's digest, the row is sealed under T1."""
    evil = play().until("open")
    evil.deal(
        lambda silo: without(evil.adverts, "silo-5") if silo == "silo-1" else without(evil.adverts), silos=FED.silos
    )
    session = evil.sessions["silo-2"]
    session._dealt = None
    key, aad = session._cohort.seal_key(
        session._channels["silo-1"].agree(session._cohort.channel("silo-1", "silo-2")), "silo-1", "silo-2"
    )
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(bytes(12), Row.from_bytes(evil.rows["silo-1"]["silo-2"]).sealed, aad)


def test_a3_two_disjoint_federations(play):
    fed = Federation(8)
    evil = play(fed, small_plan(8)).until("open")
    halves = (fed.silos[:4], fed.silos[4:])
    evil.deal(lambda silo: [evil.adverts[s] for s in halves[silo in halves[1]]])
    assert set(evil.codes().values()) == {"COHORT_TOO_SMALL"} and len(evil.refused) == 8


def test_a3_own_deal_is_left_out(play):
    evil = play().until("deal")
    evil.contribute(lambda silo: without(evil.deals, silo), lambda silo: evil.rows_for(silo, sorted(evil.deals)))
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"} and len(evil.refused) == 5


# --- A4: keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", ["stranger", "aggregator", "silo-3"])
@pytest.mark.parametrize("field", ["channel", "mask"])
def test_a4_key_substitution(play, signer, field):
    evil = play().until("open")
    honest = Advert.open(evil.adverts["silo-2"], lambda m: FED.charter.member(m.silo).agent)
    change = showing(honest, field, identity("mine").public.raw)
    forged = signed_again(evil, Advert, evil.adverts["silo-2"], signer, **change)
    evil.deal(lambda silo: [*without(evil.adverts, "silo-2"), forged])
    assert set(evil.codes().values()) == {"BAD_SIGNATURE"} and len(evil.refused) == 5


@pytest.mark.parametrize("field", ["channel", "mask"])
def test_a4_reflection_by_a_colluder(play, field):
    """silo-5 shows silo-1's key as its own."""
    evil = play(colluders=["silo-5"]).until("open")
    theirs, own = (
        Advert.open(evil.adverts[silo], lambda m: FED.charter.member(m.silo).agent) for silo in ("silo-1", "silo-5")
    )
    forged = signed_again(
        evil, Advert, evil.adverts["silo-5"], "silo-5", **showing(own, field, shown_key(theirs, field))
    )
    evil.deal(lambda silo: [*without(evil.adverts, "silo-5"), forged], silos=FED.silos[:4])
    assert set(evil.codes().values()) == {"DUPLICATE_KEY"} and len(evil.refused) == 4


def test_a4_own_advert_is_left_out_or_replaced(play):
    evil = play().until("open")
    evil.deal(lambda silo: without(evil.adverts, silo))
    assert set(evil.codes().values()) == {"DUPLICATE_KEY"}
    old, evil = evil, play(label="again").until("open")
    evil.deal(lambda silo: [*without(evil.adverts, silo), old.adverts[silo]])
    assert set(evil.codes().values()) == {"DUPLICATE_KEY"} and len(evil.refused) == 5


@pytest.mark.parametrize("change", [{"attempt": 1}, {"run": b"R" * 32}, {"chain": b"S" * 32}])
def test_a4_replay_of_old_adverts(play, change):
    old = play().until("open")
    evil = play(context=FED.context(PLAN, **change), label="new").until("open")
    evil.deal(lambda silo: [*without(evil.adverts, "silo-2"), old.adverts["silo-2"]], silos=["silo-1", "silo-3"])
    assert evil.codes() == {"silo-1": "TRANSCRIPT_MISMATCH", "silo-3": "TRANSCRIPT_MISMATCH"}


def test_a4_replay_of_a_peers_old_advert_of_the_same_attempt(play):
    """silo-2 restarted and announced itself again; the server shows the others its first advert: T1 differs."""
    old, evil = play().until("open"), play(label="new").until("open")
    evil.deal(
        lambda silo: (
            without(evil.adverts) if silo == "silo-2" else [*without(evil.adverts, "silo-2"), old.adverts["silo-2"]]
        )
    )
    evil.contribute()
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"} and len(evil.refused) == 5


def test_a4_a_silo_named_twice(play):
    evil = play().until("open")
    evil.deal(lambda silo: [*without(evil.adverts), evil.adverts["silo-2"]])
    assert set(evil.codes().values()) == {"ROSTER_MISMATCH"}


def test_a4_a_stranger_in_the_cohort(play):
    evil = play().until("open")
    stranger = Advert.open(evil.adverts["silo-2"], lambda m: FED.charter.member(m.silo).agent)
    forged = replace(stranger, silo="silo-9", mask=b"m" * 32).sign(identity("silo-9"))
    evil.deal(lambda silo: [*without(evil.adverts), forged])
    assert set(evil.codes().values()) == {"ROSTER_MISMATCH"}


# --- A5, A7: twice, and alone -------------------------------------------------------------------------------------


def test_a5_one_upload_one_release(play):
    """After its upload a session masks nothing again, and after its end it answers nothing."""
    evil = play().until("contribute")
    encoded = encode(PLAN, STEP, contribution(PLAN, STEP, "silo-1"), evil.weights["silo-1"])
    with pytest.raises(Unexpected):
        evil.sessions["silo-1"].upload(encoded)
    with pytest.raises(Unexpected):
        evil.sessions["silo-1"].open_rows(list(evil.deals.values()), {})
    with pytest.raises(Unexpected):
        evil.sessions["silo-1"].deal(list(evil.adverts.values()))
    with pytest.raises(Unexpected):
        evil.sessions["silo-1"].advert(weights={}, releases=0, data=bytes(32), approval=bytes(32))
    evil.attest()
    evil.unmask_slots()
    evil.unmask_lanes()
    evil.tag()
    assert not evil.refused and all(session.state is SessionState.DONE for session in evil.sessions.values())
    with pytest.raises(Unexpected):
        evil.sessions["silo-1"].tag(evil.announce()[1])


@pytest.mark.parametrize("alone", [["silo-1"], ["silo-1", "silo-5"], ["silo-1", "silo-2", "silo-5"]])
def test_a7_a_survivor_set_below_the_threshold(play, alone):
    evil = play(colluders=["silo-5"]).until("contribute")
    evil.attest(lambda silo: [evil.headers[s] for s in alone], silos=alone)
    assert set(evil.codes().values()) == {"SURVIVOR_INVALID"} and set(evil.codes()) == set(alone)


@pytest.mark.parametrize("alone", [["silo-1"], ["silo-1", "silo-2", "silo-3"]])
def test_a7_a_cohort_below_the_minimum(play, alone):
    evil = play().until("open")
    evil.deal(lambda silo: [evil.adverts[s] for s in alone], silos=alone)
    assert set(evil.codes().values()) == {"COHORT_TOO_SMALL"}


@pytest.mark.parametrize("alone", [["silo-1"], ["silo-1", "silo-2", "silo-3"]])
def test_a7_dealers_below_the_threshold(play, alone):
    evil = play().until("deal")
    evil.contribute(lambda silo: [evil.deals[s] for s in alone], lambda silo: evil.rows_for(silo, alone), silos=alone)
    assert set(evil.codes().values()) == {"SURVIVOR_INVALID"}


@pytest.mark.parametrize(("n", "c"), [(3, 2), (4, 3), (5, 4)])
def test_a7_n_minus_1_colluders_have_no_charter(n, c):
    with pytest.raises((SpecError, ThresholdInfeasible)):
        Federation(n, c=c)


# --- A8: model inconsistency --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"chain": b"x" * 32}, {"run": b"y" * 32}, {"attempt": 7}])
def test_a8_one_silo_is_given_another_state(play, change):
    evil = play(contexts={"silo-3": FED.context(PLAN, **change)}).until("deal")
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"} and len(evil.refused) == 5


def test_a8_one_silo_is_given_another_plan(play):
    evil = play(contexts={"silo-3": FED.context(small_plan(scale=2))}).until("deal")
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"}


def test_a8_one_silo_is_given_another_charter(play):
    other = Federation(5, n_min=5)
    evil = play(contexts={"silo-3": other.context(PLAN)}).until("deal")
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"}


# --- A9: every mask key once --------------------------------------------------------------------------------------


def test_a9_every_stream_has_a_key_of_its_own(play, monkeypatch):
    """Two sessions: pair keys are used by exactly two silos with opposite signs, self keys once, none ever again."""
    from crypto import silo_session

    used: dict[bytes, list[int]] = {}
    real = silo_session.apply_streams

    def spy(vector, streams):
        streams = list(streams)
        for key, sign in streams:
            used.setdefault(key, []).append(sign)
        real(vector, streams)

    monkeypatch.setattr(silo_session, "apply_streams", spy)
    for label, attempt in (("one", 0), ("one", 1), ("two", 0)):
        play(label=label, context=FED.context(PLAN, attempt=attempt)).until("contribute")
    uploads = [5, 5, 5, 5, 3]  # uploaders of Static, Fresh, trunk, quiet, open
    assert sum(signs == [1] for signs in used.values()) == 3 * sum(uploads)
    assert sum(sorted(signs) == [-1, 1] for signs in used.values()) == 3 * sum(n * (n - 1) // 2 for n in uploads)
    assert len(used) == 3 * sum(n * (n + 1) // 2 for n in uploads)


# --- A10, A11: values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a11_nan_never_reaches_the_ring(bad):
    given = contribution(PLAN, STEP, "silo-1")
    given.sums["trunk.w"][2, 3] = bad
    with pytest.raises(NonFinite):
        encode(PLAN, STEP, given, {"trunk": 4})


def test_a10_a_model_beyond_the_clip_is_cut():
    given = Contribution({"trunk.w": np.full((6, 5), 1e9), "trunk.b": np.full(5, -1e9)}, {"rows": 0, "correct": 0})
    words = encode(PLAN, STEP, given, {"trunk": 16}).lanes["trunk"].view(np.int32)
    assert words.max() == (2**31 - 1) // 5 == -words.min()


def test_a11_something_that_the_plan_does_not_list():
    with pytest.raises(EgressDenied):
        encode(PLAN, STEP, Contribution({"patients": np.zeros(3)}, {}), {})


def narrow(pack: SharePack) -> SharePack:
    return replace(pack, manifest=pack.manifest[:-1])


def wide(pack: SharePack) -> SharePack:
    return replace(pack, manifest=(*pack.manifest, 1))


def off_grid(pack: SharePack) -> SharePack:
    return replace(pack, manifest=(4, *pack.manifest[1:]))


def heavier(pack: SharePack) -> SharePack:
    return replace(pack, manifest=(3, *pack.manifest[1:]))


def other_nonce(pack: SharePack) -> SharePack:
    return replace(pack, nonce=bytes(32))


def short(pack: SharePack) -> SharePack:
    return replace(pack, self_seeds=pack.self_seeds[:-1])


def long(pack: SharePack) -> SharePack:
    return replace(pack, self_seeds=(*pack.self_seeds, bytes(33)))


def beyond(pack: SharePack) -> SharePack:
    return replace(pack, mask=shamir.P.to_bytes(33, "big"))


def beyond_seed(pack: SharePack) -> SharePack:
    return replace(pack, self_seeds=(b"\xff" * 33, *pack.self_seeds[1:]))


@pytest.mark.parametrize("change", [narrow, wide, off_grid, heavier, other_nonce, short, long, beyond, beyond_seed])
def test_a11_a16_short_and_non_canonical_shares_blame_the_dealer(play, change):
    evil = play(colluders=["silo-5"]).until("deal")
    evil.redeal("silo-5", lambda peer, pack: change(pack) if peer == "silo-2" else pack)
    evil.contribute()
    assert evil.codes() == {"silo-2": "BAD_SHARE"} and evil.refused["silo-2"].dealer == "silo-5"
    if change is short:  # the server itself counts the hashes
        with pytest.raises(BadShare, match="one hash for each secret"):
            evil.honest_until_deals()
        return
    assert evil.honest_until_deals().at_fault("silo-2", "silo-5", evil.refused["silo-2"].key) == "silo-5"


def test_a16_a_complaint_shows_one_row_and_no_other(play):
    """The key opens the channel to the dealer. Of all other rows to or from silo-2 it opens none."""
    evil = play(colluders=["silo-5"]).until("deal")
    evil.redeal("silo-5", lambda peer, pack: beyond(pack) if peer == "silo-2" else pack)
    evil.contribute()
    channel = SessionKey(evil.refused["silo-2"].key)
    cohort = evil.sessions["silo-1"]._cohort
    assert channel.public == cohort.channel("silo-2", "silo-5")
    for sender, recipient in product(FED.silos, FED.silos):
        if sender == recipient:
            continue
        opens = {sender, recipient} == {"silo-2", "silo-5"}
        for other in (sender, recipient):
            for peer in {sender, recipient} - {other}:
                key, aad = cohort.seal_key(channel.agree(cohort.channel(other, peer)), sender, recipient)
                row = Row.from_bytes(evil.rows[sender][recipient])
                if opens and other == "silo-5":
                    assert AESGCM(key).decrypt(bytes(12), row.sealed, aad)
                    continue
                with pytest.raises(InvalidTag):
                    AESGCM(key).decrypt(bytes(12), row.sealed, aad)
    assert not any(getattr(error, "key", b"") for silo, error in evil.refused.items() if silo != "silo-2")


def test_a16_who_complains_of_a_good_row_or_shows_another_key_is_to_blame(play):
    evil = play(colluders=["silo-2", "silo-5"], fed=Federation(7, c=2), plan=small_plan(7)).until("deal")
    server = evil.honest_until_deals()
    true = evil.sessions["silo-2"]._channels
    assert server.at_fault("silo-2", "silo-5", true["silo-5"].reveal()) == "silo-2"
    evil.redeal("silo-5", lambda peer, pack: beyond(pack))
    server = evil.honest_until_deals()
    assert server.at_fault("silo-2", "silo-5", true["silo-5"].reveal()) == "silo-5"
    for false in (true["silo-1"].reveal(), bytes(range(32))):
        assert server.at_fault("silo-2", "silo-5", false) == "silo-2"
    for dealer in ("silo-9", "silo-2"):
        with pytest.raises(RosterMismatch, match="dealt it nothing"):
            server.at_fault("silo-2", dealer, true["silo-5"].reveal())


@pytest.mark.parametrize(("change", "said"), [(narrow, "one entry"), (wide, "one entry"), (off_grid, "grid")])
def test_a11_a_manifest_that_no_plan_allows_blames_the_dealer_even_if_committed(play, change, said):
    evil = play(colluders=["silo-5"]).until("deal")
    evil.redeal("silo-5", lambda peer, pack: change(pack))
    evil.contribute(silos=FED.silos[:4])
    assert evil.codes() == dict.fromkeys(FED.silos[:4], "BAD_SHARE")
    assert all(error.dealer == "silo-5" and said in error.detail for error in evil.refused.values())


@pytest.mark.parametrize("field", ["manifest", "nonce"])
def test_a11_a_false_weight_is_shown_to_everyone_alike(play, field):
    """silo-5 tells silo-1 and silo-2 one manifest and the others another: only one fits the signed commitment."""
    evil = play(colluders=["silo-5"]).until("deal")
    change = heavier if field == "manifest" else other_nonce
    evil.redeal("silo-5", lambda peer, pack: pack if peer in ("silo-1", "silo-2") else change(pack))
    evil.contribute(silos=FED.silos[:4])
    assert evil.codes() == dict.fromkeys(("silo-3", "silo-4"), "BAD_SHARE")
    assert {error.dealer for error in evil.refused.values()} == {"silo-5"}
    assert all("committed" in error.detail for error in evil.refused.values())


# --- A13, A15: lanes below their floor ----------------------------------------------------------------------------


def lanes_released(evil):
    return {silo: evil.sessions[silo].released for silo in evil.lane_shares}


def withheld(evil):
    """(lane, code) of every lane that some silo withheld: each silo gives the reason by name."""
    return {(lane, why.code) for session in evil.sessions.values() for lane, why in session.withheld.items()}


@pytest.mark.parametrize("held", [0, 1, 2])
def test_a13_a_hidden_lane_of_few_holders_stays_shut(play, held):
    """Every non-holder would be willing; the rule is the same code at every silo, so nobody sends a share."""
    evil = play(weights=holding(FED.silos, quiet=held)).until("unmask_lanes")
    assert set(lanes_released(evil).values()) == {("trunk", "open")} and len(evil.lane_shares) == 5
    assert withheld(evil) == {("quiet", "LANE_BELOW_FLOOR")}
    evil.assert_shut("quiet")


@pytest.mark.parametrize("held", [1, 2])
def test_a13_a_visible_lane_below_its_floor_stays_shut(play, held):
    evil = play(weights=holding(FED.silos, visible=held)).until("unmask_lanes")
    assert set(lanes_released(evil).values()) == {("trunk", "quiet")}
    evil.assert_shut("open")


def test_a13_a_drop_out_takes_a_lane_below_its_floor(play):
    evil = play().until("contribute")
    evil.attest(lambda silo: without(evil.headers, "silo-1"), silos=FED.silos[1:])
    evil.unmask_slots()
    evil.unmask_lanes()
    assert set(lanes_released(evil).values()) == {("trunk", "open")}
    evil.assert_shut("quiet")


def test_a13_the_silos_own_floor_counts_too(play):
    evil = play().until("unmask_lanes", floors={"quiet": 4, "trunk": 6})
    assert set(lanes_released(evil).values()) == {("open",)}
    evil.assert_shut("quiet")
    evil.assert_shut("trunk")


def test_a13_a_colluder_alone_does_not_lift_a_lane_over_its_floor(play):
    """One honest holder; silo-5 says that it holds the lane too: 1 + c = 2 < m_e. Its count says 1000."""
    evil = play(weights=holding(FED.silos, quiet=1), colluders=["silo-5"])
    evil.open(manifests={"silo-5": {"quiet": 1}})
    evil.deal()
    evil.contribute()
    evil.attest()
    evil.unmask_slots()
    evil.unmask_lanes(silos=FED.silos[:4])
    evil.unmask_lanes(silos=["silo-5"], floors={})
    evil.lane_shares["silo-5"] = counting(evil, "silo-5", "quiet", 1000, 1000)
    assert "quiet" not in evil.announce()[0].sums
    honest = {silo: lanes for silo, lanes in lanes_released(evil).items() if silo != "silo-5"}
    assert set(honest.values()) == {("trunk", "open")}
    evil.assert_shut("quiet")


@pytest.mark.parametrize(("held", "opens"), [(1, False), (2, True)])
def test_a13_a_manifest_without_a_contribution_counts_as_one_colluder(play, held, opens):
    """silo-5 claims a weight and contributes zeros. The floor m + c counts it in: m honest silos are behind the sum."""
    evil = play(weights=holding(FED.silos, quiet=held), colluders=["silo-5"])
    evil.open(manifests={"silo-5": {"quiet": 1}})
    evil.deal()
    evil.contribute()
    evil.attest()
    evil.unmask_slots()
    evil.unmask_lanes()
    assert set(lanes_released(evil).values()) == {("trunk", "quiet", "open") if opens else ("trunk", "open")}
    assert all(session.contributors["quiet"] == {*FED.silos[:held], "silo-5"} for session in evil.sessions.values())
    if not opens:
        evil.assert_shut("quiet")


def counting(evil: EvilServer, silo: str, lane: str, weight: int, contributors: int) -> bytes:
    """The colluder's lane shares with another count of one lane, whether it released it or not."""
    mine = Shares.open(evil.lane_shares[silo], lambda m: evil.fed.charter.member(m.silo).agent)
    session = evil.sessions[silo]
    packs = evil.packs[silo]
    seeds = list(mine.seeds)
    if lane not in {name for name, _, _ in mine.counts}:
        seeds += [
            (party, lane, dict(zip(session._cohort.lanes_of(party), packs[party].self_seeds, strict=True))[lane])
            for party in session._cohort.holders(lane, session.cohort)
        ]
    counts = {name: count for name, *count in mine.counts} | {lane: [weight, contributors]}
    lanes = list(dict.fromkeys(name for _, name, _ in seeds))
    counted = tuple((name, *counts[name]) for name in lanes)
    return replace(mine, seeds=tuple(seeds), counts=counted).sign(evil.fed.identities[silo])


@pytest.mark.parametrize(("weight", "contributors"), [(4, 3), (3, 4), (2**64 - 1, 3), (3, 2**32 - 1), (0, 0)])
def test_a13_a_colluders_count_is_not_announced(play, weight, contributors):
    """Four honest silos count 3; silo-5 signs another count. The lane opens with the four's."""
    evil = play(colluders=["silo-5"]).until("unmask_lanes")
    evil.lane_shares["silo-5"] = counting(evil, "silo-5", "quiet", weight, contributors)
    server, request = evil.announce()
    (quiet,) = [one for one in request.result.sums if one.lane == "quiet"]
    assert (quiet.weight, quiet.contributors) == (3, 3)
    evil.tag(lambda silo: request)
    assert not evil.refused and not server.failed


@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize("lane", ["trunk", "ward"])
def test_a13_a_colluder_cannot_invent_contributors_where_everyone_uploads(play, lane, claimed):
    members = ["silo-1", "silo-2", "silo-3", "silo-5"]
    plan = small_plan(group=members)
    weights = {silo: {"trunk": 0, "ward": 0, "quiet": 1, "open": 1} for silo in FED.silos}
    weights["silo-1"][lane] = 4 if lane == "trunk" else 1  # the only honest contributor
    evil = play(plan=plan, weights=weights, colluders=["silo-5"])
    claims = {"trunk": 16, "ward": 1}
    evil.open(manifests={"silo-5": {lane: claims[lane]} if claimed else {}})
    evil.deal()
    evil.contribute()
    evil.attest()
    evil.unmask_slots()
    evil.unmask_lanes()
    released = lanes_released(evil)
    assert set(released) == set(FED.silos) and not evil.refused
    assert all(lane not in lanes and "quiet" in lanes for silo, lanes in released.items())
    evil.assert_shut(lane)


def relabel(evil: EvilServer, dealer: str, *, told: dict[str, int]) -> None:
    """The colluder deals again, with these entries of its manifest changed."""
    names = [lane.name for lane in evil.plan.lanes_of(evil.context.step)]
    evil.redeal(
        dealer,
        lambda peer, pack: replace(
            pack, manifest=tuple(told.get(name, said) for name, said in zip(names, pack.manifest, strict=True))
        ),
    )


def test_a13_a_visible_holder_whose_manifest_denies_it_does_not_count(play):
    """silo-5 announces the visible lane and uploads it, and its manifest says that it has no weight in it."""
    evil = play(colluders=["silo-5"]).until("deal")
    relabel(evil, "silo-5", told={"open": 0})
    evil.contribute()
    evil.attest()
    evil.unmask_slots()
    evil.unmask_lanes()
    released = lanes_released(evil)
    assert {released[silo] for silo in FED.silos[:4]} == {("trunk", "quiet")}
    assert evil.sessions["silo-1"].contributors["open"] == {"silo-3", "silo-4"}
    evil.assert_shut("open")


def test_a13_a_manifest_names_no_lane_that_its_silo_does_not_upload(play):
    """silo-1 has not announced the visible lane; that its manifest names it makes it no contributor."""
    evil = play(weights=holding(FED.silos, visible=2), colluders=["silo-1"]).until("deal")
    relabel(evil, "silo-1", told={"open": 1})
    evil.contribute()
    evil.attest()
    evil.unmask_slots()
    evil.unmask_lanes()
    assert set(lanes_released(evil).values()) == {("trunk", "quiet")}
    assert all(evil.sessions[silo].contributors["open"] == {"silo-4", "silo-5"} for silo in FED.silos)
    evil.assert_shut("open")


@pytest.mark.parametrize("manifest", [{"quiet": 0}, {"quiet": 1}, {"trunk": 8}])
def test_a13_a_silo_uploads_what_it_announced(play, manifest):
    evil = play(weights=holding(FED.silos, quiet=0 if manifest == {"quiet": 1} else 3))
    evil.open(manifests={"silo-1": manifest})
    evil.deal()
    evil.contribute()
    assert evil.codes() == {"silo-1": "LAYOUT_MISMATCH"}


# --- A16: bad dealers, forged shares ------------------------------------------------------------------------------


def test_a16_a_row_that_does_not_open(play):
    evil = play(colluders=["silo-5"]).until("deal")
    evil.redeal("silo-5", lambda peer, pack: pack)
    row = Row.from_bytes(evil.rows["silo-5"]["silo-2"])
    sealed = bytes([row.sealed[0] ^ 1]) + row.sealed[1:]
    bad = Row(sealed, row.hashes)
    evil.sign_deal("silo-5", {**evil.rows["silo-5"], "silo-2": bytes(bad)})
    evil.contribute()
    assert evil.codes() == {"silo-2": "BAD_SHARE"} and evil.refused["silo-2"].dealer == "silo-5"


def test_a16_a_share_that_differs_from_its_published_hash(play):
    evil = play(colluders=["silo-5"]).until("deal")
    evil.redeal(
        "silo-5", lambda peer, pack: replace(pack, mask=bytes(33)) if peer == "silo-2" else pack, honest_hashes=True
    )
    evil.contribute()
    assert evil.codes() == {"silo-2": "BAD_SHARE"} and evil.refused["silo-2"].dealer == "silo-5"


def test_a16_fewer_hashes_than_shares(play):
    evil = play(colluders=["silo-5"]).until("deal")
    evil.redeal("silo-5", lambda peer, pack: pack, hashes=2)
    evil.contribute(silos=FED.silos[:4])
    assert set(evil.codes().values()) == {"BAD_SHARE"} and len(evil.refused) == 4


def test_a16_a_row_other_than_the_one_signed(play):
    """silo-5 signs one set of rows and has the server deliver another, well made and with hashes that fit."""
    evil = play(colluders=["silo-5"]).until("deal")
    signed = evil.deals["silo-5"]
    evil.redeal("silo-5", lambda peer, pack: replace(pack, mask=bytes(33)))
    evil.deals["silo-5"] = signed
    evil.contribute(silos=FED.silos[:4])
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"} and len(evil.refused) == 4


def test_a16_the_server_cannot_frame_a_dealer(play):
    """A row meant for someone else: the deal's digest proves the dealer innocent, so nobody is blamed."""
    evil = play().until("deal")
    evil.contribute(
        rows=lambda silo: {**evil.rows_for(silo, evil.deals), "silo-1": evil.rows["silo-1"]["silo-3"]}, silos=["silo-2"]
    )
    assert evil.codes() == {"silo-2": "TRANSCRIPT_MISMATCH"} and not hasattr(evil.refused["silo-2"], "dealer")


@pytest.mark.parametrize(
    "rows", [lambda evil, silo: {}, lambda evil, silo: evil.rows_for(silo, ["silo-1", "silo-2", "silo-3"])]
)
def test_a16_rows_are_missing(play, rows):
    evil = play().until("deal")
    evil.contribute(rows=lambda silo: rows(evil, silo))
    assert set(evil.codes().values()) == {"LAYOUT_MISMATCH"} and len(evil.refused) == 5


def wrong_seed(pack: SharePack, place: int) -> SharePack:
    seeds = list(pack.self_seeds)
    seeds[place] = bytes(32) + b"\x07"
    return replace(pack, self_seeds=tuple(seeds))


def test_a16_shares_on_no_polynomial_blame_the_dealer_when_combined(play):
    """Hashes match, so nobody sees it before the unmasking. The server, which checked every share against its hash,
    then blames the dealer; the silos, which cannot, refuse and blame nobody."""
    evil = play(colluders=["silo-5"]).until("deal")
    evil.redeal("silo-5", lambda peer, pack: wrong_seed(pack, 0) if peer == "silo-1" else pack)
    evil.contribute()
    evil.attest()
    evil.unmask_slots()
    server = evil.honest()
    for silo, signed in evil.slot_shares.items():
        server.slot_shares(silo, signed)
    with pytest.raises(BadShare) as blamed:
        server.open_slots()
    assert blamed.value.dealer == "silo-5" and server.state is SessionState.REFUSED
    evil.unmask_lanes(silos=FED.silos[:4])
    assert evil.codes() == dict.fromkeys(FED.silos[:4], "TRANSCRIPT_MISMATCH")
    assert not any(hasattr(error, "dealer") for error in evil.refused.values())


def test_a16_a_mask_seed_that_is_not_the_advertised_one(play):
    """silo-5 deals shares of another mask seed and drops out: whoever survives must not take its key for real."""
    evil = play(colluders=["silo-5"]).until("deal")
    fake = dict(zip(FED.silos, shamir.split(b"f" * 32, 4, [1, 2, 3, 4, 5]), strict=True))
    evil.redeal("silo-5", lambda peer, pack: replace(pack, mask=fake[peer]))
    evil.contribute()
    evil.attest(lambda silo: without(evil.headers, "silo-5"), silos=FED.silos[:4])
    evil.unmask_slots()
    evil.unmask_lanes()
    assert evil.codes() == dict.fromkeys(FED.silos[:4], "TRANSCRIPT_MISMATCH")
    assert not any(hasattr(error, "dealer") for error in evil.refused.values())
    server = evil.honest(drop=["silo-5"])
    for silo, signed in evil.slot_shares.items():
        server.slot_shares(silo, signed)
    with pytest.raises(BadShare, match="advertised key") as blamed:
        server.open_slots()
    assert blamed.value.dealer == "silo-5"


def test_a16_a_forged_share_is_known_by_its_hash_and_the_step_goes_on(play):
    """silo-5 sends a wrong share of silo-1's seed: the server refuses its message and opens with the other four."""
    evil = play(colluders=["silo-5"]).until("unmask_slots")
    server = evil.honest()
    mine = Shares.open(evil.slot_shares["silo-5"], lambda m: FED.charter.member(m.silo).agent)
    forged = replace(mine, seeds=((*mine.seeds[0][:2], bytes(33)), *mine.seeds[1:])).sign(FED.identities["silo-5"])
    with pytest.raises(TranscriptMismatch, match="'silo-5' sent a share that 'silo-1' did not deal"):
        server.slot_shares("silo-5", forged)
    for silo in FED.silos[:4]:
        server.slot_shares(silo, evil.slot_shares[silo])
    evil.slot_shares.pop("silo-5")
    shown = server.open_slots()
    evil.unmask_lanes(lambda silo: shown, silos=FED.silos[:4])
    for silo in FED.silos[:4]:
        server.lane_shares(silo, evil.lane_shares[silo])
    server.open_lanes(evil.upload)
    assert set(server.sums) == {"trunk", "quiet", "open"} and not evil.refused


def test_a16_a_forged_share_shown_to_the_silos_blames_no_honest_dealer(play):
    evil = play(colluders=["silo-5"]).until("unmask_slots")
    mine = Shares.open(evil.slot_shares["silo-5"], lambda m: FED.charter.member(m.silo).agent)
    forged = replace(mine, seeds=((*mine.seeds[0][:2], bytes(33)), *mine.seeds[1:])).sign(FED.identities["silo-5"])
    evil.unmask_lanes(
        lambda silo: [forged, *(evil.slot_shares[s] for s in ("silo-2", "silo-3", "silo-4"))], silos=["silo-1"]
    )
    assert evil.codes() == {"silo-1": "TRANSCRIPT_MISMATCH"} and not hasattr(evil.refused["silo-1"], "dealer")


def test_a16_one_wrong_share_of_ones_own_seed_does_not_end_the_step(play):
    evil = play(colluders=["silo-1"]).until("unmask_slots")
    server = evil.honest()
    mine = Shares.open(evil.slot_shares["silo-1"], lambda m: FED.charter.member(m.silo).agent)
    forged = replace(mine, seeds=((*mine.seeds[0][:2], bytes(33)), *mine.seeds[1:])).sign(FED.identities["silo-1"])
    server.slot_shares("silo-1", forged)
    for silo in FED.silos[1:]:
        server.slot_shares(silo, evil.slot_shares[silo])
    server.open_slots()


def test_a16_a_bad_dealer_of_one_lane_does_not_shut_the_others(play):
    evil = play(colluders=["silo-5"]).until("deal")
    evil.redeal("silo-5", lambda peer, pack: wrong_seed(pack, 2) if peer == "silo-1" else pack)  # place 2: trunk
    evil.contribute()
    evil.attest()
    evil.unmask_slots()
    evil.unmask_lanes()
    server, _ = evil.announce()
    assert set(server.sums) == {"quiet", "open"}
    assert {lane: bad.dealer for lane, bad in server.failed.items()} == {"trunk": "silo-5"}


def test_a16_two_colluders_with_a_row_without_hashes(play):
    """silo-7 would not complain of a row without hashes: the server counts them itself, when they are dealt."""
    fed = Federation(7, c=2)
    evil = play(
        fed, small_plan(7), weights=holding(fed.silos, quiet=5, visible=5), colluders=["silo-6", "silo-7"]
    ).until("deal")
    honest = evil.rows["silo-6"]["silo-7"]
    keep = {peer: row for peer, row in evil.rows["silo-6"].items() if peer != "silo-7"}
    evil.redeal("silo-6", lambda peer, pack: pack)
    row = Row.from_bytes(honest)
    evil.sign_deal("silo-6", {**keep, "silo-7": bytes(Row(row.sealed, ()))})
    with pytest.raises(BadShare, match="one hash for each secret") as blamed:
        evil.honest()
    assert blamed.value.dealer == "silo-6"


# --- forged slots, attestations, slot shares -------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [lambda s: bytes([s[0] ^ 1]) + s[1:], lambda s: bytes(len(s)), lambda s: s[8:] + s[:8]]
)
def test_forged_slots(play, change):
    evil = play().until("attest")
    evil.unmask_slots(masked=lambda silo: {**evil.masked_slots, "silo-2": change(evil.masked_slots["silo-2"])})
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"} and len(evil.refused) == 5


@pytest.mark.parametrize("change", [lambda s: s[:-8], lambda s: s + bytes(8), lambda s: b""])
def test_slots_of_another_length(play, change):
    evil = play().until("attest")
    evil.unmask_slots(masked=lambda silo: {**evil.masked_slots, "silo-2": change(evil.masked_slots["silo-2"])})
    assert set(evil.codes().values()) == {"LAYOUT_MISMATCH"}


@pytest.mark.parametrize(
    "given",
    [lambda s: {}, lambda s: {k: v for k, v in s.items() if k != "silo-2"}, lambda s: {**s, "silo-9": s["silo-1"]}],
)
def test_the_slots_are_those_of_u3(play, given):
    evil = play().until("attest")
    evil.unmask_slots(masked=lambda silo: given(evil.masked_slots))
    assert set(evil.codes().values()) == {"LAYOUT_MISMATCH"}


def test_too_few_attestations(play):
    evil = play().until("attest")
    evil.unmask_slots(lambda silo: [evil.attested[s] for s in ("silo-1", "silo-2", "silo-3")])
    assert set(evil.codes().values()) == {"SURVIVOR_INVALID"} and len(evil.refused) == 5


def test_one_attestation_many_times(play):
    evil = play().until("attest")
    evil.unmask_slots(lambda silo: [evil.attested["silo-1"]] * 5)
    assert set(evil.codes().values()) == {"SURVIVOR_INVALID"}


def test_attestations_of_another_session(play):
    other = play(label="other").until("attest")
    evil = play().until("attest")
    evil.unmask_slots(lambda silo: list(other.attested.values()))
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"}


def test_attestations_that_the_server_made(play):
    evil = play().until("attest")
    mine = [
        Attestation(silo=s, t3=evil.sessions["silo-1"].t3, sets=evil.sessions["silo-1"]._sets.digest).sign(
            identity("aggregator")
        )
        for s in FED.silos
    ]
    evil.unmask_slots(lambda silo: mine)
    assert set(evil.codes().values()) == {"BAD_SIGNATURE"}


def test_headers_that_the_server_made(play):
    evil = play().until("contribute")
    forged = signed_again(
        evil,
        Header,
        evil.headers["silo-2"],
        "aggregator",
        lanes=(("Static", bytes(32)), ("Fresh", bytes(32)), ("trunk", bytes(32)), ("quiet", bytes(32))),
    )
    evil.attest(lambda silo: [*without(evil.headers, "silo-2"), forged])
    assert set(evil.codes().values()) == {"BAD_SIGNATURE"}


def test_headers_of_another_session(play):
    other, evil = play(label="other").until("contribute"), play().until("contribute")
    evil.attest(lambda silo: [*without(evil.headers, "silo-2"), other.headers["silo-2"]], silos=["silo-1"])
    assert evil.codes() == {"silo-1": "TRANSCRIPT_MISMATCH"}


def test_a_second_upload_of_a_colluder_is_another_t3(play):
    """The colluder signs two headers; half the silos see each: neither T3 gathers t signatures."""
    evil = play(colluders=["silo-5"]).until("contribute")
    second = signed_again(
        evil,
        Header,
        evil.headers["silo-5"],
        "silo-5",
        lanes=(
            ("Static", bytes(32)),
            ("Fresh", bytes(32)),
            ("trunk", bytes(32)),
            ("quiet", bytes(32)),
            ("open", bytes(32)),
        ),
    )
    half = {"silo-1", "silo-2"}
    evil.attest(
        lambda silo: without(evil.headers) if silo in half else [*without(evil.headers, "silo-5"), second],
        silos=FED.silos[:4],
    )
    assert evil.sessions["silo-1"].t3 != evil.sessions["silo-3"].t3
    evil.unmask_slots(
        lambda silo: (
            [evil.attested[s] for s in FED.silos[:4] if evil.sessions[s].t3 == evil.sessions[silo].t3]
            + [evil.other_attestation("silo-5", evil.sessions[silo].t3)]
        )
    )
    assert set(evil.codes().values()) == {"SURVIVOR_INVALID"} and len(evil.refused) == 4


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_slot_shares_to_open_the_slots(play, count):
    evil = play().until("unmask_slots")
    evil.unmask_lanes(lambda silo: [evil.slot_shares[s] for s in FED.silos[:count]])
    assert set(evil.codes().values()) == {"SURVIVOR_INVALID"} and not evil.lane_shares


def test_slot_shares_shown_twice(play):
    evil = play().until("unmask_slots")
    evil.unmask_lanes(lambda silo: [evil.slot_shares["silo-1"], *evil.slot_shares.values()])
    assert set(evil.codes().values()) == {"LAYOUT_MISMATCH"}


def test_slot_shares_of_another_session(play):
    other, evil = play(label="other").until("unmask_slots"), play().until("unmask_slots")
    evil.unmask_lanes(lambda silo: list(other.slot_shares.values()))
    assert set(evil.codes().values()) == {"TRANSCRIPT_MISMATCH"}


def test_slot_shares_that_the_server_made(play):
    evil = play().until("unmask_slots")
    forged = signed_again(evil, Shares, evil.slot_shares["silo-2"], "aggregator")
    evil.unmask_lanes(lambda silo: [*without(evil.slot_shares, "silo-2"), forged])
    assert set(evil.codes().values()) == {"BAD_SIGNATURE"}


def test_a_t3_is_over_the_headers_in_order(play):
    evil = play().until("attest")
    assert evil.sessions["silo-1"].t3 == t3(evil.sessions["silo-1"]._dealt.t2, without(evil.headers))
    assert len({evil.sessions[silo].t3 for silo in FED.silos}) == 1


# --- A19, A20: metadata and logs ----------------------------------------------------------------------------------


def sizes(evil):
    return {
        (silo, phase): sorted(len(d) for s, p, d in evil.view.sent if (s, p) == (silo, phase))
        for silo, phase, _ in evil.view.sent
    }


def test_a19_uploads_are_as_long_whoever_holds_a_hidden_lane(play):
    few, many = (play(weights=holding(FED.silos, quiet=held)).until("contribute") for held in (0, 5))
    for phase in ("open", "contribute"):
        assert {k: v for k, v in sizes(few).items() if k[1] == phase} == {
            k: v for k, v in sizes(many).items() if k[1] == phase
        }


def test_a19_rows_are_as_long_whoever_holds_a_hidden_lane(play):
    few, many = (play(weights=holding(FED.silos, quiet=held)).until("deal") for held in (0, 5))
    assert sizes(few) == sizes(many)


def test_a20_nothing_is_logged_or_printed(play, caplog, capfd):
    """A session with a drop-out and a session with a refusal, at the lowest log level: silence."""
    with caplog.at_level(logging.NOTSET), warnings.catch_warnings():
        warnings.simplefilter("error")
        play().until("unmask_lanes")
        bad = play(label="bad", colluders=["silo-5"]).until("deal")
        bad.redeal("silo-5", lambda peer, pack: beyond(pack))
        bad.contribute()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a20_refusals_carry_no_secret(play):
    evil = play(colluders=["silo-5"]).until("deal")
    secrets = [evil.sessions["silo-2"]._mask_seed, *evil.sessions["silo-2"]._seeds.values()]
    evil.redeal("silo-5", lambda peer, pack: beyond(pack))
    evil.contribute()
    for error in evil.refused.values():
        text = repr(error) + str(error) + error.detail + error.remedy
        assert not any(secret.hex()[:8] in text or repr(secret)[2:12] in text for secret in secrets)


# --- the release rule, exhaustively -------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0, 1])
def test_the_release_rule_for_every_u2_and_u3_of_five(c):
    """For every U2 and every U3 ⊆ U2 of five silos: who sends which share of whom, from the bytes, is exactly the rule.

    A silo of U3 sends of each party of U3 the self share, of each of U2 without U3 the mask share, if |U3| ≥ t;
    nobody else sends anything. The sessions are set back to where they stood after the upload for each U3.
    """
    fed, plan = Federation(5, c=c), small_plan(floor=2)
    checked = 0
    least = max(fed.charter.threshold(5), fed.charter.n_min)
    for size in range(least, 6):
        for u2 in combinations(fed.silos, size):
            evil = EvilServer(fed, plan, weights=holding(fed.silos, quiet=5, visible=5))
            evil.open()
            evil.deal()
            evil.deals = {silo: evil.deals[silo] for silo in u2}
            evil.contribute()
            stood = {silo: dict(vars(evil.sessions[silo])) for silo in u2}
            for count in range(len(u2) + 1):
                for u3 in combinations(u2, count):
                    evil.view.sent.clear()
                    evil.refused.clear()
                    evil.attested, evil.slot_shares, evil.lane_shares = {}, {}, {}
                    evil.records = {silo: [] for silo in fed.silos}
                    for silo in u2:
                        vars(evil.sessions[silo]).update(stood[silo])
                    evil.attest(lambda silo, shown=tuple(evil.headers[s] for s in u3): list(shown))
                    evil.unmask_slots()
                    evil.unmask_lanes()
                    enough = count >= fed.charter.threshold(5)
                    want = {
                        (silo, party): {"self"} if party in u3 else {"mask"}
                        for silo, party in product(u2, u2)
                        if enough and silo in u3
                    }
                    got = {pair: kinds for pair, kinds in evil.kinds().items() if kinds}
                    assert got == want, (u2, u3)
                    assert set(evil.refused) == set(u2) - (set(u3) if enough else set())
                    assert set(evil.codes().values()) <= {"SURVIVOR_INVALID"}
                    evil.verdict()
                    checked += 1
    assert checked == sum(len(list(combinations(range(5), s))) * 2**s for s in range(least, 6))


def test_an_honest_run_under_the_same_eyes(play):
    evil = play().until("unmask_lanes")
    assert not evil.refused and set(lanes_released(evil).values()) == {("trunk", "quiet", "open")}
    server, _ = evil.announce()
    run = Run(FED, PLAN)
    run.play()
    assert {lane: found.words.tolist() for lane, found in server.sums.items()} == {
        lane: words.tolist() for lane, words in run.opened.items()
    }


def test_the_verdict_would_see_both_shares(play):
    """Negative control: a silo that sent both kinds is found, wherever the bytes are."""
    evil = EvilServer(FED, PLAN).until("unmask_slots")
    evil.sent("silo-1", "close", b"noise" + evil.packs["silo-1"]["silo-2"].mask + b"noise")
    with pytest.raises(AssertionError, match="both shares"):
        evil.verdict()


def test_the_verdict_would_see_an_opened_party(play):
    """Negative control: t mask shares and t self shares of one party, never both from one silo, are found too."""
    fed = Federation(8, c=0)
    evil = EvilServer(fed, small_plan(8), weights=holding(fed.silos, quiet=5, visible=5)).until("contribute")
    assert evil.threshold() == 5
    evil.view.sent.clear()
    evil.colluders = frozenset({"silo-7", "silo-8"})
    for silo in ("silo-1", "silo-2", "silo-3"):
        evil.sent(silo, "x", evil.packs[silo]["silo-1"].mask)
    evil.verdict()
    for silo in ("silo-4", "silo-5", "silo-6"):
        evil.sent(silo, "x", evil.packs[silo]["silo-1"].self_seeds[0])
    with pytest.raises(AssertionError, match="opened the uploads"):
        evil.verdict()


def test_refusals_are_named_and_typed(play):
    evil = play().until("contribute")
    evil.attest(lambda silo: [])
    assert all(type(error) is SurvivorInvalid for error in evil.refused.values()) and len(evil.refused) == 5
    assert issubclass(LayoutMismatch, FederationError)
