"""The federation that the tests of runs share: made once, and copied for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.demo.federation import Federation
from tests import local


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight silos before any run. Not to be changed."""
    return local.federation(tmp_path_factory.mktemp("made") / "f").root


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Federation:
    """A copy of it, to be changed."""
    return local.copied(made, tmp_path / "f")
