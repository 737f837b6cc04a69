"""The desk's server: on this machine alone with a token, or for the institution's proxy. Until it is stopped."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from pathlib import Path
from typing import Any, Final

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from crypto.errors import SpecError
from jobs.desk.access import Access, Behind
from jobs.desk.app import make_app
from jobs.desk.owner_key import OwnerKeyFile, Unlocked
from jobs.desk.web import Desk
from silo_agent.home import SiloHome

log = logging.getLogger("consilium.desk")

#: A range that is wider than this names no proxy.
LEAST_PREFIX: Final = 8

_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?")


def behind(header: str | None, addresses: list[str], hosts: list[str]) -> Behind | None:
    """The proxy that these options name; None for none. Raises SpecError for half of them, and for bad ones."""
    if header is None:
        if addresses or hosts:
            raise SpecError("--proxy-address, --public-host", got="no header", want="--behind-proxy-header with them")
        return None
    if not _HEADER.fullmatch(header):
        raise SpecError("--behind-proxy-header", got=header[:80], want="the name of an HTTP header")
    if not addresses:
        raise SpecError(
            "--proxy-address",
            got=None,
            want="the address that the proxy asks from",
            remedy="Anyone else could set the header themselves.",
        )
    if not hosts:
        raise SpecError("--public-host", got=None, want="the name that browsers ask the proxy for, as desk.example.org")
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise SpecError("--public-host", got=host[:80], want="a host name, with a port if it has one")
    try:
        known = tuple(ipaddress.ip_network(one) for one in addresses)
    except ValueError as bad:
        raise SpecError("--proxy-address", got=addresses, want="IP addresses, or ranges of them") from bad
    if any(one.prefixlen < LEAST_PREFIX for one in known):
        raise SpecError("--proxy-address", got=addresses, want=f"ranges of a prefix of {LEAST_PREFIX} bits or more")
    return Behind(header, known, frozenset(hosts))


class _Handler(WSGIRequestHandler):
    """The server's log has no address with a token in it, and a silent client does not keep a thread."""

    timeout = 30
    server_version, sys_version = "consilium", ""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        log.info("%s %s %s", self.command, self.path.partition("?")[0], getattr(code, "value", code))

    def log(self, type: str, message: str, *args: Any) -> None:
        log.debug("a request ended early")  # its line may have the token

    def version_string(self) -> str:
        return self.server_version


class Server:
    """A listening desk. ``serve`` answers until ``close``, from another thread, or Ctrl-C."""

    def __init__(self, http: BaseWSGIServer, access: Access, host: str) -> None:
        self._http = http
        self.access = access
        self.port = int(http.port)
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self.port}/"

    @property
    def entrance(self) -> str:
        """The address that opens the one session; behind a proxy the desk's own."""
        return f"{self.address}enter?token={self.access.token}" if self.access.token else self.address

    def serve(self) -> None:
        self._http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop answering and free the port."""
        self._http.shutdown()
        self._http.server_close()


def listen(
    home: SiloHome,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    key: Path | None = None,
    kit: Path | None = None,
    proxy: Behind | None = None,
) -> Server:
    """A desk of this home that listens. ``key``: the data owner's; default: the home's; it may be absent.

    Raises SpecError for a folder that is no silo's home, for an address of the network without a proxy that asks for a
    login, and for one that cannot be listened on.
    """
    silo, _ = home.silo, home.charter()
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and proxy is None:
        raise SpecError(
            "--host",
            got=host,
            want="127.0.0.1",
            remedy="Without a proxy that asks for a login the desk answers this machine alone: use `ssh -L`, or "
            "--behind-proxy-header.",
        )
    file = OwnerKeyFile(key or home.owner_key_path)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as bound:
            port = int(bound.getsockname()[1])
            names = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]", host))
            access = Access(names, new_key=lambda: Unlocked(file), behind=proxy)
            app = make_app(Desk(home, silo, access, file, kit))
            # Werkzeug ends the process where it cannot bind: it gets a socket that listens.
            http = make_server(host, port, app, threaded=True, request_handler=_Handler, fd=bound.fileno())
    except (OSError, OverflowError) as taken:
        raise SpecError(
            "--host, --port", got=f"{host}:{port}", want="a free port of this machine", remedy="Choose another."
        ) from taken
    return Server(http, access, host)
