"""A real Prometheus with the charts' rules scrapes the shared federation while a job runs: well at first, then with
silos killed and an approval taken back, until the run is lost. Every panel's queries give data, and the alerts fire."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aggregator.ledger.records import Kind
from helm import dashboards
from helm.grafana import Dashboard, Panel
from jobs.job import JobSpec
from jobs.owner.decisions import deny
from jobs.owner.review import OwnerView
from silo_agent.home import SiloHome
from tests.prometheus import Prometheus, prometheus
from tests.shared import SILOS, KeptDead, Up, approved, follow, is_job_of, submit

pytestmark = pytest.mark.federation

#: The demonstration's experts with fixed holders, longer. Expert 0 needs all of silos 1 to 3.
JOB = """
name = "watched"
method = "fedavg-lanes"
dataset = "digits"
purpose = "A test that watches a run in Prometheus."
[params]
features = 64
classes = 10
experts = 4
visible = 2
holders-0 = "silo-1 silo-2 silo-3"
holders-1 = "silo-5 silo-6 silo-7 silo-8"
holders-2 = "silo-1 silo-2 silo-5 silo-6"
holders-3 = "silo-3 silo-4 silo-7 silo-8"
hidden = 16
rounds = 200
local_steps = 2
seed = 5
[timeouts]
phase = 15
step = 60
"""
#: A time that holds this whole test, in place of what Grafana puts into a query.
VARIABLES = {"$__rate_interval": "30m", "$instance": ".*"}


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def data(watch: Prometheus, panel: Panel) -> list[dict[str, float]]:
    """What each query of a panel gives."""
    return [watch.query(filled(query.expr)) for query in panel.queries]


def empty(watch: Prometheus, *, failures: bool) -> list[str]:
    """Panels of both dashboards of which some query gives nothing."""
    shown = ((board, panel) for board in dashboards.ALL for panel in board.panels if panel.failure <= failures)
    return [f"{board.title}: {panel.title}" for board, panel in shown if not all(data(watch, panel))]


def panel(board: Dashboard, title: str) -> Panel:
    (found,) = (panel for panel in board.panels if panel.title == title)
    return found


def ports(up: Up) -> dict[str, int]:
    found: dict[str, int] = json.loads((up.federation.root / "federation.json").read_text())["metrics"]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watch")


@pytest.fixture(scope="module")
def watch(up: Up, place: Path) -> Iterator[Prometheus]:
    with prometheus(place, ports(up)) as running:
        yield running


@pytest.fixture(scope="module")
def begun(up: Up, watch: Prometheus, place: Path) -> int:
    """The job runs with every silo. How many entries the ledger had before it."""
    psutil.wait_procs([p for p in up.tree() if is_job_of(p, "silo-")], timeout=60)  # of the job before
    (place / "job.toml").write_text(JOB)
    approved(up, str(place / "job.toml"))
    before = submit(up, str(place / "job.toml"), place)
    follow(up, before, until={Kind.STEP_CLOSED}, name="train/1")
    return before


def test_a_healthy_federation_has_data_in_every_panel_and_no_alert(watch: Prometheus, begun: int) -> None:
    watch.until(lambda: not empty(watch, failures=False), "every panel of a healthy federation has data")
    watch.until(lambda: not watch.firing(), "no alert fires")
    failures = [panel for board in dashboards.ALL for panel in board.panels if panel.failure]
    assert len(failures) == 6
    for shown in failures:
        assert not any(data(watch, shown)), shown.title


def test_what_the_top_row_says_is_so(watch: Prometheus, begun: int) -> None:
    top = {
        "Silos in the last step": [[SILOS], [SILOS]],
        "Lanes of the last step": [[5], [0]],
        "Jobs that run": [[1]],
        "State": [[1]],
        "Alerts": [[0]],
    }
    for title, figures in top.items():
        found = [list(series.values()) for series in data(watch, panel(dashboards.FEDERATION, title))]
        assert found == figures, title
    assert set(watch.query("consilium_silo_job_processes").values()) == {1.0}
    assert watch.query("consilium_aggregator_connected_silos == consilium_aggregator_charter_members")


def test_no_silo_is_named_at_the_aggregator_and_no_silos_figure_is_there(up: Up, begun: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{ports(up)['aggregator']}/metrics", timeout=10) as answer:
        page: str = answer.read().decode()
    assert "consilium_aggregator_steps_total" in page
    assert not [silo for silo in up.federation.silos if silo in page] and "consilium_silo" not in page


@pytest.fixture(scope="module")
def dead(up: Up) -> Iterator[KeptDead]:
    kept = KeptDead(up)
    yield kept
    kept.end()


def test_silos_that_die_and_a_silo_that_refuses_are_shown_and_alerted_on(
    up: Up, watch: Prometheus, begun: int, place: Path, dead: KeptDead
) -> None:
    """One of three holders of an expert is killed, and a data owner takes an approval back: six of eight go on."""
    dead.add("silo-1")
    watch.until(lambda: "ConsiliumSiloMissing" in watch.firing(), "the dropout's alert fires")
    home = up.federation.homes["silo-8"]
    digest = JobSpec.load(str(place / "job.toml")).digest.hex()
    deny(OwnerView(SiloHome(home)), digest, "a test")
    wanted = {"ConsiliumSiloMissing", "ConsiliumLaneClosed", "ConsiliumRefusalSpike", "ConsiliumAgentRefuses"}
    watch.until(lambda: wanted <= watch.firing(), f"{wanted} fire")
    watch.until(lambda: not empty(watch, failures=True), "every panel has data")
    lost = [
        round(n) for series in data(watch, panel(dashboards.FEDERATION, "Silos lost by phase")) for n in series.values()
    ]
    assert sum(lost) == 1
    refused = data(watch, panel(dashboards.FEDERATION, "Refusals by code"))
    assert [set(series) for series in refused] == [{'{"code": "NOT_APPROVED"}'}]
    silos = [list(series.values()) for series in data(watch, panel(dashboards.FEDERATION, "Silos in the last step"))]
    assert silos == [[SILOS - 2], [SILOS]]


def test_a_run_that_is_lost_is_alerted_on(up: Up, watch: Prometheus, begun: int, dead: KeptDead) -> None:
    dead.add("silo-2")
    new = follow(up, begun, until={Kind.RUN_FINISHED, Kind.RUN_FAILED})
    assert new[-1].kind is Kind.RUN_FAILED
    watch.until(lambda: "ConsiliumRoundLost" in watch.firing(), "the lost round's alert fires")
    assert watch.query('increase(consilium_aggregator_runs_total{end="failed"}[30m]) > 0')
