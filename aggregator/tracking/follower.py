"""MLflow follows the ledger: runs, rounds, data commitments, approvals and one model version per finished job.

    python -m aggregator.tracking.follower --home DIR --follow

The ledger is authoritative; this process reads it and writes MLflow, and no other process waits for it. When MLflow is
down it tries again later. After a crash it goes on from its cursor and finds by tag what it had already made, so
nothing is written twice: metrics carry the time of their ledger line, inputs and tags are sets.

    job        → parent run   tags: consilium.{run, job_digest, …}, consilium.data.<silo>, consilium.approval.<silo>
    step       → child run    metrics: *.accuracy and others, system/* (sums, cohort, lanes, bytes, ms); tags: who, lost
    data       → inputs       one per silo: a salted commitment, never a path or a count; on child, parent and model
    finished   → one version  pyfunc from code + safetensors, alias ``candidate``, model card, the job's tags
    promotion  → alias        and consilium.<alias>.{by, at, until} on the versions
    withdrawal → marks        consilium.withdrawn_silos on every version that has the silo's data, and on their runs
    charter    → experiment   consilium.charter.<epoch>

What the pages say is in ``run_page`` and ``version_page``; ``check`` compares them with what MLflow holds.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Protocol

from aggregator.home import MLFLOW_FILE, AggregatorHome
from aggregator.interrupted import Interrupted, load
from aggregator.ledger.format import Entry, is_of, read
from aggregator.ledger.records import (
    ApprovalShown,
    CharterRecorded,
    ModelPublished,
    Record,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepClosed,
    StepVoid,
    Withdrawal,
)
from aggregator.protocols.choice import open_charter
from aggregator.protocols.interface import Plan
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.tracking import run_page as pages
from aggregator.tracking.artifact_addresses import follow_home, is_own
from aggregator.tracking.client import DOWN, check_address, connect
from aggregator.tracking.cursor import LOCK_FILE, Cursor, default_uri, load_cursor, save_cursor
from aggregator.tracking.dataset import SiloSource
from aggregator.tracking.mlflow_runs import Runs
from aggregator.tracking.registry import Registry
from aggregator.verify.models import CANDIDATE as ALIAS
from aggregator.verify.models import checked_ledger
from crypto import durable
from crypto.errors import FederationError

__all__ = [
    "ALIAS",
    "DOWN",
    "LOCK_FILE",
    "MLFLOW_FILE",
    "Cursor",
    "SiloSource",
    "default_uri",
    "follow",
    "load_cursor",
    "sync",
]

log = logging.getLogger("consilium.lineage")


# --- following ---------------------------------------------------------------------------------------------------


def sync(home: Path, tracking_uri: str | None = None) -> Cursor:
    """Bring MLflow up to the ledger's end; returns the new cursor.

    Safe to call again at any time. Sets MLflow's process-wide tracking address. Raises one of ``DOWN`` when MLflow
    cannot be reached (the stored cursor then names the last line that is complete), EvidenceError when the ledger or a
    checkpoint does not check, SpecError for a tracking address MLflow should not be used with.
    """
    uri = tracking_uri or default_uri(AggregatorHome(home))
    check_address(uri)
    ledger = AggregatorHome(home).ledger_path
    with durable.locked(home / LOCK_FILE):  # one follower at a time; a second one waits
        if is_own(AggregatorHome(home), uri) and (moved := follow_home(AggregatorHome(home))):
            log.warning("the home was moved: artifacts in %s are now those of %s", ", ".join(moved), home)
        cursor = load_cursor(AggregatorHome(home), uri)
        writer: _Writer | None = None
        for entry in read(ledger, after=(cursor.seq, cursor.digest, cursor.end)) if ledger.exists() else ():
            writer = writer or _Writer(AggregatorHome(home), uri)
            writer.write(entry)
            cursor = Cursor(entry.seq, entry.digest, entry.end)
            save_cursor(AggregatorHome(home), uri, cursor)
    return cursor


class Stop(Protocol):
    """A threading.Event, or a test's stand-in that does not sleep."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


def follow(home: Path, tracking_uri: str | None, stop: Stop, *, poll_s: float = 1.0, longest_s: float = 60.0) -> None:
    """Sync whenever the ledger grows, until ``stop``, and once more then.

    While MLflow is down: again after 1, 2, 4 … ``longest_s``.
    """
    ledger = AggregatorHome(home).ledger_path
    done, pause = -1, 1.0
    shown: tuple[Interrupted, ...] = ()
    while True:
        last = stop.is_set()
        size = ledger.stat().st_size if ledger.exists() else 0
        wait = poll_s
        interrupted = _interrupted(AggregatorHome(home))
        if size != done or interrupted != shown:
            try:
                done, pause = sync(home, tracking_uri).end, 1.0
                _show_interrupted(AggregatorHome(home), tracking_uri, shown, interrupted)
                shown = interrupted
            except DOWN as down:
                log.warning("MLflow did not take a record: %s", str(down).partition("\n")[0])
                wait, pause = pause, min(2 * pause, longest_s)
        if last:
            return
        stop.wait(wait)


