"""A stranger verifies a run from the aggregator's home; whoever changed anything there is found, and named."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.findings import Line, Outcome, Report
from aggregator.ledger import Entry, Kind, Ledger, ledger_path, read
from aggregator.steps import check_floor
from aggregator.verify import verify_run
from crypto import blocks
from crypto.charter import SignedCharter
from crypto.errors import EvidenceError, SpecError
from crypto.keys import Identity, PublicIdentity
from crypto.messages import Decline, Message, Request
from crypto.plan import Plan
from crypto.transcript import digest
from jobs import software
from jobs.homes import read_charter
from jobs.local import InProcess
from tests import federation, local, tampering
from tests.tampering import Finished, flip, line_of, records, rewrite


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """FedAvg, four steps, every upload kept."""
    return tampering.finish(tmp_path_factory.mktemp("honest") / "f", local.spec())


@pytest.fixture
def run(honest: Finished, tmp_path: Path) -> Finished:
    """The same, to be spoilt."""
    return honest.copy(tmp_path / "f")


def found(report: Report, outcome: Outcome) -> list[str]:
    return [line.name for line in report.of(outcome)]


def detail(report: Report, name: str) -> str:
    return next(line.detail for line in report.lines if line.name == name)


def refused(run: Finished, **how: Any) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        verify_run(run.home, run.run, **how)
    assert caught.value.expected != caught.value.found
    return caught.value


# --- runs that hold ----------------------------------------------------------------------------------------------


def test_every_check_of_an_honest_run_holds(honest: Finished) -> None:
    shown: list[str] = []
    report = verify_run(
        honest.home, honest.run, consortium=str(honest.federation.silo("silo-1") / "consortium.pub"),
        code=software.digest(), show=lambda line: shown.append(line.name),
    )  # fmt: skip
    names = ["consortium", "charters", "ledger", "run", "approvals", "steps", "sums", "state", "closing", "model"]
    assert found(report, Outcome.OK) == [*names, "code"] == shown
    assert report.verdict == f"run {honest.run} holds: 11 checks passed, none skipped."
    assert detail(report, "sums").startswith("2 lane sums")
    assert detail(report, "state").startswith("the blocks after 4 of 4 steps")
    assert detail(report, "closing").startswith("8 silos")
    assert report.as_dict()["not_checked"] == []


def test_what_was_not_checked_is_said(honest: Finished) -> None:
    report = verify_run(honest.home, honest.run)
    assert found(report, Outcome.NOT_CHECKED) == ["consortium", "code"]
    assert "compare" in detail(report, "consortium") and "nobody said" in detail(report, "code")
    assert report.verdict.endswith("9 checks passed, 2 not checked.")
    assert len(report.as_dict()["not_checked"]) == 2
    other = verify_run(honest.home, honest.run, code=bytes(32))
    assert "here is 0000000000000000" in detail(other, "code")
    assert str(report.lines[0]).startswith("not checked  consortium")


@pytest.mark.parametrize(("bits", "keep"), [(24, "all"), (32, "last")])
def test_a_24_bit_ring_and_the_last_uploads(tmp_path: Path, bits: int, keep: str) -> None:
    job = replace(local.spec(rounds=3, ring_bits=bits), keep_uploads=keep)
    run = tampering.finish(tmp_path / "f", job)
    report = verify_run(run.home, run.run)
    if keep == "all":
        assert detail(report, "sums").startswith("3 lane sums")
        assert "sums" not in found(report, Outcome.NOT_CHECKED)
    else:  # the last step has slots only, so nothing of the steps before it was kept
        assert "sums" in found(report, Outcome.NOT_CHECKED)


def test_without_uploads_it_says_what_still_binds_the_sums(tmp_path: Path) -> None:
    run = tampering.finish(tmp_path / "f", replace(local.spec(), keep_uploads="none"))
    report = verify_run(run.home, run.run)
    assert "sums" not in found(report, Outcome.OK)
    assert found(report, Outcome.NOT_CHECKED) == ["consortium", "sums", "state", "code"]
    assert "steps 1, 2 not replayed: uploads not kept (policy none)" in detail(report, "sums")
    assert detail(report, "binding").startswith("at least 8 silos signed, after each of 2")
    assert "2 of 4 steps" in next(line for line in report.of(Outcome.NOT_CHECKED) if line.name == "state").detail

    # The ledger's chain is what the next adverts were signed over: another one is found there.
    def change(lines: tampering.Lines) -> None:
        records(lines, Kind.STEP_CLOSED)[1]["chain"] = "ab" * 32

    rewrite(run.home, change)
    error = refused(run)
    assert error.where == f"{run.run}/evidence/000002.bin" and "TRANSCRIPT_MISMATCH" in error.found


def test_where_some_uploads_are_gone_it_goes_on_from_a_checkpoint(honest: Finished, tmp_path: Path) -> None:
    run = honest.copy(tmp_path / "f")
    shutil.rmtree(run.folder / "uploads" / "000001")
    report = verify_run(run.home, run.run)
    assert detail(report, "sums").startswith("1 lane sums replayed")
    assert detail(report, "state").startswith("the blocks after 2 of 4")


def quiet(phase: str, step: int) -> tampering.Fault:
    def fault(message: Message, answer: Callable[[], Message]) -> Message | None:
        request = Request.open(message.body, _aggregator)
        return None if (request.phase, request.step) == (phase, step) else answer()

    return fault


def _aggregator(request: Request) -> PublicIdentity:
    """Whoever signed: these tests look at places, not at signatures."""
    return type("Anyone", (PublicIdentity,), {"__init__": lambda self: None, "verify": lambda self, s, m: None})()


def test_a_silo_refused_another_fell_silent_and_lanes_are_hidden(tmp_path: Path) -> None:
    run = tampering.finish(
        tmp_path / "f", local.spec("fedcoe"), faults={"silo-7": quiet("fetch", 2)}, unapproved=("silo-3",)
    )
    report = verify_run(run.home, run.run)
    assert "signed by the silo that refused" in detail(report, "refusals")
    assert "no countersignature of silo-3" in [line.detail for line in report.of(Outcome.NOT_CHECKED)]
    assert detail(report, "closing").startswith("7 silos")
    assert "silo-3" not in detail(report, "approvals")


def test_lanes_are_replayed_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tampering.finish(tmp_path / "f", local.spec("fedcoe"))
    apply, lanes = blocks.apply, []

    def one(plan: Any, step: Any, state: Any, sums: dict[str, np.ndarray], slots: Any) -> Any:
        lanes.append(list(sums))
        return apply(plan, step, state, sums, slots)

    monkeypatch.setattr(blocks, "apply", one)
    verify_run(run.home, run.run)
    assert len(lanes) == 11 and all(len(names) == 1 for names in lanes)


def test_a_run_under_way_and_one_that_failed(honest: Finished, tmp_path: Path) -> None:
    run = honest.copy(tmp_path / "f")
    rewrite(run.home, lambda lines: lines.pop())
    report = verify_run(run.home, run.run)
    assert "it is under way" in detail(report, "closing") and "no final model" in detail(report, "model")

    failed = {"run": run.run, "code": "ROUND_LOST", "phase": "open", "missing": [], "k": 4}
    rewrite(run.home, lambda lines: lines.append(["run-failed", failed, lines[-1][2]]))
    assert "it failed in step 4: ROUND_LOST" in detail(verify_run(run.home, run.run), "closing")


# --- a hand without keys -----------------------------------------------------------------------------------------


def _edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def _forge_mlflow(run: Finished) -> None:
    facts = {"model": "another-model", "version": "1", "run_id": "0", "tracking_uri": ""}
    (run.folder / "mlflow.json").write_text(json.dumps(facts))


LEDGER = "ledger/ledger.jsonl"
TAMPERED: dict[str, tuple[Callable[[Finished], object], str]] = {
    "a line edited": (lambda run: flip(run.home / LEDGER, 300), r"ledger\.jsonl line 1\b"),
    "a line missing": (lambda run: _edit(run.home / LEDGER, lambda rows: rows[:4] + rows[5:]), r"ledger\.jsonl line 5"),
    "lines reordered": (
        lambda run: _edit(run.home / LEDGER, lambda rows: [*rows[:3], rows[4], rows[3], *rows[5:]]),
        r"ledger\.jsonl line 4",
    ),
    "a line half-written": (
        lambda run: _edit(run.home / LEDGER, lambda rows: [*rows[:-1], rows[-1][:50]]),
        r"ledger\.jsonl line {last}$",
    ),
    "the last line gone": (lambda run: _edit(run.home / LEDGER, lambda rows: rows[:-1]), r"ledger\.jsonl line {last}$"),
    "the head file": (lambda run: flip(run.home / f"{LEDGER}.head"), r"ledger\.jsonl\.head"),
    "no head file": (lambda run: (run.home / f"{LEDGER}.head").unlink(), r"ledger\.jsonl\.head"),
    "no ledger": (lambda run: (run.home / LEDGER).unlink(), r"ledger\.jsonl"),
    "an empty ledger": (
        lambda run: (shutil.rmtree(run.home / "ledger"), Ledger.open(run.home / LEDGER, Identity(bytes(32)))),
        r"ledger\.jsonl",
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
    "the charter": (lambda run: flip(run.home / "charter.bin"), "charter.bin"),
    "the consortium's key": (
        lambda run: (run.home / "consortium.pub").write_bytes(Identity(bytes(32)).public.raw),
        r"charters/000001\.bin|charter\.bin|ledger\.jsonl line 1",
    ),
    "no key of the consortium": (lambda run: (run.home / "consortium.pub").unlink(), "consortium.pub"),
    "half a key of the consortium": (
        lambda run: (run.home / "consortium.pub").write_bytes(bytes(31)),
        "consortium.pub",
    ),
    "mlflow.json of another model": (_forge_mlflow, "mlflow.json"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_a_stranger_changes_is_found_and_named(run: Finished, name: str) -> None:
    change, where = TAMPERED[name]
    last = len((run.home / LEDGER).read_bytes().splitlines())
    change(run)
    assert re.search(where.replace("{last}", str(last)), refused(run).where), name


def test_a_time_that_is_none(run: Finished) -> None:
    def change(lines: tampering.Lines) -> None:
        lines[next(place for place, line in enumerate(lines) if line[0] == Kind.RUN_STARTED)][2] = (
            "2026-13-01T00:00:00.000Z"
        )

    rewrite(run.home, change)
    assert refused(run).where.endswith("(run-started), time")


def test_a_plan_of_more_blocks_than_there_is_memory(run: Finished) -> None:
    """A kilobyte of plan for a terabyte of zeros: refused before they are made."""

    def change(lines: tampering.Lines) -> None:
        started = _started(lines)
        plan = Plan.from_bytes(b64decode(started["plan"]))
        blocks = tuple(replace(block, shape=(2**18, 2**17)) for block in plan.blocks)
        huge = replace(plan, blocks=blocks)
        started.update(plan=b64encode(bytes(huge)).decode(), plan_digest=huge.digest.hex())

    rewrite(run.home, change)
    error = refused(run)
    assert error.where.endswith("(run-started), plan") and "bytes" in str(error.found)


def test_a_terminal_is_not_drawn_upon() -> None:
    line = Line("x", Outcome.OK, "one\x1b[2K\rok  all is well\n")
    assert "\x1b" not in str(line) and "\r" not in str(line) and "\n" not in str(line)


def test_a_home_of_another_federation(honest: Finished, tmp_path: Path) -> None:
    other = local.federation(tmp_path / "other")
    run = honest.copy(tmp_path / "f")
    pinned = str(other.aggregator / "consortium.pub")
    assert refused(run, consortium=pinned).where == "consortium.pub"
    assert refused(run, consortium=Path(pinned)).where == "consortium.pub"
    fingerprint = PublicIdentity(Path(pinned).read_bytes()).fingerprint
    assert refused(run, consortium=fingerprint).where == "consortium.pub"
    shutil.rmtree(run.home / "charters", ignore_errors=True)
    shutil.copy(other.aggregator / "charter.bin", run.home / "charter.bin")
    assert "charter.bin" in refused(run).where
    (run.home / "charter.bin").unlink()
    rewrite(run.home, lambda lines: [lines.remove(line) for line in list(lines) if line[0] == Kind.CHARTER])
    assert refused(run).where == "charter.bin"


def test_the_fingerprint_that_people_read_out(honest: Finished) -> None:
    key = PublicIdentity((honest.home / "consortium.pub").read_bytes())
    for given in (key.fingerprint, key.fingerprint.replace(" ", ""), key.fingerprint.upper().replace(" ", ":")):
        assert detail(verify_run(honest.home, honest.run, consortium=given), "consortium").endswith("as given")
    with pytest.raises(SpecError, match="--consortium"):
        verify_run(honest.home, honest.run, consortium="no such file")


# --- the aggregator's own hand ---------------------------------------------------------------------------------


def _closed(lines: tampering.Lines, k: int = 1) -> dict[str, Any]:
    return records(lines, Kind.STEP_CLOSED)[k]


def _started(lines: tampering.Lines) -> dict[str, Any]:
    return records(lines, Kind.RUN_STARTED)[0]


def _ended(lines: tampering.Lines) -> dict[str, Any]:
    return records(lines, Kind.RUN_FINISHED)[0]


def _slot(lines: tampering.Lines) -> None:
    slots = _closed(lines)["slots"]
    slots[next(iter(slots))] += 1


def _swap(table: dict[str, Any], one: str = "silo-1", other: str = "silo-2") -> None:
    table[one], table[other] = table[other], table[one]


def _late(lines: tampering.Lines) -> None:
    for line in lines:
        line[2] = "2031" + line[2][4:]


REWRITTEN: dict[str, tuple[Callable[[tampering.Lines], object], str]] = {
    "the job": (lambda lines: _started(lines).update(job=_started(lines)["job"] + " "), r"run-started\), job_digest"),
    "a job that is no JSON": (lambda lines: _job(lines, "{"), "run-started"),
    "a job too deep": (lambda lines: _job(lines, "[" * 100_000), "run-started"),
    "a job that is a list": (lambda lines: _job(lines, "[]"), "run-started"),
    "another job": (lambda lines: _job(lines, _started(lines)["job"].replace("a test", "a tent")), r"\), run$"),
    "no plan": (lambda lines: _started(lines).update(plan="AAAA"), r"\), plan$"),
    "a plan that is no base64": (lambda lines: _started(lines).update(plan="="), r"\), plan$"),
    "the plan's digest": (lambda lines: _started(lines).update(plan_digest="ab" * 32), "plan_digest"),
    "the first state": (lambda lines: _started(lines).update(state_digest="ab" * 32), "state_digest"),
    "the nonce": (lambda lines: _started(lines).update(nonce="ab" * 32), r"\), run$"),
    "no nonce": (lambda lines: _started(lines).pop("nonce"), r"run-started\)$"),
    "the silos": (lambda lines: _started(lines)["silos"].pop(), r"\), silos"),
    "the threshold": (lambda lines: _started(lines).update(threshold=2), r"\), threshold"),
    "the method": (lambda lines: _started(lines).update(method="other"), r"\), method"),
    "the federation": (lambda lines: _started(lines).update(federation="other"), r"\), federation"),
    "the model's name": (lambda lines: _started(lines).update(model_name="other"), r"\), model_name"),
    "the purpose": (lambda lines: _started(lines).update(purpose="other"), r"\), purpose"),
    "the charter": (lambda lines: _started(lines).update(charter_digest="ab" * 32), r"\), charter_digest"),
    "the predictor's name": (lambda lines: _started(lines)["predictor"].update(file="../x"), r"predictor\.file"),
    "the predictor's digest": (lambda lines: _started(lines)["predictor"].update(sha256="ab" * 32), "predictor.py"),
    "the code": (lambda lines: _started(lines).update(code_digest="ab" * 32), r"\(approval\)"),
    "no code": (lambda lines: _started(lines).pop("code_digest"), r"\(approval\)"),
    "two beginnings": (lambda lines: lines.append(next(line for line in lines if line[0] == "run-started")), "started"),
    "years later": (_late, "run-started"),
    "a step gone": (lambda lines: lines.remove([line for line in lines if line[0] == "step-closed"][1]), r"\), k$"),
    "a step twice": (lambda lines: lines.append([line for line in lines if line[0] == "step-closed"][3]), r"\), k$"),
    "the last step gone": (
        lambda lines: lines.remove([line for line in lines if line[0] == "step-closed"][3]),
        "run-finished",
    ),
    "a step's name": (lambda lines: _closed(lines).update(name="train/9"), r"\), name"),
    "a step that nobody opened": (
        lambda lines: lines.remove([line for line in lines if line[0] == "step-opened"][1]),
        "step-closed",
    ),
    "no evidence": (lambda lines: _closed(lines).pop("evidence_sha256"), "step-closed"),
    "other evidence": (lambda lines: _closed(lines).update(evidence_sha256="ab" * 32), "evidence/000001.bin"),
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
    "the transcript": (lambda lines: _closed(lines).update(transcript="ab" * 32), "transcript"),
    "the survivors": (lambda lines: _closed(lines)["survivors"].pop(), "survivors"),
    "a slot": (_slot, r"\), slots"),
    "the open lanes": (lambda lines: _closed(lines)["lanes_open"].clear(), "lanes_open"),
    "the shut lanes": (lambda lines: _closed(lines)["lanes_shut"].append("x"), "lanes_shut"),
    "who uploaded what": (lambda lines: _swap(_closed(lines)["upload_digests"]), "upload_digests"),
    "whose data": (lambda lines: _swap(_closed(lines)["data_commitments"]), "data_commitments"),
    "the holdings": (lambda lines: _closed(lines).update(holdings={"silo-1": ["x"]}), "holdings"),
    "whose approvals": (lambda lines: _swap(_closed(lines)["approvals"]), "approvals"),
    "the policies": (lambda lines: _closed(lines).update(policies={"silo-1": "ab" * 32}), "policies"),
    "the chain": (lambda lines: _closed(lines).update(chain="ab" * 32), r"\), chain"),
    "no chain": (lambda lines: _closed(lines).pop("chain"), r"\), chain"),
    "a state": (lambda lines: _closed(lines).update(state_digest="ab" * 32), "state_digest"),
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
    "figures that nobody signs": (lambda lines: _closed(lines).update(upload_bytes=1), "ledger_head"),
    "no head": (lambda lines: _ended(lines).pop("ledger_head"), "ledger_head"),
    "a head that came later": (lambda lines: _ended(lines).update(ledger_head="ab" * 32), "ledger_head"),
    "countersignatures": (lambda lines: _swap(_ended(lines)["countersignatures"]), "countersignatures, silo-1"),
    "no countersignature": (
        lambda lines: _ended(lines)["countersignatures"].update({"silo-1": "ab" * 80}),
        "countersignatures, silo-1",
    ),
    "the last chain": (lambda lines: _ended(lines).update(chain="ab" * 32), "countersignatures, silo-1"),
    "the last state": (lambda lines: _ended(lines).update(state_digest="ab" * 32), r"run-finished\), state_digest"),
    "the weights": (lambda lines: _ended(lines).update(weights_sha256="ab" * 32), "000003.safetensors"),
    "the checkpoint": (lambda lines: _ended(lines).update(checkpoint="../../x"), r"\), checkpoint"),
}


def _job(lines: tampering.Lines, text: str) -> None:
    _started(lines).update(job=text, job_digest=digest("job", text).hex())


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_the_aggregator_writes_anew_is_found_and_named(run: Finished, name: str) -> None:
    change, where = REWRITTEN[name]
    rewrite(run.home, change)
    assert re.search(where, refused(run).where), (name, refused(run))


# --- void steps --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def void(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Step 1 void: four of eight silos fall silent when the slots open, and are back for step 2."""
    faults = {f"silo-{i}": quiet("unmask-slots", 1) for i in range(1, 5)}
    return tampering.finish(tmp_path_factory.mktemp("void") / "f", local.spec(rounds=3), faults=faults)


