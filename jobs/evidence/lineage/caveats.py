"""What a lineage does not prove, in sentences: first what this one lacks, then the limits that all have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aggregator import privacy
from aggregator.protocols.interface import Charter
from aggregator.run_record import RunRecord, job_fields
from crypto.plan import Scope
from jobs.evidence.lineage.model import Lineage


def unproven(made: Lineage, record: RunRecord, charter: Charter | None) -> Iterator[str]:
    """Sentences, the ones about this model first."""
    run, start, plan, parts = made.run, record.started.record, record.plan, [part for part in made.silos if part.steps]
    if charter is None:
        yield (
            f"The charter {run.charter_digest[:16]} of this run is neither on the ledger nor in the home: no approval "
            "and no countersignature could be checked."
        )
    if run.status != "finished":
        yield f"The run made no model ({run.status}), and no silo signed its end."
    elif missing := [part.silo for part in parts if not part.countersigned]:
        yield f"Not countersigned by {listed(missing)}: only their signed uploads show that they took part."
    if without := [part.silo for part in parts if part.approval is None]:
        yield f"Approvals of {listed(without)} are not recorded on this ledger."
    for part in parts:
        if part.approval and part.consent is None and charter is not None:
            yield f"{part.silo} named the approval {part.approval[:16]}, which is not on this ledger."
        if part.consent and part.consent.uses > part.consent.max_runs:
            yield f"{part.silo} let {part.consent.uses} runs start on an approval of {part.consent.max_runs}."
        if part.consent and not part.consent.in_time:
            yield f"By the aggregator's clock the approval of {part.silo} was not valid when the run showed it."
        if len(part.data) > 1:
            yield f"{part.silo} committed to {len(part.data)} different data sets within the run."
    absent = [
        name
        for key, name in (("purpose", "purpose"), ("code_digest", "software"), ("nonce", "nonce of the run's id"))
        if getattr(start, key) is None
    ]
    if absent:
        yield f"Not recorded when this run was made: {listed(absent)}."
    if made.model and made.model.version and not made.model.numbered:
        yield f"The number {made.model.version} is MLflow's; the ledger signs the run and the weights, not the number."
    if aliases := [alias for alias in (made.model.aliases if made.model else {}) if alias != "candidate"]:
        yield f"Who moved {listed(aliases)} is what was typed; the aggregator's key signed it, not a person's."
    if note := record.reader.note:
        yield f"Made under {record.reader.name}: {note}."
    if left := run.summed - run.replayable:
        yield f"{left} of {run.summed} sums can't be replayed bit for bit: their masked uploads were not kept."
    if hidden := [lane.name for lane in plan.lanes if lane.hidden and lane.scope == Scope.HELD]:
        yield f"Who taught {listed(hidden)} is hidden from the aggregator: it knows the cohort, not its holders."
    yield (
        f"The consortium's key came with this ledger: {made.consortium}. An attacker who replaced both could "
        "have forged everything here: compare the key with the fingerprint that the consortium gave you."
    )
    yield (
        "This view checked the ledger's chain and signatures, the approvals and the countersignatures. It did not "
        f"check the steps' evidence and did not replay sums: {made.commands[0]} does."
    )
    yield (
        "A data commitment shows that a silo named the same data each time. It does not show that the data are good, "
        "lawful or really trained on; with the salt, which the silo can disclose, an auditor can compare them."
    )
    if privacy.claim(job_fields(start)) is None:
        yield "A sum over silos is not differential privacy: a model may remember rows it was trained on."
    else:
        yield (
            f"{privacy.sentence(job_fields(start))} This view read the claim; each silo computed it before it took "
            "part. Whether a silo's noise was drawn as the software says, nobody else can see."
        )


def listed(names: Sequence[str]) -> str:
    """Names as one phrase: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
