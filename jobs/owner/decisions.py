"""The data owner's commands: register data, list the requests, approve or deny one with a signature.

Only what the owner's key has signed is valid. PySyft's status is set too, so that PySyft's own tools show the decision;
nothing depends on it.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from crypto.approval import MOST_TEXT, Denial, Terms, approval_digest
from crypto.errors import FederationError, SpecError
from crypto.keys import Identity
from crypto.privacy_grant import EVERY_JOB, PrivacyGrant
from jobs.job import JobSpec
from jobs.owner import approval_terms
from jobs.owner.approval_terms import DAY
from jobs.owner.privacy import Accounts
from jobs.owner.render import day
from jobs.owner.review import OwnerView
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog
from silo_agent.data import check_name
from silo_agent.pysyft.catalogue import CatalogueEntry
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema

log = logging.getLogger("consilium.silo")

#: Default validity of an approval, in days and runs.
DEFAULT_DAYS = 30
DEFAULT_RUNS = 1

_PREFIX = re.compile(r"[0-9a-f]{8,64}")


# --- data ------------------------------------------------------------------------------------------------------------


def add_data(
    view: OwnerView, name: str, private: Path, mock: Path, summary: str = "", *, replace: bool = False
) -> CatalogueEntry:
    """``Catalogue.add``, and a line of the security log."""
    before = _registered(view, name)
    return _logged(view, before, view.catalogue.add(name, private, mock, summary, replace=replace))


def add_reference(
    view: OwnerView,
    name: str,
    path: Path,
    schema: Path,
    *,
    reader: str | None = None,
    mock: Path | None = None,
    summary: str = "",
    replace: bool = False,
) -> CatalogueEntry:
    """Register a file or folder that stays where it is, by a schema file, and write a line of the security log.

    ``reader``: default: by schema and files. ``mock``: default: made from the schema. Raises SpecError for the schema,
    DataRefused or NonFinite for the data.
    """
    check_name(name)
    before = _registered(view, name)
    reference = Reference.take(name, path, DataSchema.load(schema), reader)
    return _logged(view, before, view.catalogue.add_reference(name, reference, mock, summary, replace=replace))


def _registered(view: OwnerView, name: str) -> str:
    """The commitment under this name, in hexadecimal; "" where there is none."""
    try:
        return view.catalogue.entry(name).commitment.hex()
    except FederationError:
        return ""


def _logged(view: OwnerView, before: str, entry: CatalogueEntry) -> CatalogueEntry:
    security_log = SecurityLog(view.home)
    if before:
        security_log(Event.DATA_REPLACED, name=entry.name, before=before, after=entry.commitment.hex())
    else:
        security_log(Event.DATA_REGISTERED, name=entry.name, data=entry.commitment.hex())
    return entry


def list_data(view: OwnerView) -> list[dict[str, Any]]:
    """Every data set of the catalogue, read and checked. ``amiss``: why no job can use it; empty if it is usable."""
    return [_shown(view, name) for name in view.catalogue.names()]


def _shown(view: OwnerView, name: str) -> dict[str, Any]:
    try:
        entry = view.catalogue.entry(name)
        view.catalogue.resolve(name)
    except FederationError as refused:
        return {"name": name, "amiss": str(refused)}
    return describe(entry)


def describe(entry: CatalogueEntry) -> dict[str, Any]:
    """An entry as plain values, for the data owner alone."""
    reference = entry.reference
    return {
        "name": entry.name,
        "uid": entry.uid,
        "summary": entry.summary,
        "features": entry.schema.features,
        "shape": list(entry.schema.shape),
        "classes": entry.schema.classes,
        "target": entry.schema.target_text,
        "arrays": entry.schema.arrays,
        "commitment": entry.commitment.hex(),
        "mock": str(entry.mock),
        "reference": None
        if reference is None
        else {
            "path": str(reference.path),
            "reader": reference.reader,
            "schema": reference.schema.digest.hex(),
        },
        "findings": list(entry.findings),
        "amiss": "",
    }


# --- requests --------------------------------------------------------------------------------------------------------


def requests(view: OwnerView) -> dict[str, Any]:
    """Every request with its state, entries that are no valid requests, and approvals of jobs not in the queue."""
    queued, tampered = view.queue.all()
    shown = [
        _review(view, item.text, item.digest) | {"asked": item.asked.isoformat(), "pysyft": item.shown}
        for item in queued
    ]
    digests = {item.digest for item in queued}
    not_queued = [
        {"job": approval.terms.job.hex(), "purpose": approval.terms.purpose, "not_after": approval.not_after}
        for _, approval in view.approvals.all()
        if approval.terms.job not in digests and view.in_force(approval)
    ]
    return {
        "silo": view.silo,
        "requests": shown,
        "tampered": [{"name": item.name, "why": item.why} for item in tampered],
        "approved_besides": not_queued,
    }


def _review(view: OwnerView, text: str, digest: bytes) -> dict[str, Any]:
    try:
        return view.review(JobSpec.from_text(text))
    except FederationError as refused:  # another release's job, or no plan for it under this charter
        return {"job": digest.hex(), "amiss": str(refused)}


def find(view: OwnerView, prefix: str) -> JobSpec:
    """The queued job whose digest begins with ``prefix``, at least 8 digits. Raises SpecError for none or several."""
    _check_prefix(prefix)
    return JobSpec.from_text(view.queue.find(prefix).text)


# --- decisions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed:
    """An approval that was just signed. Times in seconds since 1970, UTC."""

    approval: str
    job: str
    not_before: int
    not_after: int
    max_runs: int


def approve(
    view: OwnerView,
    spec: JobSpec,
    *,
    until: int | None = None,
    max_runs: int = DEFAULT_RUNS,
    key: Path | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    without_privacy: bool = False,
) -> Signed:
    """Sign the terms of a job as they are now at this silo, and keep the approval.

    ``until``: seconds since 1970, UTC; default: 30 days from now, or the end of the charter. ``key``: the owner's key
    file; default: the one in the home. ``epsilon``, ``delta``: what a private job may spend here, default of ``delta``:
    the job's. ``without_privacy``: approve a job without privacy on a data set that has a grant. Raises DataRefused if
    the data set is not registered, SpecError for a date out of range, a key that the charter does not name, or a
    private job without a grant.
    """
    view.charter.check_validity(view.now)
    owner = _owner_key(view, key)
    last = view.charter.not_after
    not_after = min(view.now + DEFAULT_DAYS * DAY, last) if until is None else until
    if not view.now < not_after <= last:
        raise SpecError("--until", got=day(not_after), want=f"from now on, until the charter ends on {day(last)}")
    wanted = view.terms(spec)
    _grant_job(view, spec, wanted, owner, epsilon=epsilon, delta=delta, without_privacy=without_privacy)
    denial = view.approvals.denial(spec.digest)
    not_before = view.now if denial is None else max(view.now, denial.at + 1)  # the newer decision is valid
    signed = approval_terms.sign(wanted, owner, max_runs=max_runs, not_after=not_after, now=not_before)
    digest = approval_digest(signed).hex()
    SecurityLog(view.home)(
        Event.APPROVAL_GRANTED,
        job=spec.digest.hex(),
        approval=digest,
        plan=wanted.plan.hex(),
        data=wanted.commitment.hex(),
        uses=max_runs,
        until=not_after,
    )
    view.approvals.add(signed)
    _mark_in_pysyft(view, spec.digest, "approved")
    return Signed(digest, spec.digest.hex(), not_before, not_after, max_runs)


def grant_data(view: OwnerView, name: str, *, epsilon: float, delta: float, key: Path | None = None) -> PrivacyGrant:
    """Sign how much ε all jobs together may spend of a data set. Raises DataRefused or SpecError."""
    view.charter.check_validity(view.now)
    owner, accounts = _owner_key(view, key), Accounts(view)
    found = view.catalogue.resolve(name)
    accounts.check_grant(epsilon, delta, found.data.rows)
    return accounts.sign(owner, data=found.id.commitment, job=EVERY_JOB, epsilon=epsilon, delta=delta)


def _grant_job(
    view: OwnerView,
    spec: JobSpec,
    wanted: Terms,
    owner: Identity,
    *,
    epsilon: float | None,
    delta: float | None,
    without_privacy: bool,
) -> None:
    """Sign what a private job may spend, or refuse what would make an account untrue."""
    accounts = Accounts(view)
    grants = accounts.grants.in_force(wanted.commitment)
    if spec.privacy is None:
        if epsilon is not None or delta is not None:
            raise SpecError("--epsilon", got=epsilon, want="a job with [privacy]: this one promises none")
        if grants and not without_privacy:
            raise SpecError(
                "fed approve",
                got="a job without privacy on a data set that has a grant",
                want="a job with [privacy]",
                remedy="Its sums cost more than any epsilon. --without-privacy approves it all the same.",
            )
        return
    spec.privacy.check_claim(spec.params)
    if EVERY_JOB not in grants:
        raise SpecError(
            "fed approve",
            got=f"data set {spec.dataset!r} without a grant",
            want="how much all jobs together may spend of it",
            remedy=f"`fed data grant {spec.dataset} --epsilon E --delta D`.",
        )
    if epsilon is None:
        if spec.digest not in grants:
            raise SpecError(
                "--epsilon", got=None, want=f"what this job may spend; it asks for {spec.privacy.epsilon:g}"
            )
        return
    at = spec.privacy.delta if delta is None else delta
    accounts.check_grant(epsilon, at, view.rows(spec.dataset))
    accounts.sign(owner, data=wanted.commitment, job=spec.digest, epsilon=epsilon, delta=at)


def deny(view: OwnerView, prefix: str, reason: str, *, key: Path | None = None) -> Denial:
    """Sign a denial. It overrides every approval of the job so far; a newer approval overrides the denial."""
    if not 1 <= len(reason) <= MOST_TEXT or not reason.isprintable():
        raise SpecError("--reason", got=reason[:80], want=f"a sentence of at most {MOST_TEXT} characters")
    owner = _owner_key(view, key)
    job = _job(view, prefix)
    newest = max((item.not_before for _, item in view.approvals.all() if item.terms.job == job), default=0)
    denial = Denial(silo=view.silo, job=job, reason=reason, at=max(view.now, newest))
    view.approvals.deny(denial.sign(owner))
    SecurityLog(view.home)(Event.APPROVAL_DENIED, job=job.hex())
    _mark_in_pysyft(view, job, "denied")
    return denial


def parse_until(text: str) -> int:
    """The end of a day, UTC, from ``YYYY-MM-DD``. Raises SpecError."""
    try:
        following = date.fromisoformat(text) + timedelta(days=1)
        return int(datetime(following.year, following.month, following.day, tzinfo=UTC).timestamp()) - 1
    except (ValueError, OverflowError) as bad:
        raise SpecError("--until", got=text, want="a day, YYYY-MM-DD") from bad


def _owner_key(view: OwnerView, path: Path | None) -> Identity:
    """The key that the charter names for this silo's data owner. Raises SpecError for any other."""
    path = path or view.home.owner_key_path
    key, want = Identity.load(path), view.approvals.owner
    if key.public != want:
        found = key.public.fingerprint
        SecurityLog(view.home)(Event.KEY_MISMATCH, role="owner", expected=want.fingerprint, found=found)
        raise SpecError(
            f"{view.silo} owner key",
            got=found,
            want=want.fingerprint,
            remedy="The charter names another data owner's key: use that one, or have a new epoch signed.",
        )
    return key


def _job(view: OwnerView, prefix: str) -> bytes:
    """The queued or approved job whose digest begins with ``prefix``; a whole digest need not be either."""
    _check_prefix(prefix)
    queued, _ = view.queue.all()
    known = {item.digest for item in queued} | {item.terms.job for _, item in view.approvals.all()}
    found = [digest for digest in known if digest.hex().startswith(prefix)]
    if not found and len(prefix) == 64:
        return bytes.fromhex(prefix)
    if len(found) != 1:
        raise SpecError("DIGEST", got=prefix, want=f"the beginning of one job's digest, not of {len(found)}")
    return found[0]


def _check_prefix(prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise SpecError("DIGEST", got=prefix, want="at least 8 hexadecimal digits of the job's digest, in lower case")


def _mark_in_pysyft(view: OwnerView, job: bytes, decision: str) -> None:
    """PySyft's status is only shown: if it cannot be set, the signed decision is valid all the same."""
    try:
        view.queue.mark(job, decision)
    except FederationError as failed:
        log.warning("PySyft's state of job %s could not be set: %s", job.hex()[:16], failed)
