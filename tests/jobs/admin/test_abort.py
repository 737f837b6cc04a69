"""A job that is aborted, in each phase: the controller's own code over agents in this process, no NVFlare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from aggregator.home import AggregatorHome
from aggregator.ledger.format import verify
from aggregator.ledger.records import Kind, SiloLost, StepVoid
from aggregator.run_record import RunRecord
from aggregator.verify.checks import verify_run
from crypto.errors import Malformed
from crypto.home import Home
from crypto.messages import PHASES, Message
from jobs.demo.federation import Federation
from jobs.flare import controller as module
from jobs.flare.controller import SecureController
from jobs.flare.folder import encode_job
from jobs.flare.outcomes import status_file
from jobs.flare.wire import unwrap, wrap
from jobs.job import encode_plan
from jobs.runtime.in_process import InProcess
from jobs.runtime.status import RunState, as_json
from jobs.runtime.status_tracker import left
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local

pytestmark = pytest.mark.slow

JOB = local.spec("fedavg", rounds=1)
JOB_ID = "11111111-2222-3333-4444-555555555555"
STEP = "train/0"

#: Called before an exchange is made; what it returns is delivered instead, if anything.
Fault = Callable[[str, str, Signal], Mapping[str, Shareable] | None]


class Post:
    """In the courier's place: agents in this process, and a fault."""

    agents: Mapping[str, Agent]
    fault: Fault

    def __init__(self, engine: object, abort: Signal, grace_s: float, answered: Callable[[str], None]) -> None:
        self._abort = abort
        self._answered = answered

    def exchange(
        self, phase: str, requests: Mapping[str, Message], *, timeout_s: float, enough: int, wait_for: Collection[str]
    ) -> Mapping[str, Shareable]:
        found = type(self).fault(phase, type(self).step, self._abort)
        if found is not None:
            return found
        answers = {}
        for silo, request in requests.items():
            reply = InProcess(self.agents[silo]).send(unwrap(wrap(request)))
            answers[silo] = wrap(reply)
            self._answered(silo)
        return answers

    step = ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    federation = local.federation(tmp_path_factory.mktemp("abort") / "f")
    for home in federation.homes.values():
        local.approve(SiloHome(home), JOB)
    return federation.root


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Federation:
    shutil.copytree(made, tmp_path / "f")
    return Federation(tmp_path / "f", "test", tuple(f"silo-{i}" for i in range(1, 9)))


def never(phase: str, step: str, abort: Signal) -> None:
    return None


def at(phase: str, step: str = STEP) -> Fault:
    """The job is aborted while this phase's answers are on their way."""

    def fault(now: str, where: str, abort: Signal) -> Mapping[str, Shareable] | None:
        if (now, where) != (phase, step):
            return None
        abort.trigger(True)
        return {}

    return fault


def run(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, fault: Fault = never, *, resume: str = "", **how: object
) -> SecureController:
    """One job through ``control_flow``, as the server's job process runs it."""
    home = federation.aggregator
    plan = encode_plan(JOB.plan(Home(home).charter()))
    driver = SecureController(encode_job(JOB.text), plan, resume=resume)
    before = module.open_run

    def opened(*given: object) -> module.Run:
        return noted(before(*given))  # type: ignore[arg-type]

    def noted(inner: module.Run) -> Iterator[object]:
        replies = None
        try:
            while True:
                try:
                    exchange = inner.send(replies) if replies is not None else next(inner)
                except StopIteration as done:
                    return done.value
                Post.step = exchange.step_name
                try:
                    replies = yield exchange
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - the run's to handle
                    inner.throw(thrown)
        finally:
            inner.close()

    failures: list[str] = []
    monkeypatch.setattr(module, "Courier", Post)
    monkeypatch.setattr(module, "open_run", opened)
    monkeypatch.setattr(module, "job_home", lambda: Home(home))
    monkeypatch.setattr(
        module, "meta_of", lambda fl_ctx: {"deploy_map": {"app": [*how.get("sites", federation.silos)]}}
    )
    monkeypatch.setattr(driver, "_fail", lambda reason, fl_ctx: failures.append(reason))
    monkeypatch.setattr(Post, "fault", staticmethod(fault), raising=False)
    fl_ctx = FLContext()
    fl_ctx.set_prop(ReservedKey.RUN_NUM, JOB_ID, private=False, sticky=True)
    monkeypatch.setattr(fl_ctx, "get_job_id", lambda default=None: JOB_ID)
    with ExitStack() as stack:
        agents = {}
        for silo, place in federation.homes.items():
            agents[silo] = local.composition.open_agent(JOB.text, SiloHome(place))
            stack.callback(agents[silo].close)
        monkeypatch.setattr(Post, "agents", agents, raising=False)
        abort = Signal()
        if how.get("early"):
            abort.trigger(True)
        if "panic" in how:
            fl_ctx.set_prop(FLContextKey.EVENT_DATA, how["panic"], private=True, sticky=False)
            driver.handle_event(EventType.FATAL_SYSTEM_ERROR, fl_ctx)
        driver.control_flow(abort, fl_ctx)
    monkeypatch.undo()
    driver.__dict__["failures"] = failures
    return driver


def record(federation: Federation) -> RunRecord:
    """The one run, and its ledger checks."""
    _, identity = AggregatorHome(federation.aggregator).open()
    verify(AggregatorHome(federation.aggregator).ledger_path, identity.public)
    (folder,) = (federation.aggregator / "jobs").iterdir()
    return RunRecord.read(AggregatorHome(federation.aggregator), folder.name)


