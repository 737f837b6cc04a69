"""Takes interrupted runs up again: a component of the aggregator's server, in its long-lived process.

Every second it reads the ledger's new lines. A run without an end and without a process (nobody holds its lock) is
interrupted; ``jobs.runtime.interruptions`` says what becomes of it, by the policy of its job. To resume one it submits
the job once more: NVFlare's store has the folder as the administrator signed it, and the copy keeps that signature and
that submitter. Only the job's record, which is not signed, names the run to go on with. Silos check the signature, and
their data owner's approval, as for any job; keys are new in each step.

What is interrupted is told in the home (``aggregator.interrupted``) and in the records of the jobs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import Job, JobMetaKey
from nvflare.private.fed.server.job_cmds import CLONED_META_KEYS
from nvflare.widgets.widget import Widget

from aggregator.home import AggregatorHome
from aggregator.interrupted import INTERRUPTED_KEY, NEEDS_SOMEBODY, Interrupted, Standing, store
from aggregator.ledger.format import read
from aggregator.open_runs import OpenRun, OpenRuns
from crypto import durable
from crypto.errors import FederationError
from crypto.home import Home
from jobs import release
from jobs.flare.folder import RESUME_KEY
from jobs.flare.nvflare_mains import job_home
from jobs.flare.outcomes import META_KEY
from jobs.runtime import drain
from jobs.runtime.interruptions import Site, StoredJob, judge

LOOK_S: Final = 1.0
#: How often NVFlare's store is read while runs wait for somebody only. Seconds.
REST_S: Final = 10.0
#: In a job's record: when the service submitted it to go on with a run, seconds since 1970.
RESUMED_AT: Final = "consilium_resumed_at"
#: Who submitted a job: a copy keeps it.
_SUBMITTER: Final = frozenset(
    {JobMetaKey.SUBMITTER_NAME.value, JobMetaKey.SUBMITTER_ORG.value, JobMetaKey.SUBMITTER_ROLE.value}
)


class Resumer(Widget):
    """Server component; looks from SYSTEM_START to SYSTEM_END, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = threading.Event()
        self._runs = OpenRuns()
        self._read: tuple[int, str, int] | None = None
        self._seen: dict[str, float] = {}  #: run → since when it is known to have no process
        self._told: tuple[Interrupted, ...] | None = None
        self._looked = 0.0  #: when the job store was read last
        self._in_records: dict[str, Interrupted] = {}  #: job → what its record says

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.SYSTEM_START:
            engine = fl_ctx.get_engine()
            threading.Thread(target=self._look_on, args=(engine,), name="resumer", daemon=True).start()
        elif event_type == EventType.SYSTEM_END:
            self._ended.set()

    def _look_on(self, engine: Any) -> None:
        home = AggregatorHome(job_home().root)
        while not self._ended.wait(LOOK_S):
            try:
                with engine.new_context() as fl_ctx:
                    self.look(home, engine, fl_ctx)
            except Exception:  # whatever it is, the server goes on, and the next look may succeed
                self.logger.exception("looking for interrupted runs")

    def look(self, home: AggregatorHome, engine: Any, fl_ctx: FLContext) -> None:
        """Bring everything up to date, and resume what is due. ``engine``: NVFlare's, of the parent."""
        self._follow(home)
        now = time.time()
        without = [run for run in self._runs if not _has_process(home, run)]
        self._seen = {run.run: self._seen.get(run.run, now) for run in without}
        if not without and not self._told:
            if self._told is None:
                self._tell(home, ())
            return
        resting = self._told is not None and {one.run for one in self._told} == {run.run for run in without}
        resting = resting and all(one.standing in NEEDS_SOMEBODY | {Standing.NEVER} for one in self._told or ())
        if resting and now - self._looked < REST_S:
            return
        self._looked = now
        manager = engine.get_component(SystemComponents.JOB_MANAGER)
        stored = {job.job_id: job for job in manager.get_all_jobs(fl_ctx)} if without else {}
        jobs = [_stored(job) for job in stored.values()]
        site = _site(home)
        found = []
        for run in without:
            one = judge(run, jobs, site, seen=self._seen[run.run], now=now)
            if one is not None and one.standing is Standing.QUEUED:
                self._seen[run.run] = now  # if that attempt fails, the pause begins then
            due = one is not None and one.standing is Standing.WAITING and bool(one.job) and now >= one.due
            if one is not None and due and self._idle(home, engine):
                next_job = self._submit(stored[one.job], run, manager, fl_ctx)
                self._seen[run.run] = now
                self.logger.warning(f"{one}. It goes on as job {next_job}.")
                jobs.append(StoredJob(job_id=next_job, status="SUBMITTED", resumes=run.run, by_service=True, at=now))
                one = judge(run, jobs, site, seen=now, now=now)
            if one is not None:
                found.append(one)
        self._tell(home, tuple(found))
        self._note(tuple(found), manager, fl_ctx)

    def _follow(self, home: AggregatorHome) -> None:
        if home.ledger_path.exists():
            for entry in read(home.ledger_path, after=self._read):
                self._runs.take(entry)
                self._read = (entry.seq, entry.digest, entry.end)

    def _idle(self, home: AggregatorHome, engine: Any) -> bool:
        """Whether no job runs or ends: one runs at a time, and what NVFlare has not cleared away is not over."""
        return not (engine.run_processes or engine.job_runner.running_jobs or drain.begun(Home(home.root)))

    def _submit(self, job: Job, run: OpenRun, manager: Any, fl_ctx: FLContext) -> str:
        """The job once more, to go on with the run; the id of the copy. It goes before jobs that came later."""
        kept = {str(key): job.meta[key] for key in job.meta.keys() & (CLONED_META_KEYS | _SUBMITTER)}
        kept |= {JobMetaKey.CLONED_FROM.value: job.job_id, RESUME_KEY: run.run, RESUMED_AT: time.time()}
        copy: Mapping[str, Any] = manager.clone(from_jid=job.job_id, meta=kept, fl_ctx=fl_ctx)
        made = str(copy[JobMetaKey.JOB_ID.value])
        if first := job.meta.get(JobMetaKey.SUBMIT_TIME.value):
            manager.update_meta(made, {JobMetaKey.SUBMIT_TIME.value: first}, fl_ctx)
        return made

    def _tell(self, home: AggregatorHome, found: tuple[Interrupted, ...]) -> None:
        if found == self._told:
            return
        known = {(one.run, one.standing) for one in self._told or ()}
        for one in found:
            if (one.run, one.standing) not in known:
                self.logger.warning(str(one))
        store(home, found)
        self._told = found

    def _note(self, found: tuple[Interrupted, ...], manager: Any, fl_ctx: FLContext) -> None:
        """Into the record of the job that was interrupted, for ``fed status``."""
        for one in found:
            if one.job and self._in_records.get(one.job) != one:
                manager.update_meta(one.job, {INTERRUPTED_KEY: asdict(one)}, fl_ctx)
                self._in_records[one.job] = one


def _has_process(home: AggregatorHome, run: OpenRun) -> bool:
    """Whether a process works on the run: it holds the lock in the run's folder."""
    path = home.run_folder(run.run).lock_path
    try:
        with durable.locked(path, wait=False, create=False):
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:  # of an earlier release, or removed by retention
        return False


def _site(home: AggregatorHome) -> Site:
    try:
        charter = home.charter().digest.hex()
    except (FederationError, OSError):
        charter = ""
    return Site(charter=charter, code=release.digest().hex())


def _stored(job: Job) -> StoredJob:
    meta = job.meta
    status = meta.get(META_KEY)
    return StoredJob(
        job_id=job.job_id,
        status=str(meta.get(JobMetaKey.STATUS.value, "")),
        run=str(status.get("run", "")) if isinstance(status, Mapping) else "",
        resumes=str(meta.get(RESUME_KEY, "")),
        by_service=RESUMED_AT in meta,
        at=float(meta.get(RESUMED_AT) or meta.get(JobMetaKey.SUBMIT_TIME.value) or 0.0),
    )
