"""Whose signatures count: the consortium's key, the charters' order, the aggregator's keys."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.verify.charters import read_epochs
from aggregator.verify.checks import verify_run
from aggregator.verify.report import VerificationReport
from crypto.charter import SignedCharter
from crypto.errors import SpecError
from crypto.keys import Identity, PublicIdentity
from tests import local
from tests.records import as_record
from tests.tampering import (
    Finished,
    detail,
    line_of,
    records,
    refused,
    rewrite,
)

# --- the consortium ---------------------------------------------------------------------------------------------------


def test_a_home_of_another_federation(honest: Finished, tmp_path: Path) -> None:
    other = local.federation(tmp_path / "other")
    run = honest.copy(tmp_path / "f")
    pinned = str(other.aggregator / "consortium.pub")
    assert refused(run, consortium=pinned).where == "consortium.pub"
    assert refused(run, consortium=Path(pinned)).where == "consortium.pub"
    fingerprint = PublicIdentity(Path(pinned).read_bytes()).fingerprint
    assert refused(run, consortium=fingerprint).where == "consortium.pub"
    shutil.rmtree(run.home.root / "charters", ignore_errors=True)
    shutil.copy(other.aggregator / "charter.bin", run.home.root / "charter.bin")
    assert "charter.bin" in refused(run).where
    (run.home.root / "charter.bin").unlink()
    rewrite(run.home, lambda lines: [lines.remove(line) for line in list(lines) if line[0] == Kind.CHARTER])
    assert refused(run).where == "charter.bin"


def test_the_fingerprint_that_people_read_out(honest: Finished) -> None:
    key = PublicIdentity((honest.home.root / "consortium.pub").read_bytes())
    for given in (key.fingerprint, key.fingerprint.replace(" ", ""), key.fingerprint.upper().replace(" ", ":")):
        assert detail(verify_run(honest.home, honest.run, consortium=given), "consortium").endswith("as given")
    with pytest.raises(SpecError, match=r"--consortium"):
        verify_run(honest.home, honest.run, consortium="no such file")


def test_a_home_without_the_consortiums_key_and_one_without_the_first_epochs(run: Finished) -> None:
    signed, _ = _next_epoch(run, epoch=3)
    key = (run.home.root / "consortium.pub").rename(run.home.root / "elsewhere.pub")
    assert detail(verify_run(run.home, run.run, consortium=key), "consortium").endswith("from elsewhere.pub")

    for path in (*(run.home.root / "charters").glob("*.bin"), run.home.root / "charter.bin"):
        path.write_bytes(bytes(signed))
    report = VerificationReport("")
    read_epochs(run.home, (), PublicIdentity(key.read_bytes()), report)
    assert "epochs 1 to 2 are missing" in report.lines[-1].detail


# --- epochs -----------------------------------------------------------------------------------------------------------


def _next_epoch(run: Finished, **changes: Any) -> tuple[SignedCharter, Identity]:
    """Epoch 2, signed by the consortium; the aggregator gets a new key unless told otherwise."""
    aggregator = Identity.generate()
    old = run.home.charter()
    new = replace(old, **{"epoch": 2, "previous": old.digest, "aggregator": aggregator.public, **changes})
    return SignedCharter.sign(new, Identity.load(run.federation.root / "consortium" / "consortium.key")), aggregator


def _enter(run: Finished, signed: SignedCharter, by: Identity) -> None:
    record = {
        "epoch": signed.charter.epoch,
        "charter_digest": signed.charter.digest.hex(),
        "charter": bytes(signed).hex(),
    }
    Ledger.open(run.home.ledger_path, by).append(as_record(Kind.CHARTER, record))


LOST = {"run": "0" * 16, "k": 0, "name": "train/0", "silo": "silo-1", "phase": "open"}


def test_the_aggregators_key_changes_with_an_epoch(run: Finished) -> None:
    old = run.aggregator
    signed, new = _next_epoch(run)
    _enter(run, signed, new)
    report = verify_run(run.home, run.run)
    assert re.search(r"epoch 1 \(.*\), 2 \(", detail(report, "charters"))

    Ledger.open(run.home.ledger_path, old).append(as_record(Kind.SILO_LOST, LOST))  # the old key is retired
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
    (run.home.root / "charters" / "000002.bin").write_bytes(bytes(signed))
    assert refused(run).where == named


def test_two_charters_of_one_epoch(run: Finished) -> None:
    signed, _ = _next_epoch(run, epoch=1, previous=bytes(32))
    (run.home.root / "charters" / "000002.bin").write_bytes(bytes(signed))
    assert "one charter of epoch 1" in refused(run).expected


def test_a_charter_record_that_says_something_else(run: Finished) -> None:
    signed, new = _next_epoch(run)
    _enter(run, signed, new)
    rewrite(run.home, lambda lines: records(lines, Kind.CHARTER)[-1].update(epoch=7))
    assert re.fullmatch(r"ledger\.jsonl line \d+ \(charter\)", refused(run).where)


def test_epochs_that_are_not_here_are_not_checked(run: Finished) -> None:
    signed, _ = _next_epoch(run, epoch=5)
    (run.home.root / "charters" / "000005.bin").write_bytes(bytes(signed))
    report = verify_run(run.home, run.run)
    assert "epochs 2 to 4 are missing" in [line for line in report.lines if line.name == "charters"][-1].detail
