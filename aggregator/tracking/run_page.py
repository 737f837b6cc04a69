"""What MLflow shows of a ledger, computed from the ledger: a page for each job and each step (see also version_page).

Nothing here talks to MLflow. ``runs`` writes these pages and ``check`` compares them with what is there, so
the meaning of a tag is defined once. Pages hold what the ledger holds, which is what the aggregator may know:
sums, and of one silo its id, presence, data commitment and approval.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aggregator import privacy
from aggregator.absences import with_step
from aggregator.errors import RunAborted
from aggregator.figures import last_headline, metrics, ratios, sentence, withheld
from aggregator.ledger.format import Entry, canonical, is_of
from aggregator.ledger.records import (
    ApprovalShown,
    CharterRecorded,
    ModelPublished,
    OfStep,
    Record,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepClosed,
    StepVoid,
)
from aggregator.protocols.interface import Plan
from aggregator.run_record import RunRecord, job_fields
from crypto.scores import family

#: Longest tag. The ledger has what is cut off.
TAG_LIMIT = 5000
#: MLflow's column for a data set's digest has 36 characters; the whole commitment is in a tag.
DIGEST_CHARS = 32
#: The name of an experiment where the ledger doesn't name the federation.
NO_NAME = "consilium"

#: MLflow shows this tag of a run and of a logged model as its description.
NOTE = "mlflow.note.content"
#: The tag of a run that was interrupted: what becomes of it. Not of the ledger, so without our prefix.
INTERRUPTED = "interrupted"
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
    """Untrusted text as Markdown: one line, markup escaped, safe in a table cell."""
    flat = " ".join(str(text).encode(errors="replace").decode().replace("\0", "�").split())
    return _SPECIAL.sub(r"\\\1", flat)


def millis(entry: Entry[Record]) -> int:
    return round(datetime.fromisoformat(entry.time).timestamp() * 1000)


def by_silo(kind: str, digests: Mapping[str, str] | None) -> dict[str, str]:
    """``consilium.<kind>.<silo>``: what a reviewer searches by."""
    return {f"consilium.{kind}.{silo}": digest for silo, digest in (digests or {}).items()}


def _named(record: Record, names: Sequence[str], prefix: str = "consilium") -> dict[str, Any]:
    """Tags of those fields that the record has."""
    return {f"{prefix}.{name}": value for name, value in record.fields().items() if name in names}


# --- a job -------------------------------------------------------------------------------------------------------


def job_mark(run: str) -> dict[str, str]:
    """The tags that find a job's run, and no other."""
    return {"consilium.run": run, "consilium.record": "job"}


def job_tags(entry: Entry[Record]) -> dict[str, str]:
    """What one entry adds to the tags of its job. Later entries win."""
    facts: dict[str, Any] = {"consilium.ledger_head": entry.digest}
    match entry.record:
        case RunStarted() as record:
            facts |= _named(record, _JOB) | job_mark(record.run)
            facts |= {"consilium.silos": record.silos, "consilium.cohort_size": len(record.silos)}
            facts |= {NOTE: safe(record.purpose)} if record.purpose is not None else {}
            facts |= privacy.tags(job_fields(record))
        case ApprovalShown() as record:
            facts |= by_silo("approval", {record.silo: record.digest})
        case StepClosed() as record:
            facts |= by_silo("data", record.data_commitments) | by_silo("approval", record.approvals)
            if away := with_step({}, record, entry.time, record.invited):
                # The last absence of each; whoever searches finds every run that is not of all its silos.
                facts["consilium.partial"] = "true"
                facts |= {f"consilium.missing.{silo}": str(absence) for silo, absence in away.items()}
        case RunFinished() as record:
            facts |= _named(record, _END)
            facts["consilium.countersigned_by"] = sorted(record.countersignatures)
        case RunFailed() as record:
            facts |= _named(record, ("code", "phase", "missing"), "consilium.failed")
        case ModelPublished() | RunResumed() as record:
            shown = {name: value for name, value in record.fields().items() if name != "run"}
            facts[f"consilium.{entry.kind}.{entry.seq}"] = shown
        case StepVoid():
            pass
        case _:  # step-opened, silo-lost, refusal: the closing record of the step repeats them
            return {}
    return texts(facts)


def job_params(start: RunStarted) -> dict[str, str]:
    """The method's parameters as the job sets them, and what the run is."""
    job = job_fields(start)
    own = job.get("params", {})
    facts = {key: own[key] for key in sorted(own)} | {
        key: job[key] for key in ("dataset", "keep_uploads") if key in job
    }
    return texts({key: str(value) for key, value in (facts | {key: getattr(start, key) for key in _RUN}).items()})


def end_status(end: RunFinished | RunFailed) -> str:
    """MLflow's word for how a job ended: one that the administrator aborted is KILLED."""
    if isinstance(end, RunFinished):
        return "FINISHED"
    return "KILLED" if end.code == RunAborted.code else "FAILED"


def failed_note(run: RunRecord) -> str:
    """The description of a job that ended without a model, which MLflow shows first: what it was for, how it ended, how
    good the blocks were by then. That of a finished job is its model's card."""
    start, closed, end = run.started.record, run.closed, run.failed
    if end is None:
        return safe(start.purpose or "")
    steps = f"{len(closed)} of {len(run.plan.steps)} steps closed, {len(run.outcomes) - len(closed)} void"
    how = f"Ended with {end.record.code} in phase {end.record.phase}: {steps}. {end.record.detail or ''}"
    return "\n\n".join(safe(part) for part in (start.purpose or "", how, last_headline(closed)) if part)


