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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from crypto.charter import Charter
from crypto.encoding import Reader, Writer
from crypto.errors import BadSignature, Malformed, RosterMismatch, SurvivorInvalid
from crypto.keys import SIGNATURE_BYTES, PublicIdentity
from crypto.messages import Attestation
from crypto.transcript import DIGEST_BYTES, digest, label_bytes

#: A quantity (32 bytes) and who contributed to a sum of it.
OpenedSet = tuple[bytes, frozenset[str]]


@dataclass(frozen=True, slots=True, repr=False)
class SessionSets:
    """The sets over which the survivors of one session may have opened sums, in order. Made by ``of``.

    ``salt``: 32 bytes that those who dealt know, and nobody else. ``silos``: all survivors, as contributors, by id: not
    only those in a set, and empty and equal sets are kept, so that the length of the bytes tells nothing about who
    contributes to a hidden lane."""

    t3: bytes
    salt: bytes
    silos: tuple[str, ...]
    sets: tuple[OpenedSet, ...]

    @classmethod
    def of(cls, t3: bytes, salt: bytes, silos: Iterable[str], sets: Iterable[OpenedSet]) -> Self:
        """``sets``: of some of ``silos`` each."""
        return cls(t3, salt, tuple(sorted(silos)), tuple(sorted(sets, key=_order)))

    def __bytes__(self) -> bytes:
        out = Writer().fixed(self.t3, DIGEST_BYTES).fixed(self.salt, DIGEST_BYTES).each(self.silos, Writer.text)
        out.each(self.sets, lambda w, one: w.fixed(one[0], DIGEST_BYTES).blob(_bits(one[1], self.silos)))
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        src = Reader(data)
        t3, salt, silos = src.fixed(DIGEST_BYTES), src.fixed(DIGEST_BYTES), src.each(Reader.text)
        if list(silos) != sorted(set(silos)):
            raise Malformed("The survivors of a session are not in ascending order.")
        sets = src.each(lambda s: (s.fixed(DIGEST_BYTES), _silos(s.blob(), silos)))
        src.end()
        if sets != tuple(sorted(sets, key=_order)):
            raise Malformed("The sets of a session are not in order.")
        return cls(t3, salt, silos, sets)

    @property
    def digest(self) -> bytes:
        return _digest(bytes(self))


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
        sets, signatures = session.digest, dict[str, bytes]()
        for signed in attestations:
            src = Reader(signed)
            body, signature = src.blob(), src.fixed(SIGNATURE_BYTES)
            silo = Attestation.from_bytes(body).silo
            if body == bytes(Attestation(silo=silo, t3=session.t3, sets=sets)):
                signatures[silo] = signature
        return cls(session, places, tuple(sorted(signatures.items())))

    @property
    def sets(self) -> tuple[OpenedSet, ...]:
        """Those that were opened."""
        return tuple(self.session.sets[place] for place in self.opened)

    def under(self, charter: Charter) -> Self | None:
        """The same with the signatures that prove it under a charter, no more of them than it takes: of members, made
        with the keys that they have there. None if these are too few, for instance after a change of keys."""
        least, sets, kept = charter.threshold(charter.n_min), self.session.digest, []
        for signed in self.signatures:
            try:
                _check(charter, self.session.t3, sets, [signed])
            except (RosterMismatch, BadSignature):
                continue
            kept.append(signed)
        return type(self)(self.session, self.opened, tuple(kept[:least])) if len(kept) >= least else None

    def __bytes__(self) -> bytes:
        out = Writer().blob(bytes(self.session)).each(self.opened, Writer.u32)
        return bytes(out.each(self.signatures, lambda w, one: w.text(one[0]).fixed(one[1], SIGNATURE_BYTES)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        session, opened, signatures = _parts(data)
        return cls._made(SessionSets.from_bytes(session), opened, signatures)

    @classmethod
    def proven(cls, data: bytes, charter: Charter) -> Self:
        """What another silo tells, with exactly t(n_min) signatures of members.

        They are checked first: what they sign was made by honest code, so that no liar can make the rest large. Raises
        SurvivorInvalid for another number of signatures, RosterMismatch for one of a stranger, BadSignature for a false
        one, Malformed."""
        session, opened, signatures = _parts(data)
        if len(signatures) != (least := charter.threshold(charter.n_min)):
            raise SurvivorInvalid(f"{len(signatures)} members attested to an opening that is told of, not t = {least}.")
        _check(charter, Reader(session).fixed(DIGEST_BYTES), _digest(session), signatures)
        return cls._made(SessionSets.from_bytes(session), opened, signatures)

    @classmethod
    def _made(cls, session: SessionSets, opened: tuple[int, ...], signatures: tuple[tuple[str, bytes], ...]) -> Self:
        if list(opened) != sorted(set(opened)) or any(place >= len(session.sets) for place in opened):
            raise Malformed("The opened sets of a session are not places in ascending order.")
        return cls(session, opened, signatures)


def session_salt(nonces: Mapping[str, bytes]) -> bytes:
    """The salt of a session's sets from the nonces of the manifests of all who dealt."""
    return digest("session-salt", *(part for silo in sorted(nonces) for part in (silo, nonces[silo])))


def _parts(data: bytes) -> tuple[bytes, tuple[int, ...], tuple[tuple[str, bytes], ...]]:
    """The bytes of the session's sets, the places, the signatures."""
    src = Reader(data)
    session, opened = src.blob(), src.each(Reader.u32)
    signatures = src.each(lambda s: (s.text(), s.fixed(SIGNATURE_BYTES)))
    src.end()
    if [silo for silo, _ in signatures] != sorted({silo for silo, _ in signatures}):
        raise Malformed("The signatures under a session's sets are not one a silo in ascending order.")
    return session, opened, signatures


def _check(charter: Charter, t3: bytes, sets: bytes, signatures: Sequence[tuple[str, bytes]]) -> None:
    for silo, signature in signatures:
        _verify(charter.member(silo).agent, bytes(Attestation(silo=silo, t3=t3, sets=sets)), signature)


@lru_cache(maxsize=1 << 12)  # all dealers tell of the same sessions, and in each step again
def _verify(agent: PublicIdentity, attestation: bytes, signature: bytes) -> None:
    agent.verify(signature, label_bytes(Attestation.LABEL, [attestation]))


def _digest(session: bytes) -> bytes:
    return digest("session-sets", session)


def _order(one: OpenedSet) -> tuple[bytes, list[str]]:
    return one[0], sorted(one[1])


def _bits(silos: frozenset[str], names: Sequence[str]) -> bytes:
    """One bit a name, the first name's the highest of the first byte."""
    if foreign := silos.difference(names):
        raise ValueError(f"{sorted(foreign)} contribute and are no survivors")
    value = sum(1 << (8 * _size(names) - 1 - place) for place, name in enumerate(names) if name in silos)
    return value.to_bytes(_size(names), "big")


def _silos(bits: bytes, names: Sequence[str]) -> frozenset[str]:
    if len(bits) != _size(names):
        raise Malformed(f"A set of {len(names)} silos has {len(bits)} bytes.")
    value, top = int.from_bytes(bits, "big"), 8 * len(bits) - 1
    if value & ((1 << (8 * len(bits) - len(names))) - 1):
        raise Malformed("A set has bits behind its last silo.")
    return frozenset(name for place, name in enumerate(names) if value >> (top - place) & 1)


def _size(names: Sequence[str]) -> int:
    return -(-len(names) // 8)
