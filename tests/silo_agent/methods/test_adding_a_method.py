"""A new method is one file and its test: FedPer. ``tests/jobs/runtime`` has its whole runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import DataRefused, EgressDenied, SpecError
from crypto.plan import Scope
from silo_agent.methods import Limits, Published
from tests import digits, plain
from tests.silo_agent.methods import fedper
from tests.silo_agent.methods.fedper import FedPer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PARAMS = {"features": 64, "classes": 10, "rounds": 6, "local_steps": 30, "hidden": 16, "seed": 7}


def test_the_page_shows_the_code_that_runs() -> None:
    page = (ROOT / "docs" / "methods" / "adding-one.md").read_text()
    (shown,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown == Path(fedper.__file__).read_text()


def test_its_plan_is_refused_what_every_plan_is() -> None:
    plan = FedPer.plan(PARAMS, Limits(n_max=8))
    assert [lane.scope for lane in plan.lanes] == [Scope.ALL, Scope.LOCAL]
    with pytest.raises(SpecError, match=r"params\.experts"):
        FedPer.plan(PARAMS | {"experts": 3}, Limits(n_max=8))
    leak = blocks.Contribution({"head.w2": np.zeros((16, 10))}, {})
    with pytest.raises(EgressDenied):
        blocks.encode(plan, plan.steps[1], leak, {})


def test_a_step_tried_again_and_a_restart_come_out_the_same() -> None:
    data = digits.turned()["silo-1"]
    plan = FedPer.plan(PARAMS, Limits(n_max=8))
    seen = Published(blocks.initial_state(plan, plain.RUN))
    first, again = FedPer(PARAMS, "silo-1"), FedPer(PARAMS, "silo-1")
    train = [step for step in plan.steps if step.task == "train"]
    for step in train[:2]:
        made, repeated = (first.contribute(step, seen, data) for _ in range(2))
        assert made.sums["base.w1"].tobytes() == repeated.sums["base.w1"].tobytes()
    again.load_state_dict(first.state_dict())
    assert again.contribute(train[2], seen, data).sums["base.w1"].tobytes() == (
        first.contribute(train[2], seen, data).sums["base.w1"].tobytes()
    )
    with pytest.raises(DataRefused, match="no shared head"):
        first.predict(seen, data.x_test, "global")
    with pytest.raises(DataRefused, match="no shared head"):
        FedPer(PARAMS).predict(seen, data.x_test, "personal")
