"""The pages that only show: requests, data sets, runs, models, the security log, the doctor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, abort, render_template, request

from crypto.errors import DataRefused, EvidenceError, FederationError
from crypto.keys import PublicIdentity
from crypto.scores import families
from jobs.desk import charts, data_sets, runs
from jobs.desk.account import Account, digest
from jobs.desk.web import Desk, session
from jobs.doctor.check import CheckResult, Status
from jobs.doctor.runner import find_target, run_checks
from jobs.job import JobSpec
from jobs.owner import decisions, personal
from jobs.owner.privacy import Accounts, forecast_lines
from jobs.owner.render import privacy_line, slots
from jobs.owner.review import OwnerView
from jobs.security_log.events import EVENTS, Event
from jobs.security_log.reader import LogLine, check_log, files, lines_of

#: Lines of the security log on one page.
PER_PAGE: Final = 100

_KEPT: Final = {
    "none": "no masked uploads are kept",
    "last": "the masked uploads of the newest step are kept, so that the run can be replayed",
    "all": "all masked uploads are kept, so that the run can be replayed",
}


def add(app: Flask, desk: Desk) -> None:
    """Add these routes."""

    @app.get("/")
    @app.get("/requests")
    def requests() -> str:
        view = desk.view()
        queued, tampered = view.queue.all()
        rows = [_row(view, item.text, item.digest.hex(), item.asked.strftime("%Y-%m-%d %H:%M")) for item in queued]
        rows.sort(key=lambda row: row["state"] != "waiting")
        return render_template("requests.html.j2", rows=rows, tampered=tampered, **_key_facts(view))

    @app.get("/requests/<job>")
    def one_request(job: str) -> Any:
        view = desk.view()
        return request_page(desk, view, _found(view, job))

    @app.get("/data")
    def data() -> str:
        view = desk.view()
        return render_template("data.html.j2", entries=[_entry(view, name) for name in view.catalogue.names()])

    @app.get("/data/<name>")
    def data_set(name: str) -> str:
        return _data_page(desk, name)

    @app.post("/data/<name>")
    def check_data_set(name: str) -> str:
        return _data_page(desk, name, checked=True)

    @app.get("/runs")
    def all_runs() -> str:
        return render_template("runs.html.j2", runs=runs.listed(desk.view()))

    @app.get("/runs/<run>")
    def one_run(run: str) -> str:
        return render_template("run.html.j2", **_run(desk, run))

    @app.get("/runs/<run>/live")
    def live(run: str) -> str:
        """The part of a run's page that changes; ``live.js`` asks for it."""
        return render_template("live.html.j2", **_run(desk, run))

    @app.get("/models")
    def models() -> str:
        return render_template("models.html.j2", models=personal.listed(desk.home), scored=None)

    @app.post("/models/<run>")
    def score(run: str) -> str:
        try:
            scored = personal.evaluate(personal.opened(desk.home, run))
        except FederationError as refused:  # a reader's error may quote a value
            raise DataRefused(
                f"The model of run {run[:16]} cannot be tested [{refused.code}].",
                remedy="At a terminal `fed personal evaluate` says why.",
            ) from refused
        return render_template("models.html.j2", models=personal.listed(desk.home), scored=scored)

    @app.get("/log")
    def security_log() -> str:
        return render_template("log.html.j2", **_log(desk))

    @app.get("/doctor")
    def doctor() -> str:
        return render_template("doctor.html.j2", results=None)

    @app.post("/doctor")
    def run_doctor() -> str:
        return render_template("doctor.html.j2", results=list(_checked(desk)))


# --- requests --------------------------------------------------------------------------------------------------------


def request_page(
    desk: Desk,
    view: OwnerView,
    spec: JobSpec,
    *,
    why: str = "",
    said: Sequence[str] = (),
    refused: FederationError | None = None,
    form: Mapping[str, str] | None = None,
    status: HTTPStatus = HTTPStatus.OK,
) -> tuple[str, int]:
    """One request with its forms. ``why``, ``said``: why nothing was signed, and what has changed since it was read;
    ``refused``: why it could not be; ``form``: what was typed."""
    account = Account.of(view, spec)
    facts = account.facts
    leaves = account.review["leaves"]
    if refused is not None:
        status = HTTPStatus.FORBIDDEN if refused.code == "KEY_LOCKED" else HTTPStatus.BAD_REQUEST
    queued = next((item for item in view.queue.all()[0] if item.digest == spec.digest), None)
    text = render_template(
        "request.html.j2",
        it=account.review,
        spec=spec,
        amiss=account.amiss,
        terms=account.terms,
        standing=account.standing,
        asked="" if queued is None else queued.asked.strftime("%Y-%m-%d %H:%M UTC"),
        members=view.charter.silos,
        until=view.charter.not_after,
        opened=slots(leaves),
        steps=_alike(leaves["steps"]),
        kept=_KEPT[account.review["keep_uploads"]],
        private=spec.privacy is not None,
        privacy=privacy_line(account.review["privacy"]),
        forecast=forecast_lines(dict(account.forecast)) if account.forecast else [],
        package=_package(spec),
        params=_params(spec),
        page=session().show(spec.digest.hex(), facts),
        shown=digest(facts),
        why=why,
        said=said,
        refused=refused,
        form=form or {},
        **_key_facts(view),
    )
    return text, status


