"""A new method is one file and its test: FedPer, registered here alone, through rounds, masks and manifest as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import DataRefused, EgressDenied, SpecError
from crypto.plan import Scope
from jobs.owner.egress_manifest import manifest
from silo_agent.methods import METHODS, Limits, Published, method
from tests import local
from tests.silo_agent.methods import fedper
from tests.silo_agent.methods.fedper import FedPer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PARAMS = {"features": 64, "classes": 10, "rounds": 6, "local_steps": 30, "hidden": 16, "seed": 7}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The one line that the registry would get."""
    monkeypatch.setitem(METHODS, "fedper", "tests.silo_agent.methods.fedper:FedPer")  # type: ignore[arg-type]
    yield


def test_the_page_shows_the_code_that_runs() -> None:
    page = (ROOT / "docs" / "methods" / "adding-one.md").read_text()
    (shown,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown == Path(fedper.__file__).read_text()


def test_nothing_else_knows_of_it() -> None:
    """No room but this test's has its name; the registry is asked for it like for any other."""
    for room in ("crypto", "silo_agent", "aggregator", "jobs"):
        assert not any("fedper" in path.read_text().lower() for path in (ROOT / room).rglob("*.py"))
    assert method("fedper") is FedPer
    assert local.spec("fedper", **PARAMS).method == "fedper"


def test_it_runs_through_a_federation_as_it_stands(tmp_path: Path) -> None:
    """Approval, plan, masks, floors, ledger; what its manifest says is what leaves, and the head does not."""
    job, made = local.spec("fedper", **PARAMS), local.federation(tmp_path / "f")
    sent: dict[str, list[bytes]] = {silo: [] for silo in made.homes}
    _, run, agents = local.run_job(
        job,
        made.aggregator,
        made.homes,
        agent=local.recording,
        courier=partial(local.Wire, sent),
    )
    published = Published(run.state, {})
    assert set(run.state) == {"base.w1", "base.b1"}, "what is published is what the plan sums"
    right = rows = 0
    for silo, agent in agents.items():
        everything = b"\0".join(sent[silo])
        for head in agent.method.remember().values():
            assert head.any() and head.reshape(-1)[:10].tobytes() not in everything
        for encoded in agent.plain.values():
            assert encoded.slots.tobytes() not in everything, "no figure of one silo"
            assert all(words[:8].tobytes() not in everything for words in encoded.lanes.values() if words.any())
        p_BC = agent.method.predict(published, agent.data.x_test, "personal")
        right, rows = right + int((p_BC.argmax(axis=1) == agent.data.y_test).sum()), rows + len(p_BC)
    assert right / rows > 0.7


def test_its_manifest_says_what_leaves() -> None:
    told = manifest(local.spec("fedper", **PARAMS), silos=8)
    assert {lane["name"]: lane["leaves"].partition(",")[0] for lane in told["lanes"]} == {
        "everyone": "masked",
        "own": "never",
    }
    steps = {step["name"]: step for step in told["steps"]}
    assert steps["train/0"]["lanes"] == {"everyone": 64 * 16 + 16}, "the hidden layer and nothing else"
    assert set(steps["eval/0"]["slots"]) == {"personal.correct", "test.rows"}


def test_its_plan_is_refused_what_every_plan_is() -> None:
    plan = FedPer.plan(PARAMS, Limits(n_max=8))
    assert [lane.scope for lane in plan.lanes] == [Scope.ALL, Scope.LOCAL]
    with pytest.raises(SpecError, match=r"params\.experts"):
        FedPer.plan(PARAMS | {"experts": 3}, Limits(n_max=8))
    leak = blocks.Contribution({"head.w2": np.zeros((16, 10))}, {})
    with pytest.raises(EgressDenied):
        blocks.encode(plan, plan.steps[1], leak, {})


def test_a_step_tried_again_and_a_restart_come_out_the_same() -> None:
    from jobs.demo.digits_data import make
    from silo_agent.data import check

    data = check("digits", make(8, 7)["silo-1"])
    plan = FedPer.plan(PARAMS, Limits(n_max=8))
    seen = Published(blocks.initial_state(plan))
    first, again = FedPer(PARAMS, "silo-1"), FedPer(PARAMS, "silo-1")
    train = [step for step in plan.steps if step.task == "train"]
    for step in train[:2]:
        made, repeated = (first.contribute(step, seen, data) for _ in range(2))
        assert made.sums["base.w1"].tobytes() == repeated.sums["base.w1"].tobytes()
    again.recall(first.remember())
    assert again.contribute(train[2], seen, data).sums["base.w1"].tobytes() == (
        first.contribute(train[2], seen, data).sums["base.w1"].tobytes()
    )
    with pytest.raises(DataRefused, match="no shared head"):
        first.predict(seen, data.x_test, "global")
    with pytest.raises(DataRefused, match="no shared head"):
        FedPer(PARAMS).predict(seen, data.x_test, "personal")
