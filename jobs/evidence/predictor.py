"""The file inside every published model: MLflow runs it to load the blocks and to predict.

It is staged with each run. Loading a model executes it, so it must be the file of the release that the data owners
approved: ``fed verify`` checks that, and nothing in this file can, since another file would be loaded in its place. The
aggregator, which has no torch and no method, never runs it; nothing of ours is imported before ``load_context``. The
model's requirements name other people's packages only: ours is on no index and has to be installed by its path
(docs/decisions/0020).

    model = mlflow.pyfunc.load_model("models:/digits@candidate")
    labels = model.predict(x, params={"mode": "cold"})          # x: (rows, …) float32 → (rows,) int64
    chances = model.predict(x, params={"output": "probabilities"})                    # (rows, classes) float64

Of several labels a row, labels are (rows, labels) of 0 and 1; of masks (rows, *sides). A model of a number gives
numbers in the target's unit, (rows,) float64, whatever the output.

Modes: *global* uses the shared experts with the context a silo has; *cold* those of a newcomer without any; *personal*
experts never leave their silo, so a published model has none.
"""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

log = logging.getLogger("consilium.model")

#: This file's path in the release.
PREDICTOR = "jobs/evidence/predictor.py"

#: What a caller may choose, and outputs.
OPTIONS = {"mode": "global", "output": "labels"}
OUTPUTS = ("labels", "probabilities")

#: The files of the version, as ``aggregator.tracking.pyfunc`` names them.
WEIGHTS, PUBLISHED = "weights", "published"

_MISSING = """\
This model needs Consilium's own Python packages, and {name} is not installed here.
The model was made with Consilium {version}, software digest {code_digest}.
Ask the federation's operator for the wheel of this release and install the file by its path:
    pip install --no-deps ./consilium_fl-{version}-py3-none-any.whl
It is on no package index: do not install a package named consilium, crypto, jobs or silo_agent from one."""

_ALTERED = """\
{file} has SHA-256 {found} and is not the predictor of release {code_digest}, which made this model.
Do not use the model. Ask the federation's operator for its bundle, and check it: fed verify BUNDLE"""


def _methods(made_with: dict[str, str]) -> ModuleType:
    """``silo_agent.methods``. ``made_with``: version and code_digest of the release that staged this file.

    Raises ModuleNotFoundError, with what is missing and how to get it, where our package is not installed, and
    ImportError where this file is not the one of that release. Another release than that one is a warning: most of them
    read each other's models.
    """
    try:
        from jobs import release
        from silo_agent import methods
    except ImportError as missing:
        name = (missing.name or "").partition(".")[0]
        if name not in ("crypto", "jobs", "silo_agent"):
            raise
        raise ModuleNotFoundError(_MISSING.format(name=name, **made_with), name=name) from missing
    if (here := release.digest().hex()) != made_with["code_digest"]:
        log.warning("This model was made with software %s; here is %s.", made_with["code_digest"], here)
    elif (found := sha256(Path(__file__).read_bytes()).hexdigest()) != release.manifest().files[PREDICTOR]:
        raise ImportError(_ALTERED.format(file=__file__, found=found, code_digest=here))
    return methods


class Predictor(PythonModel):  # type: ignore[misc]
    """A published model: blocks and opened sums, and the method that knows how to read them."""

    def load_context(self, context: PythonModelContext) -> None:
        facts = json.loads(Path(context.artifacts[PUBLISHED]).read_text(encoding="utf-8"))
        settings = facts["settings"]
        methods = _methods(settings["release"])

        import torch
        from safetensors.numpy import load_file

        torch.set_num_threads(1)
        blocks = load_file(context.artifacts[WEIGHTS])
        for block in blocks.values():
            block.flags.writeable = False
        self._published = methods.Published(blocks, facts["slots"])
        self._method = methods.method(settings["method"])(settings["params"])
        self._params = settings["params"]

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Class labels (rows,), int64, or what the module says. ``model_input``: (rows, …) numbers, or a DataFrame with
        one column a feature. ``params``: ``mode``, and ``output``: labels or probabilities."""
        mode, output = ((params or {}).get(name, default) for name, default in OPTIONS.items())
        if mode == "personal":
            raise ValueError(
                "Mode 'personal' needs the local experts of a silo, and those never leave it: use global or cold."
            )
        if mode not in ("global", "cold"):
            raise ValueError(f"Mode {mode!r} is none of global, cold.")
        if output not in OUTPUTS:
            raise ValueError(f"Output {output!r} is none of {', '.join(OUTPUTS)}.")
        x = np.asarray(model_input, dtype=np.float32)
        found: np.ndarray = self._method.predict(self._published, x, mode)
        if "task" not in self._params:
            return found if output == "probabilities" else found.argmax(axis=1).astype(np.int64)

        from silo_agent.models import tasks

        task = tasks.of(self._params)
        return found if output == "probabilities" and not isinstance(task, tasks.Number) else task.named(found)


set_model(Predictor())
