"""An admin rehearses a job on the silos' public halves alone, with every rule on."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from aggregator.home import AggregatorHome
from aggregator.run_record import RunRecord
from crypto.errors import DataRefused, SpecError
from jobs.cli import main as cli
from jobs.demo import mock_run
from jobs.demo.mock_run import rehearse
from tests import local
from tests.records import withholding


class Quiet:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def phase(self, *told: object) -> None:
        """Not looked at here."""

    done = result = phase


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An admin's box: what each silo's public half is, and nothing else of it."""
    federation = local.federation(tmp_path_factory.mktemp("rehearsal") / "f")
    box = tmp_path_factory.mktemp("admin")
    for home in federation.homes.values():
        (site,) = (home / "syft").glob("*@*")
        shutil.copytree(site / "public", box / site.name / "public")
    return box


def job(tmp_path: Path, dataset: str = "digits") -> str:
    path = tmp_path / "job.toml"
    params = "features = 64\nclasses = 10\nrounds = 1\nlocal_steps = 1\n"
    path.write_text(f'name = "r"\nmethod = "fedavg"\ndataset = "{dataset}"\npurpose = "p"\n[params]\n{params}')
    return str(path)


def test_a_job_runs_on_mock_rows_and_leaves_nothing(box: Path, tmp_path: Path) -> None:
    view = Quiet()
    found = rehearse(job(tmp_path), box, view)
    assert len(found["silos"]) == 8 and found["secure_aggregation"]["steps_released"] > 0
    assert found["secure_aggregation"]["refusals"] == 0
    assert found["correct_on_mock"]["global"].endswith(f"/{8 * 32}")  # the mocks' rows, not the private ones
    assert any("says nothing of the real ones" in line for line in view.said)
    assert not (tmp_path / "runs").exists()
    assert found["withheld"] == {} and not any("withheld" in line for line in view.said)


def test_figures_that_the_silos_withheld_are_named(box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(home: AggregatorHome, run: str) -> RunRecord:
        return withholding(RunRecord.read(home, run), lambda step, slot: slot == "test.rows")

    monkeypatch.setattr(mock_run, "RunRecord", SimpleNamespace(read=read))
    view = Quiet()
    found = rehearse(job(tmp_path), box, view)
    assert found["withheld"] == {"train/0": ("test.rows",), "eval/0": ("test.rows",)} and found["correct_on_mock"] == {}
    assert any(line.endswith("no scores") for line in view.said)
    assert any("test.rows of train/0, eval/0." in line for line in view.said)


def test_a_data_set_that_no_public_half_has_is_named(box: Path, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="wards"):
        rehearse(job(tmp_path, "wards"), box, Quiet())


def test_other_options_are_refused_beside_it(box: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--mock"):
        cli.simulate(job=job(tmp_path), silos=10, mock=box)
