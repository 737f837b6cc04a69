"""The Grafana dashboards as code: one for a federation, at the aggregator's site, and one for a silo, at its own.

    python -m helm.dashboards

writes helm/aggregator/files/dashboards/federation.json and helm/silo-agent/files/dashboards/silo.json, which the charts
ship. Tests compare the files with this module, and run every query against a Prometheus that scraped a federation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from helm.grafana import GREEN, ORANGE, RED, Dashboard, Panel, Query, Row, text

ROOT: Final = Path(__file__).resolve().parent
# --- panels ------------------------------------------------------------------------------------------------------

CHOSEN: Final = 'instance=~"$instance"'
HUB: Final = "consilium_aggregator_"
SILO: Final = "consilium_silo_"
#: Colours of days that are left: the alerts begin at 14.
DAYS: Final = ((RED, None), (ORANGE, 14.0), (GREEN, 30.0))
BAD: Final = ((GREEN, None), (RED, 1.0))
OPEN: Final = 'state="open"'
SHUT: Final = 'state="shut"'
YES_NO: Final = (("0", "not ready", RED), ("1", "ready", GREEN))


def metric(name: str, *more: str) -> str:
    return f"{name}{{{', '.join((CHOSEN, *more))}}}"


def per_second(name: str) -> str:
    return f"rate({metric(name)}[$__rate_interval])"


def grown(name: str, *more: str) -> str:
    return f"increase({metric(name, *more)}[$__rate_interval])"


def stat(title: str, about: str, *queries: Query, width: int = 4, **look: Any) -> Panel:
    return Panel(title, "stat", queries, about, width=width, height=4, **look)


def graph(title: str, about: str, *queries: Query, **look: Any) -> Panel:
    return Panel(title, "timeseries", queries, about, **look)


def quantiles(title: str, about: str, name: str, by: str = "") -> Panel:
    labels, legend = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    return graph(
        title,
        about,
        *(
            Query(f"histogram_quantile({q}, sum by ({labels}) ({per_second(name + '_bucket')})) >= 0", f"{legend}p{n}")
            for q, n in ((0.5, 50), (0.95, 95))
        ),
        unit="s",
    )


def heat(title: str, about: str, name: str) -> Panel:
    return Panel(
        title, "heatmap", (Query(f"sum by (le) ({grown(name + '_bucket')})", "{{le}}"),), about, unit="s", width=24
    )


def readiness(prefix: str) -> Panel:
    return stat(
        "State",
        "What /readyz says. No data: it does not answer.",
        Query(metric(f"{prefix}ready"), "{{instance}}"),
        words=YES_NO,
        steps=((RED, None), (GREEN, 1.0)),
    )


def alerts() -> Panel:
    return stat(
        "Alerts",
        "Alerts that fire now; docs/alerts.md says what to do about each.",
        Query('count(ALERTS{alertname=~"Consilium.+", alertstate="firing"}) or vector(0)', "firing"),
        steps=BAD,
    )


def firing() -> Panel:
    return Panel(
        "Alerts that fire",
        "table",
        (Query('ALERTS{alertname=~"Consilium.+", alertstate="firing"}', table=True),),
        "docs/alerts.md has a section for each.",
        width=24,
        height=6,
        failure=True,
    )


def refusals(prefix: str) -> Panel:
    return graph(
        "Refusals by code",
        "docs/errors says what each code means.",
        Query(f"sum by (code) ({grown(f'{prefix}refusals_total')}) > 0", "{{code}}"),
        failure=True,
    )


def upkeep(prefix: str) -> Row:
    """What an operator looks at once a week."""
    return Row(
        "Upkeep",
        (
            graph(
                "Days left",
                "Until the certificates of the kit and the pinned charter run out. The alerts begin at 14 days.",
                Query(
                    f"({metric(f'{prefix}certificate_expiry_timestamp_seconds')} - time()) / 86400",
                    "certificate: {{certificate}}",
                ),
                Query(f"({metric(f'{prefix}charter_expiry_timestamp_seconds')} - time()) / 86400", "charter"),
                unit="d",
                steps=DAYS,
            ),
            graph(
                "Resident memory",
                "The long-lived process, its job processes, its other children.",
                Query(metric(f"{prefix}resident_memory_bytes"), "{{process}}"),
                unit="bytes",
            ),
            graph(
                "Free space",
                "Where the home lies.",
                Query(metric(f"{prefix}home_free_bytes"), "{{instance}}"),
                unit="bytes",
                steps=((RED, None), (GREEN, 1e9)),
            ),
            Panel(
                "What runs",
                "table",
                (Query(metric("consilium_build_info", f'role="{prefix.split("_")[1]}"'), table=True),),
                "Sites must run the same software: VERSION_MISMATCH otherwise.",
                width=12,
            ),
            graph(
                "Figures that can't be read",
                "1 for each; the process's log says why. Alerts that depend on them cannot fire.",
                Query(f"sum by (collector) ({metric(f'{prefix}scrape_error')})", "{{collector}}"),
                steps=BAD,
                width=12,
            ),
        ),
    )


# --- the federation's --------------------------------------------------------------------------------------------

FEDERATION: Final = Dashboard(
    ROOT / "aggregator" / "files" / "dashboards" / "federation.json",
    "consilium-federation",
    "Consilium: federation",
    "Rounds of a federation, as its aggregator sees them. No figure is of a single silo and none is named.",
    f"{HUB}ready",
    (
        Row(
            "Now",
            (
                readiness(HUB),
                stat(
                    "Last step closed",
                    "How long ago.",
                    Query(f"time() - {metric(f'{HUB}last_step_closed_timestamp_seconds')}", "ago"),
                    unit="s",
                ),
                stat(
                    "Silos in the last step",
                    "Those whose updates are in the sum, and those that were invited.",
                    Query(metric(f"{HUB}step_surviving_silos"), "in the sum"),
                    Query(metric(f"{HUB}step_invited_silos"), "invited"),
                ),
                stat(
                    "Lanes of the last step",
                    "A lane that stays shut has too few contributors; its blocks stay as they are.",
                    Query(metric(f"{HUB}step_lanes", OPEN), "open"),
                    Query(metric(f"{HUB}step_lanes", SHUT), "shut"),
                ),
                stat(
                    "Jobs that run",
                    "NVFlare job processes at the aggregator.",
                    Query(metric(f"{HUB}job_processes"), "running"),
                ),
                alerts(),
                firing(),
            ),
        ),
        Row(
            "Rounds",
            (
                graph(
                    "Steps per minute by outcome",
                    "closed: opened and applied. void: spent without a result. lost: given up, with its run.",
                    Query(f"60 * sum by (outcome) ({per_second(f'{HUB}steps_total')})", "{{outcome}}"),
                ),
                graph(
                    "Silos",
                    "Invited to each step, and in its sum; connected now; in the charter.",
                    Query(metric(f"{HUB}step_invited_silos"), "invited"),
                    Query(metric(f"{HUB}step_surviving_silos"), "in the sum"),
                    Query(metric(f"{HUB}connected_silos"), "connected"),
                    Query(metric(f"{HUB}charter_members"), "in the charter"),
                ),
                graph(
                    "Lanes",
                    "Of each step; and for how many steps in a row one lane has stayed shut. The alert begins at 3.",
                    Query(metric(f"{HUB}step_lanes", OPEN), "open"),
                    Query(metric(f"{HUB}step_lanes", SHUT), "shut"),
                    Query(metric(f"{HUB}lane_shut_streak_steps"), "longest shut in a row"),
                ),
                graph(
                    "Silos lost by phase",
                    "Silos that did not answer. Which ones: `fed status --why`, for those with a role.",
                    Query(f"sum by (phase) ({grown(f'{HUB}lost_silos_total')}) > 0", "{{phase}}"),
                    failure=True,
                ),
                refusals(HUB),
                graph(
                    "Lanes shut",
                    "Lanes that stayed shut when their step closed.",
                    Query(f"sum ({grown(f'{HUB}lanes_total', SHUT)}) > 0", "shut"),
                    failure=True,
                ),
            ),
        ),
        Row(
            "Speed",
            (
                quantiles(
                    "Time of a phase", "From its requests to its last reply.", f"{HUB}phase_duration_seconds", "phase"
                ),
                graph(
                    "Upload",
                    "Masked bytes received per second.",
                    Query(f"sum ({per_second(f'{HUB}uploaded_bytes_total')})", "received"),
                    unit="Bps",
                ),
                graph(
                    "Runs ended",
                    "By how they ended.",
                    Query(f"sum by (end) ({metric(f'{HUB}runs_total')})", "{{end}}"),
                ),
                graph(
                    "Runs interrupted",
                    "Without an end and without a process, by what becomes of them: docs/reliability.md.",
                    Query(f"sum by (standing) ({metric(f'{HUB}interrupted_runs')})", "{{standing}}"),
                    steps=((GREEN, None), (ORANGE, 1.0)),
                ),
                heat("Phases by their time", "Every phase of every step.", f"{HUB}phase_duration_seconds"),
            ),
        ),
        Row(
            "Model",
            (
                graph(
                    "Accuracy of the federation",
                    "Opened hits over opened rows: a sum over the cohort, of the last step that had them.",
                    Query(metric(f"{HUB}accuracy_ratio"), "{{score}}"),
                    unit="percentunit",
                    width=16,
                ),
                graph(
                    "MLflow's backlog",
                    "Ledger records that are not in MLflow yet. Rounds do not wait for it.",
                    Query(metric(f"{HUB}mlflow_backlog_records"), "records"),
                    steps=((GREEN, None), (ORANGE, 1.0)),
                ),
                graph(
                    "Metrics of the federation",
                    "From sums over the cohort, as last opened. What a missing class leaves undefined is a gap.",
                    Query(metric(f"{HUB}metric_value"), "{{mode}} {{metric}}"),
                    width=16,
                ),
                graph(
                    "Without a model",
                    "The same metrics of always the most common class, of the classes' shares, of a ranking by chance.",
                    Query(metric(f"{HUB}metric_baseline_value"), "{{mode}} {{metric}}"),
                    width=8,
                ),
            ),
        ),
        upkeep(HUB),
    ),
)

# --- a silo's ----------------------------------------------------------------------------------------------------

AGENT: Final = Dashboard(
    ROOT / "silo-agent" / "files" / "dashboards" / "silo.json",
    "consilium-silo",
    "Consilium: silo",
    "One silo, for its own operators. Its accuracy and its rows are shown here and leave by nothing else.",
    f"{SILO}ready",
    (
        Row(
            "Now",
            (
                readiness(SILO),
                stat(
                    "Last release",
                    "How long ago shares of a step left this silo.",
                    Query(f"time() - {metric(f'{SILO}last_release_timestamp_seconds')}", "ago"),
                    unit="s",
                ),
                stat(
                    "Requests",
                    "Jobs that wait for the data owner: `fed requests`.",
                    Query(metric(f"{SILO}queued_requests"), "waiting"),
                    steps=((GREEN, None), (ORANGE, 1.0)),
                ),
                stat(
                    "Jobs that run",
                    "NVFlare job processes at this silo.",
                    Query(metric(f"{SILO}job_processes"), "running"),
                ),
                stat(
                    "Training rows",
                    "Of the data set that the last job used.",
                    Query(metric(f"{SILO}dataset_rows"), "rows"),
                ),
                alerts(),
                firing(),
            ),
        ),
        Row(
            "Rounds",
            (
                graph(
                    "Steps per minute by outcome",
                    "released: this silo's update is in the sum. missed: the step closed without it. void: no result.",
                    Query(f"60 * sum by (outcome) ({per_second(f'{SILO}steps_total')})", "{{outcome}}"),
                ),
                graph(
                    "Job processes started again",
                    "Those that died. After too many in a row they are given up: docs/reliability.md.",
                    Query(f"sum ({metric(f'{SILO}job_restarts_total')})", "started again"),
                    Query(f"sum ({metric(f'{SILO}jobs_given_up_total')})", "given up"),
                    steps=((GREEN, None), (ORANGE, 1.0)),
                ),
                refusals(SILO),
                quantiles(
                    "Time to answer a phase",
                    "Training is in `contribute`.",
                    f"{SILO}phase_duration_seconds",
                    "phase",
                ),
            ),
        ),
        Row(
            "Speed",
            (
                quantiles("Local training", "Of one step.", f"{SILO}training_duration_seconds"),
                graph(
                    "Masking",
                    "Bytes masked per second of masking.",
                    Query(
                        f"sum ({per_second(f'{SILO}masked_bytes_total')})"
                        f" / (sum ({per_second(f'{SILO}mask_duration_seconds_sum')}) > 0)",
                        "masked",
                    ),
                    unit="Bps",
                ),
                graph(
                    "Upload",
                    "Masked bytes handed to the aggregator per second.",
                    Query(f"sum ({per_second(f'{SILO}uploaded_bytes_total')})", "sent"),
                    unit="Bps",
                ),
                heat("Phases by their time", "Every answer of this silo.", f"{SILO}phase_duration_seconds"),
            ),
        ),
        Row(
            "Model",
            (
                graph(
                    "Accuracy on this silo's own test rows",
                    "In the last step that it contributed to, by mode. This figure never leaves the silo.",
                    Query(metric(f"{SILO}accuracy_ratio"), "{{mode}}"),
                    unit="percentunit",
                ),
                graph(
                    "Metrics on this silo's own test rows",
                    "As last computed. A figure that a missing class leaves undefined is a gap. None leaves the silo.",
                    Query(metric(f"{SILO}metric_value"), "{{mode}} {{metric}}"),
                ),
            ),
        ),
        upkeep(SILO),
    ),
)

ALL: Final = (FEDERATION, AGENT)


def main() -> None:
    for dashboard in ALL:
        dashboard.path.parent.mkdir(parents=True, exist_ok=True)
        dashboard.path.write_text(text(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
