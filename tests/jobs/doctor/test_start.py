"""The checks that refuse a start, by name; and that only one process can have a home."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crypto.home import Home
from jobs.demo.federation import Federation
from jobs.doctor import refuse_start, single_instance
from jobs.doctor.check import Unfit
from jobs.doctor.target import Role
from jobs.flare.local_kits import Kits
from silo_agent.journal import Journal
from tests.jobs.doctor.site_copy import SiteCopy, copy_of, finds, passes, results
from tests.jobs.doctor.test_home import files_end_at
from tests.jobs.doctor.test_records import cut

pytestmark = pytest.mark.slow

Made = tuple[Federation, Kits]


def refused(site: SiteCopy, name: str) -> Unfit:
    with pytest.raises(Unfit) as bad:
        refuse_start(site.role, site.kit_folder, Home(site.home_folder))
    assert bad.value.check == name, bad.value
    assert bad.value.detail.startswith(f"{name}: ") and bad.value.remedy
    return bad.value


def test_a_healthy_site_starts(silo: SiteCopy, aggregator: SiteCopy) -> None:
    for site in (silo, aggregator):
        refuse_start(site.role, site.kit_folder, Home(site.home_folder))
        single_instance.release(site.target())


def test_a_start_asks_nobody(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may be down, and the charter may have ended: a service starts, says so on /readyz, and waits."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket, "create_connection", asked)
    (silo.home_folder / "charter.bin").unlink()
    refuse_start("silo", silo.kit_folder, Home(silo.home_folder))
    single_instance.release(silo.target())


def _other_federation(site: SiteCopy) -> None:
    site.edit("startup/fed_client.json", lambda value: value["servers"][0].update(name="elsewhere"))


def _other_site(site: SiteCopy) -> None:
    (site.home_folder / "silo.json").write_text('{"silo": "silo-2"}')


FAULTS: dict[str, tuple[str, Callable[[SiteCopy], object]]] = {
    "a missing kit": ("kit", lambda site: shutil.rmtree(site.kit_folder / "startup")),
    "a kit without its certificate": ("kit", lambda site: (site.kit_folder / "startup" / "client.crt").unlink()),
    "a kit of another federation": ("kit.federation", _other_federation),
    "a kit of another site": ("kit.site", _other_site),
    "a kit that lets code in": (
        "kit.hardened",
        lambda site: site.edit("local/resources.json", lambda value: value["class_allow_list"].append("x.Y")),
    ),
    "no home": ("home", lambda site: shutil.rmtree(site.home_folder)),
    "no key": ("home.keys", lambda site: (site.home_folder / "keys" / "agent.key").unlink()),
    "a restored old journal": ("journal.newest", lambda site: cut(site, "released", 2)),
    "a lost journal": ("journal", lambda site: (site.home_folder / "journal.jsonl").unlink()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_refused_by_name(silo: SiteCopy, fault: str) -> None:
    name, inject = FAULTS[fault]
    inject(silo)
    refused(silo, name)


def test_a_full_volume_is_refused(silo: SiteCopy) -> None:
    with files_end_at(1 << 16), pytest.raises(Unfit) as bad:
        refuse_start("silo", silo.kit_folder, Home(silo.home_folder))
    assert bad.value.check == "volume.writable" and "Free space" in bad.value.remedy


NOBODY = 65534
_AS_SOMEBODY = """
import os, sys
from pathlib import Path
import jobs.doctor.runner, jobs.flare.hardening, crypto.home, silo_agent.home  # the interpreter may be closed to others
from crypto.home import Home
from jobs.doctor import refuse_start
from jobs.doctor.check import Unfit
if os.geteuid() == 0:
    os.setuid(int(sys.argv[1]))
try:
    refuse_start("silo", Path(sys.argv[2]), Home(Path(sys.argv[3])))
except Unfit as refused:
    print(refused.check, "|", refused)
