"""The whole story on real NVFlare: registered → submitted → declined → shown → approved → trained → a model in MLflow →
verified → tampered with, each way found and named → a silo withdrawn → not in the next roster, descendants listed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read
from aggregator.ledger.records import Kind
from aggregator.tracking.client import MlflowClient  # from there: it sets MLflow's environment first
from aggregator.tracking.follower import default_uri
from crypto.home import Home
from jobs.demo.federation import made_up
from jobs.job import JobSpec
from jobs.owner.decisions import approve, deny
from jobs.owner.review import OwnerView
from jobs.security_log.retention import contents
from silo_agent.home import SiloHome
from tests import local
from tests.shared import SILOS, Up, fed, follow, is_job_of, lines_of, submit

pytestmark = [
    pytest.mark.federation,
    # SQLAlchemy's and MLflow's own: ours stay errors.
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}")
        for kind in ("DeprecationWarning", "ResourceWarning", "FutureWarning")
    ),
]

JOB = """
name = "story"
method = "fedavg"
dataset = "wards"
purpose = "A test that tells the whole story."
keep_uploads = "all"
[params]
features = 64
classes = 10
rounds = 2
[timeouts]
phase = 30
step = 60
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("story")


@pytest.fixture(scope="module")
def told(up: Up, place: Path) -> dict[str, str]:
    """The story up to the model: what each chapter left behind. The tests look at the chapters."""
    federation, job = up.federation, place / "story.toml"
    job.write_text(JOB)
    spec = JobSpec.load(job)
    story = {"job": str(job), "digest": spec.digest.hex()}

    # Registered: silo-1 by the command line, the others by the function behind it.
    for silo, home in federation.homes.items():
        arrays = dict(np.load(local.private_file(home)))
        np.savez(place / f"{silo}.npz", allow_pickle=False, **arrays)
        np.savez(place / f"{silo}-mock.npz", allow_pickle=False, **made_up(arrays))
        files = place / f"{silo}.npz", place / f"{silo}-mock.npz"
        if silo == "silo-1":
            words = ("--private", str(files[0]), "--mock", str(files[1]), "--home", str(home))
            story["uid"] = fed("data", "add", "wards", *words)["uid"]
        else:
            OwnerView(SiloHome(home)).catalogue.add("wards", *files)

    # Submitted, and declined by everybody.
    idle(up)
    before = submit(up, str(job), place / "first")
    new = follow(up, before, until={Kind.RUN_FAILED, Kind.RUN_FINISHED})
    story["declined"] = new[-1].record.run

    # Shown, approved by seven, denied by one.
    first = federation.silo("silo-1")
    story["shown"] = json.dumps(fed("requests", "--home", str(first)))
    fed("approve", story["digest"][:12], "--max-runs", "2", "--home", str(first))
    for silo in federation.silos[1:-1]:
        approve(OwnerView(SiloHome(federation.silo(silo))), spec, max_runs=2)
    deny(OwnerView(SiloHome(federation.silo("silo-8"))), story["digest"], "not with our wards")

    # Trained.
    idle(up)
    before = submit(up, str(job), place / "second")
    new = follow(up, before, until={Kind.RUN_FAILED, Kind.RUN_FINISHED})
    assert new[-1].kind is Kind.RUN_FINISHED, new[-1].record
    story["run"] = new[-1].record.run
    story["model"] = registered(up, story["run"])
    return story


def idle(up: Up) -> None:
    """Until no job process of a silo is left: one job at a time."""
    psutil.wait_procs([p for p in up.tree() if is_job_of(p, "silo-")], timeout=60)


def registered(up: Up, run: str, timeout_s: float = 90.0) -> str:
    """name/version of a run's model, once the lineage follower has registered it."""
    path = up.federation.aggregator / "jobs" / run / "mlflow.json"
    end = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < end, "MLflow has no model"
        assert up.process.poll() is None
        psutil.wait_procs([psutil.Process(up.process.pid)], timeout=0.1)
    facts = json.loads(path.read_text())
    return f"{facts['model']}/{facts['version']}"


