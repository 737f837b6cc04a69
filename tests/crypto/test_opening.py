"""What a step opens, and that a silo is never brought to give tags of a lane that did not open.

A tag of a shut lane would tell the server something of an upload that is still masked: so a silo demands to see the
self seeds of all the lane's uploads, each as its advert committed to, before it computes one.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import proof, ring, tags
from crypto.cohort import words_digest
from crypto.errors import (
    BadShare,
    LayoutMismatch,
    RosterMismatch,
    SumNotProven,
    SurvivorInvalid,
    TranscriptMismatch,
    Unexpected,
)
from crypto.messages import LaneSum, Shares, TagRequest, Tags
from crypto.opening import LaneTotal, Opening
from crypto.proof import Sum
from crypto.session import SessionState
from tests.federation import Federation, Run, holding, small_plan
from tests.proven import fork

FED = Federation(5)  # t = 4, m + c = 3
CHARTER = FED.charter
BITS = pytest.mark.parametrize("bits", [32, 24])


def opened(bits: int = 32, *, label: str = "opening", **options) -> Run:
    """A session up to the announced result, which no silo has signed yet."""
    run = Run(FED, small_plan(bits=bits), label=f"{label}-{bits}", **options)
    run.lanes()
    return run


#: Two hold the hidden lane: it stays shut. silo-5 has dropped.
SHUT = opened(weights=holding(FED.silos, quiet=2, visible=4), drop={"silo-5": "fetch"})
SESSION = SHUT.sessions["silo-1"]


# --- sums of residues ---------------------------------------------------------------------------------------------


@BITS
@pytest.mark.parametrize("drop", [{}, {"silo-5": "fetch"}])
def test_residues_add_up_over_the_integers(bits, drop):
    """Each residue hides its upload by the pair streams among survivors; these cancel modulo the ring."""
    run = opened(bits, drop=drop)
    opening, result = run.server._opening, run.server.result
    for one, seeds in zip(result.sums, run.request.seeds, strict=True):
        residues = [
            opening.residue(silo, one.lane, run.upload(silo, one.lane), seed)
            for silo, seed in zip(one.uploaders, seeds, strict=True)
        ]
        assert all(int(part.max()) < 2**bits for part in residues)
        total = sum(part.astype(object) for part in residues)
        found = run.server.sums[one.lane]
        assert (total == found.words.astype(object) + 2**bits * found.carries.astype(object)).all()
        assert (found.words == run.expected(one.lane)).all()
        for silo, part in zip(one.uploaders, residues, strict=True):
            assert (part != ring.reduce(run.plain[silo].lanes[one.lane].copy(), bits)).any()


@BITS
def test_tags_of_residues_are_the_same_for_silo_server_and_stand_in(bits):
    run = opened(bits)
    opening, result = run.server._opening, run.server.result
    signed = proof.open_tags(CHARTER, result, fork(run.sessions["silo-4"]).tag(run.request))
    seeds = {one.lane: opening.check_seeds(one.lane, given)["silo-4"]
             for one, given in zip(result.sums, run.request.seeds, strict=True)}  # fmt: skip
    made = opening.tags_of(result, "silo-4", run.words["silo-4"], seeds)
    assert tuple(map(tags.write, made)) == signed.tags and len(made) == 3
    other = run.sessions["silo-1"]
    other.tag(run.request)
    stand_in = proof.open_tags(CHARTER, result, other.stand_in("silo-4", run.uploads_of("silo-4")))
    assert stand_in.tags == signed.tags and (stand_in.silo, stand_in.owner) == ("silo-1", "silo-4")


@pytest.mark.parametrize("bits", [32, 24])
@given(rows=st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=5), min_size=1, max_size=9))
def test_a_lanes_total_is_exact(bits, rows):
    residues = [ring.reduce(np.array(row, dtype=np.uint32), bits) for row in rows]
    total = LaneTotal.zero(5, bits, len(rows))
    for residue in residues:
        total.add(residue)
    exact = sum(residue.astype(object) for residue in residues)
    assert (total.words.astype(object) + 2**bits * total.carries.astype(object) == exact).all()
    assert int(total.words.max()) < 2**bits


@BITS
@pytest.mark.parametrize(("uploaders", "kind"), [(256, np.uint8), (257, np.uint16), (700, np.uint16)])
def test_carries_of_many_uploads_do_not_wrap(bits, uploaders, kind):
    """The largest residues: n of them carry n − 1 times. From 257 uploads on that takes two bytes."""
    total = LaneTotal.zero(3, bits, uploaders)
    assert total.carries.dtype == kind
    top = np.full(3, 2**bits - 1, np.uint32)
    for _ in range(uploaders):
        total.add(top)
    exact = uploaders * (2**bits - 1)
    assert total.words.tolist() == [exact % 2**bits] * 3 and total.carries.tolist() == [exact >> bits] * 3
    found = Sum(total.words, total.carries)
    again = Sum.from_wire(*found.wire, uploaders)
    assert again.carries.dtype == kind and (again.carries == total.carries).all()
    key = bytes(16)
    parts = tags.add([tags.tag(top, key)] * uploaders)
    assert tags.tag(again.words, key, carries=again.carries, bits=bits) == parts


def test_a_lane_is_announced_with_the_digests_of_its_arrays():
    total = LaneTotal.zero(3, 32, 300)
    total.add(np.array([1, 2, 3], np.uint32))
    one = total.announced("trunk", ("a", "b"), (24, 2))
    want = {"words": words_digest(total.words), "carries": words_digest(np.zeros(3, np.uint16))}
    assert one == LaneSum(lane="trunk", uploaders=("a", "b"), weight=24, contributors=2, **want)
    assert want["carries"] != words_digest(np.zeros(3, np.uint8))


# --- counts and seeds ---------------------------------------------------------------------------------------------


def lane_shares(run: Run) -> list[Shares]:
    return [run.server.survivors.check_lane_shares(signed) for signed in run.signed["unmask-lanes"].values()]


def test_a_lane_opens_with_a_count_that_t_survivors_share():
    run = opened()
    opening, shares = run.server._opening, lane_shares(run)
    seeds, count = opening.recover("trunk", shares)
    assert count == (4 + 8 + 16 + 4 + 8, 5) and tuple(seeds) == FED.silos
    seeds, count = opening.recover("quiet", shares)
    assert count == (3, 3) and tuple(seeds) == FED.silos  # every silo uploads a hidden lane, three have a weight
    assert opening.recover("nonsense", shares) is None

    def counting(shares: Shares, count: tuple[int, int]) -> Shares:
        counts = tuple((lane, *(count if lane == "trunk" else rest)) for lane, *rest in shares.counts)
        return replace(shares, counts=counts)

    one = [counting(shares[0], (99, 5)), *shares[1:]]
    assert opening.recover("trunk", one)[1] == (40, 5) == opening.recover("trunk", one[::-1])[1]
    two = [*(counting(each, (99, 5)) for each in shares[:2]), *shares[2:]]
    assert opening.recover("trunk", two) is None and opening.recover("quiet", two)[1] == (3, 3)
    with pytest.raises(SurvivorInvalid, match="threshold"):
        opening.recover("trunk", [*shares[:3], shares[0]])


def test_seeds_that_do_not_combine_blame_the_dealer():
    run = opened()
    spoilt = [replace(one, seeds=tuple((s, lane, bytes(33)) for s, lane, _ in one.seeds)) for one in lane_shares(run)]
    with pytest.raises(BadShare):
        run.server._opening.recover("trunk", spoilt)


def test_an_opening_needs_shares_of_t_survivors_once_each_and_all_slots():
    survivors = SHUT.server.survivors
    masked = {silo: SHUT.masked_slots[silo] for silo in survivors.signed}
    shares = [survivors.check_slot_shares(signed) for signed in SHUT.signed["unmask-slots"].values()]
    opening = Opening.form(survivors, masked, shares)
    assert opening.slots == SHUT.server.slots == SHUT.expected_slots() and set(opening.masks) == {"silo-5"}
    assert opening.figures == dict(zip(("rows", "correct"), opening.slots, strict=True))
    with pytest.raises(LayoutMismatch, match="twice"):
        Opening.form(survivors, masked, [*shares, shares[0]])
    with pytest.raises(SurvivorInvalid, match="survivors sent shares"):
        Opening.form(survivors, masked, shares[1:])
    with pytest.raises(LayoutMismatch, match="not those of each survivor"):
        Opening.form(survivors, {**masked, "silo-5": masked["silo-1"]}, shares)
    with pytest.raises(TranscriptMismatch):
        Opening.form(survivors, {**masked, "silo-1": bytes(16)}, shares)


# --- a silo gives no tag of a lane that did not open ----------------------------------------------------------------

TRUE = dict(zip([one.lane for one in SHUT.server.result.sums], SHUT.request.seeds, strict=True))
SHUT_LANE = LaneSum(lane="quiet", words=bytes(32), carries=bytes(32), uploaders=FED.silos[:4], weight=2, contributors=2)


def test_the_lane_is_shut_and_the_count_would_be_right():
    assert tuple(TRUE) == ("trunk", "open") and SESSION._counts["quiet"] == (2, 2)
    assert SESSION.withheld["quiet"].code == "LANE_BELOW_FLOOR"


@pytest.mark.parametrize(
    "seeds",
    [
        (),
        (bytes(32),) * 4,
        TRUE["trunk"],
        TRUE["trunk"][:3],
        (*TRUE["trunk"], bytes(32)),
        TRUE["open"],
        (b"\xff" * 32, *TRUE["trunk"][1:]),
    ],
    ids=["none", "invented", "of trunk", "too few", "too many", "of open", "one other"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_tag_without_the_lanes_own_seeds(seeds, place):
    sums, given = list(SHUT.server.result.sums), list(SHUT.request.seeds)
    sums.insert(place, SHUT_LANE)
    given.insert(place, seeds)
    session = fork(SESSION)
    with pytest.raises(SumNotProven, match=r"'quiet' came with|for lane 'quiet' is not the one"):
        session.tag(TagRequest(replace(SHUT.server.result, sums=tuple(sums)), tuple(given)))
    assert session.state is SessionState.REFUSED and not session.masked and session.result is None
    with pytest.raises(Unexpected):
        session.tag(SHUT.request)
    with pytest.raises(Unexpected):
        session.stand_in("silo-2", {})


def test_no_tag_where_only_one_seed_is_missing():
    """Colluders know their own seeds, and a server that got t − 1 shares of one silo's seed knows all the others."""
    run = opened(label="almost")
    first = list(run.request.seeds)
    for place in range(len(first[0])):
        seeds = [*first[0]]
        seeds[place] = bytes(32)
        with pytest.raises(SumNotProven, match="not the one it committed to"):
            fork(run.sessions["silo-1"]).tag(TagRequest(run.server.result, (tuple(seeds), *first[1:])))
    with pytest.raises(SumNotProven, match="not the one it committed to"):  # the right ones, of other silos
        fork(run.sessions["silo-1"]).tag(TagRequest(run.server.result, (first[0][::-1], *first[1:])))


