"""MLflow for the tests of this room: databases that are made once, and one finished job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import made_ledger as made


@pytest.fixture(scope="session")
def empty_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables take seconds to make: made once, copied for each test that wants a database of its own."""
    from aggregator.tracking.client import connect

    path = tmp_path_factory.mktemp("db") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def home(tmp_path: Path, empty_db: Path) -> Path:
    """An aggregator's home-to-be, with an empty MLflow."""
    shutil.copy(empty_db, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, empty_db: Path) -> Path:
    """A finished job in MLflow. The follower ran in a process where torch and silo_agent cannot be imported."""
    home = tmp_path_factory.mktemp("aggregator")
    shutil.copy(empty_db, home / "mlflow.db")
    made.make_job(home)
    command = [sys.executable, "-c", _WITHOUT_TORCH, "--home", str(home)]
    environment = {**os.environ, "PYTHONPATH": str(made.ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return home


_WITHOUT_TORCH = """
import sys
class Barrier:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "silo_agent", "syft", "nvflare", "jobs"):
            raise ImportError(f"{name} is not for the aggregator")
sys.meta_path.insert(0, Barrier())
from aggregator.tracking.follower import main
sys.exit(main())
"""
