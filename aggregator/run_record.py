"""What an aggregator's home tells once its ledger and charters have been checked: for whoever draws conclusions.

``aggregator.verify.run.read_book`` does the checking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind
from crypto.charter import Charter


@dataclass(frozen=True, slots=True)
class History:
    """Lines whose chain and signatures have been checked. ``charter``: the newest epoch; ``charters``: digest → each
    epoch that is at hand, signed by the consortium."""

    home: Path
    charter: Charter
    charters: Mapping[str, Charter]
    entries: tuple[Entry, ...]

    @property
    def head(self) -> str:
        return self.entries[-1].digest

    def of(self, kind: Kind, run: str | None = None) -> Iterator[Entry]:
        """The lines of a kind in order; of one run, if named."""
        return (
            entry for entry in self.entries if entry.kind is kind and (run is None or entry.record.get("run") == run)
        )

    @property
    def runs(self) -> tuple[str, ...]:
        """Every run that was started, oldest first."""
        return tuple(dict.fromkeys(str(entry.record["run"]) for entry in self.of(Kind.RUN_STARTED)))
