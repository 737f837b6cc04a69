"""A stranger verifies a run from the aggregator's home; whoever changed anything there is found, and named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.ledger.format import read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.verify.checks import verify_run
from aggregator.verify.report import CheckLine, CheckOutcome
from crypto.blocks import initial_state, state_digest
from crypto.errors import Malformed
from crypto.keys import Identity
from crypto.messages import Closing, Decline, Message, Request
from crypto.release_manifest import ReleaseManifest
from crypto.transcript import digest
from jobs import release
from jobs.job import decode_plan
from jobs.runtime.in_process import InProcess
from tests import local, tampering
from tests.records import as_record
from tests.tampering import (
    Finished,
    Lines,
    closed,
    detail,
    ended,
    flip,
    names,
    quiet,
    records,
    refused,
    rewrite,
    started,
)

pytestmark = pytest.mark.slow


def test_every_check_of_an_honest_run_holds(honest: Finished) -> None:
    shown: list[CheckLine] = []
    report = verify_run(
        honest.home, honest.run, consortium=str(honest.federation.silo("silo-1") / "consortium.pub"),
        release=release.manifest(), show=shown.append,
    )  # fmt: skip
    order = ["consortium", "charters", "ledger", "run", "approvals", "steps", "sums", "state", "closing", "model"]
    assert names(report, CheckOutcome.OK) == [*order, "code", "predictor"]
    assert shown == report.lines and {line.outcome for line in shown} <= {CheckOutcome.OK, CheckOutcome.NOTE}
    assert report.verdict == f"run {honest.run} holds: 12 checks passed, none skipped."
    assert detail(report, "sums").startswith("2 lane sums")
    assert detail(report, "state").startswith("the blocks after 4 of 4 steps")
    assert detail(report, "closing").startswith("8 silos")
    assert report.as_dict()["not_checked"] == []


def test_what_was_not_checked_is_said(honest: Finished) -> None:
    report = verify_run(honest.home, honest.run)
    assert names(report, CheckOutcome.NOT_CHECKED) == ["consortium", "code"]
    assert "compare" in detail(report, "consortium") and "not given" in detail(report, "code")
    assert report.verdict.endswith("10 checks passed, 2 not checked.")
    assert len(report.as_dict()["not_checked"]) == 2
    other = verify_run(honest.home, honest.run, release=ReleaseManifest({}))
    assert f"here is {ReleaseManifest({}).digest.hex()[:16]}" in detail(other, "code")
    assert str(report.lines[0]).startswith("not checked  consortium")


def test_a_terminal_is_not_drawn_upon() -> None:
    line = CheckLine("x", CheckOutcome.OK, "one\x1b[2K\rok  all is well\n")
    assert "\x1b" not in str(line) and "\r" not in str(line) and "\n" not in str(line)


def test_a_silo_refused_another_fell_silent_and_lanes_are_hidden(tmp_path: Path) -> None:
    run = tampering.finish(
        tmp_path / "f", local.spec("fedcoe"), faults={"silo-7": quiet("fetch", 2)}, unapproved=("silo-3",)
    )
    report = verify_run(run.home, run.run)
    assert "signed by the silo that refused" in detail(report, "refusals")
    assert "no countersignature of silo-3" in [line.detail for line in report.of(CheckOutcome.NOT_CHECKED)]
    assert detail(report, "closing").startswith("7 silos")
    assert "silo-3" not in detail(report, "approvals")


# --- a hand without keys ----------------------------------------------------------------------------------------------


def _edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def _forge_mlflow(run: Finished) -> None:
    facts = {"model": "another-model", "version": "1", "run_id": "0", "tracking_uri": ""}
    (run.folder / "mlflow.json").write_text(json.dumps(facts))


LEDGER = "ledger/ledger.jsonl"


TAMPERED: dict[str, tuple[Callable[[Finished], object], str]] = {
    "a line edited": (lambda run: flip(run.home.root / LEDGER, 300), r"ledger\.jsonl line 1\b"),
    "a line missing": (
        lambda run: _edit(run.home.root / LEDGER, lambda rows: rows[:4] + rows[5:]),
        r"ledger\.jsonl line 5",
    ),
    "lines reordered": (
        lambda run: _edit(run.home.root / LEDGER, lambda rows: [*rows[:3], rows[4], rows[3], *rows[5:]]),
        r"ledger\.jsonl line 4",
    ),
    "a line half-written": (
        lambda run: _edit(run.home.root / LEDGER, lambda rows: [*rows[:-1], rows[-1][:50]]),
        r"ledger\.jsonl line {last}$",
    ),
    "the last line gone": (
        lambda run: _edit(run.home.root / LEDGER, lambda rows: rows[:-1]),
        r"ledger\.jsonl line {last}$",
    ),
    "the head file": (lambda run: flip(run.home.root / f"{LEDGER}.head"), r"ledger\.jsonl\.head"),
    "no head file": (lambda run: (run.home.root / f"{LEDGER}.head").unlink(), r"ledger\.jsonl\.head"),
    "no ledger": (lambda run: (run.home.root / LEDGER).unlink(), r"ledger\.jsonl"),
    "an empty ledger": (
        lambda run: (shutil.rmtree(run.home.root / "ledger"), Ledger.open(run.home.root / LEDGER, run.aggregator)),
        r"ledger\.jsonl$",
    ),
    "signed again by another key": (
        lambda run: rewrite(run.home, lambda lines: None, Identity(bytes(32))),
        r"ledger\.jsonl line 1\b",
    ),
    "evidence": (lambda run: flip(run.folder / "evidence" / "000001.bin"), "evidence/000001.bin"),
    "no evidence": (lambda run: (run.folder / "evidence" / "000003.bin").unlink(), "evidence/000003.bin"),
    "an upload": (lambda run: flip(run.folder / "uploads/000001/silo-4/everyone.u32"), "000001/silo-4/everyone.u32"),
    "an upload cut": (
        lambda run: (run.folder / "uploads/000002/silo-5/everyone.u32").write_bytes(b""),
        "000002/silo-5/everyone.u32",
    ),
    "an upload missing": (
        lambda run: (run.folder / "uploads/000002/silo-5/everyone.u32").unlink(),
        "000002/silo-5/everyone.u32",
    ),
    "the model": (lambda run: flip(run.folder / "checkpoints/000003.safetensors"), "000003.safetensors"),
    "its description": (lambda run: flip(run.folder / "checkpoints/000003.json"), "000003.json"),
    "an earlier model": (lambda run: flip(run.folder / "checkpoints/000002.safetensors"), "000002.safetensors"),
    "no model": (lambda run: (run.folder / "checkpoints/000003.json").unlink(), "000003.safetensors"),
    "another step's model": (
        lambda run: [
            shutil.copy(path, path.with_name(f"000007{path.suffix}"))
            for path in (run.folder / "checkpoints").glob("000003.*")
        ],
        "checkpoints/000007",
    ),
    "the predictor": (lambda run: flip(run.folder / "predictor.py"), "predictor.py"),
    "no predictor": (lambda run: (run.folder / "predictor.py").unlink(), "predictor.py"),
    "the charter": (lambda run: flip(run.home.root / "charter.bin"), "charter.bin"),
    "the consortium's key": (
        lambda run: (run.home.root / "consortium.pub").write_bytes(Identity(bytes(32)).public.raw),
        r"charters/000001\.bin|charter\.bin|ledger\.jsonl line 1",
    ),
    "no key of the consortium": (lambda run: (run.home.root / "consortium.pub").unlink(), "consortium.pub"),
    "half a key of the consortium": (
        lambda run: (run.home.root / "consortium.pub").write_bytes(bytes(31)),
        "consortium.pub",
    ),
    "mlflow.json of another model": (_forge_mlflow, "mlflow.json"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_a_stranger_changes_is_found_and_named(run: Finished, name: str) -> None:
    change, where = TAMPERED[name]
    last = len((run.home.root / LEDGER).read_bytes().splitlines())
    change(run)
    assert re.search(where.replace("{last}", str(last)), refused(run).where), name


def test_two_runs_on_one_approval(honest: Finished, tmp_path: Path) -> None:
    """Each run verifies; MLflow's note of one in the folder of the other does not."""
    first = honest.copy(tmp_path / "f")
    second = tampering.finish(first.federation.root, local.spec(), federation=first.federation)
    for run in (first, second):
        verify_run(run.home, run.run)
    note = {"model": "fedavg-test", "version": "1", "run_id": "0", "tracking_uri": ""}
    for run in (first, second):
        (run.folder / "mlflow.json").write_text(json.dumps(note))
    assert (error := refused(first)).where == "fedavg-test/1"
    assert first.run in error.found and second.run in error.found


