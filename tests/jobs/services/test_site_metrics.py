"""What a site knows of itself: each figure true, and one that can't be read costs no other."""

from __future__ import annotations

import datetime
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry, generate_latest

from aggregator.home import AggregatorHome
from crypto.home import Home
from jobs.membership.propose import first_epoch, sign
from jobs.services import site_metrics
from jobs.services.site_metrics import AGGREGATOR, GAUGES, SILO, Service, SiteCollector
from silo_agent.home import SiloHome
from tests.aggregator.rounds.test_metrics import PROMTOOL
from tests.records import as_record

Homes = Mapping[str, Path]


class NoFigures:
    damaged = 0

    def collect(self) -> tuple[()]:
        return ()


class BrokenFigures:
    damaged = 0

    def collect(self) -> tuple[()]:
        raise RuntimeError("a file that is cut off")


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    """An aggregator's and a silo's home under one charter of three silos, each with a kit's certificates."""
    from crypto.keys import Identity

    aggregator = AggregatorHome(tmp_path / AGGREGATOR).make()
    silos = [SiloHome(tmp_path / name).make(name) for name in (SILO, "silo-2", "silo-3")]
    consortium = Identity.generate()
    charter = sign(first_epoch("test", silos, aggregator, now=int(time.time())), consortium)
    for name in (AGGREGATOR, SILO):
        Home(tmp_path / name).pinned.pin(charter, consortium.public)
        kit = tmp_path / name / "kit" / "startup"
        kit.mkdir(parents=True)
        (kit / ("server.crt" if name == AGGREGATOR else "client.crt")).write_bytes(certificate(30))
        (kit / "rootCA.pem").write_bytes(certificate(3650))
    return {name: tmp_path / name for name in (AGGREGATOR, SILO)}


START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def certificate(days: int) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(START).not_valid_after(START + datetime.timedelta(days))
    return made.sign(key, SHA256()).public_bytes(serialization.Encoding.PEM)


def service(homes: Homes, role: str, **more: Any) -> Service:
    return Service(role, Home(homes[role]), homes[role] / "kit", **more)


def registry(of: Service, figures: site_metrics.Collects | None = None) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(SiteCollector(of, figures or NoFigures()))
    return found


def value(of: Service, name: str, **labels: str) -> float | None:
    return registry(of).get_sample_value(site_metrics.prefix(of.role) + name, labels)


def errors(of: CollectorRegistry, role: str) -> set[str]:
    (family,) = (one for one in of.collect() if one.name.endswith("scrape_error"))
    return {sample.labels["collector"] for sample in family.samples if sample.value}


@pytest.mark.parametrize("role", site_metrics.ROLES)
def test_a_whole_page_passes_promtool_and_has_no_error(homes: Homes, role: str) -> None:
    page = generate_latest(registry(service(homes, role, connected=lambda: ("silo-2",))))
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")
    served = {line.partition(b" ")[0].partition(b"{")[0].decode() for line in page.splitlines() if line[:1] != b"#"}
    want = {site_metrics.prefix(role) + gauge.name for gauge in site_metrics.of_role(role)}
    assert served == want | {site_metrics.prefix(role) + "scrape_error", "consilium_build_info"}
    assert errors(registry(service(homes, role)), role) == set()


def test_the_charter_and_the_certificates_run_out_when_they_do(homes: Homes) -> None:
    from crypto.home import Home

    for role in site_metrics.ROLES:
        of = service(homes, role)
        assert value(of, "charter_expiry_timestamp_seconds") == Home(homes[role]).charter().not_after
        assert (value(of, "charter_epoch"), value(of, "charter_members")) == (1, 3)
        for word, days in (("own", 30), ("root", 3650)):
            end = (START + datetime.timedelta(days)).timestamp()
            assert value(of, "certificate_expiry_timestamp_seconds", certificate=word) == end


def test_ready_is_what_readyz_says(homes: Homes) -> None:
    assert value(service(homes, SILO), "ready") == 1
    assert value(service(homes, SILO, ready=lambda: "draining"), "ready") == 0


def test_members_that_are_connected_are_counted_and_nobody_else(homes: Homes) -> None:
    here = service(homes, AGGREGATOR, connected=lambda: ("silo-2", "silo-3", "an-admin", "silo-3"))
    assert value(here, "connected_silos") == 2
    assert value(service(homes, AGGREGATOR), "connected_silos") is None  # no server yet
    assert value(service(homes, SILO), "connected_silos") is None


@pytest.fixture
def child() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """A child process with a word on its command line."""
    started: list[subprocess.Popen[str]] = []

    def start(word: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", word]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None and started[-1].stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.communicate("")


def test_memory_and_job_processes_are_those_of_the_children(
    homes: Homes, child: Callable[[str], subprocess.Popen[str]]
) -> None:
    of = service(homes, SILO)
    jobs, memory = value(of, "job_processes"), value(of, "resident_memory_bytes", process="jobs")
    other = value(of, "resident_memory_bytes", process="other")
    assert jobs is not None and memory is not None and other is not None
    child("client-job")
    child("something")
    assert value(of, "job_processes") == jobs + 1
    for process, before in (("jobs", memory), ("other", other)):
        now = value(of, "resident_memory_bytes", process=process)
        assert now is not None and now > before + 1e6
    own = value(of, "resident_memory_bytes", process="service")
    assert own is not None and own > 1e7


def test_space_is_that_of_the_home(homes: Homes) -> None:
    free = value(service(homes, SILO), "home_free_bytes")
    assert free is not None and free > 0


def test_mlflows_backlog_is_what_the_ledger_has_more(homes: Homes) -> None:
    from aggregator.ledger.log import Ledger
    from aggregator.ledger.records import Kind
    from aggregator.tracking.cursor import Cursor, default_uri, save_cursor
    from crypto.keys import Identity

    home, of = homes[AGGREGATOR], service(homes, AGGREGATOR)
    assert value(of, "mlflow_backlog_records") == 0
    ledger = Ledger.open(AggregatorHome(home).ledger_path, Identity.load(home / "keys" / "aggregator.key"))
    for number in range(3):
        ledger.append(as_record(Kind.RECOVERED, {"bytes": number, "sha256": "00" * 32}))
    assert value(of, "mlflow_backlog_records") == 3
    save_cursor(AggregatorHome(home), default_uri(AggregatorHome(home)), Cursor(1, "00" * 32, 100))
    assert value(of, "mlflow_backlog_records") == 1
    moved = service(homes, AGGREGATOR, tracking_uri="postgresql+psycopg2://elsewhere/mlflow")
    assert value(moved, "mlflow_backlog_records") == 3, "another MLflow has nothing yet"


def test_requests_that_wait_are_counted(homes: Homes) -> None:
    from silo_agent.pysyft.request_queue import RequestQueue

    queue = RequestQueue(SiloHome(homes[SILO]), SILO)
    assert value(service(homes, SILO), "queued_requests") == 0
    queue.put(json.dumps({"name": "first"}))
    queue.put(json.dumps({"name": "second"}))
    assert value(service(homes, SILO), "queued_requests") == 2


def test_one_figure_that_fails_is_told_and_costs_no_other(homes: Homes, caplog: pytest.LogCaptureFixture) -> None:
    (homes[SILO] / "charter.bin").unlink()
    (homes[SILO] / "kit" / "startup" / "client.crt").write_bytes(b"not a certificate")
    found = registry(service(homes, SILO))
    with caplog.at_level(logging.WARNING):
        page = generate_latest(found).decode()
        again = generate_latest(found).decode()
    broken = {"charter_epoch", "charter_members", "charter_expiry_timestamp_seconds"}
    broken |= {"certificate_expiry_timestamp_seconds"}
    assert errors(found, SILO) == broken
    for name in broken:
        assert f"\nconsilium_silo_{name}" not in page
        assert f'consilium_silo_scrape_error{{collector="{name}"}} 1.0' in again
    assert "\nconsilium_silo_ready 1.0" in page and "\nconsilium_silo_queued_requests 0.0" in page
    assert len([record for record in caplog.records if "charter_epoch" in record.message]) == 1  # not at every scrape


def test_a_figure_that_can_be_read_again_is_served_again(homes: Homes) -> None:
    path = homes[SILO] / "charter.bin"
    data = path.read_bytes()
    path.unlink()
    found = registry(service(homes, SILO))
    assert "charter_epoch" in errors(found, SILO)
    path.write_bytes(data)
    assert errors(found, SILO) == set()
    assert found.get_sample_value("consilium_silo_charter_epoch") == 1


def test_files_of_job_processes_that_cant_be_read_are_told_too(homes: Homes) -> None:
    found = registry(service(homes, SILO), BrokenFigures())
    assert errors(found, SILO) == {site_metrics.FIGURES}
    assert found.get_sample_value("consilium_silo_ready") == 1


def test_words_are_those_that_are_declared(homes: Homes) -> None:
    for role in site_metrics.ROLES:
        for family in registry(service(homes, role)).collect():
            declared = {site_metrics.prefix(role) + gauge.name: gauge for gauge in (*GAUGES, site_metrics.ERROR)}
            if (gauge := declared.get(family.name)) is None:
                continue
            for sample in family.samples:
                assert set(sample.labels) == ({gauge.label} if gauge.label else set())
                assert set(sample.labels.values()) <= set(gauge.values)


def test_nothing_heavy_is_imported_for_a_scrape(homes: Homes) -> None:
    code = f"""
import sys
from pathlib import Path
from crypto.home import Home
from jobs.services.site_metrics import Service, SiteCollector
class None_:
    damaged = 0
    def collect(self): return ()
home = Home(Path({str(homes[AGGREGATOR])!r}))
list(SiteCollector(Service("aggregator", home, home.kit_folder), None_()).collect())
home = Home(Path({str(homes[SILO])!r}))
list(SiteCollector(Service("silo", home, home.kit_folder), None_()).collect())
print({{"torch", "mlflow", "nvflare", "syft_job", "yaml"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
