"""The aggregator leaves silos out until the rule of atoms lets the others open, as far as it sees who contributes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from aggregator.rounds.cohort_fit import AskedFor
from crypto.plan import Apply, Block, Lane, Plan, Scope, Step, Sum

LEAST = 3
ONE, TWO = b"1" * 32, b"2" * 32
SILOS = tuple(f"silo-{i}" for i in range(1, 9))


def plan(lane: Lane, *, quantity: str = "") -> Plan:
    """Two steps that sum the one block of a lane."""
    block = Block(name="w", shape=(2,), lane=lane.name, clip=1.0, quantity=quantity)
    steps = tuple(Step(task="train", index=k, sums=(Sum("w", Apply.AVERAGE),)) for k in range(2))
    return Plan(method="test", seed=7, n_max=8, lanes=(lane,), blocks=(block,), steps=steps)


EVERYONE = plan(Lane(name="all", scope=Scope.ALL, floor=3))
HIDDEN = plan(Lane(name="held", scope=Scope.HELD, floor=3))
VISIBLE = plan(Lane(name="held", scope=Scope.HELD, floor=3, hidden=False))


def held(numbers: Iterable[int], holders: Iterable[int] = ()) -> dict[str, tuple[str, ...]]:
    holding = {f"silo-{i}" for i in holders}
    return {silo: ("held",) * (silo in holding) for silo in (f"silo-{i}" for i in numbers)}


def fitted(asked: AskedFor, of: Plan, numbers: Iterable[int], holders: Iterable[int] = (), blocks: bytes = ONE) -> str:
    found = asked.fit(of.steps[1], blocks, held(numbers, holders))
    return "".join(silo.removeprefix("silo-") for silo in found)


def test_nothing_was_asked_for_so_all_stay() -> None:
    assert fitted(AskedFor(EVERYONE, LEAST), EVERYONE, range(1, 8)) == "1234567"


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        (range(1, 9), range(1, 9), "12345678"),
        (range(1, 9), range(1, 8), "12345"),  # three stay outside
        (range(1, 9), range(1, 6), "12345"),
        (range(1, 8), range(1, 9), "1234567"),  # silo 8 alone is new
        (range(1, 6), range(1, 9), "12345678"),  # three are new
        (range(1, 5), range(2, 9), "5678"),  # of four, three can't be cut off one
        (range(1, 5), (1, 2, 3), ""),
        (range(1, 4), (1, 2), "12"),  # below its floor: it stays shut anyway
    ],
)
def test_of_each_atom_all_stay_or_as_many_as_leave_enough_outside(
    before: Iterable[int], now: Iterable[int], kept: str
) -> None:
    asked = AskedFor(EVERYONE, LEAST)
    asked.ask(EVERYONE.steps[0], ONE, held(before))
    assert fitted(asked, EVERYONE, now) == kept
    if len(all_of := "".join(map(str, now))) >= LEAST:
        assert fitted(asked, EVERYONE, now, blocks=TWO) == all_of, "other blocks, another quantity"


def test_a_static_quantity_is_the_same_from_all_blocks() -> None:
    static = plan(Lane(name="all", scope=Scope.ALL, floor=3), quantity="signature")
    asked = AskedFor(static, LEAST)
    asked.ask(static.steps[0], ONE, held(range(1, 9)))
    assert fitted(asked, static, range(1, 8), blocks=TWO) == "12345"


def test_what_the_silos_refuse_is_not_counted() -> None:
    """It did not open. Counted, it would leave an atom too small, and nobody would fit any more."""
    asked = AskedFor(EVERYONE, LEAST)
    for numbers in (range(1, 9), range(1, 8)):
        asked.ask(EVERYONE.steps[0], ONE, held(numbers))
    assert fitted(asked, EVERYONE, range(1, 9)) == "12345678"


def test_of_visible_lanes_the_holders_count_and_of_hidden_ones_nobody_is_left_out() -> None:
    asked = AskedFor(VISIBLE, LEAST)
    asked.ask(VISIBLE.steps[0], ONE, held(range(1, 9), holders=(1, 2, 3, 4)))
    assert fitted(asked, VISIBLE, range(1, 9), holders=(1, 2, 3, 4)) == "12345678"
    assert fitted(asked, VISIBLE, (1, 2, 3, 5, 6, 7, 8), holders=(1, 2, 3)) == "5678", "silo 4 would be cut off"
    hidden = AskedFor(HIDDEN, LEAST)
    hidden.ask(HIDDEN.steps[0], ONE, held(range(1, 9)))
    assert fitted(hidden, HIDDEN, range(1, 8)) == "1234567"


def test_what_an_earlier_process_asked_for_counts() -> None:
    asked = AskedFor(EVERYONE, LEAST)
    asked.ask_again([(0, ONE, SILOS)])
    assert fitted(asked, EVERYONE, range(1, 8)) == "12345"
