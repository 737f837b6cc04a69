"""From a checked ledger to a ``Lineage``.

The whole ledger is checked first; approvals and countersignatures are checked under the
charter's keys. What is not proven by any of it is part of the answer: ``Lineage.unproven``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from aggregator.home import AggregatorHome
from aggregator.ledger import records
from aggregator.protocols.interface import Charter
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.verify.models import LEAST_DIGITS, Models, ModelVersion, ancestry, checked_ledger, parents, pick
from crypto.errors import SpecError
from jobs.evidence.lineage.caveats import unproven
from jobs.evidence.lineage.consent import consents, countersigned, each
from jobs.evidence.lineage.model import Lineage, RunFacts, SiloPart, WithdrawalFacts
from jobs.evidence.lineage.steps import StepGroup, steps_of


def trace(home: AggregatorHome, text: str) -> Lineage:
    """The lineage of a model (name/version, name@alias) or of a run, finished or not, by its id.

    Raises EvidenceError for a ledger, approval or countersignature that doesn't check, SpecError for an unknown name.
    """
    return trace_in(checked_ledger(home), text)


def trace_in(ledger: CheckedLedger, text: str) -> Lineage:
    """``trace`` in a ledger that has been read."""
    found = Models.of(ledger).versions
    model, run = _subject(ledger, found, text)
    record, start = ledger.run(run), ledger.run(run).started.record
    charter = ledger.charters.get(start.charter_digest)
    steps = steps_of(record)
    above = parents(ledger)
    family = {one.run: one for one in found}
    ancestors = ancestry(run, above)[1:]
    withdrawals = _withdrawals(ledger)
    silos = _silos(ledger, record, charter, steps, [one for one in withdrawals if one.seq > record.started.seq])
    touched = {part.silo for part in silos if part.withdrew} | set(model.withdrawn_silos if model else ())
    newer = [one for one in found if model and one.version and one.name == model.name and one.seq > model.seq]
    made = Lineage(
        federation=start.federation or ledger.charter.federation,
        consortium=ledger.epochs.consortium.fingerprint,
        model=model,
        run=_run(ledger.home, record, charter),
        steps=steps,
        silos=silos,
        parents=tuple(family[one] for one in ancestors),
        descendants=tuple(one for one in found if run in ancestry(one.run, above)[1:]),
        newer=newer[-1].label if newer else None,
        withdrawals=tuple(one for one in withdrawals if one.silo in touched),
        lines=len(ledger.entries),
        head=ledger.head,
        unproven=(),
    )
    return replace(made, unproven=tuple(unproven(made, record, charter)))


def _subject(ledger: CheckedLedger, found: Sequence[ModelVersion], text: str) -> tuple[ModelVersion | None, str]:
    """(version, run). Without a version the subject is the run."""
    try:
        model = pick(found, text)
    except SpecError:
        runs = [run for run in ledger.runs if text and run.startswith(text) and len(text) >= LEAST_DIGITS]
        if len(runs) != 1:
            raise
        return None, runs[0]
    return model, model.run


def _silos(
    ledger: CheckedLedger,
    record: RunRecord,
    charter: Charter | None,
    steps: Sequence[StepGroup],
    withdrawals: Sequence[WithdrawalFacts],
) -> tuple[SiloPart, ...]:
    closed = [entry.record for entry in record.closed]
    signed = countersigned(ledger, record, charter)
    given = consents(ledger, record, charter)
    counted: Counter[str] = Counter()
    absences: dict[str, list[str]] = {}
    for group in steps:
        counted.update({silo: len(group.names) for silo in group.cohort})
        for absence in group.absent:
            text = f"{group.label}: {str(absence).removeprefix(absence.silo).strip()}"
            absences.setdefault(absence.silo, []).append(text)
    parts = []
    for silo in sorted({*record.started.record.silos, *counted, *absences}):
        approvals = each((step.approvals or {}).get(silo) for step in closed)
        policies = each((step.policies or {}).get(silo) for step in closed)
        consent = next((given[digest] for digest in approvals if digest in given), None)
        parts.append(
            SiloPart(
                silo=silo,
                data=tuple(each(step.data_commitments.get(silo) for step in closed)),
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


def _withdrawals(ledger: CheckedLedger) -> tuple[WithdrawalFacts, ...]:
    return tuple(
        WithdrawalFacts(
            silo=entry.record.silo,
            seq=entry.seq,
            at=entry.time,
            reason=entry.record.reason,
            epoch=entry.record.epoch,
            models=entry.record.models,
            remedies=entry.record.remedies,
        )
        for entry in ledger.of(records.Withdrawal)
    )


def _run(home: AggregatorHome, record: RunRecord, charter: Charter | None) -> RunFacts:
    start, finished = record.started.record, record.finished
    ended = finished or record.failed
    summed = [entry.record.k for entry in record.closed if entry.record.lanes_open]
    folder = home.run_folder(record.run)
    return RunFacts(
        run=record.run,
        job=start.model_name,
        method=record.plan.method,
        purpose=start.purpose,
        status=record.status,
        started=record.started.time,
        ended=ended.time if ended else None,
        job_digest=start.job_digest,
        plan_digest=start.plan_digest,
        charter_digest=start.charter_digest,
        epoch=charter.epoch if charter else None,
        code_digest=start.code_digest,
        versions=start.versions or {},
        members=start.silos,
        threshold=start.threshold,
        chain=finished.record.chain if finished else None,
        ledger_head=finished.record.ledger_head if finished else None,
        replayable=sum(folder.step_uploads(k).is_dir() for k in summed),
        summed=len(summed),
    )
