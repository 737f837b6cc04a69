"""A federation of silos with 28 made-up rows each, and its jobs: for tests whose run takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jobs.demo.federation import Federation
from jobs.job import JobSpec

PARAMS = {"features": 4, "classes": 2, "hidden": 2, "local_steps": 1, "batch": 8}


def spec(method: str, **job: Any) -> JobSpec:
    """A job on the federation's data. ``job``: fields of the job; ``params`` beside ``PARAMS``."""
    params = PARAMS | job.pop("params", {})
    raw = {"name": "tiny", "method": method, "dataset": "tiny", "purpose": "a test", "params": params}
    return JobSpec.parse(raw | job)


def data(silo: int) -> dict[str, np.ndarray]:
    """Two styles, two classes. ``silo``: from 0; those from 3 on are far from the first three."""
    rng = np.random.default_rng(silo)
    y = np.arange(28) % 2
    x = rng.normal(size=(28, 4)) * 0.3 + y[:, None] + (2.0 if silo >= 3 else -2.0) * np.array([1, -1, 1, -1])
    parts = {"x_train": x[:20], "y_train": y[:20], "x_test": x[20:], "y_test": y[20:], "classes": np.array(2)}
    return {name: array.astype(np.float32 if name.startswith("x") else np.int64) for name, array in parts.items()}


def federation(root: Path, silos: int, **settings: object) -> Federation:
    """``silos`` homes with their data under one charter. ``settings``: further lines of each ``silo.json``."""
    return Federation.make(root, "tiny", {f"silo-{at + 1}": data(at) for at in range(silos)}, "tiny", settings=settings)
