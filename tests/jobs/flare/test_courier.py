"""The courier: one request per silo, at least once, and no waiting for the dead. NVFlare's engine is a script here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock

import pytest
from nvflare.apis.fl_constant import ReservedTopic, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from crypto.messages import Message
from jobs.flare import courier
from jobs.flare.wire import unwrap, wrap

Reply = Callable[[str], Shareable | None]


class Engine:
    """Answers DO_TASK by script: silo → what its next requests get, then its own name back."""

    def __init__(self, **script: list[Reply]) -> None:
        self.script = {silo.replace("_", "-"): list(replies) for silo, replies in script.items()}
        self.asked: list[tuple[str, bytes]] = []
        self._lock = Lock()

    def sync_clients_from_main_process(self) -> None:
        """The list of silos is the script's."""

    @contextmanager
    def new_context(self) -> Iterator[FLContext]:
        yield FLContext()

    def send_aux_request(
        self, targets: list[str], topic: str, request: Shareable, timeout: float, fl_ctx: FLContext, optional: bool
    ) -> dict[str, Shareable]:
        (silo,) = targets
        assert topic == ReservedTopic.DO_TASK
        with self._lock:
            self.asked.append((silo, unwrap(request).body))
            replies = self.script.get(silo)
            reply = replies.pop(0) if replies else echo
        answer = reply(silo)
        return {} if answer is None else {silo: answer}


def echo(silo: str) -> Shareable:
    return wrap(Message("open", silo.encode()))


def says(code: str) -> Reply:
    return lambda silo: make_reply(code)


def nothing(silo: str) -> None:
    return None


def requests(*silos: str) -> dict[str, Message]:
    return {silo: Message("open", f"for {silo}".encode()) for silo in silos}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "LOST_S"):
        monkeypatch.setattr(courier, name, 0.0)


def exchange(
    post: courier.Courier, *silos: str, enough: int | None = None, timeout_s: float = 30.0
) -> dict[str, Shareable]:
    wanted = len(silos) if enough is None else enough
    return post.exchange("open", requests(*silos), timeout_s=timeout_s, enough=wanted)


def test_each_silo_gets_its_own_request_and_only_that() -> None:
    engine = Engine()
    came = exchange(courier.Courier(engine, Signal(), 0.0), "silo-1", "silo-2", "silo-3")
    assert {silo: unwrap(answer).body for silo, answer in came.items()} == {s: s.encode() for s in came}
    assert sorted(engine.asked) == [(f"silo-{n}", f"for silo-{n}".encode()) for n in (1, 2, 3)]


@pytest.mark.parametrize("trouble", [says(ReturnCode.TIMEOUT), says(ReturnCode.COMMUNICATION_ERROR), nothing])
def test_an_answer_that_does_not_come_is_asked_for_again_with_the_same_bytes(trouble: Reply) -> None:
    engine = Engine(silo_1=[trouble, trouble])
    assert set(exchange(courier.Courier(engine, Signal(), 0.0), "silo-1")) == {"silo-1"}
    assert engine.asked == [("silo-1", b"for silo-1")] * 3


def test_an_error_is_an_answer_and_is_not_asked_for_again() -> None:
    engine = Engine(silo_1=[says(ReturnCode.EXECUTION_EXCEPTION)])
    came = exchange(courier.Courier(engine, Signal(), 0.0), "silo-1", "silo-2")
    assert came["silo-1"].get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert len(engine.asked) == 2


def test_a_silo_that_was_there_and_is_gone_is_not_waited_for() -> None:
    engine = Engine()
    post = courier.Courier(engine, Signal(), 0.0)
    assert len(exchange(post, "silo-1", "silo-2")) == 2
    engine.script["silo-1"] = [says(ReturnCode.COMMUNICATION_ERROR)] * 1000
    assert set(exchange(post, "silo-1", "silo-2", timeout_s=3600.0)) == {"silo-2"}
    engine.script["silo-1"] = []
    assert set(exchange(post, "silo-1", "silo-2")) == {"silo-1", "silo-2"}, "it may come back"


def test_enough_and_the_grace_end_a_wait_and_the_late_answer_is_dropped() -> None:
    release, left = Event(), Event()

    def slow(silo: str) -> Shareable:
        release.wait(30)
        left.set()
        return echo(silo)

    came = exchange(courier.Courier(Engine(silo_1=[slow]), Signal(), 0.0), "silo-1", "silo-2", enough=1)
    assert set(came) == {"silo-2"}
    release.set()
    assert left.wait(30)
    assert set(came) == {"silo-2"}


