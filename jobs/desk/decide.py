"""What changes something: a decision on a request, a signed file that is handed in, and locking the key again.

**What was shown is what is signed.** A form carries the number of its page and the digest of what the page said. The
request is made up again, and where it says anything else now, nothing is signed: the page is shown anew, with what has
changed. Then the rows are read and checked, and the terms that would be signed are compared once more.
"""

from __future__ import annotations

import re
import time
from hmac import compare_digest
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Response, request
from werkzeug.wrappers import Response as Answer

from crypto.approval import Approval, Denial
from crypto.errors import DataRefused, FederationError, KeyLocked, SpecError
from crypto.keys import Identity, passphrase_bytes
from jobs.desk import data_sets
from jobs.desk.account import Account, changed, digest
from jobs.desk.owner_key import KeyState
from jobs.desk.pages import request_page
from jobs.desk.web import Desk, Refused, see_other, session
from jobs.job import JobSpec
from jobs.owner import decisions
from jobs.owner.approval_terms import DAY
from jobs.owner.render import day
from jobs.owner.review import OwnerView
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog

#: Most days and runs that the form offers; `fed approve` takes more.
MOST_DAYS, MOST_RUNS = 366, 1000
_DECIMAL: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
#: Longest file that is handed in, in bytes.
_MOST_SIGNED: Final = 1 << 14


def add(app: Flask, desk: Desk) -> None:
    """Add these routes."""

    @app.post("/requests/<job>")
    def decide(job: str) -> Any:
        with desk.deciding:
            return _decide(desk, job)

    @app.post("/hand-in")
    def hand_in() -> Any:
        given = request.files.get("signed")
        signed = given.stream.read(_MOST_SIGNED) if given is not None else b""
        if not signed:
            raise SpecError("signed file", got="none", want="the file that `fed sign` wrote")
        with desk.deciding:
            view = desk.view()
            done = decisions.hand_in(view, signed)
        job = done.job if isinstance(done.job, str) else done.job.hex()
        return see_other(f"/requests/{job}")

    @app.post("/lock")
    def lock() -> Answer:
        session().key.forget()
        return see_other("/requests")


def _decide(desk: Desk, job: str) -> Any:
    page = session().pages.get(request.form.get("page", ""))
    if page is None or page.job != job or not compare_digest(digest(page.facts), request.form.get("shown", "")):
        return _again(desk, job, "This page is too old: the desk was started again, or many pages were opened since.")
    if page.done:
        return _again(desk, job, f"This form was sent before, and that is done: {page.done}. Nothing was done twice.")
    view = desk.view()
    try:
        spec = decisions.find(view, job)
    except FederationError:
        return _again(desk, job, "")
    now = Account.of(view, spec)
    if said := changed(page.facts, now.facts):
        return _again(desk, job, "", said)
    match request.form.get("decision"):
        case "approve":
            return _approve(desk, view, spec, now)
        case "deny":
            return _deny(desk, view, spec)
        case "terms":
            return _download(spec, _draft(view, spec, now))
        case "deny-terms":
            return _download(spec, decisions.draft_denial(view, spec.digest.hex(), _reason()))
    raise SpecError("decision", got=request.form.get("decision"), want="approve or deny")


def _approve(desk: Desk, view: OwnerView, spec: JobSpec, shown: Account) -> Any:
    try:
        draft = _draft(view, spec, shown)
        signed = decisions.approve(
            view,
            spec,
            until=draft.not_after,
            max_runs=draft.max_runs,
            epsilon=_epsilon(spec),
            key=_key(desk, view),
            shown=draft.terms,
        )
    except FederationError as refused:
        return request_page(desk, view, spec, refused=refused, form=request.form)
    session().pages[request.form["page"]].done = f"approved, approval {signed.approval[:16]}"
    return see_other(f"/requests/{spec.digest.hex()}")


def _deny(desk: Desk, view: OwnerView, spec: JobSpec) -> Any:
    try:
        denial = decisions.deny(view, spec.digest.hex(), _reason(), key=_key(desk, view))
    except FederationError as refused:
        return request_page(desk, view, spec, refused=refused, form=request.form)
    session().pages[request.form["page"]].done = f"denied on {day(denial.at)}"
    return see_other(f"/requests/{spec.digest.hex()}")


def _draft(view: OwnerView, spec: JobSpec, shown: Account) -> Approval:
    """What would be signed: the terms that were shown, of rows that were read and checked now."""
    if shown.terms is None:
        raise SpecError("approval", got=shown.amiss, want="a data set that the job can use")
    runs, days = _number("runs", MOST_RUNS), _number("days", MOST_DAYS)
    until = min(view.now + days * DAY, view.charter.not_after)
    try:
        view.terms(spec)
    except FederationError as refused:  # a reader's error may quote a value
        why = data_sets.trouble(view, spec.dataset) or refused.code
        raise DataRefused(f"Data set {spec.dataset!r}: {why}") from refused
    return decisions.draft(view, spec, until=until, max_runs=runs, shown=shown.terms)


def _number(name: str, most: int) -> int:
    text = request.form.get(name, "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most):
        raise SpecError(name, got=text[:40], want=f"a whole number from 1 to {most}")
    return int(text)


def _epsilon(spec: JobSpec) -> float | None:
    """What a private job may spend here."""
    if spec.privacy is None:
        return None
    text = request.form.get("epsilon", "").strip()
    if not _DECIMAL.fullmatch(text):
        raise SpecError("epsilon", got=text[:40], want="a number above 0, such as 1.5")
    return float(text)


def _reason() -> str:
    return " ".join(request.form.get("reason", "").split())


def _key(desk: Desk, view: OwnerView) -> Identity:
    """The key to sign with; a locked one is unlocked with the form's passphrase. Raises KeyLocked."""
    key = session().key
    match key.state(view.approvals.owner):
        case KeyState.LOCKED:
            if not (passphrase := request.form.get("passphrase", "")):
                raise KeyLocked("The data owner's key is locked by a passphrase.", remedy="Type it below.")
            try:
                key.unlock(passphrase_bytes(passphrase))
            except KeyLocked:
                SecurityLog(view.home)(Event.PASSPHRASE_REFUSED, role="owner")
                raise
        case KeyState.ELSEWHERE:
            raise KeyLocked(
                "The data owner's key is not on this machine.", remedy="Download the terms, and sign them where it is."
            )
    return key.identity()


def _again(desk: Desk, job: str, why: str, said: list[str] | None = None) -> Any:
    """The request as it is now, with why nothing was signed."""
    view = desk.view()
    try:
        spec = decisions.find(view, job)
    except FederationError as gone:
        raise Refused(
            HTTPStatus.CONFLICT,
            "This request is no longer in the queue",
            f"Nothing was signed. It was changed or removed since you read it: {gone.detail}",
        ) from gone
    return request_page(desk, view, spec, why=why, said=said or [], status=HTTPStatus.CONFLICT)


def _download(spec: JobSpec, terms: Approval | Denial) -> Response:
    kind = "approval" if isinstance(terms, Approval) else "denial"
    name = f"{spec.name}-{spec.digest.hex()[:8]}-{kind}-{int(time.time())}.terms"
    answer = Response(bytes(terms), mimetype="application/octet-stream")
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer
