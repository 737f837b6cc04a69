"""What a federation left behind under ``consilium/1`` is verified as what it was; whatever is changed in it is found.

The other tests of verification use runs of the protocol in use; here the frozen reader is behind the same checks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from aggregator.epochs import Epochs
from aggregator.ledger.format import plain, read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.verify.checks import verify_run
from aggregator.verify.receipts import check_receipt, compare
from aggregator.verify.report import CheckOutcome, VerificationReport
from aggregator.verify.verified_run import read_ledger
from crypto.errors import EvidenceError
from tests.protocol1 import CONSORTIUM, EVIDENCE, RUN, OldFederation, encode, fields_of, seal, signed
from tests.records import as_record

#: [kind, record, time] of each line.
Lines = list[list[Any]]
CHECKS = ("consortium", "charters", "ledger", "run", "approvals", "steps", "sums", "state", "closing", "model")


@pytest.fixture
def old(tmp_path: Path) -> OldFederation:
    """To be changed."""
    return OldFederation.unpack(tmp_path)


def verify(old: OldFederation) -> VerificationReport:
    return verify_run(old.home, RUN, consortium=CONSORTIUM)


def refused(old: OldFederation) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        verify(old)
    return caught.value


def rewrite(old: OldFederation, change: Callable[[Lines], object]) -> None:
    """Write the ledger anew after ``change``, chained and signed with the aggregator's key."""
    path = old.home.ledger_path
    lines: Lines = [[entry.kind, plain(entry.record.fields()), entry.time] for entry in read(path)]
    change(lines)
    path.unlink()
    path.with_name(f"{path.name}.head").unlink()
    times = iter([time for _, _, time in lines])
    ledger = Ledger.open(path, old.key("aggregator"), clock=lambda: next(times))
    for kind, record, _ in lines:
        ledger.append(as_record(kind, record))


def of(lines: Lines, kind: Kind, which: int = 0) -> dict[str, Any]:
    return [record for name, record, _ in lines if name is kind][which]


def change_evidence(old: OldFederation, k: int, change: Callable[[dict[str, Any]], object]) -> EvidenceError:
    """The aggregator changes a step's evidence and the ledger with it."""
    path, fields = old.home.run_folder(RUN).evidence_path(k), old.evidence(k)
    change(fields)
    path.write_bytes(encode(EVIDENCE, fields))
    place = [entry.record.k for entry in old.record.closed].index(k)
    digest = sha256(path.read_bytes()).hexdigest()
    rewrite(old, lambda lines: of(lines, Kind.STEP_CLOSED, place).update(evidence_sha256=digest))
    return refused(old)


def test_the_run_holds_and_says_what_its_protocol_did_not_prove(old: OldFederation) -> None:
    report = verify(old)
    assert tuple(line.name for line in report.of(CheckOutcome.OK)) == CHECKS
    assert [line.name for line in report.of(CheckOutcome.NOT_CHECKED)] == ["code", "predictor"]
    (note,) = report.of(CheckOutcome.NOTE)
    assert "not proven to the silos" in note.detail
    text = json.dumps(report.as_dict())
    assert text.count("not proven to the silos") == 1 and '"outcome": "note"' in text
    assert report.verdict == f"run {RUN} holds: 10 checks passed, 2 not checked."


def test_any_changed_byte_of_the_evidence_is_found(old: OldFederation) -> None:
    for path in sorted(old.home.run_folder(RUN).root.glob("evidence/*.bin")):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
        assert path.name in refused(old).where
        path.write_bytes(whole)


def test_the_aggregator_cannot_write_other_evidence(old: OldFederation) -> None:
    """Without the silos' keys: a byte in a signed message, a message of another step, one too few."""

    def flipped(fields: dict[str, Any]) -> None:
        message = bytearray(fields["headers"][0])
        message[40] ^= 1
        fields["headers"][0] = bytes(message)

    error = change_evidence(old, 3, flipped)
    assert error.where == f"{RUN}/evidence/000003.bin" and "BAD_SIGNATURE" in str(error.found)


def test_evidence_of_another_step_proves_nothing(old: OldFederation) -> None:
    other = old.evidence(4)
    error = change_evidence(old, 0, lambda fields: fields.update(other))
    assert "TRANSCRIPT_MISMATCH" in str(error.found)


def test_other_slots_on_the_ledger_are_found(old: OldFederation) -> None:
    rewrite(old, lambda lines: of(lines, Kind.STEP_CLOSED, 1)["slots"].update({"test.rows": 251}))
    assert ", slots" in refused(old).where


