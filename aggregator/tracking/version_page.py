"""What MLflow shows of a model version, computed from the ledger: where it comes from, whose data it has, who moved an
alias to it, who has withdrawn since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aggregator.ledger.format import Entry, ratios
from aggregator.ledger.records import ModelPublished, StepClosed, Withdrawal
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.tracking.run_page import DIGESTS, Figure, job_tags, metric_name, millis, texts
from aggregator.verify.models import Models, ModelVersion, registered_name

_VERSION = (*DIGESTS, "method", "protocol", "purpose")
_END = ("run", "weights_sha256", "state_digest", "chain")
_BY_SILO = ("consilium.data.", "consilium.approval.")


def last_ratios(closed: Iterable[Entry[StepClosed]]) -> dict[str, tuple[int, int, StepClosed]]:
    """Name → (part, whole, the step that opened it last)."""
    found: dict[str, tuple[int, int, StepClosed]] = {}
    for entry in closed:
        found |= {name: (*pair, entry.record) for name, pair in ratios(entry.record.slots).items()}
    return found


def model_figures(closed: Sequence[Entry[StepClosed]]) -> tuple[Figure, ...]:
    """What a logged model shows: the ratios that were opened last."""
    at = {entry.record.k: millis(entry) for entry in closed}
    return tuple(
        Figure(metric_name(name), part / whole, at[step.k], step.k)
        for name, (part, whole, step) in last_ratios(closed).items()
    )


def shares(closed: Sequence[Entry[StepClosed]]) -> dict[tuple[str, str], Figure]:
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


def version_tags(models: Models, version: ModelVersion) -> dict[str, str]:
    """The tags of a version and of its logged model. ``models``: all there are, for parents and aliases."""
    run = models.ledger.run(version.run)
    start = run.started.record
    end = run.finished
    assert end is not None and start.predictor is not None  # else there is no logged model
    facts: dict[str, Any] = {f"consilium.{key}": value for key, value in start.fields().items() if key in _VERSION}
    facts |= {f"consilium.{key}": value for key, value in end.record.fields().items() if key in _END}
    facts |= {"consilium.ledger_head": end.digest, "consilium.silos": start.silos}
    facts["consilium.predictor_sha256"] = start.predictor["sha256"]
    facts["consilium.cohort"] = cohort(run)
    for entry in (*run.approvals, *run.closed):
        facts |= {key: text for key, text in job_tags(entry).items() if key.startswith(_BY_SILO)}
    scores = last_ratios(run.closed)
    facts |= {f"consilium.{name}": f"{part / whole:.4f}" for name, (part, whole, _) in scores.items()}
    if parent := parent_version(models, version):
        facts["consilium.parent_version"], facts["consilium.parent_relation"] = parent
    return texts(facts | _alias_tags(models.ledger, version) | withdrawal_tags(models.ledger, version))


def cohort(run: RunRecord) -> str:
    """How many silos a step summed, in words."""
    counts = [len(entry.record.survivors) for entry in run.closed] or [0]
    span = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"{span} of {len(run.started.record.silos)} silos in a step"


def parent_version(models: Models, version: ModelVersion) -> tuple[str, str] | None:
    """(label, what it is to this version): what the run started from; else the champion when it started; else the
    version before."""
    if version.parent is not None and (parent := models.made_by(version.parent)):
        return parent.label, "its run started from it"
    began = models.ledger.run(version.run).started.seq
    champions = [
        entry.record.run
        for entry in models.ledger.of(ModelPublished)
        if entry.seq < began and entry.record.alias == "champion" and entry.record.model_name == version.name
    ]
    if champions and (champion := models.made_by(champions[-1])):
        return champion.label, "champion when its run started"
    before = [one for one in models.versions if one.name == version.name and one.seq < version.seq]
    return (before[-1].label, "the version before") if before else None


def moves(ledger: CheckedLedger, version: ModelVersion) -> dict[str, tuple[str, str, str | None]]:
    """Alias → (by, at, until) for each alias that was ever moved to this version. ``until``: None while it is here."""
    found: dict[str, tuple[str, str, str | None]] = {}
    for entry in ledger.of(ModelPublished):
        record = entry.record
        if registered_name(record.model_name) != version.name:
            continue
        if record.run == version.run:
            found[record.alias] = (record.by or "not recorded", entry.time, None)
        elif record.alias in found and found[record.alias][2] is None:
            found[record.alias] = (*found[record.alias][:2], entry.time)
    return found


def _alias_tags(ledger: CheckedLedger, version: ModelVersion) -> dict[str, str]:
    tags: dict[str, str] = {}
    for alias, (by, at, until) in moves(ledger, version).items():
        tags |= {f"consilium.{alias}.by": by, f"consilium.{alias}.at": at}
        tags |= {f"consilium.{alias}.until": until} if until else {}
    return tags


def withdrawals(ledger: CheckedLedger, version: ModelVersion) -> list[Entry[Withdrawal]]:
    """The withdrawals that touch a version, itself or through its parents."""
    return [entry for entry in ledger.of(Withdrawal) if entry.record.silo in version.withdrawn_silos]


def remedies_of(record: Withdrawal, version: ModelVersion) -> tuple[str, ...]:
    """What a withdrawal plans for a version."""
    return record.remedies.get(version.label, record.remedies.get(version.run, ()))


def withdrawal_tags(ledger: CheckedLedger, version: ModelVersion) -> dict[str, Any]:
    """For the version and its job's run; none where nobody has withdrawn."""
    if not version.withdrawn_silos:
        return {}
    facts: dict[str, Any] = {"consilium.withdrawn_silos": version.withdrawn_silos}
    for entry in withdrawals(ledger, version):
        record = entry.record
        said = {"silo": record.silo, "reason": record.reason, "epoch": record.epoch}
        facts[f"consilium.withdrawal.{entry.seq}"] = {**said, "remedy": remedies_of(record, version)}
    return facts
