"""Ratios of opened counts, and what is said of figures that the silos withheld."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from aggregator.figures import STEPS_NAMED, last_metrics, last_ratios, metrics, ratios, sentence, withheld, withheld_in
from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind, StepClosed
from aggregator.run_record import RunRecord
from crypto.plan import Basis, Slot
from tests.made_ledger import PLAN, RUN, make_job
from tests.records import partial_entry
from tests.scored import ONE_CLASS, TWO


def closed(k: int, **slots: int) -> Entry[StepClosed]:
    """train/k, with these slots; ``_`` for a dot."""
    opened = {name.replace("_", "."): count for name, count in slots.items()}
    fields = {"run": RUN, "k": k, "name": f"train/{k}", "slots": opened}
    return cast("Entry[StepClosed]", partial_entry(Kind.STEP_CLOSED, fields, seq=k))


@pytest.mark.parametrize(
    ("slots", "found"),
    [
        ({"global.correct": 3, "test.rows": 4}, {"global.accuracy": (3, 4)}),
        ({"a.correct": 1, "a.total": 2, "a.rows": 3, "test.rows": 4}, {"a.accuracy": (1, 2)}),
        ({"correct": 1, "rows": 2}, {"accuracy": (1, 2)}),
        ({"global.correct": 0, "test.rows": 4}, {"global.accuracy": (0, 4)}),
        ({"global.correct": 3, "test.rows": 0}, {}),
        ({"global.correct": 3}, {}),
        ({"test.rows": 4, "everyone.weight": 3}, {}),
        ({}, {}),
    ],
)
def test_a_ratio_needs_both_of_its_counts(slots: dict[str, int], found: dict[str, tuple[int, int]]) -> None:
    assert ratios(slots) == found


def test_the_last_ratio_is_of_the_last_step_that_opened_both() -> None:
    steps = [
        closed(0, global_correct=1, test_rows=9),
        closed(1, global_correct=2, test_rows=9),
        closed(2, global_correct=3),
        closed(3, test_rows=9),
        closed(4),
    ]
    assert last_ratios(steps) == {"global.accuracy": (2, 9, steps[1].record)}
    assert last_ratios(steps[2:]) == {}


def test_metrics_have_certificates_and_baselines_and_what_is_undefined_has_no_value() -> None:
    found = metrics(TWO)
    assert (found["global.auroc"], found["global.auroc.baseline"]) == (2.5 / 3, 0.5)
    assert found["global.auroc.within"] == pytest.approx(1 / 6)
    assert (found["global.sensitivity"], found["global.accuracy.baseline"]) == (1.0, 0.75)
    assert "global.accuracy" not in found and "global.sensitivity.within" not in found
    left = metrics(TWO | ONE_CLASS)
    assert "global.auroc" not in left and left["global.auroc.baseline"] == 0.5 and "global.specificity" in left
    assert metrics({"global.correct": 3, "test.rows": 4}) == {}


def test_the_last_metrics_are_of_the_last_step_that_opened_all_of_their_sums() -> None:
    whole, partial = TWO, {name: count for name, count in TWO.items() if name != "global.ranking.0.0"}
    steps = [closed(0, **whole), closed(1, **whole), closed(2, **partial)]
    ((mode, (found, step)),) = last_metrics(steps).items()
    assert (mode, found[0].metric, step.k) == ("global", "auroc", 1)


def test_the_cells_of_a_withheld_metric_are_named_by_the_metric() -> None:
    slots = tuple(Slot(name, 9, Basis.DATA) for name in TWO)
    plan = replace(PLAN, steps=(replace(PLAN.steps[0], slots=slots),))
    assert withheld(plan, replace(closed(0, **{"global.brier.q16": 1}).record, name=plan.steps[0].name)) == (
        *("global.confusion", "global.ranking", "global.calibration", "global.log-loss", "global.correct"),
        "test.rows",
    )


def test_what_the_plan_has_and_the_step_did_not_open_was_withheld() -> None:
    whole, half, none = closed(0, global_correct=0, test_rows=0), closed(1, global_correct=1), closed(2)
    assert [withheld(PLAN, one.record) for one in (whole, half, none)] == [
        (),
        ("test.rows",),
        ("global.correct", "test.rows"),
    ]
    missing = {"train/1": ("test.rows",), "train/2": ("global.correct", "test.rows")}
    assert withheld_in(PLAN, (whole, half, none)) == missing


def test_a_run_that_opened_everything_withheld_nothing(tmp_path: Path) -> None:
    make_job(tmp_path)
    run = RunRecord.read(AggregatorHome(tmp_path), RUN)
    assert withheld_in(run.plan, run.closed) == {}


def test_the_sentence_names_figures_and_steps_and_the_reason() -> None:
    assert sentence({}) == ""
    missing = {"rows/0": ("rows",), "train/0": ("test.rows", "loss"), "train/1": ("test.rows", "loss")}
    assert sentence(missing) == (
        "Figures withheld by the silos, because with sums that opened before they could show one silo's own: "
        "rows of rows/0; test.rows, loss of train/0, train/1."
    )
    many = {f"train/{k}": ("loss",) for k in range(STEPS_NAMED + 2)}
    assert sentence(many).endswith(f"train/{STEPS_NAMED - 1} and 2 more steps.")
    del many["train/0"]
    assert sentence(many).endswith("and 1 more step.")
