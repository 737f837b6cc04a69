"""Whether this site can take part, and if not, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import Json, emit

_MARKS = {"pass": "✓", "warn": "!", "fail": "✗"}


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
    app.command()(doctor)


def doctor(
    home: Annotated[
        Path | None, typer.Option("--home", envvar="CONSILIUM_HOME", help="The home of a silo or of the aggregator.")
    ] = None,
    kit: Annotated[
        Path | None, typer.Option("--kit", envvar="CONSILIUM_KIT", help="The startup kit, or its *.kit.tar.gz.")
    ] = None,
    role: Annotated[
        str | None, typer.Option("--role", help="silo, aggregator or admin, where neither kit nor home shows it.")
    ] = None,
    metrics_port: Annotated[int, typer.Option("--metrics-port", help="The port for /metrics.")] = 0,
    as_json: Json = False,
) -> None:
    """Check this site: packages, home, kit, server, charter, journal, data, records. Changes nothing; exit code 70
    if anything fails."""
    from jobs.doctor.check import Status, Unfit
    from jobs.doctor.runner import find_target, run_checks, unpacked

    results = []
    with unpacked(kit) as folder:
        target = find_target(role, home, folder, metrics_port)
        for result in run_checks(target):
            results.append(result)
            if not as_json:
                print(f"{_MARKS[result.status]} {result.name:<19} {result.found}", flush=True)
                if result.remedy:
                    print(f"{'':<22}→ {result.remedy}", flush=True)
    counts = {status.value: sum(result.status is status for result in results) for status in Status}
    if not as_json:
        print(f"{target.role}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    emit(
        {
            "role": target.role,
            "checks": [
                {"name": result.name, "status": result.status, "found": result.found, "remedy": result.remedy}
                for result in results
            ],
        },
        as_json,
    )
    if counts["fail"]:
        raise typer.Exit(Unfit.exit_code)
