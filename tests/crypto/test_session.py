"""The two tables, drop-outs at every phase, and secrets that are gone when a session ends."""

import gc
import pickle
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from crypto import blocks, proof
from crypto.errors import (
    BadShare,
    CohortTooSmall,
    DuplicateKey,
    FederationError,
    LayoutMismatch,
    RosterMismatch,
    SumNotProven,
    SurvivorInvalid,
    TranscriptMismatch,
    Unexpected,
)
from crypto.keys import SessionKey
from crypto.messages import Attestation, SharePack, TagRequest
from crypto.opened_sets import Told
from crypto.plan import SECTIONS
from crypto.server_session import ServerSession
from crypto.session import SERVER, SILO, Session, SessionState
from crypto.silo_session import SiloSession
from tests.federation import BLOCKS, DROPS, UNRECORDED, Federation, Run, assert_never_both, holding, small_plan, stream

FED = Federation(5)
PLAN = small_plan()

# --- the tables ---------------------------------------------------------------------------------------------------

#: Each event as a call with arguments that are never looked at when the state is wrong.
SILO_EVENTS = {
    "advert": lambda s: s.advert(weights={}, releases=0, data=bytes(32), approval=bytes(32)),
    "deal": lambda s: s.deal([]),
    "open-rows": lambda s: s.open_rows([], {}),
    "upload": lambda s: s.upload(None),
    "survivors": lambda s: s.survivors([]),
    "attest": lambda s: s.attest(),
    "release-slots": lambda s: s.release_slots([], {}, **UNRECORDED),
    "release-lanes": lambda s: s.release_lanes([], floors={}, record=UNRECORDED["record"]),
    "tag": lambda s: s.tag(None),
    "stand-in": lambda s: s.stand_in("silo-2", {}),
}
SERVER_EVENTS = {
    "advert": lambda s: s.advert("silo-1", b""),
    "close-adverts": lambda s: s.close_adverts(),
    "deal": lambda s: s.deal("silo-1", b"", {}),
    "close-deals": lambda s: s.close_deals(),
    "header": lambda s: s.header("silo-1", b"", b""),
    "words": lambda s: s.words("silo-1", {}),
    "close-uploads": lambda s: s.close_uploads(),
    "attestation": lambda s: s.attestation("silo-1", b""),
    "close-attestations": lambda s: s.close_attestations(),
    "slot-shares": lambda s: s.slot_shares("silo-1", b""),
    "open-slots": lambda s: s.open_slots(),
    "lane-shares": lambda s: s.lane_shares("silo-1", b""),
    "open-lanes": lambda s: s.open_lanes(None),
    "tags": lambda s: s.tags("silo-1", b""),
    "close-tags": lambda s: s.close_tags(),
}


def test_the_tables_know_these_events():
    assert {event for _, event in SILO} == set(SILO_EVENTS)
    assert {event for _, event in SERVER} == set(SERVER_EVENTS)


def new_silo():
    return SiloSession(FED.context(PLAN), "silo-1", FED.identities["silo-1"], blocks=BLOCKS, entropy=stream("table"))


@pytest.mark.parametrize(
    ("table", "events", "make"),
    [(SILO, SILO_EVENTS, new_silo), (SERVER, SERVER_EVENTS, lambda: ServerSession(FED.context(PLAN)))],
)
def test_an_event_that_the_table_does_not_allow(table, events, make):
    """Every (state, event) that is not in the table raises Unexpected and changes nothing."""
    checked = 0
    for state, event in product(SessionState, events):
        if (state, event) in table:
            continue
        session = make()
        session.state = state
        before = dict(vars(session))
        with pytest.raises(Unexpected):
            events[event](session)
        assert vars(session) == before
        checked += 1
    assert checked == len(SessionState) * len(events) - len(table)


@pytest.mark.parametrize("table", [SILO, SERVER])
def test_a_table_is_a_line_from_fresh_to_done(table):
    """From FRESH every state of the table is reached; REFUSED allows nothing, DONE only to stand in for others."""
    reached, frontier = {SessionState.FRESH}, [SessionState.FRESH]
    while frontier:
        here = frontier.pop()
        for (state, _), after in table.items():
            if state is here and after not in reached:
                reached.add(after)
                frontier.append(after)
    assert SessionState.DONE in reached and SessionState.REFUSED not in reached
    assert {state for state, event in table if event != "stand-in"} == reached - {SessionState.DONE}
    assert {key: after for key, after in table.items() if key[1] == "stand-in"} == (
        {(SessionState.DONE, "stand-in"): SessionState.DONE} if table is SILO else {}
    )


