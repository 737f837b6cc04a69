"""A silo whose service was started again gets the job that runs, and so does one that was not there at its start.

NVFlare starts a job once, at the silos that are connected then. A silo's service that was restarted registers anew,
with another token, and would wait for the next job. This component of the server looks for silos that are connected
and that a running job names, but that its table of participants does not have under their present token. It sends them
the job as NVFlare itself does, deploy and start, and enters them in the table. The silo checks the job as at any
start: signature, classes, its data owner's approval, its own journal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import RunProcessKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import Job
from nvflare.apis.job_scheduler_spec import DispatchInfo
from nvflare.private.admin_defs import Message, MsgHeader, ReturnCode
from nvflare.private.defs import ERROR_MSG_PREFIX
from nvflare.private.fed.utils.fed_utils import extract_participants
from nvflare.widgets.widget import Widget

#: How often the list of connected silos is looked at. Seconds.
LOOK_S: Final = 1.0
#: Tries for one registration of a silo, the first pause between two, which doubles. Seconds.
TRIES: Final = 6
PAUSE_S: Final = 2.0
#: How long a silo may take to store the job. Seconds.
DEPLOY_S: Final = 30.0


@dataclass(slots=True)
class _Tries:
    done: int = 0
    due: float = 0.0


class Rejoin(Widget):
    """Server component; looks from SYSTEM_START to SYSTEM_END, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = threading.Event()
        self._tries: dict[tuple[str, str], _Tries] = {}  #: (job, token) → what was tried

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.SYSTEM_START:
            engine = fl_ctx.get_engine()
            threading.Thread(target=self._look_on, args=(engine,), name="rejoin", daemon=True).start()
        elif event_type == EventType.SYSTEM_END:
            self._ended.set()

    def _look_on(self, engine: Any) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self.look(engine)
            except Exception:  # the border to NVFlare's tables: the next look starts afresh
                self.logger.exception("looking for silos that are back")

    def look(self, engine: Any) -> None:
        """Send each running job to the silos that are to have it and do not. ``engine``: NVFlare's, of the parent."""
        for job, app, client in list(_returned(engine)):
            tries = self._tries.setdefault((job.job_id, client.token), _Tries())
            now = time.monotonic()
            if tries.done >= TRIES or now < tries.due:
                continue
            tries.due, tries.done = now + PAUSE_S * 2**tries.done, tries.done + 1
            if failed := self._send(engine, job, app, client):
                self.logger.warning(f"{client.name} is back and did not take job {job.job_id}: {failed}")
                continue
            with engine.lock:
                participants = engine.run_processes.get(job.job_id, {}).get(RunProcessKey.PARTICIPANTS)
                if participants is not None:
                    for token in [token for token, one in participants.items() if one.name == client.name]:
                        del participants[token]
                    participants[client.token] = client
            self.logger.info(f"{client.name} is back and has job {job.job_id} again")
        running = set(engine.run_processes)
        self._tries = {key: tries for key, tries in self._tries.items() if key[0] in running}

    def _send(self, engine: Any, job: Job, app: str, client: Client) -> str:
        """Deploy and start the job at one silo. Why it failed; empty if it did not."""
        with engine.new_context() as fl_ctx:
            runner, admin = engine.job_runner, engine.server.admin_server
            message = runner._make_deploy_message(job, job.get_application(app, fl_ctx), app, fl_ctx)
            reply = admin.send_requests_and_get_reply_dict({client.token: message}, timeout_secs=DEPLOY_S)[client.token]
            if failed := _refusal(reply):
                return failed
            checked = engine.check_client_resources(job, {client.name: {}}, fl_ctx)
            enough, token = checked.get(client.name, (False, "no answer"))
            if not enough:
                return f"no resources: {token}"
            site = DispatchInfo(app_name=app, resource_requirements={}, token=token)
            replies = engine.start_client_job(job, {client.name: site}, fl_ctx)
            return _refusal(replies[0].reply if replies else None)


def _returned(engine: Any) -> Iterator[tuple[Job, str, Client]]:
    """(job, app, silo) of the silos that are connected and that a running job names but does not have."""
    clients = list(engine.get_clients())
    for job_id, job in list(engine.job_runner.running_jobs.items()):
        process = engine.run_processes.get(job_id)
        if process is None or job.run_aborted:
            continue
        known = set(process.get(RunProcessKey.PARTICIPANTS) or ())
        for app, sites in job.get_deployment().items():
            wanted = set(extract_participants(sites))
            yield from ((job, app, one) for one in clients if one.name in wanted and one.token not in known)


def _refusal(reply: Any) -> str:
    """Why a silo refused a command; empty if it did not."""
    if not isinstance(reply, Message):
        return "no answer"
    if reply.get_header(MsgHeader.RETURN_CODE, ReturnCode.OK) != ReturnCode.OK:
        return str(reply.body)
    return reply.body if isinstance(reply.body, str) and reply.body.startswith(ERROR_MSG_PREFIX) else ""
