"""The dashboards in the charts are those of helm/dashboards.py, and Grafana can import them. That their queries give
data is shown by tests/test_federation_metrics.py."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from aggregator.rounds import metrics as hub
from helm import dashboards, grafana
from helm.grafana import Dashboard
from jobs.services import site_metrics
from silo_agent import metrics as silo
from tests import metrics_page
from tests.test_alerts import RULES

ALL = pytest.mark.parametrize("dashboard", dashboards.ALL, ids=lambda dashboard: dashboard.uid)
#: Units of Grafana's that these dashboards use.
UNITS = {"short", "s", "Bps", "bytes", "percentunit", "d"}
#: Metrics of Prometheus's own.
THEIRS = {"ALERTS", "up"}


def panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard.path.read_text())["panels"]
    return found


def served() -> set[str]:
    """Every sample name that the code can serve."""
    names = {"consilium_up", "consilium_start_time_seconds", site_metrics.BUILD[0]}
    for role, room in metrics_page.ROOMS.items():
        names |= {site_metrics.prefix(role) + gauge.name for gauge in (*site_metrics.of_role(role), site_metrics.ERROR)}
        for name, kind, _, _ in metrics_page.instruments(room):
            names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return names


def used(query: str) -> set[str]:
    return set(re.findall(r"\b(?:consilium_\w+|ALERTS|up)\b", query))


@ALL
def test_the_files_are_those_of_the_code(dashboard: Dashboard) -> None:
    assert dashboard.path.read_text(encoding="utf-8") == grafana.text(dashboard), "run: python -m helm.dashboards"
    assert list(dashboard.path.parent.iterdir()) == [dashboard.path]


def test_the_page_of_metrics_is_that_of_the_code() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page(), "run: python -m tests.metrics_page"


@ALL
def test_grafana_can_import_it(dashboard: Dashboard) -> None:
    whole = json.loads(dashboard.path.read_text())
    assert whole["schemaVersion"] >= 36 and re.fullmatch(r"[a-z-]{1,40}", whole["uid"]) and "id" not in whole
    variables = {variable["name"]: variable for variable in whole["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    assert variables["instance"]["datasource"] == grafana.SOURCE
    shown = panels(dashboard)
    assert [panel["id"] for panel in shown] == list(range(1, len(shown) + 1))
    for panel in shown:
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["targets"], panel["title"]
        assert panel["datasource"] == grafana.SOURCE
        assert all(target["datasource"] == grafana.SOURCE for target in panel["targets"])
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, panel["title"]
        first, *others = defaults["thresholds"]["steps"]
        assert first["value"] is None and all(isinstance(step["value"], float) for step in others)
        refs = [target["refId"] for target in panel["targets"]]
        assert refs == sorted(set(refs))


@ALL
def test_panels_fill_the_grid_without_overlap(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(dashboard):
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= grafana.COLUMNS, panel["title"]
        taken |= cells


def test_queries_and_rules_use_metrics_that_are_served() -> None:
    known = served() | THEIRS
    expressions = {
        f"panel {panel.title}": q.expr for board in dashboards.ALL for panel in board.panels for q in panel.queries
    }
    expressions |= {f"alert {name}": rule["expr"] for name, rule in RULES.items()}
    for where, expression in expressions.items():
        assert used(expression) and used(expression) <= known, where


def test_labels_in_queries_have_words_that_the_code_uses() -> None:
    words = {"outcome": {*hub.OUTCOMES, *silo.OUTCOMES}, "state": {*hub.STATES}, "code": {*hub.WORDS["code"]}}
    expressions = [q.expr for board in dashboards.ALL for panel in board.panels for q in panel.queries]
    expressions += [rule["expr"] for rule in RULES.values()]
    found = [match for text in expressions for match in re.findall(r'\b(outcome|state|code)(?:=~?|!=)"([^"]+)"', text)]
    assert found and all(set(value.split("|")) <= words[label] for label, value in found)


@ALL
def test_every_metric_of_a_role_is_on_its_dashboard(dashboard: Dashboard) -> None:
    """But for those that only say what another says, or that alerts alone stand on."""
    besides = {"charter_epoch", "releases_total", "connected_silos"}
    role = dashboard.instances.split("_")[1]
    shown = {name for panel in dashboard.panels for q in panel.queries for name in used(q.expr)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    declared = {name for name, *_ in (*metrics_page.instruments(metrics_page.ROOMS[role]), *metrics_page.site(role))}
    missing = {name.removeprefix(site_metrics.prefix(role)) for name in declared - families} - besides
    if role == site_metrics.SILO:
        missing -= {"charter_members"}
    assert missing == set()
