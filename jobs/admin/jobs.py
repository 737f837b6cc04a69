"""What the administrator does: submit a job, see its state and why, read its log, abort it.

An administrator's machine has a kit and, to submit, the charter; it has no home and no ledger. So what it learns comes
through NVFlare's session: the status of a running job from its process, of an ended one from NVFlare's record of it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aggregator.figures import sentence
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

    Raises SpecError for a job that does not fit the charter, JobRejected, NotAllowed.
    """
    from jobs.flare.folder import export

    spec = JobSpec.load(job)
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


def wait_s(job: str) -> float:
    """How long a job may take, with its wait in the queue."""
    return JobSpec.load(job).timeouts["job"] + QUEUE_S


def exit_code(found: Mapping[str, Any]) -> int:
    """What ``fed submit --wait`` ends with for a job that did not finish: its outcome's exit code, or 40."""
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
    return {
        **_row(meta, status),
        "status": None if status is None else as_json(status),
        "why": reasons(meta, status),
    }


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
    if status.run and state in ("failed", "aborted", "interrupted"):
        lines.append(f"to go on with it: fed submit JOB --resume {status.run}")
    if status.run and state == RunState.FINISHED:
        lines.append(
            f"next, on the aggregator's machine: fed mlflow HOME shows the model; fed verify {status.run} --home HOME "
            "checks the run; fed lineage MODEL/VERSION --home HOME says what it was made from"
        )
    return lines


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
