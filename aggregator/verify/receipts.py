"""A silo's receipt of a run: verified alone, and against the ledger that it countersigned.

Alone it proves that this silo's agent said so: the run's id and the whole chain follow from it. Against a ledger or a
bundle it shows whether the aggregator still tells the story that it told the silo.
"""

from __future__ import annotations

from pathlib import Path

from aggregator.ledger.records import Kind
from aggregator.verify.charters import Epochs
from aggregator.verify.report import Report, checking, same
from aggregator.verify.run import Book, Case, at, open_case
from crypto import transcript
from crypto.encoding import Reader
from crypto.errors import EvidenceError, Malformed
from crypto.keys import SIGNATURE_BYTES
from crypto.receipt import Receipt


def looks_like_receipt(data: bytes) -> bool:
    """Whether these bytes claim to be a signed receipt. Nothing is checked."""
    try:
        src = Reader(data)
        body = src.blob()
        src.fixed(SIGNATURE_BYTES)
        src.end()
    except Malformed:
        return False
    return body[1:2] == bytes([Receipt.KIND])


def check_receipt(path: Path, epochs: Epochs, report: Report) -> Receipt:
    """The receipt of a file: signed by its silo's agent under the charter it names, and consistent in itself."""
    with checking(path.name, "a receipt that a silo of this federation signed"):
        receipt = Receipt.open(
            path.read_bytes(), lambda said: epochs.find(said.charter.hex(), path.name).member(said.silo).agent
        )
        receipt.check()
    report.target = f"the receipt of {receipt.silo} for run {receipt.run.hex()[:16]}"
    void = sum(not step.released for step in receipt.steps)
    steps = f"{len(receipt.steps)} steps, {void} of them void"
    report.ok("receipt", f"signed by {receipt.silo}: run id and chain follow from its {steps}")
    return receipt


def compare(book: Book, receipt: Receipt, report: Report) -> Case:
    """Whether the ledger tells this run as the receipt does. Raises EvidenceError at the first line that doesn't."""
    run = receipt.run.hex()[:16]
    if run not in book.history.runs:
        expected = f"run {run}, in which {receipt.silo} took part"
        raise EvidenceError("ledger.jsonl", expected=expected, found="no line of it")
    case = open_case(book, run, report)
    for field, said in (
        ("job_digest", receipt.job),
        ("plan_digest", receipt.plan),
        ("charter_digest", receipt.charter),
        ("code_digest", receipt.code),
        ("nonce", receipt.nonce),
        ("state_digest", receipt.initial),
    ):
        same(at(case.started, field), said.hex(), case.started.record.get(field))
    _steps(case, receipt)
    _consent(case, receipt)
    _end(case, receipt, report)
    report.ok("history", f"the ledger has this run as {receipt.silo} saw it: steps, results, approval and data")
    return case


def _steps(case: Case, receipt: Receipt) -> None:
    """The same steps, released or void, with the same transcripts and, by the chain, the same results."""
    chain = transcript.initial_chain(receipt.run, receipt.initial)
    for applied, entry in zip(receipt.steps, case.steps, strict=False):
        kind = Kind.STEP_CLOSED if applied.released else Kind.STEP_VOID
        same(
            at(entry),
            f"{kind}, as {receipt.silo} saw step {applied.k}",
            f"{entry.kind}, as {receipt.silo} saw step {applied.k}",
        )
        result = applied.result if applied.released else b""
        chain = transcript.next_chain(chain, applied.t3, result, released=applied.released)
        same(at(entry, "transcript"), applied.t3.hex(), entry.record.get("transcript", applied.t3.hex()))
        same(at(entry, "chain"), chain.hex(), entry.record.get("chain", chain.hex()))
    if len(case.steps) != len(receipt.steps):
        raise EvidenceError(
            f"ledger.jsonl, run {case.run}", expected=f"{len(receipt.steps)} steps", found=f"{len(case.steps)}"
        )


def _consent(case: Case, receipt: Receipt) -> None:
    """The silo's approval and data commitment."""
    shown = {entry.record["digest"] for entry in case.of(Kind.APPROVAL) if entry.record["silo"] == receipt.silo}
    if receipt.approval.hex() not in shown:
        expected = f"a line approval of {receipt.silo} with {receipt.approval.hex()}"
        raise EvidenceError(f"ledger.jsonl, run {case.run}", expected=expected, found=sorted(shown) or "none")
    for entry in case.steps:
        data = entry.record.get("data_commitments", {})
        if receipt.silo in data:
            same(at(entry, f"data_commitments, {receipt.silo}"), receipt.data.hex(), data[receipt.silo])


def _end(case: Case, receipt: Receipt, report: Report) -> None:
    """The final chain value, and the head that the silo countersigned: a line of this ledger."""
    head = case.book.line(receipt.ledger.hex())
    if head is None or (case.ended is not None and head.seq >= case.ended.seq):
        expected = f"the line with digest {receipt.ledger.hex()}, which {receipt.silo} countersigned"
        raise EvidenceError("ledger.jsonl", expected=expected, found="no such line before the run's end")
    if case.ended is None:
        report.not_checked("end", f"{receipt.silo} closed this run, but the ledger has no line run-finished of it")
        return
    same(at(case.ended, "chain"), receipt.chain.hex(), case.ended.record["chain"])
