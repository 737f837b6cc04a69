"""Whether the silo is connected: is it registered, does the server accept its heartbeats?

NVFlare's client ends when its registration is refused. If the server stops accepting its token, the client keeps
sending heartbeats for ever: they are refused if the charter no longer names the silo, and not answered if the server
has a new key. Neither recovers by itself. ``ConnectionWatchdog`` is a component of every silo's kit; it informs the
long-lived process, which starts the client again (``parent``), and /readyz.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import CellChannel, CellChannelTopic, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message
from nvflare.widgets.widget import Widget

from jobs.flare.nvflare_mains import job_processes

log = logging.getLogger("consilium.silo")

#: So many heartbeats refused in a row mean an invalid token. One is sent every 10 s, or 5 s after a failure.
MOST_REFUSED: Final = 2
#: Without an answer to a heartbeat for so long this silo counts as cut off. Seconds.
SILENT_S: Final = 45.0
#: And for so long, with no job here that could be waited for, it registers anew. Seconds.
LOST_S: Final = 60.0


class Connection:
    """What is known of the connection. ``lost``: called once, with the reason, when only a new start can restore it."""

    def __init__(self) -> None:
        self.lost: Callable[[str], None] = lambda why: None
        self.registered = False
        self._client: Any = None
        self._refused = 0
        self._heard = 0.0

    def taken(self, client: Any) -> None:
        """The server accepted the registration."""
        self._client = client
        self.registered = True
        log.info("registered with the aggregator's server")
        self._heard = time.monotonic()
        client.cell.core_cell.add_incoming_reply_filter(
            channel=CellChannel.SERVER_MAIN, topic=CellChannelTopic.HEART_BEAT, cb=self._answered
        )

    def _answered(self, message: Message) -> None:
        self.heartbeat(message.get_header(MessageHeaderKey.RETURN_CODE))

    def heartbeat(self, code: object) -> None:
        """The server's answer to a heartbeat."""
        if code == ReturnCode.OK:
            self._refused, self._heard = 0, time.monotonic()
        elif code == ReturnCode.UNAUTHENTICATED:
            self._refused += 1
            if self._refused == MOST_REFUSED:
                self.lost("the server no longer takes this silo's heartbeats")

    def beats(self) -> None:
        """A heartbeat is about to be sent."""
        silent = self.registered and time.monotonic() - self._heard > LOST_S
        if silent and not job_processes("client-job"):
            self._heard = time.monotonic()
            self.lost(f"the server has answered no heartbeat for {LOST_S:.0f} s")

    def problem(self) -> str:
        """Why no job can reach this silo; empty if one can."""
        if not self.registered:
            return "not registered with the aggregator's server"
        if time.monotonic() - self._heard > SILENT_S:
            return "the aggregator's server does not answer"
        return ""

    def quit(self) -> None:
        """Log out, so that the server no longer lists this silo. Best effort."""
        client, self._client = self._client, None
        if client is not None:
            client.communicator.maint_msg_timeout = 2.0
            try:
                client.close()
            except Exception as failed:  # noqa: BLE001 - NVFlare's; we leave either way
                log.info("no logout: %s", failed)


#: Of this process's client: there is one.
CONNECTION: Final = Connection()


class ConnectionWatchdog(Widget):
    """Client component: tells ``CONNECTION`` when the registration was accepted and when a heartbeat is due."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.AFTER_CLIENT_REGISTER:
            client = fl_ctx.get_prop(FLContextKey.SITE_OBJ)
            if client is not None and client.token:
                CONNECTION.taken(client)
        elif event_type == EventType.BEFORE_CLIENT_HEARTBEAT:
            CONNECTION.beats()