def test_no_tag_before_the_silo_opened_the_slots_itself_nor_after_it_signed():
    run = Run(FED, small_plan(), label="opening-32")
    run.slots()
    request = opened().request
    with pytest.raises(Unexpected):
        run.sessions["silo-1"].tag(request)
    done = opened()
    session = done.sessions["silo-1"]
    first = session.tag(done.request)
    with pytest.raises(Unexpected):
        session.tag(TagRequest(replace(done.server.result, sums=()), ()))
    assert Tags.open(first, lambda m: CHARTER.member(m.silo).agent).result == done.server.result.digest


def test_with_the_check_removed_the_shut_lanes_tag_would_leave(monkeypatch):
    """Positive control: nothing else stands between a server and the tag of a shut lane."""
    session = fork(SESSION)
    monkeypatch.setattr(Opening, "check_seeds", lambda self, lane, seeds: dict(zip(FED.silos, seeds, strict=False)))
    sums = (*SHUT.server.result.sums, SHUT_LANE)
    request = TagRequest(replace(SHUT.server.result, sums=sums), (*SHUT.request.seeds, (bytes(32),) * 4))
    assert len(Tags.open(session.tag(request), lambda m: CHARTER.member(m.silo).agent).tags) == 2 == len(sums) - 1


# --- standing in --------------------------------------------------------------------------------------------------