@pytest.mark.parametrize("field", ["transcript", "data_commitments", "approvals", "upload_digests", "holdings"])
def test_other_facts_of_a_step_are_found(old: OldFederation, field: str) -> None:
    def change(lines: Lines) -> None:
        closed = of(lines, Kind.STEP_CLOSED, 2)
        value = closed[field]
        closed[field] = "00" * 32 if isinstance(value, str) else {**value, "silo-1": type(value["silo-1"])()}
        if field in ("data_commitments", "approvals", "upload_digests"):
            closed[field]["silo-1"] = "00" * 32

    rewrite(old, change)
    assert refused(old).where.endswith(f"(step-closed), {field}")


def test_the_void_step_and_the_last_are_bound_to_the_chain(old: OldFederation) -> None:
    rewrite(old, lambda lines: of(lines, Kind.STEP_VOID).update(chain="00" * 32))
    assert refused(old).where.endswith("(step-void), chain")


def test_another_upload_is_found(old: OldFederation) -> None:
    path = old.home.run_folder(RUN).upload_path(1, "silo-2", "expert-0")
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    assert "signed by silo-2" in refused(old).where


def test_another_state_is_found(old: OldFederation) -> None:
    rewrite(old, lambda lines: of(lines, Kind.STEP_CLOSED, 1).update(state_digest="00" * 32))
    assert refused(old).where.endswith("state_digest")


@pytest.mark.parametrize("field", ["plan", "nonce", "job", "state_digest"])
def test_another_beginning_is_found(old: OldFederation, field: str) -> None:
    other = {"plan": "AQ==", "nonce": "00" * 32, "job": "{}", "state_digest": "00" * 32}[field]
    rewrite(old, lambda lines: of(lines, Kind.RUN_STARTED).update({field: other}))
    assert "run-started" in refused(old).where


def test_a_countersignature_of_something_else_is_found(old: OldFederation) -> None:
    fields = {"run": old.record.id, "chain": bytes(32), "ledger": bytes(32), "silo": "silo-1"}
    for key in (old.key("silo-1.agent"), old.key("consortium")):
        closing = {"silo-1": signed("closing", fields, key).hex()}
        rewrite(old, lambda lines, new=closing: of(lines, Kind.RUN_FINISHED)["countersignatures"].update(new))  # type: ignore[misc]
        assert refused(old).where.endswith("countersignatures, silo-1")


def test_refusals_are_the_silos(old: OldFederation) -> None:
    fields = {"silo": "silo-4", "run": old.record.id, "step": 1, "attempt": 0, "phase": "deal", "code": "LEAVING"}
    decline = signed("decline", fields | {"blame": ""}, old.key("silo-4.agent"))
    record = {"run": RUN, "k": 1, "name": "train/0", "silo": "silo-4", "phase": "deal", "code": "LEAVING"}

    def noted(**changes: object) -> Callable[[Lines], object]:
        def change(lines: Lines) -> None:
            place = next(at for at, line in enumerate(lines) if line[0] is Kind.STEP_OPENED and line[1]["k"] == 1) + 1
            if lines[place][0] is Kind.REFUSAL:
                del lines[place]
            lines.insert(place, [Kind.REFUSAL, {**record, "decline": decline.hex(), **changes}, lines[place][2]])

        return change

    rewrite(old, noted(code="REPLAY"))
    assert refused_but_for_the_end(old).endswith("(refusal), code")
    rewrite(old, noted(decline=signed("decline", fields | {"blame": "", "attempt": 1}, old.key("silo-4.agent")).hex()))
    assert refused_but_for_the_end(old).endswith("(refusal), decline")
    forged = signed("decline", fields | {"blame": ""}, old.key("silo-3.agent"))
    rewrite(old, noted(decline=forged.hex()))
    assert refused_but_for_the_end(old).endswith("(refusal), decline")


def test_a_silo_without_an_agent_signed_a_refusal_that_names_no_run(old: OldFederation) -> None:
    fields = {"silo": "silo-4", "run": bytes(32), "step": 0, "attempt": 0, "phase": "open", "code": "NOT_APPROVED"}
    decline = signed("decline", fields | {"blame": ""}, old.key("silo-4.agent")).hex()
    record = {"run": RUN, "k": 1, "name": "train/0", "silo": "silo-4", "phase": "open", "code": "NOT_APPROVED"}

    def change(lines: Lines) -> None:
        place = next(at for at, line in enumerate(lines) if line[0] is Kind.STEP_OPENED and line[1]["k"] == 1) + 1
        lines.insert(place, [Kind.REFUSAL, {**record, "decline": decline}, lines[place][2]])

    rewrite(old, change)
    without_countersignatures(old)
    report = verify(old)
    said = next(line.detail for line in report.lines if line.name == "refusals")
    assert said == "1 signed by the silo that refused, 1 of them before it knew the run"


