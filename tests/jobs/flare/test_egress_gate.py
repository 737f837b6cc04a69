"""What a silo's NVFlare processes let in and out, tried on NVFlare's own cells, agents, runners and streamers.

``gated`` is a silo as we run it; ``open_`` is NVFlare as it comes. What one refuses the other must let through, or the
test would show nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedTopic
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.apis.utils.fl_context_utils import gen_new_peer_ctx
from nvflare.app_common.streamers.file_streamer import FileStreamer
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.app_common.widgets.streaming import AnalyticsSender
from nvflare.app_opt.job_launcher.workspace_cell_transfer import TOPIC_PUBLISH_RESULTS, WORKSPACE_TRANSFER_CHANNEL
from nvflare.fuel.f3.cellnet import net_agent
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey, MessageType, ReturnCode
from nvflare.fuel.f3.cellnet.net_agent import NetAgent
from nvflare.fuel.f3.drivers.tcp_driver import TcpDriver
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.download_service import DownloadService
from nvflare.fuel.sec.audit import AuditService
from nvflare.private.admin_defs import Message as Command
from nvflare.private.admin_defs import error_reply
from nvflare.private.defs import CellMessageHeaderKeys, ClientType, new_cell_message
from nvflare.private.fed.authenticator import Authenticator
from nvflare.private.fed.client import fed_client_base
from nvflare.private.fed.client.admin import FedAdminAgent
from nvflare.private.fed.client.admin_commands import AdminCommands
from nvflare.private.fed.client.client_engine import ClientEngine
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.private.fed.client.command_agent import CommandAgent
from nvflare.private.fed.client.communicator import Communicator

from crypto.home import Home
from jobs.flare import egress_gate
from jobs.flare.egress_gate import COMMANDS, TOPICS, Gate, SiloCell, commands_table, guard_cells, topics_table
from jobs.flare.filters import OnlyMessagesOut
from jobs.flare.local_kits import free_port
from jobs.flare.nvflare_mains import HOME_VAR
from jobs.security_log.writer import SecurityLog, check_log

pytestmark = pytest.mark.slow

#: What must not leave.
MARK = "Mrs Smith, born 1961"
JOB = "0b7a3f52-5c9c-4b0e-9a55-1f1f8b6a2c11"


class Told:
    """The security log's stand-in: told events, and a way to wait for one."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, str]]] = []
        self._changed = Condition()

    def __call__(self, event: str, **fields: str) -> None:
        with self._changed:
            self.events.append((event, fields))
            self._changed.notify_all()

    def wait(self, event: str, **fields: str) -> None:
        def came() -> bool:
            return any(name == event and fields.items() <= told.items() for name, told in self.events)

        with self._changed:
            assert self._changed.wait_for(came, timeout=20), (event, fields, self.events)


class Heard:
    """Every byte that reaches the server."""

    def __init__(self, server: Cell) -> None:
        self._bytes: list[bytes] = []
        self._changed = Condition()
        server.core_cell.add_incoming_filter("*", "*", self._hear)

    def _hear(self, message: Message) -> None:
        payload = message.payload or b""
        parts = payload if isinstance(payload, list) else [payload]
        with self._changed:
            self._bytes.append(b"".join([repr(message.headers).encode(), *map(bytes, parts)]))
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._bytes.clear()

    def heard(self, words: str) -> bool:
        return any(words.encode() in one for one in self._bytes)

    def wait(self, words: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.heard(words), timeout=20)