def test_the_chain_goes_on_over_a_void_step(void: Finished) -> None:
    report = verify_run(void.home, void.run)
    assert detail(report, "steps").startswith("4 released, 1 void")
    assert detail(report, "state").startswith("the blocks after 4 of 4")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda void: void.update(transcript="ab" * 32), r"\(step-void\), chain"),
        (lambda void: void.update(chain="ab" * 32), r"\(step-void\), chain"),
        (lambda void: void.pop("chain"), r"\(step-void\), chain"),
        (lambda void: void.pop("transcript"), r"\(step-void\)"),
    ],
)
def test_a_void_step_told_otherwise(
    void: Finished, tmp_path: Path, change: Callable[[dict[str, Any]], object], where: str
) -> None:
    run = void.copy(tmp_path / "f")
    rewrite(run.home, lambda lines: change(records(lines, Kind.STEP_VOID)[0]))
    assert re.search(f"{where}$", refused(run).where)


def test_a_step_that_was_attested_twice(void: Finished, tmp_path: Path) -> None:
    """Shares of one step under two transcripts: two sums of nearly the same silos, and their difference tells."""
    run = void.copy(tmp_path / "f")

    def change(lines: tampering.Lines) -> None:
        place = next(place for place, line in enumerate(lines) if line[0] == Kind.STEP_ATTESTED)
        lines.insert(place, [lines[place][0], {**lines[place][1], "transcript": "ab" * 32}, lines[place][2]])

    rewrite(run.home, change)
    assert (
        refused(run).where == f"ledger.jsonl line {line_of(run.home, Kind.STEP_ATTESTED)} (step-attested), transcript"
    )


