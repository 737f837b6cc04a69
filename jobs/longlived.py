"""The long-lived processes: ``fed silo run``, ``fed aggregator run``, ``fed mlflow``.

Each is one process tree that ends on one SIGTERM. The parent serves /metrics for the job processes that come and go
(see ``service``); at the aggregator a child follows the ledger into MLflow, so MLflow never stalls a run.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from crypto.errors import SpecError
from jobs import software
from jobs.security_events import Event
from jobs.security_log import SecurityLog
from jobs.service import prepare_environment, serve_metrics

log = logging.getLogger("consilium.aggregator")

#: Pause before the lineage follower is started again. Seconds.
RESTART_S = 10


def run_silo(kit: Path, host: str, port: int) -> int:
    """NVFlare's client in this process, behind the gate, until SIGTERM. Returns its exit code."""
    from jobs.flare.egress_gate import guard_cells
    from jobs.flare.processes import run_client, settings

    home = Path(settings(kit)["home"])
    guard_cells()
    _log_start(home, "silo")
    _serve(home, host, port)
    return run_client(kit, _log_stop(home, "silo"))


def run_aggregator(kit: Path, host: str, port: int, tracking_uri: str | None = None) -> int:
    """NVFlare's server in this process and the lineage follower beside it, until SIGTERM."""
    from jobs.flare.processes import run_server, settings

    home = Path(settings(kit)["home"])
    _log_start(home, "aggregator")
    _serve(home, host, port)
    command = [sys.executable, "-m", "aggregator.lineage", "--home", str(home), "--follow"]
    # By the environment: an address may hold a password, and command lines are for all to read.
    environment = {**os.environ, **({"CONSILIUM_TRACKING_URI": tracking_uri} if tracking_uri else {})}
    threading.Thread(target=_keep_running, args=(command, environment), name="lineage", daemon=True).start()
    return run_server(kit, _log_stop(home, "aggregator"))


def _keep_running(command: list[str], environment: dict[str, str]) -> None:
    """Start the follower again when it ends: lineage catches up from the ledger, so nothing is lost meanwhile."""
    while True:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False).returncode
        log.warning("the lineage follower ended with code %d; it is started again in %d s", code, RESTART_S)
        time.sleep(RESTART_S)


def run_mlflow(federation: Path, port: int) -> NoReturn:
    """MLflow's own UI over a federation's database, in place of this process: one signal ends it."""
    home = federation / "aggregator"
    if not (home / "mlflow.db").exists():
        raise SpecError(str(federation), got="no aggregator/mlflow.db", want="a federation that has finished a job")
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{(home / 'mlflow.db').resolve()}"]
    command += ["--default-artifact-root", str((home / "mlartifacts").resolve())]
    os.execve(sys.executable, command, {**os.environ, **settings})


def _log_start(home: Path, service: str) -> None:
    """The security log's first word of this process."""
    SecurityLog(home)(Event.SERVICE_STARTED, service=service, software=software.digest().hex())


def _log_stop(home: Path, service: str) -> Callable[[int], None]:
    """Its last."""
    return lambda code: SecurityLog(home)(Event.SERVICE_STOPPED, service=service, exit=code & 0xFF)


def _serve(home: Path, host: str, port: int) -> None:
    """/metrics, /healthz and /readyz; the port is left in ``metrics.port`` for whoever scrapes this machine."""
    prepare_environment(home)
    server = serve_metrics(home, port, host, ready=lambda: _ready(home))
    (home / "metrics.port").write_text(f"{server.port}\n")


def _ready(home: Path) -> str:
    """Why this site can't take a job, or nothing."""
    from jobs.homes import read_charter

    try:
        read_charter(home).check_validity(int(time.time()))
    except Exception as bad:  # noqa: BLE001 - a readiness page tells, it doesn't fail
        return json.dumps(str(bad))
    return ""