class Site:
    """NVFlare's client around one cell: everything of it that takes or sends messages."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell = cell
        self.name = cell.core_cell.my_info.fqcn
        cell.start()
        client = SimpleNamespace(
            client_name=self.name, client_args={"client_name": self.name}, components={}, secure_train=False, cell=cell
        )
        self.engine = ClientEngine(client, SimpleNamespace(workspace=str(folder), set=[]), 0)
        self.engine.initialize_comm(cell)
        self.admin = FedAdminAgent("admin_agent", cell, self.engine)
        for processor in ClientRequestProcessors.request_processors:
            self.admin.register_processor(processor)
        NetAgent(cell)
        Communicator(client_config={"client_name": self.name}, cell=cell).set_cell(cell)
        DownloadService.initialize(cell)
        jobs = CommandAgent(SimpleNamespace(cell=cell))
        with self.engine.new_context() as fl_ctx:
            jobs.start(fl_ctx)
            self.engine.fire_event(EventType.SYSTEM_BOOTSTRAP, fl_ctx)


class Net:
    """A server and two sites in this process, on one port of this machine."""

    def __init__(self, folder: Path, told: Told) -> None:
        url = f"tcp://localhost:{free_port()}"
        self.told = told
        self.server = Cell(fqcn="server", root_url=url, secure=False, credentials={})
        self.server.start()
        self.heard = Heard(self.server)
        args: dict[str, Any] = {"root_url": url, "secure": False, "credentials": {}, "create_internal_listener": False}
        self.gated = Site(SiloCell(fqcn="silo-1", **args), folder)
        self.open_ = Site(Cell(fqcn="silo-2", **args), folder)

    def ask(self, site: Site, channel: str, topic: str, payload: Any = None) -> Message:
        """A request of the server's, past the streams: the answer of the site's own callback, or of its gate."""
        request = new_cell_message({}, payload)
        answer: Message = self.server.core_cell.send_request(channel, topic, site.name, request, timeout=10.0)
        return answer

    def forget(self) -> None:
        """What was heard and told before: the gate tells the same thing once only."""
        self.heard.clear()
        self.told.events.clear()
        self.gated.cell.core_cell.message_interceptor.__self__._told.clear()

    def close(self) -> None:
        for cell in (self.gated.cell, self.open_.cell, self.server):
            cell.stop()
        for name in ("server", "silo-1", "silo-2"):
            CoreCell.ALL_CELLS.pop(name, None)
        for site in (self.gated, self.open_):
            site.engine.shutdown_streamer()


def _shut(shutdown: Callable[[TcpDriver], None]) -> Callable[[TcpDriver], None]:
    """NVFlare's listener stops listening and keeps its socket."""

    def shut(driver: TcpDriver) -> None:
        shutdown(driver)
        if driver.server is not None:
            driver.server.socket.close()

    return shut


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "private.txt").write_text(MARK)
    told = Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VAR, str(folder))
        patch.setattr(egress_gate, "SecurityLog", lambda home: told)
        patch.setattr(egress_gate, "MOST_TOLD", 10_000)
        patch.setattr(TcpDriver, "shutdown", _shut(TcpDriver.shutdown))
        AuditService.initialize(str(folder / "audit.log"))
        flare_decomposers.register()
        net = Net(folder, told)
        yield net
        net.close()


# --- what may be asked -------------------------------------------------------------------------------------------


def test_every_topic_that_nvflare_listens_on_is_on_the_list_or_refused(net: Net) -> None:
    """Pinned: a version of NVFlare that listens on more fails here, to be looked at."""
    listens = {tuple(key.split(":", 1)) for key in net.open_.cell.core_cell.req_reg.reg}
    management = {value for name, value in vars(net_agent).items() if name.startswith("_TOPIC_")}
    assert listens == {
        ("admin", "*"),
        ("aux_communication", "*"),
        ("cellnet.channel", "bulk"),
        ("cellnet.channel", "bye"),
        ("client_command", "*"),
        ("credential_manager", "key_exchange"),
        ("download_service__", "download_service__download"),
        ("download_service__", "download_service__source_failure"),
        ("server_command", "get_task"),
        ("server_command", "submit_update"),
        ("sm__STREAM", "sm__ACK"),
        ("sm__STREAM", "sm__DATA"),
        ("sm__STREAM", "sm__ERROR"),
        *(("_net_manager", topic) for topic in management),
    }
    asked = {(topic.channel, topic.topic) for topic in TOPICS if topic.asked}
    refused = 0
    for channel, topic in sorted(listens):
        for name in ("made-up", *AUX, *JOB_COMMANDS) if topic == "*" else (topic,):
            if (channel, name) in asked or (channel, topic) in {("sm__STREAM", "sm__DATA")}:
                continue
            answer = net.ask(net.gated, channel, name, Command(name, MARK))
            assert answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST, (channel, name)
            assert answer.payload is None
            refused += 1
    assert refused > 40