def test_a_silo_does_each_thing_once():
    assert all(after is not before for (before, event), after in SILO.items() if event != "stand-in")


def test_the_base_session_wipes_nothing():
    session = Session()
    session.table = SILO
    session.close()
    assert session.state is SessionState.REFUSED


# --- a failing event ----------------------------------------------------------------------------------------------


def secrets_of(session: SiloSession) -> list[bytes]:
    """Every secret byte string the session holds now."""
    packs = [*session._packs.values(), *([session._own_pack] if session._own_pack else [])]
    return [
        *([session._mask_seed] if session._mask_seed else []),
        *session._seeds.values(),
        *(share for pack in packs for share in (pack.mask, *pack.self_seeds)),
    ]


def reachable(root: object, skip: tuple[type, ...] = (type,)) -> list[object]:
    """Everything that can be reached from an object by attributes, items and closures."""
    seen: dict[int, object] = {}
    todo = [vars(root)] if hasattr(root, "__dict__") else [root]
    while todo:
        item = todo.pop()
        if (
            id(item) in seen
            or isinstance(item, skip)
            or type(item).__name__ in ("module", "function", "builtin_function_or_method")
        ):
            continue
        seen[id(item)] = item
        todo.extend(gc.get_referents(item))
    return list(seen.values())


def held_once(run: Run) -> list[bytes]:
    """The shares that silo-1 was dealt: after it released the lanes it holds none of them."""
    return [share for pack in run.packs["silo-1"].values() for share in (pack.mask, *pack.self_seeds)]


def assert_wiped(session: SiloSession, secrets: list[bytes]) -> None:
    assert secrets, "a session without secrets proves nothing"
    left = reachable(session)
    kept = [item for item in left if isinstance(item, bytes) and any(secret in item for secret in secrets)]
    assert not kept
    assert not [item for item in left if isinstance(item, SessionKey | SharePack)]
    assert session._mask_seed == b"" and not session._seeds and not session._packs and session._own_pack is None
    assert not session._channels and session._mask is None and not session.masked


#: (state to reach first by this phase, a call that must fail in that state)
FAILING = [
    ("adverts", "deal", lambda s, run: s.deal([])),
    ("deals", "open-rows", lambda s, run: s.open_rows([], {})),
    ("rows", "upload", lambda s, run: s.upload(blocks.Encoded({}, np.zeros(2, np.uint64), {}))),
    ("uploads", "survivors", lambda s, run: s.survivors([])),
    ("attestations", "release-slots", lambda s, run: s.release_slots([], {}, **UNRECORDED)),
    ("slots", "release-lanes", lambda s, run: s.release_lanes([], floors={}, record=UNRECORDED["record"])),
    ("lanes", "tag", lambda s, run: s.tag(TagRequest(run.server.result, ((),) * 3))),
]


def reach(phase: str) -> Run:
    run = Run(FED, PLAN, label="wipe")
    if phase == "rows":
        deals, rows = run.deals()
        run.sessions["silo-1"].open_rows(deals, dict(rows["silo-1"]))
    else:
        getattr(run, phase)()
    return run


@pytest.mark.parametrize(("phase", "event", "fail"), FAILING, ids=[event for _, event, _ in FAILING])
def test_a_failing_event_refuses_and_wipes(phase, event, fail):
    run = reach(phase)
    session = run.sessions["silo-1"]
    assert (session.state, event) in SILO
    secrets = secrets_of(session) or held_once(run)
    with pytest.raises((FederationError, KeyError)):
        fail(session, run)
    assert session.state is SessionState.REFUSED
    assert_wiped(session, secrets)
    for again in SILO_EVENTS.values():
        with pytest.raises(Unexpected):
            again(session)


