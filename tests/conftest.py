"""One Hypothesis profile for the whole suite, temporary folders in memory, and no silent skips."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.postgres import Server
    from tests.shared import Up

# The same examples on every machine, no clock, no example database.
settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

MEMORY = Path("/dev/shm")

#: A run of all tests leaves a few hundred megabytes in temporary folders until it ends.
ROOM_BYTES = 2 << 30

# Half the time of a run in this process is fsync of homes that no test needs after a power cut; that fsync is called,
# and in which order, tests/crypto/test_durable.py checks without a disk. Child processes inherit the folder.
# Where memory is short (a container's default is 64 MB), or TMPDIR says otherwise, folders lie where they always did.
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

#: Skips that are meant, by node id. A skip that is not listed here fails the run: what is skipped is not tested.
EXPECTED_SKIPS: frozenset[str] = frozenset()
if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):  # `.ci/run` installs one
    _BROWSER = "tests/jobs/desk/test_browser.py::test_"
    EXPECTED_SKIPS |= {
        f"{_BROWSER}an_owner_reads_approves_and_denies",
        f"{_BROWSER}a_stale_page_and_a_second_tab_sign_nothing",
        f"{_BROWSER}a_run_under_way_is_asked_for_again",
        f"{_BROWSER}every_page_fits_from_360_to_1600[light]",
        f"{_BROWSER}every_page_fits_from_360_to_1600[dark]",
        f"{_BROWSER}it_is_used_by_the_keyboard_alone",
    }

_skipped: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Half a million objects of modules and tests stay to the end: looking for garbage among them took a fifth of the
    collection. What tests make afterwards is looked through as ever."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself is an error: with several processes such a report would not leave its process."""
    report = yield
    if report.skipped and report.nodeid not in EXPECTED_SKIPS:
        report.outcome, report.longrepr = "failed", f"unexpected skip of {report.nodeid}: {report.longrepr}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    unexpected = sorted(_skipped - EXPECTED_SKIPS)
    if unexpected:
        print(f"\nunexpected skips: {', '.join(unexpected)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The shared federation; see tests/shared.py."""
    from tests.shared import started

    yield from started(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server with MLflow's tables; see tests/postgres.py."""
    from tests.postgres import started

    yield from started()


@pytest.fixture
def postgres(postgres_server: Server) -> Iterator[Server]:
    """The server, with nothing in MLflow but its tables."""
    from tests.postgres import emptied

    yield from emptied(postgres_server)
