"""The finished runs that the tests of evidence share: each is made once, and copied for a test that changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import lineages, local, tampering
from tests.lineages import Past
from tests.tampering import Finished


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """FedAvg, four steps, every upload kept, no fault. Not to be changed."""
    return tampering.finish(tmp_path_factory.mktemp("honest") / "f", local.spec())


@pytest.fixture
def run(honest: Finished, tmp_path: Path) -> Finished:
    """A copy of the honest run, to be changed."""
    return honest.copy(tmp_path / "f")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Past:
    """The federation of ``tests/lineages.py``. Not to be changed."""
    return lineages.make(tmp_path_factory.mktemp("past"))


@pytest.fixture
def past(made: Past, tmp_path: Path) -> Past:
    """A copy of it, to be changed."""
    return made.copy(tmp_path / "aggregator")
