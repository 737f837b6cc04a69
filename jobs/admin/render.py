"""How ``fed jobs`` and ``fed status`` print. Everything a server sent is printable already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = ("job_id", "name", "state", "run", "submitted", "by")


def table_lines(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a job, oldest first, columns aligned."""
    if not jobs:
        return ["no jobs"]
    rows = [_COLUMNS, *([str(job[column]) or "–" for column in _COLUMNS] for job in jobs)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def job_lines(found: Mapping[str, Any], *, why: bool) -> list[str]:
    """One job in a few lines; with ``why`` also the reasons."""
    lines = [f"{found['name']} ({found['job_id']}): {found['state']}; NVFlare says {found['nvflare']}"]
    status = found["status"]
    if status is not None:
        lines += _status_lines(status)
    if model := found["model"]:
        lines.append(f"model: {model['model']}, version {model['version']}")
    elif found["state"] == "finished":
        lines.append("model: not in MLflow yet; ask again in a few seconds")
    if why:
        lines += [f"  {line}" for line in found["why"] or ("nothing is missing, nobody refused",)]
    if found["next"]:
        lines.append("next, HOME is the aggregator's:" if found["state"] == "finished" else "next:")
        lines += [f"  {line}" for line in found["next"]]
    return lines


def _status_lines(status: Mapping[str, Any]) -> list[str]:
    step, closed, outcome = status["step"], status["last_closed"], status["outcome"]
    lines = [
        f"run {status['run']}: {status['steps_released']} of {step['of']} steps closed, {status['steps_void']} void"
    ]
    if not status["run"]:
        lines = []
    if status["phase"]:
        at = "stood" if outcome else "is"
        tries = f", attempt {step['attempt'] + 1}" if step["attempt"] else ""
        where = f"step {step['name']} ({step['k'] + 1} of {step['of']}{tries}), phase {status['phase']}"
        lines.append(f"{at} at the closing signatures" if status["phase"] == "close" else f"{at} at {where}")
        if not outcome:
            answered = f"{len(status['answered'])} of {len(status['asked'])} answered"
            missing = f"; missing: {', '.join(status['missing'])}" if status["missing"] else ""
            lines.append(f"since {status['since']}: {answered}{missing}")
    if closed:
        shut = f"; shut: {', '.join(closed['lanes_shut'])}" if closed["lanes_shut"] else ""
        if closed["figures_withheld"]:
            shut += f"; figures withheld by the silos: {', '.join(closed['figures_withheld'])}"
        silos = f"{closed['survivors']} of {closed['invited']} silos"
        lines.append(f"last closed: {closed['name']} at {closed['time']}, {silos}{shut}")
    if status["headline"]:
        lines.append(f"scores: {status['headline']}")
    if status["privacy"]:
        lines.append(f"privacy: {status['privacy']}")
    if status["absent"]:
        out = (f"{silo} {why['code'] or 'silent'} ({why['phase']})" for silo, why in sorted(status["absent"].items()))
        lines.append(f"out: {', '.join(out)}")
    if outcome:
        word = outcome["code"] or "finished"
        where = "on the ledger" if outcome["on_ledger"] else "before a run was on the ledger"
        lines.append(f"outcome: {word} at {outcome['time']}, {where}")
    return lines
