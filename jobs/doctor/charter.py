"""The pinned charter: signed, valid, naming this site and its key, and the newest at this site."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from pathlib import Path

from crypto.errors import FederationError
from crypto.pinned_charter import CHARTER_FILE
from jobs.doctor.check import AGGREGATOR, SERVICES, SILO, Finding, check, fail, ok, warn
from jobs.doctor.kit import DAY, FEW_DAYS
from jobs.doctor.target import Target
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog

_ACCEPT = "Look at the epoch and accept it: `fed charter accept`."


@check(
    "charter",
    SERVICES,
    looks="the pinned charter and the consortium's signature of it",
    fails="none is pinned, or its signature does not verify under the pinned key",
    remedy="Pin the charter that the consortium signed: `fed charter accept`.",
    after=("home",),
)
def charter(target: Target) -> Finding | None:
    found = target.charter
    return ok(f"{found.federation}, epoch {found.epoch}, {len(found.silos)} silos")


@check(
    "charter.days",
    SERVICES,
    looks="the charter's dates",
    fails=f"it is not valid now; fewer than {FEW_DAYS} days left are a warning",
    remedy="Ask the consortium to sign the next epoch, then `fed charter accept`.",
    after=("home", "charter"),
)
def charter_days(target: Target) -> Finding | None:
    found = target.charter
    if target.now < found.not_before:
        return fail(f"not valid before {_day(found.not_before)}", "Compare this machine's clock with the charter.")
    left = math.floor((found.not_after - target.now) / DAY)
    if target.now > found.not_after:
        return fail(f"it ended on {_day(found.not_after)}")
    summary = f"{left} days left, until {_day(found.not_after)}"
    return warn(summary) if left < FEW_DAYS else ok(summary)


@check(
    "charter.member",
    SILO,
    looks="this silo in the charter, and the agent's key against the one it names",
    fails="the charter has no such silo, or another key for it",
    remedy="Restore the key that the charter names, or have the consortium sign an epoch with this one.",
    after=("home", "home.keys", "charter"),
)
def charter_member(target: Target) -> Finding | None:
    if target.silo not in target.charter.silos:
        remedy = "Send the member file that `fed keygen` wrote to the consortium, for its next epoch."
        return fail(f"epoch {target.charter.epoch} has no {target.silo}", remedy)
    want = target.charter.member(target.silo).agent
    have = target.silo_home.identity().public
    if have != want:
        return fail(f"the key here is {have.fingerprint}, the charter names {want.fingerprint}")
    return ok(f"{target.silo}, {have.fingerprint}")


@check(
    "charter.aggregator",
    AGGREGATOR,
    looks="the aggregator's key against the one that the charter names",
    fails="the charter names another",
    remedy="Restore the key that the charter names, or have the consortium sign an epoch with this one.",
    after=("home", "home.keys", "charter"),
)
def charter_aggregator(target: Target) -> Finding | None:
    want = target.charter.aggregator
    have = target.aggregator_home.identity().public
    if have != want:
        return fail(f"the key here is {have.fingerprint}, the charter names {want.fingerprint}")
    return ok(have.fingerprint)


@check(
    "charter.newest",
    SERVICES,
    looks="the pinned epoch against those accepted here before, and against a new epoch that was delivered",
    fails="an older epoch is pinned than this home had; a newer one that is not accepted yet is a warning",
    remedy="Restore the home's latest charter.bin, or accept the newest epoch again: `fed charter accept`.",
    after=("home", "charter"),
)
def charter_newest(target: Target) -> Finding | None:
    pinned = target.charter.epoch
    last = SecurityLog(target.home).last(Event.CHARTER_ACCEPTED)
    if last is not None and int(last.fields["epoch"]) > pinned:
        return fail(f"epoch {pinned} is pinned, and epoch {last.fields['epoch']} was accepted on {last.at[:10]}")
    if (waiting := _delivered(target)) > pinned:
        return warn(f"epoch {pinned} is pinned, epoch {waiting} waits", _ACCEPT)
    return ok(f"epoch {pinned}")


def _delivered(target: Target) -> int:
    """The newest epoch in the folder of CONSILIUM_CHARTER and in ``charters/``; 0 for none."""
    from jobs.membership.propose import parse

    folder = os.environ.get("CONSILIUM_CHARTER")
    epochs = [0]
    for path in (*target.home.pinned.epoch_files(), *([Path(folder) / CHARTER_FILE] if folder else [])):
        try:
            epochs.append(parse(path.read_bytes()).charter.epoch)
        except (OSError, FederationError):
            continue
    return max(epochs)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


CHECKS = (charter, charter_days, charter_member, charter_aggregator, charter_newest)
