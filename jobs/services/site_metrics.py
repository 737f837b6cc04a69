"""Gauges of a long-lived process's own site: expiry, queue, backlog, memory, disk.

Each gauge is read again for every scrape. One that cannot be read is left out of that scrape and named by
``scrape_error``; the others are served. Label values are fixed, and no silo's name is among them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from crypto.home import Home
from jobs import release

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from crypto.charter import Charter

log = logging.getLogger("consilium.service")

T = TypeVar("T")

AGGREGATOR: Final = "aggregator"
SILO: Final = "silo"
ROLES: Final = (AGGREGATOR, SILO)
#: The values of ``aggregator.interrupted.Standing``.
STANDINGS: Final = ("waiting", "queued", "ask", "never", "given-up", "blocked")


@dataclass(frozen=True, slots=True)
class Service:
    """A long-lived process. ``role``: one of ``ROLES``. ``kit``: NVFlare's folder, if there is one.

    ``tracking_uri``: MLflow's address, if it is not the default. ``connected``: the silos that NVFlare's server has a
    connection with, or None if there is no server. ``ready``: "" when this process can do its work, else why not:
    ``serve_metrics`` sets it. ``detail``: what /readyz says beside that this process is ready.
    """

    role: str
    home: Home
    kit: Path | None = None
    tracking_uri: str | None = None
    connected: Callable[[], Collection[str] | None] = lambda: None
    ready: Callable[[], str] = lambda: ""
    detail: Callable[[], str] = lambda: ""


#: One value, or one for each value of the gauge's label; None if there is nothing to show.
Reading = Mapping[str, float] | float | None


@dataclass(frozen=True, slots=True)
class SiteGauge:
    """``name``: without the role's prefix. ``label``: its label, if it has one. ``values``: that label's values."""

    name: str
    text: str
    read: Callable[[Scrape], Reading]
    label: str = ""
    values: tuple[str, ...] = ()
    roles: tuple[str, ...] = ROLES


def prefix(role: str) -> str:
    """Of every metric that a role serves."""
    return f"consilium_{role}_"


# --- readings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scrape:
    """A service during one scrape: values that several gauges need are read once."""

    service: Service

    @cached_property
    def charter(self) -> Charter:
        return self.service.home.charter()

    @cached_property
    def children(self) -> tuple[tuple[bool, int], ...]:
        """Of each child process: whether it is a job process of NVFlare's, and its resident bytes."""
        import psutil

        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                found.append((bool({"client-job", "server-job"} & set(child.cmdline())), child.memory_info().rss))
            except psutil.NoSuchProcess:  # ended meanwhile
                continue
        return tuple(found)


def _ready(scrape: Scrape) -> Reading:
    return float(not scrape.service.ready())


def _connected(scrape: Scrape) -> Reading:
    names = scrape.service.connected()
    return None if names is None else float(len(set(names) & set(scrape.charter.silos)))


def _certificates(scrape: Scrape) -> Reading:
    from cryptography import x509

    if scrape.service.kit is None:
        return None
    own = {AGGREGATOR: "server.crt", SILO: "client.crt"}[scrape.service.role]
    found = {}
    for which, name in (("own", own), ("root", "rootCA.pem")):
        certificate = x509.load_pem_x509_certificate((scrape.service.kit / "startup" / name).read_bytes())
        found[which] = certificate.not_valid_after_utc.timestamp()
    return found


def _memory(scrape: Scrape) -> Reading:
    import psutil

    return {
        "service": float(psutil.Process().memory_info().rss),
        "jobs": float(sum(size for is_job, size in scrape.children if is_job)),
        "other": float(sum(size for is_job, size in scrape.children if not is_job)),
    }


def _free(scrape: Scrape) -> Reading:
    disk = os.statvfs(scrape.service.home.root)
    return float(disk.f_bavail * disk.f_frsize)


def _queued(scrape: Scrape) -> Reading:
    from silo_agent.home import SiloHome
    from silo_agent.pysyft.request_queue import RequestQueue

    home = SiloHome(scrape.service.home.root)
    return float(RequestQueue(home, home.silo).waiting())


def _backlog(scrape: Scrape) -> Reading:
    from aggregator.home import AggregatorHome
    from aggregator.tracking.cursor import backlog

    return float(backlog(AggregatorHome(scrape.service.home.root), scrape.service.tracking_uri))


def _interrupted(scrape: Scrape) -> Reading:
    from aggregator.home import AggregatorHome
    from aggregator.interrupted import load

    runs = load(AggregatorHome(scrape.service.home.root))
    return {standing: float(sum(run.standing == standing for run in runs)) for standing in STANDINGS}