def refused_but_for_the_end(old: OldFederation) -> str:
    """Where the verification fails once nobody has countersigned."""
    without_countersignatures(old)
    return refused(old).where


def without_countersignatures(old: OldFederation) -> None:
    """A line more changes the head that silos signed."""

    def nobody(lines: Lines) -> None:
        before = len(lines) - next(at for at, line in enumerate(reversed(lines)) if line[0] is Kind.RUN_FINISHED) - 1
        assert before > 0
        of(lines, Kind.RUN_FINISHED).update(countersignatures={})

    rewrite(old, nobody)
    ended = next(entry for entry in read(old.home.ledger_path) if entry.kind is Kind.RUN_FINISHED)
    rewrite(old, lambda lines: of(lines, Kind.RUN_FINISHED).update(ledger_head=ended.prev))


def test_the_approvals_are_the_data_owners(old: OldFederation) -> None:
    def change(lines: Lines) -> None:
        shown = of(lines, Kind.APPROVAL)
        fields = fields_of("approval", bytes.fromhex(shown["approval"])) | {"max_runs": 99}
        shown["approval"] = signed("approval", fields, old.key("silo-1.owner")).hex()

    rewrite(old, change)
    assert "(approval)" in refused(old).where


def test_charters_are_the_consortiums(old: OldFederation) -> None:
    path = old.home.pinned.path
    path.write_bytes(seal("charter", old.charter_bytes, old.key("aggregator")))
    assert refused(old).where == "charter.bin"


def test_a_protocol_that_nobody_knows_is_named(old: OldFederation) -> None:
    rewrite(old, lambda lines: of(lines, Kind.RUN_STARTED).update(protocol="consilium/99"))
    error = refused(old)
    assert error.where.endswith("(run-started), protocol") and "consilium/99" in str(error.found)


# --- receipts ----------------------------------------------------------------------------------------------------


def test_a_receipt_holds_alone_and_against_the_ledger(old: OldFederation) -> None:
    ledger = read_ledger(old.home, CONSORTIUM, VerificationReport("ledger"))
    for silo in ("silo-1", "silo-5"):
        report = VerificationReport("receipt")
        receipt = check_receipt(old.receipt(silo), ledger.epochs, report)
        assert "5 steps, 1 of them void" in report.lines[0].detail
        compare(ledger, receipt, report)
        assert [line.name for line in report.of(CheckOutcome.OK)] == ["receipt", "run", "history"]
        assert [line.name for line in report.of(CheckOutcome.NOTE)] == ["protocol"]


def test_a_receipt_of_another_hand_or_version_is_none(old: OldFederation) -> None:
    epochs = Epochs(old.key("consortium").public, (old.charter(),))
    path, data = old.receipt("silo-1"), old.receipt("silo-1").read_bytes()
    fields = fields_of("receipt", data)
    for other, text in (
        (signed("receipt", fields, old.key("silo-2.agent")), "BAD_SIGNATURE"),
        (data[:4] + b"\x09" + data[5:], "Version 9"),
        (signed("receipt", fields | {"chain": bytes(32)}, old.key("silo-1.agent")), ""),
        (signed("receipt", fields | {"charter": bytes(32)}, old.key("silo-1.agent")), "there are"),
    ):
        path.write_bytes(other)
        with pytest.raises(EvidenceError) as caught:
            check_receipt(path, epochs, VerificationReport("receipt"))
        assert text in str(caught.value.found)


def test_a_ledger_that_tells_another_story_than_the_receipt_is_found(old: OldFederation) -> None:
    fields = fields_of("receipt", old.receipt("silo-1").read_bytes())
    report = VerificationReport("receipt")
    receipt = check_receipt(old.receipt("silo-1"), Epochs(old.key("consortium").public, (old.charter(),)), report)
    rewrite(old, lambda lines: of(lines, Kind.STEP_CLOSED, 1).update(chain="00" * 32))
    assert fields["steps"][1]["k"] == 1
    with pytest.raises(EvidenceError) as caught:
        compare(read_ledger(old.home, CONSORTIUM, report), receipt, report)
    assert caught.value.where.endswith("(step-closed), chain")
