"""What MLflow shows of a ledger, computed from the ledger: one page for a job, for a step, for a model version.

Nothing here talks to MLflow. ``lineage`` writes these pages and ``mlflow_check`` compares them with what is there, so
there is one place that says what a tag means. Pages hold what the ledger holds, which is what the aggregator may know:
sums, and of one silo its id, presence, data commitment and approval.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aggregator.history import History
from aggregator.ledger import Entry, Kind, canonical, ratios
from aggregator.models import ModelVersion, registered_name

#: Longest tag. The ledger has what is cut off.
TAG_LIMIT = 5000
#: MLflow's column for a data set's digest has 36 characters; the whole commitment is in a tag.
DIGEST_CHARS = 32
#: The name of an experiment where the ledger doesn't name the federation.
NO_NAME = "consilium"

_DIGESTS = ("job_digest", "plan_digest", "charter_digest", "code_digest")
_JOB = (*_DIGESTS, "state_digest", "protocol", "method", "threshold", "purpose", "nonce", "versions", "parent")
_TOOK_PART = ("invited", "survivors", "lost", "refusals", "lanes_open", "lanes_shut")
_STEP = ("transcript", "state_digest", "chain", *_TOOK_PART, "reason", "phase", "missing")
_RUN = ("method", "model_name", "protocol", "threshold")
_END = ("state_digest", "chain", "weights_sha256", "checkpoint")
_VERSION = (*_DIGESTS, "method", "protocol", "purpose")


@dataclass(frozen=True, slots=True)
class Figure:
    """A point of a metric: its name, its value, when (ms since 1970) and at which step."""

    key: str
    value: float
    at: int
    step: int


@dataclass(frozen=True, slots=True)
class Page:
    """A run in MLflow. ``data``: (silo, commitment) of its inputs. ``ended``: ms, None while it is running."""

    status: str
    started: int
    ended: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    data: frozenset[tuple[str, str]] = frozenset()


def texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Tag values: text as it is, the rest as JSON, cut to the limit; what a database can't hold is replaced."""
    plain = {key: value if isinstance(value, str) else canonical(value).decode() for key, value in facts.items()}
    clean = {key: text.encode(errors="replace").decode().replace("\0", "�") for key, text in plain.items()}
    return {key: text if len(text) <= TAG_LIMIT else f"{text[: TAG_LIMIT - 1]}…" for key, text in clean.items()}


def millis(entry: Entry) -> int:
    return round(datetime.fromisoformat(entry.time).timestamp() * 1000)


def by_silo(kind: str, digests: Mapping[str, str]) -> dict[str, str]:
    """``consilium.<kind>.<silo>``: what a reviewer searches by."""
    return {f"consilium.{kind}.{silo}": digest for silo, digest in digests.items()}


# --- a job -------------------------------------------------------------------------------------------------------


def job_mark(run: str) -> dict[str, str]:
    """The tags that find a job's run, and no other."""
    return {"consilium.run": run, "consilium.record": "job"}


def job_tags(entry: Entry) -> dict[str, str]:
    """What one entry adds to the tags of its job. Later entries win."""
    record = entry.record
    facts: dict[str, Any] = {"consilium.ledger_head": entry.digest}
    match entry.kind:
        case Kind.RUN_STARTED:
            facts |= {f"consilium.{key}": record[key] for key in _JOB if key in record}
            facts |= job_mark(record["run"])
            facts |= {"consilium.silos": record["silos"], "consilium.cohort_size": len(record["silos"])}
        case Kind.APPROVAL:
            facts |= by_silo("approval", {record["silo"]: record["digest"]})
        case Kind.STEP_CLOSED:
            facts |= by_silo("data", record["data_commitments"]) | by_silo("approval", record.get("approvals", {}))
        case Kind.RUN_FINISHED:
            facts |= {f"consilium.{key}": record[key] for key in _END}
            facts["consilium.countersigned_by"] = sorted(record["countersignatures"])
        case Kind.RUN_FAILED:
            facts |= {f"consilium.failed.{key}": record[key] for key in ("code", "phase", "missing")}
        case Kind.MODEL_PUBLISHED | Kind.RUN_RESUMED:
            told = {key: value for key, value in record.items() if key != "run"}
            facts[f"consilium.{entry.kind}.{entry.seq}"] = told
        case Kind.STEP_VOID:
            pass
        case _:  # step-opened, silo-lost, refusal: the closing record of the step repeats them
            return {}
    return texts(facts)


