"""The aggregator's side of a job: drives the run generator over NVFlare.

The run (``jobs.run.server_run``) is a generator that yields an ``Exchange`` and is sent the replies; it does no I/O.
This controller is its courier. Whom to ask, what to make of an absent silo and when a step is lost is the run's
business, not ours. Each silo gets a request of its own (never a ``broadcast``, which in NVFlare 2.9 hands one client's
payload to all). NVFlare's threads only stash answers; everything is unwrapped and computed in the control flow.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from crypto.errors import FederationError, Malformed
from crypto.messages import Message
from jobs.flare.courier import Courier
from jobs.flare.folder import decode_job
from jobs.flare.processes import job_home
from jobs.flare.wire import unwrap

#: Exchange, its replies, outcome. Only ``phase``, ``requests``, ``timeout_s`` and ``enough`` of an exchange are used.
Run = Generator[Any, Mapping[str, Message], Any]


def open_run(job: str, plan: str, home: Path, resume: str) -> Run:
    """The run generator of a job. The one place where this module meets the rest of ``jobs``; tests replace it."""
    from jobs.run import server_run  # heavy (MLflow, ledger): imported in the job process only

    run: Run = server_run(job, plan, home, resume)
    return run


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

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing: the run is opened in ``control_flow``, where a failure ends the job with a reason."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing: ``control_flow`` closes the run itself."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Runs the job to its outcome. Any failure is logged with our code and ends the job as failed."""
        run: Run | None = None
        try:
            run = open_run(decode_job(self.job), self.plan, job_home(), self.resume)
            self._drive(run, Courier(fl_ctx.get_engine(), abort_signal, self.grace_s), abort_signal, fl_ctx)
        except FederationError as error:
            self._fail(f"[{error.code}] {error}", fl_ctx)
        except Exception as error:  # the border: NVFlare must learn of it, and the trace stays in our log
            self.logger.exception("the run failed with an error that is not ours")
            self._fail(f"[INTERNAL] {type(error).__name__}: {error}", fl_ctx)
        finally:
            if run is not None:
                run.close()

    def _drive(self, run: Run, courier: Courier, abort_signal: Signal, fl_ctx: FLContext) -> None:
        try:
            exchange = next(run)
            while not abort_signal.triggered:
                answers = courier.exchange(
                    exchange.phase, exchange.requests, timeout_s=exchange.timeout_s, enough=exchange.enough
                )
                messages = {silo: self._message(silo, answer, fl_ctx) for silo, answer in answers.items()}
                exchange = run.send({silo: message for silo, message in messages.items() if message is not None})
            self.log_info(fl_ctx, "the job was aborted; the run is closed", fire_event=False)
        except StopIteration as done:
            self.log_info(fl_ctx, f"the run ended: {done.value}", fire_event=False)

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
