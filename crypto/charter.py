"""The charter: who is in the federation, and the floors that hold for everyone.

Signed by the consortium's key (offline, never the aggregator's), pinned at each silo, replaced only by a higher
epoch that names its predecessor and that the silo's operator accepts. No clock is read: the caller
passes ``now`` to check validity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from crypto.encoding import VERSION, Reader, Writer
from crypto.errors import CohortTooSmall, Malformed, RosterMismatch, SpecError, ThresholdInfeasible
from crypto.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicIdentity
from crypto.plan import Lane, Scope
from crypto.transcript import DIGEST_BYTES

#: X25519, HKDF-SHA256, AES-128-CTR, AES-256-GCM, Ed25519.
SUITE = 1

#: Versions of the protocol whose charters can be followed by the next epoch; nothing can be run under them.
EARLIER = (1,)

#: What a silo may be called.
SILO_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
#: The id of a silo that is enrolled now. NVFlare takes no dots; charters that have an id with one stay valid.
_NEW_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: Folders beside the silos' kits, and other parties' names in records: no silo is called so.
_RESERVED = frozenset({"admin", "aggregator", "all", "ca", "client", "consortium", "localhost", "owner", "server"})


def check_new_id(silo: object, where: str = "silo") -> None:
    """Raise SpecError for an id that no new silo may have: no kit could be made for it."""
    if not isinstance(silo, str) or not _NEW_ID.fullmatch(silo) or silo in _RESERVED:
        raise SpecError(
            where,
            got=silo,
            want="a silo's id: a-z, 0-9 and -, at most 63, with a letter or digit at both ends, "
            f"none of {', '.join(sorted(_RESERVED))}",
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A silo: its id, its agent's key and its data owner's key (who approves jobs)."""

    silo: str
    agent: PublicIdentity
    owner: PublicIdentity

    def write(self, out: Writer) -> None:
        out.text(self.silo).fixed(self.agent.raw, KEY_BYTES).fixed(self.owner.raw, KEY_BYTES)

    @classmethod
    def read(cls, src: Reader) -> Member:
        return cls(src.text(), PublicIdentity(src.fixed(KEY_BYTES)), PublicIdentity(src.fixed(KEY_BYTES)))


