"""What is staged with a run so that its model can predict elsewhere: requirements, and which release made it."""

from __future__ import annotations

import json
import logging
import re
import warnings
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from aggregator.tracking.pyfunc import _output
from jobs import release
from jobs.api import simulate
from jobs.job import JobSpec
from jobs.runtime.compose import predictor_requirements, predictor_settings
from silo_agent import methods

SPEC = JobSpec.parse(
    {
        "name": "digits",
        "method": "fedavg",
        "dataset": "digits",
        "purpose": "a test",
        "params": {"features": 4, "classes": 2, "rounds": 1},
    }
)


@pytest.fixture(scope="module")
def predictor() -> ModuleType:
    with warnings.catch_warnings():  # MLflow warns about its own type hints
        warnings.simplefilter("ignore")
        from jobs.evidence import predictor

    return predictor


def test_the_requirements_are_other_peoples_packages_pinned() -> None:
    lines = predictor_requirements(SPEC)
    assert [line.partition("==")[0] for line in lines] == ["mlflow", "numpy", "safetensors", "torch"]
    assert all(re.fullmatch(r"[a-z]+==[0-9.]+", line) for line in lines), lines


def test_a_published_network_of_a_library_requires_it() -> None:
    lines = predictor_requirements(SPEC.with_params(model="hf-image"))
    assert [re.split("[=<>]", line)[0] for line in lines][4:] == ["transformers", "peft"]
    assert len(predictor_requirements(SPEC.with_params(model="cnn"))) == 4


def test_what_the_aggregator_does_not_have_is_required_within_our_own_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return whole(name)

    monkeypatch.setattr(release.metadata, "version", version)
    (line,) = (line for line in predictor_requirements(SPEC) if line.startswith("torch"))
    assert ">=2.13" in line and "<2.14" in line


def test_the_settings_name_the_release() -> None:
    settings = json.loads(predictor_settings(SPEC))
    assert settings["release"] == {"version": release.version(), "code_digest": release.digest().hex()}
    assert (settings["method"], settings["params"]) == ("fedavg", dict(SPEC.params))


def test_another_release_is_a_warning(predictor: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    here = {"version": "0.1.0", "code_digest": release.digest().hex()}
    with caplog.at_level(logging.WARNING):
        assert predictor._methods(here) is methods and not caplog.records
        assert predictor._methods(here | {"code_digest": "ab" * 32}) is methods
    assert "ab" * 32 in caplog.text and here["code_digest"] in caplog.text


def test_a_file_that_is_not_the_releases_is_refused(
    predictor: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """H4: where the release that made the model is installed, its own predictor is known."""
    altered = tmp_path / "predictor.py"
    altered.write_text("# another\n")
    monkeypatch.setattr(predictor, "__file__", str(altered))
    here = {"version": "0.1.0", "code_digest": release.digest().hex()}
    with pytest.raises(ImportError, match="fed verify BUNDLE"):
        predictor._methods(here)


def test_another_fault_is_no_missing_package(predictor: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bytes:
        raise ImportError("numpy is broken", name="numpy")

    monkeypatch.setattr(release, "digest", broken)
    with pytest.raises(ImportError, match="numpy is broken"):
        predictor._methods({"version": "0.1.0", "code_digest": ""})


@pytest.mark.parametrize("task", ["regression", "multilabel", "class"])
def test_a_published_model_answers_by_its_task(
    predictor: ModuleType, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    y, params = {
        "regression": (20 + x[:, 0].astype(float), {"target_low": 0, "target_high": 40}),
        "multilabel": (x[:, :2] > 0, {}),
        "class": ((x[:, 0] > 0).astype(int), {}),
    }[task]
    result = simulate(dict.fromkeys(("a", "b", "c"), (x, y)), method="fedavg", rounds=1, local_steps=2, **params)
    settings = json.loads(predictor_settings(result.spec))
    files = {predictor.WEIGHTS: tmp_path / "w.safetensors", predictor.PUBLISHED: tmp_path / "published.json"}
    save_file(dict(result.model._published.blocks), files[predictor.WEIGHTS])
    files[predictor.PUBLISHED].write_text(json.dumps({"settings": settings, "slots": {}}))
    monkeypatch.setattr(predictor, "_methods", lambda made_with: methods)
    model = predictor.Predictor()
    model.load_context(SimpleNamespace(artifacts=files))
    found = model.predict(None, x)
    signed = _output(settings["params"], {"shape": [3]})
    assert found.dtype == signed.type and found.shape[1:] == signed.shape[1:] and len(found) == 40
    probabilities = model.predict(None, x, {"output": "probabilities"})
    if task == "regression":
        np.testing.assert_array_equal(found, result.model.predict(x))
        np.testing.assert_array_equal(probabilities, found)
    else:
        np.testing.assert_array_equal(probabilities, result.model.predict_proba(x))
        np.testing.assert_array_equal(found, result.model.predict(x))
    with pytest.raises(ValueError, match="none of labels, probabilities"):
        model.predict(None, x, {"output": "logits"})
