"""A section of slots, or a lane, that the rule of atoms keeps shut while the rest of the step opens.

Through the sessions, the evidence and the proof: what stayed shut is absent for everyone alike.
"""

from dataclasses import replace

import pytest

from crypto import proof, quantities
from crypto.atoms import Openings
from crypto.errors import EvidenceError, SumNotProven, SurvivorInvalid, TranscriptMismatch
from crypto.evidence import StepEvidence
from crypto.messages import Attestation, StepResult, TagRequest
from crypto.opening import Opening
from crypto.plan import Basis, Plan, Section, Slot
from crypto.session import SessionState
from tests.federation import BLOCKS, UNRECORDED, Federation, Run, holding, small_plan

FED = Federation(5)  # t = 4, m + c = 3
#: Two of each section, mixed.
SLOTS = (
    Slot("rows", 10_000, Basis.DATA),
    Slot("correct", 10_000, Basis.STATE),
    Slot("test.rows", 10_000, Basis.DATA),
    Slot("bids", 10_000, Basis.STEP),
)
PLAN = small_plan(slots=SLOTS)
STEP = PLAN.steps[0]
WEIGHTS = holding(FED.silos, quiet=5, visible=5)
STATIC, FRESH = (quantities.of_section(STEP, section, BLOCKS) for section in Section)
TRUNK, QUIET = (quantities.of_lane(PLAN, STEP, lane, BLOCKS) for lane in ("trunk", "quiet"))


def knowing(of: frozenset[bytes], *numbers: int):
    """What a silo knows: a sum of these quantities was opened over those silos, and nothing else."""
    known = Openings().refine(f"silo-{i}:{'0' * 16}" for i in numbers)
    return lambda quantity: known if quantity in of else Openings()


def played(label: str = "sections", *, shut: frozenset[bytes] = frozenset(), **options) -> Run:
    """Four of the five contributed before to what is to stay shut: silo-5 would be alone."""
    run = Run(FED, PLAN, weights=WEIGHTS, known=knowing(shut, 1, 2, 3, 4), label=label, **options)
    run.play()
    return run


def none_of(section: Section, slots):
    return tuple(None if place in STEP.places(section) else value for place, value in enumerate(slots))


@pytest.mark.parametrize(("section", "of"), [(Section.STATIC, STATIC), (Section.FRESH, FRESH)])
def test_one_section_is_shut_and_everything_else_opens(section, of):
    """A sum of one of its quantities is enough to keep a section shut as a whole."""
    run = played(shut=frozenset({min(of)}))
    assert run.server.slots == none_of(section, run.expected_slots()) and set(run.opened) == {"trunk", "quiet", "open"}
    for lane, words in run.opened.items():
        assert (words == run.expected(lane)).all()
    places = STEP.places(section)
    names = {slot.name for place, slot in enumerate(SLOTS) if place not in places}
    for session in run.sessions.values():
        assert set(session.slots) == names and session.state is SessionState.DONE
        assert {name: refused.code for name, refused in session.withheld.items()} == {section: "COHORT_DIFFERENCE"}
    figures = run.server.result.figures(STEP)
    assert set(figures) == names | {f"{lane}.{of}" for lane in run.opened for of in ("weight", "contributors")}
    checked = StepEvidence.from_bytes(bytes(run.evidence())).check(run.context)
    assert checked.result.slots == checked.opening.slots == run.server.slots and checked.figures == figures
    proof.check_result(FED.charter, PLAN, run.server.result, run.server.sums, run.proof)


def test_no_seed_of_a_shut_section_leaves_a_silo():
    run = played(shut=STATIC)
    for silo, packs in run.packs.items():
        for owner, pack in packs.items():
            seeds = dict(zip(run.server.cohort.lanes_of(owner), pack.self_seeds, strict=True))
            assert seeds["Static"] not in run.view.of(silo) and seeds["Fresh"] in run.view.of(silo)


def test_both_sections_may_be_shut():
    run = played(shut=STATIC | FRESH)
    assert run.server.slots == (None,) * 4 and set(run.opened) == {"trunk", "quiet", "open"}
    assert run.server.result.released and not any(session.slots for session in run.sessions.values())
    assert run.evidence().check(run.context).opening.figures == {}


@pytest.mark.parametrize(("of", "lane"), [(TRUNK, "trunk"), (QUIET, "quiet")])
def test_one_lane_is_shut_and_everything_else_opens(of, lane):
    run = played(shut=of)
    assert run.server.slots == run.expected_slots() and set(run.opened) == {"trunk", "quiet", "open"} - {lane}
    for session in run.sessions.values():
        assert {name: refused.code for name, refused in session.withheld.items()} == {lane: "COHORT_DIFFERENCE"}
    assert set(run.evidence().check(run.context).lanes_open()) == set(run.opened)


