"""What a demonstration prints of a run of which the silos withheld figures."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from aggregator.home import AggregatorHome
from aggregator.run_record import RunRecord
from jobs.demo import baselines, up
from jobs.demo.console import print_result
from jobs.demo.federation import Federation
from tests import local, tiny
from tests.records import withholding

pytestmark = pytest.mark.slow

JOBS = {
    "fedcoe": tiny.spec("fedcoe", params={"rounds": 1, "finetune_steps": 1}),
    "fedavg": tiny.spec("fedavg", params={"rounds": 1}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, dict[str, RunRecord]]:
    federation, records = tiny.federation(tmp_path_factory.mktemp("shown") / "f", 5), {}
    for method, job in JOBS.items():
        _, run, _ = local.run_job(job, federation.aggregator, federation.homes)
        records[method] = RunRecord.read(AggregatorHome(federation.aggregator), run.name)
    return federation, records


@pytest.fixture
def reported(
    made: tuple[Federation, dict[str, RunRecord]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, Any], str]]:
    """The object of --json and the printed page, of a run of which these figures were withheld."""
    federation, records = made
    monkeypatch.setattr(baselines, "measure", lambda *given: {})

    def report(method: str, withheld: Callable[[str, str], bool]) -> tuple[dict[str, Any], str]:
        data = {"arrays": {}, "silos": dict.fromkeys(federation.homes), "newcomers": {}}
        demo = SimpleNamespace(name="tiny", spec=JOBS[method], federation=federation, **data)
        found = up._report(demo, withholding(records[method], withheld), nvflare=None)  # type: ignore[arg-type]
        page = Console(file=StringIO(), width=200)
        print_result(page, found | {"report": "r.html", "mlflow": None}, Path(federation.root))
        return found, page.file.getvalue()  # type: ignore[attr-defined]

    return report


def test_all_figures_are_there_and_nothing_is_said(reported: Callable[..., Any]) -> None:
    found, page = reported("fedcoe", lambda step, slot: False)
    assert all(isinstance(found["accuracy"][mode], float) for mode in ("global", "personal"))
    assert found["withheld"] == {} and "withheld" not in page
    plain, _ = reported("fedavg", lambda step, slot: False)
    assert plain["accuracy"]["personal"] == plain["accuracy"]["global"], "one model for all modes"


def test_without_the_last_figures_there_is_an_older_accuracy_and_no_personal_one(reported: Callable[..., Any]) -> None:
    found, page = reported("fedcoe", lambda step, slot: step == "eval/0" and slot == "test.rows")
    assert isinstance(found["accuracy"]["global"], float) and found["accuracy"]["personal"] is None
    assert found["withheld"] == {"eval/0": ("test.rows",)} and "personal" not in found["correct"]
    assert "could show one silo's own: test.rows of eval/0." in page


def test_without_any_figure_there_is_no_accuracy_and_the_page_says_so(reported: Callable[..., Any]) -> None:
    found, page = reported("fedavg", lambda step, slot: True)
    assert (found["accuracy"], found["correct"]) == ({"global": None, "personal": None, "cold": None}, {})
    assert "correct/total: no scores" in page and "Figures withheld by the silos" in page and "nan" not in page
