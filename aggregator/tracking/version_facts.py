"""What the ledger says of a model version: where it comes from, who moved an alias to it, who has withdrawn since."""

from __future__ import annotations

from aggregator.ledger.format import Entry
from aggregator.ledger.records import ModelPublished, Withdrawal
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.verify.models import Models, ModelVersion, registered_name


def cohort(run: RunRecord) -> str:
    """How many silos a step summed, as text."""
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


def withdrawals(ledger: CheckedLedger, version: ModelVersion) -> list[Entry[Withdrawal]]:
    """The withdrawals that touch a version, itself or through its parents."""
    return [entry for entry in ledger.of(Withdrawal) if entry.record.silo in version.withdrawn_silos]


def remedies_of(record: Withdrawal, version: ModelVersion) -> tuple[str, ...]:
    """What a withdrawal plans for a version."""
    return record.remedies.get(version.label, record.remedies.get(version.run, ()))
