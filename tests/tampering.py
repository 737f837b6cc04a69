"""Finished runs to tamper with, and the two hands that tamper: one without keys, one with the aggregator's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import plain, read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.verify.checks import verify_run
from aggregator.verify.report import CheckOutcome, VerificationReport
from crypto.encoding import Reader
from crypto.errors import EvidenceError
from crypto.keys import Identity
from crypto.messages import Closing, Message, Request
from crypto.transcript import run_id
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.owner.approval_terms import approve_for_demonstration
from jobs.runtime import in_process as production
from silo_agent.home import SiloHome
from tests import local
from tests.records import as_record

Fault = Callable[[Message, Callable[[], Message]], Message | None]
#: [kind, record, time] of each line.
Lines = list[list[Any]]


@dataclass(frozen=True)
class Finished:
    """A federation whose one run has ended. ``home``: the aggregator's."""

    federation: Federation
    run: str

    @property
    def home(self) -> AggregatorHome:
        return AggregatorHome(self.federation.aggregator)

    @property
    def folder(self) -> Path:
        return self.home.root / "jobs" / self.run

    @property
    def aggregator(self) -> Identity:
        """The aggregator's key."""
        return self.home.identity()

    def copy(self, root: Path) -> Finished:
        """The same homes in another place, to be spoilt."""
        shutil.copytree(self.federation.root, root)
        return Finished(replace(self.federation, root=root), self.run)


def finish(
    root: Path,
    job: JobSpec,
    *,
    faults: Mapping[str, Fault] | None = None,
    couriers: Mapping[str, Callable[[Any], production.Courier]] | None = None,
    unapproved: tuple[str, ...] = (),
    federation: Federation | None = None,
) -> Finished:
    """Run a job in this process. ``faults``, or whole ``couriers``, by silo; ``unapproved``: silos whose data owners
    have not signed."""
    faults, couriers = faults or {}, dict(couriers or {})
    for silo, fault in faults.items():
        couriers[silo] = lambda agent, fault=fault: local.Faulty(agent, fault)
    federation = federation or local.federation(root)
    approve_for_demonstration(
        [SiloHome(home) for silo, home in federation.homes.items() if silo not in unapproved], job
    )
    outcome, _, _ = production.run_job(
        job,
        federation.aggregator_home,
        federation.silo_homes,
        courier=lambda silo, agent: couriers.get(silo, production.InProcess)(agent),
    )
    return Finished(federation, outcome.run)


def quiet(phase: str, step: int) -> Fault:
    """Silence in one phase of one step."""

    def fault(message: Message, answer: Callable[[], Message]) -> Message | None:
        request = Request.from_bytes(Reader(message.body).blob())
        return None if (request.phase, request.step) == (phase, step) else answer()

    return fault


def flip(path: Path, place: int | None = None) -> None:
    """Change one bit, in the middle if no place is given."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 0x01
    path.write_bytes(data)


def rewrite(home: AggregatorHome, change: Callable[[Lines], object], identity: Identity | None = None) -> None:
    """Write the ledger anew after ``change``: chained, signed with the aggregator's key (or ``identity``), head and
    all, with the old times. What an aggregator can do that no longer likes its history."""
    path = home.ledger_path
    lines: Lines = [[str(entry.kind), plain(entry.record.fields()), entry.time] for entry in read(path)]
    change(lines)
    path.unlink()
    path.with_name(f"{path.name}.head").unlink()
    times = iter([time for _, _, time in lines])
    identity = identity or home.identity()
    ledger = Ledger.open(path, identity, clock=lambda: next(times))
    for kind, record, _ in lines:
        ledger.append(as_record(kind, record))


def countersign(run: Finished) -> None:
    """Have every silo that countersigned sign the history that now is: nobody is honest any more."""
    entries = list(read(run.home.ledger_path))
    started = next(entry.record for entry in entries if entry.kind is Kind.RUN_STARTED)
    ended = next(entry for entry in entries if entry.kind is Kind.RUN_FINISHED)
    whole = run_id(*(bytes.fromhex(getattr(started, name)) for name in ("job_digest", "charter_digest", "nonce")))
    chain, head = bytes.fromhex(ended.record.chain), bytes.fromhex(ended.prev)
    signed = {
        silo: Closing(silo=silo, run=whole, chain=chain, ledger=head)
        .sign(Identity.load(run.federation.silo(silo) / "keys" / "agent.key"))
        .hex()
        for silo in ended.record.countersignatures
    }

    def change(lines: Lines) -> None:
        records(lines, Kind.RUN_FINISHED)[0].update(ledger_head=ended.prev, countersignatures=signed)

    rewrite(run.home, change)


def line_of(home: AggregatorHome, kind: Kind, which: int = 0) -> int:
    """The number of a line, from 1, as errors name it."""
    return [entry.seq + 1 for entry in read(home.ledger_path) if entry.kind is kind][which]


def records(lines: Lines, kind: Kind) -> list[dict[str, Any]]:
    """The records of a kind, to be changed in place."""
    return [record for name, record, _ in lines if name == kind]


def started(lines: Lines) -> dict[str, Any]:
    return records(lines, Kind.RUN_STARTED)[0]


def closed(lines: Lines, k: int = 1) -> dict[str, Any]:
    return records(lines, Kind.STEP_CLOSED)[k]


def ended(lines: Lines) -> dict[str, Any]:
    return records(lines, Kind.RUN_FINISHED)[0]


def shift(lines: Lines, **by: int) -> None:
    for line in lines:
        moved = datetime.fromisoformat(line[2]) + timedelta(**by)
        line[2] = moved.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# --- what the verifier says --------------------------------------------------------------------------------------


def names(report: VerificationReport, outcome: CheckOutcome) -> list[str]:
    return [line.name for line in report.of(outcome)]


def detail(report: VerificationReport, name: str) -> str:
    return next(line.detail for line in report.lines if line.name == name)


def refused(run: Finished, **how: Any) -> EvidenceError:
    """What ``verify_run`` raises."""
    with pytest.raises(EvidenceError) as caught:
        verify_run(run.home, run.run, **how)
    assert caught.value.expected != caught.value.found
    return caught.value
