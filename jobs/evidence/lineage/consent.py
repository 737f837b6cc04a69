"""Approvals of data owners and countersignatures of silos, each checked under the charter.

One that fails its check is never shown: EvidenceError names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from aggregator.ledger.records import ApprovalShown, RunStarted
from aggregator.protocols.interface import Approval, Charter
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.verify.approvals import utc
from crypto.errors import BadSignature, EvidenceError, FederationError, NotApproved


@dataclass(frozen=True, slots=True)
class Consent:
    """An approval of the data owner, its signature checked. ``owner``: the key's fingerprint. ``uses``: runs on this
    ledger that showed it. ``in_time``: whether it was valid then, by the clock of this ledger."""

    digest: str
    owner: str
    purpose: str
    not_before: str
    until: str
    max_runs: int
    uses: int
    in_time: bool
    data_uid: str
    policy: str
    code: str


def consents(ledger: CheckedLedger, record: RunRecord, charter: Charter | None) -> dict[str, Consent]:
    """Digest → each approval shown in the run; signature, run and data are checked. Raises EvidenceError for one that
    fails."""
    if charter is None:
        return {}
    started = record.started
    data = [entry.record.data_commitments for entry in record.closed]
    uses = Counter(digest for digest, _ in {(one.record.digest, one.record.run) for one in ledger.of(ApprovalShown)})
    found = {}
    for entry in record.approvals:
        silo, digest = entry.record.silo, entry.record.digest
        signed = bytes.fromhex(entry.record.approval)
        try:
            if (shown := record.reader.approval_digest(signed).hex()) != digest:
                raise NotApproved(started.record.job_digest, reason=f"its digest is {shown}")
            approval = record.reader.open_approval(signed, silo, charter)
            _check_terms(approval, started.record, each(step.get(silo) for step in data))
        except FederationError as bad:
            raise EvidenceError(
                f"ledger line {entry.seq + 1}, approval of {silo} for run {record.run}",
                expected="one that its data owner signed for this run",
                found=bad.detail,
            ) from bad
        found[digest] = Consent(
            digest=digest,
            owner=charter.member(silo).owner.fingerprint,
            purpose=approval.terms.purpose,
            not_before=utc(approval.not_before),
            until=utc(approval.not_after),
            max_runs=approval.max_runs,
            uses=uses[digest],
            in_time=approval.not_before <= entry.seconds and started.seconds <= approval.not_after,
            data_uid=approval.terms.data_uid,
            policy=approval.terms.policy.hex(),
            code=approval.terms.code.hex(),
        )
    return found


def _check_terms(approval: Approval, start: RunStarted, data: Iterable[str]) -> None:
    """Raise NotApproved unless the approval covers this run and each of the data commitments. A field that an older
    ledger lacks is not compared."""
    wanted = [("charter", start.charter_digest), ("job", start.job_digest), ("plan", start.plan_digest)]
    wanted += [("commitment", commitment) for commitment in data]
    if start.code_digest is not None:
        wanted.append(("code", start.code_digest))
    for name, value in wanted:
        if getattr(approval.terms, name) != bytes.fromhex(value):
            raise NotApproved(start.job_digest, reason=f"it is for another {name}")
    if approval.max_runs < 1 or approval.not_before > approval.not_after:
        raise NotApproved(start.job_digest, reason="it allows no run")
    if start.purpose is not None and approval.terms.purpose != start.purpose:
        raise NotApproved(start.job_digest, reason="it is for another purpose")


def countersigned(ledger: CheckedLedger, record: RunRecord, charter: Charter | None) -> frozenset[str]:
    """Silos whose signature over the end of the run is valid. Raises EvidenceError for one that is not."""
    end = record.finished
    if end is None or charter is None:
        return frozenset()
    whole = _whole_id(record)
    wanted = (whole, end.record.chain, end.record.ledger_head)
    if end.record.countersignatures and wanted[2] not in {one.digest for one in ledger.entries[: end.seq]}:
        where = f"ledger line {end.seq + 1}, ledger_head"
        raise EvidenceError(where, expected="the digest of a line before it, as silos signed", found=wanted[2])
    for silo, signed in end.record.countersignatures.items():
        try:
            closing = record.reader.open_closing(bytes.fromhex(signed), charter)
            found = (closing.run.hex()[: len(whole)], closing.chain.hex(), closing.ledger.hex())
            if closing.silo != silo or found != wanted:
                raise BadSignature(f"A signature of {closing.silo} over the end of run {closing.run.hex()[:16]}.")
        except FederationError as bad:
            raise EvidenceError(
                f"ledger line {end.seq + 1}, countersignature of {silo}",
                expected=f"one over the end of run {record.run}",
                found=bad.detail,
            ) from bad
    return frozenset(end.record.countersignatures)


def _whole_id(record: RunRecord) -> str:
    """The run's id in full, which follows from its nonce; of an older ledger the 16 digits there are."""
    if record.id is None:
        return record.run
    whole = record.id.hex()
    if whole[: len(record.run)] != record.run:
        where = f"ledger line {record.started.seq + 1}, nonce"
        raise EvidenceError(where, expected=f"run {record.run}", found=whole[: len(record.run)])
    return whole


def each(values: Iterable[str | None]) -> list[str]:
    """Distinct values in order."""
    return list(dict.fromkeys(value for value in values if value))