def test_a_job_that_is_left_alone_finishes_and_leaves_its_status(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = run(federation, monkeypatch)
    assert driver._tracker is not None
    status = driver._tracker.status
    assert status.state is RunState.FINISHED and status.released == status.steps == 3
    assert status.answered and status.missing == ()
    assert left(status_file(AggregatorHome(federation.aggregator), JOB_ID)) == as_json(status)
    assert record(federation).finished is not None


@pytest.mark.parametrize("phase", [*(phase for phase in PHASES if phase != "stand-in")])
def test_an_abort_closes_the_run_by_name_and_it_can_go_on(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    driver = run(federation, monkeypatch, at(phase, "close" if phase == "close" else STEP))
    found = record(federation)
    last = found.entries[-1]
    assert last.kind is Kind.RUN_FAILED and found.finished is None
    assert (last.record.code, last.record.phase, last.record.missing) == ("ABORTED", phase, ())
    assert driver.failures == [], "an abort is no failure of the server"  # type: ignore[attr-defined]
    status = left(status_file(AggregatorHome(federation.aggregator), JOB_ID))
    assert status is not None and (status["state"], status["phase"]) == ("aborted", phase)
    assert status["outcome"]["code"] == "ABORTED" and status["outcome"]["on_ledger"] is True
    run(federation, monkeypatch, resume=found.run)
    again = record(federation)
    assert again.entries[-1].kind is Kind.RUN_FINISHED and len(again.finished.record.countersignatures) == 8  # type: ignore[index]
    spent = phase in ("unmask-slots", "unmask-lanes", "tag")
    assert sum(1 for _ in again.of(StepVoid)) == (1 if spent else 0)
    verify_run(AggregatorHome(federation.aggregator), found.run)


def test_a_new_job_runs_after_an_abort(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    run(federation, monkeypatch, at("contribute"))
    run(federation, monkeypatch)
    ends = [
        RunRecord.read(AggregatorHome(federation.aggregator), f.name)
        for f in (federation.aggregator / "jobs").iterdir()
    ]
    assert sorted(one.finished is not None for one in ends) == [False, True]


def test_silos_that_are_stopped_first_are_not_lost(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVFlare stops the silos, then the server: their words are held until the signal is there."""
    waited: list[float] = []

    def fault(phase: str, step: str, abort: Signal) -> Mapping[str, Shareable] | None:
        if (phase, step) != ("attest", STEP):
            return None

        def look(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                abort.trigger(True)

        monkeypatch.setattr(module.time, "sleep", look)
        return {silo: make_reply(ReturnCode.TASK_ABORTED) for silo in federation.silos}

    run(federation, monkeypatch, fault)
    found = record(federation)
    assert len(waited) == 3
    assert found.entries[-1].record.code == "ABORTED"
    assert not list(found.of(SiloLost)) and not list(found.of(StepVoid))


def test_an_abort_before_the_run_leaves_no_run(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    run(federation, monkeypatch, early=True)
    status = left(status_file(AggregatorHome(federation.aggregator), JOB_ID))
    assert status is not None and (status["state"], status["run"]) == ("aborted", "")
    assert status["outcome"]["on_ledger"] is False


def test_a_job_that_nvflare_gives_up_is_not_aborted_by_anybody(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = run(federation, monkeypatch, at("deal"), panic="fewer clients than min_clients")
    last = record(federation).entries[-1]
    assert (last.record.code, last.record.phase) == ("GIVEN_UP", "deal")
    assert "min_clients" in last.record.detail and driver.failures  # type: ignore[attr-defined]


def test_a_request_that_can_not_be_carried_ends_the_run_by_name(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(phase: str, step: str, abort: Signal) -> None:
        if (phase, step) == ("open", STEP):
            raise Malformed("A payload has 66 arrays, more than 64.")

    driver = run(federation, monkeypatch, fault)
    assert driver.__dict__["failures"] == ["[MALFORMED] A payload has 66 arrays, more than 64."]
    found = record(federation)
    assert found.finished is None and found.failed is not None
    assert (found.failed.record.code, found.failed.record.detail) == (
        "MALFORMED",
        "A payload has 66 arrays, more than 64.",
    )


def test_a_process_that_just_stops_leaves_the_run_open(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(BaseException):
        """As a signal: nothing of ours catches it."""

    def fault(phase: str, step: str, abort: Signal) -> None:
        if (phase, step) == ("attest", STEP):
            raise Stopped

    with pytest.raises(Stopped):
        run(federation, monkeypatch, fault)
    monkeypatch.undo()
    found = record(federation)
    assert found.finished is None and found.failed is None
    status = left(status_file(AggregatorHome(federation.aggregator), JOB_ID))
    assert status is not None and status["state"] == "running" and status["outcome"] is None


def test_a_site_that_no_charter_names_is_refused(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = run(federation, monkeypatch, sites=("silo-1", "silo-99"))
    (why,) = driver.failures  # type: ignore[attr-defined]
    assert "[SPEC]" in why and "silo-99" in why and "silo-1'" not in why
    status = left(status_file(AggregatorHome(federation.aggregator), JOB_ID))
    assert status is not None and status["outcome"]["code"] == "SPEC" and status["state"] == "failed"
    assert list((federation.aggregator / "jobs").iterdir()) == []


def test_statistics_carry_the_status(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    from nvflare.widgets.info_collector import GroupInfoCollector, InfoCollector

    driver = run(federation, monkeypatch)
    collector, fl_ctx = GroupInfoCollector(), FLContext()
    fl_ctx.set_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR, collector, sticky=False, private=True)
    driver.handle_event(InfoCollector.EVENT_TYPE_GET_STATS, fl_ctx)
    driver.handle_event(EventType.START_RUN, fl_ctx)
    assert driver._tracker is not None
    assert collector.info == {"consilium": as_json(driver._tracker.status)}
    assert json.dumps(collector.info)
