"""docs/metrics.md, written from the metrics that the code declares.

    python -m tests.metrics_page

rewrites the page. A test compares page and code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from prometheus_client.metrics import MetricWrapperBase

from aggregator.rounds import metrics as hub
from jobs.services import site_metrics
from silo_agent import metrics as silo

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
ROOMS: dict[str, ModuleType] = {site_metrics.AGGREGATOR: hub, site_metrics.SILO: silo}

INTRO = """\
# Metrics

Every metric that the long-lived processes serve at `/metrics`, in Prometheus's text format. This page is written from
the code by `python -m tests.metrics_page`; a test compares the two.

**Where.** `fed aggregator run` and `fed silo run` serve them at `--metrics-host` and `--metrics-port`: 127.0.0.1 and a
free port by default, which is then in `metrics.port` of the home. The containers use 9464. Job processes are
short-lived; the long-lived process adds up their figures, which start at zero with it and outlive the job.

**Who can read them.** Anyone who can reach the port: there is no authentication. A silo's figures are only at the
silo's own endpoint; its accuracy and its rows are among them, so keep that port inside the institution (the chart
admits only Prometheus). The aggregator's figures are of the [cohort](glossary.md#cohort). No silo is named, although
the aggregator knows which were missing: Prometheus data goes to dashboards, pagers and archives of people without a
role in the federation. `fed status --why` names silos to those who have one.

**How many series.** Label values are from fixed lists, below; any other value is counted as `other`. So the number of
series is fixed, whatever a peer or a job sends. Only `score` takes its values from the approved plan, at most
{most} of them; `code` is one of [the error codes](errors/README.md).

**Days left** are not served, because they would be wrong between scrapes: expiry is a timestamp, and alerts and
dashboards subtract the time. A gauge without a value yet is not served. One that cannot be read is missing too, and
`scrape_error` names it; the others are still served.

How good a model is, by which metrics and beside which baselines, is explained in [scores](scores.md).

What to watch is in the dashboards, `helm/aggregator/files/dashboards` and `helm/silo-agent/files/dashboards`, and in
[the alerts](alerts.md).
"""

HEADINGS = {
    site_metrics.AGGREGATOR: "At the aggregator",
    site_metrics.SILO: "At a silo, for that silo only",
}


def table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = ["| name | type | labels | what it is |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in rows)])


def labels(names: tuple[str, ...], words: dict[str, tuple[str, ...]]) -> str:
    """``phase`` (open, deal …); codes are listed elsewhere."""
    shown = [f"`{name}`" + (f": {', '.join(words[name])}" if name in words else "") for name in names]
    return "; ".join(shown) or "–"


def instruments(room: ModuleType) -> Iterator[tuple[str, str, str, str]]:
    """What job processes count, as the room's module declares it."""
    words = {label: (*listed, room.OTHER) for label, listed in room.WORDS.items() if label != "code"}
    for collector in sorted(set(room.REGISTRY._names_to_collectors.values()), key=lambda one: one._name):
        assert isinstance(collector, MetricWrapperBase)
        name = collector._name + ("_total" if collector._type == "counter" else "")
        yield name, collector._type, labels(tuple(collector._labelnames), words), collector._documentation


def site(role: str) -> Iterator[tuple[str, str, str, str]]:
    """What the long-lived process reads at each scrape."""
    for gauge in (*site_metrics.of_role(role), site_metrics.ERROR):
        named = (gauge.label,) if gauge.label else ()
        values = {} if gauge is site_metrics.ERROR else {gauge.label: gauge.values}
        yield site_metrics.prefix(role) + gauge.name, "gauge", labels(named, values), gauge.text


def both() -> Iterator[tuple[str, str, str, str]]:
    yield "consilium_up", "gauge", "–", "1 while the long-lived process runs."
    yield "consilium_start_time_seconds", "gauge", "–", "When the long-lived process started."
    yield (
        site_metrics.BUILD[0],
        "gauge",
        labels(site_metrics.BUILD[2], {"role": site_metrics.ROLES}),
        site_metrics.BUILD[1],
    )


def page() -> str:
    parts = [INTRO.format(most=hub.MAX_SCORES)]
    for role, room in ROOMS.items():
        parts.append(f"## {HEADINGS[role]}\n\nOf rounds, counted by job processes:\n\n{table(instruments(room))}\n")
        parts.append(f"Of the site, read at each scrape:\n\n{table(site(role))}\n")
    parts.append(f"## At both\n\n{table(both())}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