@pytest.mark.parametrize("known", [(1, 2, 3, 4, 5), (6, 7, 8), ()])
def test_sets_that_cut_nothing_shut_nothing(known):
    """The same silos once more; silos that are not here; nobody."""
    run = Run(FED, PLAN, weights=WEIGHTS, known=knowing(STATIC | FRESH | TRUNK, *known))
    assert set(run.play()) == {"trunk", "quiet", "open"} and run.server.slots == run.expected_slots()


def test_what_a_silo_has_recorded_is_as_little_as_it_opened():
    run = played(shut=STATIC | TRUNK)
    for silo in run.survivors:
        slots, lanes = run.recorded[silo]
        assert {quantity for quantity, _ in slots.sets} == FRESH
        assert {quantity for quantity, _ in lanes.sets}.isdisjoint(TRUNK) and {q for q, _ in lanes.sets} > QUIET


# --- fewer than t release a section -------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "opens"), [(3, False), (4, True), (5, True)])
def test_a_section_opens_if_t_survivors_released_it(count, opens):
    """The others know of an opening that the rule does not go with. The rest opens with everyone's shares."""
    run = Run(FED, PLAN, weights=WEIGHTS)
    attestations, masked = run.attestations()
    for place, silo in enumerate(FED.silos):
        known = UNRECORDED["known"] if place < count else knowing(STATIC, 1, 2, 3, 4)
        signed = run.sessions[silo].release_slots(attestations, dict(masked), known=known, record=UNRECORDED["record"])
        run.server.slot_shares(silo, run.sends(silo, "unmask-slots", signed))
    shares = run.server.open_slots()
    want = run.expected_slots() if opens else none_of(Section.STATIC, run.expected_slots())
    assert run.server.slots == want
    for silo in FED.silos:
        signed = run.sessions[silo].release_lanes(shares, floors={}, record=UNRECORDED["record"])
        run.server.lane_shares(silo, run.sends(silo, "unmask-lanes", signed))
    request = TagRequest.from_bytes(bytes(run.server.open_lanes(run.upload)))
    for silo in FED.silos:
        run.server.tags(silo, run.sends(silo, "tag", run.sessions[silo].tag(request)))
    run.proof = run.server.close_tags()
    assert request.result.slots == want and run.evidence().check(run.context).opening.slots == want


# --- a server that says otherwise ---------------------------------------------------------------------------------


def lies(true: tuple[int | None, ...], whole: tuple[int, ...]) -> dict[str, tuple[int | None, ...]]:
    return {
        "open in part": (whole[0], *true[1:]),
        "the other part": (*true[:2], whole[2], true[3]),
        "open as a whole": whole,
        "shut as a whole": (None,) * 4,
        "a figure that is another": (*true[:3], true[3] + 1),
        "too few": true[:3],
        "none": (),
    }


@pytest.mark.parametrize("lie", lies((None, 1, None, 1), (1, 1, 1, 1)))
def test_no_silo_signs_other_slots_than_it_opened(lie):
    run = Run(FED, PLAN, weights=WEIGHTS, known=knowing(STATIC, 1, 2, 3, 4))
    request = run.lanes()
    false = replace(request.result, slots=lies(request.result.slots, run.expected_slots())[lie])
    for session in run.sessions.values():
        with pytest.raises(SumNotProven, match="slots"):
            session.tag(replace(request, result=false))
        assert session.state is SessionState.REFUSED


@pytest.mark.parametrize("lie", ["open in part", "the other part"])
def test_slots_announced_open_in_part_are_not_proven_whoever_signed_them(lie):
    run = played(shut=STATIC)
    false = replace(run.server.result, slots=lies(run.server.result.slots, run.expected_slots())[lie])
    with pytest.raises(SumNotProven, match=r"Static .* open in part"):
        proof.check_signed(FED.charter, PLAN, false, run.proof)


@pytest.mark.parametrize("kept", [{"Fresh"}, {"Static"}])
def test_evidence_of_other_slot_shares_opens_other_slots(kept):
    """The result says that both sections opened; the shares of one are left out of the evidence."""
    run = played()
    survivors = run.server.survivors
    shares = []
    for silo, signed in run.signed["unmask-slots"].items():
        one = survivors.check_slot_shares(signed)
        some = tuple(seed for seed in one.seeds if seed[1] in kept)
        shares.append(replace(one, seeds=some).sign(FED.identities[silo]))
    opening = Opening.form(survivors, run.masked_slots, [survivors.check_slot_shares(signed) for signed in shares])
    assert [value is None for value in opening.slots] == [Section.of(slot.basis) not in kept for slot in SLOTS]
    with pytest.raises(EvidenceError, match="slots"):
        replace(run.evidence(), slot_shares=tuple(shares)).check(run.context)


