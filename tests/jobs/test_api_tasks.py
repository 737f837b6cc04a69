"""Regression, several labels and segmentation through whole federations in this process; and odd inputs, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from crypto.errors import DataRefused, SpecError
from jobs.api import Federation, draft_schema, simulate
from silo_agent.readers.schema import DataSchema
from tests.silo_agent.readers.test_targets import STAY

SILOS = ("anna", "berta", "clara")
SHORT: dict[str, Any] = {"rounds": 3, "local_steps": 8}


def rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(60, 4)).astype(np.float32)


def number(seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = rows(seed)
    return x, 20 + 4 * x[:, 0] - 3 * x[:, 1]


def several(seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = rows(seed)
    return x, np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0.5], axis=1)


def of_silos(make: Any) -> dict[str, Any]:
    return {silo: make(n) for n, silo in enumerate(SILOS)}


@pytest.mark.parametrize("method", ["fedavg", "fedcoe"])
def test_a_number_is_predicted_in_its_unit(method: str) -> None:
    bounds = {"target_low": -10, "target_high": 50}
    more: dict[str, Any] = {"finetune_steps": 5} if method == "fedcoe" else {"proximal": 0.1}
    result = simulate(of_silos(number), method=method, optimizer="adam", learning_rate=0.02, **SHORT, **bounds, **more)
    assert result.spec.params["task"] == "regression" and "classes" not in result.spec.params
    assert result.scores["global.rmse"] < result.scores["global.rmse.baseline"] and result.scores["global.r2"] > 0.2
    assert result.curves["global.rmse"].notna().sum() == 4, "each round, and the end"
    x, y = number(9)
    for model in (result.model, result.personal("anna")):
        found = model.predict(x)
        assert found.shape == (60,) and found.dtype == np.float64 and np.abs(found - y).mean() < y.std()
    with pytest.raises(SpecError, match="use predict"):
        result.model.predict_proba(x)


def test_bounds_hold_every_silos_targets_before_anything_runs() -> None:
    with Federation(of_silos(number)) as federation:
        with pytest.raises(SpecError, match=r"params\.target_low: got None, want a finite number"):
            federation.run(method="fedavg", **SHORT)
        with pytest.raises(DataRefused, match="targets outside 15 to 25, the job's bounds: row"):
            federation.run(method="fedavg", target_low=15, target_high=25, **SHORT)
        with pytest.raises(SpecError, match=r"params\.task: got 'multiclass'|params\.classes"):
            federation.run(method="fedavg", task="multiclass", **SHORT)
        with pytest.raises(SpecError, match="this method learns one class a row"):
            federation.run(method="flex-moe", target_low=0, target_high=40, **SHORT)


def test_a_frame_by_a_schema_with_a_number() -> None:
    def frame(seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        age = rng.integers(20, 90, 60)
        return pd.DataFrame({"age": age, "stay": (age / 3 + rng.normal(0, 1, 60)).clip(0, 60)})

    schema = DataSchema.parse(STAY)
    result = simulate(of_silos(frame), schema=schema, method="fedavg", learning_rate=0.1, **SHORT)
    assert result.spec.params["target_high"] == 60 and result.scores["global.r2"] > 0.5
    (one,) = result.model.predict({"age": 60})
    assert one == result.model.predict([{"age": 60}])[0] and 10 < one < 30
    drafted = draft_schema(frame(0), "stay", outside="clip")
    assert drafted.number is not None and drafted.number["outside"] == "clip"


@pytest.mark.parametrize("method", ["fedavg", "fedcoe"])
def test_several_labels(method: str) -> None:
    more = {"finetune_steps": 5} if method == "fedcoe" else {}
    result = simulate(of_silos(several), method=method, optimizer="adam", learning_rate=0.05, **SHORT, **more)
    assert (result.spec.params["task"], result.spec.params["classes"]) == ("multilabel", 2)
    assert result.scores["global.macro-auroc"] > 0.7 and "global.auroc.1" in result.scores
    x, y = several(9)
    p, named = result.personal("berta").predict_proba(x), result.model.predict(x)
    assert p.shape == named.shape == (60, 2) and set(np.unique(named)) <= {0, 1} and (named == y).mean() > 0.6


def blobs(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((20, 8, 8), dtype=np.int64)
    for mask, (a, b) in zip(masks, rng.integers(0, 5, (20, 2)), strict=True):
        mask[a : a + 4, b : b + 4] = 1
    x = (masks[:, None] * 2 - 1 + rng.normal(0, 0.3, (20, 1, 8, 8))).astype(np.float32)
    return {"x_train": x[:16], "y_train": masks[:16], "x_test": x[16:], "y_test": masks[16:]}


@pytest.mark.parametrize("method", ["fedavg", "fedcoe"])
def test_masks_by_a_unet(method: str) -> None:
    more: dict[str, Any] = {"finetune_steps": 2, "experts": 1} if method == "fedcoe" else {}
    how: dict[str, Any] = {"model": "unet", "model_width": 4, "optimizer": "adam", "learning_rate": 0.02, "batch": 8}
    result = simulate(of_silos(blobs), method=method, rounds=3, local_steps=8, **how, **more)
    assert result.spec.params["task"] == "segmentation"
    assert result.scores["global.dice"] > result.scores["global.dice.baseline"] + 0.1
    data = blobs(7)
    for model in (result.model, result.personal("anna")):
        assert model.predict(data["x_test"]).shape == (4, 8, 8)
        assert model.predict_proba(data["x_test"]).shape == (4, 2, 8, 8)
    with pytest.raises(SpecError, match="a model for segmentation, such as unet"):
        simulate(of_silos(blobs), method=method, rounds=1)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (7, "data, silo dora: got 'int'"),
        (None, "data, silo dora: got 'NoneType'"),
        ("ab", "data, silo dora: got 'str'"),
        ((np.float32(3), np.int64(1)), r"data, silo dora, [xy]: got 'an array of shape \(\)'"),
        ((rows(0), np.int64(1)), r"data, silo dora, y: got 'an array of shape \(\)'"),
        ((rows(0)[:, 0], several(0)[1][:, 0]), r"data, silo dora, x: got 'an array of shape \(60,\)'"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "data, silo dora, x: got 'rows of different shapes'"),
        ((rows(0).astype(object), [0, 1] * 30), "data, silo dora, x: got 'an array of object'"),
        ((rows(0), ["no", "yes"] * 30), "data, silo dora, y: got 'an array of <U3'"),
        ((rows(0) + 1j, [0, 1] * 30), "data, silo dora, x: got 'an array of complex"),
        ({"x": rows(0), "y": [0, 1] * 30, "classes": "two"}, "data, silo dora, classes: got 'an array of <U3'"),
        ({"x": rows(0), "y": [0, 1] * 30, "classes": [2, 3]}, "data, silo dora, classes: .*want an integer"),
        ({"x": rows(0), "z": [0, 1] * 30}, "data, silo dora: got"),
        ((rows(0), []), "60 rows and 0 labels"),
    ],
)
def test_odd_data_are_named(odd: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Federation({**of_silos(lambda n: (rows(n), [0, 1] * 30)), "dora": odd})


@pytest.mark.parametrize(
    ("data", "how", "said"),
    [
        (None, {}, "data: got 'NoneType', want a mapping"),
        ([1, 2], {}, "data: got 'list', want a mapping"),
        ({1: (rows(0), [0, 1] * 30)}, {}, "names of silos, which are texts"),
        ({}, {"schema": 7}, "schema: got 'int'"),
        ({"anna": pd.DataFrame(np.zeros((3, 2)), columns=["a", "a"])}, {"schema": DataSchema.parse(STAY)}, "'a' twice"),
        ({"anna": pd.DataFrame(np.zeros((3, 2)), columns=[1, "1"])}, {"schema": DataSchema.parse(STAY)}, "'1' twice"),
    ],
)
def test_odd_calls_are_named(data: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Federation(data, **how)
    with pytest.raises(SpecError, match="want a pandas frame"):
        draft_schema({"a": [1]}, "a")  # type: ignore[arg-type]


def test_odd_rows_are_named(tmp_path: Path) -> None:
    data = of_silos(lambda n: pd.DataFrame({"age": range(20, 50), "stay": np.arange(30) + n}))
    result = simulate(data, schema=DataSchema.parse(STAY), method="fedavg", rounds=1, local_steps=1)
    for odd, said in (
        (5, "int holds no rows"),
        (None, "NoneType holds no rows"),
        ([1, 2], "no names of columns"),
        ("age", "no names of columns"),
        ({"age": [1, 2], "other": [1]}, "different lengths"),
        ({"age": [1, 2], "other": 1}, "'other' is one value"),
        ({"height": 4}, "'age': there is no such column"),
        (pd.DataFrame(np.zeros((3, 2)), columns=["age", "age"]), "'age' twice"),
    ):
        with pytest.raises(DataRefused, match=said):
            result.model.predict(odd)
    plain = simulate(of_silos(number), method="fedavg", target_low=-10, target_high=50, rounds=1, local_steps=1)
    for odd in (5, None, "text", [[1.0], [1.0, 2.0]], rows(0).astype(object), rows(0)[0]):
        with pytest.raises(DataRefused):
            plain.model.predict(odd)
