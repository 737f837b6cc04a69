"""What a job of FLEx is measured against, on the same base model, split and steps.

*FedAvg* averages adapters of everything, the pretrained experts' too, and has no personal expert. *At equal parameters*
it averages the dense adapters alone: what FLEx uploads. *Alone*, each silo trains adapters of everything for itself.
Figures are per cent of next tokens right, as those of the other jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from aggregator.run_record import RunRecord
from crypto import blocks
from jobs.demo.federation import Federation
from jobs.demo.language_base_model import place
from jobs.evidence.run_summary import accuracy, cold_score, per_cent, published_by
from jobs.job import JobSpec, Scalar
from jobs.owner.approval_terms import approve_for_demonstration
from jobs.runtime.in_process import run_job
from silo_agent.data import DataSet
from silo_agent.language.base_model import with_base_model
from silo_agent.methods import Limits, Published
from silo_agent.methods.flex import FLEx
from silo_agent.methods.flex_plan import BASE

#: FedAvg of all adapters, and of the dense ones.
EVERYTHING: Mapping[str, Scalar] = {"personal": 0, "shared_experts": 1, "finetune_steps": 0}
DENSE: Mapping[str, Scalar] = {"personal": 0, "shared_experts": 0, "finetune_steps": 0}


def measure(
    spec: JobSpec,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    silos: Mapping[str, DataSet],
    newcomers: Mapping[str, DataSet],
    models: Path,
) -> dict[str, dict[str, float | None]]:
    """The same figures as ``baselines.measure``. ``models``: where the job's base model lies."""
    run, *plain = _fedavg(spec.with_params(**EVERYTHING), arrays, newcomers, models)
    _, *dense = _fedavg(spec.with_params(**DENSE), arrays, newcomers, models)
    right = total = 0
    for silo, data in silos.items():
        member = with_base_model(FLEx({**spec.params, **EVERYTHING}, silo), models)
        *_, last = alone(member, data, run)
        answers = member.predict(last, data.x_test, "global").argmax(axis=1)
        right += int((answers == data.y_test).sum())
        total += len(answers)
    return {
        "fedavg": {"global": plain[0], "personal": plain[0], "cold": plain[1]},
        "fedavg_equal_params": {"global": dense[0], "cold": dense[1]},
        "local": {"personal": per_cent((right, total))},
    }


def alone(member: FLEx, data: DataSet, run: bytes) -> Iterator[Published]:
    """The adapters of a silo that averages with nobody, after each round. ``run``: id of the run whose first adapters
    it starts from."""
    plan = member.plan(asdict(member.params), Limits(n_max=3))
    state = blocks.initial_state(plan, run)
    for step in plan.steps:
        if step.task == "train":
            moved = member.contribute(step, Published(state), data).sums
            state |= {name: state[name] + delta for name, delta in moved.items()}
            yield Published(dict(state))


def _fedavg(
    spec: JobSpec,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    newcomers: Mapping[str, DataSet],
    models: Path,
) -> tuple[bytes, float | None, float | None]:
    """The run's id, and accuracy global and cold."""
    with TemporaryDirectory(prefix="consilium-baseline-") as folder:
        federation = Federation.make(Path(folder) / "baseline", "baseline", arrays, spec.dataset)
        for home in federation.silo_homes.values():
            place(home, models / str(spec.params[BASE]))
        approve_for_demonstration(federation.silo_homes.values(), spec)
        outcome, run, _ = run_job(spec, federation.aggregator_home, federation.silo_homes)
        record = RunRecord.read(federation.aggregator_home, outcome.run)
        published = published_by(federation.aggregator_home, record)
        cold = per_cent(cold_score(spec, published, newcomers, models)) if newcomers else None
        return run.id, accuracy(record, "global"), cold
