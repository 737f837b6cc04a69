"""Retention: every file of a home is of one kind; only expired files are removed, and each removal is logged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read
from aggregator.ledger.records import Kind as Record
from aggregator.verify.checks import verify_run
from crypto.errors import EvidenceError, FederationError, SpecError
from crypto.home import Home
from jobs.cli import retention as verbs
from jobs.demo.federation import Federation
from jobs.flare import local_kits
from jobs.security_log import retention as keep
from jobs.security_log.retention import (
    CLASSES,
    DAY,
    KINDS,
    RECORDS,
    Class,
    Expired,
    apply,
    contents,
    kind_of,
    plan,
    table,
)
from jobs.security_log.writer import SecurityLog, check_log
from silo_agent.home import SiloHome
from tests import local

RUN = "0123456789abcdef"
JOB = "0b7a3f52-5c9c-4b0e-9a55-1f1f8b6a2c11"
NOW = datetime(2026, 11, 21, tzinfo=UTC).timestamp()

#: At least one path of every kind, as the package, NVFlare and MLflow write them.
PATHS: dict[str, list[str]] = {
    "settings": ["silo.json", "aggregator.json", "policy.toml", "metrics.port"],
    "enrolment": ["member.json", "aggregator.pub"],
    "key": ["keys/agent.key", "keys/owner.key", "keys/aggregator.key", "keys/agent.next.key"],
    "charter": ["charter.bin", "consortium.pub", "charters/000001.bin"],
    "security-log": ["security.jsonl", "security-2026-11.jsonl", "security-2026-11.2.jsonl"],
    "security-head": ["security.head"],
    "log": ["log.txt", "log.txt.1", "log.json", "log_fl.txt", "error_log.txt", "pid.fl"],
    "metrics": ["metrics/counter_4711.db", "metrics/gauge_mostrecent_4711.db", "metrics/counter_1.db.damaged"],
    "unfinished": ["approvals/.x.approval.new", "charter.bin.new", "lineage.json.new"],
    "salt": ["salt"],
    "approval": [f"approvals/{'ab' * 32}.approval", f"approvals/{'ab' * 32}-1795230000.denial"],
    "receipt": [f"receipts/{RUN}.bin"],
    "contradiction": [f"evidence/{RUN}-0-0-attest.bin"],
    "journal": ["journal.jsonl"],
    "run-notes": [f"runs/{RUN}.safetensors"],
    "personal-model": [f"personal/{RUN}.safetensors"],
    "catalogue": ["syft/.lock", "syft/owner@silo-1.invalid/private/syft_datasets/v1/digits/data.npz"],
    "probe": ["probe.json", "probe/3-everyone.npy"],
    "ledger": ["ledger/ledger.jsonl", "ledger/ledger.jsonl.head"],
    "checkpoint": [f"jobs/{RUN}/checkpoints/000007.json", f"jobs/{RUN}/checkpoints/000007.safetensors"],
    "step-evidence": [f"jobs/{RUN}/evidence/000007.bin"],
    "predictor": [f"jobs/{RUN}/predictor.py"],
    "release": [f"jobs/{RUN}/release.sha256"],
    "model-card": [f"jobs/{RUN}/model-card.md"],
    "run-index": [f"jobs/{RUN}/mlflow.json", f"jobs/{RUN}/report.html"],
    "upload": [
        f"jobs/{RUN}/uploads/000007/silo-1/expert-0.u32",
        f"jobs/{RUN}/uploads.removed/000007/silo-1/a.u32.part",
    ],
    "sums": [f"jobs/{RUN}/sums/000007/0.u32"],
    "events": [f"jobs/{RUN}/events.jsonl"],
    "run-unfinished": [f"jobs/{RUN}/mlflow.json.new"],
    "registry": ["mlflow.db", "mlflow.db-wal", "mlartifacts/models/m-1/artifacts/model_card.md"],
    "registry-index": ["lineage.json", "lineage.lock", "run.lock", "interrupted.json", f"jobs/{RUN}/lock"],
    "job-store": [f"nvflare/jobs/{JOB}/meta"],
    "kit": ["startup/client.key", "local/privacy.json", "transfer/x", "readme.txt"],
    "nvflare-audit": ["audit.log"],
    "job-folder": [f"{JOB}/log.txt", f"{JOB}/app_silo-1/config/config_fed_client.json"],
}


def trust(home: AggregatorHome, run: str) -> None:
    """A run that verifies."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation whose job is over, its uploads kept."""
    federation = local.federation(tmp_path_factory.mktemp("retention") / "f")
    local.run_job(local.spec(rounds=1), federation.aggregator, federation.homes)
    return federation