# --- chapters ----------------------------------------------------------------------------------------------------


def test_without_approval_every_silo_declines_with_its_signature(up: Up, told: dict[str, str]) -> None:
    entries = lines_of(up, told["declined"])
    refusals = [entry.record for entry in entries if entry.kind is Kind.REFUSAL]
    assert {record.silo for record in refusals} == set(up.federation.silos)
    assert {record.code for record in refusals} == {"NOT_APPROVED"} and all(record.decline for record in refusals)
    assert entries[-1].kind is Kind.RUN_FAILED and "fed approve" not in entries[-1].record.detail
    assert not any(entry.kind is Kind.STEP_CLOSED for entry in entries)


def test_the_request_says_what_the_job_would_do(told: dict[str, str]) -> None:
    (request,) = [one for one in json.loads(told["shown"])["requests"] if one["job"] == told["digest"]]
    shown = json.dumps(request)
    for fact in ("story", "fedavg", "wards", "A test that tells the whole story.", "everyone", "test.rows"):
        assert fact in shown


def test_the_trained_run_names_each_silos_approval(up: Up, told: dict[str, str]) -> None:
    entries = lines_of(up, told["run"])
    approvals = {e.record.silo: e.record.digest for e in entries if e.kind is Kind.APPROVAL}
    assert set(approvals) == set(up.federation.silos) - {"silo-8"}
    closed = [entry.record for entry in entries if entry.kind is Kind.STEP_CLOSED]
    assert closed and all(record.approvals == approvals for record in closed)
    assert {e.record.silo for e in entries if e.kind is Kind.REFUSAL} == {"silo-8"}
    assert sorted(entries[-1].record.countersignatures) == sorted(approvals)


def test_mlflow_leads_to_approvals_data_and_cohort_and_back(up: Up, told: dict[str, str]) -> None:
    home = up.federation.aggregator
    client = MlflowClient(
        tracking_uri=default_uri(AggregatorHome(home)), registry_uri=default_uri(AggregatorHome(home))
    )
    name, _, number = told["model"].partition("/")
    version = client.get_model_version(name, number)
    run = client.get_run(version.run_id)
    assert run.data.tags["consilium.run"] == told["run"]
    assert run.data.tags["consilium.purpose"] == "A test that tells the whole story."
    receipts = sorted(e.record.digest for e in read(AggregatorHome(home).ledger_path) if e.kind is Kind.APPROVAL)
    tags = json.dumps(dict(run.data.tags))
    assert sum(digest in tags for digest in receipts) == SILOS - 1
    assert len(run.inputs.dataset_inputs) == SILOS - 1


def test_it_verifies_with_the_silos_receipt_too(up: Up, told: dict[str, str]) -> None:
    home = str(up.federation.aggregator)
    consortium = str(up.federation.root / "consortium" / "consortium.pub")
    if not Path(consortium).exists():
        consortium = str(up.federation.silo("silo-1") / "consortium.pub")
    report = fed("verify", told["model"], "--home", home, "--consortium", consortium)
    assert report["lines"] and not [line for line in report["lines"] if line["outcome"] not in ("ok", "not checked")]
    receipt = up.federation.silo("silo-1") / "receipts" / f"{told['run']}.bin"
    assert fed("verify", str(receipt), "--home", home, "--consortium", consortium)["lines"]


def test_an_mlflow_database_edited_by_hand_is_found(up: Up, told: dict[str, str], tmp_path: Path) -> None:
    home = str(up.federation.aggregator)
    key = ("--consortium", str(up.federation.silo("silo-1") / "consortium.pub"))
    report = fed("verify", told["model"], "--home", home, *key, "--mlflow", "home")
    assert [line["outcome"] for line in report["lines"] if line["name"] == "mlflow"] == ["ok"]
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(Path(home) / "mlflow.db") as source, sqlite3.connect(database) as copy:
        source.backup(copy)
        # The silos of the first step, not a score: where a silo is missing, the scores of the run may stay shut.
        (metric,) = copy.execute("select key from metrics where key like '%sums/silos'").fetchone()
        changed = copy.execute("update metrics set value = 0.99 where key = ?", (metric,)).rowcount
        copy.commit()
    assert changed
    refused = fed("verify", told["model"], "--home", home, *key, "--mlflow", f"sqlite:///{database}", code=50)
    assert metric in refused["detail"] and "0.99" in refused["detail"], refused
    events = (Path(home) / "security.jsonl").read_text()
    assert '"verification-failed"' in events


