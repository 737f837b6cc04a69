"""What the institution has said: its policy, its data sets as registered, its approvals, and who waits for an answer.

Approvals are counted by what they cover: one that names another charter, policy, software or registration than there is
now is void, and the next job finds out. Whether a given job is approved, `fed requests` says.
"""

from __future__ import annotations

import math
import os
from collections import Counter

from crypto.approval import Approval, approval_digest
from crypto.errors import DataRefused
from jobs import release
from jobs.doctor.check import SILO, Finding, check, ok, warn
from jobs.doctor.kit import DAY
from jobs.doctor.target import Place
from jobs.owner.review import OwnerView
from silo_agent.pysyft.mock import dataset_folder

#: An approval that ends sooner than this is a warning. Days.
SOON = 3
_REQUESTS = "Look at what waits with `fed requests`; the data owner signs with `fed approve`."


@check(
    "policy",
    SILO,
    looks="policy.toml: this silo's own floors",
    fails="it cannot be read, or holds something else than floors",
    remedy="Correct the line that is named; the next job is refused otherwise.",
    after=("home",),
)
def policy(place: Place) -> Finding | None:
    floors = place.silo_home.policy().floors
    return ok(", ".join(f"{lane} = {floor}" for lane, floor in sorted(floors.items())) or "no floors of its own")


@check(
    "data",
    SILO,
    looks="every registered data set: its rows against the commitment, PySyft's rules, modes",
    fails="the rows are not those that were registered, others may read them, or PySyft knows another registration",
    remedy="Register a data set: `fed data add`.",
    after=("home", "home.keys"),
)
def data(place: Place) -> Finding | None:
    view = OwnerView(place.silo_home, int(place.now))
    names = _names(view)
    if not names:
        return warn("none is registered: this silo can take no job")
    for name in names:
        view.catalogue.entry(name)
        view.catalogue.resolve(name)
    return ok(f"{', '.join(names)}: as registered")


@check(
    "approvals",
    SILO,
    looks="signed approvals: how many hold now, for whom, and for how long",
    fails=f"never: none in force, or one that ends within {SOON} days, is a warning",
    remedy=_REQUESTS,
    after=("home", "home.keys", "charter", "charter.member", "policy"),
)
def approvals(place: Place) -> Finding | None:
    view = OwnerView(place.silo_home, int(place.now))
    states = Counter(_state(view, signed, approval) for signed, approval in view.approvals.all())
    said = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    if not states["in force"]:
        return warn(said)
    ends = min(
        approval.not_after for signed, approval in view.approvals.all() if _state(view, signed, approval) == "in force"
    )
    left = math.floor((ends - place.now) / DAY)
    return warn(f"{said}; one ends in {left} days") if left < SOON else ok(said)


@check(
    "requests",
    SILO,
    looks="jobs that wait for the data owner's word",
    fails="never: it is for information",
    remedy=_REQUESTS,
    after=("home",),
)
def requests(place: Place) -> Finding | None:
    return ok(f"{OwnerView(place.silo_home, int(place.now)).queue.waiting()} wait")


def _names(view: OwnerView) -> list[str]:
    """Data sets of which there is anything, whole or half, found without PySyft."""
    datasite = view.catalogue.datasite
    halves = (dataset_folder(datasite.syftbox, datasite.owner, half, "") for half in ("private", "public"))
    return sorted({entry.name for half in halves if half.is_dir() for entry in os.scandir(half) if entry.is_dir()})


def _state(view: OwnerView, signed: bytes, approval: Approval) -> str:
    """In force, or why not."""
    if not view.in_force(approval):
        return "expired" if view.now > approval.not_after else "taken back"
    if view.now < approval.not_before:
        return "of the future"
    if view.uses[approval_digest(signed).hex()] >= approval.max_runs:
        return "used up"
    terms = approval.terms
    have = {"charter": view.charter.digest, "policy": view.policy.digest, "code": release.digest()}
    if any(getattr(terms, name) != value for name, value in have.items()):
        return "void"
    registered = set()
    for name in _names(view):
        try:
            registered.add(view.catalogue.entry(name).commitment)
        except DataRefused:  # the check of the data says so
            continue
    return "in force" if terms.commitment in registered else "void"


CHECKS = (policy, data, approvals, requests)
