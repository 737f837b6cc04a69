"""What MLflow shows of a model version, computed from the ledger: where it comes from, whose data it has, who moved an
alias to it, who has withdrawn since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aggregator.ledger.format import Entry, ratios
from aggregator.ledger.records import Kind
from aggregator.run_record import History
from aggregator.tracking.run_page import DIGESTS, Figure, job_tags, metric_name, millis, texts
from aggregator.verify.models import ModelVersion, registered_name

_VERSION = (*DIGESTS, "method", "protocol", "purpose")
_BY_SILO = ("consilium.data.", "consilium.approval.")


def last_ratios(closed: Iterable[Entry]) -> dict[str, tuple[int, int, Mapping[str, Any]]]:
    """Name → (part, whole, the step that opened it last)."""
    found: dict[str, tuple[int, int, Mapping[str, Any]]] = {}
    for entry in closed:
        found |= {name: (*pair, entry.record) for name, pair in ratios(entry.record["slots"]).items()}
    return found


def model_figures(closed: Sequence[Entry]) -> tuple[Figure, ...]:
    """What a logged model shows: the ratios that were opened last."""
    at = {entry.record["k"]: millis(entry) for entry in closed}
    return tuple(
        Figure(metric_name(name), part / whole, at[step["k"]], step["k"])
        for name, (part, whole, step) in last_ratios(closed).items()
    )


def shares(closed: Sequence[Entry]) -> dict[tuple[str, str], Figure]:
    """(silo, commitment) → in how many steps it is summed: ties a logged model to the data sets in it, by a figure
    that says nothing of the data."""
    steps: dict[tuple[str, str], list[Entry]] = {}
    for entry in closed:
        for pair in entry.record["data_commitments"].items():
            steps.setdefault(pair, []).append(entry)
    return {
        pair: Figure(f"steps_contributed/{pair[0]}", float(len(found)), millis(found[-1]), found[-1].record["k"])
        for pair, found in steps.items()
    }


def version_tags(history: History, versions: Sequence[ModelVersion], version: ModelVersion) -> dict[str, str]:
    """The tags of a version and of its logged model. ``versions``: all there are, for parents and aliases."""
    start = next(history.of(Kind.RUN_STARTED, version.run))
    end = next(entry for entry in history.of(Kind.RUN_FINISHED, version.run) if entry.seq == version.seq)
    closed = list(history.of(Kind.STEP_CLOSED, version.run))
    facts: dict[str, Any] = {f"consilium.{key}": start.record[key] for key in _VERSION if key in start.record}
    facts |= {f"consilium.{key}": end.record[key] for key in ("run", "weights_sha256", "state_digest", "chain")}
    facts |= {"consilium.ledger_head": end.digest, "consilium.silos": start.record["silos"]}
    facts["consilium.predictor_sha256"] = start.record["predictor"]["sha256"]
    facts["consilium.cohort"] = cohort(start, closed)
    for entry in (*history.of(Kind.APPROVAL, version.run), *closed):
        facts |= {key: text for key, text in job_tags(entry).items() if key.startswith(_BY_SILO)}
    facts |= {f"consilium.{name}": f"{part / whole:.4f}" for name, (part, whole, _) in last_ratios(closed).items()}
    if parent := parent_version(history, versions, version):
        facts["consilium.parent_version"], facts["consilium.parent_relation"] = parent
    return texts(facts | _alias_tags(history, version) | withdrawal_tags(history, version))


def cohort(start: Entry, closed: Sequence[Entry]) -> str:
    """How many silos a step summed, in words."""
    counts = [len(entry.record["survivors"]) for entry in closed] or [0]
    span = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"{span} of {len(start.record['silos'])} silos in a step"


def parent_version(history: History, versions: Sequence[ModelVersion], version: ModelVersion) -> tuple[str, str] | None:
    """(label, what it is to this version): what the run started from; else the champion when it started; else the
    version before."""
    by_run = {one.run: one for one in versions}
    if version.parent is not None:
        return by_run[version.parent].label, "its run started from it"
    began = next(history.of(Kind.RUN_STARTED, version.run)).seq
    champions = [
        entry.record["run"]
        for entry in history.of(Kind.MODEL_PUBLISHED)
        if entry.seq < began and entry.record["alias"] == "champion" and entry.record["model_name"] == version.name
    ]
    if champions:
        return by_run[champions[-1]].label, "champion when its run started"
    before = [one for one in versions if one.name == version.name and one.seq < version.seq]
    return (before[-1].label, "the version before") if before else None


def moves(history: History, version: ModelVersion) -> dict[str, tuple[str, str, str | None]]:
    """Alias → (by, at, until) for each alias that was ever moved to this version. ``until``: None while it is here."""
    found: dict[str, tuple[str, str, str | None]] = {}
    for entry in history.of(Kind.MODEL_PUBLISHED):
        record = entry.record
        if registered_name(record["model_name"]) != version.name:
            continue
        if record["run"] == version.run:
            found[record["alias"]] = (record.get("by", "not recorded"), entry.time, None)
        elif record["alias"] in found and found[record["alias"]][2] is None:
            found[record["alias"]] = (*found[record["alias"]][:2], entry.time)
    return found


def _alias_tags(history: History, version: ModelVersion) -> dict[str, str]:
    tags: dict[str, str] = {}
    for alias, (by, at, until) in moves(history, version).items():
        tags |= {f"consilium.{alias}.by": by, f"consilium.{alias}.at": at}
        tags |= {f"consilium.{alias}.until": until} if until else {}
    return tags


def withdrawals(history: History, version: ModelVersion) -> list[Entry]:
    """The withdrawals that touch a version, itself or through its parents."""
    return [entry for entry in history.of(Kind.WITHDRAWAL) if entry.record["silo"] in version.withdrawn_silos]


def withdrawal_tags(history: History, version: ModelVersion) -> dict[str, Any]:
    """For the version and its job's run; none where nobody has withdrawn."""
    if not version.withdrawn_silos:
        return {}
    facts: dict[str, Any] = {"consilium.withdrawn_silos": list(version.withdrawn_silos)}
    for entry in withdrawals(history, version):
        record = entry.record
        told = {key: record[key] for key in ("silo", "reason", "epoch")}
        told["remedy"] = record["remedies"].get(version.label, record["remedies"].get(version.run, []))
        facts[f"consilium.withdrawal.{entry.seq}"] = told
    return facts
