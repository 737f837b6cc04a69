"""One healthy federation, made once: eight silos that have done a job, and their kits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.demo.federation import Federation
from jobs.doctor.target import Role
from jobs.flare.local_kits import Kits, free_port, provision
from jobs.owner import decisions
from jobs.owner.review import OwnerView
from silo_agent.home import SiloHome
from tests import local
from tests.jobs.doctor.site_copy import SiteCopy, copy_of


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, Kits]:
    root = tmp_path_factory.mktemp("doctor")
    federation = local.federation(root / "test")
    spec = local.spec()
    local.run_job(spec, federation.aggregator, federation.homes)
    for demonstration in federation.silo("silo-1").glob("approvals/*"):
        demonstration.unlink()  # for a day only
    decisions.approve(OwnerView(SiloHome(federation.silo("silo-1"))), spec, max_runs=3)
    kits = provision(
        root / "kits",
        name="test",
        silos=federation.silos,
        port=free_port(),
        server_home=federation.aggregator_home,
        silo_homes=federation.silo_homes,
    )
    return federation, kits


@pytest.fixture
def silo(made: tuple[Federation, Kits], tmp_path: Path) -> SiteCopy:
    federation, kits = made
    home = copy_of(federation.silo("silo-1"), tmp_path / "home")
    return SiteCopy(Role.SILO, home, copy_of(kits.silos["silo-1"], tmp_path / "kit"), time.time())


@pytest.fixture
def aggregator(made: tuple[Federation, Kits], tmp_path: Path) -> SiteCopy:
    federation, kits = made
    home = copy_of(federation.aggregator, tmp_path / "aggregator")
    return SiteCopy(Role.AGGREGATOR, home, copy_of(kits.server, tmp_path / "server"), time.time())


@pytest.fixture
def admin(made: tuple[Federation, Kits], tmp_path: Path) -> SiteCopy:
    return SiteCopy(Role.ADMIN, None, copy_of(made[1].admin, tmp_path / "admin"), time.time())


@pytest.fixture
def server_startup(made: tuple[Federation, Kits]) -> Path:
    """``startup/`` of the aggregator's kit: the certificate that a listener shows."""
    return made[1].server / "startup"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "KIT", "CHARTER", "TRACKING_URI", "METRICS_PORT"):
        monkeypatch.delenv(f"CONSILIUM_{name}", raising=False)
