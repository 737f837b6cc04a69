"""The HTTP pages of a long-lived process: /metrics, /healthz, /readyz.

NVFlare runs every job in a process of its own. Those inherit PROMETHEUS_MULTIPROC_DIR and write their figures into
files there; the parent, which outlives them, adds the files up at each scrape (``multiprocess_metrics``), with gauges
of its own site (``site_metrics``). So the order is: ``prepare_environment`` before anything imports prometheus_client,
then ``serve_metrics``, then the jobs.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crypto import durable
from crypto.errors import SpecError
from crypto.home import Home
from jobs.services.multiprocess_metrics import Figures
from jobs.services.site_metrics import AGGREGATOR, SILO, Service, SiteCollector, prefix

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger("consilium.service")

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def prepare_environment(home: Home) -> Path:
    """Point this process and its children at ``<home>/metrics``; returns that folder (made 0700).

    prometheus_client reads the variable once, when it is imported: the figures of a process that imported it earlier
    are not shown, and a warning is logged. Its children are not affected.
    """
    folder = home.metrics_folder
    durable.private_folder(folder)
    os.environ[_VARIABLE] = str(folder.resolve())
    values = sys.modules.get("prometheus_client.values")
    if values is not None and not values.ValueClass._multiprocess:
        log.warning("prometheus_client was imported before prepare_environment: figures of this process are not shown")
    return folder


class Server:
    """A listening server. ``port`` is the one it got (ask for 0 to let the system choose)."""

    def __init__(self, http: ThreadingHTTPServer) -> None:
        self._http = http
        self._thread = threading.Thread(
            target=http.serve_forever, name="metrics", daemon=True, kwargs={"poll_interval": 0.1}
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    def close(self) -> None:
        """Stop answering and free the port."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def serve_metrics(
    home: Home,
    port: int,
    host: str = "127.0.0.1",
    *,
    ready: Callable[[], str] = lambda: "",
    service: Service | None = None,
) -> Server:
    """Serve in a thread until ``close``. Removes the files of earlier processes in ``<home>/metrics``.

    ``ready``: "" when this process can do its work, else the reason why not: /readyz then answers 503 with it.
    ``service``: adds the site's own gauges; without it only the job processes' figures are served. Call it once, from
    the parent, before its jobs start. Raises SpecError when the address cannot be listened on.
    """
    keep = f"_{os.getpid()}.db" if "prometheus_client" in sys.modules else None
    folder = prepare_environment(home)
    try:
        http = ThreadingHTTPServer((host, port), _handler(folder, ready, service))
    except (OSError, OverflowError) as taken:
        used = isinstance(taken, OSError) and taken.errno == errno.EADDRINUSE
        want = "a free port" if used else "an address of this machine and a port from 0 to 65535"
        remedy = "Another process listens there: stop it, or choose another port." if used else ""
        raise SpecError("metrics address", got=f"{host}:{port}", want=want, remedy=remedy) from taken
    for file in folder.glob("*.db"):
        if keep is None or not file.name.endswith(keep):  # our own may be open already
            file.unlink(missing_ok=True)
    for file in folder.glob("*.damaged"):
        file.unlink(missing_ok=True)
    if service is not None:
        _zeros(service.role)
    return Server(http)


def _zeros(role: str) -> None:
    """Create every counter of a role at zero: a rate must exist before the first event."""
    import_module({SILO: "silo_agent.metrics", AGGREGATOR: "aggregator.rounds.metrics"}[role])


class _Process:
    """Collector of the parent process's own figures."""

    def __init__(self) -> None:
        self._started = time.time()

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        yield GaugeMetricFamily("consilium_up", "1 while the long-lived process runs.", value=1)
        yield GaugeMetricFamily(
            "consilium_start_time_seconds", "When the long-lived process started.", value=self._started
        )


def _handler(folder: Path, ready: Callable[[], str], service: Service | None) -> type[BaseHTTPRequestHandler]:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Process())
    if service is None:
        registry.register(Figures(folder))
    else:
        registry.register(SiteCollector(replace(service, ready=ready), Figures(folder, prefix(service.role))))

    def metrics() -> tuple[int, str, bytes]:
        return 200, CONTENT_TYPE_LATEST, generate_latest(registry)

    def healthy() -> tuple[int, str, bytes]:
        return _json(200, {"status": "ok"})

    def readiness() -> tuple[int, str, bytes]:
        reason = ready()
        if reason:
            return _json(503, {"status": "not ready", "reason": reason})
        detail = service.detail() if service is not None else ""
        return _json(200, {"status": "ready", **({"detail": detail} if detail else {})})

    pages = {"/metrics": metrics, "/healthz": healthy, "/readyz": readiness}

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # a silent client does not keep a thread
        server_version, sys_version = "consilium", ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            status, kind, body = page() if page else _json(404, {"status": "not found"})
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            log.debug(format, *args)

    return Handler


def _json(status: int, value: dict[str, str]) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(value).encode() + b"\n"
