"""MLflow follows the ledger: once, whatever crashes, without torch, and never the other way round."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator import lineage
from aggregator.ledger import Ledger, ledger_path
from aggregator.state import run_folder, save_checkpoint, stage_predictor
from crypto.blocks import initial_state, state_digest
from crypto.errors import EvidenceError, SpecError
from crypto.keys import Identity
from silo_agent.methods import Limits, Published, method

# From there, because MLflow must not be imported before its environment is set.
MlflowClient, MlflowException = lineage.MlflowClient, lineage.MlflowException

# SQLAlchemy and MLflow's own: ours stay errors.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "ResourceWarning", "FutureWarning")
]

ROOT = Path(__file__).resolve().parents[2]
ME = Identity(bytes(range(32)))
SILOS = ["silo-1", "silo-2", "silo-3"]
RUN = "0123abcd"
STEPS = 20
PARAMS = {"features": 6, "classes": 3, "hidden": 4, "rounds": STEPS}

LIMITS = Limits(n_max=3, colluders=0, honest=2, lane_floor=2)
PLAN = method("fedavg").plan(PARAMS, LIMITS)
STATE = initial_state(PLAN)


class Clock:
    """One second a line."""

    def __init__(self) -> None:
        self.seconds = 0

    def __call__(self) -> str:
        self.seconds += 1
        return f"2026-01-02T03:{self.seconds // 60:02d}:{self.seconds % 60:02d}.250Z"


def closed(k: int, run: str = RUN) -> dict[str, Any]:
    survivors = SILOS[:2] if k == 5 else SILOS
    return {
        "run": run, "k": k, "name": f"train/{k}", "transcript": f"{k:064x}", "invited": SILOS, "survivors": survivors,
        "lost": {"silo-3": "contribute"} if k == 5 else {}, "refusals": {"silo-3": "NOT_APPROVED"} if k == 6 else {},
        "lanes_open": ["everyone"], "lanes_shut": [], "state_digest": state_digest(STATE).hex(),
        "slots": {"everyone.weight": 3, "test.rows": 100, "global.correct": 40 + k},
        "upload_digests": dict.fromkeys(survivors, "ab" * 32), "upload_bytes": 216, "phase_ms": {"open": 3, "deal": 5},
        "data_commitments": {silo: f"{place:064x}" for place, silo in enumerate(survivors, 10**40)},
    }  # fmt: skip


def finished(weights: str, checkpoint: str, run: str = RUN) -> dict[str, Any]:
    return {
        "run": run, "state_digest": state_digest(STATE).hex(), "chain": "cd" * 32, "checkpoint": checkpoint,
        "countersignatures": dict.fromkeys(SILOS, "ef" * 64), "weights_sha256": weights,
    }  # fmt: skip


def start(home: Path, ledger: Ledger, run: str = RUN) -> None:
    settings = json.dumps({"method": "fedavg", "params": PARAMS | {"learning_rate": 0.05}})
    predictor = stage_predictor(
        run_folder(home, run),
        ROOT / "jobs" / "predictor.py",
        requirements=["numpy", "torch>=2.13"],
        settings=settings,
        shape=(6,),
    )
    facts = {
        "run": run, "job": "name = 'digits'\n", "job_digest": "11" * 32, "plan": base64.b64encode(bytes(PLAN)).decode(),
        "plan_digest": PLAN.digest.hex(), "charter_digest": "22" * 32, "state_digest": state_digest(STATE).hex(),
        "method": "fedavg", "model_name": "digits", "silos": SILOS, "threshold": 2, "protocol": "consilium/1",
        "predictor": predictor, "federation": "demo",
    }  # fmt: skip
    ledger.append("run-started", facts)


def make_job(home: Path) -> Ledger:
    """A finished job of 20 steps and one void one, with its checkpoint."""
    ledger = Ledger.open(ledger_path(home), ME, clock=Clock())
    start(home, ledger)
    for k in range(STEPS):
        ledger.append("step-opened", {"run": RUN, "k": k, "name": f"train/{k}", "invited": SILOS})
        ledger.append("step-closed", closed(k))
    void = {
        "run": RUN,
        "k": STEPS,
        "name": "train/20",
        "reason": "COHORT_TOO_SMALL",
        "phase": "deal",
        "missing": ["silo-2"],
    }
    ledger.append("step-void", void)
    checkpoint = save_checkpoint(run_folder(home, RUN), STEPS - 1, STATE, {"chain": "cd" * 32})
    ledger.append("run-finished", finished(checkpoint.weights_sha256, checkpoint.path))
    return ledger


@pytest.fixture(scope="module")
def empty_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables take seconds to make: made once, copied for each test that wants a database of its own."""
    path = tmp_path_factory.mktemp("db") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def home(tmp_path: Path, empty_db: Path) -> Path:
    shutil.copy(empty_db, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, empty_db: Path) -> Iterator[Path]:
    """A finished job in MLflow. The follower ran in a process where torch and silo_agent cannot be imported."""
    home = tmp_path_factory.mktemp("aggregator")
    shutil.copy(empty_db, home / "mlflow.db")
    make_job(home)
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, "--home", str(home)],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    yield home