#: Every gauge, in the order in which it is served.
GAUGES: Final = (
    SiteGauge("ready", "1 while /readyz answers 200.", _ready),
    SiteGauge("charter_epoch", "Epoch of the pinned charter.", lambda scrape: float(scrape.charter.epoch)),
    SiteGauge(
        "charter_members", "Silos that the pinned charter names.", lambda scrape: float(len(scrape.charter.silos))
    ),
    SiteGauge(
        "charter_expiry_timestamp_seconds",
        "When the pinned charter expires.",
        lambda scrape: float(scrape.charter.not_after),
    ),
    SiteGauge(
        "connected_silos",
        "Silos of the charter that NVFlare's server has a connection with.",
        _connected,
        roles=(AGGREGATOR,),
    ),
    SiteGauge(
        "certificate_expiry_timestamp_seconds",
        "When a certificate of the kit expires: the site's own, or the federation's root.",
        _certificates,
        label="certificate",
        values=("own", "root"),
    ),
    SiteGauge(
        "job_processes",
        "Job processes of NVFlare's that run now.",
        lambda scrape: float(sum(is_job for is_job, _ in scrape.children)),
    ),
    SiteGauge(
        "resident_memory_bytes",
        "Resident memory of the long-lived process, its job processes and its other children.",
        _memory,
        label="process",
        values=("service", "jobs", "other"),
    ),
    SiteGauge("home_free_bytes", "Free space on the home's volume.", _free),
    SiteGauge("queued_requests", "Jobs that wait for the data owner's decision.", _queued, roles=(SILO,)),
    SiteGauge(
        "interrupted_runs",
        "Runs without an end and without a process, by what becomes of them.",
        _interrupted,
        label="standing",
        values=STANDINGS,
        roles=(AGGREGATOR,),
    ),
    SiteGauge("mlflow_backlog_records", "Ledger records that are not in MLflow yet.", _backlog, roles=(AGGREGATOR,)),
)
#: The job processes' figures, as a label value of ``scrape_error``.
FIGURES: Final = "process_figures"
ERROR: Final = SiteGauge(
    "scrape_error",
    "1 for a figure that could not be read in this scrape; the log has the reason.",
    lambda _: None,
    label="collector",
    values=(FIGURES, *(gauge.name for gauge in GAUGES)),
)
#: Both roles serve it under one name.
BUILD: Final = ("consilium_build_info", "1; what runs here.", ("role", "version", "software"))


def of_role(role: str) -> tuple[SiteGauge, ...]:
    return tuple(gauge for gauge in GAUGES if role in gauge.roles)


class Collects(Protocol):
    """Anything that prometheus_client can ask for metrics. ``damaged``: files that it could not read."""

    damaged: int

    def collect(self) -> Iterable[Metric]: ...


# --- the collector -----------------------------------------------------------------------------------------------


class SiteCollector:
    """Everything that a role serves: its processes' figures and every gauge, read for each scrape.

    ``figures``: collects the processes' figures (``multiprocess_metrics.Figures``). Register this collector with a
    prometheus_client registry.
    """

    def __init__(self, service: Service, figures: Collects) -> None:
        self._service = service
        self._figures = figures
        self._broken: set[str] = set()

    def describe(self) -> Iterable[Metric]:
        """Nothing is read before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        yield from self._read(FIGURES, lambda: list(self._figures.collect())) or ()
        build = GaugeMetricFamily(BUILD[0], BUILD[1], labels=BUILD[2])
        build.add_metric([self._service.role, release.version(), release.digest().hex()[:16]], 1)
        yield build
        errors = GaugeMetricFamily(prefix(self._service.role) + ERROR.name, ERROR.text, labels=[ERROR.label])
        errors.add_metric([FIGURES], float(FIGURES in self._broken or self._figures.damaged > 0))
        scrape = Scrape(self._service)
        for gauge in of_role(self._service.role):
            reading = self._read(gauge.name, partial(gauge.read, scrape))
            errors.add_metric([gauge.name], float(gauge.name in self._broken))
            if reading is None:
                continue
            family = GaugeMetricFamily(
                prefix(self._service.role) + gauge.name, gauge.text, labels=[gauge.label] if gauge.label else []
            )
            for which, value in reading.items() if isinstance(reading, Mapping) else [("", reading)]:
                family.add_metric([which] if gauge.label else [], value)
            yield family
        yield errors

    def _read(self, name: str, read: Callable[[], T]) -> T | None:
        try:
            reading = read()
        except Exception as bad:  # noqa: BLE001 - one figure must not cost the others; it is logged, and alerted on
            if name not in self._broken:  # once, not at every scrape
                log.warning("%s can't be read: %s: %s", name, type(bad).__name__, bad)
            self._broken.add(name)
            return None
        self._broken.discard(name)
        return reading
