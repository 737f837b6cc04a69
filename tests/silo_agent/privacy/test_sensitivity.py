"""A private plan opens nothing whose change by one row nobody has bounded."""

from __future__ import annotations

import pytest

from crypto.errors import SpecError
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from silo_agent.privacy.sensitivity import check_private

SILOS = Slot("silos", 1, Basis.STEP)


def plan(*, scope: Scope = Scope.ALL, grid: tuple[int, ...] = (1,), slots: tuple[Slot, ...] = (SILOS,)) -> Plan:
    return Plan(
        method="m",
        seed=1,
        n_max=4,
        lanes=(Lane(name="lane", scope=scope, floor=3, grid=grid),),
        blocks=tuple(Block(name=name, shape=(2,), lane="lane", clip=1.0) for name in ("model.a", "model.b")),
        steps=(
            Step(
                task="train", index=0, sums=(Sum("model.a", Apply.AVERAGE), Sum("model.b", Apply.AVERAGE)), slots=slots
            ),
        ),
    )


def check(made: Plan, noised: tuple[str, ...] = ("model.a", "model.b")) -> None:
    check_private(made, noised=noised, constant=("silos",))


def test_a_covered_plan_passes() -> None:
    check(plan())


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (plan(slots=(SILOS, Slot("rows", 9, Basis.DATA))), "rows"),
        (plan(grid=(1, 2)), "weights"),
        (plan(scope=Scope.HELD), "who holds it"),
    ],
)
def test_anything_else_is_refused_by_name(made: Plan, named: str) -> None:
    with pytest.raises(SpecError, match=named):
        check(made)


def test_a_block_without_noise_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"model\.b"):
        check(plan(), noised=("model.a",))
