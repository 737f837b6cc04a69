"""Who agreed and who signed: approvals of data owners and countersignatures of silos, each checked under the charter.

One that doesn't check is never shown as if it did: EvidenceError names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind
from aggregator.run_record import History
from aggregator.verify.approvals import utc
from crypto import transcript
from crypto.approval import Approval, Terms, approval_digest, open_approval
from crypto.charter import Charter
from crypto.errors import BadSignature, EvidenceError, FederationError, NotApproved
from crypto.messages import Closing


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


def consents(history: History, started: Entry, charter: Charter | None) -> dict[str, Consent]:
    """digest → the approval, its signature, run and data checked; EvidenceError for one that doesn't fit."""
    if charter is None:
        return {}
    run = str(started.record["run"])
    data = [entry.record["data_commitments"] for entry in history.of(Kind.STEP_CLOSED, run)]
    shown = {(entry.record["digest"], entry.record["run"]) for entry in history.of(Kind.APPROVAL)}
    uses = Counter(digest for digest, _ in shown)
    found = {}
    for entry in history.of(Kind.APPROVAL, run):
        silo, digest = entry.record["silo"], entry.record["digest"]
        signed = bytes.fromhex(entry.record["approval"])
        try:
            if approval_digest(signed).hex() != digest:
                raise NotApproved(started.record["job_digest"], reason=f"its digest is {approval_digest(signed).hex()}")
            approval = open_approval(signed, lambda name: charter.member(name).owner)
            for commitment in each(step.get(silo) for step in data) or [approval.terms.commitment.hex()]:
                terms = replace(_terms(approval, started), silo=silo, commitment=bytes.fromhex(commitment))
                approval.check(terms, now=approval.not_before, used=0)
        except FederationError as bad:
            raise EvidenceError(
                f"ledger line {entry.seq + 1}, approval of {silo} for run {run}",
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
            in_time=approval.not_before <= _seconds(entry.time) and _seconds(started.time) <= approval.not_after,
            data_uid=approval.terms.data_uid,
            policy=approval.terms.policy.hex(),
            code=approval.terms.code.hex(),
        )
    return found


def _terms(approval: Approval, started: Entry) -> Terms:
    """What the run says an approval had to cover; where the ledger is silent, what the approval says."""
    terms, record = approval.terms, started.record
    return replace(
        terms,
        charter=bytes.fromhex(record["charter_digest"]),
        job=bytes.fromhex(record["job_digest"]),
        plan=bytes.fromhex(record["plan_digest"]),
        code=bytes.fromhex(record.get("code_digest", terms.code.hex())),
        purpose=record.get("purpose", terms.purpose),
    )


def countersigned(history: History, started: Entry, charter: Charter | None) -> frozenset[str]:
    """Silos whose signature over the end of the run checks; EvidenceError for one that doesn't."""
    run = str(started.record["run"])
    end = next(history.of(Kind.RUN_FINISHED, run), None)
    if end is None or charter is None:
        return frozenset()
    whole = _whole_id(started, charter)
    wanted = (whole, end.record["chain"], end.record.get("ledger_head"))
    if end.record["countersignatures"] and wanted[2] not in {one.digest for one in history.entries[: end.seq]}:
        where = f"ledger line {end.seq + 1}, ledger_head"
        raise EvidenceError(where, expected="the digest of a line before it, as silos signed", found=wanted[2])
    for silo, signed in end.record["countersignatures"].items():
        try:
            closing = Closing.open(bytes.fromhex(signed), lambda message: charter.member(message.silo).agent)
            found = (closing.run.hex()[: len(whole)], closing.chain.hex(), closing.ledger.hex())
            if closing.silo != silo or found != wanted:
                raise BadSignature(f"A signature of {closing.silo} over the end of run {closing.run.hex()[:16]}.")
        except FederationError as bad:
            raise EvidenceError(
                f"ledger line {end.seq + 1}, countersignature of {silo}",
                expected=f"one over the end of run {run}",
                found=bad.detail,
            ) from bad
    return frozenset(end.record["countersignatures"])


def _whole_id(started: Entry, charter: Charter) -> str:
    """The run's id in full, which follows from its nonce; of an older ledger the 16 digits there are."""
    run, nonce = str(started.record["run"]), started.record.get("nonce")
    if nonce is None:
        return run
    whole = transcript.run_id(bytes.fromhex(started.record["job_digest"]), charter.digest, bytes.fromhex(nonce)).hex()
    if whole[: len(run)] != run:
        raise EvidenceError(f"ledger line {started.seq + 1}, nonce", expected=f"run {run}", found=whole[: len(run)])
    return whole


def each(values: Iterable[str | None]) -> list[str]:
    """Distinct values in order."""
    return list(dict.fromkeys(value for value in values if value))


def _seconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp())