def flip(path: Path, place: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def edit_line(home: Path, kind: Kind, change: Callable[[str], str], nth: int = 0) -> None:
    path = AggregatorHome(home).ledger_path
    lines = path.read_text().splitlines(keepends=True)
    hits = [at for at, line in enumerate(lines) if f'"kind":"{kind}"' in line]
    lines[hits[nth]] = change(lines[hits[nth]])
    path.write_text("".join(lines))


def swap_plan(home: Path) -> None:
    other = b64encode(bytes(JobSpec.load("fedavg-digits").plan(Home(home).charter()))).decode()

    def change(line: str) -> str:
        fields = json.loads(line)
        fields["record"]["plan"] = other
        return json.dumps(fields, sort_keys=True, separators=(",", ":")) + "\n"

    edit_line(home, Kind.RUN_STARTED, change, nth=-1)


def drop_line(home: Path) -> None:
    path = AggregatorHome(home).ledger_path
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5] + lines[6:]))


def reorder(home: Path) -> None:
    path = AggregatorHome(home).ledger_path
    lines = path.read_text().splitlines(keepends=True)
    lines[4], lines[5] = lines[5], lines[4]
    path.write_text("".join(lines))


def newest(home: Path, run: str, pattern: str) -> Path:
    return sorted((home / "jobs" / run).rglob(pattern))[-1]


