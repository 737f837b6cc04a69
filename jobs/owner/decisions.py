"""The data owner's acts: register data, look at what is asked for, sign a yes or a no.

Each is one function of a silo's home. What counts afterwards is what was signed with the owner's key; PySyft is told,
so that its own tools show the same, and nothing depends on it.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from crypto.approval import MOST_TEXT, Denial, approval_digest
from crypto.errors import FederationError, SpecError
from crypto.keys import Identity
from jobs.job import JobSpec
from jobs.owner import approval_terms
from jobs.owner.approval_terms import DAY
from jobs.owner.render import day
from jobs.owner.review import Desk
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog
from silo_agent.pysyft.catalogue import Entry

log = logging.getLogger("consilium.silo")

#: How long and how often an approval is good for unless the owner says otherwise.
DEFAULT_DAYS = 30
DEFAULT_RUNS = 1

_PREFIX = re.compile(r"[0-9a-f]{8,64}")


# --- data ------------------------------------------------------------------------------------------------------------


def add_data(desk: Desk, name: str, private: Path, mock: Path, summary: str = "", *, replace: bool = False) -> Entry:
    """``Catalogue.add``, and a line of the security log."""
    try:
        before = desk.catalogue.entry(name).commitment.hex()
    except FederationError:
        before = ""
    entry = desk.catalogue.add(name, private, mock, summary, replace=replace)
    told = SecurityLog(desk.home)
    if before:
        told(Event.DATA_REPLACED, name=name, before=before, after=entry.commitment.hex())
    else:
        told(Event.DATA_REGISTERED, name=name, data=entry.commitment.hex())
    return entry


def list_data(desk: Desk) -> list[dict[str, Any]]:
    """Every data set of the catalogue, read and checked. ``amiss``: why no job would get it, if anything."""
    return [_shown(desk, name) for name in desk.catalogue.names()]


def _shown(desk: Desk, name: str) -> dict[str, Any]:
    try:
        entry = desk.catalogue.entry(name)
        desk.catalogue.resolve(name)
    except FederationError as refused:
        return {"name": name, "amiss": str(refused)}
    return describe(entry)


def describe(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "uid": entry.uid,
        "summary": entry.summary,
        "features": entry.schema.features,
        "classes": entry.schema.classes,
        "arrays": entry.schema.arrays,
        "commitment": entry.commitment.hex(),
        "mock": str(entry.mock),
        "amiss": "",
    }


# --- requests --------------------------------------------------------------------------------------------------------


def requests(desk: Desk) -> dict[str, Any]:
    """What waits, what was decided, what was tampered with, and what was approved without being asked for here."""
    asked, tampered = desk.queue.all()
    shown = [
        _asked(desk, item.text, item.digest) | {"asked": item.asked.isoformat(), "pysyft": item.shown} for item in asked
    ]
    queued = {item.digest for item in asked}
    besides = [
        {"job": approval.terms.job.hex(), "purpose": approval.terms.purpose, "not_after": approval.not_after}
        for _, approval in desk.approvals.all()
        if approval.terms.job not in queued and desk.in_force(approval)
    ]
    return {
        "silo": desk.silo,
        "requests": shown,
        "tampered": [{"name": item.name, "why": item.why} for item in tampered],
        "approved_besides": besides,
    }


def _asked(desk: Desk, text: str, digest: bytes) -> dict[str, Any]:
    try:
        return desk.account(JobSpec.from_text(text))
    except FederationError as refused:  # another release's job, or one that this charter has no plan for
        return {"job": digest.hex(), "amiss": str(refused)}


def find(desk: Desk, prefix: str) -> JobSpec:
    """The queued job whose digest begins so. Raises SpecError for none, for several, for a beginning too short."""
    _check_prefix(prefix)
    return JobSpec.from_text(desk.queue.find(prefix).text)


# --- yes and no ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed:
    """An approval that was just signed. Times in seconds since 1970, UTC."""

    approval: str
    job: str
    not_before: int
    not_after: int
    max_runs: int


def approve(
    desk: Desk, spec: JobSpec, *, until: int | None = None, max_runs: int = DEFAULT_RUNS, key: Path | None = None
) -> Signed:
    """Sign the terms of a job as they are now at this silo, and keep the approval.

    Default: for one run, within 30 days or as long as the charter is valid. Raises DataRefused where the data set is
    not registered, SpecError for a date or a key that won't do.
    """
    desk.charter.check_validity(desk.now)
    owner = _owner_key(desk, key)
    last = desk.charter.not_after
    not_after = min(desk.now + DEFAULT_DAYS * DAY, last) if until is None else until
    if not desk.now < not_after <= last:
        raise SpecError("--until", got=day(not_after), want=f"from now on, until the charter ends on {day(last)}")
    wanted = desk.terms(spec)
    denial = desk.approvals.denial(spec.digest)
    not_before = desk.now if denial is None else max(desk.now, denial.at + 1)  # the newer word counts
    signed = approval_terms.sign(wanted, owner, max_runs=max_runs, not_after=not_after, now=not_before)
    digest = approval_digest(signed).hex()
    SecurityLog(desk.home)(
        Event.APPROVAL_GRANTED,
        job=spec.digest.hex(),
        approval=digest,
        plan=wanted.plan.hex(),
        data=wanted.commitment.hex(),
        uses=max_runs,
        until=not_after,
    )
    desk.approvals.add(signed)
    _tell_pysyft(desk, spec.digest, "approved")
    return Signed(digest, spec.digest.hex(), not_before, not_after, max_runs)


def deny(desk: Desk, prefix: str, reason: str, *, key: Path | None = None) -> Denial:
    """Sign a no. It outweighs every approval of the job so far; a newer approval takes it back."""
    if not 1 <= len(reason) <= MOST_TEXT or not reason.isprintable():
        raise SpecError("--reason", got=reason[:80], want=f"a sentence of at most {MOST_TEXT} characters")
    owner = _owner_key(desk, key)
    job = _job(desk, prefix)
    newest = max((item.not_before for _, item in desk.approvals.all() if item.terms.job == job), default=0)
    denial = Denial(silo=desk.silo, job=job, reason=reason, at=max(desk.now, newest))
    desk.approvals.deny(denial.sign(owner))
    SecurityLog(desk.home)(Event.APPROVAL_DENIED, job=job.hex())
    _tell_pysyft(desk, job, "denied")
    return denial


def parse_until(text: str) -> int:
    """The end of a day, UTC, from ``YYYY-MM-DD``. Raises SpecError."""
    try:
        following = date.fromisoformat(text) + timedelta(days=1)
        return int(datetime(following.year, following.month, following.day, tzinfo=UTC).timestamp()) - 1
    except (ValueError, OverflowError) as bad:
        raise SpecError("--until", got=text, want="a day, YYYY-MM-DD") from bad


def _owner_key(desk: Desk, path: Path | None) -> Identity:
    """The key whose signature the charter lets count. Raises SpecError for any other."""
    path = path or desk.home.owner_key_path
    key, want = Identity.load(path), desk.approvals.owner
    if key.public != want:
        found = key.public.fingerprint
        SecurityLog(desk.home)(Event.KEY_MISMATCH, role="owner", expected=want.fingerprint, found=found)
        raise SpecError(
            f"{desk.silo} owner key",
            got=found,
            want=want.fingerprint,
            remedy="The charter names another data owner's key: use that one, or have a new epoch signed.",
        )
    return key


def _job(desk: Desk, prefix: str) -> bytes:
    """The job, queued or approved, whose digest begins so; a whole digest needs neither."""
    _check_prefix(prefix)
    asked, _ = desk.queue.all()
    known = {item.digest for item in asked} | {item.terms.job for _, item in desk.approvals.all()}
    found = [digest for digest in known if digest.hex().startswith(prefix)]
    if not found and len(prefix) == 64:
        return bytes.fromhex(prefix)
    if len(found) != 1:
        raise SpecError("DIGEST", got=prefix, want=f"the beginning of one job's digest, not of {len(found)}")
    return found[0]


def _check_prefix(prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise SpecError("DIGEST", got=prefix, want="at least 8 hexadecimal digits of the job's digest, in lower case")


def _tell_pysyft(desk: Desk, job: bytes, decision: str) -> None:
    """Its status is for show: where it cannot be set, what was signed counts all the same."""
    try:
        desk.queue.mark(job, decision)
    except FederationError as failed:
        log.warning("PySyft's state of job %s could not be set: %s", job.hex()[:16], failed)
