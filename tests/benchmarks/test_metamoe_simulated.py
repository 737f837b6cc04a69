"""MetaMoE with experts of single silos, in simulation on mock data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused, SpecError
from silo_agent.methods import METHODS, method
from silo_agent.methods.plans import ever_opened
from tests import digits
from tests.benchmarks.metamoe_simulated import OneSilo, on_mocks
from tests.jobs.runtime.test_metamoe import LIMITS, SMALL, federation

pytestmark = pytest.mark.slow


def test_experts_of_one_silo_are_simulated_on_mocks(tmp_path: Path) -> None:
    made = federation(tmp_path / "f")
    box = tmp_path / "box"
    for silo in ("silo-1", "silo-5"):
        (site,) = (made.homes[silo] / "syft").glob("*@*")
        shutil.copytree(site / "public", box / site.name / "public")
    params = SMALL | {"group-0": "silo-1", "group-1": "silo-5"}
    found = on_mocks(params, box, "digits-domains")
    assert (
        set(found.mocks) == {"silo-1", "silo-5"} and ever_opened(found.published, 0) and ever_opened(found.published, 1)
    )
    for silo, mock in found.mocks.items():
        assert not np.isin(mock.x_train, digits.domains()[silo].x_train).all(), "invented rows"
    assert found.published.slots["choose/0"]["held.rows"] == 20
    assert OneSilo not in {method(name) for name in METHODS if name.startswith("metamoe")}
    with pytest.raises(SpecError, match="no plan has one"):
        method("metamoe").plan(params, LIMITS)
    with pytest.raises(DataRefused):
        on_mocks(params, tmp_path / "nothing", "digits-domains")
