"""A silo's receipt of a run: verified alone, and against the ledger that it countersigned.

Alone it proves what this silo's agent signed: the run's id and the whole chain follow from it. Against a ledger or a
bundle it shows whether the aggregator's record is the one that the silo saw.
"""

from __future__ import annotations

from pathlib import Path

from aggregator.epochs import Epochs
from aggregator.ledger.format import at
from aggregator.ledger.records import StepClosed, StepVoid
from aggregator.protocols.choice import of_signed
from aggregator.protocols.interface import Receipt
from aggregator.run_record import CheckedLedger
from aggregator.verify.report import VerificationReport, checking, same
from aggregator.verify.verified_run import VerifiedRun, open_run
from crypto.encoding import Reader
from crypto.errors import EvidenceError, Malformed
from crypto.keys import SIGNATURE_BYTES
from crypto.receipt import Receipt as LiveReceipt


def looks_like_receipt(data: bytes) -> bool:
    """Whether these bytes claim to be a signed receipt. Nothing is checked."""
    try:
        src = Reader(data)
        body = src.blob()
        src.fixed(SIGNATURE_BYTES)
        src.end()
    except Malformed:
        return False
    return body[1:2] == bytes([LiveReceipt.KIND])


def check_receipt(path: Path, epochs: Epochs, report: VerificationReport) -> Receipt:
    """The receipt of a file: signed by its silo's agent under the charter it names, and consistent in itself."""
    with checking(path.name, "a receipt that a silo of this federation signed"):
        signed = path.read_bytes()
        reader = of_signed(signed)
        receipt = reader.open_receipt(
            signed, lambda body: epochs.find(body.charter.hex(), path.name).member(body.silo).agent
        )
    report.target = f"the receipt of {receipt.silo} for run {receipt.run.hex()[:16]}"
    void = sum(not step.released for step in receipt.steps)
    steps = f"{len(receipt.steps)} steps, {void} of them void"
    report.ok("receipt", f"signed by {receipt.silo}: run id and chain follow from its {steps}")
    if reader.note:
        report.note("protocol", f"{reader.name}: {reader.note}")
    return receipt


def compare(ledger: CheckedLedger, receipt: Receipt, report: VerificationReport) -> VerifiedRun:
    """Compare the ledger's record of the run with the receipt. Raises EvidenceError at the first line that differs."""
    short = receipt.run.hex()[:16]
    if short not in ledger.runs:
        expected = f"run {short}, in which {receipt.silo} took part"
        raise EvidenceError("ledger.jsonl", expected=expected, found="no line of it")
    run = open_run(ledger, short, report)
    for field, claimed in (
        ("job_digest", receipt.job),
        ("plan_digest", receipt.plan),
        ("charter_digest", receipt.charter),
        ("code_digest", receipt.code),
        ("nonce", receipt.nonce),
        ("state_digest", receipt.initial),
    ):
        same(at(run.record.started, field), claimed.hex(), getattr(run.record.started.record, field))
    _steps(run, receipt)
    _consent(run, receipt)
    _end(run, receipt, report)
    report.ok("history", f"the ledger has this run as {receipt.silo} saw it: steps, results, approval and data")
    return run


def _steps(run: VerifiedRun, receipt: Receipt) -> None:
    """The same steps, released or void, with the same transcripts and, by the chain, the same results."""
    chains = receipt.chains()[1:]
    for applied, chain, entry in zip(receipt.steps, chains, run.record.outcomes, strict=False):
        kind = (StepClosed if applied.released else StepVoid).kind
        same(
            at(entry),
            f"{kind}, as {receipt.silo} saw step {applied.k}",
            f"{entry.kind}, as {receipt.silo} saw step {applied.k}",
        )
        same(at(entry, "transcript"), applied.t3.hex(), entry.record.transcript or applied.t3.hex())
        same(at(entry, "chain"), chain.hex(), entry.record.chain or chain.hex())
    if len(run.record.outcomes) != len(receipt.steps):
        raise EvidenceError(
            f"ledger.jsonl, run {run.run}", expected=f"{len(receipt.steps)} steps", found=f"{len(run.record.outcomes)}"
        )


def _consent(run: VerifiedRun, receipt: Receipt) -> None:
    """The silo's approval and data commitment."""
    shown = {entry.record.digest for entry in run.record.approvals if entry.record.silo == receipt.silo}
    if receipt.approval.hex() not in shown:
        expected = f"a line approval of {receipt.silo} with {receipt.approval.hex()}"
        raise EvidenceError(f"ledger.jsonl, run {run.run}", expected=expected, found=sorted(shown) or "none")
    for entry in run.record.closed:
        data = entry.record.data_commitments
        if receipt.silo in data:
            same(at(entry, f"data_commitments, {receipt.silo}"), receipt.data.hex(), data[receipt.silo])


def _end(run: VerifiedRun, receipt: Receipt, report: VerificationReport) -> None:
    """The final chain value, and the head that the silo countersigned: a line of this ledger."""
    head = run.ledger.line(receipt.ledger.hex())
    if head is None or (run.record.finished is not None and head.seq >= run.record.finished.seq):
        expected = f"the line with digest {receipt.ledger.hex()}, which {receipt.silo} countersigned"
        raise EvidenceError("ledger.jsonl", expected=expected, found="no such line before the run's end")
    if run.record.finished is None:
        report.not_checked("end", f"{receipt.silo} closed this run, but the ledger has no line run-finished of it")
        return
    same(at(run.record.finished, "chain"), receipt.chain.hex(), run.record.finished.record.chain)
