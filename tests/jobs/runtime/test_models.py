"""A model with statistics, a local and a frozen part through approvals, masks and floors: what of it leaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aggregator.verify.checks import verify_run
from jobs import release
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.owner.egress_manifest import manifest, print_manifest
from silo_agent.methods import Published, method
from silo_agent.models import registry
from tests import digits, local
from tests.models import params
from tests.silo_agent.models.zoo import FACTORIES

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "zoo-normed", FACTORIES["zoo-normed"])  # type: ignore[arg-type]


def job() -> JobSpec:
    roles = {"frozen": "0.bias", "local": "head.*", "shared": "0.weight 1.*"}
    given = params("zoo-normed", "64", 10, rounds=3, local_steps=20, learning_rate=0.1, **roles)
    raw = {"name": "normed", "method": "fedavg", "dataset": "digits", "purpose": "a test", "params": given}
    return JobSpec.parse(raw)


def test_no_local_part_no_statistic_and_no_full_name_is_in_any_byte_that_leaves(tmp_path: Path) -> None:
    made, sent = local.federation(tmp_path / "f"), dict[str, list[bytes]]()
    _, run, agents = local.run_job(
        job(), made.aggregator, made.homes, agent=local.recording, courier=partial(local.Wire, sent)
    )
    assert set(run.state) == {"model.t0", "model.t2", "model.t3"}
    published, right, rows = Published(run.state, {}), 0, 0
    for silo, agent in agents.items():
        everything = b"\0".join(sent[silo])
        for own in agent.method.state_dict().values():
            assert own.any() and own.reshape(-1)[:10].tobytes() not in everything
        assert not any(word in everything for word in (b"running", b"num_batches", b"head.", b"0.weight"))
        for row in agent.data.x_train:
            assert row.tobytes() not in everything
        p_BC = agent.method.predict(published, agent.data.x_test, "personal")
        right, rows = right + int((p_BC.argmax(axis=1) == agent.data.y_test).sum()), rows + len(p_BC)
    assert right / rows > 0.5


def test_the_manifest_names_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    told = manifest(job(), silos=8)
    assert {part["name"]: (part["code"], part["role"], part["leaves"].partition(",")[0]) for part in told["model"]} == {
        "0.weight": ("t0", "shared", "masked"),
        "0.bias": ("t1", "frozen", "never"),
        "1.weight": ("t2", "shared", "masked"),
        "1.bias": ("t3", "shared", "masked"),
        "head.weight": ("t4", "local", "never"),
        "head.bias": ("t5", "local", "never"),
    }
    print_manifest(told)
    shown = capsys.readouterr().out
    assert "head.weight" in shown and "No buffer of the model is ever sent" in shown
    assert not manifest(local.spec(), silos=8)["model"]


def test_a_cnn_on_pictures_is_trained_published_and_registered_with_its_shape(tmp_path: Path) -> None:
    hands = list(digits.silos(digits.turned()).values())[:4]
    arrays = {
        f"silo-{n}": {
            **{f"x_{part}": getattr(data, f"x_{part}").reshape(-1, 1, 8, 8) for part in ("train", "test")},
            **{f"y_{part}": getattr(data, f"y_{part}") for part in ("train", "test")},
            "classes": np.array(10),
        }
        for n, data in enumerate(hands, 1)
    }
    made = Federation.make(tmp_path / "f", "test", arrays, "pictures")
    given = params("cnn", "1 8 8", 10, model_width=4, model_norm="batch", rounds=2, local_steps=5)
    raw = {"name": "pictures", "method": "fedavg", "dataset": "pictures", "purpose": "a test", "params": given}
    outcome, run, agents = local.run_job(JobSpec.parse(raw), made.aggregator, made.homes)
    assert run.predictor is not None and run.predictor["shape"] == [1, 8, 8]
    data = next(iter(agents.values())).data
    p_BC = method("fedavg")(given).predict(Published(run.state, {}), data.x_test, "cold")
    np.testing.assert_allclose(p_BC.sum(axis=1), 1.0, atol=1e-5)
    verify_run(made.aggregator_home, outcome.run, release=release.manifest())
