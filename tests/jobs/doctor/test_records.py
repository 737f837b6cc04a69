"""Faults of charter, journal, data, approvals and records."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from crypto.charter import Charter, SignedCharter
from crypto.errors import EvidenceError
from crypto.home import Home
from crypto.keys import Identity
from jobs.demo.federation import Federation
from jobs.doctor import records
from jobs.doctor.check import Status
from jobs.flare.local_kits import Kits
from jobs.owner import decisions
from jobs.owner.review import OwnerView
from jobs.security_log.writer import SecurityLog
from silo_agent.home import SiloHome
from silo_agent.journal import Journal
from silo_agent.pysyft.request_queue import RequestQueue
from tests import local
from tests.jobs.doctor.site_copy import SiteCopy, finds, passes, result_of, results
from tests.silo_agent.readers.tables import SCHEMA, patients, write_csv

Made = tuple[Federation, Kits]


def next_epoch(made: Made, **changes: object) -> SignedCharter:
    """The epoch after the pinned one, signed by the consortium."""
    old = Home(made[0].aggregator).charter()
    values = {name: getattr(old, name) for name in Charter.__dataclass_fields__}
    charter = Charter(**{**values, "epoch": 2, "previous": old.digest, **changes})
    return SignedCharter.sign(charter, Identity.load(made[0].root / "consortium" / "consortium.key"))


# --- charter ---------------------------------------------------------------------------------------------------------


def test_no_charter_or_one_that_nobody_signed(silo: SiteCopy, made: Made) -> None:
    path = silo.home_folder / "charter.bin"
    signed = path.read_bytes()
    path.write_bytes(signed[:-1] + bytes([signed[-1] ^ 1]))
    finds(silo, "charter", "does not verify", remedy="fed charter accept")
    path.unlink()
    finds(silo, "charter", "charter.bin", remedy="Pin the charter")
    assert results(silo)["charter.days"].found == "not checked, because charter failed"


def test_a_charter_out_of_date(silo: SiteCopy) -> None:
    assert "days left" in passes(silo, "charter.days")
    finds(silo.later(352), "charter.days", "days left", warns=True, remedy="next epoch")
    finds(silo.later(366), "charter.days", "it ended on", remedy="next epoch")
    finds(silo.later(-2), "charter.days", "not valid before", remedy="clock")


def test_a_silo_that_the_charter_does_not_have(silo: SiteCopy) -> None:
    (silo.home_folder / "silo.json").write_text('{"silo": "silo-9"}')
    finds(silo, "charter.member", "epoch 1 has no silo-9", remedy="fed keygen")


def test_another_key_than_the_charters(silo: SiteCopy, aggregator: SiteCopy, made: Made) -> None:
    shutil.copy(made[0].silo("silo-2") / "keys" / "agent.key", silo.home_folder / "keys" / "agent.key")
    finds(silo, "charter.member", "the charter names", remedy="Restore the key")
    shutil.copy(made[0].silo("silo-2") / "keys" / "agent.key", aggregator.home_folder / "keys" / "aggregator.key")
    finds(aggregator, "charter.aggregator", "the charter names", remedy="Restore the key")


def test_an_epoch_that_waits(silo: SiteCopy, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "charter").mkdir()
    (tmp_path / "charter" / "charter.bin").write_bytes(bytes(next_epoch(made)))
    monkeypatch.setenv("CONSILIUM_CHARTER", str(tmp_path / "charter"))
    finds(silo, "charter.newest", "epoch 1 is pinned, epoch 2 waits", warns=True, remedy="fed charter accept")
    (tmp_path / "charter" / "charter.bin").write_bytes(b"no charter")
    passes(silo, "charter.newest")


def test_an_old_epoch_restored(silo: SiteCopy, made: Made) -> None:
    from jobs.membership.accept import accept

    old = (silo.home_folder / "charter.bin").read_bytes()
    accept(Home(silo.home_folder), bytes(next_epoch(made)))
    passes(silo, "charter.newest")
    (silo.home_folder / "charter.bin").write_bytes(old)
    finds(silo, "charter.newest", "epoch 1 is pinned, and epoch 2 was accepted on", remedy="latest charter.bin")


# --- journal ---------------------------------------------------------------------------------------------------------


def journal(site: SiteCopy) -> tuple[Path, list[bytes]]:
    path = site.home_folder / "journal.jsonl"
    return path, path.read_bytes().splitlines(keepends=True)


def cut(site: SiteCopy, kind: str, nth: int) -> None:
    """Restore the journal as it was before the ``nth`` record of a kind, counted from the end."""
    path, lines = journal(site)
    places = [place for place, line in enumerate(lines) if json.loads(line)["kind"] == kind]
    path.write_bytes(b"".join(lines[: places[-nth]]))


def forget_runs(site: SiteCopy) -> None:
    for folder in ("runs", "receipts"):
        shutil.rmtree(site.home_folder / folder, ignore_errors=True)


def test_a_lost_journal(silo: SiteCopy) -> None:
    journal(silo)[0].unlink()
    finds(silo, "journal", "although this silo took part in run", remedy="Restore the latest journal")
    forget_runs(silo)
    finds(silo, "journal", "although this silo took part in run")  # the security log knows
    (silo.home_folder / "security.jsonl").unlink()
    assert passes(silo, "journal") == "none yet: no run was joined here"
    assert result_of(silo, "journal.newest") is None


def test_a_damaged_journal(silo: SiteCopy) -> None:
    path, lines = journal(silo)
    path.write_bytes(b"".join([*lines[:3], b'{"kind": "released"}\n', *lines[3:]]))
    finds(silo, "journal", "line 4 of journal.jsonl is damaged", remedy="Restore")
    path.write_bytes(b"".join(lines) + b'{"kind"')
    assert "its last line is incomplete" in passes(silo, "journal")
    passes(silo, "journal.newest")


@pytest.mark.parametrize("evidence", ["notes", "log"])
def test_a_journal_from_before_a_run(silo: SiteCopy, evidence: str) -> None:
    cut(silo, "joined", 1)
    if evidence == "notes":
        (silo.home_folder / "security.jsonl").unlink()
        finds(silo, "journal.newest", "of which there is a progress file or a receipt", remedy="Restore the latest")
    else:
        forget_runs(silo)
        finds(silo, "journal.newest", "by the security log", remedy="Restore the latest")


@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_journal_from_before_a_release(silo: SiteCopy, nth: int) -> None:
    cut(silo, "released", nth)
    line = finds(silo, "journal.newest", "was released; the journal has", remedy="fed keygen")
    assert ("no release of it" if nth == 4 else f"step {3 - nth} as its last") in line.found


def test_a_crash_between_the_log_and_the_journal_is_no_old_copy(silo: SiteCopy) -> None:
    run = json.loads(journal(silo)[1][-1]).get("run") or next(
        json.loads(line)["run"] for line in journal(silo)[1] if b'"released"' in line
    )
    log = SecurityLog(Home(silo.home_folder))
    log("shares-released", run=run, step=7, attempt=0, t3="ab" * 32)
    finds(silo, "journal.newest", "was about to be released when the agent ended", warns=True, remedy="A crash")
    log("service-started", service="silo", software="cd" * 32)
    finds(silo, "journal.newest", "was about to be released", warns=True)
    log("shares-released", run=run, step=8, attempt=0, t3="ab" * 32)
    log("refusal", run=run, step=8, phase="unmask-slots", code="NO_SPACE")
    finds(silo, "journal.newest", "step 8", warns=True)
    log("shares-released", run=run, step=9, attempt=0, t3="ab" * 32)
    log("run-ended", run=run, chain="ef" * 32)
    finds(silo, "journal.newest", "step 9")


def test_the_journal_is_read_beside_an_agent(silo: SiteCopy) -> None:
    with Journal(silo.home_folder / "journal.jsonl"):
        passes(silo, "journal")
        passes(silo, "journal.newest")


# --- policy, data, approvals -----------------------------------------------------------------------------------------


def test_a_wrong_policy(silo: SiteCopy) -> None:
    (silo.home_folder / "policy.toml").write_text("[floors]\nexpert-0 = 4\n")
    assert passes(silo, "policy") == "expert-0 = 4"
    (silo.home_folder / "policy.toml").write_text("approved = true\n")
    finds(silo, "policy", "policy.approved", remedy="Approvals are signed")


def test_data_that_are_not_as_registered(silo: SiteCopy) -> None:
    assert passes(silo, "data") == "digits: as registered"
    path = local.private_file(silo.home_folder)
    path.chmod(0o644)
    finds(silo, "data", "mode 644", remedy="chmod 600")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-10] + bytes(10))
    finds(silo, "data", "digits", remedy="")
    (path.parent / "record.json").unlink()
    finds(silo, "data", "half registered", remedy="fed data add")
    shutil.rmtree(silo.home_folder / "syft")
    finds(silo, "data", "none is registered", warns=True, remedy="fed data add")


def test_files_that_changed_and_columns_to_look_at(silo: SiteCopy, tmp_path: Path) -> None:
    (tmp_path / "risk.toml").write_text(SCHEMA)
    source = write_csv(tmp_path / "rows" / "a.csv", [row | {"age": 66} for row in patients()])
    view = OwnerView(SiloHome(silo.home_folder))
    decisions.add_reference(view, "risk", source.parent, tmp_path / "risk.toml")
    finds(silo, "data", "risk: Constant: columns 'age'", warns=True, remedy="fed data add --replace")
    write_csv(source, patients())
    finds(silo, "data", "a.csv has changed since it was registered", remedy="fed data add --replace")


def test_approvals_that_hold_no_more(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passes(silo, "approvals") == "1 in force"
    finds(silo.later(28), "approvals", "1 in force; one ends in 1 days", warns=True, remedy="fed approve")
    finds(silo.later(31), "approvals", "1 expired", warns=True, remedy="fed approve")
    finds(silo.later(-1), "approvals", "1 not valid yet", warns=True)
    with monkeypatch.context() as patched:
        patched.setattr("jobs.release.digest", lambda: bytes(32))
        finds(silo, "approvals", "1 void", warns=True)
    decisions.deny(OwnerView(SiloHome(silo.home_folder)), local.spec().digest.hex(), "no")
    finds(silo, "approvals", "1 denied", warns=True)
    shutil.rmtree(silo.home_folder / "approvals")
    finds(silo, "approvals", "none", warns=True, remedy="fed requests")


def test_an_approval_that_is_used_up(silo: SiteCopy) -> None:
    (path,) = silo.home_folder.glob("approvals/*.approval")
    with Journal(silo.home_folder / "journal.jsonl") as book:
        for run in ("aa", "bb", "cc"):
            book.join(run * 32, path.stem)
    finds(silo, "approvals", "1 used up", warns=True)


def test_an_approval_of_data_that_are_gone(silo: SiteCopy) -> None:
    shutil.rmtree(silo.home_folder / "syft")
    finds(silo, "approvals", "1 void", warns=True)


def test_requests_are_counted(silo: SiteCopy) -> None:
    assert passes(silo, "requests") == "0 wait"
    RequestQueue(SiloHome(silo.home_folder), "silo-1").put(local.spec(rounds=3).text)
    assert passes(silo, "requests") == "1 wait"


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_security_log_that_was_altered(silo: SiteCopy) -> None:
    path = silo.home_folder / "security.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    finds(silo, "security-log", "number 2", remedy="who could write this home")


def test_a_ledger_that_was_changed(aggregator: SiteCopy) -> None:
    path = AggregatorHome(aggregator.home_folder).ledger_path
    whole = path.read_bytes()
    assert passes(aggregator, "ledger").startswith("complete")
    path.write_bytes(whole.replace(b'"epoch":1', b'"epoch":2', 1))
    finds(aggregator, "ledger", "ledger.jsonl line", remedy=".head")
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    finds(aggregator, "ledger", "expected", remedy="fed verify")
    shutil.rmtree(path.parent)
    assert passes(aggregator, "ledger") == "none yet: no run was made here"


def test_a_database_that_is_locked_or_no_database(aggregator: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ANSWER_S", 0.1)
    path = aggregator.home_folder / "mlflow.db"
    assert "made with the first run" in passes(aggregator, "mlflow")
    assert not path.exists()
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE t (x)")
        assert "answers" in passes(aggregator, "mlflow")
        writer.execute("BEGIN IMMEDIATE")
        finds(aggregator, "mlflow", "database is locked", remedy="CONSILIUM_TRACKING_URI")
    path.write_bytes(b"no database" * 100)
    finds(aggregator, "mlflow", "not a database")


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "http", "ftp"])
def test_mlflow_out_of_reach_and_its_password(
    aggregator: SiteCopy, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    monkeypatch.setenv("CONSILIUM_TRACKING_URI", f"{scheme}://kim:s3cret-word@127.0.0.1:{port}/mlflow?password=0ther")
    line = finds(aggregator, "mlflow", "" if scheme == "ftp" else f"127.0.0.1:{port}", remedy="MLflow")
    assert "s3cret" not in f"{line}" and "0ther" not in f"{line}"


def test_an_address_that_is_none(aggregator: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIUM_TRACKING_URI", "postgresql://kim:s3/cret@db.example/mlflow")
    assert "s3" not in f"{finds(aggregator, 'mlflow', 'CONSILIUM_TRACKING_URI is no address', remedy='Quote')}"


def test_what_a_driver_says_does_not_hold_the_password(aggregator: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(uri: str) -> None:
        raise OSError(f"cannot open {uri}, that is kim and s3 cret, or s3%20cret")

    monkeypatch.setattr(records, "_ask", down)
    monkeypatch.setenv("CONSILIUM_TRACKING_URI", "postgresql://kim:s3%20cret@db.example/mlflow")
    line = finds(aggregator, "mlflow", "cannot open postgresql://db.example/mlflow, that is kim and …, or …")
    assert "s3" not in f"{line}"


def test_a_ledger_that_grows_while_it_is_read(aggregator: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    path = AggregatorHome(aggregator.home_folder).ledger_path
    whole, key, line = records.verify, Identity.load(aggregator.home_folder / "keys" / "aggregator.key"), b""
    readings = []

    def verify(path: Path, public: object) -> str:
        readings.append(path)
        if len(readings) == 1 or line:
            with path.open("ab") as file:
                file.write(line or b"half")
            raise EvidenceError("ledger", expected="whole lines", found="half of one")
        path.write_bytes(path.read_bytes().removesuffix(b"half"))
        return whole(path, key.public)

    monkeypatch.setattr(records, "verify", verify)
    assert passes(aggregator, "ledger").startswith("complete") and len(readings) == 2
    line = b"more"
    finds(aggregator, "ledger", "it grew at each reading", warns=True, remedy="no run")
    assert path.exists()


def test_records_that_mlflow_lacks(aggregator: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "records behind" in passes(aggregator, "mlflow.backlog")
    monkeypatch.setattr(records, "MOST_BEHIND", 3)
    finds(aggregator, "mlflow.backlog", "records behind", warns=True, remedy="catches up")


def test_a_ledger_without_its_head(aggregator: SiteCopy) -> None:
    (AggregatorHome(aggregator.home_folder).ledger_path.parent / "ledger.jsonl.head").unlink()
    found = results(aggregator)
    assert found["ledger"].status is Status.FAIL and "signed head" in found["ledger"].found
    assert found["mlflow.backlog"].found == "not checked, because ledger failed"
    passes(replace(aggregator, kit=None), "security-log")
