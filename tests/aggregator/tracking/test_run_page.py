"""Pages of steps whose figures the silos withheld: no metric, no 0, and a sentence that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.run_record import RunRecord
from aggregator.tracking import follower
from aggregator.tracking.client import connect
from aggregator.tracking.compare_runs import compare
from aggregator.tracking.run_page import NOTE, Page, job_page, step_page
from aggregator.tracking.version_page import VersionPage
from aggregator.verify.models import Models, checked_ledger
from tests import made_ledger as made
from tests.made_ledger import RUN, closed, finish, make_home, start
from tests.records import as_record
from tests.scored import TWO

pytestmark = [pytest.mark.slow, *made.MLFLOW_WARNINGS]

WITHHELD = {0: (), 1: ("test.rows",), 2: ("global.correct",), 3: ("global.correct", "test.rows")}


def make(home: Path) -> None:
    """A finished job of four steps, of which three lack figures."""
    ledger = make_home(home)
    start(home, ledger)
    for k, missing in WITHHELD.items():
        record = closed(k)
        record["slots"] = {name: count for name, count in record["slots"].items() if name not in missing}
        ledger.append(as_record("step-closed", record))
    finish(home, ledger, k=3)


def pages(home: Path) -> tuple[Page, list[Page]]:
    """Of the job, and of its steps."""
    run = RunRecord.read(AggregatorHome(home), RUN)
    return job_page(run), [step_page(entry, "parent", run.plan) for entry in run.closed]


def test_a_withheld_figure_has_no_metric_and_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    job, steps = pages(tmp_path)
    for page, missing in zip(steps, WITHHELD.values(), strict=True):
        keys = {one.key for one in page.figures}
        assert not keys & {f"system/sums/{name}" for name in missing}
        assert ("global.accuracy" in keys) is not bool(missing)
        assert ("Figures withheld by the silos" in page.tags[NOTE]) is bool(missing)
        assert page.tags.get("consilium.figures_withheld", "[]").count('"') == 2 * len(missing)
    assert steps[3].tags[NOTE].endswith("could show one silo's own: global.correct, test.rows of train/3.")
    assert [one.step for one in job.figures if one.key == "global.accuracy"] == [0]


def test_metrics_stand_for_their_cells(tmp_path: Path) -> None:
    ledger = make_home(tmp_path)
    start(tmp_path, ledger)
    ledger.append(as_record("step-closed", closed(0) | {"slots": TWO}))
    finish(tmp_path, ledger)
    _, (page,) = pages(tmp_path)
    found = {one.key: one.value for one in page.figures}
    assert found["global.auroc"] == 2.5 / 3 and found["global.auroc.within"] == pytest.approx(1 / 6)
    assert (found["global.accuracy"], found["global.accuracy.baseline"]) == (0.75, 0.75)
    assert {key for key in found if key.startswith("system/sums/")} == {
        "system/sums/global.correct",
        "system/sums/test.rows",
    }
    models = Models.of(checked_ledger(AggregatorHome(tmp_path)))
    version = VersionPage.of(models, models.versions[-1])
    assert version.tags["consilium.global.auroc"] == "0.833 ± 0.167"
    assert {one.key: one.value for one in version.figures}["global.brier"] == 0.25


def test_mlflow_shows_it_and_agrees_with_the_ledger(home: Path) -> None:
    make(home)
    follower.sync(home)
    assert compare(home) == []
    client = connect(follower.default_uri(AggregatorHome(home)))
    experiments = [found.experiment_id for found in client.search_experiments()]
    (step,) = client.search_runs(experiments, "tags.`consilium.k` = '1'")
    assert step.data.tags["consilium.figures_withheld"] == '["test.rows"]'
    assert "system/sums/global.correct" in step.data.metrics and "global.accuracy" not in step.data.metrics
    (model,) = client.search_logged_models(experiments)
    assert [(one.key, one.value) for one in model.metrics if one.key == "global.accuracy"] == [("global.accuracy", 0.4)]


def test_a_follower_that_comes_later_knows_the_plan(home: Path) -> None:
    """The first line of the run was copied by another process."""
    ledger = make_home(home)
    start(home, ledger)
    follower.sync(home)
    record = closed(0)
    record["slots"] = {}
    ledger.append(as_record("step-closed", record))
    follower.sync(home)
    client = connect(follower.default_uri(AggregatorHome(home)))
    experiments = [found.experiment_id for found in client.search_experiments()]
    (step,) = client.search_runs(experiments, "tags.`consilium.k` = '0'")
    assert step.data.tags["consilium.figures_withheld"] == '["global.correct","test.rows"]'
