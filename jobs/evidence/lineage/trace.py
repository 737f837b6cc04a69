"""From a checked ledger to a ``Lineage``.

The ledger is checked whole before a word of it is believed; approvals and countersignatures are checked under the
charter's keys. What is not proven by any of it is part of the answer: ``Lineage.unproven``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind
from aggregator.run_record import History
from aggregator.verify.models import LEAST_DIGITS, ModelVersion, ancestry, parents, pick, read_history, versions
from crypto.charter import Charter
from crypto.errors import SpecError
from crypto.keys import PublicIdentity
from crypto.plan import Plan
from jobs.evidence.lineage.caveats import unproven
from jobs.evidence.lineage.consent import consents, countersigned, each
from jobs.evidence.lineage.model import Lineage, Part, RunFacts, Withdrawal
from jobs.evidence.lineage.steps import Steps, plan_of, steps_of


def trace(home: Path, text: str) -> Lineage:
    """The lineage of a model (name/version, name@alias) or of a run, finished or not, by its id.

    Raises EvidenceError for a ledger, approval or countersignature that doesn't check, SpecError for an unknown name.
    """
    return trace_in(read_history(home), text)


def trace_in(history: History, text: str) -> Lineage:
    """``trace`` in a ledger that has been read."""
    found = versions(history)
    model, run = _subject(history, found, text)
    started = next(history.of(Kind.RUN_STARTED, run))
    charter = history.charters.get(started.record["charter_digest"])
    plan = plan_of(started)
    steps = steps_of(history, run, plan)
    above = parents(history)
    family = {one.run: one for one in found}
    ancestors = ancestry(run, above)[1:]
    withdrawals = _withdrawals(history)
    silos = _silos(history, started, charter, steps, [one for one in withdrawals if one.seq > started.seq])
    touched = {part.silo for part in silos if part.withdrew} | set(model.withdrawn_silos if model else ())
    newer = [one for one in found if model and one.version and one.name == model.name and one.seq > model.seq]
    made = Lineage(
        federation=str(started.record.get("federation", history.charter.federation)),
        consortium=PublicIdentity((history.home / "consortium.pub").read_bytes()).fingerprint,
        model=model,
        run=_run(history, started, plan, charter),
        steps=steps,
        silos=silos,
        parents=tuple(family[one] for one in ancestors),
        descendants=tuple(one for one in found if run in ancestry(one.run, above)[1:]),
        newer=newer[-1].label if newer else None,
        withdrawals=tuple(one for one in withdrawals if one.silo in touched),
        lines=len(history.entries),
        head=history.head,
        unproven=(),
    )
    return replace(made, unproven=tuple(unproven(made, started, charter, plan)))


def _subject(history: History, found: Sequence[ModelVersion], text: str) -> tuple[ModelVersion | None, str]:
    """(version, run). A run that made no model stands for itself."""
    try:
        model = pick(found, text)
    except SpecError:
        runs = [run for run in history.runs if text and run.startswith(text) and len(text) >= LEAST_DIGITS]
        if len(runs) != 1:
            raise
        return None, runs[0]
    return model, model.run


def _silos(
    history: History,
    started: Entry,
    charter: Charter | None,
    steps: Sequence[Steps],
    withdrawals: Sequence[Withdrawal],
) -> tuple[Part, ...]:
    closed = [entry.record for entry in history.of(Kind.STEP_CLOSED, started.record["run"])]
    signed = countersigned(history, started, charter)
    given = consents(history, started, charter)
    counted: Counter[str] = Counter()
    absences: dict[str, list[str]] = {}
    for group in steps:
        counted.update({silo: len(group.names) for silo in group.cohort})
        for absence in group.absent:
            said = f"{group.label}: {str(absence).removeprefix(absence.silo).strip()}"
            absences.setdefault(absence.silo, []).append(said)
    parts = []
    for silo in sorted({*started.record["silos"], *counted, *absences}):
        approvals = each(record.get("approvals", {}).get(silo) for record in closed)
        policies = each(record.get("policies", {}).get(silo) for record in closed)
        consent = next((given[digest] for digest in approvals if digest in given), None)
        parts.append(
            Part(
                silo=silo,
                data=tuple(each(record["data_commitments"].get(silo) for record in closed)),
                approval=approvals[0] if approvals else None,
                consent=consent,
                policy=policies[0] if policies else consent.policy if consent else None,
                steps=counted[silo],
                absences=tuple(absences.get(silo, ())),
                countersigned=silo in signed,
                withdrew=next((one.at for one in withdrawals if one.silo == silo and counted[silo]), None),
            )
        )
    return tuple(parts)


def _withdrawals(history: History) -> tuple[Withdrawal, ...]:
    return tuple(
        Withdrawal(
            silo=entry.record["silo"],
            seq=entry.seq,
            at=entry.time,
            reason=entry.record["reason"],
            epoch=entry.record["epoch"],
            models=tuple(entry.record["models"]),
            remedies={model: tuple(lines) for model, lines in entry.record["remedies"].items()},
        )
        for entry in history.of(Kind.WITHDRAWAL)
    )


def _run(history: History, started: Entry, plan: Plan, charter: Charter | None) -> RunFacts:
    record, run = started.record, str(started.record["run"])
    finished = next(history.of(Kind.RUN_FINISHED, run), None)
    failed = next(history.of(Kind.RUN_FAILED, run), None)
    ended = finished or failed
    closed = [entry.record for entry in history.of(Kind.STEP_CLOSED, run)]
    summed = [line["k"] for line in closed if line["lanes_open"]]
    uploads = history.home / "jobs" / run / "uploads"
    return RunFacts(
        run=run,
        job=record["model_name"],
        method=plan.method,
        purpose=record.get("purpose"),
        status="finished" if finished else f"failed: {failed.record['code']}" if failed else "not finished",
        started=started.time,
        ended=ended.time if ended else None,
        job_digest=record["job_digest"],
        plan_digest=record["plan_digest"],
        charter_digest=record["charter_digest"],
        epoch=charter.epoch if charter else None,
        code_digest=record.get("code_digest"),
        versions=dict(record.get("versions", {})),
        members=tuple(record["silos"]),
        threshold=record["threshold"],
        chain=finished.record["chain"] if finished else None,
        ledger_head=finished.record.get("ledger_head") if finished else None,
        replayable=sum((uploads / f"{k:06d}").is_dir() for k in summed),
        summed=len(summed),
    )
