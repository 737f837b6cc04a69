"""Is this site able to take part, and if not, what to do."""

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
        str | None, typer.Option("--role", help="silo, aggregator or admin, where neither kit nor home says.")
    ] = None,
    metrics_port: Annotated[int, typer.Option("--metrics-port", help="The port that /metrics is to have.")] = 0,
    as_json: Json = False,
) -> None:
    """Look at this site: packages, home, kit, server, charter, journal, data, records. Changes nothing; exit code 70
    if anything fails."""
    from jobs.doctor.check import Status, Unfit
    from jobs.doctor.runner import examine, find, unpacked

    lines = []
    with unpacked(kit) as folder:
        place = find(role, home, folder, metrics_port)
        for line in examine(place):
            lines.append(line)
            if not as_json:
                print(f"{_MARKS[line.status]} {line.name:<19} {line.found}", flush=True)
                if line.remedy:
                    print(f"{'':<22}→ {line.remedy}", flush=True)
    counts = {status.value: sum(line.status is status for line in lines) for status in Status}
    if not as_json:
        print(f"{place.role}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    emit(
        {
            "role": place.role,
            "checks": [
                {"name": line.name, "status": line.status, "found": line.found, "remedy": line.remedy} for line in lines
            ],
        },
        as_json,
    )
    if counts["fail"]:
        raise typer.Exit(Unfit.exit_code)
