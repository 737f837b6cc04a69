"""The institution's decisions: its policy, registered data sets, approvals, and requests that wait for a decision.

Approvals are counted by what they cover: one that names another charter, policy, software or registration than the
current one is void. `fed requests` shows whether a given job is approved.
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
from jobs.doctor.target import Target
from jobs.owner.review import OwnerView
from silo_agent.pysyft.mock import dataset_folder
from silo_agent.readers.ranges import findings

#: An approval that ends sooner than this is a warning. Days.
SOON = 3
_REQUESTS = "Look at what waits with `fed requests`; the data owner signs with `fed approve`."


@check(
    "policy",
    SILO,
    looks="policy.toml: this silo's own floors",
    fails="it cannot be read, or has an entry other than floors",
    remedy="Correct the line that is named; otherwise the next job is refused.",
    after=("home",),
)
def policy(target: Target) -> Finding | None:
    floors = target.silo_home.policy().floors
    return ok(", ".join(f"{lane} = {floor}" for lane, floor in sorted(floors.items())) or "no floors of its own")


@check(
    "data",
    SILO,
    looks="every registered data set: rows or every file against the commitment, ranges, PySyft's rules, modes",
    fails="rows or files are not those that were registered, others may read them, or PySyft knows another"
    " registration; unscaled and constant columns are a warning",
    remedy="Register a data set: `fed data add`.",
    after=("home", "home.keys"),
)
def data(target: Target) -> Finding | None:
    view = OwnerView(target.silo_home, int(target.now))
    names = _names(view)
    if not names:
        return warn("none is registered: this silo can take no job")
    look_at = []
    for name in names:
        view.catalogue.entry(name)
        found = view.catalogue.resolve(name)
        look_at += [f"{name}: {finding}" for finding in findings(found.data, found.schema)]
    if look_at:
        return warn(" ".join(look_at), "Look at the values; register them scaled: `fed data add --replace`.")
    return ok(f"{', '.join(names)}: as registered")


@check(
    "approvals",
    SILO,
    looks="signed approvals: how many are in force, and for how long",
    fails=f"never: none in force, or one that ends within {SOON} days, is a warning",
    remedy=_REQUESTS,
    after=("home", "home.keys", "charter", "charter.member", "policy"),
)
def approvals(target: Target) -> Finding | None:
    view = OwnerView(target.silo_home, int(target.now))
    states = Counter(_state(view, signed, approval) for signed, approval in view.approvals.all())
    summary = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    if not states["in force"]:
        return warn(summary)
    ends = min(
        approval.not_after for signed, approval in view.approvals.all() if _state(view, signed, approval) == "in force"
    )
    left = math.floor((ends - target.now) / DAY)
    return warn(f"{summary}; one ends in {left} days") if left < SOON else ok(summary)


@check(
    "requests",
    SILO,
    looks="jobs that wait for the data owner's decision",
    fails="never: it is for information",
    remedy=_REQUESTS,
    after=("home",),
)
def requests(target: Target) -> Finding | None:
    return ok(f"{OwnerView(target.silo_home, int(target.now)).queue.waiting()} wait")


def _names(view: OwnerView) -> list[str]:
    """Data sets that have a folder, complete or not; found without PySyft."""
    datasite = view.catalogue.datasite
    halves = (dataset_folder(datasite.syftbox, datasite.owner, half, "") for half in ("private", "public"))
    return sorted({entry.name for half in halves if half.is_dir() for entry in os.scandir(half) if entry.is_dir()})


def _state(view: OwnerView, signed: bytes, approval: Approval) -> str:
    """In force, or why not."""
    if not view.in_force(approval):
        return "expired" if view.now > approval.not_after else "denied"
    if view.now < approval.not_before:
        return "not valid yet"
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
        except DataRefused:  # reported by the check `data`
            continue
    return "in force" if terms.commitment in registered else "void"


CHECKS = (policy, data, approvals, requests)
