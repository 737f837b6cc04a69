"""A stranger replays a step from its signed messages, and notices whatever was changed."""

from dataclasses import fields, replace

import numpy as np
import pytest

from crypto.errors import (
    BadShare,
    EvidenceError,
    FederationError,
    LayoutMismatch,
    Malformed,
    SumNotProven,
    SurvivorInvalid,
    TranscriptMismatch,
)
from crypto.evidence import StepEvidence
from crypto.messages import Shares, Tags
from crypto.proof import Sum
from tests.federation import Federation, Run, small_plan

FED = Federation(5)
PLAN = small_plan()
RUN = Run(FED, PLAN, drop={"silo-5": "fetch"})
RUN.play()
UPLOADS = {
    lane: {silo: RUN.words[silo][lane] for silo in RUN.survivors if lane in RUN.words[silo]}
    for lane in ("trunk", "quiet", "open")
}
EVIDENCE = RUN.evidence()
CHECKED = EVIDENCE.check(RUN.context)


def test_bytes_and_back():
    assert StepEvidence.from_bytes(bytes(EVIDENCE)) == EVIDENCE
    for cut in (0, 1, 4, len(bytes(EVIDENCE)) - 1):
        with pytest.raises(Malformed):
            StepEvidence.from_bytes(bytes(EVIDENCE)[:cut])
    with pytest.raises(Malformed):
        StepEvidence.from_bytes(bytes(EVIDENCE) + b"\x00")


@pytest.mark.parametrize("version", [0, 1, 255])
def test_another_version_is_malformed(version):
    with pytest.raises(Malformed, match=f"version {version}"):
        StepEvidence.from_bytes(bytes([version]) + bytes(EVIDENCE)[1:])


def test_every_field_is_in_the_bytes():
    for field in fields(EVIDENCE):
        assert bytes(replace(EVIDENCE, **{field.name: getattr(EVIDENCE, field.name)[1:]})) != bytes(EVIDENCE)


def test_the_evidence_of_a_server_session_is_the_same():
    assert RUN.server.evidence() == EVIDENCE


def test_survivors_slots_and_sums_are_those_of_the_step():
    assert EVIDENCE.survivors(RUN.context).t3 == RUN.server.survivors.t3
    assert CHECKED.result.slots == CHECKED.opening.slots == RUN.server.slots == RUN.expected_slots()
    assert CHECKED.figures == RUN.server.result.figures(PLAN.steps[0])
    assert set(RUN.opened) == {"trunk", "quiet"}
    sums = {lane: CHECKED.replay(lane, UPLOADS[lane]) for lane in RUN.opened}
    for lane, words in RUN.opened.items():
        assert (sums[lane].words == words).all() and (sums[lane].carries == RUN.server.sums[lane].carries).all()
        CHECKED.prove(lane, sums[lane])
    assert CHECKED.signers == RUN.survivors


def test_a_lane_that_stayed_shut_cannot_be_replayed():
    with pytest.raises(KeyError):
        CHECKED.replay("open", UPLOADS["open"])


def announcing(**change) -> StepEvidence:
    """The step with another announced result, which all survivors signed."""
    result = replace(RUN.server.result, **change)
    signed = [Tags.open(one, lambda m: FED.charter.member(m.silo).agent) for one in EVIDENCE.tags]
    kept = [sum(one.silo in lane.uploaders for lane in result.sums) for one in signed]
    again = tuple(
        replace(one, result=result.digest, tags=(one.tags * 2)[:count]).sign(FED.identities[one.silo])
        for one, count in zip(signed, kept, strict=True)
    )
    return replace(EVIDENCE, result=bytes(result), tags=again)


def test_a_lane_that_no_shares_open_is_not_in_the_result():
    opened = replace(RUN.server.result.sums[1], lane="open", uploaders=("silo-3", "silo-4"), weight=2, contributors=2)
    with pytest.raises(EvidenceError, match="shares of lane open"):
        announcing(sums=(*RUN.server.result.sums, opened)).check(RUN.context)
    unknown = replace(opened, lane="nonsense")
    with pytest.raises(EvidenceError, match="shares of lane nonsense"):
        announcing(sums=(*RUN.server.result.sums, unknown)).check(RUN.context)


def test_the_same_shares_twice_are_one():
    few = replace(EVIDENCE, lane_shares=EVIDENCE.lane_shares[:3] + EVIDENCE.lane_shares[:1])
    with pytest.raises(SurvivorInvalid, match="threshold"):
        few.check(RUN.context)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"slots": (1, 2)}, "slots"),
        ({"t3": b"3" * 32}, "another result"),
        ({"chain": b"s" * 31 + b"t"}, "state"),
        ({"step": 1}, "step"),
        ({"step": 2**32 - 1}, "step"),
        ({"slots": (1,)}, "slots"),
        ({"released": False, "slots": (), "sums": ()}, "slots"),
    ],
)
def test_a_result_other_than_what_the_shares_open(change, what):
    with pytest.raises((EvidenceError, SumNotProven), match=what):
        announcing(**change).check(RUN.context)


