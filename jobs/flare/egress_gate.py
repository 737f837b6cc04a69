"""The gate of a silo's NVFlare processes: a closed list of what they may be asked, may send and may answer.

The site filter (``filters``) sees tasks and their results. NVFlare has many more ways to and from a client, and its
own checks trust the server: an administrator's command is authorised at the site only if the server's message says that
it should be, so a server that does not say so may list, search and read every file of the agent's user (``sys.shell``),
see statistics and error texts, change log levels, delete run folders or stop the site; ``_net_manager`` answers
anybody; events, streams, logs and metrics go out on topics of their own choosing. None of that is on the list, so none
of it passes, no matter who asks. What is on it is what a run needs: our tasks, and NVFlare's reserved topics for
starting, ending and watching a job.

The gate sits in the cell, where every message of a process passes, from the cell's first moment: ``guard_cells`` is
called by ``fed silo run`` for the long-lived process and by the forced site filter for a job's process, each before
NVFlare makes the cell. A message that is not on the list is dropped or answered with a bare code, and recorded once in
the security log. A silo talks to the server and to its own processes, never to another silo.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel, CellChannelTopic, MessageHeaderKey, MessageType, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN, FqcnInfo
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import (
    STREAM_ACK_TOPIC,
    STREAM_CHANNEL,
    STREAM_DATA_TOPIC,
    STREAM_ERROR_TOPIC,
    StreamHeaderKey,
)
from nvflare.private.admin_defs import Message as Command
from nvflare.private.admin_defs import MsgHeader
from nvflare.private.admin_defs import ReturnCode as CommandCode
from nvflare.private.defs import ERROR_MSG_PREFIX, ClientRegMsgKey, RequestHeader, TrainingTopic

from crypto.home import Home
from jobs.flare.nvflare_mains import HOME_VAR
from jobs.security_log.events import Event, wire_name
from jobs.security_log.writer import SecurityLog

log = logging.getLogger("consilium.silo")

#: Distinct refusals that one process tells; a server that makes up names must not fill the log.
MOST_TOLD: Final = 64
#: What an error says outside: nothing. The text is in the site's own log.
REFUSED: Final = "refused at the site; see its own log"

_JOB_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DOWNLOAD, _FETCH, _FAILED = "download_service__", "download_service__download", "download_service__source_failure"
_AUX, _TASK, _SERVER = CellChannel.AUX_COMMUNICATION, CellChannel.SERVER_MAIN, CellChannel.SERVER_COMMAND


@dataclass(frozen=True, slots=True)
class Topic:
    """``asked``: others may ask us (and get the answer). ``sent``: we may ask others. ``carries``: what then leaves."""

    channel: str
    topic: str
    carries: str
    asked: bool = False
    sent: bool = False


#: Everything that passes. Answers pass with what they answer.
TOPICS: Final = (
    Topic(_AUX, "__do_task__", "our message, rebuilt by the site filter, or a bare return code", asked=True),
    Topic(_AUX, "__end_run__", "a bare return code", asked=True),
    Topic(_AUX, "__job_heartbeat__", "that the job process lives", asked=True, sent=True),
    Topic(_AUX, "__sync_runner__", "that the job process has started", sent=True),
    Topic(_SERVER, "get_task", "that the job process asks whether the run is over", sent=True),
    Topic(_DOWNLOAD, _FETCH, "the words of a message too large to travel whole, by their reference", True, True),
    Topic(_DOWNLOAD, _FAILED, "that such words are gone", True, True),
    Topic(CellChannel.CLIENT_MAIN, "admin", "a command's answer: see the commands", asked=True),
    Topic(CellChannel.CLIENT_MAIN, TrainingTopic.NOTIFY_JOB_STATUS, "own processes only: a job's state", True, True),
    Topic(CellChannel.CLIENT_COMMAND, "abort", "own processes only: stop this job", True, True),
    Topic(_TASK, CellChannelTopic.Challenge, "the site's name and a nonce", sent=True),
    Topic(
        _TASK, CellChannelTopic.Register, "certificate, proof of its key, local address, NVFlare's version", sent=True
    ),
    Topic(_TASK, CellChannelTopic.HEART_BEAT, "the ids of the jobs that run here", sent=True),
    Topic(_TASK, CellChannelTopic.Quit, "that the site leaves", sent=True),
    Topic(_TASK, CellChannelTopic.REPORT_JOB_FAILURE, "a job's id and a reason of NVFlare's closed list", sent=True),
    Topic(CellChannel.CELLNET, CellChannelTopic.Bye, "that a connection ends", True, True),
    Topic(STREAM_CHANNEL, STREAM_ACK_TOPIC, "how many bytes of a message have come", True, True),
    Topic(STREAM_CHANNEL, STREAM_ERROR_TOPIC, "that a message did not come; the text is taken out", True, True),
)

#: The administrator's commands that a site takes. All others are refused, whatever role the server claims for them.
COMMANDS: Final[dict[str, str]] = {
    TrainingTopic.CHECK_RESOURCE: "yes or no, and a token",
    TrainingTopic.CANCEL_RESOURCE: "nothing",
    TrainingTopic.DEPLOY: "that the job folder was taken; it is checked as a whole: signed, allowed classes, no code",
    TrainingTopic.START_JOB: "that the job process was started",
    TrainingTopic.ABORT: "that the job process was told to stop",
    TrainingTopic.CHECK_STATUS: "job ids with their states",
    TrainingTopic.NOTIFY_JOB_STATUS: "nothing",
}

_ASKED: Final = frozenset((topic.channel, topic.topic) for topic in TOPICS if topic.asked)
_SENT: Final = frozenset((topic.channel, topic.topic) for topic in TOPICS if topic.sent)
#: A streamed answer is a message of its own, on a topic that names what it answers.
_ANSWERS_TO_ASKED: Final = frozenset((CellChannel.RETURN_ONLY, ":".join(name)) for name in _ASKED)
_ANSWERS_TO_SENT: Final = frozenset((CellChannel.RETURN_ONLY, ":".join(name)) for name in _SENT)

Tell = Callable[..., None]


class Gate:
    """One cell's. ``tell``: the security log."""

    def __init__(self, fqcn: str, tell: Tell) -> None:
        self._fqcn = fqcn
        self._root = FqcnInfo(fqcn).root
        self._tell = tell
        self._told: set[tuple[str, ...]] = set()

    def arrives(self, message: Message) -> None:
        """Every incoming message: takes out an invitation to connect elsewhere; notes how our login went."""
        message.remove_header(MessageHeaderKey.CONN_URL)
        if message.get_header(MessageHeaderKey.MSG_TYPE) == MessageType.REPLY and _name(message) == (
            _TASK,
            CellChannelTopic.Register,
        ):
            code = message.get_header(MessageHeaderKey.RETURN_CODE)
            if code == ReturnCode.OK:
                self._tell(Event.LOGIN_ACCEPTED)
            else:
                reason = code if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code) else "unknown"
                self._tell(Event.LOGIN_REFUSED, reason=reason)

    def asked(self, message: Message) -> Message | None:
        """An incoming request, before it is decoded or passed on. A reply instead of it stops it."""
        peer = message.get_header(MessageHeaderKey.ORIGIN)
        passed_on = message.get_header(MessageHeaderKey.DESTINATION) != self._fqcn  # to or from our job process
        allowed = _ASKED | _ANSWERS_TO_SENT | (_SENT | _ANSWERS_TO_ASKED if passed_on else frozenset())
        return None if self._is_near(peer) and _name(message) in allowed else self._refuse("in", *_name(message), peer)

    def command(self, message: Message) -> Message | None:
        """An administrator's command: what counts is what it says itself, not the topic it came by."""
        command = message.payload
        peer = message.get_header(MessageHeaderKey.ORIGIN)
        topic = command.topic if isinstance(command, Command) else None
        job = command.headers.get(RequestHeader.JOB_ID) if isinstance(command, Command) else None
        if not isinstance(topic, str) or topic not in COMMANDS:
            return self._refuse("in", CellChannel.CLIENT_MAIN, topic, peer)
        if job not in (None, "") and not (isinstance(job, str) and _JOB_ID.fullmatch(job)):
            log.warning("%s with a job id that is none", topic)  # NVFlare makes paths of it
            return self._refuse("in", CellChannel.CLIENT_MAIN, topic, peer)
        return None

    def sends(self, message: Message) -> Message | None:
        """An outgoing request. A reply instead of it stops it."""
        peer = message.get_header(MessageHeaderKey.DESTINATION)
        if not self._is_near(peer) or _name(message) not in _SENT | _ANSWERS_TO_ASKED:
            return self._refuse("out", *_name(message), peer)
        if message.get_header(StreamHeaderKey.ERROR_MSG) is not None:
            message.set_header(StreamHeaderKey.ERROR_MSG, REFUSED)
        if isinstance(message.payload, dict):  # our login, which takes along whatever else stands in resources.json
            message.payload.pop(ClientRegMsgKey.SITE_CONFIG, None)
        return None

    def answers(self, reply: Message) -> None:
        """An outgoing reply: an error's text is taken out."""
        if reply.get_header(MessageHeaderKey.ERROR) is not None:
            reply.set_header(MessageHeaderKey.ERROR, REFUSED)
        answer = reply.payload
        if isinstance(answer, Command):
            failed = answer.headers.get(MsgHeader.RETURN_CODE) == CommandCode.ERROR
            if failed or (isinstance(answer.body, str) and answer.body.startswith(ERROR_MSG_PREFIX)):
                log.warning("%s: %s", answer.topic, answer.body)
                answer.body = f"{ERROR_MSG_PREFIX}: {REFUSED}" if not failed else REFUSED
                answer.headers.pop(MsgHeader.META, None)

    def _is_near(self, peer: Any) -> bool:
        return isinstance(peer, str) and FqcnInfo(peer).root in (FQCN.ROOT_SERVER, self._root)

    def _refuse(self, way: str, channel: object, topic: object, peer: object) -> Message:
        what = {"way": way, "channel": wire_name(channel), "topic": wire_name(topic)}
        if (key := tuple(what.values())) not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(key)
            log.warning("refused: %s on %s (%s, %s)", what["topic"], what["channel"], way, wire_name(peer))
            self._tell(Event.MESSAGE_REFUSED, **what, peer=wire_name(peer))
        return make_reply(ReturnCode.INVALID_REQUEST)


