"""One service per home: a service locks its home's ``silo.json`` or ``aggregator.json`` while it runs.

The lock is the operating system's and ends with the process, also with a killed one. Two services in one home would be
two agents with one identity: each would answer the server, and their signed messages would contradict each other. A
lock cannot detect the same key in two homes on two machines; the peers can: they refuse a release counter that
decreased.
"""

from __future__ import annotations

import os
from pathlib import Path

from crypto import durable
from jobs.doctor.check import SERVICES, SILO, CheckResult, Finding, Status, Unfit, check, fail, ok, warn
from jobs.doctor.target import Target

_REMEDY = "Stop the other one first; one service and one agent per identity."
_held: dict[Path, int] = {}


@check(
    "alone",
    SERVICES,
    looks="whether a service runs in this home already: at a start, by its lock",
    fails="at a start: another process holds the lock",
    remedy=_REMEDY,
    start=SERVICES,
    after=("home",),
)
def alone(target: Target) -> Finding | None:
    found = holders(target.home_file)
    if found and target.starting:
        return fail(f"process {found[0]} serves {target.home.root} already: two agents with one identity")
    return ok(f"a service runs here, process {found[0]}" if found else "no service runs here now")


@check(
    "journal.lock",
    SILO,
    looks="whether an agent has the journal open although no service runs in this home",
    fails="never: it is a warning",
    remedy="An agent of this silo still runs although its service ended: find that process and stop it.",
    after=("home",),
)
def journal_lock(target: Target) -> Finding | None:
    agents = holders(target.silo_home.journal_path)
    if agents and not holders(target.home_file):
        return warn(f"process {agents[0]} has the journal open, and no service runs here")
    return ok(f"an agent has it open, process {agents[0]}" if agents else "free")


def hold(target: Target) -> None:
    """Lock the home for this process, until it ends. Raises Unfit if another process has it."""
    path = target.home_file
    try:
        _held[path] = durable.lock(path, wait=False, create=False)
    except BlockingIOError as held:
        other = ", ".join(f"process {pid}" for pid in holders(path)) or "another process"
        found = f"{other} serves {target.home.root} already: two agents with one identity"
        raise Unfit(CheckResult(alone.name, Status.FAIL, found, _REMEDY)) from held


def release(target: Target) -> None:
    """Unlock the home before this process ends."""
    if (fd := _held.pop(target.home_file, None)) is not None:
        os.close(fd)


def holders(path: Path) -> list[int]:
    """Processes that hold a lock on a file, from /proc/locks; [] where there is no such file.

    Read without touching the lock: trying to take it could keep an agent from starting at that moment.
    """
    try:
        found = path.stat()
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    mark = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    fields = [line.split() for line in lines if "->" not in line]
    return sorted(int(one[4]) for one in fields if len(one) > 5 and one[1] == "FLOCK" and one[5] == mark)


CHECKS = (alone, journal_lock)