# --- the aggregator's own hand ----------------------------------------------------------------------------------------


def _slot(lines: Lines) -> None:
    slots = closed(lines)["slots"]
    slots[next(iter(slots))] += 1


def _swap(table: dict[str, Any], one: str = "silo-1", other: str = "silo-2") -> None:
    table[one], table[other] = table[other], table[one]


def _late(lines: Lines) -> None:
    for line in lines:
        line[2] = "2031" + line[2][4:]


def _job(lines: Lines, text: str) -> None:
    started(lines).update(job=text, job_digest=digest("job", text).hex())


def _first_state(lines: Lines, run: bytes) -> None:
    """That of this plan under another run id."""
    state = initial_state(decode_plan(started(lines)["plan"]), run)
    started(lines).update(state_digest=state_digest(state).hex())


REWRITTEN: dict[str, tuple[Callable[[Lines], object], str]] = {
    "the job": (lambda lines: started(lines).update(job=started(lines)["job"] + " "), r"run-started\), job_digest"),
    "another job": (lambda lines: _job(lines, started(lines)["job"].replace("a test", "a tent")), r"\), run$"),
    "no plan": (lambda lines: started(lines).update(plan="AAAA"), r"\), plan$"),
    "a plan that is no base64": (lambda lines: started(lines).update(plan="="), r"\), plan$"),
    "the plan's digest": (lambda lines: started(lines).update(plan_digest="ab" * 32), "plan_digest"),
    "the first state": (lambda lines: started(lines).update(state_digest="ab" * 32), "state_digest"),
    "the first state of another run": (lambda lines: _first_state(lines, b"o" * 32), r"run-started\), state_digest"),
    "the nonce": (lambda lines: started(lines).update(nonce="ab" * 32), r"\), run$"),
    "no nonce": (lambda lines: started(lines).pop("nonce"), r"run-started\)$"),
    "the silos": (lambda lines: started(lines)["silos"].pop(), r"\), silos"),
    "the threshold": (lambda lines: started(lines).update(threshold=2), r"\), threshold"),
    "the method": (lambda lines: started(lines).update(method="other"), r"\), method"),
    "the federation": (lambda lines: started(lines).update(federation="other"), r"\), federation"),
    "the model's name": (lambda lines: started(lines).update(model_name="other"), r"\), model_name"),
    "the purpose": (lambda lines: started(lines).update(purpose="other"), r"\), purpose"),
    "the charter": (lambda lines: started(lines).update(charter_digest="ab" * 32), r"\), charter_digest"),
    "the predictor's name": (lambda lines: started(lines)["predictor"].update(file="../x"), r"predictor\.file"),
    "the predictor's digest": (lambda lines: started(lines)["predictor"].update(sha256="ab" * 32), "predictor.py"),
    "the code": (lambda lines: started(lines).update(code_digest="ab" * 32), r"release\.sha256"),
    "no code": (lambda lines: started(lines).pop("code_digest"), r"release\.sha256"),
    "two beginnings": (lambda lines: lines.append(next(line for line in lines if line[0] == "run-started")), "started"),
    "years later": (_late, "run-started"),
    "a step gone": (lambda lines: lines.remove([line for line in lines if line[0] == "step-closed"][1]), r"\), k$"),
    "a step twice": (lambda lines: lines.append([line for line in lines if line[0] == "step-closed"][3]), r"\), k$"),
    "the last step gone": (
        lambda lines: lines.remove([line for line in lines if line[0] == "step-closed"][3]),
        r"run-finished\)$",
    ),
    "a step that the plan lacks": (
        lambda lines: lines.insert(
            -1, next([kind, {**record, "k": 4}, at] for kind, record, at in lines if kind == Kind.STEP_CLOSED)
        ),
        "step-closed",
    ),
    "a step's name": (lambda lines: closed(lines).update(name="train/9"), r"\), name"),
    "a step that nobody opened": (
        lambda lines: lines.remove([line for line in lines if line[0] == "step-opened"][1]),
        "step-closed",
    ),
    "no evidence": (lambda lines: closed(lines).pop("evidence_sha256"), "step-closed"),
    "other evidence": (lambda lines: closed(lines).update(evidence_sha256="ab" * 32), "evidence/000001.bin"),
    "the attempt": (
        lambda lines: (
            [record.update(attempt=1) for record in records(lines, Kind.STEP_OPENED)],
            [record.update(attempt=1) for record in records(lines, Kind.STEP_CLOSED)],
        ),
        "evidence/000000.bin",
    ),
    "an attempt of no size": (
        lambda lines: (
            [record.update(attempt=-1) for record in records(lines, Kind.STEP_OPENED)],
            [record.update(attempt=-1) for record in records(lines, Kind.STEP_CLOSED)],
        ),
        r"step-closed\), attempt",
    ),
    "the transcript": (lambda lines: closed(lines).update(transcript="ab" * 32), "transcript"),
    "the survivors": (lambda lines: closed(lines)["survivors"].pop(), "survivors"),
    "a slot": (_slot, r"\), slots"),
    "the open lanes": (lambda lines: closed(lines)["lanes_open"].clear(), "lanes_open"),
    "the shut lanes": (lambda lines: closed(lines)["lanes_shut"].append("x"), "lanes_shut"),
    "who uploaded what": (lambda lines: _swap(closed(lines)["upload_digests"]), "upload_digests"),
    "whose data": (lambda lines: _swap(closed(lines)["data_commitments"]), "data_commitments"),
    "the holdings": (lambda lines: closed(lines).update(holdings={"silo-1": ["x"]}), "holdings"),
    "whose approvals": (lambda lines: _swap(closed(lines)["approvals"]), "approvals"),
    "the policies": (lambda lines: closed(lines).update(policies={"silo-1": "ab" * 32}), "policies"),
    "the chain": (lambda lines: closed(lines).update(chain="ab" * 32), r"\), chain"),
    "no chain": (lambda lines: closed(lines).pop("chain"), r"\), chain"),
    "a state": (lambda lines: closed(lines).update(state_digest="ab" * 32), "state_digest"),
    "an approval swapped": (
        lambda lines: [
            record.update(approval=other["approval"])
            for record, other in zip(records(lines, Kind.APPROVAL)[:1], records(lines, Kind.APPROVAL)[1:], strict=False)
        ],
        r"\(approval\), digest",
    ),
    "an approval of another silo": (lambda lines: records(lines, Kind.APPROVAL)[0].update(silo="silo-2"), "approval"),
    "an approval gone": (
        lambda lines: lines.remove(next(line for line in lines if line[0] == "approval")),
        r"\), approvals, silo-1",
    ),
    "an approval used too often": (
        lambda lines: [
            lines.append(["approval", {**records(lines, Kind.APPROVAL)[0], "run": f"{i:016x}"}, lines[-1][2]])
            for i in range(8)
        ],
        r"\(approval\)$",
    ),
    "figures that nobody signs": (lambda lines: closed(lines).update(upload_bytes=1), "ledger_head"),
    "no head": (lambda lines: ended(lines).pop("ledger_head"), "ledger_head"),
    "a head that came later": (lambda lines: ended(lines).update(ledger_head="ab" * 32), "ledger_head"),
    "countersignatures": (lambda lines: _swap(ended(lines)["countersignatures"]), "countersignatures, silo-1"),
    "no countersignature": (
        lambda lines: ended(lines)["countersignatures"].update({"silo-1": "ab" * 80}),
        "countersignatures, silo-1",
    ),
    "the last chain": (lambda lines: ended(lines).update(chain="ab" * 32), "countersignatures, silo-1"),
    "the last state": (lambda lines: ended(lines).update(state_digest="ab" * 32), r"run-finished\), state_digest"),
    "the weights": (lambda lines: ended(lines).update(weights_sha256="ab" * 32), "000003.safetensors"),
    "the checkpoint": (lambda lines: ended(lines).update(checkpoint="../../x"), r"\), checkpoint"),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_the_aggregator_writes_anew_is_found_and_named(run: Finished, name: str) -> None:
    change, where = REWRITTEN[name]
    rewrite(run.home, change)
    assert re.search(where, refused(run).where), (name, refused(run))


# --- countersignatures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"run": bytes(32)}, "run 00000000"),
        ({"chain": bytes(32)}, "chain 00000000"),
        ({"ledger": bytes(32)}, "head 00000000"),
        ({"silo": "silo-2"}, "BAD_SIGNATURE"),
    ],
)
def test_a_countersignature_of_something_else(run: Finished, changes: dict[str, Any], found: str) -> None:
    """Signed by the silo's own key, and yet not what it should have signed."""
    agent = Identity.load(run.federation.silo("silo-1") / "keys" / "agent.key")
    signed = next(entry.record for entry in read(run.home.ledger_path) if entry.kind is Kind.RUN_FINISHED)
    closing = Closing.open(bytes.fromhex(signed.countersignatures["silo-1"]), lambda _: agent.public)
    other = replace(closing, **changes).sign(agent).hex()
    rewrite(run.home, lambda lines: ended(lines)["countersignatures"].update({"silo-1": other}))
    error = refused(run)
    assert error.where.endswith("countersignatures, silo-1") and found in str(error.found)


