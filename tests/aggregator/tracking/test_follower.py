"""MLflow follows the ledger: once, whatever crashes, without torch, and never the other way round."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.log import Ledger
from aggregator.tracking import client as tracking_client
from aggregator.tracking import follower
from aggregator.tracking.client import DOWN, MlflowClient, MlflowException, connect
from aggregator.tracking.compare_runs import compare
from aggregator.tracking.run_page import TAG_LIMIT, texts
from crypto.errors import EvidenceError, SpecError
from crypto.transcript import PROTOCOL
from tests import made_ledger as made
from tests.made_ledger import RUN, SILOS, STEPS, Clock, closed, finish, make_home, make_run, start
from tests.records import as_record

pytestmark = [pytest.mark.slow, *made.MLFLOW_WARNINGS]


def client(home: Path) -> MlflowClient:
    return connect(follower.default_uri(AggregatorHome(home)))


def runs(home: Path, record: str) -> list[Any]:
    mlflow = client(home)
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    query = f"tags.`consilium.record` = '{record}'"
    return list(mlflow.search_runs(experiments, query, order_by=["attributes.start_time"]))


def census(home: Path) -> tuple[int, int, int, int]:
    """Parents, children, versions, logged models."""
    experiments = [experiment.experiment_id for experiment in client(home).search_experiments()]
    models = client(home).search_logged_models(experiments)
    return len(runs(home, "job")), len(runs(home, "step")), len(client(home).search_model_versions()), len(models)


# --- what is there -----------------------------------------------------------------------------------------------


def test_a_job_is_a_run_and_a_step_a_child(job: Path) -> None:
    assert census(job) == (1, STEPS + 1, 1, 1)
    parent = runs(job, "job")[0]
    assert parent.info.status == "FINISHED" and parent.info.run_name == "digits 0123abcd"
    tags = parent.data.tags
    assert tags["consilium.job_digest"] == "11" * 32 and tags["consilium.plan_digest"] == made.PLAN.digest.hex()
    assert tags["consilium.code_digest"] == made.CODE and tags["consilium.nonce"] == made.NONCE
    assert tags["consilium.purpose"] == made.PURPOSE and json.loads(tags["consilium.versions"])["mlflow"] == "3.17.2"
    assert tags["consilium.cohort_size"] == "3" and tags["consilium.method"] == "fedavg"
    assert json.loads(tags["consilium.countersigned_by"]) == list(SILOS)
    own = {key: str(value) for key, value in made.PARAMS.items()}
    told = {"dataset": "digits", "keep_uploads": "all", "method": "fedavg", "model_name": "digits", "threshold": "2"}
    assert parent.data.params == own | told | {"protocol": PROTOCOL}
    children = runs(job, "step")
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert [child.info.status for child in children] == ["FINISHED"] * STEPS + ["FAILED"]
    assert children[5].data.tags["consilium.lost"] == '{"silo-3":"contribute"}'
    assert children[5].data.tags["consilium.cohort_size"] == "2"
    assert children[6].data.tags["consilium.refusals"] == '{"silo-3":"NOT_APPROVED"}'
    assert children[STEPS].data.tags["consilium.reason"] == "COHORT_TOO_SMALL"


def test_a_step_says_what_became_of_it(job: Path) -> None:
    notes = [child.data.tags["mlflow.note.content"] for child in runs(job, "step")]
    assert notes[0].startswith("3 of 3 silos summed: silo-1, silo-2, silo-3. Absent: nobody. Lanes opened: everyone")
    assert "2 of 3" in notes[5] and "Absent: silo-3 (no answer in phase contribute)" in notes[5]
    assert "Absent: silo-3 (refused: NOT\\_APPROVED)" in notes[6]
    assert notes[STEPS].startswith("Void in phase deal: COHORT\\_TOO\\_SMALL. Missing: silo-2.")


def test_the_federation_is_an_experiment_that_names_its_charters(job: Path) -> None:
    experiment = client(job).get_experiment(runs(job, "job")[0].info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"  # pages of runs, not of chats
    assert experiment.name == "demo" and experiment.tags["consilium.charter.1"] == made.CHARTER.digest.hex()


def test_metrics_are_opened_sums_and_their_ratios(job: Path) -> None:
    child = runs(job, "step")[7]
    assert child.data.metrics["global.accuracy"] == pytest.approx(0.47)
    assert child.data.metrics["system/sums/test.rows"] == 100 and child.data.metrics["system/cohort/survivors"] == 3
    assert child.data.metrics["system/phase_ms/deal"] == 5 and child.data.metrics["system/upload_bytes"] == 216
    history = client(job).get_metric_history(runs(job, "job")[0].info.run_id, "global.accuracy")
    assert [(point.step, round(point.value, 2)) for point in history] == [(k, (40 + k) / 100) for k in range(STEPS)]


def test_data_commitments_lead_to_the_runs_and_back(job: Path) -> None:
    parent, child = runs(job, "job")[0], runs(job, "step")[5]
    for run, silos in ((parent, 3), (child, 2)):
        inputs = client(job).get_run(run.info.run_id).inputs.dataset_inputs
        assert len(inputs) == silos
        for given in inputs:
            tags = {tag.key: tag.value for tag in given.tags}
            assert given.dataset.digest == tags["commitment"][:32] and len(tags["commitment"]) == 64
            assert given.dataset.source_type == "consilium-silo" and given.dataset.name in SILOS
            assert run.data.tags[f"consilium.data.{given.dataset.name}"] == tags["commitment"]
    first = made.commitment("silo-1")
    for query in (f"dataset.digest = '{first[:32]}'", f"tags.`consilium.data.silo-1` = '{first}'"):
        found = client(job).search_runs([parent.info.experiment_id], query)
        assert parent.info.run_id in {run.info.run_id for run in found} and len(found) == STEPS + 1
    from mlflow.data import get_source  # here, because MLflow reads its environment when it is imported

    assert isinstance(get_source(inputs[0]), follower.SiloSource)  # MLflow finds it by its entry point
    with pytest.raises(EvidenceError, match="never leaves"):
        follower.SiloSource.from_dict(json.loads(inputs[0].dataset.source)).load()


def test_approvals_lead_to_the_runs_and_back(job: Path) -> None:
    parent = runs(job, "job")[0]
    query = f"tags.`consilium.approval.silo-3` = '{made.APPROVALS['silo-3']}'"
    found = client(job).search_runs([parent.info.experiment_id], query)
    assert len(found) == 1 + STEPS - 2  # not in the two steps that it missed
    path = client(job).download_artifacts(parent.info.run_id, "evidence/approvals.json")
    told = json.loads(Path(path).read_text())
    assert [one["silo"] for one in told] == list(SILOS)
    assert told[0] | {"digest": made.APPROVALS["silo-1"], "max_runs": 3, "purpose": made.PURPOSE} == told[0]
    assert told[0]["not_after"] == "2027-01-01 00:00 UTC" and told[0]["problem"] == ""
    assert told[0]["commitment"] == made.commitment("silo-1") and told[0]["code"] == made.CODE
    assert told[0]["owner"] == made.OWNERS["silo-1"].public.fingerprint


def test_the_evidence_is_in_the_runs_artifacts(job: Path) -> None:
    run_id = runs(job, "job")[0].info.run_id
    path = client(job).download_artifacts(run_id, "evidence/ledger.jsonl")
    lines = AggregatorHome(job).ledger_path.read_bytes().splitlines(keepends=True)
    assert Path(path).read_bytes() == b"".join(lines[1:])  # one run in this ledger: all but the charter


# --- exactly once ------------------------------------------------------------------------------------------------


def test_syncing_again_changes_nothing(job: Path) -> None:
    before, cursor = census(job), follower.load_cursor(AggregatorHome(job), follower.default_uri(AggregatorHome(job)))
    assert follower.sync(job) == cursor and census(job) == before
    (job / "lineage.json").unlink()  # the cursor is a help, not the memory
    points = len(client(job).get_metric_history(runs(job, "job")[0].info.run_id, "global.accuracy"))
    assert follower.sync(job) == cursor and census(job) == before
    assert len(client(job).get_metric_history(runs(job, "job")[0].info.run_id, "global.accuracy")) == points


VERBS = (
    "create_experiment", "set_experiment_tag", "create_run", "log_batch", "log_inputs", "log_text", "log_outputs",
    "set_terminated", "create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_model_artifact",
    "set_logged_model_tags", "create_registered_model", "create_model_version", "set_model_version_tag",
    "update_model_version", "set_registered_model_alias",
)  # fmt: skip


def test_a_crash_at_any_write_doubles_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that writes to MLflow is once the last thing a follower did; the next one goes on."""
    ledger = make_home(home)
    acts = [
        lambda: make_run(home, ledger),
        lambda: made.published(home, ledger, RUN, "1"),
        lambda: ledger.append(as_record("withdrawal", made.withdrawal("silo-2", ["digits/1"]))),
    ]
    done: set[tuple[str, int]] = set()

    class Killed(BaseException):
        pass

    def deadly(verb: str, real: Any) -> Any:
        def call(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
            calls[verb] = calls.get(verb, 0) + 1
            answer = real(self, *args, **kwargs)
            if (
                place := (
                    verb,
                    follower.load_cursor(AggregatorHome(home), follower.default_uri(AggregatorHome(home))).seq,
                )
            ) not in done:
                done.add(place)
                raise Killed
            return answer

        return call

    calls: dict[str, int] = {}
    for verb in VERBS:
        monkeypatch.setattr(MlflowClient, verb, deadly(verb, getattr(MlflowClient, verb)))
    deaths = 0
    for act in acts:
        act()
        while True:
            try:
                follower.sync(home)
                break
            except Killed:
                deaths += 1
    assert deaths == len(done) > 25 and set(calls) == set(VERBS)
    assert census(home) == (1, 1, 1, 1)
    assert compare(home) == []


@pytest.mark.parametrize(("code", "status"), [("ROUND_LOST", "FAILED"), ("GIVEN_UP", "FAILED"), ("ABORTED", "KILLED")])
def test_a_failed_job_is_a_failed_run_without_a_version(home: Path, code: str, status: str) -> None:
    ledger = make_home(home)
    start(home, ledger)
    ledger.append(as_record("run-failed", {"run": RUN, "code": code, "phase": "deal", "missing": ["silo-2"], "k": 3}))
    ledger.append(as_record("withdrawal", made.withdrawal("silo-2", [])))
    follower.sync(home)
    assert census(home) == (1, 0, 0, 0)
    assert runs(home, "job")[0].info.status == status
    tags = runs(home, "job")[0].data.tags
    assert tags["consilium.failed.code"] == code and tags["mlflow.note.content"].startswith("Tell digits")
    assert compare(home) == []


def test_a_run_that_is_taken_up_again_runs_again(home: Path) -> None:
    ledger = make_home(home)
    start(home, ledger)
    ledger.append(as_record("run-failed", {"run": RUN, "code": "ROUND_LOST", "phase": "deal", "missing": [], "k": 0}))
    ledger.append(as_record("run-resumed", {"run": RUN, "k": 0, "state_digest": "ab" * 32}))
    follower.sync(home)
    assert runs(home, "job")[0].info.status == "RUNNING"
    ledger.append(as_record("step-closed", closed(0)))
    finish(home, ledger)
    follower.sync(home)
    assert runs(home, "job")[0].info.status == "FINISHED" and compare(home) == []


def test_every_kind_of_record_is_taken(home: Path) -> None:
    """What adds nothing to MLflow is passed by: the cursor reaches the end."""
    ledger = make_home(home)
    start(home, ledger)
    step = {"run": RUN, "k": 0, "name": "train/0", "silo": "silo-3"}
    ledger.append(as_record("silo-lost", {**step, "phase": "open"}))
    ledger.append(as_record("refusal", {**step, "phase": "open", "code": "NOT_APPROVED", "decline": "00"}))
    AggregatorHome(home).ledger_path.open("ab").write(b"half a line")
    Ledger.open(AggregatorHome(home).ledger_path, made.ME, clock=Clock())  # says so in a record
    assert follower.sync(home).seq == 4 and census(home) == (1, 0, 0, 0)


def test_much_takes_more_than_one_batch(home: Path) -> None:
    """MLflow takes a hundred tags at once, a hundred parameters and a thousand of all."""
    ledger = make_home(home)
    many_params = {f"rate-{i}": i for i in range(120)}
    start(home, ledger, job=json.dumps({"params": many_params}))
    silos = [f"silo-{i}" for i in range(120)]
    digests = {silo: f"{i:064x}" for i, silo in enumerate(silos)}
    many = {"invited": silos, "survivors": silos, "data_commitments": digests, "approvals": digests}
    slots = {f"slot-{i}": i for i in range(1000)}
    ledger.append(as_record("step-closed", {**closed(0), **many, "slots": slots}))
    follower.sync(home)
    assert runs(home, "step")[0].data.metrics["system/sums/slot-999"] == 999
    assert runs(home, "step")[0].data.tags["consilium.approval.silo-119"] == f"{119:064x}"
    assert compare(home) == []


def test_texts_are_cut_and_cleaned() -> None:
    """No database may choke on what somebody wrote: PostgreSQL holds no NUL, no encoding holds half a character."""
    found = texts({"long": "x" * 9000, "nul": "a\0b", "half": "a\ud800b", "list": ["a", 1]})
    assert len(found["long"]) == TAG_LIMIT and found["long"].endswith("…")
    assert found["nul"] == "a�b" and found["half"] == "a?b" and found["list"] == '["a",1]'


# --- nothing false gets in ---------------------------------------------------------------------------------------


def test_another_ledger_behind_the_cursor_is_noticed(home: Path) -> None:
    start(home, make_home(home))
    follower.sync(home)
    shutil.rmtree(AggregatorHome(home).ledger_path.parent)
    with pytest.raises(EvidenceError):  # shorter than what was read
        Ledger.open(AggregatorHome(home).ledger_path, made.ME, clock=Clock())
        follower.sync(home)


def test_a_run_deleted_by_hand_is_missed_and_can_be_made_again(home: Path) -> None:
    ledger = make_home(home)
    start(home, ledger)
    follower.sync(home)
    client(home).delete_run(runs(home, "job")[0].info.run_id)
    ledger.append(as_record("step-closed", closed(0)))
    with pytest.raises(EvidenceError, match="run 0123abcd in MLflow") as caught:
        follower.sync(home)
    assert "remove lineage.json" in caught.value.remedy
    (home / "lineage.json").unlink()
    follower.sync(home)
    assert census(home)[:2] == (1, 1) and compare(home) == []


def test_a_charter_that_the_consortium_did_not_sign_is_not_tagged(home: Path) -> None:
    ledger = make_home(home)
    forged = bytes(made.SignedCharter.sign(made.CHARTER, made.ME)).hex()
    ledger.append(as_record("charter", {"epoch": 2, "charter_digest": "ab" * 32, "charter": forged}))
    with pytest.raises(follower.FederationError):
        follower.sync(home)
    assert follower.load_cursor(AggregatorHome(home), follower.default_uri(AggregatorHome(home))).seq == 0


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "databricks"])
def test_the_file_store_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SpecError, match="sqlite"):
        follower.sync(tmp_path, uri)


