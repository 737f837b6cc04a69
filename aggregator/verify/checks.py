"""Verify a run offline, from the aggregator's home or a bundle: no server, no account, the base install only.

    1  ledger      every line's form, order, chain and signature, and the head file          aggregator.verify.run
    2  charters    signed by the consortium, each the successor of the one before             aggregator.verify.charters
    3  run         its id, job, plan, charter, first state and predictor, recomputed          aggregator.verify.run
    4  approvals   each survivor's data owner signed this run and these data, in time         aggregator.verify.steps
    5  steps       signatures, T0 to T3, attestations and slots recomputed                    aggregator.verify.steps
    6  sums        replayed bit for bit where uploads were kept; chain and state with them    aggregator.verify.replay
    7  closing     who countersigned the last chain value and a head of this ledger
    8  model       the checkpoint files are those of the ledger
    9  refusals    each is signed by the silo that refused
    10 code        whether the software that is installed here is the run's
    11 versions    what was published, and which silos have withdrawn since

Each check is one line of the report. The first thing that fails raises EvidenceError: where, expected, found. What this
proves, and what not, is in docs/compliance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from aggregator.ledger.records import Kind
from aggregator.rounds.storage import checkpoint_steps, load_checkpoint
from aggregator.verify.models import MLFLOW_FILE, versions
from aggregator.verify.replay import Walk
from aggregator.verify.report import Line, Report, checking, same
from aggregator.verify.run import Book, Case, at, open_case, read_book
from crypto.approval import Approval
from crypto.errors import EvidenceError
from crypto.messages import Closing, Decline
from crypto.transcript import DIGEST_BYTES


def verify_run(
    home: Path,
    run: str,
    *,
    consortium: str | Path | None = None,
    code: bytes | None = None,
    show: Callable[[Line], None] = lambda line: None,
) -> Report:
    """Every check of one run. ``consortium``: the key's file or its fingerprint, from somewhere else than ``home``;
    ``code``: digest of the software that is installed here; ``show`` sees each line as it is found.

    Raises EvidenceError at the first thing that doesn't check, SpecError for a consortium that is neither.
    """
    report = Report(f"run {run}", show)
    verify_in(read_book(home, consortium, report), run, report, code=code)
    return report


def verify_in(book: Book, run: str, report: Report, *, code: bytes | None = None) -> Case:
    """The checks from the third on, of a ledger that has been read."""
    case = open_case(book, run, report)
    walk = Walk.start(case)
    for entry in case.steps:
        walk.take(entry)
    check_uses(case, walk.approvals, report)
    closers = countersigned(case)
    walk.tell(report, closers)
    check_closing(case, walk, closers, report)
    check_model(case, report)
    check_refusals(case, report)
    check_code(case, code, report)
    check_versions(case, report)
    return case


# --- 4: approvals (each was checked with its step) ---------------------------------------------------------------


def check_uses(case: Case, approvals: Mapping[str, Approval], report: Report) -> None:
    """No approval was used for more runs, of all on this ledger, than its owner allowed."""
    for digest, approval in approvals.items():
        lines = [entry for entry in case.book.history.of(Kind.APPROVAL) if entry.record["digest"] == digest]
        runs = {entry.record["run"] for entry in lines}
        if len(runs) > approval.max_runs:
            expected = f"at most {approval.max_runs} runs on the approval {digest[:16]} of {approval.terms.silo}"
            raise EvidenceError(at(lines[-1]), expected=expected, found=f"{len(runs)}")
    silos = sorted({approval.terms.silo for approval in approvals.values()})
    if silos:
        what = "job, plan, charter, code, data and purpose are this run's; valid then, not used too often"
        report.ok("approvals", f"{len(approvals)}, signed by the data owners of {', '.join(silos)}: {what}")


# --- 7: closing --------------------------------------------------------------------------------------------------


def countersigned(case: Case) -> tuple[str, ...]:
    """The silos whose closing signatures hold, over the last chain value and a head of this ledger."""
    if case.ended is None:
        return ()
    record, where = case.ended.record, at(case.ended)
    if (head := case.book.line(record.get("ledger_head", ""))) is None or head.seq >= case.ended.seq:
        expected = "a head that is the digest of an earlier line"
        raise EvidenceError(f"{where}, ledger_head", expected=expected, found=record.get("ledger_head", "none"))
    for silo, signed in record["countersignatures"].items():
        place = f"{where}, countersignatures, {silo}"
        with checking(place, f"{silo}'s signature over run, chain and head"):
            closing = Closing.open(bytes.fromhex(signed), lambda message: case.charter.member(message.silo).agent)
        same(place, silo, closing.silo)
        same(place, f"run {case.id.hex()}", f"run {closing.run.hex()}")
        same(place, f"chain {record['chain']}", f"chain {closing.chain.hex()}")
        same(place, f"head {record['ledger_head']}", f"head {closing.ledger.hex()}")
    return tuple(sorted(record["countersignatures"]))


def check_closing(case: Case, walk: Walk, closers: tuple[str, ...], report: Report) -> None:
    if case.ended is None:
        last = [entry for entry in case.lines if entry.kind in (Kind.RUN_FAILED, Kind.RUN_RESUMED)][-1:]
        failed = last[0].record if last and last[0].kind is Kind.RUN_FAILED else None
        why = f"it failed in step {failed.get('k')}: {failed['code']}" if failed else "it is under way"
        report.not_checked("closing", f"the run has no end on this ledger ({why}), so nobody countersigned it")
        return
    same(at(case.ended, "chain"), walk.chain.hex(), case.ended.record["chain"])
    if closers:
        head = case.ended.record["ledger_head"][:16]
        report.ok("closing", f"{len(closers)} silos countersigned the final chain and ledger head {head}")
    if missing := [silo for silo in case.charter.silos if silo not in closers]:
        report.not_checked("closing", f"no countersignature of {', '.join(missing)}")


# --- 8: model ----------------------------------------------------------------------------------------------------


def check_model(case: Case, report: Report) -> None:
    """Every checkpoint in the run's folder is the state of its step, and the last one is what the run ended with."""
    closed = {int(entry.record["k"]): entry for entry in case.steps if entry.kind is Kind.STEP_CLOSED}
    digests = {k: entry.record["state_digest"] for k, entry in closed.items()}
    ended = case.ended
    last = len(case.plan.steps) - 1
    if ended is not None:
        before = [digests[k] for k in sorted(digests)] or [case.started.record["state_digest"]]
        same(at(ended, "state_digest"), before[-1], ended.record["state_digest"])
        digests[last] = ended.record["state_digest"]
    for k in checkpoint_steps(case.folder):
        if ended is None and k >= len(case.steps):
            continue  # written just before its line
        where = f"{case.run}/checkpoints/{k:06d}"
        if k not in digests:
            raise EvidenceError(where, expected="a checkpoint of a step that the ledger closed", found=f"step {k}")
        loaded = load_checkpoint(case.folder, k, expect=bytes.fromhex(digests[k]))
        if ended is not None and k == last:
            same(at(ended, "checkpoint"), loaded.path, ended.record["checkpoint"])
            same(f"{case.run}/{loaded.path}", ended.record["weights_sha256"], loaded.weights_sha256)
    if ended is None:
        report.not_checked("model", "the run has no end on this ledger, so there is no final model")
        return
    if last not in checkpoint_steps(case.folder):
        raise EvidenceError(f"{case.run}/{ended.record['checkpoint']}", expected="the final model", found="no file")
    report.ok("model", f"{ended.record['checkpoint']}: SHA-256 {ended.record['weights_sha256'][:16]}, as on the ledger")


