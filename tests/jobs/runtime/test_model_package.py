"""A package's model under approvals: what the data owner signed is what runs, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crypto.errors import NotApproved, SpecError
from jobs.job import JobSpec
from jobs.runtime.compose import open_agent
from silo_agent.home import SiloHome
from tests import local, wheels
from tests.models import params

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    wheels.install(wheels.build(tmp_path), tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    wheels.forget()


def job() -> JobSpec:
    """On the package as it is installed now."""
    given = params("ward-net", "64", 10, package=wheels.digest_here(), rounds=1)
    raw = {"name": "ward", "method": "fedavg", "dataset": "digits", "purpose": "a test", "params": given}
    return JobSpec.parse(raw)


def test_one_changed_byte_voids_an_approval(site: Path, tmp_path: Path) -> None:
    home = SiloHome(local.federation(tmp_path / "f", silos=4).homes["silo-1"])
    approved = job()
    local.open_agent(approved.text, home).close()
    code = site / "ward_net" / "__init__.py"
    code.write_bytes(code.read_bytes() + b"\n")
    with pytest.raises(SpecError, match=r"params\.package"):
        open_agent(approved.text, home)
    with pytest.raises(NotApproved):
        open_agent(job().text, home)