def test_an_end_that_the_steps_do_not_lead_to(run: Finished) -> None:
    """Every silo countersigned it, but the signed messages of the steps lead elsewhere."""
    rewrite(run.home, lambda lines: ended(lines).update(chain="ab" * 32))
    tampering.countersign(run)
    assert refused(run).where.endswith("(run-finished), chain")


def test_nobody_countersigned(run: Finished) -> None:
    rewrite(run.home, lambda lines: ended(lines)["countersignatures"].clear())
    report = verify_run(run.home, run.run)
    assert "closing" not in names(report, CheckOutcome.OK)
    assert detail(report, "closing").startswith("no countersignature of silo-1, silo-2")


# --- runs without an end ----------------------------------------------------------------------------------------------


def test_a_run_under_way_and_one_that_failed(honest: Finished, tmp_path: Path) -> None:
    run = honest.copy(tmp_path / "f")
    rewrite(run.home, lambda lines: lines.pop())
    report = verify_run(run.home, run.run)
    assert "it is under way" in detail(report, "closing") and "no final model" in detail(report, "model")

    failed = {"run": run.run, "code": "ROUND_LOST", "phase": "open", "missing": [], "k": 4}
    rewrite(run.home, lambda lines: lines.append(["run-failed", failed, lines[-1][2]]))
    assert "it failed in step 4: ROUND_LOST" in detail(verify_run(run.home, run.run), "closing")


