"""A federation of bare homes, without data: keys and charters are all that an epoch touches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from aggregator.home import AggregatorHome
from crypto.charter import Charter, SignedCharter
from crypto.charter_defaults import Floors
from crypto.home import Home
from crypto.keys import Identity
from jobs.membership.keygen import keygen_aggregator, keygen_silo
from jobs.membership.propose import first_epoch, next_epoch
from silo_agent.home import SiloHome


class Bare:
    """``silo-1 …`` and an aggregator under one charter, each in a home of its own; the consortium's key at hand."""

    def __init__(self, root: Path, silos: int = 4, name: str = "test", floors: Floors | None = None) -> None:
        self.root = root
        self.consortium = Identity.generate()
        self.aggregator = root / "aggregator"
        self.silos = tuple(f"silo-{i + 1}" for i in range(silos))
        aggregator = keygen_aggregator(AggregatorHome(self.aggregator))
        members = [keygen_silo(SiloHome(self.home(silo)), silo) for silo in self.silos]
        self.first = first_epoch(name, members, aggregator, floors=floors, now=int(time.time()))
        for home in (self.aggregator, *map(self.home, self.silos)):
            Home(home).pinned.pin(self.sign(self.first), self.consortium.public)

    def home(self, silo: str) -> Path:
        return self.root / "silos" / silo

    def sign(self, charter: Charter) -> SignedCharter:
        return SignedCharter.sign(charter, self.consortium)

    def following(self, old: Charter | None = None, **how: object) -> tuple[Charter, bytes]:
        """The next epoch and its signed bytes."""
        new = next_epoch(old or self.first, now=int(time.time()), **how)  # type: ignore[arg-type]
        return new, bytes(self.sign(new))


def files(home: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Path → bytes of every file of a folder, except some names."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.name not in but
    }