@dataclass(frozen=True, kw_only=True)
class Charter:
    """Members, keys and floors of one epoch. Raises SpecError or ThresholdInfeasible for numbers that are not safe."""

    federation: str
    """Name of the federation; the same in all its epochs."""
    epoch: int
    """Number of this charter, one more than its predecessor's."""
    previous: bytes
    """SHA-256 of the predecessor; zeros in the first epoch."""
    members: tuple[Member, ...]
    """At least 3 silos, ascending by id; every key is used once."""
    aggregator: PublicIdentity
    """The key that signs requests and the ledger."""
    n_min: int
    """Smallest cohort, at least ``least_cohort``: two disjoint cohorts can't both be served, and every cohort learns of
    every set of silos whose sums were opened."""
    colluders: int
    """c: silos assumed to share all they know with the aggregator."""
    honest: int
    """m: honest inputs in any opened sum, at least 2."""
    lane_floor: int
    """m_e: fewest contributors of a lane that not every silo holds, at least c + 2."""
    not_before: int
    """Start of validity, seconds since 1970, UTC."""
    not_after: int
    """End of validity, seconds since 1970, UTC."""
    suite: int = SUITE
    """Number of the cipher suite."""
    version: int = VERSION
    """Of the protocol that it was signed under."""
    budgets: tuple[int, ...] = ()
    """Two numbers that only a charter of protocol 1 has, kept for its bytes and digest: void steps and close cohorts
    that it allowed in a run."""

    def __post_init__(self) -> None:
        ids = [member.silo for member in self.members]
        n = len(ids)
        if ids != sorted(set(ids)) or not all(SILO_ID.fullmatch(silo) for silo in ids):
            raise SpecError("charter.members", got=ids, want="distinct silo ids in ascending order (a-z 0-9 . -)")
        keys = {key for member in self.members for key in (member.agent, member.owner)} | {self.aggregator}
        if len(keys) != 2 * n + 1:
            raise SpecError("charter.members", got="a key used twice", want="a key of its own for each role")
        if len(self.previous) != DIGEST_BYTES:
            raise SpecError("charter.previous", got=f"{len(self.previous)} bytes", want="a SHA-256 digest")
        if len(self.budgets) != (2 if self.version in EARLIER else 0):
            raise SpecError("charter.budgets", got=self.budgets, want="two in a charter of protocol 1, else none")
        for name in ("epoch", "colluders", "n_min", "honest", "lane_floor"):
            if not 0 <= getattr(self, name) < 2**32:
                raise SpecError(f"charter.{name}", got=getattr(self, name), want="0 or more, in 32 bits")
        for name in ("not_before", "not_after"):
            if not 0 <= getattr(self, name) < 2**64:
                raise SpecError(f"charter.{name}", got=getattr(self, name), want="seconds since 1970, in 64 bits")
        if n < 3:
            raise SpecError("charter.members", got=n, want="at least 3 silos")
        least = (threshold if self.version in EARLIER else least_cohort)(n, self.colluders)
        if not least <= self.n_min <= n:
            raise SpecError(
                "charter.n_min",
                got=self.n_min,
                want=f"at least {least} and at most {n}, for {n} silos of which {self.colluders} may collude",
                remedy="Make the epoch with `fed charter new` or `fed charter add`: they choose the smallest n_min.",
            )
        if self.honest < 2:
            raise SpecError("charter.honest", got=self.honest, want="at least 2")
        if self.lane_floor < self.colluders + 2:
            raise SpecError("charter.lane_floor", got=self.lane_floor, want=f"at least c + 2 = {self.colluders + 2}")
        if self.not_before >= self.not_after:
            raise SpecError("charter.not_after", got=self.not_after, want=f"later than {self.not_before}")
        if self.suite != SUITE:
            raise SpecError("charter.suite", got=self.suite, want=str(SUITE))
        self.threshold(self.n_min)

    def threshold(self, n: int) -> int:
        """t = ⌊(n + c)/2⌋ + 1 for a cohort of n: 2t > n + c, so two survivor sets can't both be attested.

        Raises CohortTooSmall below n_min and ThresholdInfeasible where t − c < m or t > n.
        """
        if n < self.n_min:
            raise CohortTooSmall(
                f"A cohort of {n} is below the charter's minimum of {self.n_min}.",
                remedy="Wait until more silos are up, or have the consortium sign a charter for fewer.",
            )
        t = threshold(n, self.colluders)
        if t > n or t - self.colluders < self.honest:
            raise ThresholdInfeasible(
                f"With n = {n}, c = {self.colluders} and m = {self.honest} no threshold is safe.",
                remedy="Enrol more silos; the floors are never lowered.",
            )
        return t

    def floor(self, lane: Lane, own: int = 0) -> int:
        """Fewest contributors for which ``lane`` may open: the strictest floor of charter, plan and silo.

        The charter asks for m + c, and for ``lane_floor`` where not every silo contributes. ``own``: the silo's own
        floor from its policy, 0 for none.
        """
        charters = self.honest + self.colluders
        if lane.scope is not Scope.ALL:
            charters = max(charters, self.lane_floor)
        return max(charters, lane.floor, own)

    def member(self, silo: str) -> Member:
        """The member of that id, or RosterMismatch."""
        if silo not in self._by_id:
            raise RosterMismatch(f"{silo!r} is not in the charter of epoch {self.epoch}.")
        return self._by_id[silo]

    @cached_property
    def _by_id(self) -> dict[str, Member]:
        return {member.silo: member for member in self.members}

    @cached_property
    def silos(self) -> tuple[str, ...]:
        return tuple(member.silo for member in self.members)

    def check_validity(self, now: int) -> None:
        if not self.not_before <= now <= self.not_after:
            raise SpecError(
                "charter.not_after",
                got=f"now {now}",
                want=f"between {self.not_before} and {self.not_after}",
                remedy="Pin the charter of the consortium's next epoch.",
            )

    def check_succeeds(self, old: Charter) -> None:
        """Raise SpecError unless this is the next epoch of the same federation: one that names ``old`` as its own.

        Operators accept only the next epoch: never an older one, and never another federation's.
        """
        if self.federation != old.federation:
            raise SpecError("charter.federation", got=self.federation, want=old.federation)
        if self.epoch != old.epoch + 1:
            raise SpecError("charter.epoch", got=self.epoch, want=f"{old.epoch + 1}, the next after the pinned one")
        if self.previous != old.digest:
            raise SpecError("charter.previous", got=self.previous.hex(), want=f"{old.digest.hex()}, the pinned charter")

    def __bytes__(self) -> bytes:
        out = Writer().u8(self.version).text(self.federation).u32(self.epoch).fixed(self.previous, DIGEST_BYTES)
        out.each(self.members, lambda w, member: member.write(w)).fixed(self.aggregator.raw, KEY_BYTES)
        for value in (self.n_min, self.colluders, self.honest, self.lane_floor, *self.budgets):
            out.u32(value)
        return bytes(out.u64(self.not_before).u64(self.not_after).u32(self.suite))

    @classmethod
    def from_bytes(cls, data: bytes, *, earlier: bool = False) -> Charter:
        """Raises Malformed. ``earlier``: also read a charter of an earlier protocol, to be followed."""
        src = Reader(data)
        version = src.u8()
        check_version(version, earlier=earlier)
        charter = cls(
            version=version,
            federation=src.text(),
            epoch=src.u32(),
            previous=src.fixed(DIGEST_BYTES),
            members=src.each(Member.read),
            aggregator=PublicIdentity(src.fixed(KEY_BYTES)),
            n_min=src.u32(),
            colluders=src.u32(),
            honest=src.u32(),
            lane_floor=src.u32(),
            budgets=(src.u32(), src.u32()) if version in EARLIER else (),
            not_before=src.u64(),
            not_after=src.u64(),
            suite=src.u32(),
        )
        src.end()
        return charter

    @cached_property
    def digest(self) -> bytes:
        return sha256(bytes(self)).digest()


