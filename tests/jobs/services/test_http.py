"""One page for a parent and its job processes, on this machine only unless told otherwise."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from crypto.errors import SpecError
from crypto.home import Home
from jobs.services.http import Server, prepare_environment, serve_metrics
from jobs.services.site_metrics import SILO, Service

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PROMTOOL = Path("/usr/bin/promtool")

_JOB = """
from aggregator.rounds import metrics
metrics.step_closed(survivors={survivors}, invited=9, lanes_open=["a"], lanes_shut=[], upload_bytes=8, slots={{}})
metrics.phase("deal", 0.5)
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # restored afterwards


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = serve_metrics(Home(tmp_path), 0)
    yield server
    server.close()


def get(server: Server, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def job(survivors: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _JOB.format(survivors=survivors)], cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_figures_of_dead_jobs_stay_and_add_up(server: Server) -> None:
    job(8)
    job(7)
    status, text = get(server, "/metrics")
    assert status == 200
    lines = text.splitlines()
    assert 'consilium_aggregator_steps_total{outcome="closed"} 2.0' in lines
    assert "consilium_aggregator_step_surviving_silos 7.0" in lines
    assert 'consilium_aggregator_phase_duration_seconds_count{phase="deal"} 2.0' in lines
    assert "consilium_up 1.0" in lines
    assert PROMTOOL.exists(), "promtool is part of the checks: install the package `prometheus`"
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text.encode(), capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_new_parent_starts_from_nothing(tmp_path: Path) -> None:
    with_figures = serve_metrics(Home(tmp_path), 0)
    job(8)
    assert "steps_total" in get(with_figures, "/metrics")[1]
    with_figures.close()
    fresh = serve_metrics(Home(tmp_path), 0)
    assert "steps_total" not in get(fresh, "/metrics")[1]
    fresh.close()


def test_the_parents_own_figures_are_shown_too(tmp_path: Path) -> None:
    code = """
import sys, urllib.request
from pathlib import Path
from crypto.home import Home
from jobs.services.http import prepare_environment, serve_metrics
home = Home(Path(sys.argv[1]))
prepare_environment(home)
from silo_agent import metrics
metrics.released()
server = serve_metrics(home, 0)
print(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics").read().decode())
server.close()
"""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "counter_1.db").write_bytes(b"left over by a process of last week")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    assert "consilium_silo_releases_total 1.0" in done.stdout.splitlines(), done.stderr
    assert done.stderr == ""


def test_alive_and_ready_are_two_questions(tmp_path: Path) -> None:
    reasons = ["no charter is accepted yet", ""]
    server = serve_metrics(Home(tmp_path), 0, ready=lambda: reasons[0])
    assert get(server, "/healthz") == (200, '{"status": "ok"}\n')
    status, body = get(server, "/readyz")
    assert status == 503 and json.loads(body) == {"status": "not ready", "reason": "no charter is accepted yet"}
    reasons.pop(0)
    assert get(server, "/readyz?probe=1") == (200, '{"status": "ready"}\n')
    server.close()


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../metrics", "/healthz/x", "/etc/passwd"])
def test_nothing_else_is_there(server: Server, path: str) -> None:
    assert get(server, path)[0] == 404


def test_head_has_no_body_and_writing_is_not_offered(server: Server) -> None:
    assert get(server, "/healthz", "HEAD") == (200, "")
    assert get(server, "/metrics", "POST")[0] == 501


def test_it_listens_on_this_machine_only(server: Server) -> None:
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", server.port), timeout=5):
        pass


def test_a_port_in_use_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="free port"):
        serve_metrics(Home(tmp_path), server.port)
    with pytest.raises(SpecError, match="address of this machine"):
        serve_metrics(Home(tmp_path), 99999)
    with pytest.raises(SpecError, match="address of this machine"):
        serve_metrics(Home(tmp_path), 0, "192.0.2.1")
    assert get(server, "/healthz")[0] == 200


def test_close_frees_the_port(tmp_path: Path) -> None:
    server = serve_metrics(Home(tmp_path), 0)
    server.close()
    again = serve_metrics(Home(tmp_path), server.port)
    again.close()


def test_files_of_jobs_that_are_gone_do_not_pile_up(server: Server, tmp_path: Path) -> None:
    for survivors in (8, 7, 6):
        job(survivors)
        text = get(server, "/metrics")[1]
    assert 'consilium_aggregator_steps_total{outcome="closed"} 3.0' in text.splitlines()
    kept = sorted(path.name for path in (tmp_path / "metrics").iterdir())
    assert kept == ["counter_0.db", "gauge_mostrecent_0.db", "histogram_0.db"]


def test_a_service_shows_its_site_its_zeros_and_its_own_names_only(tmp_path: Path) -> None:
    """In a process of its own, as in production: figures of the parent are shown, too."""
    code = """
import sys, urllib.request
from pathlib import Path
from crypto.home import Home
from jobs.services.site_metrics import SILO, Service
from jobs.services.http import prepare_environment, serve_metrics
home = Home(Path(sys.argv[1]))
prepare_environment(home)
import aggregator.rounds.metrics
server = serve_metrics(home, 0, ready=lambda: "draining", service=Service(SILO, home))
print(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics").read().decode())
server.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert 'consilium_silo_steps_total{outcome="released"} 0.0' in lines, done.stderr
    assert "consilium_silo_ready 0.0" in lines
    assert 'consilium_silo_scrape_error{collector="charter_epoch"} 1.0' in lines  # it is no silo's home
    assert 'consilium_silo_scrape_error{collector="home_free_bytes"} 0.0' in lines
    assert "consilium_aggregator" not in done.stdout
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=done.stdout.encode(), capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_files_that_cant_be_read_do_not_stop_the_page(tmp_path: Path) -> None:
    server = serve_metrics(Home(tmp_path), 0, service=Service(SILO, Home(tmp_path)))
    (tmp_path / "metrics" / "counter_1.db").write_bytes(b"\xff\xff\xff\x7f" + bytes(60))
    status, text = get(server, "/metrics")
    assert status == 200
    assert 'consilium_silo_scrape_error{collector="process_figures"} 1.0' in text.splitlines()
    server.close()


def test_children_inherit_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import prometheus_client  # noqa: F401  (so this process is too late, and is told)

    with caplog.at_level(logging.WARNING):
        folder = prepare_environment(Home(tmp_path))
    assert folder == tmp_path / "metrics" and folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder.resolve())
    assert "before prepare_environment" in caplog.text
