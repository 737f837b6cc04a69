"""Verify a run offline, from the aggregator's home or a bundle: no server, no account, the base install only.

   1 ledger     every line's form, order, chain and signature, and the head file      aggregator.verify.verified_run
   2 charters   signed by the consortium, each the successor of the one before        aggregator.verify.charters
   3 run        its id, job, plan, charter and first state, recomputed                aggregator.verify.verified_run
   4 approvals  each survivor's data owner signed this run and these data, in time    aggregator.verify.steps
   5 steps      signatures, T0 to T3, attestations and slots recomputed               aggregator.verify.steps
   6 sums       replayed bit for bit where uploads were kept; chain and state with them aggregator.verify.replay
   7 closing    who countersigned the last chain value and a head of this ledger
   8 model      the checkpoint files are those of the ledger
   9 refusals   each is signed by the silo that refused, for this run, step, attempt and phase
  10 code       whether the software that is installed here is the run's
  11 predictor  the code that a version runs is the approved release's                aggregator.verify.predictor
  12 versions   what was published, and which silos have withdrawn since
  13 privacy    of a private job: its plan opens no figures of rows                  aggregator.verify.privacy

Each check is one line of the report. The first one that fails raises EvidenceError: where, expected, found. What this
proves and what it does not is in docs/compliance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from aggregator.home import MLFLOW_FILE, AggregatorHome
from aggregator.ledger.format import Entry, at, is_of
from aggregator.ledger.records import Refusal, StepOpened, Withdrawal
from aggregator.protocols.interface import Approval
from aggregator.rounds.storage import checkpoint_steps, load_checkpoint
from aggregator.run_record import CheckedLedger
from aggregator.verify.models import versions
from aggregator.verify.predictor import PredictorCheck
from aggregator.verify.privacy import check_privacy
from aggregator.verify.replay import RunReplay
from aggregator.verify.report import CheckLine, VerificationReport, checking, same
from aggregator.verify.verified_run import VerifiedRun, open_run, read_ledger
from crypto.errors import EvidenceError
from crypto.release_manifest import ReleaseManifest


def verify_run(
    home: AggregatorHome,
    run: str,
    *,
    consortium: str | Path | None = None,
    release: ReleaseManifest | None = None,
    show: Callable[[CheckLine], None] = lambda line: None,
) -> VerificationReport:
    """Every check of one run. ``consortium``: the key's file or its fingerprint, obtained from another source than
    ``home``; ``release``: the software that is installed here; ``show`` is called with each line at once.

    Raises EvidenceError at the first check that fails, SpecError for a ``consortium`` that is neither.
    """
    report = VerificationReport(f"run {run}", show)
    verify_in(read_ledger(home, consortium, report), run, report, release=release)
    return report


def verify_in(
    ledger: CheckedLedger, run: str, report: VerificationReport, *, release: ReleaseManifest | None = None
) -> VerifiedRun:
    """The checks from the third on, of a ledger that has been read."""
    verified = open_run(ledger, run, report)
    predictor = PredictorCheck.of(verified.record, verified.folder, release)
    replay = RunReplay.start(verified)
    for entry in verified.record.outcomes:
        replay.take(entry)
    check_uses(verified, replay.approvals, report)
    closers = countersigned(verified)
    replay.report_to(report, closers)
    check_closing(verified, replay, closers, report)
    check_model(verified, report)
    check_refusals(verified, report)
    check_code(verified, release.digest if release is not None else None, report)
    approved = {approval.terms.silo: approval.terms.code for approval in replay.approvals.values()}
    if predictor is not None:
        predictor.report_to(report, approved)
    check_versions(verified, report)
    check_privacy(verified.record, report)
    return verified


# --- 4: approvals (each was checked with its step) ---------------------------------------------------------------


def check_uses(run: VerifiedRun, approvals: Mapping[str, Approval], report: VerificationReport) -> None:
    """No approval was used for more runs, of all on this ledger, than its owner allowed."""
    for digest, approval in approvals.items():
        lines = run.ledger.shown[digest]
        runs = {entry.record.run for entry in lines}
        if len(runs) > approval.max_runs:
            expected = f"at most {approval.max_runs} runs on the approval {digest[:16]} of {approval.terms.silo}"
            raise EvidenceError(at(lines[-1]), expected=expected, found=f"{len(runs)}")
    silos = sorted({approval.terms.silo for approval in approvals.values()})
    if silos:
        what = "job, plan, charter, code, data and purpose are this run's; valid then, not used too often"
        report.ok("approvals", f"{len(approvals)}, signed by the data owners of {', '.join(silos)}: {what}")


# --- 7: closing --------------------------------------------------------------------------------------------------


def countersigned(run: VerifiedRun) -> tuple[str, ...]:
    """The silos that signed the last chain value and a head of this ledger; each signature is checked."""
    if run.record.finished is None:
        return ()
    record, where = run.record.finished.record, at(run.record.finished)
    if (head := run.ledger.line(record.ledger_head)) is None or head.seq >= run.record.finished.seq:
        expected = "a head that is the digest of an earlier line"
        raise EvidenceError(f"{where}, ledger_head", expected=expected, found=record.ledger_head or "none")
    for silo, signed in record.countersignatures.items():
        place = f"{where}, countersignatures, {silo}"
        with checking(place, f"{silo}'s signature over run, chain and head"):
            closing = run.reader.open_closing(bytes.fromhex(signed), run.charter)
        same(place, silo, closing.silo)
        same(place, f"run {run.id.hex()}", f"run {closing.run.hex()}")
        same(place, f"chain {record.chain}", f"chain {closing.chain.hex()}")
        same(place, f"head {record.ledger_head}", f"head {closing.ledger.hex()}")
    return tuple(sorted(record.countersignatures))


def check_closing(run: VerifiedRun, replay: RunReplay, closers: tuple[str, ...], report: VerificationReport) -> None:
    if run.record.finished is None:
        failed = run.record.failed.record if run.record.failed is not None else None
        why = f"it failed in step {failed.k}: {failed.code}" if failed else "it is under way"
        report.not_checked("closing", f"the run has no end on this ledger ({why}): no silo countersigned it")
        return
    same(at(run.record.finished, "chain"), replay.chain.hex(), run.record.finished.record.chain)
    if closers:
        head = (run.record.finished.record.ledger_head or "")[:16]
        report.ok("closing", f"{len(closers)} silos countersigned the final chain and ledger head {head}")
    if missing := [silo for silo in run.charter.silos if silo not in closers]:
        report.not_checked("closing", f"no countersignature of {', '.join(missing)}")


# --- 8: model ----------------------------------------------------------------------------------------------------


def check_model(run: VerifiedRun, report: VerificationReport) -> None:
    """Every checkpoint in the run's folder is the state of its step, and the last one is what the run ended with."""
    digests = {entry.record.k: entry.record.state_digest for entry in run.record.closed}
    ended = run.record.finished
    last = len(run.plan.steps) - 1
    if ended is not None:
        before = [digests[k] for k in sorted(digests)] or [run.record.started.record.state_digest]
        same(at(ended, "state_digest"), before[-1], ended.record.state_digest)
        digests[last] = ended.record.state_digest
    for k in checkpoint_steps(run.folder):
        if ended is None and k >= len(run.record.outcomes):
            continue  # written just before its line
        where = f"{run.run}/checkpoints/{k:06d}"
        if k not in digests:
            raise EvidenceError(where, expected="a checkpoint of a step that the ledger closed", found=f"step {k}")
        loaded = load_checkpoint(run.folder, k, expect=bytes.fromhex(digests[k]))
        if ended is not None and k == last:
            same(at(ended, "checkpoint"), loaded.path, ended.record.checkpoint)
            same(f"{run.run}/{loaded.path}", ended.record.weights_sha256, loaded.weights_sha256)
    if ended is None:
        report.not_checked("model", "the run has no end on this ledger, so there is no final model")
        return
    if last not in checkpoint_steps(run.folder):
        raise EvidenceError(f"{run.run}/{ended.record.checkpoint}", expected="the final model", found="no file")
    report.ok("model", f"{ended.record.checkpoint}: SHA-256 {ended.record.weights_sha256[:16]}, as on the ledger")


