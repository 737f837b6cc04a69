"""A federation as institutions run it: kits from ``fed provision``, a process for each site, on loopback.

Homes and charter are made as ``fed keygen`` and ``fed charter`` make them. Each service is ``fed … run`` over an
archive, in a process of its own; whatever happens, all of them are ended by pid.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry, read
from aggregator.ledger.records import Kind
from crypto.charter_defaults import Floors
from crypto.errors import SpecError
from crypto.home import Home
from jobs.demo.digits_data import make
from jobs.demo.federation import add_data
from jobs.flare.folder import export
from jobs.flare.local_kits import free_port
from jobs.flare.project import Admin, Project
from jobs.flare.session import AdminSession
from jobs.job import JobSpec
from jobs.membership.accept import accept, between_runs
from jobs.membership.keygen import keygen_silo
from jobs.provisioning.provision import add, archive_path, provision
from silo_agent.home import SiloHome
from tests import local
from tests.members import Bare

ADMIN = "kim@example.org"


class Deployed:
    """``silos`` sites under a charter that bears the loss of one: c = 0, m = 2."""

    def __init__(self, root: Path, silos: int = 3) -> None:
        self.root = root
        self.members = Bare(root, silos, "clinics", Floors(colluders=0, honest=2, lane_floor=2))
        self._rows = make(8, 7)
        self.silos = list(self.members.silos)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for silo in self.silos:
            add_data(SiloHome(self.home(silo)), silo, "digits", self._rows[silo])
        self.project = self._project(free_port())
        self.kits = root / "kits"
        provision(self.project, self.kits)

    def _project(self, port: int) -> Project:
        silos = {silo: silo.replace("-", "_") for silo in self.silos}
        return Project("clinics", "consortium", "localhost", port, silos, {ADMIN: Admin("consortium", "lead")})

    def home(self, site: str) -> Path:
        return self.members.aggregator if site == "server" else self.members.home(site)

    # --- services -------------------------------------------------------------------------------------------------

    def start(self, site: str, *more: str, drain_s: float = 30) -> None:
        kind = "aggregator" if site == "server" else "silo"
        words = [kind, "run", "--kit", str(archive_path(self.kits, site)), "--home", str(self.home(site)), *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        (self.home(site) / "metrics.port").unlink(missing_ok=True)
        with (self.home(site) / "log.txt").open("ab") as log:
            self.processes[site] = subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", *words, "--drain-seconds", str(drain_s)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )

    def term(self, site: str) -> None:
        self.processes[site].send_signal(signal.SIGTERM)

    def ended(self, site: str, timeout_s: float = 40) -> int:
        """The exit code, once it has one."""
        return self.processes.pop(site).wait(timeout_s)

    def stop(self) -> None:
        """All at once: a second signal ends what drains."""
        end = time.monotonic() + 20
        while any(process.poll() is None for process in self.processes.values()):
            for process in self.processes.values():
                process.send_signal(signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                next(p for p in self.processes.values() if p.poll() is None).wait(0.5)
        assert time.monotonic() < end, "services that did not end"

    def log(self, site: str) -> str:
        return (self.home(site) / "log.txt").read_text(errors="replace")

    def ready(self, site: str) -> str:
        """What /readyz says: "ready", or why not."""
        try:
            port = int((self.home(site) / "metrics.port").read_text())
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
                return str(json.load(answer)["status"])
        except urllib.error.HTTPError as refused:
            return str(json.load(refused)["reason"])
        except (OSError, ValueError) as down:
            return f"down: {down}"

    def until(self, true: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Poll until it is so; a service that ended by itself is an error."""
        end = time.monotonic() + timeout_s
        while not true():
            for site, process in self.processes.items():
                assert process.poll() is None or site in self.may_end, f"{site} ended:\n{self.log(site)[-4000:]}"
            assert time.monotonic() < end, f"not {what} after {timeout_s:.0f} s"
            with suppress(subprocess.TimeoutExpired):  # a look ten times a second, and the processors to the services
                next(iter(self.processes.values())).wait(0.1)

    may_end: frozenset[str] = frozenset()

    def all_ready(self) -> None:
        self.until(lambda: all(self.ready(site) == "ready" for site in self.processes), "all ready")

    # --- the admin ------------------------------------------------------------------------------------------------

    @contextmanager
    def admin(self) -> Iterator[AdminSession]:
        with AdminSession(self.kits / ADMIN, ADMIN, timeout_s=30) as session:
            yield session

    def spec(self, rounds: int) -> JobSpec:
        params = {"features": 64, "classes": 10, "rounds": rounds, "local_steps": 2, "seed": 7}
        return JobSpec.parse(
            {
                "name": f"deployed-{rounds}",
                "method": "fedavg",
                "dataset": "digits",
                "purpose": "a test",
                "keep_uploads": "none",
                "params": params,
                "timeouts": {"phase": 20, "step": 30, "job": 120},
            }
        )

    def submit(self, session: AdminSession, spec: JobSpec, name: str, resume: str = "") -> tuple[int, str]:
        """Approved by all and submitted; how many records the ledger had, and NVFlare's id of the job."""
        if not resume:
            for silo in self.silos:
                local.approve(SiloHome(self.home(silo)), spec)
        charter = Home(self.home("server")).charter()
        before = len(self.ledger())
        return before, session.submit(export(spec, charter, self.root / f"job-{name}", resume=resume))

    def ledger(self, since: int = 0) -> list[Entry]:
        path = AggregatorHome(self.home("server")).ledger_path
        return [entry for entry in read(path) if entry.seq >= since] if path.exists() else []

    def recorded(self, since: int, kind: Kind, **fields: Any) -> list[Entry]:
        found = [entry for entry in self.ledger(since) if entry.kind is kind]
        return [entry for entry in found if all(getattr(entry.record, key) == want for key, want in fields.items())]

    def accept(self, site: str, signed: bytes) -> None:
        """Between runs: an agent lets go of its journal a moment after the server has its last record."""
        self.until(lambda: _idle(self.home(site)), f"{site} between runs")
        accept(Home(self.home(site)), signed)

    def join(self, silo: str) -> None:
        """One more silo: its keys, an epoch that all accept, its kit. Nobody else's kit is touched."""
        member = keygen_silo(SiloHome(self.home(silo)), silo)
        charter = Home(self.home("server")).charter()
        _, signed = self.members.following(charter, add=[member])
        for site in ("server", *self.silos):
            self.accept(site, signed)
        accept(Home(self.home(silo)), signed, consortium=self.members.consortium.public)
        add_data(SiloHome(self.home(silo)), silo, "digits", self._rows[silo])
        self.silos.append(silo)
        self.project = self._project(self.project.port)
        add(self.project, self.kits, silo)


def _idle(home: Path) -> bool:
    try:
        with between_runs(Home(home)):
            return True
    except SpecError:
        return False
