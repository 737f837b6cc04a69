"""What MLflow shows of a ledger, computed from the ledger: a page for each job and each step (see also version_page).

Nothing here talks to MLflow. ``lineage`` writes these pages and ``mlflow_check`` compares them with what is there, so
there is one place that says what a tag means. Pages hold what the ledger holds, which is what the aggregator may know:
sums, and of one silo its id, presence, data commitment and approval.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aggregator.errors import RunAborted
from aggregator.ledger.format import Entry, canonical, ratios
from aggregator.ledger.records import Kind

#: Longest tag. The ledger has what is cut off.
TAG_LIMIT = 5000
#: MLflow's column for a data set's digest has 36 characters; the whole commitment is in a tag.
DIGEST_CHARS = 32
#: The name of an experiment where the ledger doesn't name the federation.
NO_NAME = "consilium"

#: MLflow shows this tag of a run and of a logged model as its description.
NOTE = "mlflow.note.content"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~])")
DIGESTS = ("job_digest", "plan_digest", "charter_digest", "code_digest")
_JOB = (*DIGESTS, "state_digest", "protocol", "method", "threshold", "purpose", "nonce", "versions", "parent")
_TOOK_PART = ("invited", "survivors", "lost", "refusals", "lanes_open", "lanes_shut")
_STEP = ("transcript", "state_digest", "chain", *_TOOK_PART, "reason", "phase", "missing")
_RUN = ("method", "model_name", "protocol", "threshold")
_END = ("state_digest", "chain", "weights_sha256", "checkpoint")


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


def safe(text: object) -> str:
    """Somebody's words as Markdown text: one line, no markup, nothing that ends a table's cell."""
    flat = " ".join(str(text).encode(errors="replace").decode().replace("\0", "�").split())
    return _SPECIAL.sub(r"\\\1", flat)


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
            facts |= {NOTE: safe(record["purpose"])} if "purpose" in record else {}
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


def end_status(entry: Entry) -> str:
    """MLflow's word for how a job ended: one that the administrator aborted is KILLED."""
    if entry.kind is Kind.RUN_FINISHED:
        return "FINISHED"
    return "KILLED" if entry.record["code"] == RunAborted.code else "FAILED"


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
            case Kind.RUN_FINISHED | Kind.RUN_FAILED:
                status, ended = end_status(entry), millis(entry)
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
    facts[NOTE] = _step_note(entry)
    return Page(
        status="FINISHED" if entry.kind is Kind.STEP_CLOSED else "FAILED",
        started=ended - sum(record.get("phase_ms", {}).values()),
        ended=ended,
        tags=texts(facts),
        figures=step_figures(entry),
        data=step_data(entry),
    )


def _step_note(entry: Entry) -> str:
    """What became of a step, in a few sentences."""
    record = entry.record
    if entry.kind is Kind.STEP_VOID:
        missing = ", ".join(map(safe, record["missing"])) or "none"
        return f"Void in phase {safe(record['phase'])}: {safe(record['reason'])}. Missing: {missing}. Weights stayed."
    gone = {silo: f"no answer in phase {phase}" for silo, phase in record["lost"].items()}
    gone |= {silo: f"refused: {code}" for silo, code in record["refusals"].items()}
    absent = "; ".join(f"{safe(silo)} ({safe(why)})" for silo, why in sorted(gone.items())) or "nobody"
    shut = ", ".join(map(safe, record["lanes_shut"])) or "none"
    return (
        f"{len(record['survivors'])} of {len(record['invited'])} silos summed: "
        f"{', '.join(map(safe, record['survivors']))}. Absent: {absent}. "
        f"Lanes opened: {', '.join(map(safe, record['lanes_open'])) or 'none'}; stayed shut: {shut}."
    )


def step_figures(entry: Entry) -> tuple[Figure, ...]:
    """What a closed step shows: opened sums and their ratios, sizes of the cohort, bytes, milliseconds by phase."""
    if entry.kind is not Kind.STEP_CLOSED:
        return ()
    record = entry.record
    found: dict[str, float] = {metric_name(f"slots/{name}"): float(value) for name, value in record["slots"].items()}
    found |= {metric_name(name): part / whole for name, (part, whole) in ratios(record["slots"]).items()}
    counts = {"cohort/invited": "invited", "cohort/survivors": "survivors", "cohort/refusals": "refusals"}
    counts |= {"lanes/open": "lanes_open", "lanes/shut": "lanes_shut"}
    found |= {name: float(len(record[key])) for name, key in counts.items()}
    found["upload/bytes"] = float(record["upload_bytes"])
    found |= {f"phase_ms/{phase}": float(value) for phase, value in record["phase_ms"].items()}
    return tuple(Figure(key, value, millis(entry), record["k"]) for key, value in found.items())


def step_data(entry: Entry) -> frozenset[tuple[str, str]]:
    return frozenset(entry.record["data_commitments"].items()) if entry.kind is Kind.STEP_CLOSED else frozenset()


def metric_name(name: str) -> str:
    """MLflow refuses names that a path would shorten (``a//b``, ``a/``); a colon is never special."""
    return name if os.path.normpath(name) == name else name.replace("/", ":")


# --- an experiment -----------------------------------------------------------------------------------------------


def charter_tags(entry: Entry) -> dict[str, str]:
    """For the experiment: which charters its runs were made under."""
    return {f"consilium.charter.{entry.record['epoch']}": entry.record["charter_digest"]}
