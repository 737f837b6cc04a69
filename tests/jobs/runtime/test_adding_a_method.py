"""A new method runs through rounds, masks and manifest as they are: FedPer, registered here alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from jobs.owner.egress_manifest import manifest
from silo_agent.methods import METHODS, Published, method
from tests import local
from tests.silo_agent.methods.fedper import FedPer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PARAMS = {"features": 64, "classes": 10, "rounds": 6, "local_steps": 30, "hidden": 16, "seed": 7}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The one line that the registry would get."""
    monkeypatch.setitem(METHODS, "fedper", "tests.silo_agent.methods.fedper:FedPer")  # type: ignore[arg-type]
    yield


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
        for head in agent.method.state_dict().values():
            assert head.any() and head.reshape(-1)[:10].tobytes() not in everything
        for encoded in agent.plain.values():
            if encoded.slots.size:
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