@pytest.mark.parametrize(
    "change",
    [{"weight": 33}, {"contributors": 3}, {"uploaders": ("silo-1", "silo-2", "silo-3")}],
)
def test_other_weights_or_uploaders_than_the_shares_say(change):
    trunk, quiet = RUN.server.result.sums
    with pytest.raises(EvidenceError, match="uploads and weights of lane trunk"):
        announcing(sums=(replace(trunk, **change), quiet)).check(RUN.context)


def test_a_lane_whose_shares_do_not_combine_blames_the_dealer():
    opened = [Shares.open(signed, lambda m: FED.charter.member(m.silo).agent) for signed in EVIDENCE.lane_shares]
    spoilt = [
        replace(one, seeds=tuple((silo, lane, bytes(len(share))) if lane == "quiet" else (silo, lane, share)
                                 for silo, lane, share in one.seeds)).sign(FED.identities[one.silo])
        for one in opened
    ]  # fmt: skip
    with pytest.raises(BadShare):
        replace(EVIDENCE, lane_shares=tuple(spoilt)).check(RUN.context)


def test_sums_other_than_those_announced_are_not_proven():
    sums = {lane: CHECKED.replay(lane, UPLOADS[lane]) for lane in RUN.opened}
    false = Sum(sums["trunk"].words + np.uint32(1), sums["trunk"].carries)
    for wrong in (false, sums["quiet"], Sum(sums["trunk"].words, sums["trunk"].carries + np.uint8(1))):
        with pytest.raises(SumNotProven):
            CHECKED.prove("trunk", wrong)


def test_an_upload_is_missing():
    with pytest.raises(EvidenceError, match="silo-2, lane trunk"):
        CHECKED.replay("trunk", {s: words for s, words in UPLOADS["trunk"].items() if s != "silo-2"})


def test_an_upload_other_than_the_one_signed():
    changed = {**UPLOADS["trunk"], "silo-2": UPLOADS["trunk"]["silo-2"] + np.uint32(1)}
    with pytest.raises(TranscriptMismatch):
        CHECKED.replay("trunk", changed)
    with pytest.raises(LayoutMismatch):
        CHECKED.replay("trunk", {**UPLOADS["trunk"], "silo-2": UPLOADS["trunk"]["silo-2"][1:]})


@pytest.mark.parametrize(
    "slots",
    [EVIDENCE.slots[1:], EVIDENCE.slots[::-1], EVIDENCE.slots + EVIDENCE.slots[:1], ()],
)
def test_the_masked_slots_are_one_from_each_survivor(slots):
    with pytest.raises(EvidenceError, match="masked slots"):
        replace(EVIDENCE, slots=slots).check(RUN.context)


def test_slots_other_than_those_signed():
    (silo, slots), *others = EVIDENCE.slots
    with pytest.raises(TranscriptMismatch):
        replace(EVIDENCE, slots=((silo, bytes(len(slots))), *others)).check(RUN.context)


def test_fewer_attestations_than_the_threshold():
    with pytest.raises(SurvivorInvalid, match="attestations"):
        replace(EVIDENCE, attestations=EVIDENCE.attestations[1:]).survivors(RUN.context)


LISTS = [field.name for field in fields(EVIDENCE) if field.name != "result"]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("change", [lambda blobs: blobs[1:], lambda blobs: (), lambda blobs: blobs + blobs[:1]])
def test_too_little_and_too_much_is_refused(name, change):
    changed = replace(EVIDENCE, **{name: change(getattr(EVIDENCE, name))})
    if name in ("lane_shares", "attestations") and len(getattr(changed, name)) > 4:
        assert changed.check(RUN.context).result == RUN.server.result  # one of them twice proves no less
        return
    with pytest.raises(FederationError):
        changed.check(RUN.context)


@pytest.mark.parametrize("result", [b"", b"noise", bytes(RUN.server.result)[:-1], bytes(RUN.server.result) + b"x"])
def test_a_result_that_is_none(result):
    with pytest.raises(Malformed):
        replace(EVIDENCE, result=result).check(RUN.context)


@pytest.mark.parametrize("context", [FED.context(PLAN, attempt=1), FED.context(PLAN, chain=b"x" * 32)])
def test_evidence_of_another_step(context):
    with pytest.raises(TranscriptMismatch):
        EVIDENCE.survivors(context)


def test_shares_of_another_session():
    other = Run(FED, PLAN, drop={"silo-5": "fetch"}, label="other")
    other.play()
    with pytest.raises(TranscriptMismatch):
        replace(EVIDENCE, slot_shares=other.evidence().slot_shares).check(RUN.context)