#: What was done → how, and what the refusal must name.
TAMPERED: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "a figure on the ledger": (
        lambda home, run: edit_line(
            home, Kind.STEP_CLOSED, lambda line: line.replace('"upload_bytes":', '"upload_bytes":1')
        ),
        "ledger.jsonl line",
    ),
    "a line taken out": (lambda home, run: drop_line(home), "ledger.jsonl line 6"),
    "two lines swapped": (lambda home, run: reorder(home), "ledger.jsonl line 5"),
    "half a line": (
        lambda home, run: AggregatorHome(home).ledger_path.write_bytes(
            AggregatorHome(home).ledger_path.read_bytes()[:-7]
        ),
        "ledger.jsonl line",
    ),
    "another plan": (lambda home, run: swap_plan(home), "ledger.jsonl line"),
    "the evidence of a step": (lambda home, run: flip(newest(home, run, "evidence/*.bin")), "evidence"),
    "a kept upload": (lambda home, run: flip(newest(home, run, "uploads/**/*.u32")), "upload"),
    "the model's weights": (lambda home, run: flip(newest(home, run, "checkpoints/*.safetensors")), "checkpoint"),
    "the predictor's code": (lambda home, run: flip(newest(home, run, "predictor.py")), "predictor.py"),
    "the charter": (lambda home, run: flip(home / "charter.bin"), "charter"),
    "which run MLflow's version is of": (
        lambda home, run: shutil.copy(
            next(path for path in (home / "jobs").glob("*/mlflow.json") if path.parent.name != run),
            home / "jobs" / run / "mlflow.json",
        ),
        "mlflow.json",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_found_and_named(up: Up, told: dict[str, str], tmp_path: Path, what: str) -> None:
    home, run = tmp_path / "aggregator", told["run"]
    shutil.copytree(up.federation.aggregator, home, ignore=shutil.ignore_patterns("nvflare", "mlartifacts", "*.db*"))
    change, named = TAMPERED[what]
    change(home, run)
    refused = fed("verify", run, "--home", str(home), "--consortium", str(home / "consortium.pub"), code=50)
    assert refused["error"] == "EVIDENCE" and named in refused["detail"], refused
    assert "expected" in refused["detail"] and "found" in refused["detail"]


def test_data_changed_after_the_approval_start_nothing(up: Up, told: dict[str, str], tmp_path: Path) -> None:
    """On a copy of silo-2's home: its rows are registered anew, so the approval that it has is for other data."""
    home = tmp_path / "silo-2"
    shutil.copytree(up.federation.silo("silo-2"), home)
    job = JobSpec.load(told["job"])
    arrays = dict(np.load(local.private_file(home, "wards")))
    arrays["y_train"] = arrays["y_train"][::-1].copy()
    np.savez(tmp_path / "new.npz", allow_pickle=False, **arrays)
    np.savez(tmp_path / "mock.npz", allow_pickle=False, **made_up(arrays))
    OwnerView(SiloHome(home)).catalogue.add("wards", tmp_path / "new.npz", tmp_path / "mock.npz", replace=True)
    review = OwnerView(SiloHome(home)).review(job)
    assert "registered anew" in json.dumps(review), review


def test_a_withdrawn_silo_is_in_no_next_roster_and_its_models_are_listed(
    up: Up, told: dict[str, str], place: Path
) -> None:
    federation = up.federation
    home = str(federation.aggregator)
    plan = fed("withdraw", "silo-3", "--plan", "--home", home)
    assert told["model"] in json.dumps(plan) and "everyone" in json.dumps(plan)
    idle(up)
    key = str(federation.root / "consortium" / "consortium.key")
    words = ("--reason", "left the study", "--consortium-key", key, "--federation", str(federation.root))
    done = fed("withdraw", "silo-3", *words, "--home", home)
    assert [silo for silo, refused in done["accepted"].items() if refused] == []
    assert "silo-3" not in Home(federation.aggregator).charter().silos

    # The epoch is another one, so every data owner is asked again; silo-8's stays a no.
    job = JobSpec.load(told["job"])
    before = submit(up, told["job"], place / "third")
    new = follow(up, before, until={Kind.RUN_FAILED, Kind.RUN_FINISHED})
    assert new[-1].kind is Kind.RUN_FAILED
    for silo in sorted(set(federation.silos) - {"silo-3", "silo-8"}):
        approve(OwnerView(SiloHome(federation.silo(silo))), job)
    idle(up)
    before = submit(up, told["job"], place / "fourth")
    new = follow(up, before, until={Kind.RUN_FAILED, Kind.RUN_FINISHED})
    assert new[-1].kind is Kind.RUN_FINISHED, new[-1].record
    (start,) = [entry.record for entry in new if entry.kind is Kind.RUN_STARTED]
    assert "silo-3" not in start.silos
    closed = [entry.record for entry in new if entry.kind is Kind.STEP_CLOSED]
    assert closed and not any("silo-3" in record.survivors for record in closed)

    # The withdrawal is on the ledger and in the lineage of what has its data; not of what has not.
    later = registered(up, new[-1].record.run)
    assert "silo-3" in json.dumps(fed("lineage", told["model"], "--home", home)["model"])
    (withdrawal,) = [
        e.record for e in read(AggregatorHome(federation.aggregator).ledger_path) if e.kind is Kind.WITHDRAWAL
    ]
    assert told["model"] in withdrawal.models and later not in withdrawal.models
    client = MlflowClient(
        tracking_uri=default_uri(AggregatorHome(federation.aggregator)),
        registry_uri=default_uri(AggregatorHome(federation.aggregator)),
    )
    name, _, number = told["model"].partition("/")
    assert "silo-3" in json.dumps(dict(client.get_model_version(name, number).tags))


def test_every_file_that_a_real_federation_leaves_has_a_retention_class(up: Up, told: dict[str, str]) -> None:
    kits = up.federation.root / "kits"
    places = [up.federation.aggregator, *up.federation.homes.values(), *(kit for kit in kits.iterdir() if kit.is_dir())]
    unknown = [
        path for place in places if place.name not in ("admin", "ca") for path, kind in contents(place) if not kind
    ]
    assert unknown == []