@pytest.fixture
def standing():
    """silo-1 has signed; it may be asked to stand in for silo-4, which holds the open lane."""
    run = opened(label="stand-in")
    run.sessions["silo-1"].tag(run.request)
    return run, run.sessions["silo-1"], run.uploads_of("silo-4")


def test_a_stand_in_signs_tags_of_the_words_that_the_header_signs(standing):
    run, session, words = standing
    assert set(words) == {"trunk", "quiet", "open"}
    for lane in words:
        for change in (lambda w: w + np.uint32(1), lambda w: run.upload("silo-5", lane), lambda w: np.zeros_like(w)):  # noqa: B023
            with pytest.raises(TranscriptMismatch):
                session.stand_in("silo-4", {**words, lane: change(words[lane])})
        for change in (lambda w: w[1:], lambda w: w.astype(np.uint64), lambda w: w.view(np.int32)):
            with pytest.raises(LayoutMismatch):
                session.stand_in("silo-4", {**words, lane: change(words[lane])})
    assert session.state is SessionState.DONE  # a refusal there costs nothing
    assert session.stand_in("silo-4", words) == session.stand_in("silo-4", words)


def test_a_stand_in_has_the_results_lanes_and_no_other(standing):
    _run, session, words = standing
    for wrong in ({}, {"trunk": words["trunk"]}, {**words, "ward": words["trunk"]}):
        with pytest.raises(LayoutMismatch, match="came with lanes"):
            session.stand_in("silo-4", wrong)
    with pytest.raises(LayoutMismatch, match="came with lanes"):
        session.stand_in("silo-1", words)  # it has not uploaded the open lane


