"""Who pretends to be a hospital: each data set's dealer, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import SpecError
from jobs.demo import datasets, heart_data
from jobs.demo.datasets import DEALERS, deal
from jobs.demo.up import Options, simulate
from jobs.job import JobSpec, catalogue
from silo_agent.data import check


class Silent:
    """A view that shows nothing."""

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: None


def test_every_job_of_the_catalogue_has_a_demonstration() -> None:
    assert {JobSpec.load(name).dataset for name in catalogue()} == set(DEALERS)


def test_digits_have_newcomers_of_both_styles() -> None:
    found = deal("digits", None, 5, None)
    assert list(found.silos) == [f"silo-{i}" for i in range(1, 9)]
    assert list(found.newcomers) == ["newcomer-1", "newcomer-2"]


def test_the_hospitals_are_read_from_the_folder_that_was_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Path, int]] = []

    def made(folder: Path, seed: int) -> Mapping[str, Mapping[str, np.ndarray]]:
        asked.append((folder, seed))
        return hospitals()

    monkeypatch.setattr(datasets.heart_data, "make", made)
    found = deal("heart", 4, 3, tmp_path)
    assert asked == [(tmp_path, 3)]
    assert set(found.silos) == set(heart_data.HOSPITALS) and not found.newcomers


def test_a_demonstration_without_newcomers_has_no_cold_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.heart_data, "make", lambda folder, seed: hospitals())
    options = Options(job="fedcoe-heart", rounds=1, data=tmp_path, runs=tmp_path / "runs", name="heart")
    report = simulate(options, Silent())  # type: ignore[arg-type]
    accuracy = report["accuracy"]
    assert accuracy["cold"] is None and accuracy["fedavg"]["cold"] is None and "cold" not in report["correct"]
    assert accuracy["personal"] is not None and Path(report["report"]).exists()


@pytest.mark.parametrize(
    ("dataset", "silos", "folder", "path"),
    [
        ("nobody-has-it", None, False, "--job"),
        ("digits", 7, False, "--silos"),
        ("digits", None, True, "--data"),
        ("heart", None, False, "--data"),
        ("heart", 8, True, "--silos"),
    ],
)
def test_what_cannot_be_dealt_is_refused(
    dataset: str, silos: int | None, folder: bool, path: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as refused:
        deal(dataset, silos, 5, tmp_path if folder else None)
    assert refused.value.path == path


def hospitals() -> dict[str, dict[str, np.ndarray]]:
    """Made-up rows in the form of the four hospitals'."""
    rng = np.random.default_rng(0)
    sets = {}
    for hospital in heart_data.HOSPITALS:
        y = np.arange(60) % 2
        x = (rng.normal(size=(60, 15)) + y[:, None]).astype(np.float32)
        sets[hospital] = {
            "x_train": x[:40],
            "y_train": y[:40],
            "x_test": x[40:],
            "y_test": y[40:],
            "classes": np.array(2, dtype=np.int64),
        }
        check("heart", sets[hospital])
    return sets
