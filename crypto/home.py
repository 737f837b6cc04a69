"""What every home has, a silo's and the aggregator's: keys, the pinned charter, the security log, the service's files.

A home is one folder, 0700, on a volume that stays. ``silo_agent.home.SiloHome`` and ``aggregator.home.AggregatorHome``
name the rest. Keys are made where they are used, are 0600 and never move. A path inside a home is named here or there,
and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crypto.charter import Charter
from crypto.pinned_charter import PinnedCharter

SECURITY_LOG: Final = "security.jsonl"
SECURITY_HEAD: Final = "security.head"


@dataclass(frozen=True, slots=True)
class Home:
    """``root``: the folder. Nothing is read or made before it is asked for."""

    root: Path

    @property
    def name(self) -> str:
        """The folder's own name, for people."""
        return self.root.name

    @property
    def pinned(self) -> PinnedCharter:
        """``consortium.pub``, ``charter.bin`` and ``charters/``."""
        return PinnedCharter(self.root)

    def charter(self) -> Charter:
        """The charter in force, its signature checked. Raises SpecError where none is pinned, BadSignature."""
        return self.pinned.read()

    @property
    def keys_folder(self) -> Path:
        return self.root / "keys"

    def key_path(self, role: str) -> Path:
        """The private key of a role: "agent", "owner" or "aggregator"."""
        return self.keys_folder / f"{role}.key"

    @property
    def security_log(self) -> Path:
        """The newest file of the security log; older ones lie beside it."""
        return self.root / SECURITY_LOG

    @property
    def security_head(self) -> Path:
        """Where the security log ends."""
        return self.root / SECURITY_HEAD

    # --- of the long-lived service ---------------------------------------------------------------------------------

    @property
    def kit_folder(self) -> Path:
        """Where a service unpacks the startup kit that it is given."""
        return self.root / "kit"

    @property
    def metrics_folder(self) -> Path:
        """Figures of its processes, added up for ``/metrics``."""
        return self.root / "metrics"

    @property
    def metrics_port_path(self) -> Path:
        """The port of ``/metrics``, in decimal, while the service runs."""
        return self.root / "metrics.port"

    @property
    def drain_folder(self) -> Path:
        """There while the service leaves: one file for each of its processes that has left."""
        return self.root / "drain"

    @property
    def log_path(self) -> Path:
        """The output of a service that ``fed up`` started."""
        return self.root / "log.txt"
