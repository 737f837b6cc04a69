"""The journal: present, undamaged, and not an old copy.

A restored old journal lacks promises, and a silo that continues with it could be made to release a step twice. Its
peers detect that (they refuse a release counter that decreased). Here the journal is compared with this site's other
records: the security log, which is written before shares leave and after a run is joined, and the progress files and
receipts of runs. If the whole home was restored, with those records, only the peers can detect it.

The journal is read without its lock, so an agent may have it open; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crypto.errors import JournalLost
from jobs.doctor.check import SILO, Finding, check, fail, ok, warn
from jobs.doctor.target import Target
from jobs.security_log.events import Event
from jobs.security_log.reader import LogLine, files, lines_of
from silo_agent.home import SiloHome
from silo_agent.journal import Joined, Released, parse_record

_RESTORE = (
    "Restore the latest journal from its volume, not from an older backup. If it is lost, make a new home "
    "(`fed keygen`) and have the consortium enrol it by a new epoch: peers refuse an old copy."
)
_STARTS = {Event.AGENT_STARTED, Event.SERVICE_STARTED}
_RUN_EVENTS = (Event.SHARES_RELEASED, Event.RUN_JOINED, Event.RUN_ENDED, Event.REFUSAL, *_STARTS)


@dataclass(slots=True)
class JournalContent:
    """What a journal contains. ``released``: run → highest step released. ``torn``: its last line is incomplete."""

    lines: int = 0
    joined: set[str] = field(default_factory=set)
    released: dict[str, int] = field(default_factory=dict)
    releases: int = 0
    torn: bool = False

    def has(self, run: str) -> bool:
        """Whether a run was joined. ``run``: its whole id or the beginning of it."""
        return any(joined.startswith(run) for joined in self.joined)


def read_journal(path: Path) -> JournalContent:
    """Raises JournalLost for a damaged line."""
    seen = JournalContent()
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    seen.torn = bool(torn)
    for number, raw in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            record = parse_record(raw)
        except ValueError as bad:
            raise JournalLost(f"line {number} of {path.name} is damaged", remedy=_RESTORE) from bad
        match record:
            case Joined(run):
                seen.joined.add(run)
            case Released(run, step):
                seen.released[run] = max(step, seen.released.get(run, -1))
                seen.releases += 1
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
def journal(target: Target) -> Finding | None:
    home = target.silo_home
    path = home.journal_path
    if not path.exists():
        if known := [*_notes(home), *(run for run, _ in _joined(home))]:
            return fail(f"there is none, although this silo took part in run {known[0][:16]}")
        return ok("none yet: no run was joined here")
    seen = read_journal(path)
    summary = f"{seen.lines} lines, {len(seen.joined)} runs joined, {seen.releases} releases"
    return ok(f"{summary}; its last line is incomplete, the next agent removes it" if seen.torn else summary)


@check(
    "journal.newest",
    SILO,
    looks="the journal against the security log, and against the progress files and receipts of runs",
    fails="it lacks a run that was joined or a step that was released: it is an old copy",
    remedy=_RESTORE,
    start=SILO,
    after=("home", "journal"),
)
def journal_newest(target: Target) -> Finding | None:
    home = target.silo_home
    path = home.journal_path
    if not path.exists():
        return None
    # First the other records, then the journal: a running agent writes the journal before them.
    notes, joined, releases = _notes(home), _joined(home), _releases(home)
    seen = read_journal(path)
    for run in notes:
        if not seen.has(run):
            return fail(f"it lacks run {run}, of which there is a progress file or a receipt")
    for run, when in joined:
        if not seen.has(run):
            return fail(f"it lacks run {run[:16]}, joined on {when[:10]} by the security log")
    lacking = [one for one in releases if one.step > seen.released.get(one.run, -1)]
    if certain := [one for one in lacking if one.certain]:
        one = certain[-1]
        last = seen.released.get(one.run)
        there = "no release of it" if last is None else f"step {last} as its last"
        return fail(f"by the security log step {one.step} of run {one.run[:16]} was released; the journal has {there}")
    if lacking:
        one = lacking[-1]
        found = f"step {one.step} of run {one.run[:16]} was about to be released when the agent ended"
        return warn(found, "A crash or an old copy has this effect. If a backup was restored since, do not start.")
    return ok("as new as this site's other records")


@dataclass(slots=True)
class _Release:
    """``certain``: the next line of the log shows that the release was carried out."""

    run: str
    step: int
    certain: bool = False


def _releases(home: SiloHome) -> list[_Release]:
    """The releases in the security log.

    The log is written first, then the journal, then the shares leave. So a release that is followed by a start of the
    agent, or by its refusal, may not have been carried out; every other one was.
    """
    found: list[_Release] = []
    open_: dict[str, _Release] = {}
    for line in _run_lines(home):
        run, step = line.fields.get("run", ""), line.fields.get("step", -1)
        if line.event in _STARTS:
            open_.clear()
        elif line.event is Event.REFUSAL and run in open_ and open_[run].step == step:
            del open_[run]
        elif run in open_:
            open_.pop(run).certain = True
        if line.event is Event.SHARES_RELEASED:
            open_[run] = _Release(run, step)
            found.append(open_[run])
    return found


def _joined(home: SiloHome) -> list[tuple[str, str]]:
    """(run, time) of the runs joined by the security log, which is written after the journal."""
    return [(line.fields["run"], line.at) for line in _run_lines(home) if line.event is Event.RUN_JOINED]


def _run_lines(home: SiloHome) -> Iterator[LogLine]:
    """Lines of the security log about runs, oldest first. Invalid lines are skipped: see the check `security-log`."""
    return (line for path in files(home) for line in lines_of(path, _RUN_EVENTS))


def _notes(home: SiloHome) -> list[str]:
    """Runs, by the beginning of their id, of which this silo has a progress file or a receipt."""
    return sorted(
        {path.stem for path in (*home.runs_folder.glob("*.safetensors"), *home.receipts_folder.glob("*.bin"))}
    )


CHECKS = (journal, journal_newest)
