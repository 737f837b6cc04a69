"""What a job is measured against, on the same split and with the same local steps: FedAvg, FedAvg at equal
parameters, and every silo alone.

FedAvg runs through the same round code as the job: in-process couriers, masks and all. "Equal parameters" gives the
one model as many weights as all of the job's global models have together; there is none for models other than the
perceptron, which have no width that all of them share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from aggregator.run_record import RunRecord
from crypto import blocks
from jobs.demo import language_baselines
from jobs.demo.federation import Federation
from jobs.evidence.run_summary import accuracy, cold_score, per_cent, published_by
from jobs.job import JobSpec
from jobs.owner.approval_terms import approve_for_demonstration
from jobs.runtime.in_process import run_job
from silo_agent.data import DataSet
from silo_agent.methods import Limits, RoundParams, method
from silo_agent.methods.flex_plan import NAME
from silo_agent.methods.networks import training_seed
from silo_agent.methods.training_options import TrainingOptions
from silo_agent.models import tasks
from silo_agent.models.description import Role
from silo_agent.models.registry import PERCEPTRON, split
from silo_agent.training import batches, cross_entropy, generator

#: Parameters that FedAvg shares with the job it is compared with.
_SHARED = (
    *("features", "classes", "hidden", "rounds", "local_steps", "batch", "learning_rate", "momentum", "seed", "task"),
    *(one.name for one in fields(TrainingOptions) if one.name not in {own.name for own in fields(RoundParams)}),
)


def fedavg_spec(spec: JobSpec, *, hidden: int | None = None) -> JobSpec:
    """FedAvg with the job's own training parameters, on its model. What the job keeps local is shared here."""
    of_model, _ = split(spec.params) if "model" in spec.params else ({}, {})
    params = {key: value for key, value in spec.params.items() if key in _SHARED or key in of_model}
    if own := params.pop(Role.LOCAL.value, None):
        params[Role.SHARED.value] = " ".join(str(text) for text in (params.get(Role.SHARED.value), own) if text)
    if hidden is not None:
        params["hidden"] = hidden
    raw = {
        "name": "fedavg-baseline",
        "method": "fedavg",
        "dataset": spec.dataset,
        "purpose": f"the baseline of {spec.name}",
        "params": params,
        "timeouts": dict(spec.timeouts),
    }
    return JobSpec.parse(raw)


def equal_hidden(spec: JobSpec, silos: int) -> int:
    """Hidden width at which one model has as many weights as the blocks that the job trains have together."""
    plan = method(spec.method).plan(spec.params, Limits(n_max=silos))
    trained = {part.block for step in plan.steps if step.task == "train" for part in step.sums}
    features, classes = int(spec.params["features"]), int(spec.params["classes"])
    return max(1, round((sum(plan.block(name).size for name in trained) - classes) / (features + 1 + classes)))


def measure(
    spec: JobSpec,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    silos: Mapping[str, DataSet],
    newcomers: Mapping[str, DataSet],
    models: Path,
) -> dict[str, dict[str, float | None]]:
    """``fedavg {global, personal, cold}``, ``fedavg_equal_params {global, cold}``, ``local {personal}``, per cent.

    Nothing for a task that has no accuracy. For a model other than the perceptron there is no
    ``fedavg_equal_params``. Cold is None where there are no newcomers. ``models``: the folder of base models, for jobs
    that start from one.
    """
    if "task" in spec.params and not isinstance(tasks.of(spec.params), tasks.Classes):
        return {}
    if spec.method == NAME:
        return language_baselines.measure(spec, arrays, silos, newcomers, models)
    run, *plain = _fedavg(fedavg_spec(spec), arrays, newcomers)
    found: dict[str, dict[str, float | None]] = {
        "fedavg": {"global": plain[0], "personal": plain[0], "cold": plain[1]},
        "local": {"personal": _alone(spec, silos, run)},
    }
    if spec.params.get("model", PERCEPTRON) == PERCEPTRON:
        _, *equal = _fedavg(fedavg_spec(spec, hidden=equal_hidden(spec, len(silos))), arrays, newcomers)
        found["fedavg_equal_params"] = {"global": equal[0], "cold": equal[1]}
    return found


def _fedavg(
    spec: JobSpec, arrays: Mapping[str, Mapping[str, np.ndarray]], newcomers: Mapping[str, DataSet]
) -> tuple[bytes, float | None, float | None]:
    """The run's id, and accuracy global and cold."""
    with TemporaryDirectory(prefix="consilium-baseline-") as folder:
        federation = Federation.make(Path(folder) / "baseline", "baseline", arrays, spec.dataset)
        approve_for_demonstration(federation.silo_homes.values(), spec)
        outcome, run, _ = run_job(spec, federation.aggregator_home, federation.silo_homes)
        record = RunRecord.read(federation.aggregator_home, outcome.run)
        published = published_by(federation.aggregator_home, record)
        cold = per_cent(cold_score(spec, published, newcomers)) if newcomers else None
        return run.id, accuracy(record, "global"), cold


def _alone(spec: JobSpec, silos: Mapping[str, DataSet], run: bytes) -> float:
    """Each silo trains the FedAvg model on its own rows, as many steps as the federation gives it. It starts from the
    first model of FedAvg's ``run``."""
    trained = method("fedavg")(fedavg_spec(spec).params)
    p, of = trained.params, trained.experts  # type: ignore[attr-defined]
    start = blocks.initial_state(method("fedavg").plan(fedavg_spec(spec).params, Limits(n_max=len(silos))), run)
    right = total = 0
    for silo, data in silos.items():
        model = {part.code: start[f"model.{part.code}"] for part in of.parts}
        for k in range(p.rounds):
            order = batches(data.rows, p.steps(data.rows), p.batch, generator("batches", p.seed, silo, k))
            descent = p.descent(k, data, of.task)
            seed = training_seed(p.seed, silo, k)
            (model,) = of.train([model], data.x_train, data.y_train, order, descent, cross_entropy, seed=seed)
        labels = of.predict([model], data.x_test, data.x_train)[0].argmax(axis=1)
        right += int((labels == data.y_test).sum())
        total += len(labels)
    return per_cent((right, total))
