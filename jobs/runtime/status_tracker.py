"""A running job's status: kept up to date by the aggregator's job process, read from other threads.

It watches the run (every exchange), hears of each answer, and reads the run's new lines from the ledger, which is the
truth. Each of them that is news is a line of the log. With a file it also leaves the status there, so that it can be
read after the process has ended.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from aggregator.ledger.format import Entry, read
from aggregator.ledger.log import utc_now
from aggregator.ledger.records import Record, run_of
from aggregator.rounds.attempt import Exchange
from aggregator.rounds.run import Run
from crypto.errors import FederationError
from jobs.runtime.status import Absent, Answered, Asked, RunStatus, StatusEvent, Stopped, after, as_json
from jobs.runtime.step_log import line

log = logging.getLogger("consilium.aggregator")


class StatusTracker:
    """``path``: the file to leave the status in, written whole; None for none."""

    def __init__(self, path: Path | None = None, *, clock: Callable[[], str] = utc_now) -> None:
        self._path = path
        self._clock = clock
        self._lock = Lock()
        self._status = RunStatus()
        self._run: Run | None = None
        self._last: Entry[Record] | None = None

    @property
    def status(self) -> RunStatus:
        with self._lock:
            return self._status

    def follow(self, run: Run) -> None:
        """Watch a run, beside those that watch it already."""
        self._run, before = run, run.watch

        def watch(exchange: Exchange | None, note: str) -> None:
            before(exchange, note)
            self._exchange(exchange)

        run.watch = watch

    def answered(self, silo: str) -> None:
        self._take(Answered(silo))

    def stopped(self, error: FederationError | Exception) -> None:
        """The job ended with this. What the ledger says of it counts more."""
        self._read_ledger()
        ours = isinstance(error, FederationError)
        code = error.code if isinstance(error, FederationError) else "INTERNAL"
        self._take(Stopped(self._clock(), code, str(error) if ours else type(error).__name__))
        self._leave()

    def _exchange(self, exchange: Exchange | None) -> None:
        self._read_ledger()
        if exchange is not None:
            asked = (exchange.phase, exchange.step, exchange.step_name, tuple(exchange.requests))
            self._take(Asked(self._clock(), *asked, self._absent(exchange.step_name)))
        self._leave()

    def _absent(self, step: str) -> dict[str, Absent]:
        """Who fell out of the attempt under way: the ledger says so only once it is over."""
        if self._run is None:
            return {}
        now = self._run.attendance
        return {silo: Absent(step, phase, now.refusals.get(silo, "")) for silo, phase in now.lost.items()}

    def _read_ledger(self) -> None:
        run = self._run
        if run is None or not run.ledger.path.exists():
            return
        for entry in read(run.ledger.path, after=self._last):
            self._last = entry
            if run_of(entry.record) == run.name:
                self._take(entry)
                if text := line(self.status, entry.record):
                    log.info("%s", text)

    def _take(self, event: StatusEvent) -> None:
        with self._lock:
            self._status = after(self._status, event)

    def _leave(self) -> None:
        """Best effort: a status that can't be written stops no run."""
        if self._path is None:
            return
        new = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_text(json.dumps(as_json(self.status)) + "\n", encoding="utf-8")
            os.replace(new, self._path)
        except OSError as failed:
            log.warning("the run's status could not be written: %s", failed.strerror)


def left(path: Path) -> dict[str, Any] | None:
    """The status that a tracker left in a file; None if no status can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
