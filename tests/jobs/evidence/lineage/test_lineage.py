"""Lineage as a value and as a tree: what the ledger says, what was checked of it, and what it doesn't prove."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.verify.models import checked_ledger
from crypto.approval import Approval, approval_digest
from crypto.errors import EvidenceError, NoSpace, SpecError
from crypto.keys import Identity, PublicIdentity
from crypto.messages import Closing
from jobs.cli.main import app
from jobs.evidence.lineage import export
from jobs.evidence.lineage.model import Lineage
from jobs.evidence.lineage.reverse import uses
from jobs.evidence.lineage.steps import LEFT_OUT, RELEASED, VOID, Absence, StepGroup, spans
from jobs.evidence.lineage.terminal import models_tree, tree, uses_tree
from jobs.evidence.lineage.trace import trace
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog
from tests.lineages import PURPOSE, SILOS, Past
from tests.records import as_record
from tests.test_architecture import ROOT

pytestmark = pytest.mark.slow

HOSTILE = "\x1b[31m[red]\u202eroot[/red]\x07"


def text(root: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=400, highlight=False).print(root)
    return out.getvalue()


def shown(past: Past, silo: str) -> bytes:
    """The signed approval that a silo showed."""
    (record,) = (one.record for one in past.entries(Kind.APPROVAL) if one.record.silo == silo)
    return bytes.fromhex(record.approval)


def said(lineage: Lineage) -> str:
    return " ".join(lineage.unproven)


# --- what happened -----------------------------------------------------------------------------------------------


def test_it_says_of_each_step_who_was_in_it_and_why_others_were_not(made: Past) -> None:
    steps = trace(made.home, made.run).steps
    names = [step.label for step in steps]
    assert names == ["rows/0", "train/0", "train/1 … train/4", "eval/0"]
    first, refused, lost, counts = steps
    assert (first.cohort, first.absent, first.eventful) == (SILOS, (), False)
    assert (refused.cohort, refused.absent) == (
        ("silo-1", "silo-2", "silo-4"),
        (Absence("silo-3", "contribute", "NON_FINITE"),),
    )
    assert (lost.names, lost.cohort) == (("train/1", "train/2", "train/3", "train/4"), SILOS[:3])
    assert lost.absent == (Absence("silo-4", "deal"),)
    assert [step.opened for step in steps] == [(), ("everyone",), ("everyone",), ()]
    assert {step.outcome for step in steps} == {RELEASED}
    assert all(step.invited == SILOS for step in steps)
    assert counts.eventful


def test_it_says_of_each_silo_its_data_approval_and_policy(made: Past) -> None:
    lineage = trace(made.home, made.run)
    closed, started = made.record(Kind.STEP_CLOSED), made.record(Kind.RUN_STARTED)
    charter = made.home.charter()
    assert [part.silo for part in lineage.silos] == list(SILOS)
    for part in lineage.silos:
        owner = charter.member(part.silo).owner
        signed = shown(made, part.silo)
        approval = Approval.open(signed, lambda _, owner=owner: owner)
        assert part.data == (closed["data_commitments"][part.silo],)
        assert part.approval == approval_digest(signed).hex()
        assert part.consent is not None
        assert part.consent.digest == part.approval
        assert part.consent.owner == owner.fingerprint
        assert (part.consent.purpose, part.consent.max_runs, part.consent.uses) == (PURPOSE, 8, 1)
        assert part.consent.data_uid == approval.terms.data_uid
        assert part.policy == approval.terms.policy.hex()
        assert part.consent.code == started["code_digest"]
        assert part.consent.in_time
        assert part.countersigned
        assert part.withdrew is None
    assert [part.steps for part in lineage.silos] == [7, 7, 6, 2]
    assert lineage.silos[2].absences == ("train/0: refused in contribute: NON_FINITE",)
    assert lineage.silos[3].absences == ("train/1 … train/4: lost in deal", "eval/0: lost in deal")


def test_it_says_what_the_run_was_agreed_to_be(made: Past) -> None:
    lineage = trace(made.home, made.run)
    run, started, end = lineage.run, made.record(Kind.RUN_STARTED), made.record(Kind.RUN_FINISHED)
    for key in ("job_digest", "plan_digest", "charter_digest", "code_digest", "purpose", "versions", "threshold"):
        assert getattr(run, key) == started[key], key
    assert (run.chain, run.ledger_head) == (end["chain"], end["ledger_head"])
    assert (run.job, run.method, run.status, run.epoch, run.members) == ("rows", "fedavg", "finished", 1, SILOS)
    assert (run.summed, run.replayable) == (5, 5)
    assert (lineage.federation, lineage.subject, lineage.head) == ("past", made.run, checked_ledger(made.home).head)
    suffix = "--home AGGREGATOR"
    verify, bundle = f"fed verify {made.run} {suffix}", f"fed lineage {made.run} --bundle {made.run}.zip {suffix}"
    assert lineage.commands == (verify, bundle)


def test_a_model_is_found_by_each_of_its_names(past: Past) -> None:
    past.number("1")
    export.promote(past.home, "rows/1", "champion", "the board")
    found = [trace(past.home, name) for name in ("rows/1", "rows@champion", "rows@candidate", past.run, past.run[:8])]
    assert {one.subject for one in found} == {"rows/1"}
    assert found[0].commands[1] == "fed lineage rows/1 --bundle rows-1.zip --home AGGREGATOR"
    with pytest.raises(SpecError, match=r"rows@champion, rows/1"):
        trace(past.home, "rows/9")


def test_a_run_that_made_no_model_has_a_lineage_too(past: Past) -> None:
    started = past.start(b"n" * 32)
    lineage = trace(past.home, started[:8])
    assert (lineage.model, lineage.run.status, lineage.subject) == (None, "not finished", started)
    assert "The run made no model (not finished)" in said(lineage)
    past.ledger.append(
        as_record(Kind.RUN_FAILED, {"run": started, "code": "ROUND_LOST", "phase": "deal", "missing": ["silo-1"]})
    )
    assert trace(past.home, started).run.status == "failed: ROUND_LOST"
    with pytest.raises(SpecError):
        trace(past.home, started[:7])


# --- steps that went otherwise -----------------------------------------------------------------------------------

WITHHELD = "withheld by the silos: below a floor, or with earlier sums it could show single silos"


def test_who_was_left_out_so_that_the_others_open_is_named(past: Past) -> None:
    run, closed = past.start(b"l" * 32), past.record(Kind.STEP_CLOSED)
    place = {"run": run, "k": 0, "name": "rows/0", "invited": list(SILOS)}
    past.ledger.append(as_record(Kind.STEP_OPENED, place))
    rest = {"survivors": list(SILOS[:2]), "lost": {SILOS[2]: "deal"}, "refusals": {}}
    past.ledger.append(as_record(Kind.STEP_CLOSED, {**closed, **place, **rest}))
    (step,) = trace(past.home, run).steps
    assert step.absent == (Absence(SILOS[2], "deal"), Absence(SILOS[3], LEFT_OUT)) and step.eventful
    assert str(step.absent[1]) == f"{SILOS[3]} left out: with it and earlier sums, this one could show single silos"


def test_void_shut_and_unfinished_steps_are_named(past: Past) -> None:
    run = past.start(b"v" * 32)
    closed, ledger = past.record(Kind.STEP_CLOSED), past.ledger

    def place(k: int, name: str) -> dict[str, Any]:
        ledger.append(as_record(Kind.STEP_OPENED, {"run": run, "k": k, "name": name, "invited": list(SILOS)}))
        return {"run": run, "k": k, "name": name}

    void = {"reason": "ROUND_LOST", "phase": "unmask-slots", "missing": ["silo-1"], "lost": {"silo-1": "attest"}}
    ledger.append(as_record(Kind.STEP_VOID, {**place(0, "rows/0"), **void}))
    shut = {"lanes_open": [], "lanes_shut": ["everyone", "other"], "slots": {"everyone.contributors": 1}}
    ledger.append(
        as_record(
            Kind.STEP_CLOSED,
            {**closed, **place(1, "train/0"), **shut, "lost": {}, "refusals": {"silo-2": "NOT_APPROVED"}},
        )
    )
    strict = {**shut, "slots": {"everyone.contributors": 4}, "refusals": {}}
    ledger.append(as_record(Kind.STEP_CLOSED, {**closed, **place(2, "train/1"), **strict}))
    ledger.append(as_record(Kind.SILO_LOST, {**place(3, "train/2"), "silo": "silo-4", "phase": "open"}))
    lineage = trace(past.home, run)
    first, second, third, last = lineage.steps
    assert (first.outcome, first.reason, first.cohort) == (VOID, "ROUND_LOST in unmask-slots", ())
    assert first.absent == (Absence("silo-1", "attest"),)
    assert second.shut == {"everyone": "1 contributors, floor 3", "other": WITHHELD}
    assert second.absent == (Absence("silo-2", "–", "NOT_APPROVED"),)
    assert third.shut["everyone"] == "4 contributors; withheld by the silos under a stricter rule"
    assert (last.outcome, last.absent) == ("not finished", (Absence("silo-4", "open"),))
    printed = text(tree(lineage))
    assert "void: ROUND_LOST in unmask-slots; no result, the weights stayed" in printed
    assert "lane everyone stayed shut: 1 contributors, floor 3" in printed
    assert second.withheld == third.withheld == ("global.correct", "test.rows") and second.eventful
    assert "figures withheld by the silos: global.correct, test.rows" in printed
    assert "no lane" in printed and "counts only" not in printed
    assert "2 released, 1 void" in printed
    assert lineage.run.summed == 0


def test_a_step_that_is_tried_again_keeps_its_last_attempt(past: Past) -> None:
    run, ledger = past.start(b"r" * 32), past.ledger
    place = {"run": run, "k": 0, "name": "rows/0"}
    for _ in range(2):
        ledger.append(as_record(Kind.STEP_OPENED, {**place, "invited": list(SILOS)}))
        ledger.append(as_record(Kind.SILO_LOST, {**place, "silo": "silo-4", "phase": "open"}))
    (step,) = trace(past.home, run).steps
    assert step.absent == (Absence("silo-4", "open"),)


def test_names_of_steps_in_short() -> None:
    assert spans(["a/0", "b/0", "a/1", "a/2", "c"]) == ["a/0 … a/2 (3)", "b/0", "c"]
    alike = StepGroup(("a/0", "a/1"), RELEASED, (), (), (), (), {})
    assert (alike.label, replace(alike, names=("a/0",)).label) == ("a/0 … a/1", "a/0")


# --- family ------------------------------------------------------------------------------------------------------


def test_parents_descendants_and_withdrawals(past: Past) -> None:
    past.number("1")
    child = past.child()
    past.number("2", child)
    past.withdraw("silo-4", ["rows/1"])
    past.withdraw("silo-9")
    upper, lower = trace(past.home, "rows/1"), trace(past.home, "rows/2")
    assert [one.label for one in upper.descendants] == ["rows/2"] == [lower.subject]
    assert [one.label for one in lower.parents] == ["rows/1"]
    assert (upper.parents, lower.descendants) == ((), ())
    assert (upper.newer, lower.newer) == ("rows/2", None)
    for one in (upper, lower):
        (left,) = one.withdrawals
        assert (left.silo, left.reason, left.models) == ("silo-4", "consent revoked", ("rows/1",))
    assert [part.silo for part in upper.silos if part.withdrew] == ["silo-4"]
    printed = text(tree(upper))
    assert "withdrew" in printed
    assert "rows/1  retrain the whole model from its first state" in printed
    assert "rows/2" in printed


def test_a_withdrawal_before_the_run_does_not_touch_it(past: Past) -> None:
    past.rewrite(lambda kind, record: record)
    past.withdraw("silo-1")
    run = past.start(b"l" * 32)
    closed = past.record(Kind.STEP_CLOSED)
    past.ledger.append(as_record(Kind.STEP_OPENED, {"run": run, "k": 0, "name": "rows/0", "invited": list(SILOS)}))
    past.ledger.append(as_record(Kind.STEP_CLOSED, {**closed, "run": run}))
    after = trace(past.home, run)
    assert (after.withdrawals, [part.withdrew for part in after.silos]) == ((), [None] * 4)


def test_a_silo_that_gave_nothing_took_nothing_away(past: Past) -> None:
    run = past.start(b"w" * 32)
    past.withdraw("silo-1")
    lineage = trace(past.home, run)
    assert (lineage.withdrawals, [part.withdrew for part in lineage.silos]) == ((), [None] * 4)


# --- approvals and signatures that don't check -------------------------------------------------------------------


def forged(past: Past, sign_as: str = "silo-1", silo: str = "silo-1", **terms: Any) -> bytes:
    """silo-1's approval with other terms, signed with a data owner's key."""
    owner = past.home.charter().member("silo-1").owner
    approval = Approval.open(shown(past, "silo-1"), lambda _: owner)
    limits = {key: terms.pop(key) for key in ("max_runs", "not_before", "not_after") if key in terms}
    changed = replace(approval, terms=replace(approval.terms, silo=silo, **terms), **limits)
    return changed.sign(Identity.load(past.silos[sign_as] / "keys" / "owner.key"))


def with_approval(past: Past, signed: bytes, digest: str = "") -> None:
    """The past, in which silo-1 had shown this one."""

    def change(kind: Kind, record: dict[str, Any]) -> dict[str, Any]:
        name = digest or approval_digest(signed).hex()
        if kind is Kind.APPROVAL and record["silo"] == "silo-1":
            return {**record, "digest": name, "approval": signed.hex()}
        if kind is Kind.STEP_CLOSED and "silo-1" in record["approvals"]:
            return {**record, "approvals": {**record["approvals"], "silo-1": name}}
        return record

    past.rewrite(change)


@pytest.mark.parametrize(
    "terms",
    [
        {"sign_as": "silo-2"},
        {"silo": "silo-2", "sign_as": "silo-2"},
        {"silo": "silo-9"},
        {"job": bytes(32)},
        {"plan": bytes(32)},
        {"charter": bytes(32)},
        {"code": bytes(32)},
        {"commitment": bytes(32)},
        {"purpose": "another one"},
        {"max_runs": 0},
    ],
    ids=lambda terms: " ".join(terms),
)
def test_an_approval_of_something_else_is_named(past: Past, terms: dict[str, Any]) -> None:
    with_approval(past, forged(past, **terms))
    with pytest.raises(EvidenceError, match=r"ledger line \d+, approval of silo-1 for run"):
        trace(past.home, past.run)


def test_an_approval_under_another_digest_is_named(past: Past) -> None:
    with_approval(past, forged(past), "ab" * 32)
    with pytest.raises(EvidenceError, match="its digest is"):
        trace(past.home, past.run)


def test_bytes_that_are_no_approval_are_named(past: Past) -> None:
    with_approval(past, b"no approval", approval_digest(b"no approval").hex())
    with pytest.raises(EvidenceError, match="approval of silo-1"):
        trace(past.home, past.run)


def test_a_good_approval_with_other_limits_still_checks(past: Past) -> None:
    with_approval(past, forged(past, max_runs=3))
    consent = trace(past.home, past.run).silos[0].consent
    assert consent is not None
    assert consent.max_runs == 3


@pytest.mark.parametrize("limits", [{"not_after": 1}, {"not_before": 2**40, "not_after": 2**41}])
def test_an_approval_out_of_its_time_is_said_not_hidden(past: Past, limits: dict[str, int]) -> None:
    with_approval(past, forged(past, not_before=limits.get("not_before", 0), not_after=limits["not_after"]))
    assert "approval of silo-1 was not valid when the run showed it" in said(trace(past.home, past.run))


def test_an_approval_that_was_used_too_often_is_said(past: Past) -> None:
    with_approval(past, forged(past, max_runs=1))
    record = past.record(Kind.APPROVAL)
    assert "silo-1 let" not in said(trace(past.home, past.run))
    other = past.start(b"2" * 32)
    past.ledger.append(as_record(Kind.APPROVAL, {**record, "run": other}))
    assert "silo-1 let 2 runs start on an approval of 1" in said(trace(past.home, past.run))


def test_an_approval_that_is_named_and_not_there_is_said(past: Past) -> None:
    past.rewrite(lambda kind, record: None if kind is Kind.APPROVAL and record["silo"] == "silo-1" else record)
    lineage = trace(past.home, past.run)
    assert lineage.silos[0].approval is not None
    assert lineage.silos[0].consent is None
    assert f"silo-1 named the approval {lineage.silos[0].approval[:16]}, which is not on this ledger" in said(lineage)
    assert "not on this ledger" in text(tree(lineage))


def test_data_that_changed_under_way_are_said(past: Past) -> None:
    def change(kind: Kind, record: dict[str, Any]) -> dict[str, Any] | None:
        if kind is Kind.STEP_CLOSED and record["k"] == 1:
            return {**record, "data_commitments": {**record["data_commitments"], "silo-1": "ab" * 32}}
        return None if kind is Kind.APPROVAL else record

    past.rewrite(change)
    lineage = trace(past.home, past.run)
    assert len(lineage.silos[0].data) == 2
    assert "silo-1 committed to 2 different data sets" in said(lineage)


def closing_of(past: Past, silo: str = "silo-1", key: str = "silo-1", **changes: Any) -> str:
    """A countersignature of the run's end, in hex."""
    end = past.record(Kind.RUN_FINISHED)
    charter = past.home.charter()
    closing = Closing.open(bytes.fromhex(end["countersignatures"][silo]), lambda m: charter.member(m.silo).agent)
    return replace(closing, **changes).sign(Identity.load(past.silos[key] / "keys" / "agent.key")).hex()


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": bytes(32)},
        {"ledger": bytes(32)},
        {"run": bytes(32)},
        {"silo": "silo-2"},
        {"key": "silo-2"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_countersignature_of_something_else_is_named(past: Past, changes: dict[str, Any]) -> None:
    silo = changes.get("silo", "silo-1")
    signed = closing_of(past, **{"key": silo, **changes})
    replace_end(past, {**past.record(Kind.RUN_FINISHED), "countersignatures": {"silo-1": signed}})
    with pytest.raises(EvidenceError, match="countersignature of silo-1"):
        trace(past.home, past.run)


def test_the_same_end_again_checks(past: Past) -> None:
    signed = closing_of(past)
    replace_end(past, {**past.record(Kind.RUN_FINISHED), "countersignatures": {"silo-1": signed}})
    assert [part.countersigned for part in trace(past.home, past.run).silos] == [True, False, False, False]


def replace_end(past: Past, end: dict[str, Any]) -> None:
    """The same ledger up to the end of the run, which then is this one."""
    path = past.home.ledger_path
    lines = path.read_bytes().splitlines(keepends=True)
    keep = past.entries(Kind.RUN_FINISHED)[0].seq
    path.with_name(f"{path.name}.head").unlink()
    path.write_bytes(b"")
    ledger = Ledger.open(path, Identity.load(past.home.root / "keys" / "aggregator.key"))
    path.write_bytes(b"".join(lines[:keep]))
    ledger.append(as_record(Kind.RUN_FINISHED, end))


def test_the_head_that_silos_signed_must_be_on_the_ledger(past: Past) -> None:
    end = past.record(Kind.RUN_FINISHED)
    past.rewrite(lambda kind, record: end if kind is Kind.RUN_FINISHED else record)
    with pytest.raises(EvidenceError, match="ledger_head"):
        trace(past.home, past.run)


def test_a_run_id_must_follow_from_its_nonce(past: Past) -> None:
    change = {Kind.RUN_STARTED: {"nonce": "00" * 32}}
    past.rewrite(lambda kind, record: {**record, **change.get(kind, {})})
    with pytest.raises(EvidenceError, match="nonce"):
        trace(past.home, past.run)


def test_a_plan_must_have_its_digest(past: Past) -> None:
    for plan in ("AAAA", "?", ""):
        past.rewrite(lambda kind, record, plan=plan: {**record, "plan": plan} if kind is Kind.RUN_STARTED else record)
        with pytest.raises(EvidenceError, match=r"\(run-started\), plan:"):
            trace(past.home, past.run)


def test_a_plan_must_be_the_one_of_its_digest(past: Past) -> None:
    past.rewrite(lambda kind, record: {**record, "plan_digest": "00" * 32} if kind is Kind.RUN_STARTED else record)
    with pytest.raises(EvidenceError, match=r"\(run-started\), plan_digest:"):
        trace(past.home, past.run)


# --- older ledgers, and what isn't proven ------------------------------------------------------------------------


def aged(kind: Kind, record: dict[str, Any]) -> dict[str, Any] | None:
    """As a version before approvals wrote it."""
    new = {"nonce", "code_digest", "purpose", "versions", "approvals", "policies"}
    return None if kind in (Kind.APPROVAL, Kind.CHARTER) else {k: v for k, v in record.items() if k not in new}


def test_what_an_older_ledger_lacks_is_said(past: Past) -> None:
    past.rewrite(aged)
    lineage = trace(past.home, past.run)
    assert (lineage.run.purpose, lineage.run.code_digest, dict(lineage.run.versions)) == (None, None, {})
    assert "Not recorded when this run was made: purpose, software and nonce of the run's id." in lineage.unproven
    assert "Approvals of silo-1, silo-2, silo-3 and silo-4 are not recorded on this ledger." in lineage.unproven
    printed = text(tree(lineage))
    for line in ("purpose  not recorded", "software  not recorded", "approval  not recorded", "policy  not recorded"):
        assert line in printed


def test_countersignatures_of_an_older_ledger_are_checked_by_the_digits_there_are(past: Past) -> None:
    end = past.record(Kind.RUN_FINISHED)
    past.rewrite(lambda kind, record: None if kind is Kind.RUN_FINISHED else aged(kind, record))
    head = past.ledger.head
    signed = {silo: closing_of_head(past, silo, head, end) for silo in SILOS[:3]}
    past.ledger.append(as_record(Kind.RUN_FINISHED, {**end, "ledger_head": head, "countersignatures": signed}))
    lineage = trace(past.home, past.run)
    assert [part.countersigned for part in lineage.silos] == [True, True, True, False]
    assert "Not countersigned by silo-4" in said(lineage)


def closing_of_head(past: Past, silo: str, head: str, end: dict[str, Any]) -> str:
    run = bytes.fromhex(past.run) + bytes(24)
    closing = Closing(silo=silo, run=run, chain=bytes.fromhex(end["chain"]), ledger=bytes.fromhex(head))
    return closing.sign(Identity.load(past.silos[silo] / "keys" / "agent.key")).hex()


def test_without_the_charter_nothing_that_needs_it_is_claimed(past: Past) -> None:
    change = {Kind.RUN_STARTED: {"charter_digest": "77" * 32}}
    past.rewrite(lambda kind, record: {**record, **change.get(kind, {})})
    lineage = trace(past.home, past.run)
    assert lineage.run.epoch is None
    assert [part.consent for part in lineage.silos] == [None] * 4
    assert "The charter 7777777777777777 of this run is neither on the ledger nor in the home" in said(lineage)
    assert "charter  not at hand" in text(tree(lineage))


def test_limits_of_every_model_and_of_this_one(past: Past) -> None:
    past.number("1")
    lineage = trace(past.home, "rows/1")
    key = PublicIdentity((past.home.root / "consortium.pub").read_bytes()).fingerprint
    for words in (
        f"The consortium's key came with this ledger: {key}",
        "is MLflow's",
        "fed verify rows/1 --home AGGREGATOR does",
        "does not show that the data are good, lawful or really trained on",
        "not differential privacy",
    ):
        assert words in said(lineage)
    assert "bit for bit" not in said(lineage)
    for folder in (past.home.root / "jobs" / past.run / "uploads").iterdir():
        folder.rename(folder.with_name(f"gone-{folder.name}"))
    export.promote(past.home, "rows/1", "champion", "the board")
    later = trace(past.home, "rows/1")
    assert "is MLflow's" not in said(later)
    assert "Who moved champion is what was typed" in said(later)
    assert "5 of 5 sums can't be replayed bit for bit" in said(later)


def test_hidden_holders_are_said(past: Past) -> None:
    from base64 import b64encode

    from aggregator.run_record import RunRecord
    from crypto.plan import Plan
    from jobs.evidence.lineage.caveats import unproven
    from silo_agent.methods import Limits, method

    lineage = trace(past.home, past.run)
    params = {"features": 4, "classes": 2, "hidden": 2, "experts": 2, "rounds": 2}
    plan: Plan = method("fedcoe").plan(params, Limits(n_max=8, colluders=1, honest=2, lane_floor=3))
    (started,) = past.entries(Kind.RUN_STARTED)
    other = {"plan": b64encode(bytes(plan)).decode(), "plan_digest": plan.digest.hex()}
    record = RunRecord(past.run, (replace(started, record=replace(started.record, **other)),))
    sentences = " ".join(unproven(lineage, record, past.home.charter()))
    assert "Who taught cluster-0, cluster-1, expert-0 and expert-1 is hidden from the aggregator" in sentences


# --- the other way round -----------------------------------------------------------------------------------------


def test_from_a_data_commitment_to_every_use_of_it(past: Past) -> None:
    past.number("1")
    child = past.child()
    history = checked_ledger(past.home)
    commitment = past.record(Kind.STEP_CLOSED)["data_commitments"]["silo-4"]
    for digits in (commitment, commitment[:8]):
        found = uses(history, "data", digits)
        assert found.value == commitment
        first, second = found.found
        assert (first.run, first.silo, first.model, first.status) == (past.run, "silo-4", "rows/1", "finished")
        assert (first.steps, first.descendants, first.aliases) == (("rows/0", "train/0"), (child,), ("candidate",))
        assert (second.run, second.steps, second.model) == (child, ("rows/0",), child)
    printed = text(uses_tree(uses(history, "data", commitment)))
    assert "rows/1 @candidate" in printed
    assert "silo-4  in 2 sums: rows/0, train/0" in printed


def test_from_a_silo_and_from_an_approval(past: Past) -> None:
    history = checked_ledger(past.home)
    (use,) = uses(history, "silo", "silo-3").found
    assert use.spans == ["rows/0", "train/1 … train/4 (4)", "eval/0"]
    (again,) = uses(history, "approval", use.approvals[0][:8]).found
    assert again == use


def test_an_approval_that_was_shown_and_never_used_is_found(past: Past) -> None:
    run = past.start(b"u" * 32)
    record = past.record(Kind.APPROVAL)
    past.ledger.append(as_record(Kind.APPROVAL, {**record, "run": run}))
    found = uses(checked_ledger(past.home), "approval", record["digest"])
    assert [(use.run, len(use.steps), use.status) for use in found.found] == [
        (past.run, 7, "finished"),
        (run, 0, "not finished"),
    ]
    assert "in no sum" in text(uses_tree(found))


def test_digits_that_fit_none_or_several_are_refused(past: Past) -> None:
    history = checked_ledger(past.home)
    known = past.record(Kind.STEP_CLOSED)["data_commitments"]
    with pytest.raises(SpecError, match="one that is on this ledger") as refused:
        uses(history, "data", "0" * 8)
    assert all(value[:16] in refused.value.remedy for value in known.values())
    for bad in ("1234567", "", "G" * 8, "../../etc", known["silo-1"].upper(), known["silo-1"] + "0"):
        with pytest.raises(SpecError, match="hexadecimal"):
            uses(history, "data", bad)
    with pytest.raises(SpecError, match="silo-1, silo-2, silo-3, silo-4"):
        uses(history, "silo", "silo")
    twin = known["silo-1"][:8] + "0" * 56
    closed = past.record(Kind.STEP_CLOSED)
    past.ledger.append(as_record(Kind.STEP_CLOSED, {**closed, "data_commitments": {**known, "silo-2": twin}, "k": 9}))
    with pytest.raises(SpecError) as ambiguous:
        uses(checked_ledger(past.home), "data", twin[:8])
    assert twin in ambiguous.value.want
    assert known["silo-1"] in ambiguous.value.want


# --- the tree ----------------------------------------------------------------------------------------------------


def test_the_tree_has_every_fact(past: Past) -> None:
    past.number("1")
    export.promote(past.home, "rows/1", "champion", "the board")
    lineage = trace(past.home, "rows/1")
    printed = text(tree(lineage))
    facts = [PURPOSE, "moved here by the board", "epoch 1", "train/1 … train/4", "silo-4 lost in deal", "@champion"]
    facts += [lineage.run.plan_digest[:16], lineage.run.job_digest[:16], "fed verify rows/1", lineage.head[:16]]
    for part in lineage.silos:
        assert part.consent is not None
        facts += [part.data[0][:16], part.consent.digest[:16], part.consent.owner, part.consent.until, "run 1 of 8"]
    for fact in (*facts, *lineage.unproven):
        assert fact in printed, fact
    assert all(line == line.rstrip() for line in printed.splitlines())


def test_a_terminal_obeys_nobodys_name(past: Past) -> None:
    changes = {Kind.RUN_STARTED: {"purpose": HOSTILE, "model_name": HOSTILE}}
    past.rewrite(lambda kind, record: None if kind is Kind.APPROVAL else {**record, **changes.get(kind, {})})
    past.withdraw("silo-4")
    printed = text(tree(trace(past.home, past.run)))
    assert "purpose  ·[31m[red]·root[/red]·" in printed
    assert not set(printed) & {"\x1b", "\u202e", "\x07"}


def test_the_list_of_models(past: Past) -> None:
    from aggregator.verify.models import models

    assert "not numbered by MLflow" in text(models_tree(models(past.home)))
    past.number("1")
    past.withdraw("silo-1")
    printed = text(models_tree(models(past.home)))
    assert f"rows/1 @candidate  run {past.run}" in printed
    assert "withdrawn since: silo-1" in printed
    assert "none: no run has finished" in text(models_tree([]))


# --- acts and the command line -----------------------------------------------------------------------------------


def test_a_moved_alias_is_in_the_security_log(past: Past) -> None:
    past.number("1")
    export.promote(past.home, "rows/1", "champion", "the board")
    line = SecurityLog(past.home).last(Event.ALIAS_MOVED)
    assert line is not None
    assert line.fields == {"model": "rows", "version": "1", "alias": "champion"}


def test_a_bundle_is_told_to_the_security_log_or_not_made(past: Past, tmp_path: Path, monkeypatch: Any) -> None:
    past.number("1")
    lineage = trace(past.home, "rows/1")
    made = export.export(past.home, lineage, tmp_path / "out.zip")
    line = SecurityLog(past.home).last(Event.BUNDLE_EXPORTED)
    assert line is not None
    assert line.fields == {"sha256": made.sha256, "model": "rows", "version": "1"}

    def full(self: SecurityLog, event: str, fields: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SecurityLog, "_append", full)
    with pytest.raises(NoSpace):
        export.export(past.home, lineage, tmp_path / "second.zip")
    assert not (tmp_path / "second.zip").exists()


def test_evidence_that_is_a_copy_has_no_security_log(past: Past, tmp_path: Path) -> None:
    (past.home.root / "aggregator.json").unlink()
    export.export(past.home, trace(past.home, past.run), tmp_path / "out.zip")
    assert not (past.home.root / "security.jsonl").exists()


def fed(*words: str) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_line_asks_one_question_at_a_time(past: Past) -> None:
    home = ("--home", str(past.home.root))
    for words in (
        ("lineage", past.run, "--silo", "silo-1"),
        ("lineage", "--silo", "silo-1", "--data", "12345678"),
        ("lineage", "--html", "page.html"),
        ("lineage", "--bundle", "out.zip", "--silo", "silo-1"),
    ):
        assert isinstance(fed(*words, *home).exception, SpecError), words


def test_the_command_line_answers_in_json(past: Past, tmp_path: Path) -> None:
    past.number("1")
    home = ("--home", str(past.home.root), "--json")
    listed = json.loads(fed("lineage", *home).stdout)
    assert [one["label"] for one in listed["models"]] == ["rows/1"]
    out = tmp_path / "out.zip"
    found = json.loads(fed("lineage", "rows/1", "--bundle", str(out), *home).stdout)
    assert (found["subject"], found["run"]["purpose"], found["written"]) == ("rows/1", PURPOSE, [str(out)])
    assert out.exists()
    assert [use["run"] for use in json.loads(fed("lineage", "--silo", "silo-1", *home).stdout)["found"]] == [past.run]
    moved = json.loads(fed("promote", "rows/1", "--alias", "champion", "--by", "me", *home).stdout)
    assert set(moved["aliases"]) == {"candidate", "champion"}


def test_the_command_line_prints(past: Past) -> None:
    past.number("1")
    home = ("--home", str(past.home.root))
    assert "rows/1" in fed("lineage", *home).stdout
    assert "not proven" in fed("lineage", "rows/1", *home).stdout
    assert "in 7 sums" in fed("lineage", "--silo", "silo-1", *home).stdout
    moved = fed("promote", "rows/1", "--alias", "champion", "--by", "me", *home)
    assert moved.stdout == "rows@champion is version 1 now, by me\n"


def test_the_tree_needs_the_base_install_only(made: Past) -> None:
    extras = ("torch", "nvflare", "mlflow", "syft_job", "syft_datasets", "prometheus_client", "sklearn", "jinja2")
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {extras!r}: raise ImportError('forbidden: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from jobs.cli.main import app\n"
        f"app(['lineage', {made.run!r}, '--home', {str(made.home.root)!r}], standalone_mode=False)\n"
        f"app(['lineage', '--silo', 'silo-1', '--home', {str(made.home.root)!r}], standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "not proven" in done.stdout
