"""A job that has ended keeps its run's last status in its NVFlare record.

``show_stats`` answers for running jobs only, and no role may download a job's folder. So when a job is over this
component of the server puts what the job process left behind into the job's meta data: ``fed status`` and ``nvflare job
meta`` show it from there. What a server that died left behind is put there when it starts again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.utils.job_utils import get_event_job_id
from nvflare.widgets.widget import Widget

from aggregator.home import AggregatorHome
from jobs.flare.nvflare_mains import job_home

#: The key in a job's meta data.
META_KEY: Final = "consilium"


def status_file(home: AggregatorHome, job_id: str) -> Path:
    """Where the job process leaves its run's status: inside the folder of NVFlare's job store."""
    return home.nvflare_folder / "status" / f"{job_id}.json"


class JobOutcomes(Widget):
    """Server component, in the parent process."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.JOB_COMPLETED:
            self._keep(str(get_event_job_id(fl_ctx)), fl_ctx)
        elif event_type == EventType.SYSTEM_START:
            for path in sorted(status_file(AggregatorHome(job_home().root), "").parent.glob("*.json")):
                self._keep(path.stem, fl_ctx)

    def _keep(self, job_id: str, fl_ctx: FLContext) -> None:
        from jobs.runtime.status_tracker import left

        path = status_file(AggregatorHome(job_home().root), job_id)
        found = left(path)
        manager: Any = fl_ctx.get_engine().get_component(SystemComponents.JOB_MANAGER)
        if found is None or manager is None or manager.get_job(job_id, fl_ctx) is None:
            path.unlink(missing_ok=True)
            return
        manager.update_meta(job_id, {META_KEY: found}, fl_ctx)
        path.unlink(missing_ok=True)