#: Topics that the job's and the parent's aux channel know.
AUX = ("fed.event", "ObjectStreamer.Request", "ObjectStreamer.Abort", ReservedTopic.APP_METRICS, "__task_check__")
JOB_COMMANDS = tuple(command.get_command_name() for command in AdminCommands.commands if command != "abort")


def test_a_server_that_leaves_out_the_authorisation_reads_files_of_a_site_without_the_gate(net: Net) -> None:
    """NVFlare authorises at the site only what the server's message says is to be authorised."""
    private = Path(net.open_.engine.args.workspace) / "private.txt"
    asks = Command("sys.shell", f"cat {private}")
    answer = net.ask(net.open_, "admin", "admin", asks)
    assert MARK in answer.payload.body
    answer = net.ask(net.gated, "admin", "admin", asks)
    assert answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST and answer.payload is None
    net.told.wait("message-refused", way="in", channel="admin", topic="sys.shell", peer="server")


@pytest.mark.parametrize("by", ["admin", "train.abort", "sys.shell", ""])
def test_only_seven_commands_are_taken_whatever_topic_they_come_by(net: Net, by: str) -> None:
    known = {topic for processor in ClientRequestProcessors.request_processors for topic in processor.get_topics()}
    assert known > COMMANDS.keys()
    for topic in sorted(known - COMMANDS.keys()):
        answer = net.ask(net.gated, "admin", by, Command(topic, "cat /etc/hostname"))
        assert answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST, topic
        assert answer.payload is None


def test_a_command_that_is_allowed_is_answered(net: Net) -> None:
    answer = net.ask(net.gated, "admin", "admin", Command("train.check_status", ""))
    assert json.loads(answer.payload.body) == {"client_name": "silo-1", "running_jobs": []}


@pytest.mark.parametrize("job", ["../../silos/silo-1", "/etc", "x --set y=z", 7, "", None])
def test_a_job_id_is_an_id(net: Net, job: Any) -> None:
    command = Command("train.abort", "")
    command.set_header("job_id", job)
    answer = net.ask(net.gated, "admin", "admin", command)
    if job in ("", None):
        assert answer.payload is not None
    else:
        assert answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST
    command.set_header("job_id", JOB)
    assert "stopped" in net.ask(net.gated, "admin", "admin", command).payload.body


def test_what_is_no_command_is_refused(net: Net) -> None:
    for payload in (None, "sys.shell", {"topic": "train.check_status"}, Shareable(), Command(["train.abort"], "")):
        answer = net.ask(net.gated, "admin", "admin", payload)
        assert answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST


def test_a_bulk_message_smuggles_nothing_in(net: Net) -> None:
    item = {"target": "silo-1", "channel": "_net_manager", "topic": "stop", "message": Message(None, None)}
    answer = net.ask(net.gated, "cellnet.channel", "bulk", [item])
    assert answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST


def test_a_streamed_request_is_judged_by_what_it_is(net: Net) -> None:
    answer = net.server.send_request(
        channel=CellChannel.AUX_COMMUNICATION,
        topic="metrics",
        target="silo-1",
        request=new_cell_message({}, Shareable()),
        timeout=0.2,
    )
    assert answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.TIMEOUT
    net.told.wait("message-refused", way="in", channel="aux_communication", topic="metrics")


