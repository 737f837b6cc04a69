"""MLflow on PostgreSQL, for real: Debian's server, the same facts as on SQLite, and a stop that costs nothing.

The server listens on a socket in a folder of its own and nowhere else.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.ledger.format import ledger_path
from aggregator.tracking import follower
from aggregator.tracking.check import compare
from aggregator.tracking.client import DOWN, MlflowClient, connect
from tests import local
from tests import made_ledger as made
from tests.made_ledger import SILOS, make_home, make_job, make_run

pytestmark = [pytest.mark.slow, *made.MLFLOW_WARNINGS]

NEEDED = ("initdb", "pg_ctl")


class Server:
    """PostgreSQL that trusts whoever reaches its folder. It refuses to run as root, so it runs as a user of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = {name: _program(name) for name in NEEDED}
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            who = pwd.getpwnam("postgres")
            os.chown(folder, who.pw_uid, who.pw_gid)
            self._user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        self._call("initdb", "--auth=trust", "--username=mlflow", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://mlflow@/template1?host={self._folder}"

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}'"
        self._call("pg_ctl", "start", "-w", "-o", options, "-l", str(self._folder / "log"))

    def stop(self) -> None:
        """As if the machine had failed: no goodbye to clients, recovery at the next start."""
        self._call("pg_ctl", "stop", "-w", "-m", "immediate")

    def _call(self, name: str, *arguments: str) -> None:
        command = [self._programs[name], "-D", str(self._folder / "data"), *arguments]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        output = self._folder.with_suffix(".out")  # no pipe: the server would keep it open
        with output.open("wb") as out:
            done = subprocess.run(
                command, env=environment, cwd=self._folder, stdout=out, stderr=out, timeout=60, **self._user
            )
        assert done.returncode == 0, output.read_text()


def _program(name: str) -> str:
    """Debian keeps the server's programs off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name) or next((str(at / name) for at in places if (at / name).exists()), None)
    if found is None:
        pytest.fail(f"{name} of PostgreSQL's server is missing: apt-get install postgresql, as .ci/run does")
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="consilium-pg-"))  # not pytest's: another user must be able to enter it
    try:
        server = Server(folder)
        server.start()
        connect(server.uri).search_experiments()  # makes MLflow's tables
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)
        folder.with_suffix(".out").unlink(missing_ok=True)


@pytest.fixture
def running(server: Server) -> Iterator[Server]:
    """The server, with nothing in MLflow but its tables."""
    mlflow = connect(server.uri)
    yield server
    for experiment in mlflow.search_experiments():
        for run in mlflow.search_runs([experiment.experiment_id]):
            mlflow.delete_run(run.info.run_id)
        if experiment.name != "Default":
            mlflow.rename_experiment(experiment.experiment_id, f"{experiment.experiment_id} of another test")
    for model in mlflow.search_registered_models():
        mlflow.delete_registered_model(model.name)


def facts(uri: str) -> dict[str, Any]:
    """All that a reader of MLflow sees, without the ids and places that MLflow chooses."""
    mlflow = connect(uri)
    experiment = mlflow.get_experiment_by_name("demo")
    seen: dict[str, Any] = {"experiment": experiment.tags}
    for run in mlflow.search_runs([experiment.experiment_id]):
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.parentRunId"}
        data = sorted((one.dataset.name, one.dataset.digest, one.dataset.source) for one in run.inputs.dataset_inputs)
        points = {
            key: [
                (point.step, point.value, point.timestamp) for point in mlflow.get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        info = (run.info.status, run.info.start_time, run.info.end_time, run.data.params)
        seen[run.info.run_name] = (info, tags, data, points)
    for found in mlflow.search_model_versions():
        version = mlflow.get_model_version(found.name, found.version)
        model = mlflow.get_logged_model(version.tags.pop("consilium.model_id"))
        shown = sorted((one.key, one.value, one.step, one.dataset_digest or "") for one in model.metrics)
        seen[f"{version.name}/{version.version}"] = (version.tags, version.description, version.aliases, shown)
    return seen


def test_postgresql_holds_what_sqlite_holds(running: Server, home: Path) -> None:
    make_job(home)
    follower.sync(home)
    follower.sync(home, running.uri)
    here, there = facts(follower.default_uri(home)), facts(running.uri)
    assert len(there) == 1 + 22 + 1  # the experiment; a job and its steps; a version
    assert there == here
    assert compare(home, running.uri) == [] and compare(home) == []


def test_searching_works_there_too(running: Server, home: Path) -> None:
    make_run(home, make_home(home))
    follower.sync(home, running.uri)
    mlflow = connect(running.uri)
    experiment = mlflow.get_experiment_by_name("demo").experiment_id
    for key, digest in (("data", made.commitment("silo-1")), ("approval", made.APPROVALS["silo-1"])):
        query = f"tags.`consilium.{key}.silo-1` = '{digest}'"
        assert len(mlflow.search_runs([experiment], query)) == 2
        assert len(mlflow.search_model_versions(query)) == 1
        assert len(mlflow.search_logged_models([experiment], query)) == 1
    digest = made.commitment("silo-2")[:32]
    assert len(mlflow.search_runs([experiment], f"dataset.digest = '{digest}'")) == 2
    data = [{"dataset_name": "silo-2", "dataset_digest": digest}]
    query = "metrics.`steps_contributed/silo-2` > 0"
    assert len(mlflow.search_logged_models([experiment], query, datasets=data)) == 1


class Repairs:
    """Stands in for an Event: at the first wait the server is started again, at the second all is said."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.waits = 0

    def is_set(self) -> bool:
        return self.waits >= 2

    def wait(self, timeout: float) -> bool:
        self.waits += 1
        if self.waits == 1:
            self._server.start()
        return self.is_set()