@pytest.mark.parametrize("phase", ["adverts", "deals", "rows", "uploads", "attestations", "slots", "lanes", "play"])
def test_closing_wipes_in_every_state(phase):
    run = reach(phase)
    session = run.sessions["silo-1"]
    done = session.state is SessionState.DONE
    secrets = secrets_of(session) or held_once(run)
    session.close()
    assert session.state is (SessionState.DONE if done else SessionState.REFUSED)
    assert_wiped(session, secrets)
    session.close()


def test_a_session_that_released_its_lanes_holds_no_secret():
    """Only its upload as the server has it, until it has made the tags of it."""
    run = Run(FED, PLAN)
    request = run.lanes()
    session = run.sessions["silo-1"]
    assert session.state is SessionState.LANES_OPEN and not secrets_of(session)
    assert set(session.masked) == {"trunk", "quiet"}
    session.tag(request)
    assert session.state is SessionState.DONE
    assert_wiped(session, held_once(run))


@pytest.mark.parametrize("refused", [False, True])
def test_a_step_whose_shares_have_left_stays_spent(refused):
    run = Run(FED, PLAN)
    run.slots()
    session = run.sessions["silo-1"]
    assert session.spent
    if refused:
        with pytest.raises(SurvivorInvalid):
            session.release_lanes([], floors={}, record=UNRECORDED["record"])
    else:
        session.close()
    assert session.spent


def test_not_spent_before_anything_left():
    run = Run(FED, PLAN)
    run.attestations()
    assert not run.sessions["silo-1"].spent


def test_an_unexpected_event_does_not_wipe():
    run = reach("adverts")
    session = run.sessions["silo-1"]
    before = secrets_of(session)
    with pytest.raises(Unexpected):
        session.attest()
    assert session.state is SessionState.ADVERTISED and secrets_of(session) == before != []


@pytest.mark.parametrize("phase", ["adverts", "deals", "uploads", "slots"])
def test_a_session_shows_and_pickles_nothing(phase):
    run = reach(phase)
    session = run.sessions["silo-1"]
    shown = repr(session) + str(session) + f"{session!r}"
    assert not any(secret.hex() in shown or repr(secret)[2:-1] in shown for secret in secrets_of(session))
    with pytest.raises((TypeError, AttributeError)):
        pickle.dumps(session)


def test_the_views_of_a_session():
    run = Run(FED, PLAN, drop={"silo-5": "fetch"})
    run.play()
    session = run.sessions["silo-1"]
    assert set(session.peers) == {"silo-2", "silo-3", "silo-4", "silo-5"}
    assert session.cohort == run.survivors == ("silo-1", "silo-2", "silo-3", "silo-4")
    assert session.t3 == run.server.survivors.t3
    assert session.slots == dict(zip(run.names(), run.server.slots, strict=True))
    assert session.released == ("trunk", "quiet") and session.spent
    assert session.result == run.server.result
    assert session.contributors["quiet"] == {"silo-1", "silo-2", "silo-3"}
    assert session.contributors["open"] == {"silo-3", "silo-4"}


# --- sums ---------------------------------------------------------------------------------------------------------


def check_exact(run: Run) -> None:
    """Opened lanes and slots equal the sums of what the survivors encoded; silos agree; never both shares."""
    assert run.server.slots == run.expected_slots()
    for lane, words in run.opened.items():
        assert (words == run.expected(lane)).all()
    finished = [s for s in run.sessions.values() if s.state is SessionState.DONE]
    assert {s.released for s in finished} == {tuple(lane.name for lane in PLAN.lanes if lane.name in run.opened)}
    assert all(s.slots == dict(zip(run.names(), run.server.slots, strict=True)) for s in finished)
    assert_never_both(run.view, run.packs)


@pytest.mark.parametrize("phase", DROPS)
@pytest.mark.parametrize("silo", FED.silos)
def test_one_silo_may_drop_in_any_phase(silo, phase):
    """n = 5, c = 1: t = 4 (t = 3 where the drop-out comes before the cohort is formed)."""
    run = Run(FED, PLAN, drop={silo: phase})
    opened = run.play()
    check_exact(run)
    gone = silo if DROPS.index(phase) <= DROPS.index("fetch") else None
    assert (gone in run.survivors) is False
    weights = holding(FED.silos)
    for lane in ("quiet", "open"):
        holders = sum(weights[s][lane] for s in run.survivors)
        assert (lane in opened) == (holders >= 3)
    assert "trunk" in opened


