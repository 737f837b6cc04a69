"""The proxy on the way to the server: found by gRPC's rules, and spoken to as HTTP says."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs.flare.proxy import Proxy, except_loopback, proxy_for

P = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"https_proxy": P}, Proxy("proxy.example", 3128)),
        ({"http_proxy": P, "https_proxy": "http://other:1"}, Proxy("other", 1)),
        ({"grpc_proxy": P, "https_proxy": "http://other:1"}, Proxy("proxy.example", 3128)),
        ({"HTTPS_PROXY": P}, None),  # gRPC does not look at it
        ({"https_proxy": "proxy.example:3128"}, Proxy("proxy.example", 3128)),
        ({"https_proxy": "http://kim:p%40ss@proxy.example"}, Proxy("proxy.example", 80, "kim:p@ss")),
        ({"https_proxy": P, "no_proxy": "localhost, hub.example"}, None),
        ({"https_proxy": P, "no_proxy": ".example"}, None),
        ({"https_proxy": P, "no_proxy": "*.example"}, None),
        ({"https_proxy": P, "no_proxy": "other.org,,"}, Proxy("proxy.example", 3128)),
        ({"https_proxy": P, "no_proxy": "hub.example", "no_grpc_proxy": "x"}, Proxy("proxy.example", 3128)),
    ],
)
def test_which_proxy(environment: dict[str, str], expected: Proxy | None) -> None:
    assert proxy_for("hub.example", environment) == expected


def test_no_password_is_shown() -> None:
    assert "secret" not in repr(proxy_for("hub", {"https_proxy": "http://kim:secret@proxy"}))


def test_this_machine_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", P)
    monkeypatch.setenv("no_proxy", "inside.example")
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    except_loopback()
    assert proxy_for("localhost") is None and proxy_for("127.0.0.1") is None and proxy_for("a.inside.example") is None
    assert proxy_for("hub.example") is not None and "no_grpc_proxy" not in os.environ
    monkeypatch.setenv("no_grpc_proxy", "x")
    except_loopback()
    assert proxy_for("localhost") is None


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[Proxy, list[bytes]]]:
    """A proxy that answers one request so, and what it was asked."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as one:
                while b"\r\n\r\n" not in b"".join(heard) and (more := one.recv(4096)):
                    heard.append(more)
                one.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Proxy("127.0.0.1", listening.getsockname()[1], "kim:x"), heard
        thread.join(5)


def test_a_tunnel_is_opened_and_nothing_of_the_server_is_lost() -> None:
    answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello"
    with answering(answer) as (proxy, heard), proxy.connect("hub.example", 8002, 5) as tunnel:
        assert tunnel.recv(5) == b"hello"
    asked = b"".join(heard)
    assert asked.startswith(b"CONNECT hub.example:8002 HTTP/1.1\r\nHost: hub.example:8002\r\n")
    assert b"Proxy-Authorization: Basic a2ltOng=\r\n" in asked


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502 Bad Gateway"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
        (b"", "nothing that HTTP knows"),
        (b"SSH-2.0", "nothing that HTTP knows"),
        (b"x" * 20000, "nothing that HTTP knows"),
        (b"\r\n\r\n", "answers ''"),
    ],
)
def test_a_proxy_that_does_not_help_is_quoted(answer: bytes, says: str) -> None:
    with answering(answer) as (proxy, _), pytest.raises(OSError, match=says):
        proxy.connect("hub.example", 8002, 5)
