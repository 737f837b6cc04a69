"""A PostgreSQL server for MLflow, for real: Debian's, on a socket in a folder of its own and nowhere else."""

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

from aggregator.tracking.client import connect

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


def started() -> Iterator[Server]:
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


def emptied(server: Server) -> Iterator[Server]:
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
