"""The journal: there, whole, and not an old copy of itself.

A restored old journal has forgotten promises, and a silo that goes on with it could be talked into releasing twice. Its
peers notice (they refuse a release counter that went back); here it is held against what else remembers at this site:
the security log, which is written before shares leave and after a run is joined; the notes and receipts of runs. Who
restores the whole home, those included, is noticed by the peers only.

Read beside an agent that has it open; nothing is taken or written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crypto.errors import JournalLost
from jobs.doctor.check import SILO, Finding, check, fail, ok, warn
from jobs.doctor.target import Place
from jobs.security_log.events import Event
from jobs.security_log.reader import files
from silo_agent.home import SiloHome

_RESTORE = (
    "Restore the latest journal from its volume, not from an older backup. If it is lost, make a new home "
    "(`fed keygen`) and have the consortium enrol it by a new epoch: peers refuse an old copy."
)
_STARTS = {Event.AGENT_STARTED, Event.SERVICE_STARTED}
_TOLD = (Event.SHARES_RELEASED, Event.RUN_JOINED, Event.RUN_ENDED, Event.REFUSAL, *_STARTS)


@dataclass(slots=True)
class Seen:
    """What a journal says. ``released``: run → highest step released. ``torn``: half a line stands at its end."""

    lines: int = 0
    joined: set[str] = field(default_factory=set)
    released: dict[str, int] = field(default_factory=dict)
    releases: int = 0
    torn: bool = False

    def knows(self, run: str) -> bool:
        """``run``: its whole id or the beginning of it."""
        return any(joined.startswith(run) for joined in self.joined)


def read_journal(path: Path) -> Seen:
    """Raises JournalLost for a damaged line."""
    seen = Seen()
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    seen.torn = bool(torn)
    for number, raw in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            record = json.loads(raw)
            if record["kind"] == "joined":
                seen.joined.add(str(record["run"]))
            elif record["kind"] == "released":
                run, step = str(record["run"]), int(record["step"])
                seen.released[run] = max(step, seen.released.get(run, -1))
                seen.releases += 1
        except (ValueError, KeyError, TypeError) as bad:
            raise JournalLost(f"line {number} of {path.name} is damaged", remedy=_RESTORE) from bad
        seen.lines = number
    return seen


@check(
    "journal",
    SILO,
    looks="the journal: present once there were runs, and readable to its end",
    fails="it is missing although runs were joined here, or a line is damaged",
    remedy=_RESTORE,
    start=SILO,
    after=("home",),
)
def journal(place: Place) -> Finding | None:
    home = place.silo_home
    path = home.journal_path
    if not path.exists():
        if known := [*_notes(home), *(run for run, _ in _joined(home))]:
            return fail(f"there is none, although this silo took part in run {known[0][:16]}")
        return ok("none yet: no run was joined here")
    seen = read_journal(path)
    said = f"{seen.lines} lines, {len(seen.joined)} runs joined, {seen.releases} releases"
    return ok(f"{said}; half a line at its end, which the next agent cuts off" if seen.torn else said)


@check(
    "journal.newest",
    SILO,
    looks="the journal against the security log, and against the notes and receipts of runs",
    fails="it lacks a run that was joined or a step that was released: it is an old copy",
    remedy=_RESTORE,
    start=SILO,
    after=("home", "journal"),
)
def journal_newest(place: Place) -> Finding | None:
    home = place.silo_home
    path = home.journal_path
    if not path.exists():
        return None
    # First what else remembers, then the journal: an agent at work writes it before what is then seen of it.
    notes, joined, releases = _notes(home), _joined(home), _releases(home)
    seen = read_journal(path)
    for run in notes:
        if not seen.knows(run):
            return fail(f"it does not know run {run}, of which there are notes or a receipt")
    for run, when in joined:
        if not seen.knows(run):
            return fail(f"it does not know run {run[:16]}, joined on {when[:10]} by the security log")
    lacking = [one for one in releases if one.step > seen.released.get(one.run, -1)]
    if certain := [one for one in lacking if one.certain]:
        one = certain[-1]
        last = seen.released.get(one.run)
        there = "no release of it" if last is None else f"step {last} as its last"
        return fail(f"by the security log step {one.step} of run {one.run[:16]} was released; the journal has {there}")
    if lacking:
        one = lacking[-1]
        found = f"step {one.step} of run {one.run[:16]} was about to be released when the agent ended"
        return warn(found, "A crash leaves this; so would an old copy. If a backup was restored since, do not start.")
    return ok("as new as what else remembers here")


@dataclass(slots=True)
class _Release:
    """``certain``: what the log says next shows that it was more than a try."""

    run: str
    step: int
    certain: bool = False


def _releases(home: SiloHome) -> list[_Release]:
    """The releases that the security log tells of.

    It is told first, then comes the journal, then the shares leave. So a release after which the agent was started
    anew, or which it then refused, may have been a try: the others were not.
    """
    found: list[_Release] = []
    open_: dict[str, _Release] = {}
    for record in _told(home):
        event, fields = record["event"], record["fields"]
        run, step = str(fields.get("run", "")), int(fields.get("step", -1))
        if event in _STARTS:
            open_.clear()
        elif event == Event.REFUSAL and run in open_ and open_[run].step == step:
            del open_[run]
        elif run in open_:
            open_.pop(run).certain = True
        if event == Event.SHARES_RELEASED:
            open_[run] = _Release(run, step)
            found.append(open_[run])
    return found


def _joined(home: SiloHome) -> list[tuple[str, str]]:
    """(run, time) of the runs that the security log says were joined; told after the journal has it."""
    return [(str(one["fields"]["run"]), str(one["at"])) for one in _told(home) if one["event"] == Event.RUN_JOINED]


def _told(home: SiloHome) -> Iterator[dict[str, Any]]:
    """Lines of the security log that speak of runs, oldest first. What is no line is passed over: see its own check."""
    marks = tuple(f'"event":"{event}"'.encode() for event in _TOLD)
    for path in files(home):
        with path.open("rb") as lines:
            for raw in lines:
                if any(mark in raw for mark in marks):
                    try:
                        record = json.loads(raw)
                        if record["event"] in _TOLD and record["fields"] is not None and record["at"]:
                            yield record
                    except (ValueError, KeyError, TypeError):
                        continue


def _notes(home: SiloHome) -> list[str]:
    """Runs, by the beginning of their id, of which this silo has notes or a receipt."""
    return sorted(
        {path.stem for path in (*home.runs_folder.glob("*.safetensors"), *home.receipts_folder.glob("*.bin"))}
    )


CHECKS = (journal, journal_newest)
