"""Cleans up after a server that died: jobs it left RUNNING or DISPATCHED are no longer running.

NVFlare resumes nothing, and a job that its dead parent left as RUNNING can neither be aborted nor deleted. At
SYSTEM_START no job process of this server can be alive, so all of them are set to FINISHED_ABNORMAL. Never use it where
two servers share one job store.
"""

from __future__ import annotations

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import RunStatus
from nvflare.widgets.widget import Widget


class JobReconciler(Widget):
    """Server component; acts once, when the parent process starts. Job processes never fire SYSTEM_START."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type != EventType.SYSTEM_START:
            return
        manager = fl_ctx.get_engine().get_component(SystemComponents.JOB_MANAGER)
        if manager is None:
            self.log_warning(fl_ctx, "no job manager: zombie jobs, if any, stay as they are", fire_event=False)
            return
        for job in manager.get_jobs_by_status([RunStatus.RUNNING, RunStatus.DISPATCHED], fl_ctx):
            manager.set_status(job.job_id, RunStatus.FINISHED_ABNORMAL, fl_ctx)
            self.log_warning(
                fl_ctx,
                f"Job {job.job_id} was running when this server died; it is FINISHED_ABNORMAL now. "
                "Its state after the last step is in the run's checkpoints; submit the job again.",
                fire_event=False,
            )