def _interrupted(home: AggregatorHome) -> tuple[Interrupted, ...]:
    try:
        return load(home)
    except (OSError, ValueError) as bad:
        log.warning("interrupted runs are not shown in MLflow: %s", bad)
        return ()


def _show_interrupted(
    home: AggregatorHome, tracking_uri: str | None, before: tuple[Interrupted, ...], now: tuple[Interrupted, ...]
) -> None:
    """Tag the runs that are interrupted, and take the tag from those that are not any more. Raises one of ``DOWN``."""
    if before == now:
        return
    uri = tracking_uri or default_uri(home)
    runs = Runs(connect(uri), None)
    for one in before:
        if one.run not in {other.run for other in now}:
            runs.mark(one.run, pages.INTERRUPTED, "")
    for one in now:
        runs.mark(one.run, pages.INTERRUPTED, str(one))


# --- writing -----------------------------------------------------------------------------------------------------


class _Writer:
    """Turns ledger entries into MLflow writes, each of which may be repeated. Raises one of ``DOWN`` at once if MLflow
    is down."""

    def __init__(self, home: AggregatorHome, uri: str) -> None:
        self._home = home
        client = connect(uri)
        self._runs = Runs(client, None if uri.startswith("http") else home.artifacts_folder)
        self._registry = Registry(client, home, uri, self._runs)
        self._checked: CheckedLedger | None = None
        self._plans: dict[str, Plan] = {}

    def write(self, entry: Entry[Record]) -> None:
        if is_of(entry, RunStarted):
            self._runs.start(entry)
        elif is_of(entry, StepClosed) or is_of(entry, StepVoid):
            self._runs.step(entry, self._plan(entry.record.run))
        elif is_of(entry, ApprovalShown) or is_of(entry, RunResumed):
            self._runs.note(entry)
        elif is_of(entry, RunFinished):
            ledger = self._ledger(entry)
            self._registry.publish(ledger, entry.record.run)
            self._runs.end(entry, ledger.run(entry.record.run))
        elif is_of(entry, RunFailed):
            self._runs.end(entry, self._ledger(entry).run(entry.record.run))
        elif is_of(entry, ModelPublished):
            self._runs.note(entry)
            self._registry.moved(self._ledger(entry), entry.record)
        elif is_of(entry, Withdrawal):
            self._registry.withdrawn(self._ledger(entry), entry.record.silo)
        elif is_of(entry, CharterRecorded):
            self._charter(entry.record)
        # Step-opened, step-attested, silo-lost, refusal, recovered: the closing record of the step repeats them.

    def _ledger(self, entry: Entry[Record]) -> CheckedLedger:
        """The whole ledger, checked; once for all the entries that it has."""
        if self._checked is None or entry.seq >= len(self._checked.entries):
            self._checked = checked_ledger(self._home)
        return self._checked

    def _plan(self, run: str) -> Plan:
        """The plan of a run. Its first line may have been copied long ago, by another process."""
        if run not in self._plans:
            self._plans[run] = RunRecord.read(self._home, run).plan
        return self._plans[run]

    def _charter(self, record: CharterRecorded) -> None:
        charter = open_charter(bytes.fromhex(record.charter), self._home.pinned.consortium())
        self._runs.tag_experiment(charter.federation, pages.charter_tags(record))


# --- the process -------------------------------------------------------------------------------------------------


class _UntilOrphaned(threading.Event):
    """Set by SIGTERM, or when the process that started us is gone."""

    def __init__(self) -> None:
        super().__init__()
        self._starter = os.getppid()

    def is_set(self) -> bool:
        return super().is_set() or os.getppid() != self._starter


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m aggregator.tracking.follower", description="Copy the ledger into MLflow."
    )
    parser.add_argument("--home", type=Path, required=True, help="the aggregator's home folder")
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("CONSILIUM_TRACKING_URI"),
        help="default: CONSILIUM_TRACKING_URI, then SQLite in the home folder",
    )
    parser.add_argument("--follow", action="store_true", help="keep following until SIGTERM")
    args = parser.parse_args(argv)
    os.umask(0o077)  # MLflow makes its database and artifacts readable to all
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    try:
        if not args.follow:
            sync(args.home, args.tracking_uri)
            return 0
        stop = _UntilOrphaned()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        follow(args.home, args.tracking_uri, stop)
        return 0
    except FederationError as error:
        log.error("%s", error)
        return error.exit_code
    except DOWN as down:
        log.error("MLflow did not take a record: %s", str(down).partition("\n")[0])
        return 1


if __name__ == "__main__":
    sys.exit(main())