#: What makes a folder a silo's home, an aggregator's home, a kit.
MARKS = (["silo.json", "keys/agent.key"], ["aggregator.json", "keys/agent.key"], ["local/consilium.json", "startup/x"])


def kinds(home: Path) -> set[str]:
    return {kind.name for kind in keep.kinds_at(home)}


def known_at(home: Path, path: str) -> bool:
    found = [kind.name for kind in KINDS if kind.pattern.fullmatch(path)]
    return not found or found[0] in kinds(home)


def put(home: Path, *paths: str, days: float = 0.0) -> None:
    """Files that were written so many days ago, and what makes the folder a place that may hold them all."""
    if not any((home / mark[0]).exists() for mark in MARKS):
        for mark in MARKS:
            shutil.rmtree(home, ignore_errors=True)
            for name in mark:
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).write_bytes(b"12345")
            if all(known_at(home, path) for path in paths):
                break
    for path in paths:
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(b"12345")
        os.utime(home / path, (NOW - days * DAY, NOW - days * DAY))


# --- everything is of one kind -----------------------------------------------------------------------------------


def test_every_file_of_a_real_federation_is_of_one_kind(real: Federation) -> None:
    seen = set()
    for home in (real.aggregator, *real.homes.values()):
        SecurityLog(Home(home))("run-joined", run=RUN, job="ab" * 32)
        for path, kind in contents(home):
            assert kind is not None, (
                f"{path.relative_to(real.root)} is of no kind: add it to jobs/security_log/retention.py"
            )
            seen.add(kind.name)
    assert {"ledger", "upload", "checkpoint", "receipt", "approval", "security-log", "catalogue", "key"} <= seen


def test_every_file_of_a_real_kit_is_of_one_kind(tmp_path: Path) -> None:
    silos = ("silo-1", "silo-2", "silo-3")
    made = local_kits.provision(
        tmp_path / "kits",
        name="demo",
        silos=silos,
        port=local_kits.free_port(),
        server_home=AggregatorHome(tmp_path / "aggregator"),
        silo_homes={silo: SiloHome(tmp_path / silo) for silo in silos},
    )
    for kit in (made.server, made.silos["silo-1"]):
        assert {kind.name for _, kind in contents(kit) if kind} == {"kit"}
        assert all(kind for _, kind in contents(kit))


def test_kinds_do_not_overlap_and_each_has_an_example() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) and PATHS.keys() == set(names)
    for name, paths in PATHS.items():
        for path in paths:
            assert kind_of(path).name == name, path
    for stranger in (
        "patients.csv",
        "keys/../x",
        "jobs/x/uploads/y",
        "syft",
        "",
        "receipts/a/b.bin",
        "securityx.jsonl",
    ):
        with pytest.raises(SpecError):
            kind_of(stranger)


def test_every_kind_of_record_has_a_class(real: Federation) -> None:
    assert RECORDS.keys() == set(Record)
    assert {of for of, _ in RECORDS.values()} == {kind_of("ledger/ledger.jsonl").of} == {Class.AUDIT}
    assert {entry.kind for entry in read(real.aggregator / "ledger" / "ledger.jsonl")} <= RECORDS.keys()


def test_the_tables_list_all_of_it() -> None:
    assert CLASSES.keys() == set(Class)
    rows = table().splitlines()
    for kind in KINDS:
        assert f"| {kind.name} | {kind.of} | {kind.why} |" in rows
    for record, (of, why) in RECORDS.items():
        assert f"| `{record}` | {of} | {why} |" in rows
    for name, (_, kept) in CLASSES.items():
        assert f"| {name} | {kept} |" in rows
    assert table() in (Path(__file__).parents[3] / "docs" / "records.md").read_text()


