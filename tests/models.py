"""Jobs on models other than the perceptron, for tests: their parameters with the start filled in, rows for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from crypto.errors import SpecError
from silo_agent.data import DataSet
from silo_agent.models import registry


def params(model: str, shape: str, classes: int, **more: object) -> dict[str, object]:
    """``more``: further parameters, with _ for -. The start is asked of the registry, as an administrator would."""
    given = {"model": model, "shape": shape, "classes": classes, "seed": 7}
    given |= {key.replace("model_", "model-", 1): value for key, value in more.items()}
    about, _ = registry.split(given)
    try:
        registry.experts_of(about, int(str(given["seed"])))
    except SpecError as refused:
        if refused.path != "params.start" or not (digest := re.search(r"[0-9a-f]{64}", refused.want)):
            raise
        return given | {"start": digest[0]}
    raise AssertionError("a job without a start was taken")


def pictures(data: DataSet, side: int = 8) -> DataSet:
    """The same rows as pictures (1, side, side)."""
    x_train, x_test = (x.reshape(-1, 1, side, side) for x in (data.x_train, data.x_test))
    return DataSet(data.name, x_train, data.y_train, x_test, data.y_test, data.classes)


def rows(count: int, features: int, classes: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Well separated classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=count)
    x = rng.normal(size=(count, features)) * 0.4 + 2.0 * np.eye(features)[y % features]
    return x.astype(np.float32), y.astype(np.int64)


def blank(parts: Mapping[str, tuple[int, ...]] | object) -> dict[str, np.ndarray]:
    """A model that is at its start."""
    return {part.code: np.zeros(part.shape, np.float32) for part in parts}  # type: ignore[attr-defined]
