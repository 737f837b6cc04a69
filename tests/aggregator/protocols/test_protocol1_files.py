"""Plans, charters, approvals, receipts and other single messages of ``consilium/1``, decoded as strictly as ever."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from aggregator.protocols.protocol1.blocks import apply, initial_state, state_digest
from aggregator.protocols.protocol1.encoding import Reader
from aggregator.protocols.protocol1.plan import Apply, Plan
from aggregator.protocols.protocol1.reader import Protocol1
from crypto.errors import FederationError
from tests.protocol1 import (
    CHARTER,
    MESSAGES,
    PLAN,
    SILOS,
    OldFederation,
    body,
    decode,
    encode,
    fields_of,
    seal,
    signed,
)

Fields = dict[str, Any]
Change = Callable[[Fields], object]
READER = Protocol1()


def refused(make: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(FederationError) as caught:
        make()
    return caught.value.code, caught.value.detail


# --- bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "read", "text"),
    [
        (b"", Reader.u8, "runs past the end"),
        (b"\x02", Reader.flag, "A flag byte is 2"),
        (b"\0\0\0\x01\xff", Reader.text, "not UTF-8"),
        (b"\0\0\0\x09\0", lambda src: src.each(Reader.u8), "announces 9 items"),
        (b"\0", Reader.end, "1 bytes follow"),
    ],
)
def test_bytes_that_no_encoder_makes_are_malformed(data: bytes, read: Callable[[Reader], object], text: str) -> None:
    code, detail = refused(lambda: read(Reader(data)))
    assert (code, text in detail) == ("MALFORMED", True)


# --- the plan ----------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(old: OldFederation) -> Fields:
    found: Fields = decode(PLAN, b64decode(old.record.started.record.plan))
    return found


def lane(**changes: object) -> Change:
    return lambda plan: plan["lanes"][0].update(changes)


def block(**changes: object) -> Change:
    return lambda plan: plan["blocks"][0].update(changes)


def part(**changes: object) -> Change:
    return lambda plan: plan["steps"][1]["sums"][0].update(changes)


def slot(**changes: object) -> Change:
    return lambda plan: plan["steps"][0]["slots"][0].update(changes)


PLANS: list[tuple[str, str, Change]] = [
    ("MALFORMED", "A plan of version 2", lambda p: p.update(version=2)),
    ("SPEC", "method name", lambda p: p.update(method="FedAvg")),
    ("SPEC", "plan.n_max", lambda p: p.update(n_max=0)),
    ("SPEC", "plan.ring_bits", lambda p: p.update(ring_bits=16)),
    ("HEADROOM_EXCEEDED", "fewer than 8 bits", lambda p: p.update(n_max=2**17)),
    ("SPEC", "lane name", lane(name="Slots")),
    ("MALFORMED", "is not a Scope", lane(scope="none")),
    ("SPEC", "floor", lane(floor=0)),
    ("SPEC", "ascending positive", lane(grid=[])),
    ("SPEC", "ascending positive", lane(grid=[2, 3, 4, 5, 6])),
    ("SPEC", "ascending positive", lane(grid=[2, 1])),
    ("SPEC", "ascending positive", lane(grid=[0, 1])),
    ("SPEC", "largest at most", lane(grid=[1, 5])),
    ("MALFORMED", "flag byte", lane(hidden=2)),
    ("SPEC", "distinct silos", lane(scope="group", members=["b", "a"])),
    ("SPEC", "silos for a GROUP lane", lane(scope="group")),
    ("SPEC", "silos for a GROUP lane", lane(members=["a"])),
    ("SPEC", "block name", block(name="W")),
    ("SPEC", "positive sides", block(shape=[])),
    ("SPEC", "positive sides", block(shape=[0])),
    ("SPEC", "positive sides", block(shape=[2**19, 2**18])),
    ("SPEC", "positive sides", block(shape=[1] * 9)),
    ("SPEC", "that leave a silo", block(shape=[2**29])),
    ("SPEC", "plan.lanes", lambda p: p.update(lanes=p["lanes"] * 400)),
    ("SPEC", "plan.blocks", lambda p: p.update(blocks=p["blocks"] * 11_000)),
    ("SPEC", "plan.steps", lambda p: p.update(steps=p["steps"][:1] * (2**16 + 1))),
    ("SPEC", "plan.slots", lambda p: p["steps"][0].update(slots=p["steps"][0]["slots"] * 2049)),
    ("SPEC", "block trunk.w1.clip", block(clip=0.0)),
    ("SPEC", "block trunk.w1.clip", block(clip=1e10)),
    ("SPEC", "block trunk.w1.clip", block(clip=float("nan"))),
    ("SPEC", "block trunk.w1.init", block(init=-0.0)),
    ("SPEC", "block trunk.w1.init", block(init=float("nan"))),
    ("SPEC", "block trunk.w1.lane", block(lane="nowhere")),
    ("MALFORMED", "is not a Apply", part(apply="keep")),
    ("SPEC", "trunk.w1.rate", part(rate=0.0)),
    ("SPEC", "trunk.w1.rate", part(rate=1e4)),
    ("SPEC", "a block of the plan", part(block="nothing")),
    ("SPEC", "each block once", part(block="trunk.b1")),
    ("EGRESS_DENIED", "may not leave", lane(scope="local")),
    ("SPEC", "plan.lanes", lane(name="expert-0")),
    ("SPEC", "plan.blocks", block(name="trunk.b1")),
    ("SPEC", "plan.steps", lambda p: p["steps"][2].update(index=0)),
    ("SPEC", "task name", lambda p: p["steps"][0].update(task="Rows")),
    ("SPEC", "slot name", slot(name="Rows")),
    ("SPEC", "slot silos.bound", slot(bound=0)),
    ("SPEC", "slot silos.bound", slot(bound=2**63)),
    ("HEADROOM_EXCEEDED", "could overflow", slot(bound=2**62)),
    ("SPEC", "at least one", lambda p: p["steps"][0].update(slots=[])),
    ("SPEC", "each name once", slot(name="rows")),
]


@pytest.mark.parametrize(("code", "text", "change"), PLANS, ids=[f"{n}-{p[1]}" for n, p in enumerate(PLANS)])
def test_a_plan_that_was_never_safe_is_refused(plan: Fields, code: str, text: str, change: Change) -> None:
    change(plan)
    found, detail = refused(lambda: READER.plan(encode(PLAN, plan)))
    assert (found, text in detail) == (code, True), detail


def test_a_plan_has_the_digest_of_its_bytes_and_nothing_behind_them(old: OldFederation) -> None:
    data = b64decode(old.record.started.record.plan)
    assert READER.plan(data).digest == sha256(data).digest() == bytes.fromhex(old.record.started.record.plan_digest)
    assert refused(lambda: READER.plan(data + b"x"))[0] == "MALFORMED"


def test_who_uploads_a_lane(old: OldFederation) -> None:
    trunk, visible, hidden = READER.plan(b64decode(old.record.started.record.plan)).lanes
    holdings = {"silo-1": ("expert-0",)}
    assert trunk.uploaders(SILOS, holdings) == hidden.uploaders(SILOS, {}) == SILOS
    assert visible.visible and visible.uploaders(SILOS, holdings) == ("silo-1",)
    group = replace(trunk, scope=type(trunk.scope)("group"), members=("silo-2", "silo-9"))
    assert group.uploaders(SILOS, {}) == ("silo-2",)
    assert replace(trunk, scope=type(trunk.scope)("local")).uploaders(SILOS, {}) == ()


# --- the state ---------------------------------------------------------------------------------------------------


def a_plan(fields: Fields, how: str, **changes: object) -> Plan:
    fields["steps"][1]["sums"][0].update(apply=how, rate=0.5)
    return Plan.from_bytes(encode(PLAN, fields | changes))


def test_initial_blocks_are_those_of_the_ledger(old: OldFederation, plan: Fields) -> None:
    state = initial_state(Plan.from_bytes(encode(PLAN, plan)))
    assert state_digest(state).hex() == old.record.started.record.state_digest
    assert not state["trunk.w1"].flags.writeable
    plan["blocks"].append({"name": "own", "shape": [3], "lane": "mine", "clip": 1.0, "init": 0.0})
    plan["lanes"].append({**plan["lanes"][0], "name": "mine", "scope": "local"})
    plan["blocks"][1]["init"] = 0.0
    more = initial_state(Plan.from_bytes(encode(PLAN, plan)))
    assert "own" not in more and not more["trunk.b1"].any()


def test_opened_sums_become_blocks(plan: Fields) -> None:
    words = np.full(130, 2**24 - 3, dtype=np.uint32)  # −3 in a ring of 24 bits
    unit = 4.0 / ((2**23 - 1) // 5)
    mean = -3 * unit * 4 / 7
    for how, want in (
        ("publish", lambda old: np.full_like(old, mean)),
        ("average", lambda old: old + 0.5 * mean),
        ("add", lambda old: old + 0.5 * -3 * unit * 4),
    ):
        made = a_plan(plan, how)
        assert made.steps[1].sums[0].apply is Apply(how)
        before = initial_state(made)
        after = apply(made, made.steps[1], before, {"trunk": words}, {"trunk.weight": 7})
        old = before["trunk.w1"].astype(np.float64)
        assert np.array_equal(after["trunk.w1"], want(old).astype(np.float32))
        assert after["expert-0.w2"] is before["expert-0.w2"]
        assert apply(made, made.steps[1], before, {"trunk": words}, {"trunk.weight": 0}) == before


# --- the charter -------------------------------------------------------------------------------------------------

CHARTERS: list[tuple[str, str, Change]] = [
    ("MALFORMED", "A charter of version 2", lambda c: c.update(version=2)),
    ("SPEC", "distinct silo ids", lambda c: c["members"].reverse()),
    ("SPEC", "distinct silo ids", lambda c: c["members"][0].update(silo="A")),
    ("SPEC", "a key used twice", lambda c: c["members"][0].update(agent=c["members"][1]["agent"])),
    ("SPEC", "at least 3 silos", lambda c: c.update(members=c["members"][:2])),
    ("SPEC", "charter.n_min", lambda c: c.update(n_min=3)),
    ("SPEC", "charter.n_min", lambda c: c.update(n_min=6)),
    ("SPEC", "charter.honest", lambda c: c.update(honest=1)),
    ("SPEC", "charter.lane_floor", lambda c: c.update(lane_floor=2)),
    ("SPEC", "charter.not_after", lambda c: c.update(not_after=c["not_before"])),
    ("SPEC", "charter.suite", lambda c: c.update(suite=2)),
    ("THRESHOLD_INFEASIBLE", "no threshold is safe", lambda c: c.update(honest=3)),
    ("MALFORMED", "small order", lambda c: c.update(aggregator=b"\x01" + bytes(31))),
]


@pytest.mark.parametrize(("code", "text", "change"), CHARTERS, ids=[f"{n}-{c[1]}" for n, c in enumerate(CHARTERS)])
def test_a_charter_that_was_never_valid_is_refused(old: OldFederation, code: str, text: str, change: Change) -> None:
    fields = decode(CHARTER, old.charter_bytes)
    change(fields)
    found, detail = refused(lambda: old.charter(**fields))
    assert (found, text in detail) == (code, True), detail


def test_a_charter_is_the_consortiums(old: OldFederation) -> None:
    key, data = old.key("consortium"), old.home.pinned.path.read_bytes()
    charter = READER.open_charter(data, key.public)
    assert charter.digest == sha256(old.charter_bytes).digest()
    assert (charter.epoch, charter.silos, charter.threshold(5), charter.threshold(4)) == (1, SILOS, 4, 3)
    assert refused(lambda: READER.open_charter(data, old.key("aggregator").public))[0] == "BAD_SIGNATURE"
    assert refused(lambda: READER.open_charter(data + b"x", key.public))[0] == "MALFORMED"
    assert refused(lambda: READER.open_charter(seal("charter", old.charter_bytes + b"x", key), key.public))[0] == (
        "MALFORMED"
    )
    assert refused(lambda: charter.threshold(3))[0] == "COHORT_TOO_SMALL"
    assert refused(lambda: charter.member("silo-9"))[0] == "ROSTER_MISMATCH"


def test_the_floor_of_a_lane_is_the_strictest(old: OldFederation) -> None:
    everyone, some, _ = old.record.plan.lanes
    charter = old.charter(lane_floor=4)
    assert (charter.floor(everyone), charter.floor(some)) == (3, 4)
    assert charter.floor(replace(everyone, floor=5)) == 5  # type: ignore[type-var]


@pytest.mark.parametrize("field", ["federation", "epoch", "previous"])
def test_the_next_epoch_names_the_one_before(old: OldFederation, field: str) -> None:
    before = old.charter()
    named = {"federation": "test", "epoch": 2, "previous": before.digest}
    old.charter(**named).check_succeeds(before)
    other = {"federation": "else", "epoch": 3, "previous": bytes(32)}[field]
    code, detail = refused(lambda: old.charter(**named | {field: other}).check_succeeds(before))
    assert (code, f"charter.{field}" in detail) == ("SPEC", True)


# --- approvals ---------------------------------------------------------------------------------------------------


def shown(old: OldFederation, silo: str = "silo-1", by: str = "", **changes: object) -> bytes:
    entry = next(entry for entry in old.record.approvals if entry.record.silo == silo)
    fields = fields_of("approval", bytes.fromhex(entry.record.approval)) | changes
    return signed("approval", fields, old.key(f"{by or fields['silo']}.owner"))


def test_an_approval_is_its_data_owners(old: OldFederation) -> None:
    charter = old.charter()
    approval = READER.open_approval(shown(old), "silo-1", charter)
    assert (approval.terms.silo, approval.terms.purpose) == ("silo-1", "a test")
    for data, code in (
        (shown(old, by="silo-2"), "BAD_SIGNATURE"),
        (shown(old, silo="silo-2"), "ROSTER_MISMATCH"),
        (shown(old, purpose="x" * 501), "MALFORMED"),
        (signed("approval", fields_of("approval", shown(old)) | {"silo": ""}, old.key("silo-1.owner")), "MALFORMED"),
        (shown(old) + b"x", "MALFORMED"),
    ):
        assert refused(lambda data=data: READER.open_approval(data, "silo-1", charter))[0] == code  # type: ignore[misc]


def test_an_approval_covers_the_run_and_the_data(old: OldFederation) -> None:
    start, charter, advert = old.record.started.record, old.charter(), old.check(0).adverts["silo-1"]
    run = {
        "job": bytes.fromhex(start.job_digest),
        "plan": bytes.fromhex(start.plan_digest),
        "code": bytes.fromhex(start.code_digest or ""),
    }

    def check(data: bytes, named: bytes | None = None) -> object:
        mine = replace(advert, approval=named or READER.approval_digest(data))
        return READER.check_shown(data, mine, charter, **run)

    check(shown(old), advert.approval)
    assert refused(lambda: check(shown(old, max_runs=9), advert.approval))[0] == "BAD_SIGNATURE"
    assert refused(lambda: check(shown(old, "silo-2")))[0] == "ROSTER_MISMATCH"
    for name in ("charter", "job", "plan", "code", "commitment"):
        code, detail = refused(lambda name=name: check(shown(old, **{name: bytes(32)})))  # type: ignore[misc]
        assert (code, f"another {name}" in detail) == ("NOT_APPROVED", True)


# --- refusals, closings, receipts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"code": "NONE"}, "unknown code or phase"),
        ({"phase": "tea"}, "unknown code or phase"),
        ({"blame": "A B"}, "not a silo id"),
    ],
)
def test_a_refusal_names_what_there_is(old: OldFederation, changes: Fields, text: str) -> None:
    fields = {"silo": "silo-1", "run": bytes(32), "step": 1, "attempt": 0, "phase": "deal", "code": "REPLAY"}
    fields |= {"blame": ""}
    key = old.key("silo-1.agent")
    decline = READER.open_decline(signed("decline", fields, key), old.charter())
    assert (decline.silo, decline.phase, decline.code) == ("silo-1", "deal", "REPLAY")
    code, detail = refused(lambda: READER.open_decline(signed("decline", fields | changes, key), old.charter()))
    assert (code, text in detail) == ("MALFORMED", True)


def test_a_message_is_of_its_kind_and_its_signer(old: OldFederation) -> None:
    fields = {"run": bytes(32), "chain": bytes(32), "ledger": bytes(32), "silo": "silo-1"}
    charter, key = old.charter(), old.key("silo-1.agent")
    assert READER.open_closing(signed("closing", fields, key), charter).silo == "silo-1"
    for data, code in (
        (signed("closing", fields, old.key("silo-2.agent")), "BAD_SIGNATURE"),
        (seal("decline", body("closing", fields), key), "BAD_SIGNATURE"),
        (seal("closing", body("closing", fields) + b"x", key), "MALFORMED"),
        (seal("closing", b"\2" + body("closing", fields)[1:], key), "MALFORMED"),
        (seal("closing", bytes([1, 9]) + body("closing", fields)[2:], key), "MALFORMED"),
        (signed("closing", fields, key) + b"x", "MALFORMED"),
    ):
        assert refused(lambda data=data: READER.open_closing(data, charter))[0] == code  # type: ignore[misc]


def test_a_receipt_is_consistent_in_itself(old: OldFederation) -> None:
    key, data = old.key("silo-1.agent"), old.receipt("silo-1").read_bytes()
    receipt = READER.open_receipt(data, lambda _: key.public)
    assert [step.released for step in receipt.steps] == [True, True, False, True, True]
    assert receipt.chains()[-1] == receipt.chain
    fields = fields_of("receipt", data)
    later = [fields["steps"][0], *fields["steps"]]
    for changes, text in (
        ({"run": bytes(32)}, ", run"),
        ({"chain": bytes(32)}, ", chain"),
        ({"steps": later}, "step 1"),
    ):
        other = signed("receipt", fields | changes, key)
        code, detail = refused(lambda other=other: READER.open_receipt(other, lambda _: key.public))  # type: ignore[misc]
        assert (code, text in detail) == ("EVIDENCE", True)


def test_the_codec_of_these_tests_has_every_message() -> None:
    assert sorted(kind for kind, _ in MESSAGES.values()) == [*range(1, 12), 13]
