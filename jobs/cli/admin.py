"""For the administrator, with a kit: submit, jobs, status, logs, abort."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.options import Json, emit

AdminKit = Annotated[
    Path,
    typer.Option(
        "--kit", envvar="CONSILIUM_KIT", help="The administrator's startup kit.", exists=True, file_okay=False
    ),
]
JobId = Annotated[str, typer.Argument(help="NVFlare's id of the job, or its first digits.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
    for verb in (submit, jobs, status, logs, abort):
        app.command()(verb)


def submit(
    job: Annotated[str, typer.Argument(help="A job file, or a name from `fed catalog`.")],
    kit: AdminKit,
    charter: Annotated[
        Path,
        typer.Option(
            "--charter",
            envvar="CONSILIUM_CHARTER",
            help="Folder with charter.bin and consortium.pub, or the folder of a federation.",
            exists=True,
            file_okay=False,
        ),
    ],
    resume: Annotated[str, typer.Option("--resume", help="Id of an interrupted run to continue.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the job has ended; the exit code tells its outcome.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the job folder of a job, sign it and submit it to NVFlare."""
    from jobs.admin import jobs as admin_jobs
    from jobs.flare.session import AdminSession, kit_admin

    pinned = admin_jobs.charter_of(charter, kit_admin(kit)[0], int(time.time()))
    with AdminSession(kit) as session:
        done = admin_jobs.submit(session, job, pinned, resume=resume)
        _say(as_json, f"submitted as {done['job_id']}: job {done['job'][:16]}, {len(done['silos'])} silos")
        if away := done["not_connected"]:
            _say(as_json, f"not connected now: {', '.join(away)}; it starts with {done['least']} silos")
        if wait:
            done |= _watched(session, done["job_id"], as_json, timeout_s=admin_jobs.wait_s(job))
    emit(done, as_json)
    if wait and (code := admin_jobs.exit_code(done)):
        raise typer.Exit(code)


def jobs(kit: AdminKit, as_json: Json = False) -> None:
    """List the newest submitted jobs and their states. `fed catalog` lists the jobs that come with the package."""
    from jobs.admin import jobs as admin_jobs
    from jobs.admin.render import table_lines
    from jobs.flare.session import AdminSession

    with AdminSession(kit) as session:
        found = admin_jobs.overview(session)
    if as_json:
        emit({"jobs": found}, True)
    else:
        print("\n".join(table_lines(found)))


def status(
    job_id: JobId,
    kit: AdminKit,
    why: Annotated[
        bool, typer.Option("--why", help="Also show which silos are missing, in which phase, and why.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show each step as it closes, until the job has ended; the exit code tells how."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one job: its step and phase, which silos are missing or refused, how it ended, and its model."""
    from jobs.admin import jobs as admin_jobs
    from jobs.admin.render import job_lines
    from jobs.flare.session import AdminSession

    with AdminSession(kit) as session:
        whole = admin_jobs.whole_id(session, job_id)
        found = _watched(session, whole, as_json) if watch else admin_jobs.job_status(session, whole)
    if watch:
        emit(found, as_json)
        if code := admin_jobs.exit_code(found):
            raise typer.Exit(code)
    elif as_json:
        emit(found, True)
    else:
        print("\n".join(job_lines(found, why=why)))


def logs(
    job_id: JobId,
    kit: AdminKit,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines until the job has ended.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the aggregator's log of a job: a line for each step. The logs of silos stay at the silos."""
    from jobs.admin import jobs as admin_jobs
    from jobs.admin.watch import follow_log
    from jobs.flare.session import AdminSession

    with AdminSession(kit) as session:
        whole = admin_jobs.whole_id(session, job_id)
        if follow:
            follow_log(session, whole, lambda line: emit({"line": line}, True) if as_json else print(line, flush=True))
            return
        text = admin_jobs.log_text(session, whole)
    if as_json:
        emit({"job_id": whole, "log": text}, True)
    else:
        print(text)


def abort(
    job_id: JobId,
    kit: AdminKit,
    as_json: Json = False,
) -> None:
    """Stop a waiting or running job, and wait until it has ended. Steps that were closed stay on the ledger."""
    from jobs.admin import jobs as admin_jobs
    from jobs.flare.session import AdminSession

    with AdminSession(kit) as session:
        whole = admin_jobs.whole_id(session, job_id)
        session.abort(whole)
        _say(as_json, f"job {whole} is being stopped")
        word = session.wait(whole, admin_jobs.ABORT_S)
        found = {"job_id": whole, "nvflare": word, **_ended(session, whole, as_json)}
    emit(found, as_json)


def _watched(session: Any, job_id: str, as_json: bool, *, timeout_s: float | None = None) -> dict[str, Any]:
    """A job followed to its end; its changes and its end are printed too."""
    from jobs.admin.render import job_lines
    from jobs.admin.watch import watch

    found = watch(session, job_id, lambda line: _say(as_json, line), timeout_s=timeout_s)
    if not as_json:
        print("\n".join(job_lines(found, why=True)))
    return found


def _ended(session: Any, job_id: str, as_json: bool) -> dict[str, Any]:
    """How a job ended; printed too."""
    from jobs.admin import jobs as admin_jobs
    from jobs.admin.render import job_lines

    found = admin_jobs.job_status(session, job_id)
    if not as_json:
        print("\n".join(job_lines(found, why=True)))
    return found


def _say(as_json: bool, line: str) -> None:
    """Progress goes to stderr where stdout is for JSON."""
    print(line, file=sys.stderr if as_json else sys.stdout, flush=True)
