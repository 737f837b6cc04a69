"""What pages say of a run's experts: from opened figures, and nothing where there is nothing to say."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.expert_figures import expert_sentences
from silo_agent.methods import Limits, method

PARAMS = {"features": 6, "classes": 3, "rounds": 4, "experts": 2}
COE = method("fedcoe").plan(PARAMS, Limits(n_max=8))


def slots(mine: Mapping[int, int], end: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Expert → how many of the first rounds opened its lane."""
    rounds = {f"train/{k}": {"everyone.contributors": 8} for k in range(4)}
    for e, times in mine.items():
        for k in range(times):
            rounds[f"train/{k}"][f"expert-{e}.contributors"] = 4
    return rounds | {"eval/0": dict(end)}


def test_a_run_with_all_its_experts() -> None:
    end = {"test.rows": 200, "load-0": 101, "load-1": 98, "generalist.correct": 150}
    assert expert_sentences(COE, slots({0: 4, 1: 4}, end)) == (
        "Trained rounds, of the generalist's 4: expert-0 4, expert-1 4.",
        "Experts serve all 200 test rows.",
        "The generalist alone gives 75.0 % of 200 test rows.",
    )


def test_experts_that_never_opened_or_fell_behind_are_named_and_whom_they_leave() -> None:
    end = {"test.rows": 200, "load-0": 101, "load-1": 0, "generalist.correct": 150}
    trained, none, _ = expert_sentences(COE, slots({0: 1}, end))
    assert trained == (
        "Trained rounds, of the generalist's 4: expert-0 1 (counts for 33 %, the generalist for the rest), "
        "expert-1 0 (not used)."
    )
    assert none == "About 99 of 200 test rows belong to no expert that was trained; the generalist serves them."


def test_withheld_figures_are_left_out_and_never_taken_for_zero() -> None:
    assert len(expert_sentences(COE, slots({0: 4, 1: 4}, {"load-0": 101, "load-1": 98}))) == 1
    assert len(expert_sentences(COE, slots({0: 4, 1: 4}, {"test.rows": 200, "load-0": 101}))) == 1


def test_a_plan_without_experts_or_a_run_without_rounds_has_nothing_to_say() -> None:
    plain = method("fedavg").plan({"features": 6, "classes": 3}, Limits(n_max=8))
    assert expert_sentences(plain, slots({}, {})) == ()
    assert expert_sentences(COE, {}) == expert_sentences(COE, {"cluster/0": {"rows": 9, "silos": 8}}) == ()