@pytest.mark.parametrize("verb", ["log_batch", "log_inputs", "create_model_version", "set_registered_model_alias"])
def test_a_server_that_dies_between_two_writes_costs_nothing(
    running: Server, home: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at once in the middle of following, started again: nothing is lost, nothing is there twice."""
    make_run(home, make_home(home))
    real, calls = getattr(MlflowClient, verb), []

    def dies(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        calls.append(verb)
        if len(calls) == 1:
            running.stop()
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, verb, dies)
    repairs = Repairs(running)
    follower.follow(home, running.uri, repairs)
    assert repairs.waits == 2 and len(calls) > 1
    assert compare(home, running.uri) == []


def test_a_real_federation_goes_on_while_the_server_is_down(running: Server, tmp_path: Path) -> None:
    """The follower looks before each exchange; the server dies in the second step and is back after the last."""
    federation = local.federation(tmp_path / "f", 4)
    home, seen = federation.aggregator, {"up": 0, "down": 0}

    def watch(exchange: Any, note: str) -> None:
        if exchange is not None and (exchange.step, exchange.phase) == (1, "contribute"):
            running.stop()
        try:
            follower.sync(home, running.uri)
            seen["up"] += 1
        except DOWN:
            seen["down"] += 1

    outcome, _, _ = local.run_job(local.spec(), home, federation.homes, watch=watch)
    assert outcome.steps_void == 0 and outcome.refusals == 0 and seen["up"] > 3 < seen["down"]
    running.start()
    cursor = follower.sync(home, running.uri)
    assert cursor.seq + 1 == ledger_path(home).read_bytes().count(b"\n")
    assert compare(home, running.uri) == []
    version = connect(running.uri).get_model_version_by_alias("fedavg-test", "candidate")
    assert {key for key in version.tags if key.startswith("consilium.approval.")} == {
        f"consilium.approval.{silo}" for silo in federation.silos
    }
    assert version.tags["consilium.run"] == outcome.run and len(SILOS) < len(federation.silos)