def _found(view: OwnerView, job: str) -> JobSpec:
    if len(job) != 64:
        abort(HTTPStatus.NOT_FOUND)
    try:
        return decisions.find(view, job)
    except FederationError:
        abort(HTTPStatus.NOT_FOUND)


def _row(view: OwnerView, text: str, job: str, asked: str) -> dict[str, Any]:
    row: dict[str, Any] = {"job": job, "asked": asked, "amiss": "", "state": ""}
    try:
        spec = JobSpec.from_text(text)
        standing = Account.of(view, spec).standing
    except FederationError as refused:  # another release's job, or no plan for it under this charter
        return row | {"amiss": str(refused), "name": job[:16], "purpose": "", "dataset": "", "method": ""}
    return row | {
        "name": spec.name,
        "purpose": spec.purpose,
        "dataset": spec.dataset,
        "method": spec.method,
        "state": standing.state,
    }


def _key_facts(view: OwnerView) -> dict[str, Any]:
    owner: PublicIdentity = view.approvals.owner
    return {"key": session().key.state(owner).value, "fingerprint": owner.fingerprint}


def _alike(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Steps of one kind in one row: their names, the lanes that open, the figures that open."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        figures = (f"{name} ({n} sums)" if n > 1 else name for name, n in families(step["slots"]).items())
        kinds.setdefault((", ".join(step["lanes"]), ", ".join(figures)), []).append(step["name"])
    return [
        (names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, {len(names)} steps", lanes, figures)
        for (lanes, figures), names in kinds.items()
    ]


def _package(spec: JobSpec) -> tuple[str, str]:
    """(name of the model, digest of the package that brings it)."""
    return str(spec.params.get("model", "")), str(spec.params.get("package", ""))


def _params(spec: JobSpec) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in sorted(spec.params.items())]


# --- data sets, runs -------------------------------------------------------------------------------------------------


def _entry(view: OwnerView, name: str) -> dict[str, Any]:
    try:
        found = decisions.describe(view.catalogue.entry(name))
    except FederationError as refused:
        return {"name": name, "amiss": str(refused)}
    return found


def _data_page(desk: Desk, name: str, *, checked: bool = False) -> str:
    view = desk.view()
    if name not in view.catalogue.names():
        abort(HTTPStatus.NOT_FOUND)
    page, amiss = None, ""
    try:
        page = data_sets.page_of(view, name)
    except FederationError as refused:
        amiss = str(refused)
    if checked:
        amiss = data_sets.trouble(view, name)
    spent = [] if page is None else _spent(view, page.entry.commitment)
    return render_template("data_set.html.j2", name=name, it=page, amiss=amiss, checked=checked, spent=spent)


def _spent(view: OwnerView, commitment: bytes) -> list[tuple[str, str]]:
    """The account of differential privacy of a data set: name and value; nothing where nothing was granted or spent."""
    try:
        accounts = Accounts(view).all()["data"]
    except FederationError as refused:
        return [("Account of privacy", str(refused))]
    found = next((one for one in accounts if one["commitment"] == commitment.hex()), None)
    if found is None:
        return []
    granted = "nothing" if found["granted"] is None else f"epsilon {found['granted']:g}, {found['left']:g} left"
    return [("Granted to all jobs", granted), ("Spent", f"epsilon {found['spent']:g} at delta {found['delta']:g}")]


def _run(desk: Desk, run: str) -> dict[str, Any]:
    found = runs.page_of(desk.view(), run) if len(run) >= 16 else None
    if found is None:
        abort(HTTPStatus.NOT_FOUND)
    whole = found.whole or len(found.rows)
    return {"it": found, "pictures": [charts.draw(curve, whole) for curve in found.curves]}


# --- records ---------------------------------------------------------------------------------------------------------


def _log(desk: Desk) -> dict[str, Any]:
    wanted = request.args.get("event", "")
    events = {Event(wanted)} if wanted in list(Event) else set(Event)
    before = request.args.get("before", "")
    last = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else None
    lines: list[LogLine] = []
    for path in reversed(files(desk.home)):
        found = [line for line in lines_of(path, events) if last is None or line.seq < last]
        lines += reversed(found)
        if len(lines) > PER_PAGE:
            break
    amiss = ""
    try:
        check_log(desk.home)
    except EvidenceError as broken:
        amiss = str(broken)
    return {
        "lines": [(line, EVENTS[line.event], _fields(line)) for line in lines[:PER_PAGE]],
        "more": lines[PER_PAGE - 1].seq if len(lines) > PER_PAGE else None,
        "events": [event.value for event in Event],
        "wanted": wanted if wanted in list(Event) else "",
        "amiss": amiss,
    }


def _fields(line: LogLine) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in sorted(line.fields.items())]


def _checked(desk: Desk) -> Iterator[CheckResult]:
    """The doctor's results. What it says of data sets may quote values of rows: the desk has its own page for them."""
    for result in run_checks(find_target(None, desk.home.root, desk.kit)):
        if result.name == "data" and result.status is not Status.PASS:
            yield CheckResult("data", result.status, "There is something to look at in a data set.", "See Data sets.")
        else:
            yield result
