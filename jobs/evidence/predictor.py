"""The file inside every published model: MLflow runs it to load the blocks and to predict.

It is staged with each run and bound by its digest in the ledger. The aggregator, which has no torch and no method,
never runs it; nothing of ours is imported before ``load_context``.

    model = mlflow.pyfunc.load_model("models:/digits@candidate")
    labels = model.predict(x, params={"mode": "cold"})          # x: (rows, …) float32 → (rows,) int64

Modes: *global* uses the shared experts with the context a silo has; *cold* those of a newcomer without any; *personal*
experts never leave their silo, so a published model has none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

#: The files of the version, as ``aggregator.tracking.pyfunc`` names them.
WEIGHTS, PUBLISHED = "weights", "published"


class Predictor(PythonModel):  # type: ignore[misc]
    """A published model: blocks and opened sums, and the method that knows how to read them."""

    def load_context(self, context: PythonModelContext) -> None:
        import torch
        from safetensors.numpy import load_file

        from silo_agent.methods import Published, method

        torch.set_num_threads(1)
        facts = json.loads(Path(context.artifacts[PUBLISHED]).read_text())
        blocks = load_file(context.artifacts[WEIGHTS])
        for block in blocks.values():
            block.flags.writeable = False
        settings = facts["settings"]
        self._published = Published(blocks, facts["slots"])
        self._method = method(settings["method"])(settings["params"])

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Class labels (rows,), int64. ``model_input``: (rows, …) numbers, or a DataFrame with one column a feature."""
        mode = (params or {}).get("mode", "global")
        if mode == "personal":
            raise ValueError(
                "Mode 'personal' needs the local experts of a silo, and those never leave it: use global or cold."
            )
        if mode not in ("global", "cold"):
            raise ValueError(f"Mode {mode!r} is none of global, cold.")
        x = np.asarray(model_input, dtype=np.float32)
        labels: np.ndarray = self._method.predict(self._published, x, mode).argmax(axis=1).astype(np.int64)
        return labels


set_model(Predictor())
