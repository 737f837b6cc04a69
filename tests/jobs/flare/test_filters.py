"""The forced site filter inside NVFlare's own client runner, as a silo's kit sets it up: what an executor's result
becomes on its way out, whatever the executor does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReservedTopic, ReturnCode
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.fl_exception import UnsafeJobError
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.apis.workspace import Workspace
from nvflare.fuel.sec.audit import AuditService
from nvflare.fuel.utils import fobs
from nvflare.private.event import fire_event
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.private.fed.client.client_runner import ClientRunner, ClientRunnerConfig, TaskRouter

from aggregator.home import AggregatorHome
from crypto.errors import Malformed
from crypto.home import Home
from crypto.messages import Message
from jobs.flare import local_kits, wire
from jobs.flare.filters import PEER_PROPS, OnlyMessagesIn, OnlyMessagesOut
from jobs.flare.nvflare_mains import HOME_VAR
from jobs.security_log.writer import check_log
from silo_agent.home import SiloHome

MARK = "Mrs Smith, born 1961"
JOB = "0b7a3f52-5c9c-4b0e-9a55-1f1f8b6a2c11"
OURS = Message("contribute", b"body", (np.arange(5, dtype="<u4"),))
#: NVFlare's own headers of a result; what they hold is listed in ``test_what_rides_along_is_names``.
HEADERS = {ReservedHeaderKey.TASK_NAME, ReservedHeaderKey.TASK_ID, ReservedKey.AUDIT_EVENT_ID}

Does = Callable[[Shareable, FLContext], Any]


class Stranger(Executor):  # type: ignore[misc]  # NVFlare has no types
    """An executor of no good will."""

    def __init__(self, does: Does) -> None:
        super().__init__()
        self.does = does
        self.saw: list[Shareable] = []

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        self.saw.append(shareable)
        reply: Shareable = self.does(shareable, fl_ctx)
        return reply


class Engine:
    """Only contexts and events of NVFlare's engine; they are NVFlare's own."""

    def __init__(self, scope: object) -> None:
        self.handlers: list[FLComponent] = []
        self.contexts = FLContextManager(
            engine=self,
            identity_name="silo-1",
            job_id=JOB,
            public_stickers={ReservedKey.FQSN: "silo-1", ReservedKey.IS_LEAF: True},
            private_stickers={FLContextKey.SCOPE_OBJECT: scope},
        )

    def new_context(self) -> FLContext:
        return self.contexts.new_context()

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        fire_event(event_type, self.handlers, fl_ctx)

    def register_aux_message_handler(self, topic: str, message_handle_func: object) -> None:
        """Called by the runner; the tests call its handler themselves."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("federation")
    homes = {f"silo-{i}": SiloHome(root / f"silo-{i}") for i in (1, 2, 3)}
    flare_decomposers.register()
    AuditService.initialize(str(root / "audit.log"))
    made = local_kits.provision(
        root / "kits",
        name="demo",
        silos=tuple(homes),
        port=local_kits.free_port(),
        server_home=AggregatorHome(root / "aggregator"),
        silo_homes=homes,
    )
    return made.silos["silo-1"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(HOME_VAR, str(tmp_path))
    yield tmp_path


def run(
    kit: Path, does: Does, task: Shareable | None = None, before: Callable[[FLContext], None] = lambda fl_ctx: None
) -> tuple[Shareable, Stranger]:
    """One pushed task through NVFlare's client runner under the kit's own privacy policy: the reply that leaves."""
    manager = create_privacy_manager(Workspace(str(kit), "silo-1"), names_only=False)
    engine = Engine(manager.get_scope(""))
    executor = Stranger(does)
    router = TaskRouter()
    router.add_executor([wire.TASK_PATTERN], executor)
    config = ClientRunnerConfig(task_router=router, task_data_filters={}, task_result_filters={})
    runner = ClientRunner(client_config={}, config=config, job_id=JOB, engine=engine)
    engine.handlers = [executor, runner]
    request = wire.wrap(OURS) if task is None else task
    request.set_header(ReservedHeaderKey.TASK_NAME, "consilium.contribute")
    request.set_header(ReservedHeaderKey.TASK_ID, "task-1")
    peer = FLContext()
    peer.set_public_props({ReservedKey.RUN_NUM: JOB, ReservedKey.IDENTITY_NAME: "server"})
    with engine.new_context() as fl_ctx:
        fl_ctx.set_peer_context(peer)
        before(fl_ctx)
        reply: Shareable = runner._handle_do_task(ReservedTopic.DO_TASK, request, fl_ctx)
    return reply, executor


def bare(reply: Shareable) -> str:
    """The code of a reply that holds nothing else."""
    assert reply.keys() == {ReservedHeaderKey.HEADERS}
    assert reply[ReservedHeaderKey.HEADERS].keys() <= HEADERS | {ReservedHeaderKey.RC}
    return str(reply.get_return_code())


def test_our_message_leaves_as_it_was(kit: Path, home: Path) -> None:
    reply, executor = run(kit, lambda task, ctx: wire.wrap(wire.unwrap(task)))
    back = wire.unwrap(reply)
    assert (back.phase, back.body, list(back.arrays[0])) == ("contribute", b"body", [0, 1, 2, 3, 4])
    assert reply[ReservedHeaderKey.HEADERS].keys() == HEADERS
    assert len(executor.saw) == 1 and not list(home.glob("security*"))


def with_header(key: str, value: Any) -> Shareable:
    reply = wire.wrap(OURS)
    reply.set_header(key, value)
    return reply


PASSENGERS: dict[str, Does] = {
    "a header": lambda task, ctx: with_header("note", MARK),
    "a header of NVFlare's": lambda task, ctx: with_header(ReservedHeaderKey.TASK_NAME, MARK),
    "a cookie": lambda task, ctx: with_header(ReservedHeaderKey.COOKIE_JAR, {"note": MARK}),
    "peer properties": lambda task, ctx: with_header(ReservedHeaderKey.PEER_PROPS, {"note": MARK}),
    "a peer context": lambda task, ctx: with_header(ReservedHeaderKey.PEER_CTX, FLContext()),
    "an audit id": lambda task, ctx: with_header(ReservedKey.AUDIT_EVENT_ID, MARK),
    "a message root": lambda task, ctx: with_header(ReservedHeaderKey.MSG_ROOT_ID, MARK),
}


@pytest.mark.parametrize("passenger", list(PASSENGERS))
def test_nothing_beside_the_message_survives(kit: Path, home: Path, passenger: str) -> None:
    reply, _ = run(kit, PASSENGERS[passenger])
    assert wire.unwrap(reply).body == b"body"
    assert reply[ReservedHeaderKey.HEADERS].keys() == HEADERS
    assert MARK.encode() not in fobs.dumps(reply)


def raises(error: Exception) -> Does:
    def does(task: Shareable, fl_ctx: FLContext) -> Shareable:
        raise error

    return does


def extra(**more: Any) -> Shareable:
    reply = wire.wrap(OURS)
    reply.update(more)
    return reply


FILTER, EXECUTION = ReturnCode.TASK_RESULT_FILTER_ERROR, ReturnCode.EXECUTION_EXCEPTION
CONTRABAND: dict[str, tuple[Does, str]] = {
    "another key": (lambda task, ctx: extra(metrics={"accuracy": MARK}), FILTER),
    "a model": (lambda task, ctx: Shareable({"DXO": {"kind": MARK, "data": {"w": np.zeros(3)}}}), FILTER),
    "text": (lambda task, ctx: Shareable({"text": MARK}), FILTER),
    "a phase of its own": (lambda task, ctx: extra(phase=MARK), FILTER),
    "text for a body": (lambda task, ctx: extra(body=MARK), FILTER),
    "floats for words": (lambda task, ctx: extra(arrays=[np.full(300_000, 0.5)]), FILTER),
    "a code that is text": (lambda task, ctx: make_reply(MARK), FILTER),
    "OK and nothing": (lambda task, ctx: make_reply(ReturnCode.OK), FILTER),
    "a code and a header": (lambda task, ctx: make_reply(EXECUTION, headers={"note": MARK}), FILTER),
    "a code that is a list": (lambda task, ctx: make_reply([MARK]), FILTER),
    "a dict": (lambda task, ctx: {"text": MARK}, ReturnCode.EXECUTION_RESULT_ERROR),
    "bytes": (lambda task, ctx: MARK.encode(), ReturnCode.EXECUTION_RESULT_ERROR),
    "nothing": (lambda task, ctx: None, ReturnCode.EXECUTION_RESULT_ERROR),
    "an exception": (raises(ValueError(MARK)), EXECUTION),
    "a runtime error": (raises(RuntimeError(MARK)), ReturnCode.EXECUTION_RESULT_ERROR),
    "an unsafe job": (raises(UnsafeJobError(MARK)), ReturnCode.UNSAFE_JOB),
}


@pytest.mark.parametrize("what", list(CONTRABAND))
def test_what_is_not_our_message_becomes_a_bare_code(kit: Path, home: Path, what: str) -> None:
    does, code = CONTRABAND[what]
    reply, _ = run(kit, does)
    assert bare(reply) == code
    assert MARK.encode() not in fobs.dumps(reply)
    if code == FILTER:
        assert check_log(Home(home)).events["message-held-back"] == 1


def test_a_bare_code_of_the_list_leaves_as_one(kit: Path, home: Path) -> None:
    reply, _ = run(kit, lambda task, ctx: make_reply(ReturnCode.BAD_TASK_DATA))
    assert bare(reply) == ReturnCode.BAD_TASK_DATA


def test_a_task_that_is_not_ours_reaches_no_executor(kit: Path, home: Path) -> None:
    for task in (Shareable({"text": "go on"}), extra(code="exec"), extra(phase="train")):
        reply, executor = run(kit, lambda task, ctx: task, task)
        assert bare(reply) == ReturnCode.TASK_DATA_FILTER_ERROR
        assert executor.saw == []
    assert check_log(Home(home)).events["message-held-back"] == 3


def test_a_task_by_another_name_reaches_no_executor(kit: Path, home: Path) -> None:
    def rename(fl_ctx: FLContext) -> None:
        task.set_header(ReservedHeaderKey.TASK_NAME, "train")

    task = wire.wrap(OURS)
    reply, executor = run(kit, lambda task, ctx: task, task, rename)
    assert bare(reply) == ReturnCode.TASK_UNKNOWN and executor.saw == []


# --- what NVFlare says of the sender -----------------------------------------------------------------------------


def test_what_rides_along_is_names(kit: Path, home: Path) -> None:
    """NVFlare adds the context's public properties to every message: they are the site's name and the job's."""
    seen: dict[str, Any] = {}

    def look(fl_ctx: FLContext) -> None:
        seen.update(fl_ctx.get_all_public_props())

    run(kit, lambda task, ctx: task, before=look)
    assert seen == {"__identity_name__": "silo-1", "__run_num__": JOB, "__fqsn__": "silo-1", "__is_leaf__": True}
    assert seen.keys() <= PEER_PROPS


@pytest.mark.parametrize("sticky", [True, False])
def test_a_property_that_would_ride_along_holds_the_result_back(kit: Path, home: Path, sticky: bool) -> None:
    def does(task: Shareable, fl_ctx: FLContext) -> Shareable:
        fl_ctx.set_prop("note", MARK, private=False, sticky=sticky)
        return wire.wrap(OURS)

    reply, _ = run(kit, does)
    assert bare(reply) == FILTER


def test_the_list_is_what_a_real_job_process_has() -> None:
    """Names of NVFlare's own source: ClientRunManager's stickers, FLContextManager's, ClientAppRunner's."""
    from nvflare.private.fed.client import client_app_runner, client_run_manager

    runs = Path(str(client_run_manager.__file__)).read_text()
    assert "ReservedKey.FQSN: fqsn," in runs and "ReservedKey.IS_LEAF: is_leaf," in runs
    app = Path(str(client_app_runner.__file__)).read_text()
    public = [line.split("(")[1].split(",")[0] for line in app.splitlines() if "private=False" in line]
    assert public == ["FLContextKey.CLIENT_NAME", "FLContextKey.CURRENT_RUN", "FLContextKey.CURRENT_JOB_ID"]


# --- by themselves -----------------------------------------------------------------------------------------------


def test_a_filter_without_a_home_still_holds_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOME_VAR, raising=False)
    for one in (OnlyMessagesIn(), OnlyMessagesOut()):
        with pytest.raises(Malformed):
            one.process(Shareable({"text": MARK}), FLContext())
