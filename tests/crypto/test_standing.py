"""How much an expert counts: by the opened lanes alone."""

from __future__ import annotations

import pytest

from crypto.standing import rounds, standing


def slots(general: int, mine: list[int]) -> dict[str, dict[str, int]]:
    """Training steps in which the generalist's lane opened, and in those of ``mine`` the expert's too."""
    found = {f"train/{k}": {"everyone.contributors": 8} for k in range(general)}
    for k in mine:
        found[f"train/{k}"]["expert-0.contributors"] = 3
    return found | {"eval/0": {"test.rows": 9}, "cluster/0": {"expert-0.contributors": 3}}


@pytest.mark.parametrize(
    ("mine", "expected"),
    [([], 0.0), ([0], 1 / 9), ([0, 1, 2, 3, 4, 5], 2 / 3), (list(range(9)), 1.0), (list(range(12)), 1.0)],
)
def test_an_expert_counts_by_the_rounds_it_was_trained_in(mine: list[int], expected: float) -> None:
    assert standing(slots(12, mine), "expert-0") == pytest.approx(expected)
    assert rounds(slots(12, mine), "expert-0") == len(mine)


def test_rounds_in_which_nothing_opened_count_for_nobody() -> None:
    """A void step, or one whose lanes all stayed shut: the generalist did not move either."""
    assert standing(slots(4, [0, 1, 2, 3]) | {"train/4": {}, "train/5": {"test.rows": 9}}, "expert-0") == 1.0


def test_before_any_round_nothing_is_held_against_an_expert() -> None:
    assert standing({}, "expert-0") == standing({"rows/0": {"rows": 9}}, "expert-0") == 1.0