# --- 9: refusals -------------------------------------------------------------------------------------------------


def check_refusals(run: VerifiedRun, report: VerificationReport) -> None:
    """Check the refusals with a silo's signed bytes: silo, code, run, step, attempt, phase. The others are the
    aggregator's notes."""
    noted = signed = early = 0
    attempts: dict[int, int] = {}  # step → the attempt at it that was under way
    for entry in run.record.entries:
        if is_of(entry, StepOpened):
            attempts[entry.record.k] = entry.record.attempt or 0
        elif is_of(entry, Refusal):
            if entry.record.decline is None:
                noted += 1
            else:
                signed += 1
                early += _check_refusal(run, entry, entry.record.decline, attempts.get(entry.record.k))
    if signed:
        rest = f", {early} of them before it knew the run" if early else ""
        report.ok("refusals", f"{signed} signed by the silo that refused{rest}")
    if noted:
        report.not_checked("refusals", f"{noted} noted by the aggregator without a silo's signature")


def _check_refusal(run: VerifiedRun, entry: Entry[Refusal], signed: str, attempt: int | None) -> bool:
    """Compare a line with the refusal that the silo signed. ``attempt``: the one under way, None before the first.
    Returns whether the refusal names no run, which only a protocol with early refusals allows."""
    record = entry.record
    with checking(at(entry, "decline"), f"{record.silo}'s signature"):
        decline = run.reader.open_decline(bytes.fromhex(signed), run.charter)
    same(at(entry, "silo"), decline.silo, record.silo)
    same(at(entry, "code"), decline.code, record.code)
    if run.reader.early_refusals and not any(decline.run):
        return True
    same(at(entry, "decline"), f"run {run.id.hex()}", f"run {decline.run.hex()}")
    same(at(entry, "k"), decline.step, record.k)
    same(at(entry, "decline"), f"attempt {attempt}", f"attempt {decline.attempt}")
    same(at(entry, "phase"), decline.phase, record.phase)
    return False


