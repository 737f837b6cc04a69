"""Jobs and steps as MLflow runs. Every write may be repeated: runs are found by tag, metrics carry the time of their
ledger line, inputs and tags are sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Run

from aggregator.ledger.format import Entry
from aggregator.ledger.records import (
    OfRun,
    Record,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepClosed,
    StepVoid,
)
from aggregator.protocols.interface import Plan
from aggregator.run_record import RunRecord
from aggregator.tracking import run_page as pages
from aggregator.tracking.client import MlflowClient, log
from aggregator.tracking.dataset import SiloSource
from aggregator.tracking.run_page import DIGEST_CHARS, Figure
from crypto.errors import EvidenceError

#: Else MLflow's pages take our runs for traces of a chat.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
#: Artifacts of a job's run.
LEDGER, JOB, APPROVALS = "evidence/ledger.jsonl", "evidence/job.txt", "evidence/approvals.json"


class Runs:
    """Writes the pages of jobs and steps. ``artifacts``: where files of a new experiment go, None for the server's own
    place."""

    def __init__(self, client: MlflowClient, artifacts: Path | None) -> None:
        self.client = client
        self._artifacts = artifacts
        self._experiments: dict[str, str] = {}
        self._parents: dict[str, Run] = {}
        self._known: set[tuple[str, str, str]] = set()  # inputs that a parent has: (run, silo, commitment)

    def experiment(self, federation: str) -> str:
        """The id of a federation's experiment, made at need."""
        if federation not in self._experiments:
            if found := self.client.get_experiment_by_name(federation):
                self._experiments[federation] = found.experiment_id
            else:
                place = self._artifacts.resolve().as_uri() if self._artifacts else None
                self._experiments[federation] = self.client.create_experiment(federation, place, _KIND)
        return self._experiments[federation]

    def tag_experiment(self, federation: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_experiment_tag(self.experiment(federation), key, value)

    def _search(self, experiments: list[str], tags: Mapping[str, str]) -> Run | None:
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs(experiments, query, max_results=1)
        return found[0] if found else None

    def start(self, entry: Entry[RunStarted]) -> None:
        record = entry.record
        experiment = self.experiment(record.federation or pages.NO_NAME)
        tags = pages.job_tags(entry)
        run = self._search([experiment], pages.job_mark(record.run)) or self.client.create_run(
            experiment, pages.millis(entry), tags, f"{record.model_name} {record.run[:8]}"
        )
        log(self.client, run.info.run_id, params=pages.job_params(record), tags=tags)
        self.client.log_text(run.info.run_id, record.job, JOB)
        self._parents[record.run] = run

    def parent(self, run: str, where: str) -> Run:
        """The MLflow run of a job. ``where`` names who asks, for the error."""
        if run not in self._parents:
            experiments = [found.experiment_id for found in self.client.search_experiments()]
            found = self._search(experiments, pages.job_mark(run))
            if found is None:
                raise EvidenceError(
                    where,
                    expected=f"run {run} in MLflow",
                    found="no such run",
                    remedy="Restore it there, or remove lineage.json: the follower then makes again what is missing.",
                )
            self._parents[run] = found
        return self._parents[run]

    def parent_of(self, entry: Entry[OfRun]) -> Run:
        return self.parent(entry.record.run, f"ledger line {entry.seq + 1}")

    def step(self, entry: Entry[StepClosed] | Entry[StepVoid], plan: Plan) -> None:
        parent = self.parent_of(entry)
        page = pages.step_page(entry, parent.info.run_id, plan)
        run = self._search([parent.info.experiment_id], pages.step_mark(entry.record)) or self.client.create_run(
            parent.info.experiment_id, page.started, dict(page.tags), entry.record.name
        )
        log(self.client, run.info.run_id, metrics=points(page.figures), tags=page.tags)
        log(self.client, parent.info.run_id, metrics=points(page.figures), tags=pages.job_tags(entry))
        if page.data:
            self.client.log_inputs(run.info.run_id, datasets=commitments(page.data))
            new = {pair for pair in page.data if (entry.record.run, *pair) not in self._known}
            if new:
                self.client.log_inputs(parent.info.run_id, datasets=commitments(new))
                self._known |= {(entry.record.run, *pair) for pair in new}
        self.client.set_terminated(run.info.run_id, page.status, page.ended)

    def note(self, entry: Entry[OfRun]) -> None:
        """An entry that only adds tags to its job."""
        parent = self.parent_of(entry).info.run_id
        log(self.client, parent, tags=pages.job_tags(entry))
        if isinstance(entry.record, RunResumed):
            self.client.update_run(parent, status="RUNNING")

    def mark(self, run: str, key: str, text: str) -> None:
        """Set a tag of a job that is not of the ledger; take it away where the text is empty. A job that MLflow does
        not have is left out."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        found = self._search(experiments, pages.job_mark(run)) if experiments else None
        if found is None:
            return
        if text:
            self.client.set_tag(found.info.run_id, key, text)
        elif key in found.data.tags:
            self.client.delete_tag(found.info.run_id, key)

    def end(self, entry: Entry[RunFinished] | Entry[RunFailed], run: RunRecord) -> None:
        """The job is over, one way or the other."""
        parent = self.parent_of(entry).info.run_id
        self.client.log_text(parent, lines_of(run, entry).decode(), LEDGER)
        note = {pages.NOTE: pages.failed_note(run)} if isinstance(entry.record, RunFailed) else {}
        log(self.client, parent, tags={**pages.job_tags(entry), **note})
        self.client.set_terminated(parent, pages.end_status(entry.record), pages.millis(entry))


def lines_of(run: RunRecord, last: Entry[Record]) -> bytes:
    """The exact ledger lines of a run, up to ``last``."""
    return b"".join(entry.line() for entry in run.entries if entry.seq <= last.seq)


def points(figures: Iterable[Figure], model_id: str | None = None) -> list[Metric]:
    return [Metric(one.key, one.value, one.at, one.step, model_id=model_id) for one in figures]


def commitments(data: Iterable[tuple[str, str]]) -> list[DatasetInput]:
    """Data sets as inputs: whose, and the salted commitment."""
    return [
        DatasetInput(
            MetaDataset(SiloSource(silo, digest), name=silo, digest=digest[:DIGEST_CHARS])._to_mlflow_entity(),
            [InputTag("mlflow.data.context", "training"), InputTag("commitment", digest)],
        )
        for silo, digest in sorted(data)
    ]
