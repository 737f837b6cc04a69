"""The evidence of a step of ``consilium/1``: everything that is not as the silos signed it is refused, by name."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aggregator.protocols.protocol1.reader import Protocol1
from crypto import shamir
from crypto.errors import FederationError, TranscriptMismatch
from tests.protocol1 import PLAN, RUN, SILOS, OldFederation, decode, encode, fields_of, signed

Fields = dict[str, Any]
Change = Callable[[OldFederation, Fields], object]

NO_DIGEST = bytes(32)


def silo(number: int, name: str, part: str, change: Callable[[Fields], object]) -> Change:
    """One silo's message is another, and the silo signs it."""
    return lambda old, fields: old.resign(name, fields[part], f"silo-{number}", change)


def everyone(part: str, change: Callable[[Fields], object], name: str = "shares") -> Change:
    def apply(old: OldFederation, fields: Fields) -> None:
        for message in list(fields[part]):
            old.resign(name, fields[part], fields_of(name, message)["silo"], change)

    return apply


def cut(part: str, keep: int) -> Change:
    return lambda old, fields: fields.update({part: fields[part][:keep]})


def without(number: int, *parts: str) -> Change:
    """The silo's messages are missing; those of the others come last first."""

    def apply(old: OldFederation, fields: Fields) -> None:
        for part in ("adverts", "deals", "headers"):
            fields[part].reverse()
        for part in parts:
            del fields[part][len(SILOS) - number]

    return apply


def share_of(owner: str, share: bytes, lane: str = "Slots") -> Callable[[Fields], object]:
    def change(fields: Fields) -> None:
        for one in fields["seeds"]:
            if (one["of"], one["lane"]) == (owner, lane):
                one["share"] = share

    return change


def same_keys(fields: Fields) -> None:
    fields["mask"] = fields["channel"]


def attest_dropped(old: OldFederation, fields: Fields) -> None:
    t3 = fields_of("attest", fields["attestations"][0])["t3"]
    message = signed("attest", {"silo": "silo-5", "t3": t3}, old.key("silo-5.agent"))
    fields["attestations"].append(message)


def other_section(old: OldFederation, fields: Fields) -> None:
    words = bytearray(fields["sections"][0]["words"])
    words[0] ^= 1
    fields["sections"][0]["words"] = bytes(words)


