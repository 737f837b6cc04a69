"""Approvals of a run in readable form: who allowed the use of which data, for what, how often and until when.

The ledger has the signed bytes; these are their contents, with the reason where a signature or digest fails. This is
for reading; `fed verify` is the proof.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from aggregator.ledger.format import Entry
from aggregator.ledger.records import ApprovalShown
from aggregator.protocols.interface import Charter, Reader
from aggregator.run_record import RunRecord
from crypto.errors import EvidenceError, FederationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """``digest`` names the signed approval; ``owner`` is the fingerprint of the key that signed it. Times are UTC.
    ``problem``: why the check failed; the other fields are then empty."""

    silo: str
    digest: str
    first_shown: str
    owner: str = ""
    purpose: str = ""
    max_runs: int = 0
    not_before: str = ""
    not_after: str = ""
    data_uid: str = ""
    commitment: str = ""
    policy: str = ""
    code: str = ""
    problem: str = ""


def approvals(record: RunRecord, charters: Mapping[str, Charter]) -> tuple[Approved, ...]:
    """Every approval that was shown in a run, by silo, each once. ``charters``: digest (hex) → charter."""
    charter_digest = record.started.record.charter_digest
    found: dict[str, Approved] = {}
    for entry in record.approvals:
        read = _read(record.reader, charters.get(charter_digest), charter_digest, entry)
        found.setdefault(entry.record.digest, read)
    return tuple(sorted(found.values(), key=lambda one: (one.silo, one.first_shown)))


def as_json(found: tuple[Approved, ...]) -> str:
    """The artifact ``evidence/approvals.json``."""
    return json.dumps([asdict(one) for one in found], indent=2) + "\n"


def _read(reader: Reader, charter: Charter | None, charter_digest: str, entry: Entry[ApprovalShown]) -> Approved:
    silo, digest = entry.record.silo, entry.record.digest
    signed = bytes.fromhex(entry.record.approval)
    try:
        if charter is None:
            raise EvidenceError("charter", expected=charter_digest, found="no such charter in this home")
        if (shown := reader.approval_digest(signed).hex()) != digest:
            raise EvidenceError(f"approval of {silo}", expected=f"digest {digest}", found=shown)
        owner = charter.member(silo).owner
        approval = reader.open_approval(signed, silo, charter)
    except FederationError as bad:
        return Approved(silo=silo, digest=digest, first_shown=entry.time, problem=bad.detail)
    terms = approval.terms
    return Approved(
        silo=silo,
        digest=digest,
        first_shown=entry.time,
        owner=owner.fingerprint,
        purpose=terms.purpose,
        max_runs=approval.max_runs,
        not_before=utc(approval.not_before),
        not_after=utc(approval.not_after),
        data_uid=terms.data_uid,
        commitment=terms.commitment.hex(),
        policy=terms.policy.hex(),
        code=terms.code.hex(),
    )


def utc(seconds: int) -> str:
    """A time for people; one beyond the calendar as its seconds."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s after 1970"
