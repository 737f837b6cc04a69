"""An MLflow that somebody has edited by hand is found out, and each edit is named."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.run_record import CheckedLedger
from aggregator.tracking import compare_runs
from aggregator.tracking import follower as tracking_follower
from aggregator.tracking.client import connect
from aggregator.tracking.compare_runs import compare
from aggregator.tracking.diff import Difference
from aggregator.verify.models import checked_ledger
from crypto.errors import EvidenceError
from tests import made_ledger as made
from tests.made_ledger import RUN, approve, finish, make_home, make_run, start
from tests.records import as_record

pytestmark = [pytest.mark.slow, *made.MLFLOW_WARNINGS]

#: silo-3 is in the first and the last.
STEPS = (0, 5, 7)
PLACES = ("runs.artifact_uri", "experiments.artifact_location", "logged_models.artifact_location")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, empty_db: Path) -> Path:
    """A finished job of four steps, one of them void, in MLflow."""
    home = tmp_path_factory.mktemp("aggregator")
    shutil.copy(empty_db, home / "mlflow.db")
    ledger = make_home(home)
    start(home, ledger)
    approve(ledger)
    for k in STEPS:
        ledger.append(as_record("step-closed", made.closed(k)))
    void = {"reason": "COHORT_TOO_SMALL", "phase": "deal", "missing": ["silo-2"]}
    ledger.append(as_record("step-void", {"run": RUN, "k": 8, "name": "train/8", **void}))
    finish(home, ledger, k=8)
    tracking_follower.sync(home)
    return home


def moved(home: Path, place: Path) -> Path:
    """A copy of a home, with its artifacts and a database that knows them at their new place."""
    shutil.copytree(home, place)
    for where in (*PLACES, "model_versions.storage_location"):
        table, column = where.split(".")
        edit(place, f"UPDATE {table} SET {column} = replace({column}, '{home}', '{place}')")
    return place


@pytest.fixture
def copy(followed: Path, tmp_path: Path) -> Path:
    return moved(followed, tmp_path / "home")


@pytest.fixture
def spoilt(followed: Path, tmp_path: Path) -> Iterator[Path]:
    """The job itself; its database is put back afterwards, because MLflow takes its time to open another one."""
    shutil.copy(followed / "mlflow.db", tmp_path)
    yield followed
    with (
        closing(sqlite3.connect(tmp_path / "mlflow.db")) as good,
        closing(sqlite3.connect(followed / "mlflow.db")) as bad,
    ):
        good.backup(bad)


def edit(home: Path, sql: str) -> int:
    """What an intruder with the database's password does; how many rows it changed."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        database.executescript(sql)
        return database.total_changes


def where(found: list[Difference]) -> list[str]:
    return [one.where for one in found]


def test_an_honest_copy_has_no_difference(followed: Path, copy: Path) -> None:
    assert compare(followed) == [] and compare(copy) == [] and compare(copy, run=RUN) == []


STEP = f"run {RUN}, step train/7"
MODEL = f"logged model of run {RUN}"
OF_JOB = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'consilium.record' AND value = 'job')"
OF_STEP = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'consilium.step' AND value = 'train/7')"
SEVEN = "key = 'global.accuracy' AND step = 7"

