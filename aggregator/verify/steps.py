"""One released step: what was signed, and who approved it.

Checks 4 and 5 of ``aggregator.verify.checks``. A step's evidence is opened under a context made from charter, plan, run
and the chain so far; then the ledger's line of the step is compared with the signed messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from aggregator.ledger.format import Entry, at
from aggregator.ledger.records import StepClosed, StepVoid
from aggregator.protocols.interface import Approval, Charter, CheckedStep, Lane, Plan
from aggregator.verify.report import checking, same
from aggregator.verify.verified_run import VerifiedRun
from crypto.errors import EvidenceError

# --- 5: what was signed ------------------------------------------------------------------------------------------


def open_step(run: VerifiedRun, entry: Entry[StepClosed], chain: bytes) -> CheckedStep:
    """A released step's evidence under the context made from charter, plan, run and the chain so far: every signature,
    T0 to T3, the attestations of at least t, and the slots opened again."""
    k, record = entry.record.k, entry.record
    where = f"{run.run}/evidence/{k:06d}.bin"
    if record.evidence_sha256 is None:
        raise EvidenceError(at(entry), expected="the digest of the step's evidence", found="none")
    try:
        data = run.folder.evidence_path(k).read_bytes()
    except OSError as missing:
        raise EvidenceError(where, expected=f"SHA-256 {record.evidence_sha256}", found=missing.strerror) from missing
    same(where, f"SHA-256 {record.evidence_sha256}", f"SHA-256 {sha256(data).hexdigest()}")
    if not 0 <= (attempt := record.attempt or 0) < 2**32:
        raise EvidenceError(at(entry, "attempt"), expected="a number of 32 bits", found=attempt)
    with checking(where, f"messages that prove step {k} under the chain so far"):
        try:
            return run.reader.check_step(data, run.charter, run.plan, run=run.id, k=k, attempt=attempt, chain=chain)
        except EvidenceError as bad:
            raise EvidenceError(f"{where}, {bad.where}", expected=bad.expected, found=bad.found) from bad


def check_record(plan: Plan, charter: Charter, entry: Entry[StepClosed], checked: CheckedStep) -> None:
    """Compare the ledger's line of a released step with the signed messages, field by field."""
    survivors, adverts = checked.survivors, checked.adverts
    slots = dict(checked.figures)
    opened = checked.lanes_open()
    lanes = plan.lanes_of(checked.step)
    signed_values: dict[str, object] = {
        "transcript": checked.transcript.hex(),
        "survivors": survivors,
        "slots": slots,
        "lanes_open": opened,
        "lanes_shut": tuple(lane.name for lane in lanes if lane.name not in opened),
        "upload_digests": {silo: digest.hex() for silo, digest in checked.upload_digests.items()},
        "data_commitments": {silo: adverts[silo].data.hex() for silo in survivors},
        "approvals": {silo: adverts[silo].approval.hex() for silo in survivors},
        "holdings": {silo: tuple(adverts[silo].held) for silo in survivors if adverts[silo].held},
    }
    for name, value in signed_values.items():
        same(at(entry, name), value, getattr(entry.record, name))
    for lane in lanes:
        if lane.name in opened:
            check_floor(charter, entry, lane, slots)


def check_floor(charter: Charter, entry: Entry[StepClosed], lane: Lane, slots: Mapping[str, int]) -> None:
    """No lane opened below the floors of charter and plan. (A silo's own, stricter floor is not known here.)"""
    floor = charter.floor(lane)
    if (count := slots[lane.contributors_figure]) < floor:
        where = at(entry, f"lanes_open, {lane.name}")
        raise EvidenceError(where, expected=f"at least {floor} contributors", found=count)


def check_attested(run: VerifiedRun, entry: Entry[StepClosed] | Entry[StepVoid]) -> None:
    """Every attempt at a step that went on to the shares did so under the transcript that the step ended with."""
    ended = entry.record
    for line in run.record.attested_at.get(ended.k, ()):
        same(at(line, "transcript"), ended.transcript, line.record.transcript)
        if isinstance(ended, StepClosed):
            same(at(line, "survivors"), ended.survivors, line.record.survivors)


# --- 4: who approved ---------------------------------------------------------------------------------------------


def check_approvals(
    run: VerifiedRun, entry: Entry[StepClosed], checked: CheckedStep, seen: dict[str, Approval]
) -> None:
    """Each survivor's advert names an approval on the ledger that its data owner signed, for this run and these data,
    and that was valid when the step was under way. ``seen`` collects them by digest."""
    started = run.record.started.record
    since, until = run.record.window(entry)
    for silo in checked.survivors:
        advert = checked.adverts[silo]
        if (line := run.record.shown.get(advert.approval.hex())) is None or line.seq > entry.seq:
            expected = f"a line approval before it with {silo}'s {advert.approval.hex()}"
            raise EvidenceError(at(entry, f"approvals, {silo}"), expected=expected, found="none")
        where = at(line)
        same(f"{where}, silo", silo, line.record.silo)
        signed = bytes.fromhex(line.record.approval)
        same(f"{where}, digest", run.reader.approval_digest(signed).hex(), line.record.digest)
        with checking(where, f"an approval of {silo}'s data owner for this run and these data"):
            approval = run.reader.check_shown(
                signed, advert, run.charter, job=bytes.fromhex(started.job_digest),
                plan=run.plan.digest, code=bytes.fromhex(started.code_digest or ""),
            )  # fmt: skip
        same(f"{where}, purpose", approval.terms.purpose, started.purpose)
        if until < approval.not_before or since > approval.not_after:
            expected = f"step {entry.record.k} between {approval.not_before} and {approval.not_after}"
            raise EvidenceError(where, expected=expected, found=f"{since} to {until}: not valid then")
        if entry.record.policies is not None:
            same(at(entry, f"policies, {silo}"), approval.terms.policy.hex(), entry.record.policies.get(silo))
        seen[line.record.digest] = approval