@dataclass(frozen=True, slots=True)
class SignedCharter:
    """A charter with the consortium's signature over its exact bytes."""

    charter: Charter
    signature: bytes

    @classmethod
    def sign(cls, charter: Charter, consortium: Identity) -> SignedCharter:
        """Raises Malformed for a charter of an earlier protocol."""
        check_version(charter.version)
        return cls(charter, consortium.sign(_signed_bytes(charter.version, bytes(charter))))

    def __bytes__(self) -> bytes:
        return bytes(Writer().blob(bytes(self.charter)).fixed(self.signature, SIGNATURE_BYTES))

    @classmethod
    def open(cls, data: bytes, consortium: PublicIdentity, *, earlier: bool = False) -> Charter:
        """The charter, once its signature holds under the pinned consortium key; else BadSignature.

        ``earlier``: also open a charter of an earlier protocol, to be followed; else Malformed, with what to do."""
        src = Reader(data)
        body, signature = src.blob(), src.fixed(SIGNATURE_BYTES)
        src.end()
        version = Reader(body).u8()
        check_version(version, earlier=earlier)
        consortium.verify(signature, _signed_bytes(version, body))
        return Charter.from_bytes(body, earlier=earlier)


def threshold(n: int, colluders: int) -> int:
    """t = ⌊(n + c)/2⌋ + 1: how many of a cohort of ``n`` must agree, with ``colluders`` that may agree to anything."""
    return (n + colluders) // 2 + 1


def least_cohort(silos: int, colluders: int) -> int:
    """The least n with n > (N + c)/2 and n + t(n) > N + c, of N ``silos`` with c ``colluders``.

    By the first, two cohorts of n share more than c silos, so disjoint ones can't both be served. By the second, a
    cohort of n shares more than c silos with any t that opened sums, so an honest one of those is in it and tells what
    was opened. May be more than N: then no charter is safe.
    """
    n = threshold(silos, colluders)
    while n + threshold(n, colluders) <= silos + colluders:
        n += 1
    return n


def check_version(version: int, *, earlier: bool = False) -> None:
    """Raise Malformed unless a charter of that version can be used; ``earlier``: or be followed by one that can."""
    if version == VERSION or (earlier and version in EARLIER):
        return
    remedy = ""
    if version in EARLIER:
        remedy = (
            "It is of an earlier protocol. The consortium makes the next epoch with this release, `fed charter add`, "
            "and each member accepts it: docs/operations.md, A federation made before."
        )
    raise Malformed(f"A charter of version {version}; this code reads version {VERSION}.", remedy=remedy)


def _signed_bytes(version: int, body: bytes) -> bytes:
    return bytes(Writer().text(f"consilium/{version}/charter").blob(body))