"""


def test_a_home_that_this_user_cannot_write_is_refused(silo: SiteCopy) -> None:
    """A real refusal. Root is stopped by no mode, so it becomes nobody; a read-only mount says EROFS for EACCES."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own folder is closed to others
        home, kit = copy_of(silo.home_folder, Path(place) / "home"), copy_of(silo.kit_folder, Path(place) / "kit")
        if os.geteuid() == 0:
            Path(place).chmod(0o755)
            for path in (kit, *kit.rglob("*"), *home.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        home.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", _AS_SOMEBODY, str(NOBODY), str(kit), str(home)],
            capture_output=True,
            text=True,
            check=False,
        )
        home.chmod(0o700)
    assert done.stdout.startswith("volume.writable | "), done.stdout + done.stderr
    assert "Permission denied" in done.stdout and "Mount the home's volume" in done.stdout


def test_a_taken_port_is_refused(aggregator: SiteCopy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        aggregator.point("localhost", other.getsockname()[1])
        assert "Address already in use" in str(refused(aggregator, "server.listen"))


# --- one process per home --------------------------------------------------------------------------------------------

_HOLD = """
import sys
from pathlib import Path
from crypto.home import Home
from jobs.doctor import refuse_start
refuse_start(sys.argv[1], Path(sys.argv[2]), Home(Path(sys.argv[3])))
print("has it", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(site: SiteCopy) -> Iterator[subprocess.Popen[str]]:
    """A service that has this home, for as long as the block lasts."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, site.role, str(site.kit_folder), str(site.home_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "has it\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("role", list(Role)[:2])
def test_two_agents_with_one_identity(role: Role, silo: SiteCopy, aggregator: SiteCopy) -> None:
    site = silo if role is Role.SILO else aggregator
    assert passes(site, "alone") == "no service runs here now"
    with running(site) as process:
        bad = refused(site, "alone")
        assert f"process {process.pid} serves" in bad.detail and "Stop the other one" in bad.remedy
        assert passes(site, "alone") == f"a service runs here, process {process.pid}"
        finds(site, "alone", "two agents with one identity", starting=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        refuse_start(role, site.kit_folder, Home(site.home_folder))  # a killed one leaves nothing behind
        single_instance.release(site.target())


def test_the_lock_decides_where_the_system_does_not_tell(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_instance, "holders", lambda path: [])
    fd = os.open(silo.home_folder / "silo.json", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert "another process serves" in refused(silo, "alone").detail
    finally:
        os.close(fd)


def test_an_agent_without_a_service(silo: SiteCopy) -> None:
    assert passes(silo, "journal.lock") == "free"
    with Journal(silo.home_folder / "journal.jsonl"):
        finds(silo, "journal.lock", f"process {os.getpid()} has the journal", warns=True, remedy="find that process")
        with running(silo):
            assert "an agent has it open" in passes(silo, "journal.lock")


def test_a_running_aggregator_has_its_port(aggregator: SiteCopy) -> None:
    with running(aggregator), socket.create_server(("127.0.0.1", 0)) as its_own:
        aggregator.point("localhost", its_own.getsockname()[1])
        assert "is this service's" in passes(aggregator, "server.listen")


# --- its page --------------------------------------------------------------------------------------------------------


def test_a_metrics_port_that_is_taken(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passes(silo, "metrics.port") == "any that is free"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        finds(silo, "metrics.port", f"port {port} cannot be used", remedy="another port", metrics_port=port)
        monkeypatch.setenv("CONSILIUM_METRICS_PORT", str(port))
        finds(silo, "metrics.port", "Address already in use")
        with running(silo):
            assert "metrics.port" not in results(silo)
    finds(silo, "metrics.port", "cannot be used", metrics_port=70000)


class _Page(http.server.BaseHTTPRequestHandler):
    answer = (200, {"status": "ready"})

    def do_GET(self) -> None:
        body = json.dumps(self.answer[1]).encode()
        self.send_response(self.answer[0])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_service_that_is_not_ready(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ready" not in results(silo)
    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    (silo.home_folder / "metrics.port").write_text(f"{page.server_address[1]}\n")
    try:
        with running(silo):
            assert "ready, port" in passes(silo, "ready")
            monkeypatch.setattr(_Page, "answer", (503, {"status": "not ready", "reason": "draining"}))
            finds(silo, "ready", "not ready: draining", warns=True, remedy="drain")
            page.shutdown()
            page.server_close()
            finds(silo, "ready", "no answer", warns=True, remedy="another address")
    finally:
        page.shutdown()
        page.server_close()
        thread.join()