def test_other_survivors_than_were_attested(run: Finished) -> None:
    rewrite(run.home, lambda lines: records(lines, Kind.STEP_ATTESTED)[1]["survivors"].pop())
    assert refused(run).where.endswith("(step-attested), survivors")


def test_a_run_that_went_on_from_another_state(run: Finished, tmp_path: Path) -> None:
    def resume(lines: tampering.Lines, state: str) -> None:
        place = next(place for place, line in enumerate(lines) if line[0] == Kind.STEP_CLOSED) + 1
        lines.insert(place, [str(Kind.RUN_RESUMED), {"run": run.run, "k": 1, "state_digest": state}, lines[place][2]])

    first = next(entry.record for entry in read(ledger_path(run.home)) if entry.kind is Kind.STEP_CLOSED)
    other = run.copy(tmp_path / "other")
    rewrite(other.home, lambda lines: resume(lines, "ab" * 32))
    assert refused(other).where.endswith("(run-resumed), state_digest")
    rewrite(run.home, lambda lines: resume(lines, first["state_digest"]))
    tampering.countersign(run)
    verify_run(run.home, run.run)


# --- approvals in time -------------------------------------------------------------------------------------------


def _shift(lines: tampering.Lines, **by: int) -> None:
    for line in lines:
        moved = datetime.fromisoformat(line[2]) + timedelta(**by)
        line[2] = moved.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@pytest.mark.parametrize("hours", [-2, 48])
