"""A silo with a run behind it, an owner's model, a request that waits, and its desk, which answers HTTP in a thread."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from jobs.demo.federation import Federation
from jobs.desk.access import Behind
from jobs.desk.server import Server, listen
from silo_agent.home import SiloHome
from silo_agent.pysyft.request_queue import RequestQueue
from tests import local

#: Done, with a model that stays at the silo; and waiting.
DONE = local.spec("fedcoe", features=5, classes=3, rounds=1, experts=2, hidden=4, local_steps=1)
ASKED = local.spec(features=5, classes=3, rounds=1)
PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try of the real thing takes a few tenths of a second."""
    monkeypatch.setattr("crypto.keys._SCRYPT", {"n": 2, "r": 8, "p": 1})


def rows(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {"classes": np.array(3)}
    for part, count in (("train", 37), ("test", 11)):
        made |= {f"x_{part}": rng.normal(size=(count, 5)).astype(np.float32), f"y_{part}": np.arange(count) % 3}
    return made


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Made and run once."""
    data = {f"silo-{at}": rows(at) for at in range(1, 5)}
    made = Federation.make(tmp_path_factory.mktemp("desk") / "f", "test", data, "digits")
    local.run_job(DONE, made.aggregator, made.homes)
    for job in (DONE, ASKED):
        RequestQueue(SiloHome(made.silo("silo-1")), "silo-1").put(job.text)
    return made


@pytest.fixture
def home(ran: Federation, tmp_path: Path) -> SiloHome:
    """A copy of silo-1's home."""
    shutil.copytree(ran.silo("silo-1"), tmp_path / "silo-1")
    return SiloHome(tmp_path / "silo-1")


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Without tags, blanks as one."""
        return " ".join(re.sub(r"<[^>]*>", " ", self.body.decode()).split())

    def field(self, name: str) -> str:
        """The value of the first field of this name."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.body.decode())
        assert found, name
        return found[1]


@dataclass
class Visitor:
    """A browser without a screen: it keeps cookies, and follows nothing."""

    server: Server
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        sent = {"Host": f"127.0.0.1:{self.server.port}", **self.headers}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        found = Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        connection.close()
        if cookie := found.headers.get("set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return found

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Reply:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, urlencode(fields).encode(), **kind, **headers)

    def read(self, job: Any) -> dict[str, str]:
        """The hidden fields of a request's page."""
        page = self.get(f"/requests/{job.digest.hex()}")
        assert page.status == 200, page.text
        return {name: page.field(name) for name in ("csrf", "page", "shown")}

    def decide(self, job: Any, fields: dict[str, str], decision: str = "approve", **more: str) -> Reply:
        filled = {"runs": "1", "days": "30", "reason": "not now", "decision": decision, **fields, **more}
        return self.post(f"/requests/{job.digest.hex()}", filled)

    @property
    def csrf(self) -> str:
        return self.get("/doctor").field("csrf")


def start(home: SiloHome, **options: Any) -> Iterator[Server]:
    server = listen(home, **options)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server
    server.close()
    thread.join()


@pytest.fixture
def server(home: SiloHome) -> Iterator[Server]:
    yield from start(home)


@pytest.fixture
def locked(home: SiloHome) -> Iterator[Server]:
    """The same, of a key with a passphrase."""
    home.owner().lock(home.owner_key_path, PASSPHRASE.encode())
    yield from start(home)


@pytest.fixture
def behind_proxy(home: SiloHome) -> Iterator[Server]:
    proxy = Behind("X-Signed-In", (ip_network("127.0.0.1/32"),), frozenset({"desk.example.org"}))
    yield from start(home, proxy=proxy)


def enter(server: Server) -> Visitor:
    visitor = Visitor(server)
    found = visitor.get(server.entrance.removeprefix(server.address[:-1]))
    assert found.status == 200, found.text
    return visitor


@pytest.fixture
def visitor(server: Server) -> Visitor:
    return enter(server)
