"""The charter of version 1, decoded and checked, and the consortium's signature over it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from aggregator.protocols.protocol1.encoding import Reader
from aggregator.protocols.protocol1.transcript import label_bytes
from crypto.errors import CohortTooSmall, RosterMismatch, SpecError, ThresholdInfeasible
from crypto.keys import KEY_BYTES, SIGNATURE_BYTES, PublicIdentity

SUITE = 1
SILO_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Member:
    silo: str
    agent: PublicIdentity
    owner: PublicIdentity

    @classmethod
    def read(cls, src: Reader) -> Member:
        return cls(src.text(), PublicIdentity(src.fixed(KEY_BYTES)), PublicIdentity(src.fixed(KEY_BYTES)))


@dataclass(frozen=True)
class Charter:
    """Fields in the order of their bytes. Made by ``from_bytes``; ``digest`` is their SHA-256."""

    federation: str
    epoch: int
    previous: bytes
    members: tuple[Member, ...]
    aggregator: PublicIdentity
    n_min: int
    colluders: int
    honest: int
    lane_floor: int
    void_budget: int
    difference_budget: int
    not_before: int
    not_after: int
    suite: int
    digest: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Charter:
        """Raises Malformed, SpecError or ThresholdInfeasible for a charter that was never valid."""
        src = Reader(data)
        src.version("A charter")
        charter = cls(
            src.text(), src.u32(), src.digest(), src.each(Member.read), PublicIdentity(src.fixed(KEY_BYTES)),
            src.u32(), src.u32(), src.u32(), src.u32(), src.u32(), src.u32(), src.u64(), src.u64(), src.u32(),
            sha256(data).digest(),
        )  # fmt: skip
        src.end()
        charter._check()
        return charter

    def _check(self) -> None:
        ids, n, c = list(self.silos), len(self.members), self.colluders
        keys = {key for member in self.members for key in (member.agent, member.owner)} | {self.aggregator}
        valid = ids == sorted(set(ids)) and all(SILO_ID.fullmatch(silo) for silo in ids)
        for holds, name, got, want in (
            (valid, "members", ids, "distinct silo ids in ascending order (a-z 0-9 . -)"),
            (len(keys) == 2 * n + 1, "members", "a key used twice", "a key of its own for each role"),
            (n >= 3, "members", n, "at least 3 silos"),
            ((n + c) / 2 < self.n_min <= n, "n_min", self.n_min, f"more than (N + c)/2 = {(n + c) / 2}, at most {n}"),
            (self.honest >= 2, "honest", self.honest, "at least 2"),
            (self.lane_floor >= c + 2, "lane_floor", self.lane_floor, f"at least c + 2 = {c + 2}"),
            (self.not_before < self.not_after, "not_after", self.not_after, f"later than {self.not_before}"),
            (self.suite == SUITE, "suite", self.suite, str(SUITE)),
        ):
            if not holds:
                raise SpecError(f"charter.{name}", got=got, want=want)
        self.threshold(self.n_min)

    def threshold(self, n: int) -> int:
        """t = ⌊(n + c)/2⌋ + 1 for a cohort of n. Raises CohortTooSmall, ThresholdInfeasible."""
        if n < self.n_min:
            raise CohortTooSmall(f"A cohort of {n} is below the charter's minimum of {self.n_min}.")
        t = (n + self.colluders) // 2 + 1
        if t > n or t - self.colluders < self.honest:
            raise ThresholdInfeasible(f"With n = {n}, c = {self.colluders} and m = {self.honest} no threshold is safe.")
        return t

    def floor(self, lane: Any) -> int:
        """Fewest contributors for which a lane of a plan may open, by charter and plan."""
        charters = self.honest + self.colluders
        if lane.scope != "all":
            charters = max(charters, self.lane_floor)
        return max(charters, int(lane.floor))

    def member(self, silo: str) -> Member:
        if silo not in self._by_id:
            raise RosterMismatch(f"{silo!r} is not in the charter of epoch {self.epoch}.")
        return self._by_id[silo]

    @cached_property
    def _by_id(self) -> dict[str, Member]:
        return {member.silo: member for member in self.members}

    @property
    def silos(self) -> tuple[str, ...]:
        return tuple(member.silo for member in self.members)

    def check_succeeds(self, old: Any) -> None:
        """Raise SpecError unless this is the next epoch of the same federation after ``old``."""
        for name, got, want in (
            ("federation", self.federation, old.federation),
            ("epoch", self.epoch, old.epoch + 1),
            ("previous", self.previous.hex(), old.digest.hex()),
        ):
            if got != want:
                raise SpecError(f"charter.{name}", got=got, want=f"{want}, by the charter before")


def open_charter(data: bytes, consortium: PublicIdentity) -> Charter:
    """A signed charter, once its signature holds under the consortium's key; else BadSignature."""
    src = Reader(data)
    body, signature = src.blob(), src.fixed(SIGNATURE_BYTES)
    src.end()
    consortium.verify(signature, label_bytes("charter", [body]))
    return Charter.from_bytes(body)
