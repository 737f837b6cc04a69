"""A real Prometheus on this machine, with the charts' rules, that scrapes what it is told to."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.flare.local_kits import free_port
from tests.test_alerts import FILES

BINARY = Path("/usr/bin/prometheus")
#: How long one look waits for the process, which must not end. Seconds.
LOOK_S = 0.25


@dataclass(frozen=True)
class Prometheus:
    port: int
    process: subprocess.Popen[bytes]

    def get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> dict[str, float]:
        """Series, by its labels as JSON → value, now."""
        found = self.get("query", query=expression)["result"]
        return {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in found}

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {one["labels"]["alertname"] for one in self.get("alerts")["alerts"] if one["state"] == "firing"}

    def until(self, holds: Callable[[], object], what: str, timeout_s: float = 120.0) -> None:
        """Look again and again until it holds. Fails when the time is up, or when Prometheus ends."""
        end = time.monotonic() + timeout_s
        while not self._holds(holds):
            assert time.monotonic() < end, f"not so after {timeout_s:.0f} s: {what}"
            try:
                code = self.process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"Prometheus ended with code {code}")

    def _holds(self, holds: Callable[[], object]) -> bool:
        try:
            return bool(holds())
        except (ConnectionError, urllib.error.URLError):  # it is not up yet
            return False


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Scrapes every target, name → port on this machine, each second, and evaluates the rules as often."""
    assert BINARY.exists(), "prometheus is part of the checks: install the package `prometheus`"
    static = [{"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}} for name, port in targets.items()]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in FILES],
        "scrape_configs": [{"job_name": "consilium", "static_configs": static}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [str(BINARY), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        running = Prometheus(port, process)
        running.until(lambda: len(running.query("up == 1")) == len(targets), "every target is up")
        yield running
    finally:
        process.terminate()
        process.wait(30)
