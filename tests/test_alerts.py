"""Every alert fires when it should and not otherwise, by promtool's own evaluation; and every alert has its page."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PROMTOOL = Path("/usr/bin/promtool")
FILES = (
    ROOT / "helm" / "aggregator" / "files" / "rules" / "consilium-aggregator.yaml",
    ROOT / "helm" / "silo-agent" / "files" / "rules" / "consilium-silo.yaml",
)
PAGE = ROOT / "docs" / "alerts.md"
SEVERITIES = ("critical", "warning", "info")
WHERE = 'job="consilium", instance="here"'
DAY = 86400


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Alert → rule."""
    (group,) = yaml.safe_load(path.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


RULES = {name: rule for path in FILES for name, rule in load(path).items()}
#: Series → values in promtool's notation.
Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """``fires``: series and the place among their values at which the alert must fire; ``shown``: the value in its
    description. ``silent``: more of the same, when it must not. ``labels``: beside job and instance. ``every``: time
    between two values."""

    alert: str
    fires: tuple[Series, int]
    silent: tuple[tuple[Series, int], ...]
    shown: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    bare: bool = False  # no labels of a target: nothing is there that could have one
    every: str = "1m"


def s(name: str, *labels: str) -> str:
    return f"{name}{{{', '.join((*labels, WHERE))}}}"


HUB, SILO = "consilium_aggregator_", "consilium_silo_"


def both(kind: str, hub: str, agent: str, **case: Any) -> list[Case]:
    """The same alert at the aggregator and at a silo. ``PRE`` in a series is the prefix of one's metrics."""

    def filled(series: Series, prefix: str) -> Series:
        return {name.replace("PRE", prefix): values for name, values in series.items()}

    return [
        Case(
            f"Consilium{name}{kind}",
            **case
            | {
                "fires": (filled(case["fires"][0], prefix), case["fires"][1]),
                "silent": tuple((filled(series, prefix), at) for series, at in case["silent"]),
            },
        )
        for name, prefix in ((hub, HUB), (agent, SILO))
    ]


def expiry(what: str, *labels: str, **more: Any) -> dict[str, Any]:
    name = s(f"PRE{what}_expiry_timestamp_seconds", *labels)
    return {
        "fires": ({name: f"{13 * DAY}x10"}, 0),
        "shown": "13.0",
        "silent": (({name: f"{15 * DAY}x10"}, 0), ({name: f"{30 * DAY}x10"}, 10)),
        **more,
    }


CASES = [
    *both(
        "Down",
        "Aggregator",
        "Agent",
        fires=({s("up"): "1x5 0x20", s("PREready"): "1x5 _x20"}, 12),
        silent=(
            ({s("up"): "1x5 0x20", s("PREready"): "1x5 _x20"}, 9),  # not for five minutes
            ({s("up"): "1x30", s("PREready"): "1x30"}, 20),
            ({s("up"): "0x30"}, 20),  # somebody else's target
        ),
    ),
    *both(
        "NotScraped",
        "Aggregator",
        "Agent",
        fires=({'up{job="other", instance="else"}': "1x30"}, 11),
        silent=(
            ({s("up"): "1x30", s("PREready"): "1x30"}, 20),
            ({s("up"): "1x5 0x20", s("PREready"): "1x5 _x20"}, 20),  # that is Down
            ({'up{job="other", instance="else"}': "1x30"}, 9),
        ),
        bare=True,
    ),
    *both(
        "NotReady",
        "Aggregator",
        "Agent",
        fires=({s("PREready"): "1x2 0x10"}, 9),
        silent=(({s("PREready"): "1x2 0x10"}, 7), ({s("PREready"): "0x3 1x10"}, 9), ({s("PREready"): "1x10"}, 9)),
    ),
    Case(
        "ConsiliumRoundLost",
        ({s(f"{HUB}steps_total", 'outcome="lost"'): "0x5 1x30"}, 6),
        (
            ({s(f"{HUB}steps_total", 'outcome="lost"'): "0x5 1x30"}, 22),  # over
            ({s(f"{HUB}steps_total", 'outcome="lost"'): "3x30"}, 10),
            ({s(f"{HUB}steps_total", 'outcome="closed"'): "0+1x30"}, 10),
        ),
        labels={"outcome": "lost"},
    ),
    Case(
        "ConsiliumRunInterrupted",
        ({s(f"{HUB}interrupted_runs", 'standing="waiting"'): "0x3 1x10"}, 6),
        (
            ({s(f"{HUB}interrupted_runs", 'standing="waiting"'): "0x3 1x10"}, 4),  # not for a minute
            ({s(f"{HUB}interrupted_runs", 'standing="waiting"'): "0x3 1 0x10"}, 6),
            ({s(f"{HUB}interrupted_runs", 'standing="never"'): "1x10"}, 6),
        ),
        shown="1",
    ),
    Case(
        "ConsiliumRunNeedsSomebody",
        (
            {
                s(f"{HUB}interrupted_runs", 'standing="ask"'): "1x10",
                s(f"{HUB}interrupted_runs", 'standing="given-up"'): "1x10",
            },
            1,
        ),
        (
            ({s(f"{HUB}interrupted_runs", 'standing="queued"'): "1x10"}, 6),
            ({s(f"{HUB}interrupted_runs", 'standing="blocked"'): "0x10"}, 6),
        ),
        shown="2",
    ),
    Case(
        "ConsiliumAgentJobRestarted",
        ({s(f"{SILO}job_restarts_total"): "0x5 1x30"}, 6),
        (({s(f"{SILO}job_restarts_total"): "0x5 1x30"}, 22), ({s(f"{SILO}job_restarts_total"): "3x30"}, 10)),
        shown="1",
    ),
    Case(
        "ConsiliumAgentJobGivenUp",
        ({s(f"{SILO}jobs_given_up_total"): "0x5 1x30"}, 6),
        (({s(f"{SILO}jobs_given_up_total"): "3x30"}, 10),),
    ),
    Case(
        "ConsiliumRoundVoid",
        ({s(f"{HUB}steps_total", 'outcome="void"'): "0x60 1x60"}, 90),
        (
            ({s(f"{HUB}steps_total", 'outcome="void"'): "1x60"}, 30),
            ({s(f"{HUB}steps_total", 'outcome="void"'): "0x5 1x90"}, 70),
        ),
        shown="1",
        labels={"outcome": "void"},
    ),
    Case(
        "ConsiliumSiloMissing",
        (
            {
                s(f"{HUB}step_invited_silos"): "8x90",
                s(f"{HUB}step_surviving_silos"): "8x4 6x90",
                s(f"{HUB}last_step_closed_timestamp_seconds"): "0x4 300x90",
            },
            5,
        ),
        (
            (
                {
                    s(f"{HUB}step_invited_silos"): "8x90",
                    s(f"{HUB}step_surviving_silos"): "8x90",
                    s(f"{HUB}last_step_closed_timestamp_seconds"): "0x90",
                },
                5,
            ),
            (
                {
                    s(f"{HUB}step_invited_silos"): "8x90",
                    s(f"{HUB}step_surviving_silos"): "6x90",
                    s(f"{HUB}last_step_closed_timestamp_seconds"): "0x90",
                },
                61,  # the run is long over
            ),
        ),
        shown="2",
    ),
    Case(
        "ConsiliumSiloDisconnected",
        ({s(f"{HUB}charter_members"): "8x30", s(f"{HUB}connected_silos"): "8x5 7x30"}, 17),
        (
            ({s(f"{HUB}charter_members"): "8x30", s(f"{HUB}connected_silos"): "8x5 7x30"}, 14),
            ({s(f"{HUB}charter_members"): "8x30", s(f"{HUB}connected_silos"): "8x30"}, 20),
        ),
        shown="1",
    ),
    Case(
        "ConsiliumLaneClosed",
        (
            {
                s(f"{HUB}lane_shut_streak_steps"): "0 1 2 3 4",
                s(f"{HUB}last_step_closed_timestamp_seconds"): "0+60x4",
            },
            3,
        ),
        (
            (
                {
                    s(f"{HUB}lane_shut_streak_steps"): "0 1 2 3 4",
                    s(f"{HUB}last_step_closed_timestamp_seconds"): "0+60x4",
                },
                2,
            ),
            (
                {s(f"{HUB}lane_shut_streak_steps"): "5x90", s(f"{HUB}last_step_closed_timestamp_seconds"): "0x90"},
                61,
            ),
        ),
        shown="3",
    ),
    Case(
        "ConsiliumRefusalSpike",
        (
            {
                s(f"{HUB}refusals_total", 'code="NOT_APPROVED"'): "0+1x30",
                s(f"{HUB}refusals_total", 'code="REPLAY"'): "0x30",
                s(f"{HUB}charter_members"): "8x30",
            },
            20,
        ),
        (
            ({s(f"{HUB}refusals_total", 'code="REPLAY"'): "0x5 6x30", s(f"{HUB}charter_members"): "8x30"}, 10),
            ({s(f"{HUB}refusals_total", 'code="REPLAY"'): "90x30", s(f"{HUB}charter_members"): "8x30"}, 10),
        ),
        shown="15",
    ),
    Case(
        "ConsiliumMlflowBacklog",
        ({s(f"{HUB}mlflow_backlog_records"): "0x2 7x30"}, 19),
        (
            ({s(f"{HUB}mlflow_backlog_records"): "0x2 7x30"}, 16),
            ({s(f"{HUB}mlflow_backlog_records"): "7x10 0 7x10"}, 20),  # it catches up now and then
            ({s(f"{HUB}mlflow_backlog_records"): "0x30"}, 20),
        ),
        shown="7",
    ),
    *both(
        "CertificateExpiring", "", "Agent", **expiry("certificate", 'certificate="own"', labels={"certificate": "own"})
    ),
    *both("CharterExpiring", "", "Agent", **expiry("charter")),
    *both(
        "DiskLow",
        "",
        "Agent",
        fires=({s("PREhome_free_bytes"): "5e8x20"}, 6),
        silent=(({s("PREhome_free_bytes"): "5e8x20"}, 4), ({s("PREhome_free_bytes"): "2e9x20"}, 10)),
        shown="476.8Mi",
    ),
    *both(
        "ScrapeError",
        "",
        "Agent",
        fires=({s("PREscrape_error", 'collector="charter_epoch"'): "0 1x30"}, 17),
        silent=(
            ({s("PREscrape_error", 'collector="charter_epoch"'): "0 1x30"}, 14),
            ({s("PREscrape_error", 'collector="charter_epoch"'): "0x30"}, 20),
        ),
        labels={"collector": "charter_epoch"},
    ),
    Case(
        "ConsiliumAgentProtocolBroken",
        ({s(f"{SILO}refusals_total", 'code="EQUIVOCATION"'): "0x5 1x90"}, 6),
        (
            ({s(f"{SILO}refusals_total", 'code="EQUIVOCATION"'): "0x5 1x90"}, 70),
            ({s(f"{SILO}refusals_total", 'code="NOT_APPROVED"'): "0+1x30"}, 20),
        ),
        labels={"code": "EQUIVOCATION"},
    ),
    Case(
        "ConsiliumAgentRefuses",
        ({s(f"{SILO}refusals_total", 'code="NOT_APPROVED"'): "0+1x30"}, 20),
        (
            ({s(f"{SILO}refusals_total", 'code="NOT_APPROVED"'): "0x9 1x30"}, 20),
            ({s(f"{SILO}refusals_total", 'code="LANE_BELOW_FLOOR"'): "0+1x30"}, 20),
        ),
        shown="15",
    ),
    Case(
        "ConsiliumAgentLeftOut",
        ({s(f"{SILO}steps_total", 'outcome="missed"'): "0x60 1x5 2x5 4x50"}, 80),
        (
            ({s(f"{SILO}steps_total", 'outcome="missed"'): "0x60 1x60"}, 80),
            ({s(f"{SILO}steps_total", 'outcome="released"'): "0+1x90"}, 80),
        ),
        shown="4",
        labels={"outcome": "missed"},
    ),
    Case(
        "ConsiliumAgentRequestsWaiting",
        ({s(f"{SILO}queued_requests"): "0 1x90"}, 73),
        (({s(f"{SILO}queued_requests"): "0 1x90"}, 72), ({s(f"{SILO}queued_requests"): "0x90"}, 80)),
        shown="1",
        every="1h",
    ),
]


def expected(case: Case) -> dict[str, Any]:
    """The alert as promtool wants it: the rule's own texts with this case's words in place of the templates."""
    rule = RULES[case.alert]
    labels = ({} if case.bare else {"job": "consilium", "instance": "here"}) | case.labels

    def told(text: str) -> str:
        text = re.sub(r"{{ \$labels\.(\w+) }}", lambda name: labels[name[1]], text)
        return re.sub(r"{{ \$value( \|[^}]*)? }}", case.shown, text)

    return {
        "exp_labels": {"severity": rule["labels"]["severity"]} | labels,
        "exp_annotations": {key: told(text) for key, text in rule["annotations"].items()},
    }


def unit_test(case: Case, series: Series, at: int, alerts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": case.every,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": f"{at}{case.every[-1]}", "alertname": case.alert, "exp_alerts": alerts}],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_when_it_should_and_only_then(case: Case, tmp_path: Path) -> None:
    assert PROMTOOL.exists(), "promtool is part of the checks: install the package `prometheus`"
    tests = [unit_test(case, *case.fires, [expected(case)])]
    tests += [unit_test(case, series, at, []) for series, at in case.silent]
    (path,) = (file for file in FILES if case.alert in load(file))
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": [str(path)], "evaluation_interval": case.every, "tests": tests})
    )
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    assert sorted(case.alert for case in CASES) == sorted(RULES)
    assert all(case.silent for case in CASES)
    assert len(RULES) == sum(len(load(path)) for path in FILES), "one name twice"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_promtool_accepts_the_files(path: Path) -> None:
    done = subprocess.run([PROMTOOL, "check", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_alert_says_what_it_is_and_where_to_read_on() -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    titles = [section.partition("\n")[0] for section in sections]
    assert titles == list(RULES), "docs/alerts.md: one section for each alert, in the rules' order"
    for (name, rule), section in zip(RULES.items(), sections, strict=True):
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert set(rule["labels"]) == {"severity"} and rule["labels"]["severity"] in SEVERITIES
        assert section.partition("\n\n")[2].startswith(f"**{rule['labels']['severity']}"), name
        assert "*Do:*" in section, name


def test_no_alert_names_a_silo() -> None:
    for name, rule in RULES.items():
        used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert used <= {"instance", "certificate", "collector", "code"}, name
