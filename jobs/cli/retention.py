"""Records and logs of a home: how long they are kept, and whether the security log is whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import Json, emit

HomePath = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="CONSILIUM_HOME",
        help="A silo's or aggregator's home, or a kit.",
        exists=True,
        file_okay=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
    app.command()(retention)
    app.command("security-log")(security_log)


def retention(
    home: HomePath,
    remove: Annotated[bool, typer.Option("--apply", help="Remove the files whose retention time is over.")] = False,
    as_json: Json = False,
) -> None:
    """List the files of a home, how long they are kept, and those whose retention time is over.

    Nothing is removed without --apply."""
    import time

    from crypto.errors import FederationError
    from crypto.home import Home
    from jobs.security_log import retention as keep
    from jobs.security_log.writer import SecurityLog

    held: dict[str, str] = {}

    def stays(path: Path, why: FederationError) -> None:
        held[str(path.relative_to(home))] = f"[{why.code}] {why}"

    there = list(keep.contents(home))
    expired = keep.plan(home, time.time(), held=stays)
    counts = Counter(kind for _, kind in there if kind is not None)
    strange = [str(path.relative_to(home)) for path, kind in there if kind is None]
    if remove:
        keep.apply(home, expired, SecurityLog(Home(home)))
    found = {
        "kinds": [{"kind": kind.name, "class": kind.of, "files": counts[kind]} for kind in keep.KINDS if counts[kind]],
        "expired": [
            {"kind": one.kind.name, "path": str(one.path.relative_to(home)), "bytes": one.bytes} for one in expired
        ],
        "held": held,
        "unknown": strange,
        "removed": remove,
    }
    if not as_json:
        for kind in (kind for kind in keep.KINDS if counts[kind]):
            print(f"{kind.name:<16} {kind.of:<10} {counts[kind]:>6} files  {keep.CLASSES[kind.of][1]}")
        for one in expired:
            print(f"{'removed' if remove else 'expired'}: {one.path.relative_to(home)} ({one.bytes} bytes)")
        for path, why in held.items():
            print(f"kept, because it does not verify: {path}: {why}")
        for path in strange:
            print(f"of no known kind, kept: {path}")
        if expired and not remove:
            print("Nothing was removed. To remove the expired files, repeat with --apply.")
    emit(found, as_json)


def security_log(home: HomePath, as_json: Json = False) -> None:
    """Check a home's security log, all of it: form, events, chain, end. The events are counted."""
    from dataclasses import asdict

    from crypto.home import Home
    from jobs.security_log.writer import check_log

    found = check_log(Home(home))
    if not as_json:
        print(f"{found.lines} lines in {found.files} files are intact, from {found.first} to {found.last}.")
        for event, count in sorted(found.events.items()):
            print(f"{count:>8}  {event}")
        if found.torn:
            print("The last line is incomplete: it is being written, or a process was killed.")
    emit(asdict(found), as_json)
