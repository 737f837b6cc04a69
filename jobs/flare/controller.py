"""The aggregator's side of a job: drives the run generator over NVFlare.

The run (``jobs.runtime.compose.server_run``) is a generator that yields an ``Exchange`` and is sent the replies; it
does no I/O. This controller is its courier. Which silos are asked, what an absent silo means and when a step is
lost is decided by the run. Each silo gets a request of its own (never a ``broadcast``, which in NVFlare 2.9 hands one
client's payload to all). NVFlare's threads only stash answers; everything is unwrapped and computed in the control
flow.

What an abort is: NVFlare stops the silos' processes, then raises the abort signal here. The controller throws an
exception into the run, which writes its closing record. A process that is stopped with its service does not get that
far: its run stays open and can be resumed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from aggregator.errors import RunAborted, RunGivenUp, RunStopped
from aggregator.home import AggregatorHome
from crypto.errors import FederationError, Malformed, SpecError
from crypto.messages import Message
from jobs.flare import status_reply
from jobs.flare.courier import Courier
from jobs.flare.folder import check_arguments, decode_job, resume_in, sites_in
from jobs.flare.nvflare_mains import job_home
from jobs.flare.outcomes import status_file
from jobs.flare.wire import unwrap

if TYPE_CHECKING:
    from jobs.runtime.status_tracker import StatusTracker

#: How long the abort signal may lag behind silos that were told to stop. Seconds: NVFlare gives them 2 to confirm.
ABORT_LAG_S: Final = 4.0
#: Pause between two looks at the abort signal, which nobody can wait for. Seconds.
LOOK_S: Final = 0.05

#: Exchange, its replies, outcome. Of an exchange all is used but the step's number and name.
Run = Generator[Any, Mapping[str, Message], Any]


def open_run(job: str, plan: str, home: AggregatorHome, resume: str, tracker: StatusTracker) -> Run:
    """The run generator of a job. The one place where this module meets the rest of ``jobs``; tests replace it."""
    from jobs.runtime.compose import server_run  # heavy (ledger, numpy): imported in the job process only

    run: Run = server_run(job, plan, home, resume, tracker)
    return run


def meta_of(fl_ctx: FLContext) -> object:
    """The job's ``meta.json``, as it was deployed here. Raises SpecError."""
    workspace = fl_ctx.get_workspace()
    try:
        meta: object = json.loads(Path(workspace.get_job_meta_path(fl_ctx.get_job_id())).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as bad:
        raise SpecError("meta.json", got=type(bad).__name__, want="JSON") from bad
    return meta


def _check_sites(home: AggregatorHome, sites: tuple[str, ...]) -> None:
    """NVFlare leaves out who is not connected, whether or not there is such a site. Raises SpecError."""
    members = home.charter().silos
    if strangers := sorted(set(sites) - set(members)):
        raise SpecError(
            "deploy_map",
            got=strangers,
            want="silos that the aggregator's charter names",
            remedy="Write the job folder under the charter in force: `fed submit`, or `fed export`.",
        )


class SecureController(Controller):
    """``job``: as ``folder.encode_job`` wrote it. ``plan``: base64 of the plan. ``grace_s``: wait after ``enough``.

    ``resume``: the interrupted run to go on with; empty for a new one.
    """

    def __init__(self, job: str, plan: str, grace_s: float = 2.0, resume: str = "") -> None:
        super().__init__()
        self.job = job
        self.plan = plan
        self.grace_s = grace_s
        self.resume = resume
        self._tracker: StatusTracker | None = None
        self._panic = ""  #: why NVFlare itself ended the job, if it did

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Statistics are asked for, or NVFlare gives the job up: fewer silos alive than the job folder wants."""
        if self._tracker is not None:
            from jobs.runtime.status import as_json

            status_reply.answer(event_type, fl_ctx, as_json(self._tracker.status))
        if event_type == EventType.FATAL_SYSTEM_ERROR:
            self._panic = str(fl_ctx.get_prop(FLContextKey.EVENT_DATA, ""))

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing: the run is opened in ``control_flow``, where a failure ends the job with a reason."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing: ``control_flow`` closes the run itself."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Runs the job to its outcome. Any failure is logged with our code and ends the job as failed."""
        from jobs.runtime.status_tracker import StatusTracker

        home = AggregatorHome(job_home().root)
        tracker = self._tracker = StatusTracker(status_file(home, fl_ctx.get_job_id()))
        run: Run | None = None
        try:
            check_arguments(job=self.job, plan=self.plan, grace_s=self.grace_s, resume=self.resume)
            meta = meta_of(fl_ctx)
            _check_sites(home, sites_in(meta))
            # The job's own word, or that of the service that submitted it once more (``resumer``).
            run = open_run(decode_job(self.job), self.plan, home, self.resume or resume_in(meta), tracker)
            courier = Courier(fl_ctx.get_engine(), abort_signal, self.grace_s, tracker.answered)
            self._drive(run, courier, abort_signal, fl_ctx)
        except RunAborted as aborted:
            tracker.stopped(aborted)
            self.log_info(fl_ctx, f"[{aborted.code}] {aborted}", fire_event=False)
        except FederationError as error:
            tracker.stopped(error)
            self._fail(f"[{error.code}] {error}", fl_ctx)
        except Exception as error:  # the border: NVFlare must learn of it, and the trace stays in our log
            tracker.stopped(error)
            self.logger.exception("the run failed with an error that is not ours")
            self._fail(f"[INTERNAL] {type(error).__name__}: {error}", fl_ctx)
        finally:
            if run is not None:
                run.close()

    def _drive(self, run: Run, courier: Courier, abort_signal: Signal, fl_ctx: FLContext) -> None:
        if abort_signal.triggered:
            raise RunAborted("")
        try:
            exchange = next(run)
            while True:
                try:
                    answers = courier.exchange(
                        exchange.phase,
                        exchange.requests,
                        timeout_s=exchange.timeout_s,
                        enough=exchange.enough,
                        wait_for=exchange.wait_for,
                    )
                except FederationError as ours:  # a request that can't be carried: the run's end, and on its ledger
                    run.throw(ours)
                    raise
                if _stopping(answers, abort_signal):
                    run.throw(self._why(exchange.phase))
                messages = {silo: self._message(silo, answer, fl_ctx) for silo, answer in answers.items()}
                exchange = run.send({silo: message for silo, message in messages.items() if message is not None})
        except StopIteration:
            return  # the run's last record is in the log

    def _why(self, phase: str) -> RunStopped:
        """The reason for the abort signal: NVFlare gave the job up (``_panic``), or the administrator asked for it."""
        return RunGivenUp(phase, self._panic) if self._panic else RunAborted(phase)

    def _message(self, silo: str, answer: Shareable, fl_ctx: FLContext) -> Message | None:
        """The silo's message, or None for a failed or malformed answer: the silo counts as absent."""
        code = answer.get_return_code()
        if code != ReturnCode.OK:
            self.log_warning(fl_ctx, f"{silo} answered {code}: it counts as absent", fire_event=False)
            return None
        try:
            return unwrap(answer)
        except Malformed as bad:
            self.log_warning(fl_ctx, f"[{bad.code}] {silo}: {bad.detail} It counts as absent.", fire_event=False)
            return None

    def _fail(self, reason: str, fl_ctx: FLContext) -> None:
        self.log_error(fl_ctx, reason, fire_event=False)
        self.system_panic(reason, fl_ctx)

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A result nobody asked for: dropped."""
        self.log_info(fl_ctx, f"a result of {client.name} for {task_name} was dropped", fire_event=False)


def _stopping(answers: Mapping[str, Shareable], abort: Signal) -> bool:
    """Whether the job is being ended. Silos are stopped first: where one says so, the signal gets time to come."""
    stopped = any(answer.get_return_code() == ReturnCode.TASK_ABORTED for answer in answers.values())
    end = time.monotonic() + (ABORT_LAG_S if stopped else 0.0)
    while not abort.triggered and time.monotonic() < end:
        time.sleep(LOOK_S)
    return bool(abort.triggered)
