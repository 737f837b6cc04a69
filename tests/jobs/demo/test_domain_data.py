"""The data of MetaMoE's demonstration: domains of classes, and no row that is public too."""

from __future__ import annotations

import numpy as np
import pytest

from crypto.errors import SpecError
from jobs.demo.datasets import deal
from jobs.demo.domain_data import group, make
from jobs.job import JobSpec
from silo_agent import proxies
from silo_agent.data import check
from silo_agent.methods.metamoe_plan import read


def test_groups_have_classes_of_their_own_and_newcomers_all() -> None:
    dealt = make(8, 5)
    assert list(dealt) == [*(f"silo-{i}" for i in range(1, 9)), "newcomer-1", "newcomer-2"]
    for at in range(8):
        data = check("digits", dealt[f"silo-{at + 1}"])
        assert set(data.y_train.tolist()) == set(range(5)) if group(at, 8) == 0 else set(range(5, 10))
        assert data.rows > 60 and len(data.y_test) > 25
    assert all(set(dealt[f"newcomer-{i}"]["y_train"].tolist()) == set(range(10)) for i in (1, 2))


def test_nothing_is_dealt_twice_or_public() -> None:
    rows = [row.tobytes() for data in make(8, 5).values() for part in ("x_train", "x_test") for row in data[part]]
    public = [row.tobytes() for row in proxies.shipped("digits-public").x_train]
    assert len(set(rows)) == len(rows) == 1797 - len(public) and not set(rows) & set(public)


def test_seeds_deal_differently_and_repeat_themselves() -> None:
    one, again, other = (make(8, seed)["silo-1"]["x_train"] for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize(("silos", "newcomers"), [(7, 2), (0, 2), (8, -1)])
def test_what_makes_no_groups_is_refused(silos: int, newcomers: int) -> None:
    with pytest.raises(ValueError, match=f"got {silos}"):
        make(silos, 5, newcomers)


def test_the_demonstration_deals_what_the_job_names() -> None:
    params = JobSpec.load("metamoe-digits").params
    found = deal("digits-domains", None, 5, None)
    assert [name for names in read(params).groups for name in names] == list(found.silos)
    for at, name in enumerate(found.silos):
        assert name in read(params).groups[group(at, 8)]
    assert list(found.newcomers) == ["newcomer-1", "newcomer-2"]
    with pytest.raises(SpecError, match="names the silos of each group"):
        deal("digits-domains", 10, 5, None)
