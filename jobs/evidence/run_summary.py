"""What a run came to, read from the ledger and the final checkpoint: the figures that people see first.

Accuracies of one silo are not here: the aggregator has sums only. Newcomers are outside the roster; their figures are
computed where their data is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from aggregator.ledger.format import Entry, ledger_path, read
from aggregator.ledger.records import Kind
from aggregator.rounds.storage import load_checkpoint, run_folder
from crypto.errors import EvidenceError
from crypto.plan import Plan
from jobs.job import JobSpec
from silo_agent.data import DataSet
from silo_agent.language.base_model import with_base_model
from silo_agent.methods import Published, method


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run's entries on the ledger, in order."""

    run: str
    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, home: Path, run: str) -> RunRecord:
        """Raises EvidenceError for a run that the ledger does not know."""
        entries = tuple(entry for entry in read(ledger_path(home)) if entry.record.get("run") == run)
        if not entries:
            raise EvidenceError(
                "ledger",
                expected=f"a run {run}",
                found="none",
                remedy="The folders under jobs/ of the aggregator's home are the runs.",
            )
        return cls(run, entries)

    def of(self, kind: Kind) -> Iterator[Mapping[str, Any]]:
        return (entry.record for entry in self.entries if entry.kind is kind)

    @property
    def started(self) -> Mapping[str, Any]:
        return next(self.of(Kind.RUN_STARTED))

    @property
    def finished(self) -> Mapping[str, Any] | None:
        return next(self.of(Kind.RUN_FINISHED), None)

    @property
    def failed(self) -> Mapping[str, Any] | None:
        return next(self.of(Kind.RUN_FAILED), None)

    @property
    def spec(self) -> JobSpec:
        return JobSpec.from_text(str(self.started["job"]))

    @property
    def plan(self) -> Plan:
        from base64 import b64decode

        return Plan.from_bytes(b64decode(str(self.started["plan"])))

    @property
    def slots(self) -> dict[str, dict[str, int]]:
        """Step name → slot → opened sum."""
        return {str(record["name"]): dict(record["slots"]) for record in self.of(Kind.STEP_CLOSED)}

    def published(self, home: Path) -> Published:
        """The final state, as anybody who holds the checkpoint and the ledger has it."""
        finished = self.finished
        if finished is None:
            raise EvidenceError(f"run {self.run}", expected="a finished run", found="none")
        checkpoint = load_checkpoint(run_folder(home, self.run), expect=bytes.fromhex(str(finished["state_digest"])))
        return Published(checkpoint.state, self.slots)


def secure_aggregation(record: RunRecord) -> dict[str, Any]:
    """Protocol figures of a run. ``masked_bytes_per_parameter``: bytes uploaded for each word that survivors upload."""
    plan = record.plan
    steps = {step.name: step for step in plan.steps}
    words = uploaded = 0
    for closed in record.of(Kind.STEP_CLOSED):
        step = steps[str(closed["name"])]
        uploaded += int(closed["upload_bytes"])
        held = closed.get("holdings", {})
        for lane in plan.lanes_of(step):
            words += len(lane.uploaders(closed["survivors"], held)) * plan.words_of(step, lane.name)
    return {
        "protocol": record.started["protocol"],
        "threshold": record.started["threshold"],
        "steps_released": sum(1 for _ in record.of(Kind.STEP_CLOSED)),
        "steps_void": sum(1 for _ in record.of(Kind.STEP_VOID)),
        "lanes_closed": sum(len(closed["lanes_shut"]) for closed in record.of(Kind.STEP_CLOSED)),
        "refusals": sum(1 for _ in record.of(Kind.REFUSAL)),
        "upload_bytes": uploaded,
        "masked_bytes_per_parameter": round(uploaded / words, 3) if words else None,
    }


def scores(record: RunRecord) -> dict[str, tuple[int, int]]:
    """Name → (correct, total) over the silos' test rows, from the last step that opened them."""
    found: dict[str, tuple[int, int]] = {}
    for slots in record.slots.values():
        total = slots.get("test.rows", 0)
        for name, value in slots.items():
            if name.endswith(".correct") and total:
                found[name.removesuffix(".correct")] = (value, total)
    return found


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
    times = [sum(closed["phase_ms"].values()) / 1000 for closed in record.of(Kind.STEP_CLOSED)]
    return round(median(times), 3) if times else 0.0


def uniformity(words: np.ndarray) -> tuple[float, int]:
    """Chi-square statistic of the bytes against uniform, and its degrees of freedom (255)."""
    counts = np.bincount(np.ascontiguousarray(words).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum()), 255