@pytest.mark.parametrize("phases", [pair for pair in product(DROPS, repeat=2) if pair[0] <= pair[1]], ids="+".join)
def test_two_drop_outs_of_seven(phases):
    """n = 7, c = 1: t = 5. Exact for two drop-outs in any two phases."""
    fed = Federation(7)
    plan = small_plan(7)
    run = Run(
        fed, plan, drop={"silo-2": phases[0], "silo-6": phases[1]}, weights=holding(fed.silos, quiet=5, visible=5)
    )
    run.play()
    check_exact(run)
    assert set(run.opened) == {"trunk", "quiet", "open"}


@pytest.mark.parametrize("phase", DROPS)
def test_below_the_threshold_is_a_typed_loss(phase):
    run = Run(FED, PLAN, drop={"silo-1": phase, "silo-4": phase})
    if phase == "unmask-lanes":
        assert run.play() == {}  # everything stays shut; the owner counts the answers
        return
    if phase in ("tag", "stand-in"):
        assert set(run.play()) == {"trunk", "quiet", "open"}  # the lanes are open: m + c = 3 prove them
        check_exact(run)
        return
    said = "survivors sent shares" if phase == "unmask-slots" else None
    with pytest.raises((CohortTooSmall, SurvivorInvalid), match=said):
        run.play()
    assert run.server.state is SessionState.REFUSED
    assert_never_both(run.view, run.packs)


def test_every_pattern_of_survivors_of_four():
    """n = 4, c = 1, t = 3: each silo in U3 or not; exact for ≥ 3, typed loss below."""
    fed, plan = Federation(4), small_plan(4)
    for size in range(5):
        for staying in combinations(fed.silos, size):
            run = Run(
                fed,
                plan,
                drop={s: "fetch" for s in fed.silos if s not in staying},
                weights=holding(fed.silos, quiet=4, visible=4),
            )
            if size < 3:
                with pytest.raises(SurvivorInvalid):
                    run.play()
            else:
                run.play()
                check_exact(run)
                assert set(run.opened) == {"trunk", "quiet", "open"} and run.survivors == staying


def test_three_silos_without_colluders():
    fed, plan = Federation(3, c=0), small_plan(3, floor=2)
    for drop in ({}, {"silo-2": "fetch"}):
        run = Run(fed, plan, drop=drop, weights=holding(fed.silos, quiet=3, visible=3))
        run.play()
        check_exact(run)
        assert set(run.opened) == {"trunk", "quiet", "open"}


def test_a_group_lane_is_uploaded_by_its_members_only():
    members = ["silo-1", "silo-2", "silo-4"]
    plan = small_plan(group=members)
    run = Run(FED, plan, weights=holding(FED.silos, group=members))
    opened = run.play()
    assert [silo for silo in FED.silos if "ward" in run.server.cohort.lanes_of(silo)] == members
    assert (opened["ward"] == run.expected("ward")).all()
    run = Run(FED, plan, weights=holding(FED.silos, group=members), drop={"silo-4": "fetch"})
    assert "ward" not in run.play()


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_a_result_that_fewer_than_m_plus_c_sign_is_not_proven(gone):
    """m + c = 3 of five. The others' uploads have stand-ins; their signatures have none."""
    run = Run(FED, PLAN, drop=dict.fromkeys(FED.silos[:gone], "tag"))
    if gone < 3:
        assert set(run.play()) == {"trunk", "quiet", "open"}
        return
    with pytest.raises(SumNotProven, match="it takes m"):
        run.play()
    assert run.server.state is SessionState.LANES_OPEN and run.server.untagged == ()
    session = next(session for silo, session in run.sessions.items() if silo not in run.drop)
    assert session.state is SessionState.DONE


