"""One service per home: the file that says whose home it is, ``silo.json`` or ``aggregator.json``, is locked by it.

The lock is the operating system's and ends with the process, however that ends. Two services in one home would be two
agents with one identity: each would answer the server, and the second would be proven a liar. Against the same key in
two homes, on two machines, no lock helps; there the peers do: they refuse a release counter that went back.
"""

from __future__ import annotations

import os
from pathlib import Path

from crypto import durable
from jobs.doctor.check import SERVICES, SILO, Finding, Line, Status, Unfit, check, fail, ok, warn
from jobs.doctor.target import HOME_FILE, Place, Role

_REMEDY = "Stop the other one first; one service and one agent per identity."
_held: dict[Path, int] = {}


@check(
    "alone",
    SERVICES,
    looks="whether a service runs in this home already: at a start, by taking the lock that it holds",
    fails="at a start: another process holds the lock",
    remedy=_REMEDY,
    start=SERVICES,
    after=("home",),
)
def alone(place: Place) -> Finding | None:
    found = holders(place.house.root / HOME_FILE[place.role])
    if found and place.starting:
        return fail(f"process {found[0]} serves {place.house.root} already: two agents with one identity")
    return ok(f"a service runs here, process {found[0]}" if found else "no service runs here now")


@check(
    "journal.lock",
    SILO,
    looks="whether an agent has the journal open although no service runs in this home",
    fails="never: it is a warning",
    remedy="An agent of this silo runs elsewhere, or one outlived its service: find that process, and stop it.",
    after=("home",),
)
def journal_lock(place: Place) -> Finding | None:
    agents = holders(place.silo_home.journal_path)
    if agents and not holders(place.house.root / HOME_FILE[Role.SILO]):
        return warn(f"process {agents[0]} has the journal, and no service runs here")
    return ok(f"an agent is at work, process {agents[0]}" if agents else "free")


def hold(place: Place) -> None:
    """Take the home for this process, until it ends. Raises Unfit where another one has it."""
    path = place.house.root / HOME_FILE[place.role]
    try:
        _held[path] = durable.lock(path, wait=False, create=False)
    except BlockingIOError as held:
        other = ", ".join(f"process {pid}" for pid in holders(path)) or "another process"
        found = f"{other} serves {place.house.root} already: two agents with one identity"
        raise Unfit(Line(alone.name, Status.FAIL, found, _REMEDY)) from held


def let_go(place: Place) -> None:
    """Give the home back before this process ends."""
    if (fd := _held.pop(place.house.root / HOME_FILE[place.role], None)) is not None:
        os.close(fd)


def holders(path: Path) -> list[int]:
    """Processes that hold a lock on a file, as the system tells (Linux: /proc/locks); [] where it does not tell.

    Asked without touching the lock: trying to take it could keep an agent from starting at that moment.
    """
    try:
        found = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    mark = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    fields = [line.split() for line in lines if "->" not in line]
    return sorted(int(one[4]) for one in fields if len(one) > 5 and one[1] == "FLOCK" and one[5] == mark)


CHECKS = (alone, journal_lock)