def test_an_approval_that_was_not_valid_then(run: Finished, hours: int) -> None:
    rewrite(run.home, lambda lines: _shift(lines, hours=hours))
    error = refused(run)
    assert error.where == f"ledger.jsonl line {line_of(run.home, Kind.APPROVAL)} (approval)"
    assert "not valid then" in error.found and "step 0" in error.expected


def test_a_charter_that_was_not_in_force_when_a_step_was_under_way(run: Finished) -> None:
    rewrite(run.home, lambda lines: _shift(lines[line_of(run.home, Kind.STEP_OPENED, 1) - 1 :], days=400))
    assert refused(run).where == f"ledger.jsonl line {line_of(run.home, Kind.STEP_CLOSED, 1)} (step-closed)"


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


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def declined(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """silo-3 was never asked by its data owner; silo-2 got a request in step 1 that makes no sense."""
    federation = local.federation(tmp_path_factory.mktemp("declined") / "f")
    aggregator = Identity.load(federation.aggregator / "keys" / "aggregator.key")

    class Garbling(InProcess):
        def send(self, request: Message) -> Message | None:
            asked = Request.open(request.body, lambda _: aggregator.public)
            if (asked.phase, asked.step) == ("deal", 1):
                request = Message("deal", replace(asked, payload=b"nonsense").sign(aggregator))
            return super().send(request)

    return tampering.finish(
        federation.root, local.spec(), federation=federation, unapproved=("silo-3",), couriers={"silo-2": Garbling}
    )


def test_refusals_are_signed_by_who_refused(declined: Finished) -> None:
    report = verify_run(declined.home, declined.run)
    assert re.fullmatch(r"(\d) signed by the silo that refused, (\d) of them before it knew the run",
                        detail(report, "refusals"))  # fmt: skip


def _named(lines: tampering.Lines, silo: str) -> dict[str, Any]:
    return next(record for record in records(lines, Kind.REFUSAL) if record["silo"] == silo)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda lines: _named(lines, "silo-3").update(decline="ab" * 80), "decline"),
        (lambda lines: _named(lines, "silo-3").update(decline=_named(lines, "silo-2")["decline"]), "silo"),
        (lambda lines: _named(lines, "silo-3").update(code="REPLAY"), "code"),
        (lambda lines: _named(lines, "silo-2").update(k=2), "k"),
        (lambda lines: _named(lines, "silo-2").update(phase="attest"), "phase"),
    ],
)
def test_a_refusal_that_nobody_made(
    declined: Finished, tmp_path: Path, change: Callable[[tampering.Lines], object], field: str
) -> None:
    run = declined.copy(tmp_path / "f")
    rewrite(run.home, change)
    tampering.countersign(run)
    error = refused(run)
    assert "(refusal)" in error.where and error.where.endswith(field)


