"""Who comes in, by which name, and with which form."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import quote

import pytest

from crypto.errors import SpecError
from jobs.desk.access import IDLE, LONGEST, MOST_SESSIONS, Access, Behind, Session
from jobs.desk.owner_key import OwnerKeyFile, Unlocked
from jobs.desk.server import Server, behind, listen
from jobs.security_log.events import Event
from jobs.security_log.reader import files, lines_of
from silo_agent.home import SiloHome
from tests.jobs.desk.conftest import ASKED, Visitor, enter

PAGES = ("/", "/requests", "/data", "/data/digits", "/runs", "/models", "/log", "/doctor")


def test_the_token_opens_one_session(server: Server, home: SiloHome) -> None:
    token = server.entrance.partition("token=")[2]
    assert len(token) >= 43 and server.access.token == token
    visitor, other = enter(server), Visitor(server)
    assert visitor.get("/requests").status == 200
    again = other.get(f"/enter?token={token}")
    assert again.status == 403 and "once" in again.text and not other.cookies
    events = [line.event for path in files(home) for line in lines_of(path, (Event.DESK_ENTERED,))]
    assert events == ["desk-entered"]


@pytest.mark.parametrize("token", ("", "x", "é", "A" * 43))
def test_another_token_opens_nothing(server: Server, token: str) -> None:
    stranger = Visitor(server)
    assert stranger.get(f"/enter?token={quote(token)}").status == 403
    assert not stranger.cookies and server.access.token


def test_asking_for_the_head_alone_does_not_use_the_token_up(server: Server) -> None:
    way = server.entrance.removeprefix(server.address[:-1])
    assert Visitor(server).ask("HEAD", way).status == 403 and Visitor(server).get(way).status == 200


def test_a_stranger_does_not_learn_whose_desk_it_is(server: Server) -> None:
    for headers in ({}, {"Host": "evil.example"}):
        assert b"silo-1" not in Visitor(server, headers=headers).get("/requests").body


@pytest.mark.parametrize("path", PAGES)
def test_without_a_session_no_page_is_shown(server: Server, path: str) -> None:
    found = Visitor(server).get(path)
    assert found.status == 401 and b"digits" not in found.body


def test_a_cookie_of_nobody_opens_nothing(server: Server, visitor: Visitor) -> None:
    name = next(iter(visitor.cookies))
    assert str(server.port) in name
    assert Visitor(server, {name: "x" * 43}).get("/requests").status == 401


@pytest.mark.parametrize("host", ("evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "[::1]"))
def test_another_name_is_refused_even_with_the_cookie(visitor: Visitor, host: str) -> None:
    """A page of another site may point its own name at this machine."""
    found = visitor.get("/requests", Host=host.format(port=visitor.server.port))
    assert found.status in (400, 421) and b"digits" not in found.body


@pytest.mark.parametrize("host", ("localhost", "LOCALHOST", "[::1]"))
def test_the_desks_own_names_are_taken(visitor: Visitor, host: str) -> None:
    assert visitor.get("/requests", Host=f"{host}:{visitor.server.port}").status == 200


def test_every_answer_has_the_headers(visitor: Visitor) -> None:
    for path in (*PAGES, "/nothing", "/desk.css", "/live.js", "/enter"):
        headers = visitor.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy, path
        assert (headers["referrer-policy"], headers["cache-control"]) == ("no-referrer", "no-store"), path
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff", path


def test_the_cookie_is_for_this_desk_alone(server: Server) -> None:
    found = Visitor(server).get(server.entrance.removeprefix(server.address[:-1]))
    cookie = found.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie and "Domain" not in cookie


POSTS = ("/lock", "/leave", "/hand-in", "/doctor", "/data/digits", "/models/0000", f"/requests/{ASKED.digest.hex()}")


@pytest.mark.parametrize("path", POSTS)
def test_a_form_without_the_sessions_secret_does_nothing(visitor: Visitor, path: str) -> None:
    for csrf in ({}, {"csrf": ""}, {"csrf": "x" * 43}, {"csrf": "é"}):
        found = visitor.post(path, csrf)
        assert found.status == 403 and "Nothing was done" in found.text
    assert visitor.get("/requests").status == 200  # nobody has left


def test_a_form_from_another_site_does_nothing(visitor: Visitor) -> None:
    csrf = visitor.csrf
    assert visitor.post("/lock", {"csrf": csrf}, Sec_Fetch_Site="cross-site").status == 403
    assert visitor.post("/lock", {"csrf": csrf}, Sec_Fetch_Site="same-origin").status == 303


def test_leaving_ends_the_session(visitor: Visitor) -> None:
    cookies = dict(visitor.cookies)
    assert visitor.post("/leave", {"csrf": visitor.csrf}).status == 200
    assert Visitor(visitor.server, cookies).get("/requests").status == 401


def test_no_token_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    token = server.access.token
    with caplog.at_level(logging.DEBUG):
        enter(server).get("/requests?secret=1")
    assert "/enter" in caplog.text and token not in caplog.text and "secret" not in caplog.text


def test_a_body_that_is_too_long_is_refused(visitor: Visitor) -> None:
    assert visitor.post("/hand-in", {"csrf": visitor.csrf, "x": "y" * (1 << 18)}).status == 413


# --- behind the institution's proxy ----------------------------------------------------------------------------------


def test_the_proxy_says_who_it_is(behind_proxy: Server) -> None:
    anna = Visitor(behind_proxy, headers={"Host": "desk.example.org", "X-Signed-In": "Anna"})
    found = anna.get("/requests")
    assert found.status == 200 and "signed in as Anna" in found.text and "Secure" in found.headers["set-cookie"]
    assert anna.get("/requests").headers.get("set-cookie") is None
    berta = Visitor(behind_proxy, dict(anna.cookies), {"Host": "desk.example.org", "X-Signed-In": "Berta"})
    answer = berta.post("/lock", {"csrf": anna.csrf})
    assert answer.status == 401  # another's cookie is no session of hers


@pytest.mark.parametrize("headers", ({}, {"X-Signed-In": ""}, {"X-Signed-In": "x" * 300}, {"X_Signed_In": "Anna"}))
def test_a_request_that_names_nobody_is_refused(behind_proxy: Server, headers: dict[str, str]) -> None:
    found = Visitor(behind_proxy, headers={"Host": "desk.example.org", **headers}).get("/requests")
    assert found.status == 403 and b"digits" not in found.body


def test_behind_a_proxy_there_is_no_token(behind_proxy: Server) -> None:
    assert "token" not in behind_proxy.entrance
    stranger = Visitor(behind_proxy, headers={"Host": "desk.example.org", "X-Signed-In": "Anna"})
    assert stranger.get("/enter?token=").status == 403
    assert Visitor(behind_proxy, headers={"X-Signed-In": "Anna"}).get("/requests").status == 421


def test_the_header_counts_from_the_proxys_address_only() -> None:
    access = Access(
        frozenset(),
        new_key=_no_key,
        behind=behind("X-User", ["10.1.2.3", "10.2.0.0/16", "2001:db8::/64"], ["desk.example"]),
    )
    assert access.user("10.1.2.3", {"X-User": "Anna"}) == "Anna"
    assert access.user("::ffff:10.2.255.1", {"X-User": "Anna"}) == "Anna"
    assert access.user("2001:db8::1", {"X-User": "Anna"}) == "Anna"
    for other in ("10.1.2.4", "10.3.0.1", "2001:db9::1", "", "unix"):
        assert access.user(other, {"X-User": "Anna"}) is None


@pytest.mark.parametrize(
    ("header", "addresses", "hosts"),
    (
        (None, ["10.0.0.1"], []),
        ("X-User", [], ["desk.example"]),
        ("X-User", ["10.0.0.1"], []),
        ("X User", ["10.0.0.1"], ["desk.example"]),
        ("X-User", ["proxy"], ["desk.example"]),
        ("X-User", ["10.0.0.1/8"], ["desk.example"]),
        ("X-User", [f"{0}.0.0.0/0"], ["desk.example"]),
        ("X-User", ["::/0"], ["desk.example"]),
        ("X-User", ["10.0.0.1"], ["https://desk.example/"]),
    ),
)
def test_half_a_proxy_is_refused(header: str | None, addresses: list[str], hosts: list[str]) -> None:
    with pytest.raises(SpecError):
        behind(header, addresses, hosts)


@pytest.mark.parametrize("host", ("192.0.2.1", "::", "somewhere"))
def test_without_a_proxy_it_answers_this_machine_alone(home: SiloHome, host: str) -> None:
    with pytest.raises(SpecError, match="--host"):
        listen(home, host=host)


def test_a_taken_port_is_refused_by_name(server: Server, home: SiloHome) -> None:
    with pytest.raises(SpecError, match="--port"):
        listen(home, port=server.port)


# --- sessions --------------------------------------------------------------------------------------------------------


def _no_key() -> Unlocked:
    return Unlocked(OwnerKeyFile(Path("/nowhere")))


@pytest.mark.parametrize(("step", "steps"), ((IDLE + 1, 1), (IDLE - 1, LONGEST // (IDLE - 1) + 1)))
def test_a_session_ends(step: int, steps: int) -> None:
    now = [0.0]
    access = Access(frozenset(), new_key=_no_key, clock=lambda: now[0])
    cookie = access.enter(access.token)
    assert cookie is not None
    found: list[Session | None] = []
    for _ in range(steps):
        now[0] += step
        found.append(access.find(cookie, ""))
    assert found[-1] is None and all(found[:-1])


def test_there_is_an_end_to_sessions() -> None:
    access = Access(frozenset(), new_key=_no_key, behind=Behind("X", (), frozenset()))
    cookies = [access.welcome("Anna") for _ in range(MOST_SESSIONS + 1)]
    there = [access.find(cookie, "Anna") is not None for cookie in cookies]
    assert there == [False] + [True] * MOST_SESSIONS
