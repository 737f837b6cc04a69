"""A federation whose homes are all on this machine: the demonstration's, one on your own data, and the tests'."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.home import AggregatorHome
from crypto import durable
from crypto.errors import SpecError
from crypto.keys import Identity
from jobs.membership.propose import first_epoch, sign
from silo_agent.data import COUNTS
from silo_agent.home import SiloHome
from silo_agent.pysyft.catalogue import Catalogue
from silo_agent.readers.reference import Reference

#: What a silo registers: arrays, which are copied, or files where they lie.
Rows = Mapping[str, np.ndarray] | Reference


@dataclass(frozen=True)
class Federation:
    """``root``: the folder that holds the homes. ``silos``: ids, sorted."""

    root: Path
    name: str
    silos: tuple[str, ...]

    @property
    def aggregator(self) -> Path:
        return self.root / "aggregator"

    def silo(self, silo: str) -> Path:
        return self.root / "silos" / silo

    @property
    def homes(self) -> dict[str, Path]:
        """Silo → folder of its home."""
        return {silo: self.silo(silo) for silo in self.silos}

    @property
    def aggregator_home(self) -> AggregatorHome:
        return AggregatorHome(self.aggregator)

    @property
    def silo_homes(self) -> dict[str, SiloHome]:
        return {silo: SiloHome(home) for silo, home in self.homes.items()}

    @property
    def consortium_key_path(self) -> Path:
        return self.root / "consortium" / "consortium.key"

    @classmethod
    def make(
        cls,
        root: Path,
        name: str,
        data: Mapping[str, Rows],
        dataset: str,
        *,
        settings: Mapping[str, object] | None = None,
    ) -> Federation:
        """Homes, keys, charter and registered data for these silos. Jobs still need each data owner's approval.

        Raises SpecError if the folder is there already (a federation is never overwritten), and for too few silos.
        """
        if root.exists():
            raise SpecError(
                "--name", got=root.name, want="a name that is not taken", remedy=f"Choose another, or remove {root}."
            )
        federation = cls(root, name, tuple(sorted(data)))
        if len(data) < 3:
            raise SpecError("silos", got=len(data), want="at least 3")
        durable.private_folder(root)
        consortium = Identity.generate()
        durable.private_folder(federation.consortium_key_path.parent)
        consortium.save(federation.consortium_key_path)
        homes = federation.silo_homes
        aggregator = federation.aggregator_home.make()
        members = [home.make(silo, settings) for silo, home in homes.items()]
        charter = sign(first_epoch(name, members, aggregator, now=int(time.time())), consortium)
        for pinning in (federation.aggregator_home, *homes.values()):
            pinning.pinned.pin(charter, consortium.public)
        for silo, home in homes.items():
            add_data(home, silo, dataset, data[silo])
        return federation


def add_data(home: SiloHome, silo: str, name: str, rows: Rows) -> None:
    """Register a data set in a silo's catalogue, as ``fed data add`` does, with made-up rows as its mock."""
    if isinstance(rows, Reference):
        Catalogue(home, silo).add_reference(name, rows)
        return
    with tempfile.TemporaryDirectory(prefix="consilium-", dir=home.root) as place:
        private, mock = Path(place) / "private.npz", Path(place) / "mock.npz"
        np.savez(private, allow_pickle=False, **dict(rows))
        np.savez(mock, allow_pickle=False, **made_up(rows))
        Catalogue(home, silo).add(name, private, mock, summary="made by the demonstration")


def made_up(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of the same shape, types and range that tell nothing of the real ones: noise with labels in turn.

    Inputs that are whole numbers are tokens, and labels are the next ones.
    """
    rng = np.random.default_rng()
    mock: dict[str, np.ndarray] = {name: np.array(arrays[name]) for name in COUNTS if name in arrays}
    different = 2 if "labels" in arrays else int(arrays.get("classes", np.array(0)))
    for part, rows in (("train", 64), ("test", 32)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        shape = (rows, *x.shape[1:])
        made = rng.integers(max(different, 2), size=shape) if x.dtype.kind in "iu" else rng.normal(size=shape)
        mock[f"x_{part}"] = made.astype(x.dtype)
        targets = (rows, *y.shape[1:])
        in_turn = np.arange(np.prod(targets)).reshape(targets) % different if different else rng.normal(size=targets)
        mock[f"y_{part}"] = in_turn.astype(y.dtype)
    return mock
