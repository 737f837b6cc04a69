"""A dashboard as values, and the JSON that Grafana imports. ``helm.dashboards`` has the dashboards themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
GREEN, ORANGE, RED = "green", "orange", "red"
#: Grafana's grid.
COLUMNS: Final = 24


@dataclass(frozen=True, slots=True)
class Query:
    """``legend``: Grafana's template of a series' name. ``table``: only the last value, as rows of a table."""

    expr: str
    legend: str = ""
    table: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """``steps``: (colour, from this value on), the first from −∞. ``words``: value → what is shown instead.

    ``failure``: its queries give nothing until something has gone wrong.
    """

    title: str
    kind: str
    queries: tuple[Query, ...]
    about: str
    unit: str = "short"
    steps: tuple[tuple[str, float | None], ...] = ((GREEN, None),)
    words: tuple[tuple[str, str, str], ...] = ()
    width: int = 8
    height: int = 8
    failure: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """``path``: where its JSON lies. ``instances``: the metric whose instances can be chosen from."""

    path: Path
    uid: str
    title: str
    about: str
    instances: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


# --- Grafana's JSON ----------------------------------------------------------------------------------------------

_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "stat": {
        "colorMode": "background_solid",
        "graphMode": "none",
        "justifyMode": "center",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    "timeseries": {
        "legend": {"calcs": ["lastNotNull"], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "heatmap": {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
        "legend": {"show": True},
        "tooltip": {"mode": "single"},
        "yAxis": {"unit": "s"},
    },
    "table": {"cellHeight": "sm", "showHeader": True},
}


def _target(query: Query, place: int, kind: str) -> dict[str, Any]:
    return {
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "format": "table" if query.table else "heatmap" if kind == "heatmap" else "time_series",
        "instant": query.table,
        "range": not query.table,
        "legendFormat": query.legend or "__auto",
        "refId": chr(ord("A") + place),
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    mappings = [
        {"type": "value", "options": {value: {"text": text, "color": colour, "index": index}}}
        for index, (value, text, colour) in enumerate(panel.words)
    ]
    defaults = {
        "unit": panel.unit,
        "mappings": mappings,
        "thresholds": {"mode": "absolute", "steps": [{"color": colour, "value": at} for colour, at in panel.steps]},
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
    }
    if panel.failure:
        defaults["noValue"] = "none"
    if panel.kind == "timeseries":
        defaults["min"] = 0
        marked = "dashed" if len(panel.steps) > 1 else "off"
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never", "thresholdsStyle": {"mode": marked}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(query, place, panel.kind) for place, query in enumerate(panel.queries)],
    }


def _grid(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """Panels from left to right, a new line where one does not fit, a heading for each row."""
    found: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        heading = {"id": len(found) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": []}
        found.append(heading | {"gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            found.append(_panel(panel, len(found) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return found


def _variable(name: str, label: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "label": label, "hide": 0, "skipUrlSync": False, **more}


def grafana(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana imports it (10 and later)."""
    instances = f"label_values({dashboard.instances}, instance)"
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["consilium"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                _variable("datasource", "Data source", type="datasource", query="prometheus", refresh=1),
                _variable(
                    "instance",
                    "Instance",
                    type="query",
                    datasource=SOURCE,
                    definition=instances,
                    query={"query": instances, "refId": "instance"},
                    refresh=2,
                    includeAll=True,
                    allValue=".*",
                    multi=True,
                    current={"text": "All", "value": "$__all"},
                ),
            ]
        },
        "panels": _grid(dashboard.rows),
    }


def text(dashboard: Dashboard) -> str:
    return json.dumps(grafana(dashboard), indent=2, ensure_ascii=False) + "\n"