def test_nobody_but_the_server_and_its_own_processes_is_heard(net: Net) -> None:
    def from_(site: str) -> Message | None:
        headers = {
            MessageHeaderKey.ORIGIN: site,
            MessageHeaderKey.DESTINATION: "silo-1",
            MessageHeaderKey.CHANNEL: "aux_communication",
            MessageHeaderKey.TOPIC: "__do_task__",
        }
        return Gate("silo-1", Told()).asked(Message(headers))

    assert all(from_(near) is None for near in ("server", f"server.{JOB}", "silo-1", f"silo-1.{JOB}"))
    assert all(from_(far) is not None for far in ("silo-2", f"silo-2.{JOB}", "silo-11", "serverless", "", 7))  # type: ignore[arg-type]


def test_what_the_job_process_asks_passes_through_the_parent() -> None:
    def passing(channel: str, topic: str, origin: str, destination: str) -> bool:
        headers = {
            MessageHeaderKey.ORIGIN: origin,
            MessageHeaderKey.DESTINATION: destination,
            MessageHeaderKey.CHANNEL: channel,
            MessageHeaderKey.TOPIC: topic,
        }
        return Gate("silo-1", Told()).asked(Message(headers)) is None

    assert passing("server_command", "get_task", f"silo-1.{JOB}", f"server.{JOB}")
    assert not passing("server_command", "get_task", f"server.{JOB}", "silo-1")
    assert passing("return_only", "aux_communication:__do_task__", f"silo-1.{JOB}", "server")
    assert not passing("return_only", "aux_communication:__do_task__", "server", "silo-1")
    assert passing("return_only", "server_command:get_task", "server", "silo-1")
    assert not passing("_net_manager", "cells", f"silo-1.{JOB}", "server")


def test_an_invitation_to_connect_elsewhere_is_taken_out(net: Net) -> None:
    message = Message({MessageHeaderKey.CONN_URL: "tcp://elsewhere:1"})
    Gate("silo-1", Told()).arrives(message)
    assert MessageHeaderKey.CONN_URL not in message.headers
    assert not net.gated.cell.core_cell.adhoc_connectors


# --- what may be sent --------------------------------------------------------------------------------------------


def fed_event(site: Site) -> None:
    with site.engine.new_context() as fl_ctx:
        runner = next(one for one in site.engine.fl_components if hasattr(one, "fire_fed_event"))
        runner.fire_fed_event("anything", Shareable({"text": MARK}), fl_ctx)


def analytics(site: Site) -> None:
    sender = AnalyticsSender()
    site.engine.fl_components[:0] = [sender, ConvertToFedEvent(events_to_convert=["analytix_log_stats"])]
    try:
        with site.engine.new_context() as fl_ctx:
            site.engine.fire_event(EventType.ABOUT_TO_START_RUN, fl_ctx)
            sender.add(MARK, 0.93, AnalyticsDataType.METRIC)
    finally:
        del site.engine.fl_components[:2]


def aux(topic: str) -> Callable[[Site], None]:
    def send(site: Site) -> None:
        with site.engine.new_context() as fl_ctx:
            site.engine.fire_and_forget_aux_request(topic, Shareable({"text": MARK}), fl_ctx)

    return send


def file_stream(site: Site) -> None:
    """NVFlare's log streaming, and its file streaming: both are objects over aux messages."""
    with site.engine.new_context() as fl_ctx:
        fl_ctx.set_prop("__run_abort_signal__", Signal(), private=True, sticky=False)
        path = Path(site.engine.args.workspace) / "private.txt"
        FileStreamer.stream_file("log", "log.txt", None, ["server"], str(path), fl_ctx, chunk_timeout=0.2)


def raw(channel: str, topic: str, target: str = "server") -> Callable[[Site], None]:
    def send(site: Site) -> None:
        site.cell.fire_and_forget(
            channel=channel, topic=topic, targets=target, message=new_cell_message({}, {"text": MARK})
        )

    return send