def test_a_run_of_which_nothing_was_released(run: Finished) -> None:
    def cut(lines: Lines) -> None:
        del lines[next(place for place, line in enumerate(lines) if line[0] == Kind.STEP_OPENED) :]

    rewrite(run.home, cut)
    shutil.rmtree(run.folder / "checkpoints")
    report = verify_run(run.home, run.run)
    assert "approvals" not in [line.name for line in report.lines]
    assert detail(report, "steps").startswith("0 released")


def test_a_checkpoint_that_came_before_its_line(run: Finished) -> None:
    def cut(lines: Lines) -> None:
        del lines[next(place for place, line in enumerate(lines) if line[1].get("k") == 3) :]

    rewrite(run.home, cut)
    assert "no final model" in detail(verify_run(run.home, run.run), "model")


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def declined(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """silo-3 was never asked by its data owner; silo-2 can't read the deals of step 1."""

    def confused(agent: Any) -> InProcess:
        deal = agent._phases["deal"]

        def read(request: Request, message: Message) -> Message:
            if request.step == 1:
                raise Malformed("Deals that make no sense.")
            return deal(request, message)

        agent._phases["deal"] = read
        return InProcess(agent)

    federation = local.federation(tmp_path_factory.mktemp("declined") / "f")
    return tampering.finish(
        federation.root, local.spec(), federation=federation, unapproved=("silo-3",), couriers={"silo-2": confused}
    )


def _named(lines: Lines, silo: str) -> dict[str, Any]:
    return next(record for record in records(lines, Kind.REFUSAL) if record["silo"] == silo)


def _refusal(run: Finished, changes: dict[str, Any]) -> str:
    """What silo-2 signs of step 1, with changes."""
    entries = read(run.home.ledger_path)
    signed = next(e.record.decline for e in entries if e.kind is Kind.REFUSAL and e.record.silo == "silo-2")
    decline = replace(Decline.open(bytes.fromhex(signed), lambda _: _agent(run).public), **changes)
    return decline.sign(_agent(run)).hex()


def _agent(run: Finished) -> Identity:
    return Identity.load(run.federation.silo("silo-2") / "keys" / "agent.key")


def test_refusals_are_signed_by_who_refused(declined: Finished) -> None:
    """silo-3 had no agent for the job: its refusals name run, step, attempt and phase of the request all the same."""
    report = verify_run(declined.home, declined.run)
    refusals = [entry.record for entry in read(declined.home.ledger_path) if entry.kind is Kind.REFUSAL]
    assert {refusal.silo for refusal in refusals} == {"silo-2", "silo-3"} and all(one.decline for one in refusals)
    assert detail(report, "refusals") == f"{len(refusals)} signed by the silo that refused"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda lines: _named(lines, "silo-3").update(decline="ab" * 80), "decline"),
        (lambda lines: _named(lines, "silo-3").update(decline=_named(lines, "silo-2")["decline"]), "silo"),
        (lambda lines: _named(lines, "silo-3").update(code="REPLAY"), "code"),
        (lambda lines: _named(lines, "silo-2").update(k=2), "k"),
        (lambda lines: _named(lines, "silo-3").update(k=1), "k"),
        (lambda lines: _named(lines, "silo-2").update(phase="attest"), "phase"),
        (lambda lines: _named(lines, "silo-3").update(phase="attest"), "phase"),
    ],
)
def test_a_refusal_that_nobody_made(
    declined: Finished, tmp_path: Path, change: Callable[[Lines], object], field: str
) -> None:
    run = declined.copy(tmp_path / "f")
    rewrite(run.home, change)
    tampering.countersign(run)
    error = refused(run)
    assert "(refusal)" in error.where and error.where.endswith(field)


