"""What the charts start exists: commands, variables and pages are those of our code and of MLflow's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crypto.home import Home
from jobs.services.http import serve_metrics
from tests.helm.charts import CHARTS, Object, case, of_kind, values

pytestmark = pytest.mark.slow


def first(chart: str, name: str, kind: str) -> Object:
    (one,) = of_kind(case(chart, name).objects, kind)
    container: Object = one["spec"]["template"]["spec"]["containers"][0]
    return container


def variables(container: Object) -> set[str]:
    return {one["name"] for one in container["env"]}


@pytest.mark.parametrize("chart", CHARTS)
def test_the_command_takes_what_the_chart_sets(chart: str) -> None:
    from typer.main import get_command

    from jobs.cli.main import app

    command: Any = get_command(app)
    container = first(chart, "full", "StatefulSet")
    for verb in container["args"]:
        command = command.commands[verb]
    known = {parameter.envvar for parameter in command.params if parameter.envvar}
    ours = {name for name in variables(container) if name.startswith("CONSILIUM_")}
    assert ours == known, "a variable that nobody reads, or an option that the chart does not set"


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize(("reason", "exit_code"), [("", 0), ("no charter", 1)])
def test_the_test_pod_asks_and_tells(chart: str, reason: str, exit_code: int, tmp_path: Path) -> None:
    (pod,) = of_kind(case(chart, "minimal").objects, "Pod")
    (container,) = pod["spec"]["containers"]
    script, address = container["args"]
    assert container["command"] == ["python", "-c"] and address == f"anna-{chart}-metrics:9464"
    server = serve_metrics(Home(tmp_path), 0, ready=lambda: reason)
    try:
        here = f"127.0.0.1:{server.port}"
        done = subprocess.run([sys.executable, "-c", script, here], capture_output=True, text=True, check=False)
    finally:
        server.close()
    assert done.returncode == exit_code, done.stderr
    assert (
        "/healthz 200" in done.stdout and f"/readyz {503 if reason else 200}" in done.stdout and reason in done.stdout
    )


#: Prints what `mlflow server` makes of its arguments, and the variables that MLflow reads.
_MLFLOW = """
import json, sys
import flask_wtf  # what --app-name=basic-auth imports; comes with mlflow[auth]
import mlflow.cli
from mlflow import environment_variables
server = mlflow.cli.server
known = [name for name in vars(environment_variables) if name.startswith("MLFLOW_")]
known += [one.envvar for one in server.params if isinstance(one.envvar, str)]
print(json.dumps([server.make_context("server", sys.argv[1:]).params, known], default=str))
"""


def test_mlflow_takes_what_the_chart_sets() -> None:
    container = first("aggregator", "mlflow", "Deployment")
    assert container["command"] == ["python", "-m", "mlflow", "server"]
    done = subprocess.run(
        [sys.executable, "-c", _MLFLOW, *container["args"]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    parsed, known = json.loads(done.stdout.splitlines()[-1])
    assert (parsed["app_name"], parsed["serve_artifacts"], parsed["workers"]) == ("basic-auth", True, "2")
    ours = {name for name in variables(container) if name.startswith("MLFLOW_")}
    assert ours <= set(known), sorted(ours - set(known))


def test_mlflow_is_shut_as_far_as_it_goes() -> None:
    for container in (first("aggregator", "mlflow", "Deployment"), first("aggregator", "mlflow", "StatefulSet")):
        plain = {one["name"]: one.get("value") for one in container["env"]}
        assert plain["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert plain["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    plain = {one["name"]: one.get("value") for one in first("aggregator", "mlflow", "Deployment")["env"]}
    assert plain["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    hosts = plain["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"mlflow.example.org", "anna-aggregator-mlflow.fed.svc:5000"} <= set(hosts) and "*" not in hosts
    assert plain["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "https://mlflow.example.org"


def test_the_aggregator_writes_where_it_was_told() -> None:
    def tracking(name: str) -> Object | None:
        env = first("aggregator", name, "StatefulSet")["env"]
        return next((one for one in env if one["name"] == "CONSILIUM_TRACKING_URI"), None)

    assert tracking("minimal") is None
    server = "http://anna-aggregator-mlflow.fed.svc:5000"
    assert tracking("mlflow") == {"name": "CONSILIUM_TRACKING_URI", "value": server}
    own = {"name": values("aggregator", "full")["tracking"]["existingSecret"], "key": "uri"}
    assert tracking("full") == {"name": "CONSILIUM_TRACKING_URI", "valueFrom": {"secretKeyRef": own}}
    assert {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} <= variables(
        first("aggregator", "mlflow", "StatefulSet")
    )