EDITS: dict[str, tuple[str, list[str]]] = {
    "a metric's value": (
        f"UPDATE metrics SET value = 0.99 WHERE {SEVEN}",
        [f"run {RUN}, metric global.accuracy", f"{STEP}, metric global.accuracy"],
    ),
    "the last value alone": (
        f"UPDATE latest_metrics SET value = 0.99 WHERE key = 'global.accuracy' AND {OF_JOB}",
        [f"run {RUN}, metric global.accuracy, last value"],
    ),
    "a metric's time": (
        f"UPDATE metrics SET timestamp = 0 WHERE {SEVEN} AND {OF_STEP}",
        [f"{STEP}, metric global.accuracy"],
    ),
    "a score that no step opened": (
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
        f"SELECT 'cold.accuracy', 1, 1, 1, 0, run_uuid FROM runs WHERE {OF_STEP}",
        [f"{STEP}, metric cold.accuracy, last value"],
    ),
    "a tag": (
        f"UPDATE tags SET value = 'silo-1' WHERE key = 'consilium.survivors' AND {OF_STEP}",
        [f"{STEP}, tag consilium.survivors"],
    ),
    "an approval's digest": (
        f"UPDATE tags SET value = '{'0' * 64}' WHERE key = 'consilium.approval.silo-2' AND {OF_JOB}",
        [f"run {RUN}, tag consilium.approval.silo-2"],
    ),
    "a tag removed": (
        f"DELETE FROM tags WHERE key = 'consilium.lanes_open' AND {OF_STEP}",
        [f"{STEP}, tag consilium.lanes_open"],
    ),
    "a tag made up": (
        "INSERT INTO tags (key, value, run_uuid) SELECT 'consilium.approval.silo-9', 'ff', run_uuid FROM runs "
        f"WHERE {OF_JOB}",
        [f"run {RUN}, tag consilium.approval.silo-9"],
    ),
    "a step moved to another job": (
        f"UPDATE tags SET value = 'ff' WHERE key = 'mlflow.parentRunId' AND {OF_STEP}",
        [f"{STEP}, tag mlflow.parentRunId"],
    ),
    "the run's description": (
        f"UPDATE tags SET value = 'Differentially private.' WHERE key = 'mlflow.note.content' AND {OF_JOB}",
        [f"run {RUN}, tag mlflow.note.content"],
    ),
    "a parameter": (
        "UPDATE params SET value = '1' WHERE key = 'threshold'",
        [f"run {RUN}, parameter threshold"],
    ),
    "a run's status": (f"UPDATE runs SET status = 'FAILED' WHERE {OF_JOB}", [f"run {RUN}, status"]),
    "a run's times": (
        f"UPDATE runs SET start_time = 1, end_time = 2 WHERE {OF_STEP}",
        [f"{STEP}, start", f"{STEP}, end"],
    ),
    "a data set's digest": (
        f"UPDATE datasets SET digest = '{'0' * 32}' WHERE name = 'silo-3'",
        [f"run {RUN}, data", f"run {RUN}, step train/0, data", f"{STEP}, data"],
    ),
    "a data set's commitment": (
        "UPDATE datasets SET dataset_source = replace(dataset_source, 'silo-3', 'silo-1') WHERE name = 'silo-3'",
        [f"run {RUN}, data", f"run {RUN}, step train/0, data", f"{STEP}, data"],
    ),
    "an input removed": (
        f"DELETE FROM inputs WHERE destination_id IN (SELECT run_uuid FROM runs WHERE {OF_STEP})",
        [f"{STEP}, data"],
    ),
    "a step deleted": (f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE {OF_STEP}", [STEP]),
    "a job deleted": (f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE {OF_JOB}", [f"run {RUN}"]),
    "a job renamed": (
        f"UPDATE tags SET value = 'feedbeef' WHERE key = 'consilium.run' AND {OF_JOB}",
        [f"run {RUN}", "run feedbeef"],
    ),
    "the charter": (
        f"UPDATE experiment_tags SET value = '{'0' * 64}' WHERE key = 'consilium.charter.1'",
        ["experiment demo, tag consilium.charter.1"],
    ),
    "the description": (
        "UPDATE model_versions SET description = replace(description, 'not differential', 'differential')",
        ["version digits/1, description"],
    ),
    "the model's source": (
        "UPDATE model_versions SET source = 'models:/m-evil'",
        ["version digits/1, source"],
    ),
    "where the model's files are": (
        "UPDATE model_versions SET storage_location = 'file:///somewhere/else'",
        ["version digits/1, files loaded from"],
    ),
    "the version's run": (
        "UPDATE model_versions SET run_id = 'ffff'",
        ["version digits/1"],
    ),
    "a version's tag": (
        f"UPDATE model_version_tags SET value = '{'0' * 64}' WHERE key = 'consilium.data.silo-1'",
        ["version digits/1, tag consilium.data.silo-1"],
    ),
    "an alias removed": ("DELETE FROM registered_model_aliases", ["model digits, alias candidate"]),
    "an alias moved": (
        "UPDATE registered_model_aliases SET alias = 'champion'",
        ["model digits, alias candidate", "model digits, alias champion"],
    ),
    "a version renumbered": (
        "UPDATE model_versions SET version = 7; UPDATE model_version_tags SET version = 7",
        ["version digits/1", "version digits/7"],
    ),
    "a logged model's tag": (
        "UPDATE logged_model_tags SET tag_value = '1.0000' WHERE tag_key = 'consilium.global.accuracy'",
        [f"{MODEL}, tag consilium.global.accuracy"],
    ),
    "a logged model's score": (
        "UPDATE logged_model_metrics SET metric_value = 1 WHERE metric_name = 'global.accuracy'",
        [f"{MODEL}, metrics"],
    ),
    "a logged model's run and state": (
        "UPDATE logged_models SET source_run_id = 'ffff', status = 3, name = 'other'",
        [f"{MODEL}, name", f"{MODEL}, status", f"{MODEL}, source run"],
    ),
    "a logged model deleted": ("UPDATE logged_models SET lifecycle_stage = 'deleted'", [MODEL]),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_database_is_found_and_named(spoilt: Path, name: str) -> None:
    sql, places = EDITS[name]
    assert edit(spoilt, sql) > 0
    found = compare(spoilt)
    assert where(found) == places
    assert all(one.expected != one.found for one in found)


# --- more than the finished job ----------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FILES = ("MLmodel", "predictor.py", "requirements.txt", "conda.yaml", "python_env.yaml", "model-card.md")
FILES += ("artifacts/000008.safetensors", "artifacts/published.json", "artifacts/input_example.json")
EVIDENCE = ("evidence/job.txt", "evidence/ledger.jsonl", "evidence/approvals.json", "model-card.md")


def test_a_flipped_byte_in_any_artifact_is_found(copy: Path) -> None:
    (model,) = copy.glob("mlartifacts/models/*/artifacts")
    (run,) = (path.parent for path in copy.glob("mlartifacts/*/artifacts/evidence"))
    assert {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()} == set(FILES)
    for name in FILES:
        flip(model / name)
    for name in EVIDENCE:
        flip(run / name)
    (model / "python_model.pkl").write_bytes(b"runs when it is loaded")
    assert where(compare(copy)) == [
        *(f"run {RUN}, artifact {name}" for name in EVIDENCE),
        *(f"{MODEL}, file {name}" for name in sorted((*FILES, "python_model.pkl"))),
    ]


def test_missing_artifacts_are_found(copy: Path) -> None:
    shutil.rmtree(copy / "mlartifacts")
    assert where(compare(copy)) == [
        *(f"run {RUN}, artifact {name}" for name in EVIDENCE),
        *(f"{MODEL}, file {name}" for name in sorted(FILES)),
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, empty_db: Path) -> Path:
    """Two short runs and a promotion, followed."""
    home = tmp_path_factory.mktemp("pair")
    shutil.copy(empty_db, home / "mlflow.db")
    ledger = make_home(home)
    for run in ("aaaa0001", "bbbb0002"):
        make_run(home, ledger, run)
    tracking_follower.sync(home)
    made.published(home, ledger, "aaaa0001", "1")
    tracking_follower.sync(home)
    return home


@pytest.fixture
def two(pair: Path, tmp_path: Path) -> Path:
    return moved(pair, tmp_path / "home")


def test_an_alias_moved_back_is_found(two: Path) -> None:
    assert compare(two) == []
    connect(tracking_follower.default_uri(AggregatorHome(two))).set_registered_model_alias("digits", "champion", "2")
    assert compare(two) == [Difference("model digits, alias champion", "1", "2")]
    assert str(compare(two)[0]) == "model digits, alias champion: expected 1, found 2"


def test_one_run_can_be_looked_at_alone(two: Path) -> None:
    sql = "UPDATE tags SET value = '7' WHERE key = 'consilium.threshold' AND run_uuid IN (SELECT run_uuid FROM tags "
    edit(two, f"{sql} WHERE key = 'consilium.run' AND value = 'bbbb0002')")
    assert compare(two, run="aaaa0001") == []
    assert where(compare(two, run="bbbb0002")) == ["run bbbb0002, tag consilium.threshold"]


def test_a_version_that_no_run_made_is_found(two: Path) -> None:
    mlflow = connect(tracking_follower.default_uri(AggregatorHome(two)))
    mlflow.create_model_version("digits", "file:///nowhere")
    assert where(compare(two)) == ["version digits/3"]


def test_a_step_made_up_is_found(two: Path) -> None:
    mlflow = connect(tracking_follower.default_uri(AggregatorHome(two)))
    experiment = mlflow.get_experiment_by_name("demo").experiment_id
    (parent,) = mlflow.search_runs([experiment], "tags.`consilium.run`='aaaa0001' and tags.`consilium.record`='job'")
    mlflow.create_run(experiment, tags={"mlflow.parentRunId": parent.info.run_id})
    assert where(compare(two)) == ["run aaaa0001, steps"]


def test_peoples_own_tags_are_theirs(two: Path) -> None:
    mlflow = connect(tracking_follower.default_uri(AggregatorHome(two)))
    for version in mlflow.search_model_versions():
        mlflow.set_model_version_tag(version.name, version.version, "reviewed", "yes")
        mlflow.set_tag(version.run_id, "ticket", "42")
    assert compare(two) == []


def test_a_follower_that_lags_is_one_difference(home: Path) -> None:
    """MLflow is held to what was copied; what was not is one difference, not one for each tag."""
    ledger = make_home(home)
    make_run(home, ledger)
    tracking_follower.sync(home)
    made.published(home, ledger, RUN, "1")
    assert compare(home) == [Difference("lineage", "8 ledger lines in MLflow", "7")]


def test_a_follower_waits_until_the_comparison_is_done(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step half copied is no difference."""

    def reads(home: AggregatorHome) -> CheckedLedger:
        with home.follower_lock_path.open("rb") as follower, pytest.raises(BlockingIOError):
            fcntl.flock(follower, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return checked_ledger(home)

    monkeypatch.setattr(compare_runs, "checked_ledger", reads)
    assert compare(two) == []
    (two / tracking_follower.LOCK_FILE).unlink()
    monkeypatch.undo()
    assert compare(two) == [] and not (two / tracking_follower.LOCK_FILE).exists()


def test_what_does_not_check_is_no_difference(copy: Path) -> None:
    """The ledger and the run's own files are the measure: where they are altered, nothing is compared."""
    flip(AggregatorHome(copy).run_folder(RUN).predictor_path)
    with pytest.raises(EvidenceError, match=r"predictor\.py"):
        compare(copy)
    flip(AggregatorHome(copy).ledger_path)
    with pytest.raises(EvidenceError, match="ledger"):
        compare(copy)


def test_what_is_not_there_is_said(copy: Path) -> None:
    with pytest.raises(EvidenceError, match="a run feedbeef"):
        compare(copy, run="feedbeef")
    with pytest.raises(EvidenceError, match="expected an answer"):
        compare(copy, "postgresql+psycopg2://nobody@/mlflow?host=/nowhere")
    os.remove(copy / "mlflow.db")
    with pytest.raises(EvidenceError, match="expected a database"):
        compare(copy)
    assert not (copy / "mlflow.db").exists()