def _name(message: Message) -> tuple[str, str]:
    """(channel, topic) of a message, or of what it is a piece of; "" for what is no text."""
    channel, topic = message.get_header(MessageHeaderKey.CHANNEL), message.get_header(MessageHeaderKey.TOPIC)
    if (channel, topic) == (STREAM_CHANNEL, STREAM_DATA_TOPIC):
        channel, topic = message.get_header(StreamHeaderKey.CHANNEL), message.get_header(StreamHeaderKey.TOPIC)
    return channel if isinstance(channel, str) else "", topic if isinstance(topic, str) else ""


class SiloCell(Cell):
    """NVFlare's cell with the gate in it before it connects."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        core = self.core_cell
        home = os.environ.get(HOME_VAR)
        gate = Gate(core.my_info.fqcn, SecurityLog(Home(Path(home))) if home else _untold)
        core.add_incoming_filter("*", "*", gate.arrives)
        core.set_message_interceptor(gate.asked)
        core.add_incoming_request_filter(CellChannel.CLIENT_MAIN, "*", gate.command)
        core.add_outgoing_request_filter("*", "*", gate.sends)
        core.add_outgoing_reply_filter("*", "*", gate.answers)


def guard_cells() -> None:
    """Every cell that this process makes as an NVFlare client from now on has the gate."""
    from nvflare.private.fed.client import fed_client_base

    if fed_client_base.Cell not in (Cell, SiloCell):
        raise RuntimeError("NVFlare's client does not make its cell of nvflare's Cell: another version than 2.9.0?")
    fed_client_base.Cell = SiloCell


def _untold(event: str, **fields: object) -> None:
    """A process that works for no home, as in tests."""


def topics_table() -> str:
    """``TOPICS`` as a Markdown table, for the documentation."""
    lines = ["| channel | topic | may be asked | may be sent | what leaves by it |", "|---|---|---|---|---|"]
    for topic in TOPICS:
        ways = ("yes" if way else "–" for way in (topic.asked, topic.sent))
        lines.append(f"| {' | '.join((f'`{topic.channel}`', f'`{topic.topic}`', *ways, topic.carries))} |")
    return "\n".join(lines) + "\n"


def commands_table() -> str:
    """``COMMANDS`` as a Markdown table."""
    rows = (f"| `{command}` | {answer} |\n" for command, answer in COMMANDS.items())
    return "| command | what its answer says |\n|---|---|\n" + "".join(rows)
