"""One Hypothesis profile for the whole suite, and no silent skips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
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

#: Skips that are meant, by node id. A skip that is not listed here fails the run: what is skipped is not tested.
EXPECTED_SKIPS: frozenset[str] = frozenset()

#: Left to ``make test``, because ``make check`` is for every commit: MLflow's databases, federations that break off and
#: go on, whole lineages, bundles and their verification, verbs as processes, NVFlare's cells, charts under all values,
#: language models, whole games with an evil server, figures of whole methods.
SLOW = frozenset(
    f"tests/{name}.py"
    for name in (
        "aggregator/test_bundle",
        "aggregator/test_lineage",
        "aggregator/test_mlflow_check",
        "aggregator/test_model_card",
        "aggregator/test_postgres",
        "aggregator/test_receipts",
        "aggregator/test_registry",
        "aggregator/test_replay",
        "aggregator/test_verify",
        "evil/test_games",
        "helm/test_contract",
        "helm/test_render",
        "helm/test_values",
        "jobs/doctor/test_home",
        "jobs/doctor/test_start",
        "jobs/doctor/test_visit",
        "jobs/test_abort",
        "jobs/test_audit",
        "jobs/test_cli",
        "jobs/test_drain",
        "jobs/test_egress_bytes",
        "jobs/test_egress_fuzz",
        "jobs/test_egress_gate",
        "jobs/test_flare_join",
        "jobs/test_join",
        "jobs/test_lanes",
        "jobs/test_lineage",
        "jobs/test_member_verbs",
        "jobs/test_provision",
        "jobs/test_report",
        "jobs/test_resume",
        "jobs/test_service",
        "jobs/test_withdraw",
        "silo_agent/test_adding_a_method",
        "silo_agent/test_fedcoe_samples",
        "silo_agent/test_flex",
        "silo_agent/test_flex_moe",
        "silo_agent/test_language",
        "silo_agent/test_metamoe",
        "silo_agent/test_methods",
        "test_alerts",
        "test_methods_bars",
    )
)

_skipped: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.location[0] in SLOW:
            item.add_marker(pytest.mark.slow)


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