# --- what goes, and when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "days"),
    [
        ("log.txt", 30),
        ("metrics/gauge_mostrecent_999999999.db", 30),
        (f"jobs/{RUN}/events.jsonl", 30),
        (f"runs/{RUN}.safetensors", 30),
        (f"jobs/{RUN}/sums/000001/0.u32", 30),
        ("approvals/.x.approval.new", 30),
        ("error_log.txt", 30),
        ("audit.log", 365),
    ],
)
def test_a_file_goes_when_its_class_is_over_and_not_before(tmp_path: Path, path: str, days: int) -> None:
    put(tmp_path, path, days=days)
    assert plan(tmp_path, NOW) == []
    (one,) = plan(tmp_path, NOW + 60)
    assert (one.path, one.bytes, one.kind) == (tmp_path / path, 5, kind_of(path))


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark[0])
def test_audit_records_and_what_people_own_never_go(tmp_path: Path, mark: list[str]) -> None:
    put(tmp_path, *mark, days=50 * 365)
    for kind in keep.kinds_at(tmp_path):
        if kind.of in (Class.AUDIT, Class.SITE):
            own = [path for path in PATHS[kind.name] if path not in {one[0] for one in MARKS}]
            put(tmp_path, *own, days=50 * 365)
    assert plan(tmp_path, NOW, verified=trust) == []
    for path, kind in contents(tmp_path):
        assert kind is not None
        with pytest.raises(SpecError, match="a class that expires"):
            apply(tmp_path, [Expired(kind, path, 5, 0.0)], SecurityLog(Home(tmp_path)))
        assert path.exists()


def test_a_folder_that_is_no_home_loses_nothing(fed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A wrong --home: whatever our files are called, other people have files of these names."""
    names = [path for paths in PATHS.values() for path in paths if path not in {mark[0] for mark in MARKS}]
    names += ["docs/thesis.new", f"{JOB}/images/a.dcm", "local/x"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (0, 0))
    for verb in (["retention"], ["retention", "--apply"]):
        with pytest.raises(SpecError, match="a silo's or aggregator's home, or a kit"):
            fed(*verb, "--home", str(tmp_path))
    with pytest.raises(SpecError, match="nothing removed"):
        apply(tmp_path, [Expired(kind_of("log.txt"), tmp_path / "log.txt", 5, 0.0)], SecurityLog(Home(tmp_path)))
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark[0])
def test_files_of_another_place_and_of_peoples_own_folders_stay(tmp_path: Path, mark: list[str]) -> None:
    """Only what this kind of place holds is ours; a folder of the owner's inside a home is not."""
    put(tmp_path, *mark, days=5000)
    put(tmp_path, "docs/thesis.new", "mine/a.part", "docs/log.txt", "patients/pid.fl", days=5000)
    put(tmp_path, "metrics/study.db", "models/patients.part", "data/a.new", "runs/mine.safetensors", days=5000)
    for name, paths in PATHS.items():
        if name not in kinds(tmp_path):
            put(tmp_path, *paths, days=5000)
    assert plan(tmp_path, NOW, verified=trust) == []


def test_a_record_dressed_up_as_a_log_does_not_go(tmp_path: Path) -> None:
    put(tmp_path, "ledger/ledger.jsonl", "log.txt", days=100)
    false = Expired(kind_of("log.txt"), tmp_path / "ledger/ledger.jsonl", 5, 0.0)
    (true,) = plan(tmp_path, NOW)
    with pytest.raises(SpecError, match="a class that expires"):
        apply(tmp_path, [true, false], SecurityLog(Home(tmp_path)))
    assert (tmp_path / "ledger/ledger.jsonl").exists() and (tmp_path / "log.txt").exists(), "nothing goes then"


def test_a_security_log_that_was_put_aside_is_as_old_as_its_month(tmp_path: Path) -> None:
    put(tmp_path, "security.jsonl", "security-2025-10.jsonl", "security-2025-11.1.jsonl", "security-2024-12.jsonl")
    put(tmp_path, "security-2020-13.jsonl")  # no month: as old as the file
    gone = [one.path.name for one in plan(tmp_path, NOW)]
    assert gone == ["security-2024-12.jsonl", "security-2025-10.jsonl"]
    put(tmp_path, "security.jsonl", days=1000)
    assert (tmp_path / "security.jsonl") not in [one.path for one in plan(tmp_path, NOW)], "it is being written"


def test_the_counters_of_a_living_process_stay(tmp_path: Path) -> None:
    put(tmp_path, f"metrics/counter_{os.getpid()}.db", "metrics/counter_999999999.db", days=100)
    assert [one.path.name for one in plan(tmp_path, NOW)] == ["counter_999999999.db"]


def test_a_jobs_folder_goes_as_a_whole(tmp_path: Path) -> None:
    put(tmp_path, f"{JOB}/meta.json", f"{JOB}/app/config/x.json", days=100)
    put(tmp_path, f"{JOB}/log.txt", days=3)
    assert plan(tmp_path, NOW) == []
    (one,) = plan(tmp_path, NOW + 30 * DAY)
    assert (one.path, one.bytes) == (tmp_path / JOB, 15)
    apply(tmp_path, [one], SecurityLog(Home(tmp_path)))
    assert not (tmp_path / JOB).exists()


def test_what_is_of_no_kind_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "patients.csv", days=5000)
    assert plan(tmp_path, NOW) == []
    assert [path.name for path, kind in contents(tmp_path) if kind is None] == ["patients.csv"]
    with pytest.raises(SpecError, match="folder"):
        plan(tmp_path / "nowhere", NOW)


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "keep.txt").write_bytes(b"12345")
    home = tmp_path / "home"
    put(home, "silo.json")
    (home / "log.txt").symlink_to(tmp_path / "elsewhere" / "keep.txt")
    os.utime(home / "log.txt", (0, 0), follow_symlinks=False)
    apply(home, plan(home, NOW), SecurityLog(Home(home)))
    assert not (home / "log.txt").is_symlink() and (tmp_path / "elsewhere" / "keep.txt").exists()