def test_a_refusal_of_another_run(declined: Finished, tmp_path: Path) -> None:
    run = declined.copy(tmp_path / "f")
    other = Decline(silo="silo-2", run=bytes([1]) * 32, step=1, attempt=0, phase="deal", code="MALFORMED")
    signed = other.sign(Identity.load(run.federation.silo("silo-2") / "keys" / "agent.key")).hex()

    def change(lines: tampering.Lines) -> None:
        _named(lines, "silo-2").update(decline=signed)

    rewrite(run.home, change)
    tampering.countersign(run)
    assert refused(run).found == f"run {'01' * 32}"


def test_a_refusal_without_a_signature_is_the_aggregators_word(declined: Finished, tmp_path: Path) -> None:
    run = declined.copy(tmp_path / "f")
    rewrite(run.home, lambda lines: _named(lines, "silo-2").pop("decline"))
    tampering.countersign(run)
    report = verify_run(run.home, run.run)
    assert "1 noted by the aggregator" in [line for line in report.lines if line.name == "refusals"][-1].detail


# --- epochs ------------------------------------------------------------------------------------------------------


def _next_epoch(run: Finished, **changes: Any) -> tuple[SignedCharter, Identity]:
    """Epoch 2, signed by the consortium; the aggregator gets a new key unless told otherwise."""
    aggregator = Identity.generate()
    old = read_charter(run.home)
    new = replace(old, **{"epoch": 2, "previous": old.digest, "aggregator": aggregator.public, **changes})
    return SignedCharter.sign(new, Identity.load(run.federation.root / "consortium" / "consortium.key")), aggregator