# --- attestations of other sets -----------------------------------------------------------------------------------


def attesting(run: Run, silo: str, sets: bytes) -> bytes:
    return Attestation(silo=silo, t3=run.server.survivors.t3, sets=sets).sign(FED.identities[silo])


def counted() -> Run:
    """All have attested, and no server has looked."""
    run = Run(FED, PLAN, weights=WEIGHTS)
    headers = run.uploads()
    for silo in FED.silos:
        run.sessions[silo].survivors(headers)
        run.sends(silo, "attest", run.sessions[silo].attest())
    return run


def test_the_survivors_attest_to_the_same_sets():
    run = counted()
    assert len({session._sets.digest for session in run.sessions.values()}) == 1
    again = Run(FED, PLAN, weights={**WEIGHTS, "silo-1": {**WEIGHTS["silo-1"], "quiet": 0}})
    again.attestations()
    assert again.sessions["silo-1"]._sets.digest != run.sessions["silo-1"]._sets.digest


def test_attestations_of_other_sets_do_not_let_a_silo_release():
    """t of them agree, and not with what this silo counts."""
    run = counted()
    others = [attesting(run, silo, bytes(32)) for silo in FED.silos[1:]]
    masked = dict(run.masked_slots)
    with pytest.raises(TranscriptMismatch, match="other contributors"):
        run.sessions["silo-1"].release_slots([run.signed["attest"]["silo-1"], *others], masked, **UNRECORDED)
    assert not run.sessions["silo-1"].spent


def test_attestations_that_do_not_agree_are_fewer():
    run = counted()
    mixed = [attesting(run, silo, bytes(32)) for silo in FED.silos[:2]] + list(run.signed["attest"].values())[2:]
    with pytest.raises(SurvivorInvalid, match="3 attestations agree"):
        run.sessions["silo-5"].release_slots(mixed, dict(run.masked_slots), **UNRECORDED)


@pytest.mark.parametrize("liar", FED.silos)
def test_a_colluders_attestation_of_other_sets_does_not_stop_the_server(liar):
    """It is left out by name, and the step goes on with the others."""
    run = counted()
    for silo in FED.silos:
        run.server.attestation(silo, attesting(run, silo, bytes(32)) if silo == liar else run.signed["attest"][silo])
    attestations, masked = run.server.close_attestations()
    assert run.server.strayed == (liar,)
    assert attestations == [run.signed["attest"][silo] for silo in FED.silos if silo != liar]
    for silo in FED.silos:
        run.server.slot_shares(silo, run.sessions[silo].release_slots(attestations, dict(masked), **UNRECORDED))
    run.server.open_slots()
    assert run.server.slots == run.expected_slots()


def test_one_that_strayed_is_blamed_if_too_few_are_left():
    """Four survive, t = 4: with one that strayed the attempt is lost, and the next one goes without it."""
    run = Run(FED, PLAN, weights=WEIGHTS, drop={"silo-5": "fetch"})
    headers = run.uploads()
    for silo in FED.silos[:4]:
        run.sessions[silo].survivors(headers)
        signed = run.sessions[silo].attest()
        run.server.attestation(silo, attesting(run, silo, bytes(32)) if silo == "silo-2" else signed)
    with pytest.raises(SurvivorInvalid, match="3 attestations agree") as lost:
        run.server.close_attestations()
    assert lost.value.blame == "silo-2" and run.server.strayed == ("silo-2",)


def test_nobody_is_blamed_where_no_more_than_the_colluders_agree():
    run = Run(FED, PLAN, weights=WEIGHTS)
    run.uploads()
    for place, silo in enumerate(FED.silos):
        run.server.attestation(silo, attesting(run, silo, bytes([place]) * 32))
    with pytest.raises(SurvivorInvalid, match="1 attestations agree") as lost:
        run.server.close_attestations()
    assert lost.value.blame == "" and run.server.strayed == ()


# --- a plan without one of the sections ---------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [SLOTS[:1], SLOTS[1:2], SLOTS[3:], ()])
def test_a_step_uploads_the_sections_that_it_has(slots):
    plan: Plan = small_plan(slots=slots)
    run = Run(FED, plan, weights=WEIGHTS)
    assert set(run.play()) == {"trunk", "quiet", "open"} and run.server.slots == run.expected_slots()
    sections = {Section.of(slot.basis) for slot in slots}
    assert set(plan.steps[0].sections) == sections
    assert set(run.server.cohort.lanes_of("silo-1")) == {"trunk", "quiet", "open"} | sections
    assert StepResult.from_bytes(bytes(run.server.result)).slots == run.expected_slots()
