"""FLEx in a whole run: personal experts are in no byte that leaves a silo, and a silo with another base stays out."""

from __future__ import annotations

import json
import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import SpecError
from jobs.demo import language_base_model
from jobs.demo.federation import Federation, add_data
from jobs.job import JobSpec
from jobs.runtime.compose import open_agent
from silo_agent.home import SiloHome
from silo_agent.language.base_model import MODELS, tokens
from silo_agent.methods import Limits, Published
from silo_agent.pysyft.catalogue import Catalogue
from tests import local, plain
from tests.texts import CLASSES, CONTEXT, SHAPE, Here, arrays, base, params, silos

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=4)


def needles(value: np.ndarray) -> list[bytes]:
    """Six numbers in a row of an array, in the forms that a number may be written in."""
    flat = value.reshape(-1)
    places = range(0, max(1, len(flat) - 6), max(1, len(flat) // 8))
    return [np.ascontiguousarray(flat[at : at + 6], dtype=kind).tobytes() for at in places for kind in ("<f4", "<f8")]


def test_personal_experts_are_in_no_byte_that_leaves(tmp_path: Path) -> None:
    """A whole run: masks, floors and round code of production, which must come to what plain sums come to."""
    with warnings.catch_warnings():  # MLflow warns about its own type hints
        warnings.simplefilter("ignore")
        from jobs.evidence.predictor import Predictor

    raw = {name: value for name, value in params(rounds=2, local_steps=3).items() if name != "base"}
    spec = JobSpec.parse(
        {"name": "flex-test", "method": "flex", "dataset": "texts", "purpose": "a test", "params": raw}
    )
    federation = Federation.make(tmp_path / "federation", "test", arrays(), "texts")
    for home in federation.homes.values():
        language_base_model.place(SiloHome(home), base())
    spec = spec.with_params(base=base().name)
    sent: dict[str, list[bytes]] = {}
    outcome, run, agents = local.run_job(
        spec, federation.aggregator, federation.homes, courier=partial(local.Wire, sent)
    )
    _, published, _ = plain.federate(Here, spec.params, {s: agents[s].data for s in agents}, LIMITS, run_id=run.id)
    assert blocks.state_digest(published.blocks) == blocks.state_digest(run.state)
    at_hub = b"\0".join(path.read_bytes() for path in federation.aggregator.rglob("*") if path.is_file())
    searched = 0
    for silo, parts in sent.items():
        home, everything = federation.homes[silo], b"\0".join([*parts, at_hub])
        told = [home / "journal.jsonl", home / "security.jsonl", *(home / "syft").rglob("*"), *home.glob("receipts/*")]
        everything += b"\0".join(path.read_bytes() for path in told if path.is_file())
        own = agents[silo].method.personal
        assert max(own) == 2 and set(own[2]) == {
            f"layers.{at}.{part}" for at in (0, 1) for part in ("gate_up", "down", "gate")
        }
        for name, value in own[2].items():
            searched += len(needles(value))
            assert not any(piece in everything for piece in needles(value)), f"{silo}: {name}"
        notes = b"".join(path.read_bytes() for path in (home / "runs").glob("*"))
        assert any(piece in notes for piece in needles(own[2]["layers.0.gate_up"])), "the search finds what is there"
    assert searched > 4 * 6 * 4

    # What is registered: the dense delta's factors, and in the settings the digest of the base that they go with.
    settings = json.loads(run.predictor["settings"])
    facts = {"settings": settings, "slots": {}, "state_digest": ""}
    assert (settings["method"], settings["params"]) == ("flex", dict(spec.params))
    assert run.predictor["shape"] == [CONTEXT]
    names = [re.split("[=<>]", line)[0] for line in run.predictor["requirements"]]
    assert names == ["mlflow", "numpy", "safetensors", "torch", "transformers", "peft"]
    (tmp_path / "published.json").write_text(json.dumps(facts))
    weights = max((federation.aggregator / "jobs" / outcome.run / "checkpoints").glob("*.safetensors"))
    predictor = Predictor()
    artifacts = {"published": str(tmp_path / "published.json"), "weights": str(weights)}
    predictor.load_context(type("Context", (), {"artifacts": artifacts}))  # type: ignore[arg-type]
    x = silos()["silo-1"].x_test
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CONSILIUM_MODELS", raising=False)
        with pytest.raises(SpecError, match="CONSILIUM_MODELS"):
            predictor.predict(None, x)  # type: ignore[arg-type]
        patch.setenv("CONSILIUM_MODELS", str(base().parent))
        labels = predictor.predict(None, x)  # type: ignore[arg-type]
    np.testing.assert_array_equal(labels, Here(spec.params).predict(Published(run.state), x, "global").argmax(1))


def test_a_silo_with_another_base_refuses_before_it_takes_part(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "federation", "test", arrays(), "texts")
    raw = {"name": "flex-test", "method": "flex", "dataset": "texts", "purpose": "a test", "params": params()}
    spec, home = JobSpec.parse(raw), federation.silo("silo-1")
    local.approve(SiloHome(home), spec)
    with pytest.raises(SpecError, match="no folder"):
        open_agent(spec.text, SiloHome(home))
    other = language_base_model.make(home / MODELS, SHAPE, 8, steps=1)
    other.rename(home / MODELS / base().name)
    with pytest.raises(SpecError) as refused:
        open_agent(spec.text, SiloHome(home))
    assert refused.value.path == "params.base" and refused.value.got == other.name


def test_mocks_of_texts_are_tokens(tmp_path: Path) -> None:
    home = tmp_path / "silo-1"
    SiloHome(home).make("silo-1")
    add_data(SiloHome(home), "silo-1", "texts", arrays()["silo-1"])
    mock = Catalogue(SiloHome(home), "silo-1").mock("texts")
    tokens("mock", mock["x_train"], CLASSES)
    assert len(np.unique(mock["x_train"])) > 10