@pytest.mark.parametrize(
    ("changes", "place", "found"),
    [
        ({"run": bytes([1]) * 32}, "decline", f"run {'01' * 32}"),
        ({"run": bytes(32)}, "decline", f"run {'00' * 32}"),
        ({"step": 2}, "k", 1),
        ({"attempt": 1}, "decline", "attempt 1"),
        ({"phase": "attest"}, "phase", "deal"),
    ],
    ids=["another run", "no run", "another step", "another attempt", "another phase"],
)
def test_a_refusal_of_something_else(
    declined: Finished, tmp_path: Path, changes: dict[str, Any], place: str, found: object
) -> None:
    """A silo's true refusal at another place does not excuse that its upload is missing here."""
    run = declined.copy(tmp_path / "f")
    signed = _refusal(run, changes)
    rewrite(run.home, lambda lines: _named(lines, "silo-2").update(decline=signed))
    tampering.countersign(run)
    error = refused(run)
    assert error.where.endswith(f"(refusal), {place}") and error.found == found


def test_a_refusal_without_a_signature_is_the_aggregators_word(declined: Finished, tmp_path: Path) -> None:
    run = declined.copy(tmp_path / "f")
    rewrite(run.home, lambda lines: _named(lines, "silo-2").pop("decline"))
    tampering.countersign(run)
    report = verify_run(run.home, run.run)
    assert "1 noted by the aggregator" in [line for line in report.lines if line.name == "refusals"][-1].detail


