"""All checks in their order, and the runner that makes those of a role."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from crypto.errors import SpecError
from crypto.home import Home
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
from jobs.doctor.check import Check, CheckResult, Status
from jobs.doctor.target import Role, Target, kit_settings, role_of_home, role_of_kit
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


def find_target(role: str | None, home: Path | None, kit: Path | None, metrics_port: int = 0) -> Target:
    """The site that these options of ``fed doctor`` name.

    ``role``: default: the kit's, else the home's. A kit may name its home, and a home may contain its kit. Raises
    SpecError if the options name neither a home nor a kit.
    """
    if kit is None and home is not None and (home / "kit" / "startup").is_dir():
        kit = home / "kit"  # where a service unpacks the one it is given
    if home is None and kit is not None and (named := kit_settings(kit).get("home")):
        home = Path(str(named))
    if role is not None and role not in list(Role):
        raise SpecError("--role", got=role, want=", ".join(Role))
    known = Role(role) if role else (kit and role_of_kit(kit)) or (home and role_of_home(Home(home)))
    if not known:
        raise SpecError(
            "--home, --kit",
            got=[str(path) for path in (home, kit) if path],
            want="the home of a silo or of the aggregator, or a startup kit",
            remedy="Name the site's home or kit; if both are incomplete, give the role with --role.",
        )
    return Target(known, Home(home) if home else None, kit, metrics_port=metrics_port)


@contextmanager
def unpacked(kit: Path | None) -> Iterator[Path | None]:
    """The kit's folder; for a ``*.kit.tar.gz`` a temporary one. Raises SpecError for what is no kit."""
    if kit is None or not kit.is_file():
        yield kit
        return
    with tempfile.TemporaryDirectory(prefix="consilium-doctor-") as folder:
        archive.write(archive.read(kit), Path(folder))
        yield Path(folder)


def run_checks(target: Target) -> Iterator[CheckResult]:
    """Each result as it is made; for a target that is starting only the checks of a start.

    A check that depends on a failed one is skipped, with a warning that names the failed one.
    """
    failed: dict[str, str] = {}  # check → the failed check behind it: itself or one it depends on
    for check in CHECKS:
        if target.role not in check.roles or (target.starting and target.role not in check.start):
            continue
        if causes := [failed[name] for name in check.after if name in failed]:
            failed[check.name] = causes[0]
            yield CheckResult(check.name, Status.WARN, f"not checked, because {causes[0]} failed", "Fix that first.")
            continue
        result = check.run(target)
        if result is not None:
            if result.status is Status.FAIL:
                failed[check.name] = check.name
            yield result


def table() -> str:
    """The checks as a Markdown table, for docs/doctor.md."""
    rows = ["| check | where | looks at | fails when | remedy | stops a start |", "|---|---|---|---|---|---|"]
    for check in CHECKS:
        where = "everywhere" if check.roles == frozenset(Role) else " · ".join(sorted(check.roles))
        stops = " · ".join(sorted(check.start)) or "–"
        rows.append(f"| `{check.name}` | {where} | {check.looks} | {check.fails} | {check.remedy} | {stops} |")
    return "\n".join(rows) + "\n"
