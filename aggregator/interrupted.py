"""Runs that were interrupted, and what becomes of them: one small file in the aggregator's home.

The aggregator's service writes it (``jobs.flare.resumer``) whenever it changes; /readyz, /metrics and MLflow's follower
read it. It is a view: what happened is on the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final

from aggregator.home import AggregatorHome
from crypto import durable


class Standing(StrEnum):
    """What happens next to an interrupted run."""

    WAITING = "waiting"  #: the service resumes it after a pause
    QUEUED = "queued"  #: it is resumed: the job is submitted, and starts when enough silos are there
    ASK = "ask"  #: its job wants an administrator to decide
    NEVER = "never"  #: its job is not taken up by the service
    GIVEN_UP = "given-up"  #: as many attempts as its job allows were in vain
    BLOCKED = "blocked"  #: it cannot go on as it is: another release or charter, or the job is gone


#: In NVFlare's record of a job that was interrupted: what becomes of its run.
INTERRUPTED_KEY: Final = "consilium_interrupted"
#: Standings in which a person has to do something.
NEEDS_SOMEBODY: Final = frozenset({Standing.ASK, Standing.GIVEN_UP, Standing.BLOCKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """``job``: NVFlare's id of the job that was interrupted, "" where unknown; ``next_job``: of the one it goes on as.
    ``k``: the step that it stands at. ``since``, ``due``: seconds since 1970. ``attempt``: how many were made in a
    row, of ``attempts``. ``why``: a sentence. ``command``: what to type, "" where nothing is to be typed."""

    run: str
    name: str
    standing: Standing
    k: int
    since: int
    why: str
    job: str = ""
    next_job: str = ""
    attempt: int = 0
    attempts: int = 0
    due: int = 0
    command: str = ""

    def __str__(self) -> str:
        typed = f" To go on: {self.command}" if self.command else ""
        return f"run {self.run} ({self.name}) was interrupted at step {self.k}: {self.why}.{typed}"


def store(home: AggregatorHome, runs: Sequence[Interrupted]) -> None:
    """Replace the file; without runs there is none. Raises OSError."""
    if not runs:
        home.interrupted_path.unlink(missing_ok=True)
        return
    durable.replace(home.interrupted_path, json.dumps([asdict(run) for run in runs], indent=1).encode() + b"\n")


def load(home: AggregatorHome) -> tuple[Interrupted, ...]:
    """The interrupted runs, in the order in which they were started. Raises ValueError for another file."""
    try:
        found = json.loads(home.interrupted_path.read_bytes())
        return tuple(from_json(one) for one in found)
    except FileNotFoundError:
        return ()
    except (TypeError, KeyError, AttributeError) as bad:
        raise ValueError(f"{home.interrupted_path.name}: {bad!r}") from bad


def from_json(found: Mapping[str, Any]) -> Interrupted:
    """Raises ValueError, TypeError or KeyError for what is none."""
    known = {one.name: found[one.name] for one in fields(Interrupted)}
    return Interrupted(**known | {"standing": Standing(known["standing"])})