#: In step 1 silo-5 dropped out; in step 3 nobody did. (step, code, a part of the text, what is changed)
REFUSED: list[tuple[int, str, str, Change]] = [
    (3, "MALFORMED", "version 2", lambda old, f: f.update(version=2)),
    (3, "ROSTER_MISMATCH", "named twice", lambda old, f: f["adverts"].append(f["adverts"][0])),
    (3, "ROSTER_MISMATCH", "named twice", lambda old, f: f["deals"].append(f["deals"][0])),
    (3, "ROSTER_MISMATCH", "named twice", lambda old, f: f["headers"].append(f["headers"][0])),
    (3, "BAD_SIGNATURE", "verify", lambda old, f: f["adverts"].__setitem__(0, f["adverts"][0][:-1] + b"x")),
    (3, "MALFORMED", "Expected Advert", lambda old, f: f["adverts"].__setitem__(0, f["deals"][0])),
    (3, "COHORT_TOO_SMALL", "below the charter's minimum", cut("adverts", 3)),
    (3, "TRANSCRIPT_MISMATCH", "announced itself", silo(1, "advert", "adverts", lambda f: f.update(t0=NO_DIGEST))),
    (3, "DUPLICATE_KEY", "same ephemeral key", silo(1, "advert", "adverts", same_keys)),
    (3, "MALFORMED", "low order", silo(1, "advert", "adverts", lambda f: f.update(mask=bytes(32)))),
    (3, "MALFORMED", "second encoding", silo(1, "advert", "adverts", lambda f: f.update(channel=b"\xff" * 32))),
    (3, "LAYOUT_MISMATCH", "visible HELD", silo(1, "advert", "adverts", lambda f: f.update(held=["expert-1"]))),
    (3, "LAYOUT_MISMATCH", "visible HELD", silo(1, "advert", "adverts", lambda f: f.update(held=["expert-0"] * 2))),
    (3, "LAYOUT_MISMATCH", "committed", silo(1, "advert", "adverts", lambda f: f.update(held=[]))),
    (3, "ROSTER_MISMATCH", "without having announced", without(5, "adverts")),
    (3, "TRANSCRIPT_MISMATCH", "dealt for another", silo(1, "deal", "deals", lambda f: f.update(t1=NO_DIGEST))),
    (3, "LAYOUT_MISMATCH", "dealt to other", silo(1, "deal", "deals", lambda f: f["rows"].pop())),
    (3, "SURVIVOR_INVALID", "3 silos dealt", cut("deals", 3)),
    (3, "SURVIVOR_INVALID", "without having dealt", without(5, "deals")),
    (3, "TRANSCRIPT_MISMATCH", "set of dealers", silo(1, "header", "headers", lambda f: f.update(t2=NO_DIGEST))),
    (3, "LAYOUT_MISMATCH", "uploaded other", silo(1, "header", "headers", lambda f: f["lanes"].pop())),
    (3, "SURVIVOR_INVALID", "3 silos survive", cut("headers", 3)),
    (1, "SURVIVOR_INVALID", "does not survive", attest_dropped),
    (3, "TRANSCRIPT_MISMATCH", "another survivor", silo(1, "attest", "attestations", lambda f: f.update(t3=NO_DIGEST))),
    (3, "SURVIVOR_INVALID", "3 attestations", cut("attestations", 3)),
    (3, "SURVIVOR_INVALID", "1 attestations", lambda old, f: f.update(attestations=f["attestations"][:1] * 5)),
    (1, "LAYOUT_MISMATCH", "the dropped ones", silo(1, "shares", "slot_shares", lambda f: f.update(masks=[]))),
    (3, "LAYOUT_MISMATCH", "those of the slots", silo(1, "shares", "slot_shares", lambda f: f["seeds"].pop())),
    (3, "TRANSCRIPT_MISMATCH", "another survivor", silo(1, "shares", "slot_shares", lambda f: f.update(t3=NO_DIGEST))),
    (3, "SURVIVOR_INVALID", "3 shares", cut("slot_shares", 3)),
    (1, "SURVIVOR_INVALID", "3 shares", cut("slot_shares", 3)),
    (1, "BAD_SHARE", "advertised key", everyone("slot_shares", lambda f: f["masks"][0].update(share=bytes(33)))),
    (3, "BAD_SHARE", "its commitment", everyone("slot_shares", share_of("silo-2", bytes(33)))),
    (3, "BAD_SHARE", "do not combine", everyone("slot_shares", share_of("silo-2", b"\x01" + bytes(32)))),
    (3, "BAD_SHARE", "do not combine", silo(1, "shares", "slot_shares", share_of("silo-2", b"\xff" * 33))),
    (3, "EVIDENCE", "slot sections", lambda old, f: f["sections"].pop()),
    (3, "LAYOUT_MISMATCH", "bytes; by the plan", lambda old, f: f["sections"][0].update(words=bytes(8))),
    (3, "TRANSCRIPT_MISMATCH", "lane 'Slots'", other_section),
    (3, "LAYOUT_MISMATCH", "mask shares with the lanes", silo(
        1, "shares", "lane_shares", lambda f: f["masks"].append({"of": "silo-2", "share": bytes(33)}))),
    (3, "LAYOUT_MISMATCH", "incomplete or foreign", silo(1, "shares", "lane_shares", lambda f: f["seeds"].pop())),
    (3, "LAYOUT_MISMATCH", "incomplete or foreign", silo(
        1, "shares", "lane_shares", lambda f: f.update(seeds=[{"of": "silo-1", "lane": "none", "share": bytes(33)}]))),
    (3, "LAYOUT_MISMATCH", "incomplete or foreign", silo(
        1, "shares", "lane_shares", lambda f: f.update(seeds=[
            {"of": silo, "lane": "Slots", "share": bytes(33)} for silo in SILOS]))),
]  # fmt: skip


