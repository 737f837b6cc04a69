"""The desk as a web application: who may come in, what every answer carries, and how errors look.

Pages are made here at the silo and load nothing from elsewhere. The one script, ``live.js``, asks for a running run's
part of the page again; without it everything works. No row of a data set is ever on a page.
"""

from __future__ import annotations

import logging
from hmac import compare_digest
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import jinja2
from flask import Flask, Response, g, make_response, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as Answer

from crypto.errors import FederationError, KeyLocked, SpecError, SystemRefused
from jobs.desk import decide, pages
from jobs.desk.web import Desk, Refused, session
from jobs.owner.render import day
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog

log = logging.getLogger("consilium.desk")

TEMPLATES: Final = Path(__file__).parents[1] / "templates" / "desk"
#: Longest body of a request, in bytes: a form, or a signed file.
MOST_BODY: Final = 1 << 17

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Endpoints that need no session: nothing of the silo is in them.
_OPEN: Final = frozenset({"enter", "style", "script"})


class _App(Flask):
    """Every template escapes, whatever its name ends with, and an unknown name in one is an error."""

    jinja_options: dict[str, Any] = {  # noqa: RUF012 - as in Flask
        "autoescape": True,
        "undefined": jinja2.StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }


def make_app(desk: Desk) -> Flask:
    """The application. It has no state but ``desk``'s."""
    app = _App("consilium-desk", static_folder=None, template_folder=str(TEMPLATES))
    app.config.update(MAX_CONTENT_LENGTH=MOST_BODY, MAX_FORM_MEMORY_SIZE=MOST_BODY, MAX_FORM_PARTS=32)
    app.jinja_env.filters.update(day=day, short=lambda text: str(text)[:16], bytes=_bytes)
    app.before_request(lambda: _let_in(desk))
    app.after_request(_after)
    _errors(app)
    app.context_processor(lambda: _shared(desk))

    @app.get("/enter")
    def enter() -> Answer:
        token = request.args.get("token", "") if request.method == "GET" else ""  # HEAD opens nothing
        cookie = desk.access.enter(token)
        if cookie is None:
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "This address does not open the desk",
                "It opens one session, once. If that was not you, stop the desk and look at the security log. "
                "Start it again for a new address: fed silo desk.",
            )
        SecurityLog(desk.home)(Event.DESK_ENTERED)
        # No redirect: after one from another site's page the browser would not send a cookie that is SameSite=Strict.
        answer = make_response(render_template("entered.html.j2"))
        _set_cookie(answer, cookie, secure=False)
        return answer

    @app.get("/desk.css")
    def style() -> Answer:
        return Response((TEMPLATES / "desk.css").read_bytes(), mimetype="text/css")

    @app.get("/live.js")
    def script() -> Answer:
        return Response((TEMPLATES / "live.js").read_bytes(), mimetype="text/javascript")

    @app.post("/leave")
    def leave() -> Answer:
        desk.access.leave(session())
        answer = make_response(render_template("left.html.j2"))
        answer.delete_cookie(cookie_name(), path="/", samesite="Strict", httponly=True)
        return answer

    pages.add(app, desk)
    decide.add(app, desk)
    return app


def cookie_name() -> str:
    """Cookies do not tell ports apart: each desk of a machine has its own."""
    return f"consilium-desk-{request.environ.get('SERVER_PORT', '')}"


# --- before and after every request ----------------------------------------------------------------------------------


def _let_in(desk: Desk) -> Answer | None:
    """Raise Refused for whoever may not see the page; begin a session for whom the proxy knows."""
    g.session = g.cookie = None
    if not desk.access.is_ours(request.headers.get("Host", "")):
        raise Refused(
            HTTPStatus.MISDIRECTED_REQUEST,
            "The desk is not reached by this name",
            "Open it by the address that it printed. Behind a proxy, name the proxy's host with --public-host.",
        )
    user = desk.access.user(request.remote_addr or "", request.headers)
    if user is None:
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "The desk is reached through the institution's proxy",
            "Open it by the proxy's address, and sign in there.",
        )
    g.session = desk.access.find(request.cookies.get(cookie_name(), ""), user)
    if g.session is None and desk.access.behind is not None and request.method == "GET":
        g.cookie = desk.access.welcome(user)
        g.session = desk.access.find(g.cookie, user)
        SecurityLog(desk.home)(Event.DESK_ENTERED)
    if request.endpoint in _OPEN:
        return None
    if g.session is None:
        raise Refused(
            HTTPStatus.UNAUTHORIZED,
            "No session",
            "Your session has ended, or this browser has none. "
            + ("Open the page again." if desk.access.behind else "Start the desk again: fed silo desk."),
        )
    if request.method == "POST":
        _check_form()
    return None


def _check_form() -> None:
    """Raise Refused for a form that another site has sent, or another session."""
    from_here = request.headers.get("Sec-Fetch-Site", "same-origin") in ("same-origin", "none")
    given = request.form.get("csrf", "")
    if not from_here or not compare_digest(given.encode(), session().csrf.encode()):
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "This form is not of this session",
            "Nothing was done. Open the page again and repeat what you wanted.",
        )


def _after(answer: Response) -> Response:
    for name, value in HEADERS.items():
        answer.headers[name] = value
    if (cookie := g.get("cookie")) is not None:
        _set_cookie(answer, cookie, secure=True)
    return answer


def _set_cookie(answer: Response, cookie: str, *, secure: bool) -> None:
    """``secure``: behind a proxy, which speaks HTTPS; a browser of this machine gets it by HTTP."""
    answer.set_cookie(cookie_name(), cookie, path="/", httponly=True, samesite="Strict", secure=secure)


def _shared(desk: Desk) -> dict[str, Any]:
    """What every template may use."""
    return {"here": g.get("session"), "silo": desk.silo if g.get("session") else "", "path": request.path}


# --- errors ----------------------------------------------------------------------------------------------------------


def _errors(app: Flask) -> None:
    def refused(error: Refused) -> tuple[str, int]:
        return _error(error.status, error.title, error.text)

    def ours(error: FederationError) -> tuple[str, int]:
        return error_page(error)

    def system(error: OSError) -> tuple[str, int]:
        log.error("%s: %s", type(error).__name__, error)
        return error_page(SystemRefused.of(error))

    def http(error: HTTPException) -> tuple[str, int]:
        status = HTTPStatus(error.code or 500)
        return _error(status, status.phrase, _HTTP.get(status, "Go back and try again."))

    app.register_error_handler(Refused, refused)
    app.register_error_handler(FederationError, ours)
    app.register_error_handler(OSError, system)
    app.register_error_handler(HTTPException, http)


_HTTP: Final = {
    HTTPStatus.NOT_FOUND: "There is no such page. The address may be of an earlier state of this silo.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address takes a form of the desk, and is no page.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The file is no signed file of this desk: those have less than a kilobyte.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "A bug of ours: the terminal of the desk has its traceback. Please report it.",
}


def error_page(error: FederationError) -> tuple[str, int]:
    """An error of ours as a page: what happened, what to do, its code."""
    status = HTTPStatus.FORBIDDEN if isinstance(error, KeyLocked) else HTTPStatus.CONFLICT
    if isinstance(error, SpecError):
        status = HTTPStatus.BAD_REQUEST
    return _error(status, error.detail, error.remedy, error.code)


def _error(status: HTTPStatus, title: str, text: str, code: str = "") -> tuple[str, int]:
    return render_template("error.html.j2", title=title, message=text, code=code), status


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB" if count >= 10_000 else f"{count:,} bytes"
