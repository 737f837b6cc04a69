"""The silo's side of a job: hands each message to the agent and its answer back.

The agent refuses by answering (a signed Decline), never by raising; so an exception here is a malformed task, a
missing home or a programming error. It becomes a bare return code: no text of ours crosses the wire.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Final

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from crypto.errors import FederationError, Malformed
from jobs.flare.folder import decode_job
from jobs.flare.nvflare_mains import job_home
from jobs.flare.wire import unwrap, wrap
from jobs.runtime import drain
from silo_agent.home import SiloHome

if TYPE_CHECKING:
    from silo_agent.agent import Agent, Refusing


#: How long the end of a run waits for the agent to finish what it is doing. Seconds; NVFlare kills after 10.
CLOSE_S: Final = 5.0


def make_agent(job: str, home: SiloHome) -> Agent | Refusing:
    """The agent of this silo for this job. It brings torch, so it is imported in the job process only."""
    from jobs.runtime.compose import answering_agent

    return answering_agent(job, home)


class SecureExecutor(Executor):
    """``job``: as ``folder.encode_job`` wrote it. The silo's home comes from CONSILIUM_HOME, never from the job."""

    def __init__(self, job: str) -> None:
        super().__init__()
        self.job = job
        self._agent: Agent | Refusing | None = None
        self._one_at_a_time = Lock()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """The agent's answer, or a bare return code."""
        try:
            request = unwrap(shareable)
        except Malformed as bad:
            self.log_error(fl_ctx, f"[{bad.code}] {task_name}: {bad.detail}", fire_event=False)
            return make_reply(ReturnCode.BAD_TASK_DATA)
        try:
            with self._one_at_a_time:  # a repeated request waits here, then gets the same answer
                if abort_signal.triggered:
                    return make_reply(ReturnCode.TASK_ABORTED)
                if self._agent is None:
                    self._agent = make_agent(decode_job(self.job), SiloHome(job_home().root))
                answer = wrap(self._agent.handle(request))
                if self._agent.left:
                    drain.note_left(job_home())
                return answer
        except FederationError as error:
            self.log_error(fl_ctx, f"[{error.code}] {task_name}: {error}", fire_event=False)
        except Exception as error:  # the border: a programming error of ours must not take the job down
            self.logger.exception(f"[INTERNAL] {task_name}: {type(error).__name__}")
        return make_reply(ReturnCode.EXECUTION_EXCEPTION)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """END_RUN closes the agent, which wipes its secrets."""
        if event_type != EventType.END_RUN:
            return
        idle = self._one_at_a_time.acquire(timeout=CLOSE_S)
        try:
            agent, self._agent = self._agent, None
            if agent is not None:
                agent.close()
        finally:
            if idle:
                self._one_at_a_time.release()
