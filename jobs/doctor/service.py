"""The service's HTTP pages: the port is free, or the service answers and is ready."""

from __future__ import annotations

import json
import os
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from jobs.doctor.check import SERVICES, Finding, check, ok, warn
from jobs.doctor.server import port_finding
from jobs.doctor.single_instance import holders
from jobs.doctor.target import Target

PORT_VAR: Final = "CONSILIUM_METRICS_PORT"
ANSWER_S: Final = 5.0


@check(
    "metrics.port",
    SERVICES,
    looks="the port of /metrics (CONSILIUM_METRICS_PORT or --metrics-port), unless a service runs here",
    fails="another process listens there",
    remedy="Stop what listens there, or choose another port.",
    after=("home",),
)
def metrics_port(target: Target) -> Finding | None:
    if holders(target.home_file):
        return None
    text = os.environ.get(PORT_VAR, "0") or "0"
    port = target.metrics_port or int(text)
    return port_finding(port) if port else ok("any that is free")


@check(
    "ready",
    SERVICES,
    looks="/readyz of the service that runs here",
    fails="never: not ready, or no answer on 127.0.0.1, is a warning",
    remedy="Act on the reason given; a service that has just begun to drain ends by itself.",
    after=("home",),
)
def ready(target: Target) -> Finding | None:
    if not holders(target.home_file):
        return None
    try:
        port = int(target.home.metrics_port_path.read_text(encoding="utf-8"))
        # Straight to this machine: the environment may name a proxy for everything else.
        build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/readyz", timeout=ANSWER_S).close()
    except HTTPError as refused:
        with refused:
            reason = json.loads(refused.read() or b"{}").get("reason", refused.code)
        return warn(f"not ready: {reason}")
    except (URLError, OSError, ValueError) as silent:
        return warn(f"no answer: {getattr(silent, 'reason', silent)}", "Does it listen on another address?")
    return ok(f"ready, port {port}")


CHECKS = (metrics_port, ready)