# --- versions ---------------------------------------------------------------------------------------------------------


def _append(run: Finished, kind: Kind, record: dict[str, Any]) -> None:
    Ledger.open(run.home.ledger_path, run.aggregator).append(as_record(kind, record))


def _published(run: Finished, **changes: str) -> dict[str, Any]:
    ended = next(entry.record for entry in read(run.home.ledger_path) if entry.kind is Kind.RUN_FINISHED)
    facts = {"run": run.run, "model_name": "fedavg-test", "version": "1", "alias": "champion", "by": "an admin"}
    return {**facts, "weights_sha256": ended.weights_sha256, **changes}


def test_published_versions_have_the_runs_weights(run: Finished) -> None:
    _append(run, Kind.MODEL_PUBLISHED, _published(run))
    assert "fedavg-test/1" in detail(verify_run(run.home, run.run), "versions")
    assert "champion by an admin" in detail(verify_run(run.home, run.run), "versions")
    _append(run, Kind.MODEL_PUBLISHED, _published(run, weights_sha256="ab" * 32))
    assert refused(run).where.endswith("(model-published), weights_sha256")


def test_a_version_of_a_run_that_has_not_ended(run: Finished) -> None:
    _append(run, Kind.MODEL_PUBLISHED, _published(run))
    rewrite(run.home, lambda lines: [lines.remove(line) for line in list(lines) if line[0] == Kind.RUN_FINISHED])
    assert "(model-published)" in refused(run).where


def test_who_withdrew_is_said_aloud(run: Finished) -> None:
    facts = {"reason": "r", "epoch": 2, "charter_digest": "ab" * 32, "models": [], "remedies": {}}
    for silo in ("silo-2", "silo-99"):
        _append(run, Kind.WITHDRAWAL, {"silo": silo, **facts})
    report = verify_run(run.home, run.run)
    assert [line.detail.split()[0] for line in report.of(CheckOutcome.WARNING)] == ["silo-2"]
    assert report.verdict.endswith("1 warning.")
