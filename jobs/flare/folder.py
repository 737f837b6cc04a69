"""The native NVFlare job folder: two class paths and plain JSON, no code.

No ``custom/`` folder, so the job is not "bring your own code": a hardened site runs it with the classes it has
installed and allowed, or not at all. ``nvflare job submit -j FOLDER`` takes it as well as ``fed up`` does.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path

from crypto.charter import SILO_ID, Charter
from crypto.errors import SpecError
from jobs.flare.wire import TASK_PATTERN
from jobs.job import JobSpec, encode_plan

CONTROLLER = "jobs.flare.controller.SecureController"
EXECUTOR = "jobs.flare.executor.SecureExecutor"

#: Longest wait after enough answers, in seconds.
MOST_GRACE_S = 60.0

#: In a job's meta data: the run that it goes on with. The service writes it into the record of a job that it submits
#: once more; that record is not signed, so it counts for what it is: a wish that ledger, charter and silos check.
RESUME_KEY = "consilium_resume"

_RUN = re.compile(r"[0-9a-f]{16}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def export(spec: JobSpec, charter: Charter, folder: Path, *, resume: str = "") -> Path:
    """The job folder of a job under a charter: what ``fed export`` writes and ``fed up`` submits.

    ``resume``: id of the interrupted run that it goes on with, instead of a new one."""
    check_resume(resume)
    if spec.require is not None:
        spec.require.check_members(charter.silos)
    if folder.exists():
        raise SpecError(
            "--out", got=str(folder), want="a folder that does not exist", remedy="Job folders are never overwritten."
        )
    return write_job(
        folder,
        name=spec.name,
        job=spec.text,
        plan=encode_plan(spec.plan(charter)),
        silos=charter.silos,
        min_silos=charter.n_min,
        resume=resume,
    )


def check_arguments(*, job: object, plan: object, grace_s: object, resume: object) -> None:
    """What a job folder hands to the controller, as it enters: whoever may submit a job wrote it. The contents of job
    and plan are checked where they are decoded. Raises SpecError that names the field."""
    for name, value in (("job", job), ("plan", plan), ("resume", resume)):
        if not isinstance(value, str):
            raise SpecError(f"job folder, {name}", got=type(value).__name__, want="text")
    check_resume(str(resume))
    if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s <= MOST_GRACE_S:
        raise SpecError("job folder, grace_s", got=grace_s, want=f"seconds, from 0 to {MOST_GRACE_S:g}")


def check_resume(resume: str) -> None:
    """Raises SpecError unless it is empty or a run's id: it becomes the name of a folder."""
    if resume and not _RUN.fullmatch(resume):
        raise SpecError("--resume", got=resume, want="a run's id: 16 hexadecimal digits")


def resume_in(meta: object) -> str:
    """The run that a job's ``meta.json`` names to go on with; empty if none. Raises SpecError."""
    found = meta.get(RESUME_KEY, "") if isinstance(meta, dict) else ""
    if not isinstance(found, str):
        raise SpecError(f"meta.json, {RESUME_KEY}", got=type(found).__name__, want="a run's id")
    check_resume(found)
    return found


def sites_in(meta: object) -> tuple[str, ...]:
    """The silos that a job's ``meta.json`` names. Raises SpecError for a deploy map of another form."""
    found = meta.get("deploy_map") if isinstance(meta, dict) else None
    lists = list(found.values()) if isinstance(found, dict) else []
    if not lists or not all(isinstance(sites, list) for sites in lists):
        raise SpecError("meta.json, deploy_map", got=type(found).__name__, want="a table of lists of sites")
    named = [site for sites in lists for site in sites]
    for site in named:
        if not isinstance(site, str) or not SILO_ID.fullmatch(site):
            raise SpecError("meta.json, deploy_map", got=site, want="silos' ids and `server`")
    return tuple(sorted(set(named) - {"server"}))


def encode_job(job: str) -> str:
    """The job text as it stands in the configuration: base64.

    NVFlare runs ``str.format`` and its secret references over every string of a job's configuration, so braces and
    dollars in plain JSON text could be replaced at a site; base64 has neither.
    """
    return base64.b64encode(job.encode()).decode()


def decode_job(encoded: str) -> str:
    """The job text again. Raises SpecError."""
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError as bad:  # binascii.Error, or bytes that are no UTF-8
        raise SpecError("job", got=encoded[:40], want="base64 of UTF-8 JSON text") from bad


def write_job(
    folder: Path,
    *,
    name: str,
    job: str,
    plan: str,
    silos: Sequence[str],
    poll_s: float = 0.5,
    min_silos: int | None = None,
    grace_s: float = 2.0,
    resume: str = "",
) -> Path:
    """Writes the job folder and returns it. ``job``: canonical JSON text of the spec; ``plan``: base64 of the plan.

    ``poll_s``: how often a silo asks whether the run is over, seconds; requests are pushed (see ``courier``), so it has
    no part in a step's time, and eight silos that poll ten times a second burn most of a core. ``min_silos``: NVFlare
    starts the job with this many silos online and stops it when fewer are alive; None is a majority. It is not a safety
    floor: the charter's floors are, and silos enforce them. ``grace_s``: wait for the others after ``enough`` answers.
    No silo is mandatory, so a dropped silo never fails the job by itself. Raises SpecError.
    """
    if not _NAME.fullmatch(name):
        raise SpecError("job.name", got=name, want="letters, digits, '.', '_' or '-', at most 63")
    if not silos or len(set(silos)) != len(silos) or "server" in silos:
        raise SpecError("job.silos", got=list(silos), want="one or more distinct silo names, none of them 'server'")
    if poll_s <= 0:
        raise SpecError("job.poll_s", got=poll_s, want="more than 0 seconds")
    least = len(silos) // 2 + 1 if min_silos is None else min_silos
    if not 1 <= least <= len(silos):
        raise SpecError("job.min_silos", got=least, want=f"between 1 and {len(silos)}")
    text = encode_job(job)
    config = folder / "app" / "config"
    config.mkdir(parents=True, exist_ok=False)
    meta = {
        "name": name,
        "resource_spec": {},
        "deploy_map": {"app": ["server", *silos]},
        "min_clients": least,
        "mandatory_clients": [],
        **({RESUME_KEY: resume} if resume else {}),
    }
    server = {
        "format_version": 2,
        "server": {"heart_beat_timeout": 600, "task_request_interval": poll_s},
        "task_data_filters": [],
        "task_result_filters": [],
        "components": [],
        "workflows": [
            {
                "id": "consilium",
                "path": CONTROLLER,
                "args": {"job": text, "plan": plan, "grace_s": grace_s, "resume": resume},
            },
        ],
    }
    client = {
        "format_version": 2,
        "default_task_fetch_interval": poll_s,
        "executors": [{"tasks": [TASK_PATTERN], "executor": {"path": EXECUTOR, "args": {"job": text}}}],
        "task_data_filters": [],
        "task_result_filters": [],
        "components": [],
    }
    _write(folder / "meta.json", meta)
    _write(config / "config_fed_server.json", server)
    _write(config / "config_fed_client.json", client)
    return folder


def _write(path: Path, value: dict[str, object]) -> None:
    # In the order given: `nvflare job submit` writes the file again, and if its first value is a table, only that.
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