def bulk(site: Site) -> None:
    site.cell.core_cell.queue_message("anything", "at-all", ["server"], new_cell_message({}, {"text": MARK}))


SENT: dict[str, tuple[Callable[[Site], None], str]] = {
    "an event fired for all sites": (fed_event, "fed.event"),
    "analytics of a tracker": (analytics, "fed.event"),
    "an aux message": (aux("metrics"), "metrics"),
    "the reserved topic for metrics": (aux(ReservedTopic.APP_METRICS), ReservedTopic.APP_METRICS),
    "a file or a log as a stream": (file_stream, "ObjectStreamer.Request"),
    "a message on a channel of its own": (raw("mine", "own"), "own"),
    "the results of a job's folder": (raw(WORKSPACE_TRANSFER_CHANNEL, TOPIC_PUBLISH_RESULTS), TOPIC_PUBLISH_RESULTS),
    "a task's result, unasked": (raw(CellChannel.SERVER_COMMAND, "submit_update"), "submit_update"),
    "an administrator's command": (raw(CellChannel.HCI, "cmd"), "cmd"),
    "an answer to nothing that was asked": (raw(CellChannel.RETURN_ONLY, "mine:own"), "mine:own"),
    "many messages in one": (bulk, "bulk"),
}


@pytest.mark.parametrize("way", list(SENT))
def test_what_is_not_on_the_list_does_not_leave(net: Net, way: str) -> None:
    send, topic = SENT[way]
    net.forget()
    send(net.gated)
    net.told.wait("message-refused", way="out", topic=topic, peer="server")
    assert not net.heard.heard(MARK)
    send(net.open_)
    net.heard.wait(MARK)  # and NVFlare as it comes lets it out


def test_a_silo_does_not_talk_to_another(net: Net) -> None:
    for topic in TOPICS:
        if topic.sent:
            headers = {
                MessageHeaderKey.DESTINATION: "silo-2",
                MessageHeaderKey.CHANNEL: topic.channel,
                MessageHeaderKey.TOPIC: topic.topic,
            }
            gate = Gate("silo-1", Told())
            assert gate.sends(Message(dict(headers))) is not None
            assert gate.sends(Message({**headers, MessageHeaderKey.DESTINATION: "server"})) is None
    raw("aux_communication", "__job_heartbeat__", "silo-2")(net.gated)
    net.told.wait("message-refused", way="out", topic="__job_heartbeat__", peer="silo-2")


def test_the_errors_text_stays_and_the_code_leaves(net: Net) -> None:
    """NVFlare's command answers carry exceptions: paths, names, whatever was in them."""
    processor = net.gated.admin.processors["train.check_status"]
    for failing, body in (
        (lambda req, ctx: (_ for _ in ()).throw(RuntimeError(MARK)), egress_gate.REFUSED),
        (lambda req, ctx: error_reply(MARK, meta={"info": MARK}), egress_gate.REFUSED),
        (lambda req, ctx: Command("reply", f"NVFLARE_ERROR: {MARK}"), f"NVFLARE_ERROR: {egress_gate.REFUSED}"),
    ):
        net.heard.clear()
        processor.process, before = failing, processor.process
        try:
            answer = net.ask(net.gated, "admin", "admin", Command("train.check_status", ""))
        finally:
            processor.process = before
        assert answer.payload.body == body
        assert not net.heard.heard(MARK)


def test_an_answer_that_is_no_error_leaves_as_it_is() -> None:
    for body in ("deployed app to silo-1", Shareable({"enough": True}), None):
        answer = Command("reply", body)
        Gate("silo-1", Told()).answers(Message(None, answer))
        assert answer.body is body