def test_nobody_stands_in_for_who_did_not_survive():
    run = opened(label="stand-in", drop={"silo-5": "fetch"})
    session = run.sessions["silo-1"]
    session.tag(run.request)
    for owner in ("silo-5", "silo-9", ""):
        with pytest.raises(SurvivorInvalid, match="nobody stands in"):
            session.stand_in(owner, {})


def test_no_one_stands_in_for_a_shut_lane():
    session = fork(SESSION)
    session.tag(SHUT.request)
    words = {lane: SHUT.words["silo-2"][lane] for lane in ("trunk", "quiet", "open")}
    with pytest.raises(LayoutMismatch, match="came with lanes"):
        session.stand_in("silo-2", words)


# --- the server's side --------------------------------------------------------------------------------------------


def signed_all(run: Run, silos=FED.silos) -> None:
    for silo in silos:
        run.server.tags(silo, run.sessions[silo].tag(run.request))


def lie(run: Run, silo: str, owner: str, signed: bytes) -> bytes:
    """A liar's tags: the first column of the first lane is off by one."""
    true = proof.open_tags(CHARTER, run.server.result, signed)
    first = tags.read(true.tags[0])
    false = tags.write((first[0] + 1, *first[1:]))
    return replace(true, silo=silo, owner=owner, tags=(false, *true.tags[1:])).sign(FED.identities[silo])


@BITS
def test_a_liars_tag_is_found_replaced_and_the_result_proven(bits):
    run = opened(bits, label="liar")
    signed_all(run, FED.silos[:4])
    false = lie(run, "silo-5", "silo-5", run.sessions["silo-5"].tag(run.request))
    run.server.tags("silo-5", false)
    with pytest.raises(SumNotProven, match="is not the sum"):
        run.server.close_tags()
    assert run.server.state is SessionState.LANES_OPEN and run.server.untagged == ()
    assert run.server.drop_false_tags(run.upload) == ("silo-5",)
    assert run.server.false_tags == {"silo-5": false} and run.server.untagged == ("silo-5",)
    with pytest.raises(SumNotProven, match="without the tags"):
        run.server.close_tags()
    stand_in = run.sessions["silo-2"].stand_in("silo-5", run.uploads_of("silo-5"))
    run.server.tags("silo-2", stand_in, owner="silo-5")
    signed = run.server.close_tags()
    assert run.server.state is SessionState.DONE and stand_in in signed and false not in signed
    proof.check_result(CHARTER, run.plan, run.server.result, run.server.sums, signed)


