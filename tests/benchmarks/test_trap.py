"""The attack of ``tests.benchmarks.trap`` works where it should, and is refused where it should be.

Short runs of FedAvg. Where sums are not checked, the same lies read rows: so it says something that they read none.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.verify.checks import verify_run
from crypto.errors import EvidenceError, SumNotProven
from tests.benchmarks.trap_model import picture, two
from tests.benchmarks.trap_runs import COLLUDER, SILOS, Case, against_agents, without_masks
from tests.plain import fixed_run_id

HONEST = [silo for silo in SILOS if silo != COLLUDER]


@pytest.fixture(scope="module")
def case() -> Case:
    return Case.of("fedavg-digits", 5, rounds=2)


def test_sums_that_nobody_checks_show_rows_and_true_sums_none(case: Case) -> None:
    lying, honest = case.adversary(bounded=False), case.adversary(bounded=False, lies=False)
    without_masks(case, lying)
    without_masks(case, honest)
    assert case.score(lying)["read"] > 0
    assert not honest.readings


def test_what_a_colluder_makes_possible_passes_the_check_of_bounds_and_shows_rows(case: Case) -> None:
    adversary = case.adversary(bounded=True)
    assert without_masks(case, adversary, colluder=True) == 1  # of two training steps; none follows the second
    assert case.score(adversary, HONEST)["read"] > 0


def test_a_member_alone_uploads_a_trap_and_reads_rows_from_true_sums() -> None:
    """It takes a step more: what a sum shows is of the trap that was uploaded the step before."""
    case = Case.of("fedavg-digits", 5, rounds=4)
    adversary = case.adversary(bounded=True, uploads=True)
    assert without_masks(case, adversary, colluder=True) == 0  # no sum is false
    assert case.score(adversary, HONEST)["read"] > 0


def test_agents_refuse_the_first_false_sum_and_show_nothing(case: Case, tmp_path: Path) -> None:
    adversary = case.adversary(bounded=True)
    codes, answered = against_agents(case, adversary, tmp_path / "f")
    assert codes == {silo: {SumNotProven.code} for silo in SILOS}
    assert answered[-1] == "tag 1"  # the step with the first false sum; nothing leaves a silo after it
    assert not adversary.readings


def test_agents_that_do_not_check_are_read(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silo_agent.agent.proof.check_result", lambda *given: None)
    adversary = case.adversary(bounded=True)
    codes, _ = against_agents(case, adversary, tmp_path / "f")
    assert not any(codes.values())
    assert case.score(adversary)["read"] > 0


def test_agents_take_what_a_colluder_gave_false_tags_for(case: Case, tmp_path: Path) -> None:
    """The limit that SECURITY states: with one colluding member the proof holds, and rows are read. Who adds up the
    kept uploads again finds it."""
    adversary, kept = case.adversary(bounded=True), replace(case, spec=replace(case.spec, keep_uploads="all"))
    codes, _ = against_agents(kept, adversary, tmp_path / "f", colluder=True)
    assert not any(codes.values())
    assert case.score(adversary, HONEST)["read"] > 0
    home = AggregatorHome(tmp_path / "f" / "aggregator")
    (run,) = (folder.name for folder in home.jobs_folder.iterdir())
    with fixed_run_id(), pytest.raises(EvidenceError, match="step 1, lane everyone"):
        verify_run(home, run)


@pytest.mark.parametrize("share", [0.5123, 0.7071, 0.9712])
def test_two_pictures_are_told_apart_and_three_are_not(case: Case, share: float) -> None:
    rows = case.data["silo-1"].x_train
    one, other, third = (np.rint((row.astype(np.float64) + 0.3) * 16) for row in rows[:3])
    found = two(share * one + (1 - share) * other)
    assert found is not None
    assert [picture(levels).tobytes() for levels in found] == [rows[0].tobytes(), rows[1].tobytes()]
    assert two((share * one + (1 - share) * other + 0.37 * third) / 1.37) is None
