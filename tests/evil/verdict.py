"""Did a share leave that breaks the rule? Judged from every byte the silos sent, not from what it claims to be.

A dealer publishes the hash of each share beside the sealed row (``Row.hashes``). So each 33-byte window of each reply
is hashed as if it were a share of each dealer, for each secret, in each session: a share that leaves anywhere is found,
in whatever message, and named. Only a silo's shares of its own seeds have no published hash; they are read from the
messages that carry them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from crypto.charter import Charter
from crypto.errors import FederationError
from crypto.messages import Advert, Deal, Request, Row, Shares, unpack_two
from crypto.shamir import SHARE_BYTES
from crypto.transcript import label_bytes
from tests.evil.server import Entry

#: (step, attempt)
Session = tuple[int, int]
#: Secret of a dealer: "" is its mask seed, else the lane of a self seed.
Share = tuple[Session, str, str]


@dataclass(slots=True)
class Verdict:
    """``seen``: holder → the shares it sent (session, dealer, secret). ``broken``: the sentences that do not hold."""

    seen: dict[str, set[Share]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    replies: int = 0
    sent: int = 0

    @property
    def shares(self) -> int:
        return sum(len(found) for found in self.seen.values())

    def lanes(self, step: int) -> set[str]:
        """The secrets of a step whose shares left some silo."""
        return {name for found in self.seen.values() for (k, _), _, name in found if k == step}


def judge(entries: Iterable[Entry], charter: Charter, shut: Iterable[tuple[int, str]] = ()) -> Verdict:
    """``shut``: (step, lane) of which no share may have left."""
    entries = list(entries)
    tables = _tables(entries, charter)
    found = Verdict()
    for entry in entries:
        if not entry.phase:
            continue
        found.replies += 1
        mine = found.seen.setdefault(entry.silo, set())
        for part in (entry.reply, *entry.arrays):
            found.sent += len(part)
            mine.update(_windows(part, tables.get(entry.silo, {})))
        mine.update(_own(entry, charter))
    _judge_kinds(found)
    _judge_releases(found, entries, charter)
    for step, lane in shut:
        if lane in found.lanes(step):
            found.broken.append(f"shares of the shut lane {lane} of step {step} left")
    return found


def _judge_kinds(found: Verdict) -> None:
    for silo, shares in sorted(found.seen.items()):
        for session, dealer in sorted({(session, dealer) for session, dealer, _ in shares}):
            kinds = {"self" if name else "mask" for at, who, name in shares if (at, who) == (session, dealer)}
            if len(kinds) == 2:
                found.broken.append(f"{silo} sent both kinds of share of {dealer} in step {session[0]}")


def _judge_releases(found: Verdict, entries: Iterable[Entry], charter: Charter) -> None:
    """One T3 a step at each silo; and no two T3 of a step with as many releases as any threshold can be."""
    by_step: dict[int, dict[bytes, set[str]]] = {}
    for entry, shares in _shares(entries, charter):
        if entry.phase == "unmask-slots":
            by_step.setdefault(_request(entry).step, {}).setdefault(shares.t3, set()).add(entry.silo)
    for step, sets in sorted(by_step.items()):
        for silo in sorted({silo for silos in sets.values() for silo in silos}):
            if sum(silo in silos for silos in sets.values()) > 1:
                found.broken.append(f"{silo} released step {step} for two survivor sets")
        least = charter.threshold(charter.n_min)
        if sum(len(silos) >= least for silos in sets.values()) > 1:
            found.broken.append(f"step {step} can be opened for two survivor sets")


def _tables(entries: Iterable[Entry], charter: Charter) -> dict[str, dict[Share, tuple[bytes, bytes]]]:
    """holder → share → (what is hashed before the share, the hash that its dealer published)."""
    lanes: dict[tuple[Session, str], tuple[str, ...]] = {}
    tables: dict[str, dict[Share, tuple[bytes, bytes]]] = {}
    for entry in entries:
        request = _request(entry)
        session = (request.step, request.attempt)
        if entry.phase == "open":
            (signed,), _ = unpack_two(entry.reply)
            advert = Advert.open(signed, lambda m: charter.member(m.silo).agent)
            lanes[session, entry.silo] = ("", *(lane for lane, _ in advert.commitments))
        elif entry.phase == "deal":
            signed, rows = unpack_two(entry.reply)
            deal = Deal.open(signed[0], lambda m: charter.member(m.silo).agent)
            for peer, row in rows:
                for lane, known in zip(lanes[session, entry.silo], Row.from_bytes(row).hashes, strict=True):
                    fields = [deal.t1, entry.silo, peer, lane, bytes(SHARE_BYTES)]
                    before = label_bytes("share-hash", fields)[:-SHARE_BYTES]
                    tables.setdefault(peer, {})[session, entry.silo, lane] = (before, known)
    return tables


def _windows(data: bytes, table: Mapping[Share, tuple[bytes, bytes]]) -> set[Share]:
    known = {digest: share for share, (_, digest) in table.items()}
    begun = [sha256(before) for before, _ in table.values()]
    found = set()
    for at in range(len(data) - SHARE_BYTES + 1):
        if data[at] > 1:  # a field element is below 2^256 + 297: its first byte is 0 or 1
            continue
        window = data[at : at + SHARE_BYTES]
        for start in begun:
            one = start.copy()
            one.update(window)
            if (share := known.get(one.digest())) is not None:
                found.add(share)
    return found


def _own(entry: Entry, charter: Charter) -> set[Share]:
    """The shares of its own seeds that a silo sent."""
    found: set[Share] = set()
    for _, shares in _shares([entry], charter):
        request = _request(entry)
        session = (request.step, request.attempt)
        found |= {(session, silo, "") for silo, _ in shares.masks if silo == entry.silo}
        found |= {(session, silo, lane) for silo, lane, _ in shares.seeds if silo == entry.silo}
    return found


def _shares(entries: Iterable[Entry], charter: Charter) -> Iterator[tuple[Entry, Shares]]:
    for entry in entries:
        if entry.phase in ("unmask-slots", "unmask-lanes"):
            yield entry, Shares.open(entry.reply, lambda m: charter.member(m.silo).agent)


def _request(entry: Entry) -> Request:
    """The request as it was made, whoever signed it."""
    try:
        return Request.open(entry.request, lambda _: _Anyone())  # type: ignore[arg-type,return-value]
    except FederationError as bad:
        raise AssertionError("the book holds a request that no silo could read") from bad


class _Anyone:
    def verify(self, signature: bytes, message: bytes) -> None:
        """A game may forge a signature; what it asked is on record all the same."""
