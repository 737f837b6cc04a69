"""What people see: a live line per silo on a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aggregator import figures
from aggregator.figures import last_headline
from aggregator.home import AggregatorHome
from aggregator.run_record import RunRecord
from jobs.demo.break_lane import sentence
from jobs.evidence.run_summary import uniformity
from silo_agent.methods import contextual

_LABELS = (("fedavg", "FedAvg"), ("fedavg_equal_params", "FedAvg, equal parameters"), ("local", "each silo alone"))


class Shown:
    """A ``View`` on a console. Notes go to stderr when the result is JSON, so that stdout stays one object."""

    def __init__(self, *, json: bool = False, on_result: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._console = Console(stderr=json, highlight=False)
        self._on_result = on_result
        self._live: Live | None = None
        self._began = time.monotonic()
        self._silos: dict[str, tuple[str, float]] = {}
        self._line = ""
        self._step = ""

    def say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {text}")

    def phase(self, step: str, number: int, steps: int, phase: str, silos: Sequence[str]) -> None:
        now = time.monotonic()
        if not self._console.is_terminal:
            if step != self._step:
                self._step = step
                self.say(f"step {number + 1:>3}  {step:<12} {len(silos)} silos")
            return
        if self._live is None:
            self._live = Live(get_renderable=self._lines, console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        for silo in silos:
            self._silos[silo] = (phase, now)
        for silo in set(self._silos) - set(silos):
            self._silos[silo] = ("away" if phase == "open" else self._silos[silo][0], self._silos[silo][1])
        self._line = f"step {number + 1}  {step}"

    def _lines(self) -> Table:
        now = time.monotonic()
        table = Table.grid(padding=(0, 2))
        table.add_row(Text(self._line, style="bold"), "", "")
        for silo, (phase, since) in sorted(self._silos.items()):
            table.add_row(silo, phase, f"{now - since:4.1f} s")
        return table

    def done(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def result(self, report: dict[str, Any], root: Path) -> None:
        print_result(self._console, report, root)
        if self._on_result is not None:
            self._on_result(report)


def print_result(console: Console, report: dict[str, Any], root: Path) -> None:
    """The table, what the aggregator saw of one silo, and what to do next."""
    accuracy, sums = report["accuracy"], report["secure_aggregation"]
    table = Table(title=f"{report['method']} · {report['silos']} silos · test accuracy, per cent", title_justify="left")
    remark = " (contextual)" if contextual(report["method"]) else ""
    for column in ("", f"global{remark}", "personal", "cold (newcomers)"):
        table.add_column(column, justify="left" if not column else "right")
    exact = report["correct"]
    table.add_row(report["method"], *_cells(accuracy), style="bold")
    for key, label in _LABELS:
        if key in accuracy:
            table.add_row(label, *_cells(accuracy[key]))
    console.print()
    if any(value is not None for value in (*(accuracy.get(mode) for mode in ("global", "personal", "cold")), *exact)):
        console.print(table)  # of a task without correct answers there is none
    if line := leading_metric(root, str(report["run_id"])):
        console.print(line, soft_wrap=True)
    right = ", ".join(f"{name} {count}" for name, count in exact.items()) or "no scores"
    console.print(f"correct/total: {right}", style="dim", soft_wrap=True)
    console.print(
        f"{sums['steps_released']} steps released, {sums['steps_void']} void; {sums['lanes_closed']} lanes shut; "
        f"{sums['refusals']} refusals; {sums['upload_bytes'] / 1e6:.2f} MB uploaded, "
        f"{sums['masked_bytes_per_parameter']} bytes a parameter.",
        soft_wrap=True,
    )
    if report["withheld"]:
        console.print(figures.sentence(report["withheld"]), soft_wrap=True)
    if "broken" in report:
        console.print(sentence(report["broken"]), style="bold", soft_wrap=True)
    seen = what_was_seen(root, str(report["run_id"]))
    if seen:
        console.print()
        for line in seen:
            console.print(line, soft_wrap=True)
    console.print()
    console.print("Next:")
    console.print(f"  open the report        {_short(report['report'])}", soft_wrap=True)
    if report["mlflow"]:
        console.print(f"  see the lineage        fed mlflow {_short(root)}", soft_wrap=True)
    console.print(f"  what may leave a silo  fed egress {report['job']}")
    console.print(
        "  a job of your own      copy a file of jobs/catalogue, then fed up --job my-job.toml --data FOLDER",
        soft_wrap=True,
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    found = (row.get(mode) for mode in ("global", "personal", "cold"))
    return ["–" if value is None else f"{value:.1f}" for value in found]


def leading_metric(root: Path, run: str) -> str:
    """The run's leading metric beside its baseline, as opened last; "" where none opened."""
    record = RunRecord.read(AggregatorHome(root / "aggregator"), run)
    return last_headline(record.closed)


def what_was_seen(root: Path, run: str) -> list[str]:
    """What the aggregator holds of one silo's last upload: noise, with a figure that says how much."""
    import numpy as np

    files = sorted((root / "aggregator" / "jobs" / run / "uploads").glob("*/*/*.u32"))
    if not files:
        return []
    largest = max(reversed(files), key=lambda path: path.stat().st_size)
    words = np.fromfile(largest, dtype="<u4")
    statistic, freedom = uniformity(words)
    silo, step = largest.parent.name, int(largest.parent.parent.name)
    return [
        f"What the aggregator saw of {silo} in step {step} (lane {largest.stem}, {words.size} words):",
        f"  {words[:12].tobytes().hex(' ', 4)} …",
        f"  bytes against uniform: chi-square {statistic:.0f} at {freedom} degrees of freedom "
        f"(uniform noise gives {freedom} ± {3 * (2 * freedom) ** 0.5:.0f})",
    ]


def _short(path: str | Path) -> str:
    path = Path(path)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