def _enter(run: Finished, signed: SignedCharter, by: Identity) -> None:
    record = {
        "epoch": signed.charter.epoch,
        "charter_digest": signed.charter.digest.hex(),
        "charter": bytes(signed).hex(),
    }
    Ledger.open(ledger_path(run.home), by).append(Kind.CHARTER, record)


LOST = {"run": "0" * 16, "k": 0, "name": "train/0", "silo": "silo-1", "phase": "open"}


def test_the_aggregators_key_changes_with_an_epoch(run: Finished) -> None:
    old = Identity.load(run.home / "keys" / "aggregator.key")
    signed, new = _next_epoch(run)
    _enter(run, signed, new)
    report = verify_run(run.home, run.run)
    assert re.search(r"epoch 1 \(.*\), 2 \(", detail(report, "charters"))

    Ledger.open(ledger_path(run.home), old).append(Kind.SILO_LOST, LOST)  # the old key is retired
    error = refused(run)
    assert error.where == f"ledger.jsonl line {line_of(run.home, Kind.SILO_LOST)}"


def test_a_run_is_signed_by_the_aggregator_of_its_own_charter(run: Finished) -> None:
    signed, new = _next_epoch(run)
    _enter(run, signed, new)
    rewrite(run.home, lambda lines: None, new)
    error = refused(run)
    assert error.where == f"ledger.jsonl line {line_of(run.home, Kind.RUN_STARTED)} (run-started), signature"


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"previous": bytes(32)}, "charters/000002.bin"), ({"federation": "other"}, "charters/000002.bin, federation")],
)
def test_a_charter_that_follows_another(run: Finished, changes: dict[str, Any], named: str) -> None:
    signed, _ = _next_epoch(run, **changes)
    (run.home / "charters" / "000002.bin").write_bytes(bytes(signed))
    assert refused(run).where == named


