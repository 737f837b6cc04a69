"""The HTTP proxy that gRPC, and so NVFlare, reaches the server through: from the environment, by gRPC's main rules.

Of its rules these are missing: networks in ``no_proxy``, a variable that is set and empty, and that an address without
http:// is ignored.

https://grpc.github.io/grpc/core/md_doc_environment_variables.html: ``grpc_proxy``, ``https_proxy``, ``http_proxy``, the
first that is set; hosts that end with an entry of ``no_grpc_proxy``, or else of ``no_proxy``, are reached directly.
"""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPT: Final = ("no_grpc_proxy", "no_proxy")
#: Of a proxy's answer to CONNECT. Bytes.
_MOST_BYTES: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Proxy:
    """``login``: name and password, as the address holds them."""

    host: str
    port: int
    login: str = field(default="", repr=False)

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """A connection to ``host`` through this proxy. Raises OSError, which says what the proxy answered."""
        raw = socket.create_connection((self.host, self.port), timeout_s)
        try:
            login = b64encode(self.login.encode()).decode()
            head = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            raw.sendall((head + (f"Proxy-Authorization: Basic {login}\r\n" if login else "") + "\r\n").encode())
            answer = b""
            while b"\r\n\r\n" not in answer:  # byte by byte: what follows belongs to the server
                if len(answer) > _MOST_BYTES or not (more := raw.recv(1)):
                    raise ConnectionError("the proxy answers nothing that HTTP knows")
                answer += more
            status = answer.split(b"\r\n", 1)[0].decode("latin-1")
            if status.split(" ")[1:2] != ["200"]:
                raise ConnectionError(f"the proxy answers {status!r}")
        except BaseException:
            raw.close()
            raise
        return raw


def proxy_for(host: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy on the way to ``host``; None where the way is direct."""
    address = next((environment[name] for name in _PROXIES if environment.get(name)), "")
    if not address:
        return None
    direct = next((environment[name] for name in _EXCEPT if environment.get(name)), "")
    if any(host.endswith(one) for one in (part.strip().lstrip("*") for part in direct.split(",")) if one):
        return None
    found = urlsplit(address if "//" in address else f"http://{address}")
    login = f"{unquote(found.username)}:{unquote(found.password or '')}" if found.username else ""
    return Proxy(found.hostname or "", found.port or 80, login)


def except_loopback() -> None:
    """Let this process and those that it starts reach this machine directly, whatever proxy is set."""
    for name in _EXCEPT:
        before = os.environ.get(name, "") or (os.environ.get("NO_PROXY", "") if name == "no_proxy" else "")
        if name == "no_proxy" or before:
            os.environ[name] = ",".join(filter(None, (before, "localhost", "127.0.0.1", "::1")))
