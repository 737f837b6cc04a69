"""The demonstration's digits: fit for every silo, a function of the seed."""

from __future__ import annotations

import pytest

from jobs.demo.digits_data import make, style
from silo_agent.data import check, commitment


def test_the_data_is_fit_for_every_silo() -> None:
    sets = {name: check(name, arrays) for name, arrays in make(8, seed=7).items()}
    assert list(sets) == [f"silo-{i}" for i in range(1, 9)] + ["newcomer-1", "newcomer-2"]
    assert sum(data.rows + len(data.y_test) for data in sets.values()) == 1797
    assert all(0.2 < len(d.y_test) / (d.rows + len(d.y_test)) < 0.4 for d in sets.values())
    assert [style(at, 8) for at in range(10)] == [0] * 4 + [1] * 4 + [0, 1]


def test_the_data_is_a_function_of_its_seed() -> None:
    salt = bytes(16)

    def all_of(silos: int, seed: int) -> list[bytes]:
        return [commitment(check(name, arrays), salt) for name, arrays in make(silos, seed).items()]

    assert all_of(8, 1) == all_of(8, 1) != all_of(8, 2)


@pytest.mark.parametrize(("silos", "newcomers"), [(7, 2), (0, 2), (8, -1), (400, 2)])
def test_the_data_refuses_impossible_counts(silos: int, newcomers: int) -> None:
    with pytest.raises(ValueError, match="silos"):
        make(silos, seed=1, newcomers=newcomers)
