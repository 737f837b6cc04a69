"""A job that has ended keeps its run's last status in its NVFlare record.

``show_stats`` answers for running jobs only, and no role may download a job's folder. So when a job is over this
component of the server puts what the job process left behind into the job's meta data: ``fed status`` and ``nvflare job
meta`` show it from there. What a server that died left behind is put there when it starts again. The name and number
of the model come later, from the process that follows the ledger into MLflow, and are added when they are known.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.utils.job_utils import get_event_job_id
from nvflare.widgets.widget import Widget

from aggregator.home import AggregatorHome, file_name
from crypto.errors import SpecError
from jobs.flare.nvflare_mains import job_home

#: The key in a job's meta data.
META_KEY: Final = "consilium"
#: The same for what its run's model is called: the object of ``mlflow.json`` in the run's folder.
MODEL_KEY: Final = "consilium_model"
#: How long the model of a finished run is waited for, and the pause between two looks. Seconds.
MODEL_S: Final = 600.0
LOOK_S: Final = 0.5


def status_file(home: AggregatorHome, job_id: str) -> Path:
    """Where the job process leaves its run's status: inside the folder of NVFlare's job store."""
    return home.nvflare_folder / "status" / f"{job_id}.json"


class JobOutcomes(Widget):
    """Server component, in the parent process. ``model_s``: how long a model is waited for."""

    def __init__(self, model_s: float = MODEL_S) -> None:
        super().__init__()
        self._model_s = model_s
        self._leaving = threading.Event()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.JOB_COMPLETED:
            self._keep(str(get_event_job_id(fl_ctx)), fl_ctx)
        elif event_type == EventType.SYSTEM_START:
            for path in sorted(status_file(AggregatorHome(job_home().root), "").parent.glob("*.json")):
                self._keep(path.stem, fl_ctx)
        elif event_type == EventType.SYSTEM_END:
            self._leaving.set()

    def _keep(self, job_id: str, fl_ctx: FLContext) -> None:
        from jobs.runtime.status_tracker import left

        home = AggregatorHome(job_home().root)
        path = status_file(home, job_id)
        found, engine = left(path), fl_ctx.get_engine()
        manager: Any = engine.get_component(SystemComponents.JOB_MANAGER)
        if found is None or manager is None or manager.get_job(job_id, fl_ctx) is None:
            path.unlink(missing_ok=True)
            return
        manager.update_meta(job_id, {META_KEY: found}, fl_ctx)
        path.unlink(missing_ok=True)
        if found.get("state") == "finished" and (wanted := _model_path(home, found)) is not None:
            arguments = (job_id, wanted, engine, manager)
            threading.Thread(target=self._keep_model, args=arguments, name="model", daemon=True).start()

    def _keep_model(self, job_id: str, path: Path, engine: Any, manager: Any) -> None:
        """Wait for the file that the follower writes; best effort: without it MLflow still has the model."""
        looks = max(1, int(self._model_s / LOOK_S))
        for _ in range(looks):
            if model := _model(path):
                with engine.new_context() as fl_ctx:
                    manager.update_meta(job_id, {MODEL_KEY: model}, fl_ctx)
                return
            if self._leaving.wait(LOOK_S):
                return


def _model_path(home: AggregatorHome, status: Mapping[str, Any]) -> Path | None:
    """Where the follower says what a run's model is called; None for a status without a run."""
    try:
        return home.run_folder(file_name("run", str(status.get("run", "")))).mlflow_path
    except SpecError:
        return None


def _model(path: Path) -> dict[str, str] | None:
    """Its object, as text; None while there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(found[name]) for name in ("model", "version", "tracking_uri", "run_id")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
