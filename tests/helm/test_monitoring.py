"""Rules and dashboards as they arrive in the cluster: whole, unchanged, and taken by promtool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helm.charts import CHARTS, HELM, case, merged, of_kind, render, values

PROMTOOL = Path("/usr/bin/promtool")


@pytest.mark.parametrize("chart", CHARTS)
def test_promtool_takes_the_rendered_rules(chart: str, tmp_path: Path) -> None:
    assert PROMTOOL.exists(), "promtool is part of the checks: install the package `prometheus`"
    (rule,) = of_kind(case(chart, "full").objects, "PrometheusRule")
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": rule["spec"]["groups"]}))
    done = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("chart", CHARTS)
def test_rules_survive_the_template(chart: str) -> None:
    """Prometheus' own braces among them."""
    written = [
        group
        for file in sorted((HELM / chart / "files" / "rules").glob("*.yaml"))
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    assert written, "a chart without alerts"
    (rule,) = of_kind(case(chart, "full").objects, "PrometheusRule")
    assert rule["spec"]["groups"] == written and "{{ $labels" in json.dumps(written)


@pytest.mark.parametrize("chart", CHARTS)
def test_dashboards_survive_the_template(chart: str) -> None:
    written = {
        file.name: json.loads(file.read_text()) for file in (HELM / chart / "files" / "dashboards").glob("*.json")
    }
    assert written, "a chart without dashboards"
    (found,) = of_kind(case(chart, "full").objects, "ConfigMap")
    assert {name: json.loads(text) for name, text in found["data"].items()} == written
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert sum(map(len, found["data"].values())) < 900_000, "a ConfigMap holds 1 MiB"


@pytest.mark.parametrize("chart", CHARTS)
def test_monitoring_is_made_on_request_and_where_it_is_wanted(chart: str) -> None:
    kinds = {"serviceMonitor": "ServiceMonitor", "prometheusRule": "PrometheusRule", "grafanaDashboards": "ConfigMap"}
    plain = case(chart, "minimal").objects
    for value, kind in kinds.items():
        assert of_kind(plain, kind) == []
        patch = {value: {"enabled": True, "namespace": "observability"}}
        (made,) = of_kind(render(chart, merged(values(chart), patch)).objects, kind)
        assert made["metadata"]["namespace"] == "observability"