@pytest.mark.parametrize("strange", [None, 7, ["admin"], {"a": 1}])
def test_a_message_without_a_name_is_refused(strange: Any) -> None:
    headers = {MessageHeaderKey.ORIGIN: "server", MessageHeaderKey.DESTINATION: "server"}
    for where in (
        {MessageHeaderKey.CHANNEL: strange, MessageHeaderKey.TOPIC: "__do_task__"},
        {MessageHeaderKey.CHANNEL: "aux_communication", MessageHeaderKey.TOPIC: strange},
        {MessageHeaderKey.CHANNEL: "sm__STREAM", MessageHeaderKey.TOPIC: "sm__DATA", "sm__ch": strange},
    ):
        assert Gate("silo-1", Told()).asked(Message({**headers, **where})) is not None
        assert Gate("silo-1", Told()).sends(Message({**headers, **where})) is not None


def test_the_transports_error_texts_stay() -> None:
    gate = Gate("silo-1", Told())
    reply = Message({MessageHeaderKey.ERROR: MARK})
    gate.answers(reply)
    stream = Message(
        {
            MessageHeaderKey.DESTINATION: "server",
            MessageHeaderKey.CHANNEL: "sm__STREAM",
            MessageHeaderKey.TOPIC: "sm__ERROR",
            "sm__em": MARK,
        }
    )
    assert gate.sends(stream) is None
    assert MARK not in str([reply.headers, stream.headers])


def test_a_login_says_who_and_nothing_of_the_sites_settings(net: Net) -> None:
    """NVFlare sends whatever else stands in resources.json along with the registration."""
    taken: list[Shareable] = []

    def register(request: Message) -> Message:
        taken.append(request.payload)
        keys = CellMessageHeaderKeys
        return new_cell_message({}, {keys.TOKEN: "t", keys.TOKEN_SIGNATURE: "s", keys.SSID: "i"})

    net.server.register_request_cb(channel=CellChannel.SERVER_MAIN, topic="register", cb=register)
    for site in (net.gated, net.open_):
        with site.engine.new_context() as fl_ctx:
            Authenticator(
                cell=site.cell,
                project_name="demo",
                client_name=site.name,
                client_type=ClientType.REGULAR,
                expected_sp_identity="localhost",
                secure_mode=False,
                root_cert_file=None,
                private_key_file=None,
                cert_file=None,
                msg_timeout=10.0,
                retry_interval=1.0,
                site_config={"ward": MARK},
            ).authenticate(gen_new_peer_ctx(fl_ctx), Signal())
    ours, theirs = taken
    assert MARK not in str(ours) and MARK in str(theirs)
    net.told.wait("login-accepted")


def test_a_refused_login_is_told() -> None:
    told = Told()
    headers = {
        MessageHeaderKey.MSG_TYPE: MessageType.REPLY,
        MessageHeaderKey.CHANNEL: CellChannel.SERVER_MAIN,
        MessageHeaderKey.TOPIC: "register",
    }
    for code in (ReturnCode.UNAUTHENTICATED, f"denied: {MARK}", None):
        Gate("silo-1", told).arrives(Message({**headers, MessageHeaderKey.RETURN_CODE: code}))
    assert told.events == [
        ("login-refused", {"reason": "unauthenticated"}),
        ("login-refused", {"reason": "unknown"}),
        ("login-refused", {"reason": "unknown"}),
    ]


def test_no_other_answer_is_a_login() -> None:
    told = Told()
    reply = {MessageHeaderKey.MSG_TYPE: MessageType.REPLY, MessageHeaderKey.CHANNEL: CellChannel.SERVER_MAIN}
    for headers in (
        {**reply, MessageHeaderKey.TOPIC: "heart_beat"},
        {**reply, MessageHeaderKey.TOPIC: "register", MessageHeaderKey.MSG_TYPE: MessageType.REQ},
        {**reply, MessageHeaderKey.TOPIC: "register", MessageHeaderKey.CHANNEL: "admin"},
    ):
        Gate("silo-1", told).arrives(Message({**headers, MessageHeaderKey.RETURN_CODE: ReturnCode.UNAUTHENTICATED}))
    assert told.events == []