_WITHOUT_TORCH = """
import sys
class Barrier:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "silo_agent", "syft", "nvflare", "jobs"):
            raise ImportError(f"{name} is not for the aggregator")
sys.meta_path.insert(0, Barrier())
from aggregator.lineage import main
sys.exit(main())
"""


def _environment(*first: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*first, ROOT)))}


def client(home: Path) -> MlflowClient:
    return MlflowClient(lineage.default_uri(home))


def runs(home: Path, record: str) -> list[Any]:
    mlflow = client(home)
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    return list(
        mlflow.search_runs(experiments, f"tags.`consilium.record` = '{record}'", order_by=["attributes.start_time"])
    )


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
    assert tags["consilium.job_digest"] == "11" * 32 and tags["consilium.plan_digest"] == PLAN.digest.hex()
    assert tags["consilium.cohort_size"] == "3" and tags["consilium.method"] == "fedavg"
    assert json.loads(tags["consilium.countersigned_by"]) == SILOS
    assert client(job).get_experiment(parent.info.experiment_id).name == "demo"
    children = runs(job, "step")
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert [child.info.status for child in children] == ["FINISHED"] * STEPS + ["FAILED"]
    assert children[5].data.tags["consilium.lost"] == '{"silo-3":"contribute"}'
    assert children[5].data.tags["consilium.cohort_size"] == "2"
    assert children[6].data.tags["consilium.refusals"] == '{"silo-3":"NOT_APPROVED"}'
    assert children[STEPS].data.tags["consilium.reason"] == "COHORT_TOO_SMALL"


def test_metrics_are_opened_sums_and_their_ratios(job: Path) -> None:
    child = runs(job, "step")[7]
    assert child.data.metrics["global.accuracy"] == pytest.approx(0.47)
    assert child.data.metrics["slots/test.rows"] == 100 and child.data.metrics["cohort/survivors"] == 3
    assert child.data.metrics["phase_ms/deal"] == 5 and child.data.metrics["upload/bytes"] == 216
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
    found = client(job).search_runs([parent.info.experiment_id], f"dataset.digest = '{10**40:064x}'"[:-33] + "'")
    assert parent.info.run_id in {run.info.run_id for run in found} and len(found) == STEPS + 1
    with pytest.raises(EvidenceError, match="never leaves"):
        lineage.SiloSource.from_dict(json.loads(inputs[0].dataset.source)).load()


def test_the_evidence_is_in_the_runs_artifacts(job: Path) -> None:
    run_id = runs(job, "job")[0].info.run_id
    path = client(job).download_artifacts(run_id, "evidence/ledger.jsonl")
    assert Path(path).read_bytes() == ledger_path(job).read_bytes()  # one run in this ledger: all of its lines


def test_the_version_names_its_evidence(job: Path) -> None:
    version = client(job).get_model_version_by_alias("digits", "candidate")
    facts = finished("", "")
    assert version.version in ("1", 1) and version.tags["consilium.state_digest"] == facts["state_digest"]
    assert version.tags["consilium.chain"] == facts["chain"] and version.tags["consilium.global.accuracy"] == "0.5900"
    assert "differential privacy" in version.description and "1 void" in version.description
    weights = (run_folder(job, RUN) / "checkpoints" / "000019.safetensors").read_bytes()
    assert version.tags["consilium.weights_sha256"] == sha256(weights).hexdigest()


_PREDICT = """
import json, pathlib, sys
import mlflow, numpy as np, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@candidate")
info = model.metadata
x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
try:
    model.predict(x, params={"mode": "personal"})
except Exception as error:
    refusal = str(error)
print(json.dumps({
    "global": model.predict(x).tolist(), "frame": model.predict(pd.DataFrame(x)).tolist(),
    "cold": model.predict(x, params={"mode": "cold"}).tolist(), "refusal": refusal,
    "dtype": str(model.predict(x).dtype), "metadata": info.metadata, "signature": info.signature.to_dict(),
    "files": sorted(info.flavors["python_function"]["artifacts"]),
    "pickles": [str(p) for p in pathlib.Path(sys.argv[2]).rglob("*.pkl")],
}))
"""