@pytest.mark.parametrize(("k", "code", "text", "change"), REFUSED, ids=[f"{n}-{r[2]}" for n, r in enumerate(REFUSED)])
def test_other_evidence_is_refused(old: OldFederation, k: int, code: str, text: str, change: Change) -> None:
    fields = old.evidence(k)
    change(old, fields)
    with pytest.raises(FederationError) as caught:
        old.check(k, fields)
    assert (caught.value.code, text in caught.value.detail) == (code, True), caught.value.detail


def test_honest_evidence_holds(old: OldFederation) -> None:
    step = old.check(1)
    assert step.survivors == SILOS[:4] and tuple(step.adverts) == SILOS
    assert step.messages == 26 and step.step.name == "train/0"
    assert step.lanes_open() == ("trunk", "expert-0", "expert-1")
    assert step.holders("expert-0") == SILOS[:3] and step.holders("trunk") == SILOS[:4]
    closed = old.record.closed[1].record
    assert step.transcript.hex() == closed.transcript
    assert list(step.slots) == [closed.slots[slot.name] for slot in old.record.plan.slots_of(step.step)]


def test_another_context_is_not_the_one_that_was_signed(old: OldFederation) -> None:
    for how in ({"chain": NO_DIGEST}, {"run": NO_DIGEST}, {"attempt": 7}, {"k": 1}, {"charter": old.charter(epoch=2)}):
        with pytest.raises(TranscriptMismatch):
            old.check(3, **how)


def test_a_context_must_fit_its_plan(old: OldFederation) -> None:
    plan = decode(PLAN, b64decode(old.record.started.record.plan))
    small = Protocol1().plan(encode(PLAN, plan | {"n_max": 4}))
    with pytest.raises(FederationError) as caught:
        old.check(3, plan=small)
    assert caught.value.code == "HEADROOM_EXCEEDED"
    with pytest.raises(FederationError) as caught:
        old.check(3, k=5)
    assert caught.value.code == "LAYOUT_MISMATCH"


def test_lanes_whose_shares_do_not_open_them_stayed_shut(old: OldFederation) -> None:
    fields = old.evidence(3)
    everyone("lane_shares", share_of("silo-1", bytes(33), "expert-0"))(old, fields)
    assert old.check(3, fields).lanes_open() == ("trunk", "expert-1")
    few = old.evidence(3)
    few["lane_shares"] = few["lane_shares"][:3]
    assert old.check(3, few).lanes_open() == ()
    few["lane_shares"] = few["lane_shares"][:1] * 5
    assert old.check(3, few).lanes_open() == ()


def test_a_silos_own_share_of_its_own_seed_is_not_needed(old: OldFederation) -> None:
    """Nobody else could check it; with more than t shares it is left out."""
    fields = old.evidence(3)
    old.resign("shares", fields["slot_shares"], "silo-1", share_of("silo-1", bytes(33)))
    assert old.check(3, fields).slots == old.check(3).slots


def test_sums_are_replayed_from_the_words_that_were_signed(old: OldFederation) -> None:
    step, folder = old.check(1), old.home.run_folder(RUN)

    def uploads(lane: str) -> dict[str, np.ndarray]:
        return {silo: np.fromfile(folder.upload_path(1, silo, lane), dtype="<u4") for silo in step.holders(lane)}

    total = step.replay("expert-0", uploads("expert-0"))
    assert total.dtype == np.uint32 and total.size == 30 and int(total.max()) < 2**24
    spoilt = uploads("expert-0")
    spoilt["silo-2"][0] ^= 1
    assert step.words_signed("silo-2", "expert-0") != step.words_signed("silo-3", "expert-0")
    with pytest.raises(TranscriptMismatch, match="signed"):
        step.replay("expert-0", spoilt)


def test_the_share_that_makes_no_secret_is_one() -> None:
    """2^256 is a field element and no secret of 32 bytes."""
    assert shamir.value_of(b"\x01" + bytes(32)) == 2**256
