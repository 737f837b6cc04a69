"""What an epoch of the charter changes, for the people who accept it: who comes, who goes, whose keys, which floors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from crypto.charter import Charter, Member
from crypto.keys import PublicIdentity
from jobs.membership.propose import ROLES

#: The numbers of a charter that people should see change.
NUMBERS = ("n_min", "colluders", "honest", "lane_floor", "void_budget", "difference_budget")
TIMES = ("not_before", "not_after")


@dataclass(frozen=True, slots=True)
class Changes:
    """One epoch against the one before; ``old`` is None where it is the first that a home sees.

    ``silo``: whose home it is for, "" at the aggregator. ``done``: it is pinned there already.
    """

    new: Charter
    old: Charter | None
    silo: str = ""
    done: bool = False

    @property
    def joins(self) -> tuple[Member, ...]:
        there = self.old.silos if self.old else ()
        return tuple(member for member in self.new.members if member.silo not in there)

    @property
    def leaves(self) -> tuple[str, ...]:
        return tuple(silo for silo in (self.old.silos if self.old else ()) if silo not in self.new.silos)

    @property
    def keys(self) -> tuple[tuple[str, str, PublicIdentity, PublicIdentity], ...]:
        """(silo, role, old key, new key) of members that stay."""
        before = {member.silo: member for member in self.old.members} if self.old else {}
        pairs = [(before[member.silo], member) for member in self.new.members if member.silo in before]
        return tuple(
            (was.silo, role, getattr(was, role), getattr(now, role))
            for was, now in pairs
            for role in ROLES
            if getattr(was, role) != getattr(now, role)
        )

    @property
    def numbers(self) -> Mapping[str, tuple[int, int]]:
        """Name → (before, after), of floors, budgets and times that change."""
        if self.old is None:
            return {}
        pairs = {name: (getattr(self.old, name), getattr(self.new, name)) for name in (*NUMBERS, *TIMES)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    @property
    def out(self) -> bool:
        """Whether the home's own silo is not in it."""
        return bool(self.silo) and self.silo not in self.new.silos

    @property
    def _aggregator_before(self) -> PublicIdentity:
        return (self.old or self.new).aggregator

    def facts(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "federation": self.new.federation,
            "epoch": self.new.epoch,
            "charter": self.new.digest.hex(),
            "silos": list(self.new.silos),
            "joins": [described(member) for member in self.joins],
            "leaves": list(self.leaves),
            "keys": [
                {"silo": silo, "role": role, "before": was.fingerprint, "now": now.fingerprint}
                for silo, role, was, now in self.keys
            ],
            "aggregator": {"before": self._aggregator_before.fingerprint, "now": self.new.aggregator.fingerprint},
            "numbers": {name: {"before": before, "now": now} for name, (before, now) in self.numbers.items()},
            "silo": self.silo,
            "member": not self.out,
            "pinned_already": self.done,
        }

    def lines(self) -> list[str]:
        """For people: what they agree to."""
        said = [f"federation {self.new.federation!r}, epoch {self.new.epoch}, {len(self.new.silos)} silos"]
        said += [f"charter    {grouped(self.new.digest)}", f"aggregator {self.new.aggregator.fingerprint}"]
        for member in self.joins:
            said += [f"joins      {member.silo}: {_keys(member)}"]
        said += [f"leaves     {silo}" for silo in self.leaves]
        said += [
            f"new key    {silo}, {role}: {now.fingerprint} (was {was.fingerprint})"
            for silo, role, was, now in self.keys
        ]
        if self._aggregator_before != self.new.aggregator:
            was = self._aggregator_before.fingerprint
            said += [f"new key    aggregator: {self.new.aggregator.fingerprint} (was {was})"]
        said += [
            f"changes    {name}: {_shown(name, before)} → {_shown(name, now)}"
            for name, (before, now) in self.numbers.items()
        ]
        if self.out:
            said += [f"this silo, {self.silo}, is NOT a member of it: its agent will decline every job"]
        if self.done:
            said += ["this home has it already"]
        elif self.old is not None:
            said += ["approvals that data owners gave under the epoch before end with it"]
        return said


def described(member: Member) -> dict[str, str]:
    return {"silo": member.silo, "agent": member.agent.fingerprint, "owner": member.owner.fingerprint}


def full(charter: Charter) -> dict[str, Any]:
    """A charter for ``--json``."""
    numbers = {name: getattr(charter, name) for name in (*NUMBERS, *TIMES, "suite")}
    return {
        "federation": charter.federation,
        "epoch": charter.epoch,
        "charter": charter.digest.hex(),
        "previous": charter.previous.hex(),
        "aggregator": charter.aggregator.fingerprint,
        "members": [described(member) for member in charter.members],
        **numbers,
    }


def full_lines(charter: Charter) -> list[str]:
    """A charter for people."""
    said = [f"federation {charter.federation!r}, epoch {charter.epoch}, {len(charter.silos)} silos"]
    said += [f"charter    {grouped(charter.digest)}", f"follows    {grouped(charter.previous)}"]
    said += [f"aggregator {charter.aggregator.fingerprint}"]
    said += [f"member     {member.silo}: {_keys(member)}" for member in charter.members]
    said += [f"{name:<18} {_shown(name, getattr(charter, name))}" for name in (*NUMBERS, *TIMES)]
    return said


def grouped(digest: bytes) -> str:
    """The first 16 bytes in groups of four hex digits, to compare over the telephone as key fingerprints are."""
    digits = digest.hex()[:32]
    return " ".join(digits[at : at + 4] for at in range(0, 32, 4))


def _keys(member: Member) -> str:
    return f"agent {member.agent.fingerprint}, owner {member.owner.fingerprint}"


def _shown(name: str, value: int) -> str:
    if name not in TIMES:
        return str(value)
    try:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{value} s"
