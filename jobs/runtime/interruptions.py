"""What becomes of a run that was interrupted: one pure decision from the ledger, the job store and the job's policy.

A run is interrupted when the ledger has no end for it and no process works on it. It goes on as another job of
NVFlare's with the same signed folder (``jobs.flare.resumer``), if its job's policy says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aggregator.interrupted import Interrupted, Standing
from aggregator.open_runs import OpenRun
from aggregator.resume_policy import ALWAYS, ASK, ResumePolicy
from crypto import transcript
from crypto.errors import SpecError

#: Runs without a line on the ledger for so long are history. Seconds: 14 days.
FORGOTTEN_S: Final = 14 * 86400
#: How long NVFlare may take until its record of a job that was broken off says which run it had. Seconds.
SETTLED_S: Final = 30.0
#: NVFlare's words for a job that waits or runs.
PENDING: Final = frozenset({"SUBMITTED", "DISPATCHED", "RUNNING"})
#: And for one that an administrator aborted.
ABORTED: Final = "FINISHED:ABORTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """A job of NVFlare's store. ``run``: what its record says it ran; ``resumes``: the run that it was submitted to go
    on with; ``by_service``: whether this service submitted it; ``at``: when, seconds since 1970."""

    job_id: str
    status: str
    run: str = ""
    resumes: str = ""
    by_service: bool = False
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a run must fit to go on here: digests of charter and software, hex."""

    charter: str
    code: str


def judge(run: OpenRun, jobs: Sequence[StoredJob], site: Site, *, seen: float, now: float) -> Interrupted | None:
    """What becomes of a run without a process; None for one that nobody has to look after.

    ``seen``: since when it is known to have none. An attempt is due when ``due`` of the answer has passed."""
    if now - run.last > FORGOTTEN_S:
        return None
    mine = sorted((job for job in jobs if run.run in (job.run, job.resumes)), key=lambda job: job.at)
    pending = next((job for job in mine if job.resumes == run.run and job.status in PENDING), None)
    before = next((job for job in reversed(mine) if job is not pending), None)
    made = sum(1 for job in mine if job.resumes == run.run and job.by_service and job.at > run.progress)

    def stands(standing: Standing, why: str, *, due: float = 0.0, command: bool = False) -> Interrupted:
        return Interrupted(
            run=run.run,
            name=run.name,
            standing=standing,
            k=run.k,
            since=run.last,
            why=why,
            job=before.job_id if before is not None else "",
            next_job=pending.job_id if pending is not None else "",
            attempt=made,
            attempts=policy.attempts,
            due=round(due),
            command=f"fed submit {run.name}.toml --resume {run.run} --kit KIT --charter CHARTER" if command else "",
        )

    try:
        policy = ResumePolicy.of_job(run.job)
    except SpecError:
        policy = ResumePolicy(policy=ASK)  # no job of ours: nothing is done by itself
    if run.failed is not None and (policy.policy != ALWAYS or not run.mendable):
        return None  # it has an end, and that is told
    if pending is not None:
        return stands(Standing.QUEUED, f"it goes on as job {pending.job_id}")
    if differs := _differs(run, site):
        again = "Submit the job as a new run"
        return None if run.failed is not None else stands(Standing.BLOCKED, f"{differs}. {again}")
    if before is None and now - seen < SETTLED_S:
        return stands(Standing.WAITING, "NVFlare clears its job away", due=seen + SETTLED_S)
    if before is None:
        if run.failed is not None:
            return None
        return stands(Standing.BLOCKED, "NVFlare's store has no job of it any more", command=True)
    if before.resumes == run.run and before.status == ABORTED and not before.run:
        # It waited to go on, and an administrator said no; no run, so the ledger has no record of that.
        return stands(
            Standing.NEVER, f"an administrator aborted job {before.job_id}, which was to go on with it", command=True
        )
    if policy.policy != ALWAYS:
        standing = Standing.ASK if policy.policy == ASK else Standing.NEVER
        return stands(standing, f"its job's policy is {policy.policy!r}", command=True)
    if made >= policy.attempts:
        if run.failed is not None:
            return None
        return stands(Standing.GIVEN_UP, f"{made} attempts in a row did not get it further", command=True)
    due = seen + policy.pause_s(made)
    return stands(Standing.WAITING, f"attempt {made + 1} of {policy.attempts} to resume it follows by itself", due=due)


def _differs(run: OpenRun, site: Site) -> str:
    """Why the run cannot go on at this site; empty if it can."""
    if run.protocol != transcript.PROTOCOL:
        return f"it began under {run.protocol}, and this release speaks {transcript.PROTOCOL}"
    if run.charter != site.charter:
        return "the charter has changed since it began"
    if run.code != site.code:
        return "this site has another release than it began with"
    return ""
