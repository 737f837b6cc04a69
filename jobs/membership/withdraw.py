"""A silo leaves: from the next run on it is in no roster, and the ledger records what it took part in.

An epoch of the charter without it is pinned at the aggregator and handed out to the others, and the withdrawal is
recorded with its plan (``withdrawal_plan``). All checks come before the first write; after a crash the same call
finishes the rest. Where the consortium's key is not on this machine, an epoch that it signed elsewhere is accepted
first (``fed charter accept``), and the withdrawal written after.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Withdrawal
from crypto.charter import Charter
from crypto.errors import FederationError, SpecError
from crypto.keys import Identity
from jobs.membership.accept import accept, accept_between_runs, between_runs, record_charter
from jobs.membership.diff import CharterDiff
from jobs.membership.propose import next_epoch, sign
from jobs.membership.withdrawal_plan import WithdrawalPlan, plan_for
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog
from silo_agent.home import SiloHome

#: Longest reason, in characters.
MOST_REASON = 500


def plan(home: AggregatorHome, silo: str) -> WithdrawalPlan:
    """What withdrawing the silo would mean. Raises SpecError for a silo that never was a member, EvidenceError for a
    ledger that fails a check."""
    _known(home.pinned.epochs(), silo)
    return plan_for(home, silo)


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """``file``: the epoch to hand out. ``accepted``: home's name → "" or why it did not take the epoch, for homes on
    this machine that were asked for."""

    plan: WithdrawalPlan
    changes: CharterDiff
    file: Path
    accepted: Mapping[str, str] = field(default_factory=dict)


def withdraw(
    home: AggregatorHome,
    silo: str,
    reason: str,
    *,
    consortium: Identity | None = None,
    members: Sequence[SiloHome] = (),
) -> Withdrawn:
    """Take the silo out of the federation, from the aggregator's home, between runs.

    ``consortium``: signs the epoch without it; not needed where such an epoch has been accepted here already.
    ``members``: silos' homes on this machine, the demonstration's, that accept the epoch at once. Raises SpecError for
    a silo that is no member or has been withdrawn, an invalid reason, another consortium's key, too few silos
    left, or a run under way; EvidenceError for a ledger that fails a check.
    """
    if not 1 <= len(reason) <= MOST_REASON or not reason.isprintable() or not reason.strip():
        raise SpecError("reason", got=f"{len(reason)} characters", want=f"1 to {MOST_REASON}, on one line")
    if not home.exists():
        raise SpecError(str(home.root), got=f"no {home.settings_path.name}", want="the aggregator's home")
    with between_runs(home):
        epochs = home.pinned.epochs()
        _known(epochs, silo)
        _not_twice(home, epochs, silo)
        found = plan_for(home, silo)
        if silo in epochs[-1][0].silos:
            signed = _epoch_without(home, epochs[-1][0], silo, consortium)
            accept_between_runs(home, signed)
            epochs = home.pinned.epochs()
        ledger = Ledger.open(home.ledger_path, home.identity())
        record_charter(ledger, home)
        accepted = {member.name: _hand_out(member, epochs) for member in members}
        removal = _removal(epochs, silo)
        assert removal is not None
        ledger.append(
            Withdrawal(
                silo=silo,
                reason=reason,
                epoch=removal.epoch,
                charter_digest=removal.digest.hex(),
                models=tuple(one.label for one in found.models),
                remedies={one.label: one.remedies for one in found.models},
            )
        )
        SecurityLog(home)(Event.SILO_WITHDRAWN, silo=silo, epoch=removal.epoch)
    before = next((charter for charter, _ in epochs if charter.digest == removal.previous), None)
    return Withdrawn(found, CharterDiff(removal, before), home.pinned.epoch_path(removal.epoch), accepted)


def _epoch_without(home: AggregatorHome, old: Charter, silo: str, consortium: Identity | None) -> bytes:
    new = next_epoch(old, remove=[silo], now=int(time.time()))
    if consortium is None:
        raise SpecError(
            "--consortium-key",
            got="none",
            want="the consortium's key, to sign the epoch without it",
            remedy="Or have it signed elsewhere (`fed charter remove`, `fed charter sign`) and accepted here first.",
        )
    return bytes(sign(new, consortium, pinned=home.pinned.consortium()))


def _known(epochs: Sequence[tuple[Charter, bytes]], silo: str) -> None:
    everyone = sorted({name for charter, _ in epochs for name in charter.silos})
    if silo not in everyone:
        raise SpecError("silo", got=silo, want=f"one of {', '.join(everyone)}")


def _removal(epochs: Sequence[tuple[Charter, bytes]], silo: str) -> Charter | None:
    """The epoch that a silo left with, for the last time; None for a member."""
    gone: Charter | None = None
    for charter, _ in epochs:
        gone = None if silo in charter.silos else gone or charter
    return gone


def _not_twice(home: AggregatorHome, epochs: Sequence[tuple[Charter, bytes]], silo: str) -> None:
    removal = _removal(epochs, silo)
    if removal is None or not home.ledger_path.exists():
        return
    for entry in read(home.ledger_path):
        if isinstance(entry.record, Withdrawal) and (entry.record.silo, entry.record.epoch) == (silo, removal.epoch):
            raise SpecError(
                "silo",
                got=f"{silo}, withdrawn with epoch {removal.epoch}",
                want="a member",
                remedy=f"The others accept {home.pinned.epoch_path(removal.epoch).name}, if they have not yet.",
            )


def _hand_out(member: SiloHome, epochs: Sequence[tuple[Charter, bytes]]) -> str:
    """Accept, at a silo's home on this machine, the epochs that it lacks, in order. Returns the refusal, or ""."""
    try:
        current = member.charter().epoch
        for charter, signed in epochs:
            if charter.epoch > current:
                accept(member, signed)
    except FederationError as refused:
        return str(refused)
    return ""