# --- the gate itself ---------------------------------------------------------------------------------------------


def test_a_refusal_is_told_once_and_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_gate, "MOST_TOLD", 64)
    told = Told()
    gate = Gate("silo-1", told)
    for number in range(200):
        for _ in range(3):
            gate.asked(Message({MessageHeaderKey.ORIGIN: f"server.{number}", MessageHeaderKey.TOPIC: f"t{number}"}))
    assert len(told.events) == 64
    gate.asked(Message({MessageHeaderKey.ORIGIN: "server", MessageHeaderKey.TOPIC: MARK}))
    assert MARK not in str(told.events)


def test_both_processes_of_a_silo_make_gated_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fed_client_base.FederatedClientBase._create_cell.__globals__
    monkeypatch.setitem(made, "Cell", Cell)
    guard_cells()
    guard_cells()
    assert made["Cell"] is SiloCell
    monkeypatch.setitem(made, "Cell", Cell)
    OnlyMessagesOut()  # what NVFlare does with a silo's privacy.json before the job's process connects
    assert made["Cell"] is SiloCell
    monkeypatch.setitem(made, "Cell", object)
    with pytest.raises(RuntimeError, match="another version"):
        guard_cells()


def test_the_long_lived_process_is_guarded_before_it_connects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from jobs.flare import parent
    from jobs.services import run as services
    from jobs.services.bootstrap import InstalledSite, ServiceOptions

    made = fed_client_base.FederatedClientBase._create_cell.__globals__
    monkeypatch.setitem(made, "Cell", Cell)
    seen: list[object] = []

    def run_client(kit: Path, home: Path, **ending: object) -> int:
        seen.append(made["Cell"])
        return 0

    monkeypatch.setattr(services, "install", lambda request: InstalledSite(request.kit, Home(tmp_path)))
    monkeypatch.setattr(parent, "run_client", run_client)
    monkeypatch.setattr(services, "_serve", lambda *args: None)
    assert services.run_silo(ServiceOptions(role="silo", kit=tmp_path), "127.0.0.1", 0) == 0
    assert seen == [SiloCell]
    assert check_log(Home(tmp_path)).events["service-started"] == 1


def test_a_gated_cell_writes_to_the_homes_security_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME_VAR, str(tmp_path))
    monkeypatch.setattr(egress_gate, "SecurityLog", SecurityLog)
    cell = SiloCell(
        fqcn="silo-9", root_url="tcp://localhost:1", secure=False, credentials={}, create_internal_listener=False
    )
    try:
        assert cell.core_cell.message_interceptor(Message({MessageHeaderKey.ORIGIN: "server"})) is not None
    finally:
        CoreCell.ALL_CELLS.pop("silo-9", None)
    assert check_log(Home(tmp_path)).events["message-refused"] == 1


def test_a_gated_cell_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOME_VAR, raising=False)
    cell = SiloCell(
        fqcn="silo-8", root_url="tcp://localhost:1", secure=False, credentials={}, create_internal_listener=False
    )
    CoreCell.ALL_CELLS.pop("silo-8", None)
    assert cell.core_cell.message_interceptor(Message({MessageHeaderKey.ORIGIN: "server"})) is not None


def test_the_tables_list_what_passes() -> None:
    topics, commands = topics_table(), commands_table()
    assert len({(topic.channel, topic.topic) for topic in TOPICS}) == len(TOPICS) == len(topics.splitlines()) - 2
    assert all(f"`{topic.channel}` | `{topic.topic}`" in topics and topic.carries in topics for topic in TOPICS)
    assert all(f"`{command}` | {answer}" in commands for command, answer in COMMANDS.items())
    assert all(topic.asked or topic.sent for topic in TOPICS)
    page = (Path(__file__).parents[3] / "docs" / "egress.md").read_text()
    assert topics in page and commands in page