def test_slots_only_steps_are_signed_and_proven_too():
    from crypto.plan import Basis, Lane, Plan, Scope, Slot, Step

    plan = Plan(
        method="m",
        seed=0,
        n_max=5,
        lanes=(Lane(name="l", scope=Scope.ALL, floor=3),),
        blocks=(),
        steps=(Step(task="count", index=0, slots=(Slot("rows", 10**6, Basis.STATE),)),),
    )
    run = Run(FED, plan, weights={silo: {} for silo in FED.silos}, drop={"silo-3": "fetch"})
    assert run.play() == {}
    assert run.server.result.slots == run.server.slots == run.expected_slots()
    proof.check_result(FED.charter, plan, run.server.result, {}, run.proof)
    with pytest.raises(SumNotProven):
        proof.check_result(FED.charter, plan, replace(run.server.result, slots=(1,)), {}, run.proof)


def test_uploads_are_fresh_in_every_session():
    """Same inputs, other entropy: nothing of one session's upload repeats in the next."""
    one, other = Run(FED, PLAN, label="a"), Run(FED, PLAN, label="b")
    one.uploads()
    other.uploads()
    for silo in FED.silos:
        assert one.masked_slots[silo] != other.masked_slots[silo]
        for lane, words in one.sessions[silo].masked.items():
            assert (words != other.sessions[silo].masked[lane]).mean() > 0.9


def test_real_entropy_is_used_by_default():
    run = Run(FED, PLAN)
    run.sessions = {silo: SiloSession(run.context, silo, FED.identities[silo], blocks=BLOCKS) for silo in FED.silos}
    run.play()
    check_exact(run)
    again = [
        SiloSession(run.context, "silo-1", FED.identities["silo-1"], blocks=BLOCKS).advert(
            weights={}, releases=0, data=bytes(32), approval=bytes(32)
        )
        for _ in range(2)
    ]
    assert again[0] != again[1]


# --- the server's own checks: a bad message changes nothing -------------------------------------------------------


def unchanged(server: ServerSession, error: type[FederationError], call) -> None:
    state, before = server.state, {name: repr(value) for name, value in vars(server).items()}
    with pytest.raises(error):
        call()
    assert server.state is state and {name: repr(value) for name, value in vars(server).items()} == before


def test_the_server_refuses_another_silos_message():
    run = Run(FED, PLAN)
    server = run.server
    one = run.sessions["silo-1"].advert(weights={}, releases=0, data=bytes(32), approval=bytes(32))
    unchanged(server, RosterMismatch, lambda: server.advert("silo-2", one))

    run = Run(FED, PLAN)
    run.deals()
    cohort_run = Run(FED, PLAN)
    adverts = cohort_run.adverts()
    deal, rows = cohort_run.sessions["silo-1"].deal(adverts)
    unchanged(cohort_run.server, RosterMismatch, lambda: cohort_run.server.deal("silo-2", deal, rows))
    swapped = dict.fromkeys(rows, rows["silo-2"])
    unchanged(cohort_run.server, BadShare, lambda: cohort_run.server.deal("silo-1", deal, swapped))
    unchanged(cohort_run.server, BadShare, lambda: cohort_run.server.deal("silo-1", deal, {"silo-2": rows["silo-2"]}))


def test_the_server_checks_uploads():
    run = Run(FED, PLAN)
    deals, rows = run.deals()
    for silo in FED.silos:
        run.sessions[silo].open_rows(deals, dict(rows[silo]))
    server, one = run.server, run.sessions["silo-1"]
    signed, slots = one.upload(run.encoded("silo-1"))
    unchanged(server, RosterMismatch, lambda: server.header("silo-2", signed, slots))
    unchanged(server, TranscriptMismatch, lambda: server.header("silo-1", signed, bytes([slots[0] ^ 1]) + slots[1:]))
    unchanged(server, LayoutMismatch, lambda: server.header("silo-1", signed, slots[8:]))
    words = dict(one.masked)
    unchanged(server, LayoutMismatch, lambda: server.words("silo-1", words))
    assert server.header("silo-1", signed, slots).silo == "silo-1"
    unchanged(server, LayoutMismatch, lambda: server.words("silo-1", {"trunk": words["trunk"]}))
    unchanged(server, LayoutMismatch, lambda: server.words("silo-1", {**words, "Static": words["trunk"]}))
    unchanged(server, LayoutMismatch, lambda: server.words("silo-1", {**words, "trunk": words["trunk"][1:]}))
    unchanged(
        server, TranscriptMismatch, lambda: server.words("silo-1", {**words, "trunk": words["trunk"] + np.uint32(1)})
    )
    server.words("silo-1", words)
    unchanged(server, LayoutMismatch, lambda: server.words("silo-1", words))


