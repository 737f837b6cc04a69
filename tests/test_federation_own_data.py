"""``fed up --data FOLDER``: a real federation of its own, of three silos with a CSV each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import verify
from silo_agent.home import SiloHome
from silo_agent.pysyft.catalogue import Catalogue
from tests.jobs.demo.test_own_data import SILOS, job, table

pytestmark = pytest.mark.federation

RUN = "import sys; sys.argv = ['fed', *sys.argv[1:]]; from jobs.cli.main import main; main()"


def test_a_federation_on_a_folder_of_tables(tmp_path: Path) -> None:
    for silo in SILOS:
        table(tmp_path / "data" / silo / "admissions.csv")
    asked = ["up", "--job", str(job(tmp_path)), "--data", "data", "--name", "own", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *asked], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["silos"], report["rounds_completed"], report["accuracy"]["cold"]) == (3, 1, None)
    assert report["secure_aggregation"]["refusals"] == 0 and report["mlflow"]["model"]
    before, _, after = done.stderr.partition("federation own: 3 silos")
    assert all(f"{silo}: 44 training rows, 16 test rows" in before for silo in SILOS) and "submitted as" in after
    home = AggregatorHome(tmp_path / "runs" / "own" / "aggregator")
    assert verify(home.ledger_path, home.open()[1].public)
    for silo in SILOS:
        reference = Catalogue(SiloHome(tmp_path / "runs" / "own" / "silos" / silo), silo).entry("risk").reference
        assert reference is not None and reference.path == tmp_path / "data" / silo
