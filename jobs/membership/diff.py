"""What an epoch of the charter changes, for the people who accept it: members, keys, floors, dates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from crypto.charter import Charter, Member
from crypto.keys import PublicIdentity
from jobs.membership.propose import ROLES

#: The numbers of a charter whose changes are shown.
NUMBERS = ("n_min", "colluders", "honest", "lane_floor")
TIMES = ("not_before", "not_after")


@dataclass(frozen=True, slots=True)
class CharterDiff:
    """One epoch compared with the one before; ``old`` is None for the first that a home sees.

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
        """Name → (before, after), of floors and times that change."""
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
        """The same as text, for the people who accept the epoch."""
        lines = [f"federation {self.new.federation!r}, epoch {self.new.epoch}, {len(self.new.silos)} silos"]
        lines += [f"charter    {grouped(self.new.digest)}", f"aggregator {self.new.aggregator.fingerprint}"]
        for member in self.joins:
            lines += [f"joins      {member.silo}: {_keys(member)}"]
        lines += [f"leaves     {silo}" for silo in self.leaves]
        lines += [
            f"new key    {silo}, {role}: {now.fingerprint} (was {was.fingerprint})"
            for silo, role, was, now in self.keys
        ]
        if self._aggregator_before != self.new.aggregator:
            was = self._aggregator_before.fingerprint
            lines += [f"new key    aggregator: {self.new.aggregator.fingerprint} (was {was})"]
        if self.old is not None and self.old.version != self.new.version:
            lines += [f"changes    protocol: consilium/{self.old.version} → consilium/{self.new.version}"]
        lines += [
            f"changes    {name}: {_shown(name, before)} → {_shown(name, now)}"
            for name, (before, now) in self.numbers.items()
        ]
        if self.out:
            lines += [f"this silo, {self.silo}, is NOT a member of it: its agent will decline every job"]
        if self.done:
            lines += ["this home has it already"]
        elif self.old is not None:
            lines += ["approvals that data owners signed under the epoch before become void"]
        return lines


def described(member: Member) -> dict[str, str]:
    return {"silo": member.silo, "agent": member.agent.fingerprint, "owner": member.owner.fingerprint}


def charter_facts(charter: Charter) -> dict[str, Any]:
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


def charter_lines(charter: Charter) -> list[str]:
    """A charter as text."""
    lines = [f"federation {charter.federation!r}, epoch {charter.epoch}, {len(charter.silos)} silos"]
    lines += [f"charter    {grouped(charter.digest)}", f"follows    {grouped(charter.previous)}"]
    lines += [f"aggregator {charter.aggregator.fingerprint}"]
    lines += [f"member     {member.silo}: {_keys(member)}" for member in charter.members]
    lines += [f"{name:<18} {_shown(name, getattr(charter, name))}" for name in (*NUMBERS, *TIMES)]
    return lines


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