def test_two_charters_of_one_epoch(run: Finished) -> None:
    signed, _ = _next_epoch(run, epoch=1, previous=bytes(32))
    (run.home / "charters" / "000002.bin").write_bytes(bytes(signed))
    assert "one charter of epoch 1" in refused(run).expected


def test_a_charter_record_that_says_something_else(run: Finished) -> None:
    signed, new = _next_epoch(run)
    _enter(run, signed, new)
    rewrite(run.home, lambda lines: records(lines, Kind.CHARTER)[-1].update(epoch=7))
    assert re.fullmatch(r"ledger\.jsonl line \d+ \(charter\)", refused(run).where)


def test_epochs_that_are_not_here_are_not_checked(run: Finished) -> None:
    signed, _ = _next_epoch(run, epoch=5)
    (run.home / "charters" / "000005.bin").write_bytes(bytes(signed))
    report = verify_run(run.home, run.run)
    assert "epochs 2 to 4 are not here" in [line for line in report.lines if line.name == "charters"][-1].detail


# --- afterwards --------------------------------------------------------------------------------------------------


def _append(run: Finished, kind: Kind, record: dict[str, Any]) -> None:
    Ledger.open(ledger_path(run.home), Identity.load(run.home / "keys" / "aggregator.key")).append(kind, record)


