"""The long-lived processes: ``fed silo run``, ``fed aggregator run``, ``fed mlflow``.

Each is one process tree that drains and ends on one SIGTERM (``flare.parent``), and at once on a second. The parent
serves /metrics also for the job processes (see ``http``); at the aggregator a child process follows the ledger into
MLflow, so MLflow never stalls a run.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from aggregator.home import AggregatorHome
from aggregator.interrupted import load
from aggregator.ledger.format import read
from aggregator.ledger.records import Kind
from aggregator.tracking.artifact_addresses import follow_home
from aggregator.tracking.cursor import LOCK_FILE, default_uri
from crypto import durable
from crypto.errors import SpecError
from crypto.home import Home
from jobs import release
from jobs.flare.nvflare_mains import clean_path
from jobs.runtime import drain
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog
from jobs.services.bootstrap import ServiceOptions, install
from jobs.services.http import prepare_environment, serve_metrics
from jobs.services.site_metrics import AGGREGATOR, SILO, Service

log = logging.getLogger("consilium.aggregator")

#: How long a step under way may take to end once the service was asked to. Seconds.
DRAIN_S = 60.0
#: Pause before the lineage follower is started again. Seconds.
RESTART_S = 10


def run_silo(options: ServiceOptions, host: str, port: int, *, drain_s: float = DRAIN_S) -> int:
    """NVFlare's client in this process, behind the gate, until SIGTERM and a drain of ``drain_s`` at most; ends it."""
    from jobs.flare.connection_watchdog import CONNECTION
    from jobs.flare.egress_gate import guard_cells
    from jobs.flare.job_handle import Restarts
    from jobs.flare.parent import AGAIN_VAR, run_client

    Restarts.from_environment()  # refused now, not by the first job
    site = install(options)
    drain.clear(site.home)
    guard_cells()
    if AGAIN_VAR not in os.environ:
        _log_start(site.home, "silo")
    _serve(Service(SILO, site.home, site.kit), host, port, CONNECTION.problem)
    return run_client(
        site.kit,
        site.home,
        drain_s=drain_s,
        draining=_log_drain(site.home, "silo"),
        ended=_log_stop(site.home, "silo"),
    )


def run_aggregator(
    options: ServiceOptions, host: str, port: int, tracking_uri: str | None = None, *, drain_s: float = DRAIN_S
) -> int:
    """NVFlare's server in this process and the lineage follower beside it, until SIGTERM. Ends the process."""
    from jobs.flare.connected_clients import CONNECTED_CLIENTS
    from jobs.flare.parent import run_server

    def not_ready() -> str:
        return "NVFlare's server has not started yet" if CONNECTED_CLIENTS.connected() is None else ""

    site = install(options)
    if not tracking_uri:
        default_uri(AggregatorHome(site.home.root))  # refused now, not by the follower again and again
    drain.clear(site.home)
    _log_start(site.home, "aggregator")
    service = Service(AGGREGATOR, site.home, site.kit, tracking_uri, CONNECTED_CLIENTS.connected)
    _serve(replace(service, detail=partial(_interrupted, site.home)), host, port, not_ready)
    command = [sys.executable, "-P", "-m", "aggregator.tracking.follower", "--home", str(site.home.root), "--follow"]
    # In the environment: an address may contain a password, and all users can read command lines.
    environment = {**os.environ, **({"CONSILIUM_TRACKING_URI": tracking_uri} if tracking_uri else {})}
    clean_path(environment)
    threading.Thread(target=_keep_running, args=(command, environment), name="lineage", daemon=True).start()
    return run_server(
        site.kit,
        site.home,
        drain_s=drain_s,
        idle=_Recorded(site.home),
        draining=_log_drain(site.home, "aggregator"),
        ended=_log_stop(site.home, "aggregator"),
    )


def _interrupted(home: Home) -> str:
    """What becomes of interrupted runs, for /readyz: the aggregator is ready, and this is not to go unnoticed."""
    try:
        return "; ".join(map(str, load(AggregatorHome(home.root))))
    except (OSError, ValueError) as bad:
        return f"interrupted runs: {bad}"


class _Recorded:
    """Whether the ledger has a new record that ends a step since the first call."""

    _ENDS = frozenset({Kind.STEP_CLOSED, Kind.STEP_VOID, Kind.RUN_FINISHED, Kind.RUN_FAILED})

    def __init__(self, home: Home) -> None:
        self._path = AggregatorHome(home.root).ledger_path
        self._before: int | None = None

    def __call__(self) -> bool:
        found = sum(entry.kind in self._ENDS for entry in read(self._path)) if self._path.exists() else 0
        if self._before is None:
            self._before = found
        return found > self._before


def _keep_running(command: list[str], environment: dict[str, str]) -> None:
    """Restart the follower whenever it ends: it catches up from the ledger, so nothing is lost."""
    while True:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False).returncode
        log.warning("the lineage follower ended with code %d; it is started again in %d s", code, RESTART_S)
        time.sleep(RESTART_S)


def run_mlflow(federation: Path, port: int) -> NoReturn:
    """MLflow's own UI over an aggregator's database, in place of this process: one signal ends it.

    ``federation``: an aggregator's home, or the folder of a federation that `fed up` made."""
    within = AggregatorHome(federation / "aggregator")
    home = within if within.exists() else AggregatorHome(federation)
    if not home.mlflow_path.exists():
        raise SpecError(
            str(federation),
            got="no mlflow.db",
            want="an aggregator's home, or the folder of a federation, that has finished a job",
        )
    try:
        with durable.locked(home.root / LOCK_FILE):
            follow_home(home)
    except sqlite3.Error as bad:
        raise SpecError(str(home.mlflow_path), got=str(bad), want="MLflow's database") from bad
    settings = {
        "PYTHONSAFEPATH": "1",  # MLflow starts processes of its own
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", default_uri(home)]
    command += ["--default-artifact-root", str(home.artifacts_folder.resolve())]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    os.chdir(home.root.resolve())
    os.execve(sys.executable, command, clean_path(kept | settings))


def _log_start(home: Home, service: str) -> None:
    """Log the start of this process in the security log."""
    SecurityLog(home)(Event.SERVICE_STARTED, service=service, software=release.digest().hex())


def _log_stop(home: Home, service: str) -> Callable[[int], None]:
    """Logs the end of this process, with its exit code."""
    return lambda code: SecurityLog(home)(Event.SERVICE_STOPPED, service=service, exit=code & 0xFF)


def _log_drain(home: Home, service: str) -> Callable[[], None]:
    """Logs that this process was asked to end."""
    return lambda: SecurityLog(home)(Event.SERVICE_DRAINING, service=service)


def _serve(service: Service, host: str, port: int, not_ready: Callable[[], str] = lambda: "") -> None:
    """Serve /metrics, /healthz and /readyz; the port is written to ``metrics.port``, for scrapers on this machine."""
    home = service.home
    prepare_environment(home)
    server = serve_metrics(home, port, host, ready=lambda: _ready(home) or not_ready(), service=service)
    home.metrics_port_path.write_text(f"{server.port}\n", encoding="utf-8")


def _ready(home: Home) -> str:
    """Why this site cannot take a job; "" if it can."""
    if drain.begun(home):
        return "draining"
    try:
        home.charter().check_validity(int(time.time()))
    except Exception as bad:  # noqa: BLE001 - the readiness page reports every error
        return json.dumps(str(bad))
    return ""