# --- 10: code ----------------------------------------------------------------------------------------------------


def check_code(run: VerifiedRun, code: bytes | None, report: VerificationReport) -> None:
    used = run.record.started.record.code_digest or ""
    if code is not None and code.hex() == used:
        report.ok("code", f"{used[:16]}: the software that is installed here")
    else:
        here = f"here is {code.hex()[:16]}" if code is not None else "what is installed here was not given"
        report.not_checked("code", f"the run used {used[:16]}, {here}: what that software does was not checked")


# --- 12: versions ------------------------------------------------------------------------------------------------


def check_versions(run: VerifiedRun, report: VerificationReport) -> None:
    """Published versions have this run's weights, and MLflow's note agrees; silos that withdrew since are warnings."""
    published = run.record.published
    for entry in published:
        if run.record.finished is None or entry.seq < run.record.finished.seq:
            raise EvidenceError(at(entry), expected="a line run-finished before it", found="none")
        same(at(entry, "weights_sha256"), run.record.finished.record.weights_sha256, entry.record.weights_sha256)
    for model in versions(run.ledger):
        if model.run == run.run and model.version:
            if not published:
                report.not_checked("versions", f"{model.label}: only the unsigned {MLFLOW_FILE} names this version")
                continue
            names = ", ".join(f"{alias} by {by}" for alias, (by, _) in sorted(model.aliases.items()))
            report.ok("versions", f"{model.label} ({names}) has these weights")
    present = {silo for entry in run.record.closed for silo in entry.record.survivors}
    for left in run.ledger.of(Withdrawal):
        if left.record.silo in present:
            silo, since = left.record.silo, left.time[:10]
            report.warn("withdrawal", f"{silo} withdrew on {since}; its data went into this model: fed withdraw --plan")