def test_each_removal_is_told(tmp_path: Path) -> None:
    put(tmp_path, f"jobs/{RUN}/uploads/000001/silo-1/a.u32", "log.txt", f"jobs/{RUN}/sums/x", days=100)
    assert apply(tmp_path, plan(tmp_path, NOW, verified=trust), SecurityLog(Home(tmp_path))) == 15
    told = [json.loads(line)["fields"] for line in (tmp_path / "security.jsonl").read_text().splitlines()][1:]
    assert told == [
        {"kind": "sums", "path": f"jobs/{RUN}/sums/x", "bytes": 5},
        {"kind": "upload", "path": f"jobs/{RUN}/uploads", "bytes": 5},
        {"kind": "log", "path": "log.txt", "bytes": 5},
    ]
    assert check_log(Home(tmp_path)).events["record-removed"] == 3


def test_a_name_that_is_no_path_for_the_log_is_told_by_its_kind(tmp_path: Path) -> None:
    put(tmp_path, "probe/3-a%2Fb.npy", days=100)
    apply(tmp_path, plan(tmp_path, NOW), SecurityLog(Home(tmp_path)))
    told = [json.loads(line)["fields"] for line in (tmp_path / "security.jsonl").read_text().splitlines()][1:]
    assert told == [{"kind": "probe", "path": "probe", "bytes": 5}]


# --- uploads -----------------------------------------------------------------------------------------------------


def lines_of(home: Path, run: str) -> list[str]:
    return [str(line) for line in verify_run(AggregatorHome(home), run).lines]


def test_uploads_go_once_the_run_verifies_and_the_run_still_verifies_without(real: Federation) -> None:
    home = real.aggregator
    (run,) = (path.name for path in (home / "jobs").iterdir())
    uploads = home / "jobs" / run / "uploads"
    written = max(path.stat().st_mtime for path in uploads.rglob("*.u32"))
    assert not any("not kept" in line for line in lines_of(home, run))
    assert [one for one in plan(home, written + 29 * DAY) if one.kind.of is Class.UPLOAD] == []

    victim = next(uploads.rglob("*.u32"))
    whole = victim.read_bytes()
    victim.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    os.utime(victim, (written, written))
    held: list[tuple[Path, FederationError]] = []
    later = written + 31 * DAY
    found = plan(home, later, held=lambda path, why: held.append((path, why)))
    assert [one for one in found if one.kind.of is Class.UPLOAD] == []
    ((place, why),) = held
    assert place == uploads and isinstance(why, EvidenceError), "uploads that do not verify are evidence"

    victim.write_bytes(whole)
    os.utime(victim, (written, written))
    found = [one for one in plan(home, later) if one.kind.of is Class.UPLOAD]
    assert [one.path for one in found] == [uploads]
    apply(home, found, SecurityLog(Home(home)))
    assert not uploads.exists() and not list(uploads.parent.glob("uploads*"))
    assert any("not kept" in line for line in lines_of(home, run))