def test_the_version_predicts_in_a_fresh_process_without_pickle(job: Path, tmp_path: Path) -> None:
    environment = _environment() | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", _PREDICT, lineage.default_uri(job), str(job)],
        env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    expected = method("fedavg")(PARAMS).predict(Published(STATE), x, "global").argmax(1).tolist()
    assert told["global"] == told["frame"] == told["cold"] == expected and told["dtype"] == "int64"
    assert "never leave it" in told["refusal"]
    assert told["metadata"]["state_digest"] == state_digest(STATE).hex()
    assert len(told["metadata"]["predictor_sha256"]) == 64
    assert [(p["name"], p["default"]) for p in json.loads(told["signature"]["params"])] == [("mode", "global")]
    assert told["files"] == ["input_example", "published", "weights"] and told["pickles"] == []


def test_requirements_are_mlflow_and_what_the_job_names(job: Path) -> None:
    version = client(job).get_model_version_by_alias("digits", "candidate")
    model = client(job).get_logged_model(version.tags["consilium.model_id"])
    folder = Path(model.artifact_location.removeprefix("file://"))
    assert (folder / "requirements.txt").read_text().split() == ["mlflow==3.17.2", "numpy", "torch>=2.13"]
    example = json.loads((folder / "artifacts" / "input_example.json").read_text())
    assert example == {"inputs": [[0.0] * 6]}


# --- exactly once ------------------------------------------------------------------------------------------------


def test_syncing_again_changes_nothing(job: Path) -> None:
    before, cursor = census(job), lineage.load_cursor(job, lineage.default_uri(job))
    assert lineage.sync(job) == cursor and census(job) == before
    (job / "lineage.json").unlink()  # the cursor is a help, not the memory
    points = len(client(job).get_metric_history(runs(job, "job")[0].info.run_id, "global.accuracy"))
    assert lineage.sync(job) == cursor and census(job) == before
    assert len(client(job).get_metric_history(runs(job, "job")[0].info.run_id, "global.accuracy")) == points


