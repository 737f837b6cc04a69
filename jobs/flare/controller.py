"""The aggregator's side of a job: drives the run generator over NVFlare's task channel.

The run (``jobs.run.server_run``) is a generator that yields an ``Exchange`` and is sent the replies; it does no I/O.
This controller is its courier: one ``Task`` and one ``send`` per silo and exchange (never a ``broadcast``, which in
NVFlare 2.9 hands one client's payload to all), answers collected under a condition, the rest cancelled. Whom to ask,
what to make of an absent silo and when a step is lost is the run's business, not ours.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from math import ceil
from pathlib import Path
from threading import Condition
from typing import Any, Final

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task, TaskCompletionStatus
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from crypto.errors import FederationError, Malformed
from crypto.messages import Message
from jobs.flare.folder import decode_job
from jobs.flare.processes import job_home
from jobs.flare.wire import TASK_PREFIX, unwrap, wrap

#: How long a wait may last before the abort signal is looked at again. Seconds.
_LOOK_S: Final = 0.1

#: Exchange, its replies, outcome. Only ``phase``, ``requests``, ``timeout_s`` and ``enough`` of an exchange are used.
Run = Generator[Any, Mapping[str, Message], Any]


def open_run(job: str, plan: str, home: Path) -> Run:
    """The run generator of a job. The one place where this module meets the rest of ``jobs``; tests replace it."""
    from jobs.run import server_run  # heavy (MLflow, ledger): imported in the job process only

    run: Run = server_run(job, plan, home)
    return run


class Answers:
    """Answers to one exchange, stashed by NVFlare's threads and read by the control flow. Nothing is computed here."""

    def __init__(self, silos: Mapping[str, object]) -> None:
        self._changed = Condition()
        self._open = set(silos)
        self._results: dict[str, Shareable] = {}
        self._first_enough: float | None = None

    def put(self, silo: str, result: Shareable | None) -> None:
        """The silo answered, or (None) will not. Only the first counts; silos that were not asked are ignored."""
        with self._changed:
            if silo in self._open:
                self._open.discard(silo)
                if result is not None:
                    self._results[silo] = result
                self._changed.notify_all()

    def wait(self, *, timeout_s: float, enough: int, grace_s: float, abort: Signal) -> dict[str, Shareable]:
        """Until all answered, ``enough`` did and the grace is over, the time is up, or the job is aborted.

        Returns what came. Later answers are dropped.
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            while self._open and not abort.triggered:
                now = time.monotonic()
                if self._first_enough is None and len(self._results) >= enough:
                    self._first_enough = now
                    end = min(end, now + grace_s)
                if now >= end:
                    break
                self._changed.wait(min(_LOOK_S, end - now))
            self._open = set()
            results, self._results = self._results, {}
        return results


class SecureController(Controller):
    """``job``: as ``folder.encode_job`` wrote it. ``plan``: base64 of the plan. ``grace_s``: wait after ``enough``."""

    def __init__(self, job: str, plan: str, grace_s: float = 2.0) -> None:
        super().__init__()
        self.job = job
        self.plan = plan
        self.grace_s = grace_s

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing: the run is opened in ``control_flow``, where a failure ends the job with a reason."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing: ``control_flow`` closes the run itself."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Runs the job to its outcome. Any failure is logged with our code and ends the job as failed."""
        run: Run | None = None
        try:
            run = open_run(decode_job(self.job), self.plan, job_home())
            self._drive(run, abort_signal, fl_ctx)
        except FederationError as error:
            self._fail(f"[{error.code}] {error}", fl_ctx)
        except Exception as error:  # the border: NVFlare must learn of it, and the trace is ours to keep
            self.logger.exception("the run failed with an error that is not ours")
            self._fail(f"[INTERNAL] {type(error).__name__}: {error}", fl_ctx)
        finally:
            self.cancel_all_tasks()
            if run is not None:
                run.close()

    def _drive(self, run: Run, abort_signal: Signal, fl_ctx: FLContext) -> None:
        try:
            exchange = next(run)
            while not abort_signal.triggered:
                exchange = run.send(self._exchange(exchange, abort_signal, fl_ctx))
            self.log_info(fl_ctx, "the job was aborted; the run is closed", fire_event=False)
        except StopIteration as done:
            self.log_info(fl_ctx, f"the run ended: {done.value}", fire_event=False)

    def _exchange(self, exchange: Any, abort_signal: Signal, fl_ctx: FLContext) -> dict[str, Message]:
        answers = Answers(exchange.requests)

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:  # NVFlare passes both by these names
            result, client_task.result = client_task.result, None
            answers.put(client_task.client.name, result)

        def ended(task: Task, fl_ctx: FLContext) -> None:
            if task.completion_status != TaskCompletionStatus.OK:
                answers.put(task.targets[0], None)

        tasks = []
        for silo, request in exchange.requests.items():
            task = Task(
                name=TASK_PREFIX + exchange.phase,
                data=wrap(request),
                timeout=ceil(exchange.timeout_s) + 1,
                result_received_cb=received,
                task_done_cb=ended,
            )
            self.send(task=task, fl_ctx=fl_ctx, targets=[silo])
            tasks.append(task)
        results = answers.wait(
            timeout_s=exchange.timeout_s, enough=exchange.enough, grace_s=self.grace_s, abort=abort_signal
        )
        for task in tasks:
            if task.targets[0] not in results:
                self.cancel_task(task)
        return {silo: message for silo in results if (message := self._message(silo, results[silo], fl_ctx))}

    def _message(self, silo: str, result: Shareable, fl_ctx: FLContext) -> Message | None:
        """The silo's message, or None for a failed or malformed answer: the silo counts as absent."""
        code = result.get_return_code()
        if code != ReturnCode.OK:
            self.log_warning(fl_ctx, f"{silo} answered {code}: it counts as absent", fire_event=False)
            return None
        try:
            return unwrap(result)
        except Malformed as bad:
            self.log_warning(fl_ctx, f"[{bad.code}] {silo}: {bad.detail} It counts as absent.", fire_event=False)
            return None

    def _fail(self, reason: str, fl_ctx: FLContext) -> None:
        self.log_error(fl_ctx, reason, fire_event=False)
        self.system_panic(reason, fl_ctx)

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A late answer: dropped. The run has gone on without it."""
        self.log_info(fl_ctx, f"a late answer of {client.name} to {task_name} was dropped", fire_event=False)
