"""Scores of a run: from the last step that opened both of their counts, and none where the silos withheld one."""

from __future__ import annotations

import pytest

from aggregator.home import AggregatorHome
from aggregator.run_record import RunRecord
from jobs.evidence.run_summary import accuracy, scores
from tests.made_ledger import RUN, make_job
from tests.records import withholding


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A run whose train/k had 40 + k of 100 rows right, k from 0 to 19."""
    home = tmp_path_factory.mktemp("home")
    make_job(home)
    return RunRecord.read(AggregatorHome(home), RUN)


def test_a_score_is_the_last_one(made: RunRecord) -> None:
    assert scores(made) == {"global": (59, 100)} and accuracy(made, "global") == 59.0
    assert accuracy(made, "personal") is None


@pytest.mark.parametrize("missing", ["global.correct", "test.rows"])
def test_a_step_that_lacks_a_count_is_passed_over(made: RunRecord, missing: str) -> None:
    late = withholding(made, lambda step, slot: step in ("train/18", "train/19") and slot == missing)
    assert scores(late) == {"global": (57, 100)}
    never = withholding(made, lambda step, slot: slot == missing)
    assert scores(never) == {} and accuracy(never, "global") is None