def test_no_ledger_is_nothing_to_do(tmp_path: Path) -> None:
    assert follower.sync(tmp_path) == follower.Cursor()
    assert not (tmp_path / "mlflow.db").exists()


# --- MLflow down -------------------------------------------------------------------------------------------------


class Script:
    """Stands in for an Event: remembers the waits, acts during them, and stops after the last."""

    def __init__(self, *acts: Any) -> None:
        self.waits: list[float] = []
        self._acts = list(acts)

    def is_set(self) -> bool:
        return len(self.waits) >= len(self._acts)

    def wait(self, timeout: float) -> bool:
        self._acts[len(self.waits)]()
        self.waits.append(timeout)
        return self.is_set()


def test_mlflow_down_is_retried_with_patience(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = make_home(home)
    start(home, ledger)
    real = MlflowClient.create_run

    def down(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    def up() -> None:
        monkeypatch.setattr(MlflowClient, "create_run", real)

    monkeypatch.setattr(MlflowClient, "create_run", down)
    script = Script(*[lambda: None] * 4, up, lambda: ledger.append(as_record("step-closed", closed(0))), lambda: None)
    follower.follow(home, None, script, poll_s=0.25, longest_s=8.0)
    assert script.waits == [1.0, 2.0, 4.0, 8.0, 8.0, 0.25, 0.25]
    assert census(home)[:2] == (1, 1)


def test_a_locked_database_costs_no_record(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody holds SQLite's lock while the run goes on: the ledger grows, and MLflow has it all afterwards."""
    monkeypatch.setattr(tracking_client, "ANSWER_S", 0.0)
    ledger = make_home(home)
    make_run(home, ledger, "first")
    holder = sqlite3.connect(home / "mlflow.db", isolation_level=None)

    def lock() -> None:
        holder.execute("BEGIN EXCLUSIVE")
        make_run(home, ledger, "second")

    def more() -> None:
        with pytest.raises(DOWN):
            follower.sync(home)
        made.published(home, ledger, "first", "1")

    script = Script(lock, more, lambda: holder.execute("ROLLBACK"), lambda: None)
    follower.follow(home, None, script)
    holder.close()
    assert script.waits == [1.0, 1.0, 2.0, 1.0]  # followed, locked, still locked, followed
    assert census(home) == (2, 2, 2, 2) and compare(home) == []


def test_a_follower_told_to_stop_finishes_the_book(home: Path) -> None:
    start(home, make_home(home))
    follower.follow(home, None, Script())
    assert census(home)[0] == 1


def test_a_server_nobody_runs_counts_as_down(tmp_path: Path) -> None:
    start(tmp_path, make_home(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(made.ROOT), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "aggregator.tracking.follower", "--home", str(tmp_path), "--tracking-uri", "http://127.0.0.1:9"],
        env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == "" and "MLflow did not take a record" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "lineage.json").exists()


# --- the cursor --------------------------------------------------------------------------------------------------


def test_a_password_in_the_address_is_not_stored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql+psycopg2://mlflow:hunter2@localhost/mlflow"
    ledger = make_home(home)
    make_run(home, ledger)
    monkeypatch.setattr(follower, "connect", lambda _: client(home))  # the address is another, the database is ours
    follower.sync(home, uri)
    for file in (home / "lineage.json", AggregatorHome(home).run_folder(RUN).mlflow_path):
        assert b"hunter2" not in file.read_bytes()
    assert json.loads(file.read_bytes())["tracking_uri"] == "postgresql+psycopg2://localhost/mlflow"
    assert (
        follower.load_cursor(AggregatorHome(home), uri).seq
        == AggregatorHome(home).ledger_path.read_bytes().count(b"\n") - 1
    )
    assert follower.load_cursor(AggregatorHome(home), uri + "2").seq == -1