def test_a_lying_stand_in_is_blamed_and_not_the_owner():
    run = opened(label="liar")
    signed_all(run, FED.silos[:4])
    run.sessions["silo-5"].tag(run.request)
    stand_in = run.sessions["silo-4"].stand_in("silo-5", run.uploads_of("silo-5"))
    run.server.tags("silo-4", lie(run, "silo-4", "silo-5", stand_in), owner="silo-5")
    with pytest.raises(SumNotProven):
        run.server.close_tags()
    assert run.server.drop_false_tags(run.upload) == ("silo-4",) and run.server.untagged == ("silo-5",)
    run.server.tags("silo-1", run.sessions["silo-1"].stand_in("silo-5", run.uploads_of("silo-5")), owner="silo-5")
    run.server.close_tags()


def test_two_lies_that_cancel_prove_a_true_sum():
    """Colluders that add and take away the same: the sum is what it is, and so is the proof."""
    run = opened(label="liar")
    signed_all(run, FED.silos[:3])
    for silo, by in (("silo-4", 1), ("silo-5", -1)):
        true = proof.open_tags(CHARTER, run.server.result, run.sessions[silo].tag(run.request))
        first = tags.read(true.tags[0])
        false = (tags.write((first[0] + by, *first[1:])), *true.tags[1:])
        run.server.tags(silo, replace(true, tags=false).sign(FED.identities[silo]))
    assert run.server.close_tags()


def test_true_tags_are_kept():
    run = opened(label="liar")
    signed_all(run)
    assert run.server.drop_false_tags(run.upload) == () and run.server.false_tags == {}
    assert len(run.server.close_tags()) == 5


def test_the_server_takes_tags_of_this_result_from_their_signer_once():
    run = opened(label="takes")
    signed = {silo: run.sessions[silo].tag(run.request) for silo in FED.silos}
    one = proof.open_tags(CHARTER, run.server.result, signed["silo-1"])

    def refused(error, silo, data, **options):
        before = dict(run.server._tags)
        with pytest.raises(error):
            run.server.tags(silo, data, **options)
        assert run.server._tags == before and run.server.state is SessionState.LANES_OPEN

    refused(RosterMismatch, "silo-2", signed["silo-1"])
    refused(RosterMismatch, "silo-1", signed["silo-1"], owner="silo-2")
    stand_in = run.sessions["silo-1"].stand_in("silo-2", run.uploads_of("silo-2"))
    refused(RosterMismatch, "silo-1", stand_in)
    refused(RosterMismatch, "silo-1", stand_in, owner="silo-3")
    refused(SumNotProven, "silo-1", replace(one, result=bytes(32)).sign(FED.identities["silo-1"]))
    refused(SumNotProven, "silo-1", replace(one, t3=bytes(32)).sign(FED.identities["silo-1"]))
    refused(SumNotProven, "silo-1", replace(one, tags=()).sign(FED.identities["silo-1"]))
    stranger = replace(one, owner="silo-9", tags=()).sign(FED.identities["silo-1"])
    refused(RosterMismatch, "silo-1", stranger, owner="silo-9")
    for silo, data in signed.items():
        run.server.tags(silo, data)
    run.server.tags("silo-1", stand_in, owner="silo-2")  # silo-2's own came first
    assert run.server.signed_tags == tuple(signed.values())


def test_a_survivor_that_is_gone_after_all_lanes_opened_costs_nothing():
    """Two of five are gone: their uploads stay in the sum, bit for bit."""
    run = Run(FED, small_plan(), drop={"silo-2": "tag", "silo-5": "tag"}, label="gone")
    sums = run.play()
    assert all((sums[lane] == run.expected(lane)).all() for lane in ("trunk", "quiet", "open"))
    signers = {one.silo for one in proof.check_signed(CHARTER, run.plan, run.server.result, run.proof).values()}
    assert signers == {"silo-1", "silo-3", "silo-4"}
