"""Site-owned launchers of job processes.

NVFlare's own client launcher lets one crashed job process fail the whole job for everybody (its exit code is reported
and ``min_clients`` is not looked at). Ours turns any bad end of this silo's process into a dropout: the round goes on
without it, and the floors decide whether that is enough. The job status then no longer shows the crash, so we log it.

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
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobProcessArgs, JobReturnCode
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.utils.job_launcher_utils import get_client_job_args, get_server_job_args

_MODULE = "jobs.flare.nvflare_mains"
_CLIENT = "nvflare.private.fed.app.client.worker_process"
_SERVER = "nvflare.private.fed.app.server.runner_process"


class DropoutHandle(JobHandleSpec):
    """A job process whose bad end is nobody else's business: it polls as UNKNOWN, which NVFlare does not report."""

    def __init__(self, handle: JobHandleSpec, rc_file: Path, job_id: str, logger: Any) -> None:
        super().__init__()
        self._handle = handle
        self._rc_file = rc_file
        self._job_id = job_id
        self._logger = logger
        self._stopped_by_us = False

    def terminate(self) -> None:
        self._stopped_by_us = True
        self._handle.terminate()

    def poll(self) -> Any:
        code = self._handle.poll()
        return JobReturnCode.UNKNOWN if code != JobReturnCode.SUCCESS else code

    def wait(self) -> None:
        """Until the process has ended. A bad end is logged, and its return code file (which would win) removed."""
        self._handle.wait()
        code, own = self._handle.poll(), self._own_code()
        if own != JobReturnCode.SUCCESS:
            self._rc_file.unlink(missing_ok=True)
        if self._stopped_by_us or (code == JobReturnCode.SUCCESS and own in (None, JobReturnCode.SUCCESS)):
            return
        self._logger.error(
            f"[SILO_CRASHED] The process of job {self._job_id} ended badly (launcher code {code}, own code {own}). "
            "This silo drops out of the run; the others go on if enough are left. See its log in the job's folder."
        )

    def _own_code(self) -> int | None:
        try:
            return int(self._rc_file.read_text(encoding="utf-8").split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return None


class SiloLauncher(ClientProcessJobLauncher):
    """Starts a silo's job processes; a crash becomes a dropout."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        return _command(fl_ctx, get_client_job_args(), _CLIENT, "client-job")

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        job_id = str(job_meta.get(JobConstants.JOB_ID))
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        rc_file = Path(os.path.join(workspace.get_root_dir(), job_id, FLMetaKey.PROCESS_RC_FILE))
        return DropoutHandle(super().launch_job(job_meta, fl_ctx), rc_file, job_id, self.logger)


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