def job_page(run: RunRecord) -> Page:
    """The whole page of a job."""
    tags: dict[str, str] = {}
    for entry in run.entries:
        tags |= job_tags(entry)
    end = run.finished or run.failed
    if run.failed is not None:
        tags[NOTE] = failed_note(run)
    return Page(
        status=end_status(end.record) if end is not None else "RUNNING",
        started=millis(run.started),
        ended=millis(end) if end is not None else None,
        tags=tags,
        params=job_params(run.started.record),
        figures=tuple(figure for entry in run.closed for figure in step_figures(entry)),
        data=frozenset(pair for entry in run.closed for pair in entry.record.data_commitments.items()),
    )


# --- a step ------------------------------------------------------------------------------------------------------


def step_mark(record: OfStep) -> dict[str, str]:
    """The tags that find a step's run."""
    return {"consilium.run": record.run, "consilium.record": "step", "consilium.k": str(record.k)}


def step_page(entry: Entry[StepClosed] | Entry[StepVoid], parent_id: str, plan: Plan) -> Page:
    """The page of a closed or void step, below its job. Figures that the silos withheld have no metric: the page's
    description names them."""
    record, ended = entry.record, millis(entry)
    facts = _named(record, _STEP) | step_mark(record)
    facts |= {"mlflow.parentRunId": parent_id, "consilium.step": record.name, "consilium.ledger_head": entry.digest}
    if isinstance(record, StepVoid):
        facts |= {"consilium.cohort_size": 0, NOTE: _void_note(record)}
        return Page("FAILED", started=ended, ended=ended, tags=texts(facts))
    facts |= by_silo("data", record.data_commitments) | by_silo("approval", record.approvals)
    missing = withheld(plan, record)
    facts |= {"consilium.cohort_size": len(record.survivors), NOTE: _closed_note(record, missing)}
    facts |= {"consilium.figures_withheld": missing} if missing else {}
    return Page(
        status="FINISHED",
        started=ended - sum(record.phase_ms.values()),
        ended=ended,
        tags=texts(facts),
        figures=step_figures(entry) if is_of(entry, StepClosed) else (),
        data=frozenset(record.data_commitments.items()),
    )


def _void_note(record: StepVoid) -> str:
    missing = ", ".join(map(safe, record.missing)) or "none"
    return f"Void in phase {safe(record.phase)}: {safe(record.reason)}. Missing: {missing}. Weights stayed."


def _closed_note(record: StepClosed, missing: Sequence[str]) -> str:
    """What became of a step, in a few sentences. ``missing``: the figures of it that the silos withheld."""
    gone = {silo: f"no answer in phase {phase}" for silo, phase in record.lost.items()}
    gone |= {silo: f"refused: {code}" for silo, code in record.refusals.items()}
    absent = "; ".join(f"{safe(silo)} ({safe(why)})" for silo, why in sorted(gone.items())) or "nobody"
    shut = ", ".join(map(safe, record.lanes_shut)) or "none"
    return (
        f"{len(record.survivors)} of {len(record.invited)} silos summed: "
        f"{', '.join(map(safe, record.survivors))}. Absent: {absent}. "
        f"Lanes opened: {', '.join(map(safe, record.lanes_open)) or 'none'}; stayed shut: {shut}."
        f"{' ' + safe(sentence({record.name: missing})) if missing else ''}"
    )


def step_figures(entry: Entry[StepClosed]) -> tuple[Figure, ...]:
    """What a closed step shows: how good the model is, by ratios and metrics of opened sums; and under ``system/``,
    which MLflow shows on a tab of its own, the sums themselves, sizes of the cohort, lanes where the step has any,
    bytes, and milliseconds by phase. The cells of a metric are shown by the metric; the ledger has them."""
    record = entry.record
    found: dict[str, float] = {name: part / whole for name, (part, whole) in ratios(record.slots).items()}
    found |= metrics(record.slots)
    sums = {name: value for name, value in record.slots.items() if family(name) == name}
    system = {f"sums/{name}": value for name, value in sums.items()}
    system |= {
        "cohort/invited": len(record.invited),
        "cohort/survivors": len(record.survivors),
        "cohort/refusals": len(record.refusals),
        "upload_bytes": record.upload_bytes,
    }
    if record.lanes_open or record.lanes_shut:
        system |= {"lanes/open": len(record.lanes_open), "lanes/shut": len(record.lanes_shut)}
    system |= {f"phase_ms/{phase}": value for phase, value in record.phase_ms.items()}
    found |= {f"system/{name}": float(value) for name, value in system.items()}
    return tuple(Figure(metric_name(key), value, millis(entry), record.k) for key, value in found.items())


def metric_name(name: str) -> str:
    """MLflow refuses names that a path would shorten (``a//b``, ``a/``); a colon is never special."""
    return name if os.path.normpath(name) == name else name.replace("/", ":")


# --- an experiment -----------------------------------------------------------------------------------------------


def charter_tags(record: CharterRecorded) -> dict[str, str]:
    """For the experiment: which charters its runs were made under."""
    return {f"consilium.charter.{record.epoch}": record.charter_digest}
