"""What the administrator does: submit a job, see its state and why, read its log, abort it.

An administrator's machine has a kit and, to submit, the charter; it has no home and no ledger. So what it learns comes
through NVFlare's session: the status of a running job from its process, of an ended one from NVFlare's record of it.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aggregator.absences import sentence as sentence_of
from aggregator.figures import sentence
from aggregator.interrupted import INTERRUPTED_KEY, Interrupted, Standing
from aggregator.interrupted import from_json as from_record
from aggregator.open_runs import MENDABLE
from crypto.charter import Charter
from crypto.errors import BY_CODE, FederationError, RoundLost, SpecError
from crypto.home import Home
from crypto.text import printable
from jobs.job import JobSpec
from jobs.runtime.status import RunState, RunStatus, from_json, one_line

if TYPE_CHECKING:
    from jobs.flare.session import AdminSession

#: How long a job may wait and run before ``fed submit --wait`` gives up, on top of the job's own time. Seconds.
QUEUE_S: Final = 3600.0
#: What ``fed submit --wait`` ends with where a run finished, and silos were missing from some of its sums.
PARTIAL: Final = 41
#: How long the server may take to tell what becomes of an interrupted run. Seconds.
NOTICED_S: Final = 10.0
#: Most jobs in a list, the newest.
MOST_JOBS: Final = 50


_ID: Final = re.compile(r"[0-9a-f][0-9a-f-]{0,35}")
#: How long an aborted job may take to end: NVFlare kills what has not ended after 10 s. Seconds.
ABORT_S: Final = 60.0


def whole_id(session: AdminSession, prefix: str) -> str:
    """The id of the one job that begins so. Raises JobUnknown."""
    from jobs.flare.session import JobUnknown

    found = [str(meta["job_id"]) for meta in session.list_jobs(prefix)] if _ID.fullmatch(prefix) else []
    if prefix in found:
        return prefix
    if len(found) != 1:
        raise JobUnknown(
            f"{len(found) or 'No'} jobs begin with {one_line(prefix)!r}.", remedy="List the jobs with `fed jobs`."
        )
    return found[0]


# --- submit ------------------------------------------------------------------------------------------------------


def charter_of(folder: Path, federation: str, now: int) -> Charter:
    """The charter in a folder (charter.bin, consortium.pub; or a federation's folder), checked, valid, of this kit.

    Raises SpecError, BadSignature.
    """
    charter = Home(folder / "aggregator" if (folder / "aggregator").is_dir() else folder).charter()
    charter.check_validity(now)
    if charter.federation != federation:
        raise SpecError(
            "--charter",
            got=f"the charter of {charter.federation}",
            want=f"that of {federation}, which the kit is for",
            remedy="Use the kit and the charter of one federation.",
        )
    return charter


def submit(session: AdminSession, job: str, charter: Charter, *, resume: str = "") -> dict[str, Any]:
    """Write the job folder, sign and submit it. NVFlare's job id, and our digest, which data owners approve.

    Raises SpecError for a job that does not fit the charter or the run to go on with, JobRejected, NotAllowed.
    """
    from jobs.flare.folder import check_resume, export

    spec = JobSpec.load(job)
    check_resume(resume)
    if resume:
        check_run(session, resume, spec)
    with tempfile.TemporaryDirectory(prefix="consilium-") as place:
        folder = export(spec, charter, Path(place) / spec.name, resume=resume)
        here = session.silos()
        job_id = session.submit(folder)
    away = [silo for silo in charter.silos if silo not in here]
    return {
        "job_id": job_id,
        "job": spec.digest.hex(),
        "name": spec.name,
        "charter": charter.digest.hex(),
        "silos": list(charter.silos),
        "not_connected": away,
        "least": charter.n_min,
    }


def check_run(session: AdminSession, run: str, spec: JobSpec) -> None:
    """Raises SpecError unless the run is one of this job that can go on: before anything is submitted."""
    from jobs.flare.folder import RESUME_KEY

    known = False
    for meta in session.list_jobs():
        job_id, word = one_line(str(meta.get("job_id", ""))), str(meta.get("status", ""))
        status = _status(session.stats(str(meta["job_id"]))) if word == "RUNNING" else _kept(meta)
        resumes = str(meta.get(RESUME_KEY, "")) == run
        if not resumes and (status is None or status.run != run):
            continue
        known = True
        if word in ("SUBMITTED", "DISPATCHED", "RUNNING"):
            way = "waits to be resumed" if word == "SUBMITTED" else "is under way"
            remedy = f"Nothing is to be submitted: `fed status {job_id}` shows it."
            raise SpecError("--resume", got=f"{run}, which {way} as job {job_id}", want="a run at rest", remedy=remedy)
        if status is not None and status.run == run:
            if status.state is RunState.FINISHED:
                remedy = "Submit the job without --resume, as a new run."
                raise SpecError(
                    "--resume", got=f"{run}, which has finished", want="a run without an end", remedy=remedy
                )
            if status.job and status.job != spec.digest.hex():
                raise SpecError(
                    "--resume",
                    got=f"job {spec.digest.hex()[:16]} ({spec.name})",
                    want=f"job {status.job[:16]} ({one_line(str(meta.get('name', '')))}), of which {run} is a run",
                    remedy="A run goes on with the job that it began with, every field of it the same.",
                )
    if not known:
        remedy = "`fed jobs` lists the runs of this server's jobs. If its job was deleted there: `fed export --resume`."
        raise SpecError("--resume", got=f"{run}, which no job of this server has", want="a run of it", remedy=remedy)


def following(session: AdminSession, job_id: str, end: float, pause: Callable[[float], None], look_s: float) -> str:
    """The job that the run of a job that has ended goes on as; empty if it has an end, or goes on only by command.

    Waits for the server to say so, until ``end`` on the monotonic clock: then it raises TooSlow."""
    from jobs.flare.session import TooSlow

    look_until = time.monotonic() + NOTICED_S
    while True:
        meta = session.meta(job_id)
        status, interrupted = _kept(meta), _interrupted(meta)
        if interrupted is not None and interrupted.next_job not in ("", job_id):
            return interrupted.next_job
        if interrupted is None:
            may_go_on = status is not None and (
                status.outcome is None or (status.outcome.code in MENDABLE and status.released)
            )
            if not may_go_on or time.monotonic() > look_until:
                return ""
        elif not _waits(interrupted):
            return ""
        if time.monotonic() > end:
            raise TooSlow(f"The run of job {job_id} was interrupted and has not gone on in time.")
        pause(look_s)


def _waits(interrupted: Interrupted | None) -> bool:
    """Whether the service is going to resume it."""
    return interrupted is not None and interrupted.standing is Standing.WAITING


def _interrupted(meta: Mapping[str, Any]) -> Interrupted | None:
    """What a job's record says of its run that was interrupted. A server is another machine: text is made printable."""
    found = meta.get(INTERRUPTED_KEY)
    if not isinstance(found, Mapping):
        return None
    try:
        return from_record({key: one_line(v) if isinstance(v, str) else v for key, v in found.items()})
    except (ValueError, KeyError, TypeError) as bad:
        raise FederationError(
            f"The server's record of an interrupted run can't be read: {bad!r}.",
            remedy="Is this machine on the release of the aggregator?",
        ) from bad


def wait_s(job: str) -> float:
    """How long a job may take, with its wait in the queue."""
    return JobSpec.load(job).timeouts["job"] + QUEUE_S


def exit_code(found: Mapping[str, Any]) -> int:
    """What ``fed submit --wait`` ends with: 0 for a run that finished with every silo in every sum, 41 for one that
    finished without; else its outcome's exit code, or 40."""
    if found.get("state") == RunState.FINISHED:
        return PARTIAL if (found.get("status") or {}).get("missed") else 0
    outcome = (found.get("status") or {}).get("outcome") or {}
    ours = BY_CODE.get(str(outcome.get("code", "")))
    return ours.exit_code if ours else RoundLost.exit_code


# --- status ------------------------------------------------------------------------------------------------------


def overview(session: AdminSession) -> list[dict[str, Any]]:
    """The newest jobs, each with NVFlare's state and ours, in the order they were submitted."""
    found = []
    for meta in session.list_jobs()[-MOST_JOBS:]:
        running = str(meta.get("status", "")) == "RUNNING"
        found.append(_row(meta, _status(session.stats(str(meta["job_id"]))) if running else _kept(meta)))
    return found


def _row(meta: Mapping[str, Any], status: RunStatus | None) -> dict[str, Any]:
    """One job of the list. ``nvflare``: its word for the job; ``state``: ours."""
    return {
        "job_id": one_line(str(meta.get("job_id", ""))),
        "name": one_line(str(meta.get("name", ""))),
        "nvflare": one_line(str(meta.get("status", ""))),
        "state": _state(meta, status),
        "run": status.run if status else "",
        "by": one_line(str(meta.get("submitter_name", ""))),
        "submitted": one_line(str(meta.get("submit_time_iso", ""))),
    }


def job_status(session: AdminSession, job_id: str) -> dict[str, Any]:
    """One job: its row, its run's status, and why it is where it is, in sentences. Raises JobUnknown."""
    from jobs.flare.session import ENDED
    from jobs.runtime.status import as_json

    meta = session.meta(job_id)
    status = _kept(meta)
    if status is None and str(meta.get("status", "")) == "RUNNING":
        status = _status(session.stats(job_id))
        if status is None and (meta := session.meta(job_id)) and str(meta.get("status", "")).startswith(ENDED):
            status = _kept(meta)  # it ended meanwhile
    model = _model(meta)
    return {
        **_row(meta, status),
        "status": None if status is None else as_json(status),
        "goes_on_as": interrupted.next_job if (interrupted := _interrupted(meta)) is not None else "",
        "model": model,
        "why": reasons(meta, status),
        "next": next_steps(_state(meta, status), status, model, _interrupted(meta)),
    }


def _model(meta: Mapping[str, Any]) -> dict[str, str] | None:
    """What the model of an ended job is called, once the aggregator's MLflow has it."""
    from jobs.flare.outcomes import MODEL_KEY

    found = meta.get(MODEL_KEY)
    if not isinstance(found, Mapping):
        return None
    names = ("model", "version", "tracking_uri", "run_id")
    return {name: one_line(str(found.get(name, ""))) for name in names}


def log_text(session: AdminSession, job_id: str) -> str:
    """The aggregator's log of a job, safe to print."""
    return "\n".join(printable(line, " ") for line in session.log(job_id).splitlines())


def _kept(meta: Mapping[str, Any]) -> RunStatus | None:
    """The status that a job's record keeps, once it has ended."""
    from jobs.flare.outcomes import META_KEY

    found = meta.get(META_KEY)
    return _status(found) if isinstance(found, Mapping) else None


def _status(found: Mapping[str, Any]) -> RunStatus | None:
    if not found:
        return None
    try:
        return from_json(found)
    except ValueError as bad:
        raise FederationError(
            f"The server's status of this job can't be read: {bad}.",
            remedy="Is this machine on the release of the aggregator?",
        ) from bad


#: NVFlare's state of a job → ours, where no status of a run says better.
_PLAIN: Final = {
    "SUBMITTED": "queued",
    "DISPATCHED": "starting",
    "RUNNING": "starting",
    "FINISHED:ABORTED": "aborted",
    "FINISHED:CANT_SCHEDULE": "not started",
    "FAILED_TO_RUN": "not started",
}


def _state(meta: Mapping[str, Any], status: RunStatus | None) -> str:
    from jobs.flare.session import ENDED

    word = str(meta.get("status", ""))
    over = word.startswith(ENDED)
    if status is None:
        return _PLAIN.get(word, "failed" if over else "unknown")
    if over and status.outcome is None:
        return "aborted" if word == "FINISHED:ABORTED" else "interrupted"
    return status.state.value


#: What a silo's people do about a refusal, for the admin who has to ask them. Other codes: docs/errors.
_REMEDIES: Final = {
    "NOT_APPROVED": "its data owner reads `fed requests` and signs with `fed approve` there; then submit again",
    "DATA_REFUSED": "its data owner looks at `fed data list` and `fed doctor` there; then submit again",
    "VERSION_MISMATCH": "that site has another release: it installs the aggregator's, then submit again",
    "JOURNAL_LOST": "that site takes part in the next run; see its log",
    "NO_SPACE": "that site frees space on its home's volume; then submit again, or resume",
    "SPEC": "that site's log says which setting; `fed doctor` there finds most of them",
}


def reasons(meta: Mapping[str, Any], status: RunStatus | None) -> list[str]:
    """Why a job is where it is: who is missing in which phase, who refused by which code, what to do."""
    state = _state(meta, status)
    if status is None:
        return [*_of_nvflare(meta, state)]
    lines = []
    if state == RunState.RUNNING and status.missing:
        silos = ", ".join(status.missing)
        lines.append(f"step {status.step}, phase {status.phase} since {status.since}: waiting for {silos}")
    for silo, why in sorted(status.absent.items()):
        reason = f"refused: {why.code}" if why.code else "did not answer"
        remedy = f": {_REMEDIES[why.code]}" if why.code in _REMEDIES else ""
        lines.append(f"{silo} {reason}, in step {why.step}, phase {why.phase}{remedy}")
    if missed := sentence_of(status.missed):
        lines.append(f"{'finished without' if state == RunState.FINISHED else 'so far without'} some silos: {missed}")
    if status.closed is not None and status.closed.shut:
        lines.append(f"stayed shut in step {status.closed.name}: {', '.join(status.closed.shut)}")
    if status.closed is not None and status.closed.withheld:
        lines.append(sentence({status.closed.name: status.closed.withheld}))
    if status.void:
        lines.append(f"{status.void} void: shares may have left, so these steps were not tried again")
    if status.outcome is not None and status.outcome.code:
        lines.append(f"ended with {status.outcome.code}: {status.outcome.detail}")
    if state == "interrupted":
        lines.append("the aggregator's process ended under it")
    interrupted = _interrupted(meta)
    if interrupted is not None:
        lines.append(f"its run: {interrupted.why}")
    return lines


def next_steps(
    state: str, status: RunStatus | None, model: Mapping[str, str] | None, interrupted: Interrupted | None
) -> list[str]:
    """What can be done with a run that has ended, each with its command."""
    if status is None or not status.run:
        return []
    if interrupted is not None and interrupted.next_job:
        return [f"see the job that it goes on as: fed status {interrupted.next_job}"]
    if state in ("failed", "aborted", "interrupted"):
        return [] if _waits(interrupted) else [f"go on with it: fed submit JOB --resume {status.run}"]
    if state != RunState.FINISHED:
        return []
    name = f"{model['model']}/{model['version']}" if model else "MODEL/VERSION"
    web = model is not None and model["tracking_uri"].startswith("http")
    return [
        f"see the model: open {model['tracking_uri']}" if model and web else "see the model: fed mlflow HOME",
        f"check the run: fed verify {status.run} --home HOME",
        f"see what it was made from: fed lineage {name} --home HOME",
    ]


def _of_nvflare(meta: Mapping[str, Any], state: str) -> list[str]:
    """What NVFlare's record says about a job without a run's status."""
    lines = []
    if state == "queued":
        lines.append("it waits for the job before it, or for silos to connect: one job runs at a time")
    history = meta.get("schedule_history")
    if state in ("queued", "not started") and isinstance(history, list) and history:
        lines.append(f"NVFlare's last try: {one_line(str(history[-1]))}")
    detail = meta.get("job_deploy_detail")
    if state == "not started" and isinstance(detail, list):
        lines += [one_line(str(one)) for one in detail if not str(one).endswith(": OK")]
    if state == "failed":
        lines.append("the aggregator's process of the job ended before its run began: see `fed logs`")
    return lines
