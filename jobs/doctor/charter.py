"""The charter that is pinned: signed, valid, with this site and its key in it, and the newest there is here."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from pathlib import Path

from crypto.errors import FederationError
from crypto.pinned_charter import CHARTER_FILE
from jobs.doctor.check import AGGREGATOR, SERVICES, SILO, Finding, check, fail, ok, warn
from jobs.doctor.kit import DAY, FEW_DAYS
from jobs.doctor.target import Place
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog

_ACCEPT = "Look at the epoch and accept it: `fed charter accept`."


@check(
    "charter",
    SERVICES,
    looks="the pinned charter and the consortium's signature of it",
    fails="none is pinned, or its signature does not hold under the pinned key",
    remedy="Pin the charter that the consortium signed: `fed charter accept`.",
    after=("home",),
)
def charter(place: Place) -> Finding | None:
    found = place.charter
    return ok(f"{found.federation}, epoch {found.epoch}, {len(found.silos)} silos")


@check(
    "charter.days",
    SERVICES,
    looks="the charter's dates",
    fails=f"it is not valid now; fewer than {FEW_DAYS} days left are a warning",
    remedy="Ask the consortium to sign the next epoch, then `fed charter accept`.",
    after=("home", "charter"),
)
def charter_days(place: Place) -> Finding | None:
    found = place.charter
    if place.now < found.not_before:
        return fail(f"not valid before {_day(found.not_before)}", "Compare this machine's clock with the charter.")
    left = math.floor((found.not_after - place.now) / DAY)
    if place.now > found.not_after:
        return fail(f"it ended on {_day(found.not_after)}")
    said = f"{left} days left, until {_day(found.not_after)}"
    return warn(said) if left < FEW_DAYS else ok(said)


@check(
    "charter.member",
    SILO,
    looks="this silo in the charter, and the agent's key against the one it names",
    fails="the charter has no such silo, or another key for it",
    remedy="Restore the key that the charter names, or have the consortium sign an epoch with this one.",
    after=("home", "home.keys", "charter"),
)
def charter_member(place: Place) -> Finding | None:
    if place.silo not in place.charter.silos:
        remedy = "Send the member file that `fed keygen` wrote to the consortium, for its next epoch."
        return fail(f"epoch {place.charter.epoch} has no {place.silo}", remedy)
    want = place.charter.member(place.silo).agent
    have = place.silo_home.identity().public
    if have != want:
        return fail(f"the key here is {have.fingerprint}, the charter names {want.fingerprint}")
    return ok(f"{place.silo}, {have.fingerprint}")


@check(
    "charter.aggregator",
    AGGREGATOR,
    looks="the aggregator's key against the one that the charter names",
    fails="the charter names another",
    remedy="Restore the key that the charter names, or have the consortium sign an epoch with this one.",
    after=("home", "home.keys", "charter"),
)
def charter_aggregator(place: Place) -> Finding | None:
    want = place.charter.aggregator
    have = place.aggregator_home.identity().public
    if have != want:
        return fail(f"the key here is {have.fingerprint}, the charter names {want.fingerprint}")
    return ok(have.fingerprint)


@check(
    "charter.newest",
    SERVICES,
    looks="the pinned epoch against what was accepted here before, and against the epoch that is handed in",
    fails="an older epoch is pinned than this home had; a newer one that waits is a warning",
    remedy="Restore the home's latest charter.bin, or accept the newest epoch again: `fed charter accept`.",
    after=("home", "charter"),
)
def charter_newest(place: Place) -> Finding | None:
    pinned = place.charter.epoch
    last = SecurityLog(place.house).last(Event.CHARTER_ACCEPTED)
    if last is not None and int(last.fields["epoch"]) > pinned:
        return fail(f"epoch {pinned} is pinned, and epoch {last.fields['epoch']} was accepted on {last.at[:10]}")
    if (waiting := _handed_in(place)) > pinned:
        return warn(f"epoch {pinned} is pinned, epoch {waiting} waits", _ACCEPT)
    return ok(f"epoch {pinned}")


def _handed_in(place: Place) -> int:
    """The epoch in the folder of CONSILIUM_CHARTER, or left in ``charters/``; 0 for none, or for what is no charter."""
    from jobs.membership.propose import parse

    folder = os.environ.get("CONSILIUM_CHARTER")
    epochs = [0]
    for path in (*place.house.pinned.epoch_files(), *([Path(folder) / CHARTER_FILE] if folder else [])):
        try:
            epochs.append(parse(path.read_bytes()).charter.epoch)
        except (OSError, FederationError):
            continue
    return max(epochs)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


CHECKS = (charter, charter_days, charter_member, charter_aggregator, charter_newest)
