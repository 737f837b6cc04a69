"""The silo's tie to the server, as NVFlare's client sees it: is it registered, does the server take its heartbeats?

NVFlare's client ends when its registration is refused. When the server does not take its token any more it sends
heartbeats into the void for ever: they are refused if the charter no longer names the silo, and not even answered if
the server has a new key. Neither mends itself. ``Link`` is a component of every silo's kit; it tells the long-lived
process, which starts the client again (``parent``), and /readyz.
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

from jobs.flare.processes import job_processes

log = logging.getLogger("consilium.silo")

#: So many heartbeats refused in a row (they come every 10 s, or 5 s after a failure) mean that the token is void.
MOST_REFUSED: Final = 2
#: Without an answer to a heartbeat for so long this silo counts as cut off. Seconds.
SILENT_S: Final = 45.0
#: And for so long, with no job here that could be waited for, it registers anew. Seconds.
LOST_S: Final = 60.0


class State:
    """What is known of the tie. ``lost``: called once when it can only be mended by a new start."""

    def __init__(self) -> None:
        self.lost: Callable[[str], None] = lambda why: None
        self.registered = False
        self._client: Any = None
        self._refused = 0
        self._heard = 0.0

    def taken(self, client: Any) -> None:
        """The server took our registration."""
        self._client = client
        self.registered = True
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

    def amiss(self) -> str:
        """Why no job can reach this silo, or nothing."""
        if not self.registered:
            return "not registered with the aggregator's server"
        if time.monotonic() - self._heard > SILENT_S:
            return "the aggregator's server does not answer"
        return ""

    def quit(self) -> None:
        """Log out, so that the server counts on us no longer. Best effort."""
        client, self._client = self._client, None
        if client is not None:
            client.communicator.maint_msg_timeout = 2.0
            try:
                client.close()
            except Exception as failed:  # noqa: BLE001 - NVFlare's; we leave either way
                log.info("no logout: %s", failed)


#: Of this process's client: there is one.
STATE: Final = State()


class Link(Widget):
    """Client component; ``STATE`` learns from it that the registration was taken, and when a heartbeat is due."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.AFTER_CLIENT_REGISTER:
            client = fl_ctx.get_prop(FLContextKey.SITE_OBJ)
            if client is not None and client.token:
                STATE.taken(client)
        elif event_type == EventType.BEFORE_CLIENT_HEARTBEAT:
            STATE.beats()
