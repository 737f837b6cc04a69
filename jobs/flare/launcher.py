"""Site-owned launchers of job processes.

NVFlare's own client launcher lets one crashed job process fail the whole job for everybody (its exit code is reported
and ``min_clients`` is not looked at). Ours turns any bad end of this silo's process into a dropout: the round goes on
without it, and the floors decide whether that is enough. And it starts the process again (``job_handle``), so the silo
is back at the next step.

Both launchers start ``jobs.flare.nvflare_mains`` instead of NVFlare's worker modules: the same mains, a shorter wait at
the end (see there).
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey, FLMetaKey, JobConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobProcessArgs
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.private.fed.client.client_executor import _ABORT_REQUESTED_KEY
from nvflare.utils.job_launcher_utils import get_client_job_args, get_server_job_args

from jobs.flare.job_handle import RestartingHandle, Restarts, Started
from jobs.flare.nvflare_mains import job_home
from jobs.runtime import drain
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog

_MODULE = "jobs.flare.nvflare_mains"
_CLIENT = "nvflare.private.fed.app.client.worker_process"
_SERVER = "nvflare.private.fed.app.server.runner_process"


class _Process:
    """NVFlare's handle of one process, with the exit code that it maps away."""

    def __init__(self, handle: ProcessHandle) -> None:
        self._handle = handle

    def wait(self) -> int:
        self._handle.wait()
        code = self._handle.adapter.poll()
        return 0 if code is None else int(code)

    def terminate(self) -> None:
        self._handle.terminate()


class SiloLauncher(ClientProcessJobLauncher):
    """Starts a silo's job processes; one that crashes is a dropout, and is started again."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        return _command(fl_ctx, get_client_job_args(), _CLIENT, "client-job")

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        job_id = str(job_meta.get(JobConstants.JOB_ID))
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        rc_file = Path(os.path.join(workspace.get_root_dir(), job_id, FLMetaKey.PROCESS_RC_FILE))
        launch = super().launch_job

        def start() -> Started:
            return _Process(launch(job_meta, fl_ctx))

        return RestartingHandle(
            start,
            rc_file,
            job_id,
            restarts=Restarts.from_environment(),
            wanted=lambda: not (drain.begun(job_home()) or _aborted(fl_ctx, job_id)),
            tell=_tell,
        )


def _aborted(fl_ctx: FLContext, job_id: str) -> bool:
    """Whether NVFlare has been told to stop this job here: then its process may end as it likes."""
    process = fl_ctx.get_engine().client_executor.run_processes.get(job_id)
    return process is not None and bool(process.get(_ABORT_REQUESTED_KEY))


def _tell(event: str, attempt: int, code: int) -> None:
    """Into the security log and the figures. ``event``: ``job-restarted`` or ``job-given-up``."""
    from silo_agent import metrics  # prometheus_client: after the environment is prepared

    {Event.JOB_RESTARTED: metrics.job_restarted, Event.JOB_GIVEN_UP: metrics.job_given_up}[Event(event)]()
    # A process that a signal ended has the exit code that shells give it.
    SecurityLog(job_home())(event, attempt=attempt, exit=(128 - code if code < 0 else code) & 0xFF)


class AggregatorLauncher(ServerProcessJobLauncher):
    """Starts the aggregator's job processes. Their failure is the job's failure: nothing is hidden here."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        return _command(fl_ctx, get_server_job_args(), _SERVER, "server-job")


def _command(fl_ctx: FLContext, names: list[str], module: str, verb: str) -> str:
    """NVFlare's command line, each word quoted: NVFlare splits the line again, and a path may have a blank in it."""
    arguments = dict(fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS) or {})
    if arguments.pop(JobProcessArgs.EXE_MODULE, None) != ("-m", module):
        raise RuntimeError(f"NVFlare's job command does not run {module}: another version than 2.9.0?")
    words = [sys.executable, "-P", "-m", _MODULE, verb]
    for name in names:
        if found := arguments.get(name):
            option, value = found
            # The options are words already, NAME=VALUE with blanks between.
            words += [option, *(shlex.split(str(value)) if name == JobProcessArgs.OPTIONS else [str(value)])]
    return shlex.join(words)