# --- 9: refusals -------------------------------------------------------------------------------------------------


def check_refusals(case: Case, report: Report) -> None:
    """A refusal with the silo's own bytes is that silo's, with that code; the others are what the aggregator noted."""
    refusals = list(case.of(Kind.REFUSAL))
    signed = early = 0
    for entry in refusals:
        record = entry.record
        if "decline" not in record:
            continue
        with checking(at(entry, "decline"), f"{record['silo']}'s signature"):
            decline = Decline.open(bytes.fromhex(record["decline"]), lambda m: case.charter.member(m.silo).agent)
        same(at(entry, "silo"), decline.silo, record["silo"])
        same(at(entry, "code"), decline.code, record["code"])
        # A silo that had no agent for the job could not know the run: its refusal names none.
        if decline.run != bytes(DIGEST_BYTES):
            same(at(entry, "decline"), f"run {case.id.hex()}", f"run {decline.run.hex()}")
            same(at(entry, "k"), decline.step, record["k"])
            same(at(entry, "phase"), decline.phase, record["phase"])
        else:
            early += 1
        signed += 1
    if signed:
        rest = f", {early} of them before it knew the run" if early else ""
        report.ok("refusals", f"{signed} signed by the silo that refused{rest}")
    if len(refusals) > signed:
        report.not_checked("refusals", f"{len(refusals) - signed} noted by the aggregator without a silo's signature")


# --- 10: code ----------------------------------------------------------------------------------------------------


def check_code(case: Case, code: bytes | None, report: Report) -> None:
    used = case.started.record.get("code_digest", "")
    if code is not None and code.hex() == used:
        report.ok("code", f"{used[:16]}: the software that is installed here")
    else:
        here = f"here is {code.hex()[:16]}" if code is not None else "nobody said what is installed here"
        report.not_checked("code", f"the run used {used[:16]}, {here}: what that software does was not looked at")


# --- 11: versions ------------------------------------------------------------------------------------------------


def check_versions(case: Case, report: Report) -> None:
    """What was published of this run has its weights; MLflow's note agrees; who has withdrawn since is said aloud."""
    published = list(case.of(Kind.MODEL_PUBLISHED))
    for entry in published:
        if case.ended is None or entry.seq < case.ended.seq:
            raise EvidenceError(at(entry), expected="a line run-finished before it", found="none")
        same(at(entry, "weights_sha256"), case.ended.record["weights_sha256"], entry.record["weights_sha256"])
    for model in versions(case.book.history):
        if model.run == case.run and model.version:
            if not published:
                report.not_checked("versions", f"that this is {model.label}: an unsigned note says so, {MLFLOW_FILE}")
                continue
            names = ", ".join(f"{alias} by {by}" for alias, (by, _) in sorted(model.aliases.items()))
            report.ok("versions", f"{model.label} ({names}) has these weights")
    present = {silo for entry in case.steps for silo in entry.record.get("survivors", ())}
    for entry in case.book.history.of(Kind.WITHDRAWAL):
        if entry.record["silo"] in present:
            silo, since = entry.record["silo"], entry.time[:10]
            report.warn("withdrawal", f"{silo} withdrew on {since}; its data went into this model: fed withdraw --plan")
