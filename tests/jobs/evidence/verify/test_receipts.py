"""A silo's receipt: what it proves alone, and how it catches an aggregator that tells another story."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.ledger.records import Kind
from aggregator.verify.charters import Epochs
from aggregator.verify.checks import verify_run
from aggregator.verify.receipts import check_receipt, compare, looks_like_receipt
from aggregator.verify.report import VerificationReport
from aggregator.verify.verified_run import read_ledger
from crypto.encoding import Reader
from crypto.errors import EvidenceError
from crypto.home import Home
from crypto.keys import Identity, PublicIdentity
from crypto.messages import Message, Request
from crypto.receipt import Receipt
from tests import local, tampering
from tests.tampering import Finished, flip, line_of, records, rewrite

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """silo-5 was away in step 1."""

    def away(message: Message, answer: Callable[[], Message]) -> Message | None:
        asked = Request.from_bytes(Reader(message.body).blob())
        return None if asked.step == 1 else answer()

    job = replace(local.spec(), keep_uploads="none")
    return tampering.finish(tmp_path_factory.mktemp("honest") / "f", job, faults={"silo-5": away})


def receipt_of(run: Finished, silo: str = "silo-1") -> Path:
    return run.federation.silo(silo) / "receipts" / f"{run.run}.bin"


def epochs(run: Finished) -> Epochs:
    home = run.federation.silo("silo-1")
    return Epochs(PublicIdentity((home / "consortium.pub").read_bytes()), (Home(home).charter(),))


def against(run: Finished, silo: str = "silo-1") -> VerificationReport:
    report = VerificationReport("receipt")
    receipt = check_receipt(receipt_of(run, silo), epochs(run), report)
    compare(read_ledger(run.home, None, report), receipt, report)
    return report


def refused(run: Finished) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        against(run)
    return caught.value


def change(path: Path, silo_home: Path, **fields: Any) -> None:
    """Another receipt in its place, signed by the silo all the same."""
    old = Receipt.open(path.read_bytes(), lambda _: Identity.load(silo_home / "keys" / "agent.key").public)
    path.write_bytes(replace(old, **fields).sign(Identity.load(silo_home / "keys" / "agent.key")))


def test_a_receipt_holds_alone_and_against_the_ledger(honest: Finished) -> None:
    report = VerificationReport("")
    receipt = check_receipt(receipt_of(honest), epochs(honest), report)
    assert report.target == f"the receipt of silo-1 for run {honest.run}"
    assert receipt.silo == "silo-1" and "4 steps, 0 of them void" in report.lines[0].detail
    for silo in ("silo-1", "silo-5"):
        assert [line.name for line in against(honest, silo).lines][-1] == "history"


def test_what_a_receipt_looks_like(honest: Finished) -> None:
    data = receipt_of(honest).read_bytes()
    assert looks_like_receipt(data)
    assert not looks_like_receipt(data[:-1]) and not looks_like_receipt(b"") and not looks_like_receipt(data + b"\0")
    assert not looks_like_receipt((honest.folder / "evidence" / "000000.bin").read_bytes())


def test_every_flipped_byte_of_a_receipt_is_found(run: Finished) -> None:
    path = receipt_of(run)
    good, known = path.read_bytes(), epochs(run)
    for place in range(len(good)):
        flip(path, place)
        with pytest.raises(EvidenceError) as caught:
            check_receipt(path, known, VerificationReport(""))
        assert caught.value.where.startswith((path.name, "receipt of"))
        path.write_bytes(good)


def test_a_receipt_of_another_federation(run: Finished, tmp_path: Path) -> None:
    other = tampering.finish(tmp_path / "other", replace(local.spec(), keep_uploads="none"))
    with pytest.raises(EvidenceError, match=r"\.bin: expected a charter that the consortium signed"):
        check_receipt(receipt_of(other), epochs(run), VerificationReport(""))


def test_a_receipt_that_its_own_steps_do_not_bear_out(run: Finished) -> None:
    change(receipt_of(run), run.federation.silo("silo-1"), chain=bytes(32))
    with pytest.raises(EvidenceError, match="receipt of silo-1, chain"):
        check_receipt(receipt_of(run), epochs(run), VerificationReport(""))


def test_a_run_that_the_ledger_no_longer_knows(run: Finished) -> None:
    def forget(lines: tampering.Lines) -> None:
        lines[:] = [["recovered", {"bytes": 1, "sha256": "ab" * 32}, lines[0][2]]]

    rewrite(run.home, forget)
    error = refused(run)
    assert error.expected == f"run {run.run}, in which silo-1 took part"


def _closed(lines: tampering.Lines) -> dict[str, Any]:
    return records(lines, Kind.STEP_CLOSED)[1]


@pytest.mark.parametrize(
    ("forge", "where"),
    [
        (lambda lines: records(lines, Kind.RUN_STARTED)[0].update(code_digest="ab" * 32), "code_digest"),
        (lambda lines: _closed(lines).update(transcript="ab" * 32), "transcript"),
        (lambda lines: _closed(lines).update(chain="ab" * 32), "chain"),
        (lambda lines: _closed(lines)["data_commitments"].update({"silo-1": "ab" * 32}), "data_commitments, silo-1"),
        (lambda lines: records(lines, Kind.RUN_FINISHED)[0].update(chain="ab" * 32), "chain"),
    ],
)
def test_another_story_than_the_silo_was_told(
    run: Finished, forge: Callable[[tampering.Lines], object], where: str
) -> None:
    """The head is looked at after the rest, so that the error names the line itself."""
    rewrite(run.home, forge)
    assert refused(run).where.endswith(where)


def test_an_approval_that_the_silo_never_used(run: Finished) -> None:
    def forge(lines: tampering.Lines) -> None:
        next(record for record in records(lines, Kind.APPROVAL) if record["silo"] == "silo-1")["silo"] = "silo-2"

    rewrite(run.home, forge)
    assert "a line approval of silo-1" in refused(run).expected


def test_a_step_that_was_released_is_told_as_void(run: Finished) -> None:
    def forge(lines: tampering.Lines) -> None:
        line = next(line for line in lines if line[0] == Kind.STEP_CLOSED and line[1]["k"] == 3)
        facts = {"reason": "ROUND_LOST", "phase": "deal", "missing": []}
        line[:2] = [str(Kind.STEP_VOID), {key: line[1][key] for key in ("run", "k", "name")} | facts]

    rewrite(run.home, forge)
    assert refused(run).where == f"ledger.jsonl line {line_of(run.home, Kind.STEP_VOID)} (step-void)"


def test_a_history_that_is_right_step_by_step_and_yet_another(run: Finished) -> None:
    """Figures that no message covers: the head that the silo countersigned is gone."""
    rewrite(run.home, lambda lines: _closed(lines).update(upload_bytes=1))
    tampering.countersign(run)
    verify_run(run.home, run.run)  # with every silo's new signature it holds; the old receipt remembers
    assert "which silo-1 countersigned" in refused(run).expected


def test_a_run_without_its_end(run: Finished) -> None:
    rewrite(run.home, lambda lines: lines.pop())
    assert against(run).lines[-2].name == "end"
    rewrite(run.home, lambda lines: [lines.remove(line) for line in list(lines) if line[1].get("k") == 3])
    assert re.search("4 steps", refused(run).expected)
