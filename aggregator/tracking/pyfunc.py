"""The files of a published model: MLflow's pyfunc from code and safetensors, every byte of it due to the ledger.

    MLmodel · requirements.txt · conda.yaml · python_env.yaml     what MLflow reads to load it
    <predictor>.py                                                 the code, a file of the approved release
    artifacts/<step>.safetensors                                   the weights, bound by theirs
    artifacts/published.json · artifacts/input_example.json        opened sums and settings · a row of zeros

These files are written here and not by MLflow: its own way imports the predictor, and records paths of this machine
and the time of writing, so that the same files could not be made again. ``check`` makes them again and compares. The
room has no torch: the predictor imports its method when a version is loaded, somewhere else. What pip installs for a
model is other projects' packages; ours is on no index, and the predictor says how to get it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from aggregator.ledger.records import RunStarted
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.verify.models import ModelVersion, check_weights
from aggregator.verify.predictor import check_facts, check_requirements, checked_predictor

#: The Python that consilium is made for.
PYTHON = "3.11"
#: Ledgers of before decision 0020 require our package by a name that on PyPI is another project's.
_OURS = re.compile(r"consilium(?![\w.-])")
_LOADER = "mlflow.pyfunc.loaders.code_model"


def model_files(ledger: CheckedLedger, version: ModelVersion, model_id: str, run_id: str) -> dict[str, bytes | Path]:
    """Path in the model's folder → its bytes, or where the weights are. The ids are MLflow's.

    Raises EvidenceError where code or weights are not what the ledger says, or the code is no file of the release that
    the data owners approved.
    """
    run = ledger.run(version.run)
    start = run.started.record
    facts = start.predictor
    assert facts is not None  # a run without a predictor has no logged model
    weights = check_weights(ledger, version)
    needs = _requirements(start, facts)
    small = {
        "artifacts/published.json": _published(run, facts),
        "artifacts/input_example.json": json.dumps({"inputs": _zeros(facts).tolist()}),
        "requirements.txt": "".join(f"{line}\n" for line in needs),
        "conda.yaml": _CONDA.format(python=PYTHON, needs="".join(f"  - {json.dumps(line)}\n" for line in needs)),
        "python_env.yaml": _PYTHON_ENV.format(python=PYTHON),
        "MLmodel": _mlmodel(run, facts, model_id, run_id, weights),
    }
    folder = ledger.home.run_folder(version.run)
    check_facts(run, facts)
    checked_predictor(folder, run.started)
    code = folder.predictor_path
    named = {name: text.encode() for name, text in small.items()}
    return {**named, code.name: code.read_bytes(), f"artifacts/{weights.name}": weights}


def write_model(place: Path, files: Mapping[str, bytes | Path]) -> None:
    """Lay the files out in a new folder; the weights by a link where the disk allows."""
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            os.symlink(content.resolve(), path)
        else:
            path.write_bytes(content)


def _requirements(start: RunStarted, facts: Mapping[str, Any]) -> list[str]:
    needs = [line for line in facts["requirements"] if not _OURS.match(line)]
    mine = (start.versions or {}).get("mlflow")
    named = any(line.startswith("mlflow=") for line in needs)
    needs = needs if named else [f"mlflow=={mine}" if mine else "mlflow", *needs]
    check_requirements(f"run {start.run}, requirements.txt", needs)
    return needs


def _published(run: RunRecord, facts: Mapping[str, Any]) -> str:
    """Opened sums and settings: with the weights, all that the method needs."""
    published = {
        "settings": json.loads(facts["settings"]),
        "slots": run.slots,
        "state_digest": run.finished.record.state_digest if run.finished is not None else None,
    }
    return json.dumps(published, sort_keys=True)


def _zeros(facts: Mapping[str, Any]) -> np.ndarray:
    return np.zeros((1, *facts["shape"]), dtype=facts["dtype"])


def _mlmodel(run: RunRecord, facts: Mapping[str, Any], model_id: str, run_id: str, weights: Path) -> str:
    """MLflow's description of the model, with digests that lead to the ledger."""
    start, end = run.started.record, run.finished
    assert end is not None  # a version is a finished run
    digests: dict[str, Any] = {
        "job_digest": start.job_digest,
        "plan_digest": start.plan_digest,
        "charter_digest": start.charter_digest,
        "method": start.method,
        "run": run.run,
        "weights_sha256": end.record.weights_sha256,
        "state_digest": end.record.state_digest,
        "chain": end.record.chain,
    }
    settings = json.loads(facts["settings"])
    output = _output(settings.get("params", {}), facts)
    options = [ParamSpec("mode", "string", "global")]
    # Models of releases before this setting take no output, and their file has to be the same again.
    options += [ParamSpec("output", "string", "labels")] if settings.get("outputs") else []
    described = Model(
        run_id=run_id,
        utc_time_created=end.time,
        model_uuid=model_id,
        model_id=model_id,
        mlflow_version=(start.versions or {}).get("mlflow"),
        model_size_bytes=weights.stat().st_size,
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(facts["dtype"]), (-1, *facts["shape"]))]),
            Schema([output]),
            ParamSchema(options),
        ),
        metadata=digests
        | {"predictor_sha256": facts["sha256"], "ledger_head": end.digest, "modes": list(facts["modes"])},
    )
    files = {"weights": f"artifacts/{weights.name}", "published": "artifacts/published.json"}
    files["input_example"] = "artifacts/input_example.json"
    described.add_flavor(
        "python_function",
        loader_module=_LOADER,
        model_code_path=facts["file"],
        artifacts={name: {"path": path, "uri": path} for name, path in files.items()},
        python_version=PYTHON,
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        streamable=False,
        code=None,
    )
    return str(described.to_yaml())


def _output(params: Mapping[str, Any], facts: Mapping[str, Any]) -> TensorSpec:
    """What a model gives without a parameter, by its job's task: a label, 0 or 1 for each label, a mask, a number."""
    sides = {"multilabel": (params.get("classes"),), "segmentation": facts["shape"][1:]}
    kind = "float64" if params.get("task") == "regression" else "int64"
    return TensorSpec(np.dtype(kind), (-1, *sides.get(str(params.get("task")), ())))


_CONDA = """\
name: consilium-model
channels:
- conda-forge
dependencies:
- python={python}
- pip
- pip:
{needs}"""

_PYTHON_ENV = """\
python: "{python}"
build_dependencies:
- pip
- setuptools
- wheel
dependencies:
- -r requirements.txt
"""