def test_a_header_is_final_once_its_words_are_added():
    run = Run(FED, PLAN)
    deals, rows = run.deals()
    session = run.sessions["silo-1"]
    session.open_rows(deals, dict(rows["silo-1"]))
    signed, slots = session.upload(run.encoded("silo-1"))
    header = run.server.header("silo-1", signed, slots)
    run.server.words("silo-1", dict(session.masked))
    other = replace(
        header, lanes=tuple((lane, digest if lane in SECTIONS else bytes(32)) for lane, digest in header.lanes)
    )
    with pytest.raises(FederationError):
        run.server.header("silo-1", other.sign(FED.identities["silo-1"]), slots)


def test_the_server_checks_attestations_and_shares():
    run = Run(FED, PLAN, drop={"silo-5": "fetch"})
    headers = run.uploads()
    server = run.server
    signed = {}
    for silo in run.survivors:
        run.sessions[silo].survivors(headers)
        signed[silo] = run.sessions[silo].attest()
    unchanged(server, RosterMismatch, lambda: server.attestation("silo-1", signed["silo-2"]))
    foreign = Attestation(silo="silo-1", t3=bytes(32), sets=bytes(32)).sign(FED.identities["silo-1"])
    unchanged(server, TranscriptMismatch, lambda: server.attestation("silo-1", foreign))
    for silo, data in signed.items():
        server.attestation(silo, data)
    attestations, masked = server.close_attestations()
    shares = {
        silo: run.sessions[silo].release_slots(attestations, dict(masked), **UNRECORDED) for silo in run.survivors
    }
    unchanged(server, RosterMismatch, lambda: server.slot_shares("silo-1", shares["silo-2"]))
    for silo, data in shares.items():
        server.slot_shares(silo, data)
    released = server.open_slots()
    lanes = {
        silo: run.sessions[silo].release_lanes(released, floors={}, record=UNRECORDED["record"])
        for silo in run.survivors
    }
    unchanged(server, RosterMismatch, lambda: server.lane_shares("silo-1", lanes["silo-2"]))
    unchanged(server, LayoutMismatch, lambda: server.lane_shares("silo-1", shares["silo-1"]))


def test_a_lane_stays_shut_when_fewer_than_t_release_it():
    run = Run(FED, PLAN, floors={})
    shares = run.slots()
    for place, silo in enumerate(run.survivors):
        floors = {"quiet": 99} if place < 2 else {}
        run.server.lane_shares(
            silo, run.sessions[silo].release_lanes(shares, floors=floors, record=UNRECORDED["record"])
        )
    request = run.server.open_lanes(run.upload)
    assert set(run.server.sums) == {one.lane for one in request.result.sums} == {"trunk", "open"}
    assert len(request.seeds) == 2 and run.server.state is SessionState.LANES_OPEN


def test_a_server_session_that_fails_is_over():
    server = ServerSession(FED.context(PLAN))
    with pytest.raises(CohortTooSmall):
        server.close_adverts()
    assert server.state is SessionState.REFUSED
    with pytest.raises(Unexpected):
        server.close_adverts()


def test_a_silo_announces_lanes_of_the_step_only():
    session = new_silo()
    with pytest.raises(LayoutMismatch, match="nonsense"):
        session.advert(weights={"trunk": 4, "nonsense": 1}, releases=0, data=bytes(32), approval=bytes(32))
    assert session.state is SessionState.REFUSED


def test_own_advert_must_be_among_the_adverts():
    run = Run(FED, PLAN)
    adverts = run.adverts()
    with pytest.raises(DuplicateKey):
        run.sessions["silo-1"].deal(adverts[1:])


@pytest.mark.parametrize("weight", [-4, 1, 5, 32, True])
def test_a_silo_announces_weights_of_the_grid_only(weight):
    session = new_silo()
    with pytest.raises(LayoutMismatch, match="grid"):
        session.advert(weights={"trunk": weight}, releases=0, data=bytes(32), approval=bytes(32))
    assert session.state is SessionState.REFUSED