def test_a_crash_at_any_write_doubles_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that writes to MLflow is once the last thing a follower did; the next one goes on."""
    ledger = Ledger.open(ledger_path(home), ME, clock=Clock())
    start(home, ledger)
    ledger.append("step-closed", closed(0))
    ledger.append("step-closed", closed(19))
    checkpoint = save_checkpoint(run_folder(home, RUN), 19, STATE, {})
    ledger.append("run-finished", finished(checkpoint.weights_sha256, checkpoint.path))
    verbs = (
        "create_run",
        "log_batch",
        "log_inputs",
        "log_text",
        "log_outputs",
        "set_terminated",
        "create_logged_model",
    )
    verbs += ("log_model_artifacts", "finalize_logged_model", "create_registered_model", "create_model_version")
    verbs += ("set_registered_model_alias", "create_experiment")
    done: set[tuple[str, int]] = set()

    class Killed(BaseException):
        pass

    def deadly(verb: str, real: Any) -> Any:
        def call(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
            calls[verb] = calls.get(verb, 0) + 1
            answer = real(self, *args, **kwargs)
            if (place := (verb, lineage.load_cursor(home, lineage.default_uri(home)).seq)) not in done:
                done.add(place)
                raise Killed
            return answer

        return call

    calls: dict[str, int] = {}
    for verb in verbs:
        monkeypatch.setattr(MlflowClient, verb, deadly(verb, getattr(MlflowClient, verb)))
    deaths = 0
    while True:
        try:
            lineage.sync(home)
            break
        except Killed:
            deaths += 1
    assert deaths == len(done) > 15 and set(calls) == set(verbs)
    assert census(home) == (1, 2, 1, 1)
    parent = runs(home, "job")[0]
    assert parent.info.status == "FINISHED"
    assert [point.step for point in client(home).get_metric_history(parent.info.run_id, "global.accuracy")] == [0, 19]
    assert len(client(home).get_run(parent.info.run_id).inputs.dataset_inputs) == 3


def test_a_second_job_is_a_second_version_and_takes_the_alias(home: Path) -> None:
    ledger = Ledger.open(ledger_path(home), ME, clock=Clock())
    for run in ("first", "second"):
        start(home, ledger, run)
        ledger.append("step-closed", closed(0, run))
        checkpoint = save_checkpoint(run_folder(home, run), 0, STATE, {})
        ledger.append("run-finished", finished(checkpoint.weights_sha256, checkpoint.path, run))
        lineage.sync(home)
    assert census(home) == (2, 2, 2, 2)
    assert client(home).get_model_version_by_alias("digits", "candidate").tags["consilium.run"] == "second"


def test_a_failed_job_is_a_failed_run_without_a_version(home: Path) -> None:
    ledger = Ledger.open(ledger_path(home), ME, clock=Clock())
    start(home, ledger)
    ledger.append("run-failed", {"run": RUN, "code": "ROUND_LOST", "phase": "deal", "missing": ["silo-2"], "k": 3})
    lineage.sync(home)
    assert census(home) == (1, 0, 0, 0)
    assert runs(home, "job")[0].info.status == "FAILED"
    assert runs(home, "job")[0].data.tags["consilium.failed.code"] == "ROUND_LOST"
    ledger.append("withdrawal", {"run": RUN, "silo": "silo-2", "reason": "consent"})
    lineage.sync(home)
    assert runs(home, "job")[0].data.tags["consilium.withdrawal.2"] == '{"reason":"consent","silo":"silo-2"}'


# --- nothing false gets in ---------------------------------------------------------------------------------------


def test_altered_weights_or_code_are_not_registered(home: Path) -> None:
    ledger = Ledger.open(ledger_path(home), ME, clock=Clock())
    start(home, ledger)
    ledger.append("step-closed", closed(0))
    folder = run_folder(home, RUN)
    checkpoint = save_checkpoint(folder, 0, STATE, {})
    ledger.append("run-finished", finished(checkpoint.weights_sha256, checkpoint.path))
    code, weights = folder / "predictor.py", folder / checkpoint.path
    for file in (code, weights):
        good = file.read_bytes()
        file.write_bytes(good + b"#")
        with pytest.raises(EvidenceError, match=r"predictor\.py|safetensors"):
            lineage.sync(home)
        assert client(home).search_model_versions() == []
        file.write_bytes(good)
    lineage.sync(home)
    assert census(home) == (1, 1, 1, 1)


def test_another_ledger_behind_the_cursor_is_noticed(home: Path) -> None:
    ledger = Ledger.open(ledger_path(home), ME, clock=Clock())
    start(home, ledger)
    lineage.sync(home)
    shutil.rmtree(ledger_path(home).parent)
    with pytest.raises(EvidenceError):  # shorter than what was read
        Ledger.open(ledger_path(home), ME, clock=Clock())
        lineage.sync(home)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "databricks"])
def test_the_file_store_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SpecError, match="sqlite"):
        lineage.sync(tmp_path, uri)


def test_no_ledger_is_nothing_to_do(tmp_path: Path) -> None:
    assert lineage.sync(tmp_path) == lineage.Cursor()
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
    ledger = Ledger.open(ledger_path(home), ME, clock=Clock())
    start(home, ledger)
    real = MlflowClient.create_run

    def down(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    def up() -> None:
        monkeypatch.setattr(MlflowClient, "create_run", real)

    monkeypatch.setattr(MlflowClient, "create_run", down)
    script = Script(*[lambda: None] * 4, up, lambda: ledger.append("step-closed", closed(0)), lambda: None)
    lineage.follow(home, None, script, poll_s=0.25, longest_s=8.0)
    assert script.waits == [1.0, 2.0, 4.0, 8.0, 8.0, 0.25, 0.25]
    assert census(home)[:2] == (1, 1)


def test_a_follower_told_to_stop_finishes_the_book(home: Path) -> None:
    start(home, Ledger.open(ledger_path(home), ME, clock=Clock()))
    lineage.follow(home, None, Script())
    assert census(home)[0] == 1


def test_a_server_nobody_runs_counts_as_down(tmp_path: Path) -> None:
    start(tmp_path, Ledger.open(ledger_path(tmp_path), ME, clock=Clock()))
    environment = _environment() | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "aggregator.lineage", "--home", str(tmp_path), "--tracking-uri", "http://127.0.0.1:9"],
        env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == "" and "MLflow did not take a record" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "lineage.json").exists()


def test_a_password_in_the_address_is_not_stored(tmp_path: Path) -> None:
    uri = "postgresql+psycopg2://mlflow:hunter2@localhost/mlflow"
    lineage._save_cursor(tmp_path, uri, lineage.Cursor(3, "ab", 9))
    assert b"hunter2" not in (tmp_path / "lineage.json").read_bytes()
    assert lineage.load_cursor(tmp_path, uri).seq == 3
    assert lineage.load_cursor(tmp_path, uri + "2").seq == -1