def test_a_silo_that_answered_late_is_waited_for_once() -> None:
    """On a slow line it would never come back: enough others would always be there before it."""
    gates = [Event(), Event(), Event()]
    waiting = iter(gates)

    def slow(silo: str) -> Shareable:
        next(waiting).wait(30)
        return echo(silo)

    def answered(silo: str) -> None:
        if silo == "silo-2" and gates[0].is_set():
            gates[1].set()

    def asked() -> set[str]:
        return set(exchange(post, "silo-1", "silo-2", enough=1))

    post = courier.Courier(Engine(silo_1=[slow, slow, slow]), Signal(), 0.0, answered)
    assert asked() == {"silo-2"}
    gates[0].set()
    for thread in threading.enumerate():
        if thread.name == "courier-silo-1":
            thread.join(30)
    assert asked() == {"silo-1", "silo-2"}
    assert asked() == {"silo-2"}, "it has been waited for"
    gates[2].set()


def test_an_abort_ends_a_wait() -> None:
    abort, release = Signal(), Event()

    def slow(silo: str) -> Shareable:
        abort.trigger(True)
        release.wait(30)
        return echo(silo)

    assert exchange(courier.Courier(Engine(silo_1=[slow]), abort, 0.0), "silo-1", timeout_s=3600.0) == {}
    release.set()


def test_the_time_out_ends_a_wait() -> None:
    assert exchange(courier.Courier(Engine(silo_1=[nothing] * 1000), Signal(), 0.0), "silo-1", timeout_s=0.0) == {}


class Beating(Engine):
    """Answers heartbeats by script, too: what is left of it, then that the process lives."""

    def __init__(self, *beats: Reply, **script: list[Reply]) -> None:
        super().__init__(**script)
        self.beats = list(beats)

    def send_aux_request(
        self, targets: list[str], topic: str, request: Shareable, timeout: float, fl_ctx: FLContext, optional: bool
    ) -> dict[str, Shareable]:
        if topic != ReservedTopic.JOB_HEART_BEAT:
            return super().send_aux_request(targets, topic, request, timeout, fl_ctx, optional)
        (silo,) = targets
        reply = (self.beats.pop(0) if self.beats else says(ReturnCode.OK))(silo)
        return {} if reply is None else {silo: reply}


def test_a_process_that_was_started_again_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before took the request with it: nobody would answer until the time-out."""
    monkeypatch.setattr(courier, "WATCH_S", 0.01)
    monkeypatch.setattr(courier, "LOST_S", 60.0)
    release = Event()

    def lost(silo: str) -> None:
        release.wait(30)

    engine = Beating(says(ReturnCode.TIMEOUT), says(ReturnCode.COMMUNICATION_ERROR), nothing)
    post = courier.Courier(engine, Signal(), 0.0)
    exchange(post, "silo-1")
    engine.script["silo-1"] = [lost]
    assert set(exchange(post, "silo-1", timeout_s=3600.0)) == {"silo-1"}
    assert [silo for silo, _ in engine.asked] == ["silo-1"] * 3
    release.set()


def test_one_that_only_works_long_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "WATCH_S", 0.01)
    beaten, engine = Event(), Beating()
    post = courier.Courier(engine, Signal(), 0.0)
    exchange(post, "silo-1")

    def alive(silo: str) -> Shareable:
        beaten.set()
        return make_reply(ReturnCode.OK)

    def long(silo: str) -> Shareable:
        assert beaten.wait(30)
        return echo(silo)

    engine.beats = [says(ReturnCode.TIMEOUT), alive]
    engine.script["silo-1"] = [long]
    assert set(exchange(post, "silo-1")) == {"silo-1"}
    assert len(engine.asked) == 2


def test_one_that_is_required_is_waited_for_while_it_cannot_be_reached() -> None:
    engine = Engine()
    post = courier.Courier(engine, Signal(), 0.0)
    assert len(exchange(post, "silo-1", "silo-2")) == 2
    engine.script["silo-1"] = [says(ReturnCode.COMMUNICATION_ERROR)] * 5
    came = post.exchange(
        "open", requests("silo-1", "silo-2"), timeout_s=3600.0, enough=2, wait_for=frozenset({"silo-1"})
    )
    assert set(came) == {"silo-1", "silo-2"}
    engine.script["silo-1"] = [says(ReturnCode.COMMUNICATION_ERROR)] * 1000
    assert set(exchange(post, "silo-1", "silo-2", timeout_s=3600.0)) == {"silo-2"}, "in that exchange only"
