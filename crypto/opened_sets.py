"""What silos tell each other of the sums that were opened before: the sets of contributors of one session, proven.

The rule of atoms (``crypto.atoms``) protects against the openings that a releasing silo knows. A silo knows its own
releases; of others it is told. At ``deal`` each silo puts the sets that it counts as opened, of the quantities of this
step, into its encrypted rows. All who dealt count what any of them tells. For that to be complete the charter asks for
n_min + t(n_min) > N + c: then those who deal include an honest silo of the t - c or more that opened any set before.
docs/decisions/0023 has the argument, also for sessions that overlap in time.

Nobody can invent a set: the survivors of a session sign the digest of its sets with T3 (``messages.Attestation``), and
a told set counts only with t(n_min) of these signatures, so at least one honest silo took part in that session. The
server sees the digest; the salt keeps it from finding out who holds what by trying.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from crypto.charter import Charter
from crypto.encoding import Reader, Writer
from crypto.errors import BadSignature, Malformed, SurvivorInvalid
from crypto.keys import SIGNATURE_BYTES
from crypto.messages import Attestation
from crypto.transcript import DIGEST_BYTES, digest, label_bytes

#: A quantity (32 bytes) and who contributed to a sum of it.
OpenedSet = tuple[bytes, frozenset[str]]


@dataclass(frozen=True, slots=True, repr=False)
class SessionSets:
    """The sets over which the survivors of one session may have opened sums, sorted. ``salt``: 32 bytes that those who
    dealt know, and nobody else."""

    t3: bytes
    salt: bytes
    sets: tuple[OpenedSet, ...]

    @classmethod
    def of(cls, t3: bytes, salt: bytes, sets: Iterable[OpenedSet]) -> Self:
        return cls(t3, salt, tuple(sorted({one for one in sets if one[1]}, key=_order)))

    def write(self, out: Writer) -> None:
        names = sorted(frozenset().union(*(silos for _, silos in self.sets)))
        out.fixed(self.t3, DIGEST_BYTES).fixed(self.salt, DIGEST_BYTES).each(names, Writer.text)
        out.each(self.sets, lambda w, one: w.fixed(one[0], DIGEST_BYTES).blob(_bits(one[1], names)))

    @classmethod
    def read(cls, src: Reader) -> Self:
        t3, salt, names = src.fixed(DIGEST_BYTES), src.fixed(DIGEST_BYTES), src.each(Reader.text)
        sets = src.each(lambda s: (s.fixed(DIGEST_BYTES), _silos(s.blob(), names)))
        found = cls(t3, salt, sets)
        if found != cls.of(t3, salt, sets) or set(names) != frozenset().union(*(silos for _, silos in sets)):
            raise Malformed("The sets of a session are not in order, or name a silo that is in none.")
        if list(names) != sorted(set(names)):
            raise Malformed("The silos of a session's sets are not in order.")
        return found

    @property
    def digest(self) -> bytes:
        out = Writer()
        self.write(out)
        return digest("session-sets", bytes(out))


@dataclass(frozen=True, slots=True, repr=False)
class Told:
    """A session's sets as one silo tells them: which of them it counts as opened (``opened``: their places), and the
    signatures of the survivors that attested to all."""

    session: SessionSets
    opened: tuple[int, ...]
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, session: SessionSets, opened: Iterable[OpenedSet], attestations: Iterable[bytes]) -> Self:
        """``opened``: some of the session's sets; ``attestations``: as signed, of which those that name these sets are
        kept."""
        counted = set(opened)
        places = tuple(place for place, one in enumerate(session.sets) if one in counted)
        signatures: dict[str, bytes] = {}
        for signed in attestations:
            src = Reader(signed)
            body, signature = src.blob(), src.fixed(SIGNATURE_BYTES)
            silo = Attestation.from_bytes(body).silo
            if body == bytes(Attestation(silo=silo, t3=session.t3, sets=session.digest)):
                signatures[silo] = signature
        return cls(session, places, tuple(sorted(signatures.items())))

    @property
    def sets(self) -> tuple[OpenedSet, ...]:
        """Those that were opened."""
        return tuple(self.session.sets[place] for place in self.opened)

    def proven(self, charter: Charter) -> bool:
        """Whether enough of the charter's members signed: t of the smallest cohort. Not where one of them has another
        key since."""
        try:
            self.check(charter)
        except (SurvivorInvalid, BadSignature):
            return False
        return True

    def check(self, charter: Charter) -> None:
        """Raises SurvivorInvalid for fewer signatures of members than t(n_min), BadSignature for a false one."""
        members, sets, known = set(charter.silos), self.session.digest, 0
        for silo, signature in self.signatures:
            if silo in members:
                body = bytes(Attestation(silo=silo, t3=self.session.t3, sets=sets))
                charter.member(silo).agent.verify(signature, label_bytes(Attestation.LABEL, [body]))
                known += 1
        if known < (least := charter.threshold(charter.n_min)):
            raise SurvivorInvalid(f"{known} members attested to an opening that is told of; it takes t = {least}.")

    def __bytes__(self) -> bytes:
        out = Writer()
        self.session.write(out)
        out.each(self.opened, Writer.u32)
        return bytes(out.each(self.signatures, lambda w, one: w.text(one[0]).fixed(one[1], SIGNATURE_BYTES)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        src = Reader(data)
        session, opened = SessionSets.read(src), src.each(Reader.u32)
        signatures = src.each(lambda s: (s.text(), s.fixed(SIGNATURE_BYTES)))
        src.end()
        if list(opened) != sorted(set(opened)) or any(place >= len(session.sets) for place in opened):
            raise Malformed("The opened sets of a session are not places in ascending order.")
        if [silo for silo, _ in signatures] != sorted({silo for silo, _ in signatures}):
            raise Malformed("The signatures under a session's sets are not one a silo in ascending order.")
        return cls(session, opened, signatures)


def session_salt(nonces: Mapping[str, bytes]) -> bytes:
    """The salt of a session's sets from the nonces of the manifests of all who dealt."""
    return digest("session-salt", *(part for silo in sorted(nonces) for part in (silo, nonces[silo])))


def _order(one: OpenedSet) -> tuple[bytes, list[str]]:
    return one[0], sorted(one[1])


def _bits(silos: frozenset[str], names: list[str]) -> bytes:
    """One bit a name, the first name's the highest of the first byte."""
    value = sum(1 << (8 * _size(names) - 1 - place) for place, name in enumerate(names) if name in silos)
    return value.to_bytes(_size(names), "big")


def _silos(bits: bytes, names: tuple[str, ...]) -> frozenset[str]:
    if len(bits) != _size(names):
        raise Malformed(f"A set of {len(names)} silos has {len(bits)} bytes.")
    value, top = int.from_bytes(bits, "big"), 8 * len(bits) - 1
    if value & ((1 << (8 * len(bits) - len(names))) - 1):
        raise Malformed("A set has bits behind its last silo.")
    return frozenset(name for place, name in enumerate(names) if value >> (top - place) & 1)


def _size(names: Iterable[str]) -> int:
    return -(-len(list(names)) // 8)
