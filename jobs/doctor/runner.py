"""All checks in their order, and a visit that makes those of a role."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from crypto.errors import SpecError
from jobs.doctor import (
    charter,
    clock,
    consent,
    hardened,
    journal,
    kit,
    machine,
    packages,
    records,
    server,
    service,
    single_instance,
    volume,
)
from jobs.doctor.check import Check, Line, Status
from jobs.doctor.target import Place, Role, kit_settings, role_of_home, role_of_kit
from jobs.provisioning import archive

CHECKS: Final[tuple[Check, ...]] = (
    *packages.CHECKS,
    *volume.CHECKS,
    *machine.CHECKS,
    *clock.CHECKS,
    *kit.CHECKS,
    *hardened.CHECKS,
    *single_instance.CHECKS,
    *server.CHECKS,
    *charter.CHECKS,
    *journal.CHECKS,
    *consent.CHECKS,
    *records.CHECKS,
    *service.CHECKS,
)


def find(role: str | None, home: Path | None, kit: Path | None, metrics_port: int = 0) -> Place:
    """The place that these options mean: the role is the kit's or the home's, the home may be in the kit or the kit in
    the home. Raises SpecError where there is nothing to go by."""
    if kit is None and home is not None and (home / "kit" / "startup").is_dir():
        kit = home / "kit"  # where a service unpacks the one it is given
    if home is None and kit is not None and (named := kit_settings(kit).get("home")):
        home = Path(str(named))
    if role is not None and role not in list(Role):
        raise SpecError("--role", got=role, want=", ".join(Role))
    known = Role(role) if role else (kit and role_of_kit(kit)) or (home and role_of_home(home))
    if not known:
        raise SpecError(
            "--home, --kit",
            got=[str(path) for path in (home, kit) if path],
            want="the home of a silo or of the aggregator, or a startup kit",
            remedy="Name the site's home or kit; where neither is whole, say with --role what it should be.",
        )
    return Place(known, home, kit, metrics_port=metrics_port)


@contextmanager
def unpacked(kit: Path | None) -> Iterator[Path | None]:
    """The kit's folder; of a ``*.kit.tar.gz`` one that is gone afterwards. Raises SpecError for what is no kit."""
    if kit is None or not kit.is_file():
        yield kit
        return
    with tempfile.TemporaryDirectory(prefix="consilium-doctor-") as folder:
        archive.write(archive.read(kit), Path(folder))
        yield Path(folder)


def examine(place: Place) -> Iterator[Line]:
    """Each finding as it is made; of a place that is starting only what a start is refused for.

    A check whose ground has failed is not made: it says so, as a warning, and the fail above it is what to mend.
    """
    failed: dict[str, str] = {}  # check → the one whose fail it is, itself or below
    for check in CHECKS:
        if place.role not in check.roles or (place.starting and place.role not in check.start):
            continue
        if ground := [failed[name] for name in check.after if name in failed]:
            failed[check.name] = ground[0]
            yield Line(check.name, Status.WARN, f"not checked, because {ground[0]} failed", "Mend that first.")
            continue
        line = check.line(place)
        if line is not None:
            if line.status is Status.FAIL:
                failed[check.name] = check.name
            yield line


def table() -> str:
    """The checks as a Markdown table, for docs/doctor.md."""
    rows = ["| check | where | looks at | fails when | remedy | stops a start |", "|---|---|---|---|---|---|"]
    for check in CHECKS:
        where = "everywhere" if check.roles == frozenset(Role) else " · ".join(sorted(check.roles))
        stops = " · ".join(sorted(check.start)) or "–"
        rows.append(f"| `{check.name}` | {where} | {check.looks} | {check.fails} | {check.remedy} | {stops} |")
    return "\n".join(rows) + "\n"
