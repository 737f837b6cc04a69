"""MLflow on PostgreSQL, for real: the same facts as on SQLite, and a stop that costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.tracking import follower
from aggregator.tracking.client import MlflowClient, connect
from aggregator.tracking.compare_runs import compare
from tests import made_ledger as made
from tests.made_ledger import make_home, make_job, make_run
from tests.postgres import Server

pytestmark = [pytest.mark.slow, *made.MLFLOW_WARNINGS]


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


def test_postgresql_holds_what_sqlite_holds(postgres: Server, home: Path) -> None:
    make_job(home)
    follower.sync(home)
    follower.sync(home, postgres.uri)
    here, there = facts(follower.default_uri(AggregatorHome(home))), facts(postgres.uri)
    assert len(there) == 1 + 22 + 1  # the experiment; a job and its steps; a version
    assert there == here
    assert compare(home, postgres.uri) == [] and compare(home) == []


def test_searching_works_there_too(postgres: Server, home: Path) -> None:
    make_run(home, make_home(home))
    follower.sync(home, postgres.uri)
    mlflow = connect(postgres.uri)
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
    postgres: Server, home: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at once in the middle of following, started again: nothing is lost, nothing is there twice."""
    make_run(home, make_home(home))
    real, calls = getattr(MlflowClient, verb), []

    def dies(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        calls.append(verb)
        if len(calls) == 1:
            postgres.stop()
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, verb, dies)
    repairs = Repairs(postgres)
    follower.follow(home, postgres.uri, repairs)
    assert repairs.waits == 2 and len(calls) > 1
    assert compare(home, postgres.uri) == []