@pytest.mark.parametrize("change", [{"trunk": 8}, {"quiet": 0}, {"open": 1}])
def test_a_silo_uploads_with_the_weights_of_its_manifest(change):
    run = reach("rows")
    session, encoded = run.sessions["silo-1"], run.encoded("silo-1")
    with pytest.raises(LayoutMismatch, match="manifest"):
        session.upload(replace(encoded, weights={**encoded.weights, **change}))
    assert session.state is SessionState.REFUSED


def test_an_upload_leaves_the_encoded_words_as_they_are():
    run = Run(FED, PLAN)
    run.uploads()
    again = Run(FED, PLAN).encoded("silo-1")
    for lane, words in run.plain["silo-1"].lanes.items():
        assert (words == again.lanes[lane]).all()
    assert (run.plain["silo-1"].slots == again.slots).all()


def full_disk(called: list[bool], session: SiloSession):
    def record(told: Told) -> None:
        called.append(session.spent)
        raise OSError("no space left")

    return record


def test_no_share_is_signed_before_the_record_is_made():
    """Else a full disk would cost the step without a line in the journal."""
    run = Run(FED, PLAN)
    attestations, masked = run.attestations()
    session, called = run.sessions["silo-1"], []
    session._identity = None  # so nothing can be signed
    with pytest.raises(OSError, match="no space left"):
        session.release_slots(attestations, dict(masked), known=UNRECORDED["known"], record=full_disk(called, session))
    assert called == [False] and not session.spent and session.state is SessionState.REFUSED


def test_no_share_of_a_lane_is_signed_before_the_record_is_made():
    run = Run(FED, PLAN)
    shares = run.slots()
    session, called = run.sessions["silo-1"], []
    secrets = secrets_of(session)
    session._identity = None  # so nothing can be signed
    with pytest.raises(OSError, match="no space left"):
        session.release_lanes(shares, floors={}, record=full_disk(called, session))
    assert called == [True] and session.state is SessionState.REFUSED
    assert_wiped(session, secrets)


def test_what_is_recorded_is_what_opens():
    """First the sections, then the lanes: over whom, of which quantities, proven by those who attested."""
    run = Run(FED, PLAN, drop={"silo-5": "fetch"})  # "open" is left with two holders: it stays shut
    run.play()
    for silo in run.survivors:
        slots, lanes = run.recorded[silo]
        session = run.sessions[silo]
        of = session._quantities
        ids = {one: f"{one}:{'0' * 16}" for one in FED.silos}
        everyone = frozenset(ids[one] for one in run.survivors)
        assert set(slots.sets) == {(quantity, everyone) for name in SECTIONS for quantity in of[name]}
        three = frozenset(ids[one] for one in FED.silos[:3])
        assert set(lanes.sets) == {(min(of["trunk"]), everyone), (min(of["quiet"]), three)}
        assert slots.session == lanes.session == session._sets and slots.session.silos == tuple(sorted(everyone))
        assert [signer for signer, _ in slots.signatures] == list(run.survivors)
        for told in (slots, lanes):
            proven = told.under(FED.charter)
            assert Told.proven(bytes(proven), FED.charter) == proven


def test_nothing_is_recorded_for_a_request_that_is_refused():
    run = Run(FED, PLAN)
    attestations, masked = run.attestations()
    options = {"known": UNRECORDED["known"], "record": lambda told: pytest.fail("recorded")}
    with pytest.raises(SurvivorInvalid):
        run.sessions["silo-1"].release_slots(attestations[1:3], dict(masked), **options)
    with pytest.raises(TranscriptMismatch):
        changed = {**dict(masked), "silo-2": bytes(16)}
        run.sessions["silo-2"].release_slots(attestations, changed, **options)


def test_no_lanes_no_record():
    run = Run(FED, PLAN)
    shares = run.slots()
    floors = dict.fromkeys(("trunk", "quiet", "open"), 99)
    signed = run.sessions["silo-1"].release_lanes(shares, floors=floors, record=lambda told: pytest.fail("recorded"))
    assert run.server.survivors.check_lane_shares(signed).seeds == ()
