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
    SurvivorInvalid,
    TranscriptMismatch,
)
from crypto.evidence import StepEvidence
from crypto.messages import Shares
from tests.federation import Federation, Run, small_plan

FED = Federation(5)
PLAN = small_plan()
RUN = Run(FED, PLAN, drop={"silo-5": "fetch"})
RUN.uploads()
UPLOADS = {
    lane: {silo: RUN.sessions[silo].masked[lane].copy() for silo in RUN.survivors if lane in RUN.sessions[silo].masked}
    for lane in ("trunk", "quiet", "open")
}
RUN = Run(FED, PLAN, drop={"silo-5": "fetch"})
RUN.play()
EVIDENCE = RUN.evidence()


def test_bytes_and_back():
    assert StepEvidence.from_bytes(bytes(EVIDENCE)) == EVIDENCE
    for cut in (0, 1, 4, len(bytes(EVIDENCE)) - 1):
        with pytest.raises(Malformed):
            StepEvidence.from_bytes(bytes(EVIDENCE)[:cut])
    with pytest.raises(Malformed):
        StepEvidence.from_bytes(bytes(EVIDENCE) + b"\x00")


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_malformed(version):
    with pytest.raises(Malformed, match=f"version {version}"):
        StepEvidence.from_bytes(bytes([version]) + bytes(EVIDENCE)[1:])


def test_every_field_is_in_the_bytes():
    for field in fields(EVIDENCE):
        assert bytes(replace(EVIDENCE, **{field.name: getattr(EVIDENCE, field.name)[1:]})) != bytes(EVIDENCE)


def test_survivors_slots_and_sums_are_those_of_the_step():
    assert EVIDENCE.survivors(RUN.context).t3 == RUN.server.survivors.t3
    assert EVIDENCE.slots(RUN.context) == RUN.server.slots == RUN.expected_slots()
    assert set(RUN.opened) == {"trunk", "quiet"}
    for lane, words in RUN.opened.items():
        assert (EVIDENCE.replay(RUN.context, lane, UPLOADS[lane]) == words).all()


def test_a_lane_that_stayed_shut_cannot_be_replayed():
    with pytest.raises(SurvivorInvalid, match="threshold"):
        EVIDENCE.replay(RUN.context, "open", UPLOADS["open"])


def test_the_lanes_that_the_shares_open():
    assert EVIDENCE.check(RUN.context).lanes_open() == ("trunk", "quiet")
    few = replace(EVIDENCE, lane_shares=EVIDENCE.lane_shares[:3] + EVIDENCE.lane_shares[:1])
    assert few.check(RUN.context).lanes_open() == ()  # the same one twice is one


def test_a_lane_whose_shares_do_not_combine_stays_shut():
    opened = [Shares.open(signed, lambda m: FED.charter.member(m.silo).agent) for signed in EVIDENCE.lane_shares]
    spoilt = [
        replace(one, seeds=tuple((silo, lane, bytes(len(share))) if lane == "quiet" else (silo, lane, share)
                                 for silo, lane, share in one.seeds)).sign(FED.identities[one.silo])
        for one in opened
    ]  # fmt: skip
    checked = replace(EVIDENCE, lane_shares=tuple(spoilt)).check(RUN.context)
    assert checked.lanes_open() == ("trunk",)
    assert (checked.replay("trunk", UPLOADS["trunk"]) == RUN.opened["trunk"]).all()
    with pytest.raises(BadShare):
        checked.replay("quiet", UPLOADS["quiet"])


def test_an_upload_is_missing():
    with pytest.raises(EvidenceError, match="silo-2, lane trunk"):
        EVIDENCE.replay(RUN.context, "trunk", {s: words for s, words in UPLOADS["trunk"].items() if s != "silo-2"})


def test_an_upload_other_than_the_one_signed():
    changed = {**UPLOADS["trunk"], "silo-2": UPLOADS["trunk"]["silo-2"] + np.uint32(1)}
    with pytest.raises(TranscriptMismatch):
        EVIDENCE.replay(RUN.context, "trunk", changed)
    with pytest.raises(LayoutMismatch):
        EVIDENCE.replay(RUN.context, "trunk", {**UPLOADS["trunk"], "silo-2": UPLOADS["trunk"]["silo-2"][1:]})


@pytest.mark.parametrize(
    "sections",
    [EVIDENCE.sections[1:], EVIDENCE.sections[::-1], EVIDENCE.sections + EVIDENCE.sections[:1], ()],
)
def test_the_sections_are_one_from_each_survivor(sections):
    with pytest.raises(EvidenceError, match="slot sections"):
        replace(EVIDENCE, sections=sections).slots(RUN.context)


def test_a_section_other_than_the_one_signed():
    (silo, section), *others = EVIDENCE.sections
    with pytest.raises(TranscriptMismatch):
        replace(EVIDENCE, sections=((silo, bytes(len(section))), *others)).slots(RUN.context)


def test_fewer_attestations_than_the_threshold():
    with pytest.raises(SurvivorInvalid, match="attestations"):
        replace(EVIDENCE, attestations=EVIDENCE.attestations[1:]).survivors(RUN.context)


@pytest.mark.parametrize("name", [field.name for field in fields(EVIDENCE)])
@pytest.mark.parametrize("change", [lambda blobs: blobs[1:], lambda blobs: (), lambda blobs: blobs + blobs[:1]])
def test_too_little_and_too_much_is_refused(name, change):
    changed = replace(EVIDENCE, **{name: change(getattr(EVIDENCE, name))})
    if name in ("slot_shares", "lane_shares", "attestations") and len(getattr(changed, name)) > 4:
        assert changed.slots(RUN.context) == RUN.server.slots  # one of them twice proves no less
        return
    with pytest.raises(FederationError):
        changed.slots(RUN.context)
        changed.replay(RUN.context, "trunk", UPLOADS["trunk"])


@pytest.mark.parametrize("context", [FED.context(PLAN, attempt=1), FED.context(PLAN, chain=b"x" * 32)])
def test_evidence_of_another_step(context):
    with pytest.raises(TranscriptMismatch):
        EVIDENCE.survivors(context)


def test_shares_of_another_session():
    other = Run(FED, PLAN, drop={"silo-5": "fetch"}, label="other")
    other.play()
    with pytest.raises(TranscriptMismatch):
        replace(EVIDENCE, slot_shares=other.evidence().slot_shares).slots(RUN.context)
