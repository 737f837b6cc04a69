"""All that MLflow shows of a model version and of its logged model, computed from the ledger as one value.

``registry`` writes it and ``check`` compares it with what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator import privacy
from aggregator.figures import last_metrics, last_ratios, metrics
from aggregator.ledger.format import Entry, canonical
from aggregator.ledger.records import StepClosed
from aggregator.run_record import CheckedLedger, RunRecord, job_fields
from aggregator.tracking.model_card import Card, card
from aggregator.tracking.run_page import (
    DIGESTS,
    NOTE,
    Figure,
    job_params,
    job_tags,
    metric_name,
    millis,
    texts,
)
from aggregator.tracking.version_facts import cohort, moves, parent_version, remedies_of, withdrawals
from aggregator.verify.approvals import approvals, as_json
from aggregator.verify.models import Models, ModelVersion

#: MLflow shows this tag of a logged model as its versions.
VERSIONS = "mlflow.modelVersions"
_START = (*DIGESTS, "method", "protocol", "purpose")
_END = ("run", "weights_sha256", "state_digest", "chain")
_BY_SILO = ("consilium.data.", "consilium.approval.")


@dataclass(frozen=True, slots=True)
class VersionPage:
    """``run``: what the ledger says of the version's run. ``tags``: of the registered version; none where the run
    cannot predict. ``run_tags``: marks on the job's run. ``model_tags``, ``params``, ``figures``, ``shares``: of the
    logged model. ``approvals``: the text of the artifact."""

    version: ModelVersion
    run: RunRecord
    card: Card
    tags: Mapping[str, str]
    run_tags: Mapping[str, str]
    model_tags: Mapping[str, str]
    params: Mapping[str, str]
    figures: tuple[Figure, ...]
    shares: Mapping[tuple[str, str], Figure]
    approvals: str

    @classmethod
    def of(cls, models: Models, version: ModelVersion) -> VersionPage:
        """``models``: all there are, for parents and aliases."""
        ledger, run = models.ledger, models.ledger.run(version.run)
        made = card(models, version)
        tags = _tags(models, version, run) if run.started.record.predictor is not None else {}
        named = {"consilium.model_version": version.label} if version.version else {}
        listed = canonical([{"name": version.name, "version": version.version}]).decode()
        return cls(
            version=version,
            run=run,
            card=made,
            tags=tags,
            run_tags=texts({**_withdrawal_tags(ledger, version), NOTE: made.brief, **named}),
            model_tags={**tags, NOTE: made.brief, **({VERSIONS: listed} if version.version else {})},
            params=job_params(run.started.record),
            figures=_figures(run.closed),
            shares=_shares(run.closed),
            approvals=as_json(approvals(run, ledger.charters)),
        )

    @property
    def can_predict(self) -> bool:
        """Whether the run has a logged model and a registered version."""
        return self.run.started.record.predictor is not None


def _tags(models: Models, version: ModelVersion, run: RunRecord) -> dict[str, str]:
    """The tags of a version and of its logged model."""
    start = run.started.record
    end = run.finished
    assert end is not None and start.predictor is not None  # else there is no logged model
    facts: dict[str, Any] = {f"consilium.{key}": value for key, value in start.fields().items() if key in _START}
    facts |= {f"consilium.{key}": value for key, value in end.record.fields().items() if key in _END}
    facts |= {"consilium.ledger_head": end.digest, "consilium.silos": start.silos}
    facts["consilium.predictor_sha256"] = start.predictor["sha256"]
    facts["consilium.cohort"] = cohort(run)
    facts |= privacy.tags(job_fields(start))
    for entry in (*run.approvals, *run.closed):
        facts |= {key: text for key, text in job_tags(entry).items() if key.startswith(_BY_SILO)}
    scores = last_ratios(run.closed)
    facts |= {f"consilium.{name}": f"{part / whole:.4f}" for name, (part, whole, _) in scores.items()}
    for found, _ in last_metrics(run.closed).values():
        facts |= {f"consilium.{one.name}": one.text for one in found if one.metric != "accuracy"}
    if parent := parent_version(models, version):
        facts["consilium.parent_version"], facts["consilium.parent_relation"] = parent
    return texts(facts | _alias_tags(models.ledger, version) | _withdrawal_tags(models.ledger, version))


def _alias_tags(ledger: CheckedLedger, version: ModelVersion) -> dict[str, str]:
    tags: dict[str, str] = {}
    for alias, (by, at, until) in moves(ledger, version).items():
        tags |= {f"consilium.{alias}.by": by, f"consilium.{alias}.at": at}
        tags |= {f"consilium.{alias}.until": until} if until else {}
    return tags


def _withdrawal_tags(ledger: CheckedLedger, version: ModelVersion) -> dict[str, Any]:
    """For the version and its job's run; none where nobody has withdrawn."""
    if not version.withdrawn_silos:
        return {}
    facts: dict[str, Any] = {"consilium.withdrawn_silos": version.withdrawn_silos}
    for entry in withdrawals(ledger, version):
        record = entry.record
        said = {"silo": record.silo, "reason": record.reason, "epoch": record.epoch}
        facts[f"consilium.withdrawal.{entry.seq}"] = {**said, "remedy": remedies_of(record, version)}
    return facts


def _figures(closed: Sequence[Entry[StepClosed]]) -> tuple[Figure, ...]:
    """What a logged model shows: the ratios and metrics that were opened last."""
    at = {entry.record.k: millis(entry) for entry in closed}
    found = {name: (part / whole, step) for name, (part, whole, step) in last_ratios(closed).items()}
    for mode, (_, step) in last_metrics(closed).items():
        of_mode = ((name, value) for name, value in metrics(step.slots).items() if name.startswith(f"{mode}."))
        found |= {name: (value, step) for name, value in of_mode}
    return tuple(Figure(metric_name(name), value, at[step.k], step.k) for name, (value, step) in found.items())


def _shares(closed: Sequence[Entry[StepClosed]]) -> dict[tuple[str, str], Figure]:
    """(silo, commitment) → in how many steps it is summed: ties a logged model to the data sets in it, by a figure
    that says nothing of the data."""
    steps: dict[tuple[str, str], list[Entry[StepClosed]]] = {}
    for entry in closed:
        for pair in entry.record.data_commitments.items():
            steps.setdefault(pair, []).append(entry)
    return {
        pair: Figure(f"steps_contributed/{pair[0]}", float(len(found)), millis(found[-1]), found[-1].record.k)
        for pair, found in steps.items()
    }
