"""The results of a run in figures, from the ledger and the final checkpoint.

Accuracies of one silo are not here: the aggregator has sums only. Newcomers are outside the roster; their figures are
computed where their data is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from aggregator.figures import last_ratios
from aggregator.home import AggregatorHome
from aggregator.rounds.storage import load_checkpoint
from aggregator.run_record import RunRecord
from crypto.errors import EvidenceError
from jobs.job import JobSpec
from silo_agent.data import DataSet
from silo_agent.language.base_model import with_base_model
from silo_agent.methods import Published, method


def spec_of(record: RunRecord) -> JobSpec:
    """The job that the run is of."""
    return JobSpec.from_text(record.started.record.job)


def published_by(home: AggregatorHome, record: RunRecord) -> Published:
    """The final state, as everyone with the checkpoint and the ledger has it."""
    if record.finished is None:
        raise EvidenceError(f"run {record.run}", expected="a finished run", found="none")
    digest = bytes.fromhex(record.finished.record.state_digest)
    return Published(load_checkpoint(home.run_folder(record.run), expect=digest).state, record.slots)


def secure_aggregation(record: RunRecord) -> dict[str, Any]:
    """Protocol figures of a run. ``masked_bytes_per_parameter``: bytes uploaded for each word that survivors upload."""
    plan, started = record.plan, record.started.record
    steps = {step.name: step for step in plan.steps}
    words = uploaded = 0
    for entry in record.closed:
        closed = entry.record
        step = steps[closed.name]
        uploaded += closed.upload_bytes
        held = closed.holdings or {}
        for lane in plan.lanes_of(step):
            words += len(lane.uploaders(closed.survivors, held)) * plan.words_of(step, lane.name)
    return {
        "protocol": started.protocol,
        "threshold": started.threshold,
        "steps_released": len(record.closed),
        "steps_void": len(record.void),
        "lanes_closed": sum(len(entry.record.lanes_shut) for entry in record.closed),
        "refusals": len(record.refusals),
        "upload_bytes": uploaded,
        "masked_bytes_per_parameter": round(uploaded / words, 3) if words else None,
    }


def scores(record: RunRecord) -> dict[str, tuple[int, int]]:
    """Name → (correct, total) over the silos' test rows, from the last step that opened both. Without a name that no
    step opened: the silos may withhold either."""
    found = last_ratios(record.closed)
    return {name.removesuffix(".accuracy"): (part, whole) for name, (part, whole, _) in found.items()}


def accuracy(record: RunRecord, name: str) -> float | None:
    """Per cent of ``scores``, or None."""
    found = scores(record).get(name)
    return None if found is None else per_cent(found)


def cold_score(
    spec: JobSpec, published: Published, newcomers: Mapping[str, DataSet], models: Path | None = None
) -> tuple[int, int]:
    """(correct, total) on newcomers' test rows, predicted from published state and their unlabelled rows alone.

    ``models``: the folder of base models, for methods that need one.
    """
    predictor = method(spec.method)(spec.params)
    if models is not None:
        predictor = with_base_model(predictor, models)
    right = total = 0
    for data in newcomers.values():
        labels = predictor.predict(published, data.x_test, "cold").argmax(axis=1)
        right += int((labels == data.y_test).sum())
        total += len(labels)
    return right, total


def per_cent(score: tuple[int, int]) -> float:
    return round(100 * score[0] / score[1], 3)


def median_step_seconds(record: RunRecord) -> float:
    """Median over steps of the time spent in their exchanges."""
    times = [sum(entry.record.phase_ms.values()) / 1000 for entry in record.closed]
    return round(median(times), 3) if times else 0.0


def uniformity(words: np.ndarray) -> tuple[float, int]:
    """Chi-square statistic of the bytes against uniform, and its degrees of freedom (255)."""
    counts = np.bincount(np.ascontiguousarray(words).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum()), 255