def _published(run: Finished, **changes: str) -> dict[str, Any]:
    ended = next(entry.record for entry in read(ledger_path(run.home)) if entry.kind is Kind.RUN_FINISHED)
    facts = {"run": run.run, "model_name": "fedavg-test", "version": "1", "alias": "champion", "by": "an admin"}
    return {**facts, "weights_sha256": ended["weights_sha256"], **changes}


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
    assert [line.detail.split()[0] for line in report.of(Outcome.WARNING)] == ["silo-2"]
    assert report.verdict.endswith("1 warning.")


def test_a_run_that_is_not_on_this_ledger(honest: Finished) -> None:
    with pytest.raises(EvidenceError, match="run-started of run 0123456789abcdef"):
        verify_run(honest.home, "0123456789abcdef")


# --- floors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lane", "least"), [("trunk", 3), ("quiet", 4), ("open", 4)])
def test_no_lane_opens_below_the_strictest_floor(lane: str, least: int) -> None:
    """Plan 2, m + c = 3 for all lanes, and the charter's own 4 for those that not everybody holds."""
    group = federation.Federation(5, lane_floor=4)
    plan = federation.small_plan(floor=2)
    step = federation.Run(group, plan)
    step.play()
    checked = step.evidence().check(step.context)
    names = [slot.name for slot in plan.slots_of(step.step)]
    one = next(one for one in plan.lanes if one.name == lane)
    entry = Entry(0, Kind.STEP_CLOSED, "", "", {}, "", "", 0)
    for count in range(6):
        slots = dict.fromkeys(names, 0) | {one.contributors_slot: count}
        if count >= least:
            check_floor(entry, one, checked, slots)
            continue
        with pytest.raises(EvidenceError, match=f"lanes_open, {lane}: expected at least {least}"):
            check_floor(entry, one, checked, slots)
    with pytest.raises(EvidenceError, match="at least 6"):
        check_floor(entry, replace(one, floor=6), checked, dict.fromkeys(names, 5))
