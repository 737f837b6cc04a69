"""What ``fed verify`` may be given is told apart by its contents, and each goes to its own check."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.ledger.records import RunStarted
from aggregator.verify.bundle import write_bundle
from aggregator.verify.report import CheckLine, CheckOutcome, VerificationReport
from aggregator.verify.verified_run import read_ledger
from crypto.equivocation import Pair
from crypto.errors import EvidenceError, SpecError
from crypto.keys import Identity
from crypto.messages import Request
from jobs.evidence.verify import audit, contradiction, find_run, is_contradiction
from tests import local, tampering
from tests.tampering import Finished

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that MLflow calls fedavg-test/3, with a bundle beside it."""
    run = tampering.finish(tmp_path_factory.mktemp("run") / "f", replace(local.spec(rounds=1), keep_uploads="none"))
    note = {"model": "fedavg-test", "version": "3", "run_id": "0", "tracking_uri": ""}
    (run.folder / "mlflow.json").write_text(json.dumps(note))
    write_bundle(run.home, run.run, run.federation.root / "b.zip")
    return run


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of another federation."""
    return tampering.finish(tmp_path_factory.mktemp("other") / "f", replace(local.spec(rounds=1), keep_uploads="none"))


def bundle(run: Finished) -> Path:
    return run.federation.root / "b.zip"


def receipt(run: Finished) -> Path:
    return run.federation.silo("silo-1") / "receipts" / f"{run.run}.bin"


def names(report: VerificationReport, outcome: CheckOutcome = CheckOutcome.OK) -> set[str]:
    return {line.name for line in report.of(outcome)}


@pytest.mark.parametrize("target", ["{run}", "{short}", "fedavg-test/3", "fedavg-test@candidate"])
@pytest.mark.parametrize("where", ["home", "bundle"])
def test_a_run_by_id_and_a_model_by_name(run: Finished, target: str, where: str) -> None:
    shown: list[CheckLine] = []
    report = audit(
        target.format(run=run.run, short=run.run[:6]),
        home=run.home.root if where == "home" else bundle(run), show=shown.append,
    )  # fmt: skip
    assert report.target == f"run {run.run}" and shown == report.lines
    assert {"ledger", "steps", "model", "code"} <= names(report)
    assert ("bundle" in names(report)) == (where == "bundle")


def test_a_runs_folder_and_a_bundle_need_no_home(
    run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "model" in names(audit(str(run.folder), home=None))
    assert "bundle" in names(audit(str(bundle(run)), home=None))
    renamed = tmp_path / run.run  # told apart by its contents
    shutil.copy(bundle(run), renamed)
    assert "bundle" in names(audit(str(renamed), home=None))
    monkeypatch.chdir(run.folder)
    assert "model" in names(audit(".", home=None))


def test_a_receipt_alone_and_against_what_the_aggregator_says(run: Finished, tmp_path: Path) -> None:
    alone = audit(str(receipt(run)), home=None)
    assert alone.target == f"the receipt of silo-1 for run {run.run}"
    assert names(alone) == {"charters", "receipt"} and "history" in names(alone, CheckOutcome.NOT_CHECKED)
    for home in (run.home.root, bundle(run)):
        report = audit(str(receipt(run)), home=home)
        assert {"consortium", "ledger", "receipt", "history"} <= names(report)  # the silo's own pin is compared

    moved = tmp_path / "r.bin"
    shutil.copy(receipt(run), moved)
    assert "receipt" in names(audit(str(moved), home=run.federation.silo("silo-2")))
    assert "history" in names(audit(str(moved), home=run.home.root))
    with pytest.raises(SpecError, match="--home"):
        audit(str(moved), home=None)


def test_what_another_federation_says(run: Finished, other: Finished) -> None:
    key = str(other.home.root / "consortium.pub")
    for target, home in ((run.run, run.home.root), (str(run.folder), None), (str(bundle(run)), None)):
        with pytest.raises(EvidenceError, match=r"consortium\.pub"):
            audit(target, home=home, consortium=key)
    with pytest.raises(EvidenceError, match=r"consortium\.pub"):
        audit(str(receipt(run)), home=other.home.root)
    with pytest.raises(EvidenceError, match=r"consortium\.pub"):
        audit(str(receipt(run)), home=None, consortium=key)


@pytest.mark.parametrize(
    "target", ["nothing", "x" * 5000, "a\0b", "fedavg-test/4", "fedavg-test@champion", "ffffffffffffffff", "0123"]
)
def test_what_is_not_there(run: Finished, target: str) -> None:
    with pytest.raises(SpecError) as caught:
        audit(target, home=run.home.root)
    assert "fedavg-test/3" in caught.value.remedy
    with pytest.raises(SpecError, match="--home"):
        audit(target, home=None)


def test_a_folder_that_is_no_run(run: Finished) -> None:
    with pytest.raises(SpecError, match="jobs/<run>"):
        audit(str(run.home.root), home=None)
    with pytest.raises(EvidenceError, match="expected a ledger"):
        audit(run.run, home=run.federation.silo("silo-1"))


def test_the_beginning_of_two_ids(run: Finished) -> None:
    book = read_ledger(run.home, None, VerificationReport(""))
    started = next(book.of(RunStarted))
    twin = replace(started, record=replace(started.record, run=run.run[:8] + "00000000"))
    both = replace(book, entries=(*book.entries, twin))
    assert find_run(both, run.run) == run.run
    with pytest.raises(SpecError, match=run.run):
        find_run(both, run.run[:8])


def test_contradictions_are_what_is_neither_bundle_nor_receipt(run: Finished, other: Finished) -> None:
    aggregator = Identity.load(run.home.root / "keys" / "aggregator.key")
    one = Request(run=bytes(32), step=0, attempt=0, phase="attest", payload=b"one")
    folder = run.federation.silo("silo-2") / "evidence"
    folder.mkdir(exist_ok=True)
    path = folder / "x.bin"
    path.write_bytes(bytes(Pair(one.sign(aggregator), replace(one, payload=b"two").sign(aggregator))))
    assert is_contradiction(str(path))
    for target in (str(bundle(run)), str(receipt(run)), run.run, str(run.folder)):
        assert not is_contradiction(target)
    pinned, proven = contradiction(path, None, None)  # by what the home around it pins
    assert (pinned.federation, proven.signer) == ("test", "aggregator")
    with pytest.raises(EvidenceError):
        contradiction(path, str(other.home.root / "consortium.pub"), other.home.root / "charter.bin")
    moved = run.federation.root / "x.bin"
    shutil.copy(path, moved)
    with pytest.raises(SpecError, match="--charter"):
        contradiction(moved, None, None)


def test_a_receipt_in_a_home_without_a_charter(run: Finished, tmp_path: Path) -> None:
    home = tmp_path / "silo"
    shutil.copytree(receipt(run).parent, home / "receipts")
    shutil.copy(run.home.root / "consortium.pub", home / "consortium.pub")
    with pytest.raises(EvidenceError, match=r"charter\.bin: .*found none"):
        audit(str(home / "receipts" / receipt(run).name), home=None)