def job_fields(start: Mapping[str, Any]) -> Mapping[str, Any]:
    """The job's own fields; none where its text is not the JSON that our jobs are."""
    try:
        found = json.loads(start["job"])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def job_params(start: Mapping[str, Any]) -> dict[str, str]:
    """The method's parameters as the job sets them, and what the run is."""
    job = job_fields(start)
    own = job.get("params", {})
    facts = {key: own[key] for key in sorted(own)} | {
        key: job[key] for key in ("dataset", "keep_uploads") if key in job
    }
    return texts({key: str(value) for key, value in (facts | {key: start[key] for key in _RUN}).items()})


def job_page(entries: Sequence[Entry]) -> Page:
    """The whole page of a job, from its entries in order."""
    tags: dict[str, str] = {}
    figures: list[Figure] = []
    data: set[tuple[str, str]] = set()
    status, ended = "RUNNING", None
    for entry in entries:
        tags |= job_tags(entry)
        figures += step_figures(entry)
        data |= step_data(entry)
        match entry.kind:
            case Kind.RUN_FINISHED:
                status, ended = "FINISHED", millis(entry)
            case Kind.RUN_FAILED:
                status, ended = "FAILED", millis(entry)
            case Kind.RUN_RESUMED:
                status, ended = "RUNNING", None
    start = entries[0]
    return Page(status, millis(start), ended, tags, job_params(start.record), tuple(figures), frozenset(data))


# --- a step ------------------------------------------------------------------------------------------------------


def step_mark(entry: Entry) -> dict[str, str]:
    """The tags that find a step's run."""
    record = entry.record
    return {"consilium.run": record["run"], "consilium.record": "step", "consilium.k": str(record["k"])}


def step_page(entry: Entry, parent_id: str) -> Page:
    """The page of a closed or void step, below its job."""
    record, ended = entry.record, millis(entry)
    facts: dict[str, Any] = {f"consilium.{key}": record[key] for key in _STEP if key in record}
    facts |= step_mark(entry) | {"mlflow.parentRunId": parent_id, "consilium.step": record["name"]}
    facts |= by_silo("data", record.get("data_commitments", {})) | by_silo("approval", record.get("approvals", {}))
    facts |= {"consilium.ledger_head": entry.digest, "consilium.cohort_size": len(record.get("survivors", ()))}
    return Page(
        status="FINISHED" if entry.kind is Kind.STEP_CLOSED else "FAILED",
        started=ended - sum(record.get("phase_ms", {}).values()),
        ended=ended,
        tags=texts(facts),
        figures=step_figures(entry),
        data=step_data(entry),
    )


def step_figures(entry: Entry) -> tuple[Figure, ...]:
    """What a closed step shows: opened sums and their ratios, sizes of the cohort, bytes, milliseconds by phase."""
    if entry.kind is not Kind.STEP_CLOSED:
        return ()
    record = entry.record
    found: dict[str, float] = {_metric(f"slots/{name}"): float(value) for name, value in record["slots"].items()}
    found |= {_metric(name): part / whole for name, (part, whole) in ratios(record["slots"]).items()}
    counts = {"cohort/invited": "invited", "cohort/survivors": "survivors", "cohort/refusals": "refusals"}
    counts |= {"lanes/open": "lanes_open", "lanes/shut": "lanes_shut"}
    found |= {name: float(len(record[key])) for name, key in counts.items()}
    found["upload/bytes"] = float(record["upload_bytes"])
    found |= {f"phase_ms/{phase}": float(value) for phase, value in record["phase_ms"].items()}
    return tuple(Figure(key, value, millis(entry), record["k"]) for key, value in found.items())


def step_data(entry: Entry) -> frozenset[tuple[str, str]]:
    return frozenset(entry.record["data_commitments"].items()) if entry.kind is Kind.STEP_CLOSED else frozenset()


def _metric(name: str) -> str:
    """MLflow refuses names that a path would shorten (``a//b``, ``a/``); a colon is never special."""
    return name if os.path.normpath(name) == name else name.replace("/", ":")


# --- a model version ---------------------------------------------------------------------------------------------


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
        Figure(_metric(name), part / whole, at[step["k"]], step["k"])
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


_BY_SILO = ("consilium.data.", "consilium.approval.")


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


def charter_tags(entry: Entry) -> dict[str, str]:
    """For the experiment: which charters its runs were made under."""
    return {f"consilium.charter.{entry.record['epoch']}": entry.record["charter_digest"]}
