"""Following a run on this machine: its ledger, its events, and a view that shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read
from aggregator.ledger.records import RunStarted
from aggregator.rounds.attempt import Exchange
from jobs.job import JobSpec


class View(Protocol):
    """Where a run is shown."""

    def say(self, text: str) -> None: ...

    def phase(self, step: str, number: int, steps: int, phase: str, silos: Sequence[str]) -> None: ...

    def done(self) -> None: ...

    def result(self, report: dict[str, Any], root: Path) -> None: ...


class Follower:
    """Finds the run of a job on the ledger and reads its events as they come."""

    def __init__(self, home: AggregatorHome, spec: JobSpec, silos: Sequence[str], view: View) -> None:
        self.run = ""
        self.ended = False
        self.first: float | None = None
        self._home = home
        self._spec = spec
        self._view = view
        self._silos = silos
        self._after = self._mark()
        self._at = 0
        self._steps = 0

    def _mark(self) -> int:
        path = self._home.ledger_path
        return sum(1 for _ in read(path)) if path.exists() else 0

    def look(self) -> None:
        """Show what is new. Cheap: called ten times a second."""
        if not self.run and not self._find():
            return
        path = self._home.run_folder(self.run).events_path
        if not path.exists():
            return
        with path.open(encoding="utf-8") as events:
            events.seek(self._at)
            while (line := events.readline()).endswith("\n"):
                self._at = events.tell()
                event = json.loads(line)
                if "phase" in event:
                    self._show(event["name"], event["step"], event["phase"], event["silos"])
                elif event["note"]:
                    self.ended = True

    def exchange(self, exchange: Exchange | None, note: str) -> None:
        """The same for a run in this process, which calls this directly."""
        if exchange is None:
            self.ended = True
        else:
            self._show(exchange.step_name, exchange.step, exchange.phase, sorted(exchange.requests))

    def _find(self) -> bool:
        path = self._home.ledger_path
        for entry in read(path) if path.exists() else ():
            if (
                entry.seq >= self._after
                and isinstance(entry.record, RunStarted)
                and entry.record.job_digest == self._spec.digest.hex()
            ):
                self.run = entry.record.run
                return True
        return False

    def _show(self, name: str, step: int, phase: str, silos: Sequence[str]) -> None:
        if self.first is None:
            self.first = time.monotonic()
        if not self._steps:
            self._steps = int(self._spec.params.get("rounds", 0))
        self._view.phase(name, step, self._steps, phase, silos)