def test_uploads_go_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of it, there are no uploads, and not a part of them."""
    put(tmp_path, *(f"jobs/{RUN}/uploads/000001/silo-{i}/a.u32" for i in (1, 2)), days=100)
    put(tmp_path, f"jobs/{RUN}/uploads.removed/000001/silo-1/a.u32", days=3)
    seen: list[bool] = []
    remove = keep.shutil.rmtree  # type: ignore[attr-defined]

    def killed(path: Path, ignore_errors: bool = False) -> None:
        seen.append((tmp_path / "jobs" / RUN / "uploads").exists())
        if len(seen) == 2:
            raise KeyboardInterrupt
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(keep.shutil, "rmtree", killed)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        apply(tmp_path, plan(tmp_path, NOW, verified=trust), SecurityLog(Home(tmp_path)))
    assert seen == [True, False]
    assert len(list((tmp_path / "jobs" / RUN / "uploads.removed").rglob("*.u32"))) == 2


def test_a_removal_that_was_cut_short_is_finished_without_another_look(tmp_path: Path) -> None:
    put(tmp_path, f"jobs/{RUN}/uploads.removed/000001/silo-1/a.u32", days=100)

    def never(home: AggregatorHome, run: str) -> None:
        raise AssertionError("a part of a run's uploads cannot verify")

    (one,) = plan(tmp_path, NOW, verified=never)
    apply(tmp_path, [one], SecurityLog(Home(tmp_path)))
    assert not one.path.exists()


# --- the verbs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def fed() -> Callable[..., tuple[int, str]]:
    app = typer.Typer()
    verbs.register(app)

    def run(*args: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(args), catch_exceptions=False)
        return result.exit_code, result.stdout

    return run


def test_fed_retention_shows_and_removes_only_when_told(fed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    put(tmp_path, "log.txt", "patients.csv", "mlflow.db", f"jobs/{RUN}/uploads/000001/silo-1/a.u32", days=100)
    code, shown = fed("retention", "--home", str(tmp_path))
    assert code == 0 and "expired: log.txt (5 bytes)" in shown and "Nothing was removed" in shown
    assert "of no known kind, kept: patients.csv" in shown and "does not verify" in shown
    assert (tmp_path / "log.txt").exists()
    code, shown = fed("retention", "--home", str(tmp_path), "--apply", "--json")
    found = json.loads(shown.splitlines()[-1])
    assert found["expired"] == [{"kind": "log", "path": "log.txt", "bytes": 5}] and found["removed"]
    assert list(found["held"]) == [f"jobs/{RUN}/uploads"] and found["unknown"] == ["patients.csv"]
    assert not (tmp_path / "log.txt").exists() and (tmp_path / "mlflow.db").exists()


def test_fed_security_log_checks_and_counts(fed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    log = SecurityLog(Home(tmp_path))
    log("login-accepted")
    code, shown = fed("security-log", "--home", str(tmp_path))
    assert code == 0 and "2 lines in 1 files are intact" in shown and "login-accepted" in shown
    code, shown = fed("security-log", "--home", str(tmp_path), "--json")
    assert json.loads(shown.splitlines()[-1])["events"] == {"log-opened": 1, "login-accepted": 1}
    with (tmp_path / "security.jsonl").open("a") as out:
        out.write("{")
    assert "The last line is incomplete" in fed("security-log", "--home", str(tmp_path))[1]
    (tmp_path / "security.head").unlink()
    with pytest.raises(EvidenceError):
        fed("security-log", "--home", str(tmp_path))


def test_what_the_verb_verifies_is_what_fed_verify_does() -> None:
    with pytest.raises(FederationError):
        keep.verified_run(AggregatorHome(Path("nowhere")), RUN)
