"""The data owner's commands: register data, list the requests, approve or deny one with a signature.

Only what the owner's key has signed is valid. PySyft's status is set too, so that PySyft's own tools show the decision;
nothing depends on it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from crypto.approval import MOST_TEXT, Approval, Denial, Terms, approval_digest
from crypto.encoding import Reader
from crypto.errors import FederationError, Malformed, NotApproved, SpecError
from crypto.keys import Identity, is_locked
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

#: Asks for the passphrase of a locked key.
Ask = Callable[[], bytes]

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
    key: Path | Identity | None = None,
    ask: Ask | None = None,
    shown: Terms | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    without_privacy: bool = False,
) -> Signed:
    """Sign the terms of a job as they are now at this silo, and keep the approval.

    ``until``, ``max_runs``, ``shown``: of ``draft``. ``key``, ``ask``: of ``owner_key``. ``epsilon``, ``delta``: what a
    private job may spend here, default of ``delta``: the job's. ``without_privacy``: approve a job without privacy on a
    data set that has a grant. Raises what these do, and SpecError for a private job without a grant.
    """
    view.charter.check_validity(view.now)
    owner = owner_key(view, key, ask)
    approval = draft(view, spec, until=until, max_runs=max_runs, shown=shown)
    _grant_job(view, spec, approval.terms, owner, epsilon=epsilon, delta=delta, without_privacy=without_privacy)
    return _granted(view, approval.sign(owner))


def draft(
    view: OwnerView,
    spec: JobSpec,
    *,
    until: int | None = None,
    max_runs: int = DEFAULT_RUNS,
    shown: Terms | None = None,
) -> Approval:
    """The approval of a job as everything is now at this silo, for the owner to sign, here or elsewhere.

    ``until``: seconds since 1970, UTC; default: 30 days from now, or the end of the charter. ``shown``: the terms that
    the owner has read, if that was earlier. Raises DataRefused if the data set is not registered, SpecError for a date
    out of range, NotApproved where the terms are no longer those that were shown.
    """
    view.charter.check_validity(view.now)
    last = view.charter.not_after
    not_after = min(view.now + DEFAULT_DAYS * DAY, last) if until is None else until
    if not view.now < not_after <= last:
        raise SpecError("--until", got=day(not_after), want=f"from now on, until the charter ends on {day(last)}")
    denial = view.approvals.denial(spec.digest)
    not_before = view.now if denial is None else max(view.now, denial.at + 1)  # the newer decision is valid
    terms = view.terms(spec)
    if shown is not None and terms != shown:
        raise NotApproved(
            spec.digest.hex(), reason="its terms are not those that were shown", remedy="Read the request again."
        )
    return approval_terms.unsigned(terms, max_runs=max_runs, not_after=not_after, now=not_before)


def hand_in(view: OwnerView, signed: bytes) -> Signed | Denial:
    """Keep what the owner has signed elsewhere: of an approval only what it would be if it were signed here now.

    Handing the same bytes in again changes nothing. Raises Malformed for other bytes, BadSignature for another key,
    NotApproved where the terms have changed since, SpecError for a job that is not queued here, for an approval that a
    newer denial overrides, and for a private job whose grant was not signed before.
    """
    if _kind(signed) == Denial.KIND:
        return _denied(view, signed)
    approval = Approval.open(signed, lambda _: view.approvals.owner)
    if any(kept == signed for kept, _ in view.approvals.all()):
        return _signed(signed, approval)
    job = approval.terms.job.hex()
    if approval.terms.silo != view.silo:
        raise NotApproved(job, reason="it was given at another silo", remedy=f"Hand it in at {approval.terms.silo}.")
    spec = find(view, job)
    approval.check(view.terms(spec), now=max(view.now, approval.not_before), used=0)
    _grant_job(view, spec, approval.terms, None, epsilon=None, delta=None, without_privacy=False)
    denial = view.approvals.denial(approval.terms.job)
    if denial is not None and denial.at >= approval.not_before:
        raise SpecError(
            "approval",
            got=f"one of {day(approval.not_before)}",
            want=f"one that is newer than the denial of {day(denial.at)}",
            remedy="Read the request again, and sign a new file of its terms.",
        )
    if approval.not_after > view.charter.not_after:
        raise SpecError("approval", got=day(approval.not_after), want="a day before the charter ends")
    return _granted(view, signed)


def _granted(view: OwnerView, signed: bytes) -> Signed:
    """Keep an approval that the owner has signed, its line of the security log first."""
    approval = Approval.open(signed, lambda _: view.approvals.owner)
    SecurityLog(view.home)(
        Event.APPROVAL_GRANTED,
        job=approval.terms.job.hex(),
        approval=approval_digest(signed).hex(),
        plan=approval.terms.plan.hex(),
        data=approval.terms.commitment.hex(),
        uses=approval.max_runs,
        until=approval.not_after,
    )
    view.approvals.add(signed)
    _mark_in_pysyft(view, approval.terms.job, "approved")
    return _signed(signed, approval)


def _signed(signed: bytes, approval: Approval) -> Signed:
    times = (approval.not_before, approval.not_after, approval.max_runs)
    return Signed(approval_digest(signed).hex(), approval.terms.job.hex(), *times)


def grant_data(
    view: OwnerView,
    name: str,
    *,
    epsilon: float,
    delta: float,
    key: Path | Identity | None = None,
    ask: Ask | None = None,
) -> PrivacyGrant:
    """Sign how much ε all jobs together may spend of a data set. Raises DataRefused or SpecError."""
    view.charter.check_validity(view.now)
    owner, accounts = owner_key(view, key, ask), Accounts(view)
    found = view.catalogue.resolve(name)
    accounts.check_grant(epsilon, delta, found.data.rows)
    return accounts.sign(owner, data=found.id.commitment, job=EVERY_JOB, epsilon=epsilon, delta=delta)


def _grant_job(
    view: OwnerView,
    spec: JobSpec,
    wanted: Terms,
    owner: Identity | None,
    *,
    epsilon: float | None,
    delta: float | None,
    without_privacy: bool,
) -> None:
    """Sign what a private job may spend, or refuse what would make an account untrue. ``owner``: None where nothing is
    signed here, and so no ``epsilon`` is given."""
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
    if epsilon is None or owner is None:
        if spec.digest not in grants:
            raise SpecError(
                "--epsilon", got=None, want=f"what this job may spend; it asks for {spec.privacy.epsilon:g}"
            )
        return
    at = spec.privacy.delta if delta is None else delta
    accounts.check_grant(epsilon, at, view.rows(spec.dataset))
    accounts.sign(owner, data=wanted.commitment, job=spec.digest, epsilon=epsilon, delta=at)


def deny(
    view: OwnerView, prefix: str, reason: str, *, key: Path | Identity | None = None, ask: Ask | None = None
) -> Denial:
    """Sign a denial. It overrides every approval of the job so far; a newer approval overrides the denial."""
    denial = draft_denial(view, prefix, reason)
    return _denied(view, denial.sign(owner_key(view, key, ask)))


def draft_denial(view: OwnerView, prefix: str, reason: str) -> Denial:
    """The denial of a job, for the owner to sign. Raises SpecError for a reason that is none, and of ``_job``."""
    if not 1 <= len(reason) <= MOST_TEXT or not reason.isprintable():
        raise SpecError("--reason", got=reason[:80], want=f"a sentence of at most {MOST_TEXT} characters")
    job = _job(view, prefix)
    newest = max((item.not_before for _, item in view.approvals.all() if item.terms.job == job), default=0)
    return Denial(silo=view.silo, job=job, reason=reason, at=max(view.now, newest))


def _denied(view: OwnerView, signed: bytes) -> Denial:
    denial = Denial.open(signed, lambda _: view.approvals.owner)
    view.approvals.deny(signed)
    SecurityLog(view.home)(Event.APPROVAL_DENIED, job=denial.job.hex())
    _mark_in_pysyft(view, denial.job, "denied")
    return denial


def sign_elsewhere(terms: bytes, owner: Identity) -> tuple[Approval | Denial, bytes]:
    """What a file of terms says, and it signed: for ``hand_in``. Raises Malformed for another file."""
    kinds: dict[int, type[Approval] | type[Denial]] = {one.KIND: one for one in (Approval, Denial)}
    if len(terms) < 2 or terms[1] not in kinds:
        raise Malformed("This is no file of terms.", remedy="Download it from the desk: `fed silo desk`.")
    wanted = kinds[terms[1]].from_bytes(terms)
    return wanted, wanted.sign(owner)


def _kind(signed: bytes) -> int:
    """The kind of a signed message. Raises Malformed."""
    body = Reader(signed).blob()
    return body[1] if len(body) > 1 else 0


def parse_until(text: str) -> int:
    """The end of a day, UTC, from ``YYYY-MM-DD``. Raises SpecError."""
    try:
        following = date.fromisoformat(text) + timedelta(days=1)
        return int(datetime(following.year, following.month, following.day, tzinfo=UTC).timestamp()) - 1
    except (ValueError, OverflowError) as bad:
        raise SpecError("--until", got=text, want="a day, YYYY-MM-DD") from bad


def owner_key(view: OwnerView, key: Path | Identity | None = None, ask: Ask | None = None) -> Identity:
    """The key that the charter names for this silo's data owner. Raises SpecError for any other.

    ``key``: default: the file in the home. ``ask``: the passphrase of a locked file, called only for one; without it a
    locked file raises KeyLocked, as a wrong passphrase does.
    """
    if not isinstance(key, Identity):
        path = key or view.home.owner_key_path
        key = Identity.load(path, ask() if ask is not None and is_locked(path) else None)
    want = view.approvals.owner
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
