"""The long-lived parent: it drains, ends at a second signal, and starts itself again where nothing else helps."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import ReturnCode
from nvflare.private.defs import ClientType
from nvflare.private.fed.server.client_manager import ClientManager

from crypto.home import Home
from crypto.keys import Identity
from jobs.flare import connection_watchdog
from jobs.flare.admission import Admission
from tests.members import Bare

#: A parent whose NVFlare is a stand-in: what it does is the first argument, what happens comes out as lines.
SCRIPT = """
import json, os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
from pathlib import Path
from crypto.home import Home
from jobs.runtime import drain
from jobs.flare import nvflare_mains, parent

what, home, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
parent.FIRST_PAUSE_S = parent.ANSWER_S = 0.2
started = int(os.environ.get(parent.AGAIN_VAR, "0"))

def say(word):
    print(word, flush=True)

def main(which, kit, options):
    say(f"runs {started} {os.getpid()} {os.getcwd()}")
    os.chdir(kit)
    if what == "refused" and not started:
        return 101
    if what == "broken":
        return 0
    if what == "lost" and not started:
        made.lost("lost")
    while True:
        time.sleep(0.05)

nvflare_mains.run_main = main
made = parent.Parent(
    which="client", kit=home, home=Home(home), options=[], drain_s=seconds,
    idle=lambda: (home / "idle").exists(),
    draining=lambda: say("draining"), ended=lambda code: say(f"ended {code}"), leave=lambda: say("leave"),
    registered=(lambda: False) if what != "server" else None,
)
made.run()
"""


class Script:
    def __init__(self, process: subprocess.Popen[str], out: IO[str]) -> None:
        self.process, self._out = process, out

    def line(self) -> str:
        return self._out.readline().strip()

    def rest(self) -> list[str]:
        return self._out.read().split("\n")[:-1]

    def code(self) -> int:
        return self.process.wait(20)


@contextmanager
def started(what: str, home: Path, seconds: float = 30) -> Iterator[Script]:
    command = [sys.executable, "-c", SCRIPT, what, str(home), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Script(process, process.stdout)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_then_ends(tmp_path: Path, number: signal.Signals) -> None:
    with started("runs", tmp_path) as script:
        assert script.line().startswith("runs 0")
        script.process.send_signal(number)
        assert script.line() == "draining" and (tmp_path / "drain").is_dir()
        assert script.process.poll() is None
        (tmp_path / "idle").touch()
        assert script.rest() == ["leave", "ended 0"] and script.code() == 0


def test_the_time_to_drain_is_bounded(tmp_path: Path) -> None:
    with started("runs", tmp_path, 0.3) as script:
        script.line()
        script.process.terminate()
        assert script.rest() == ["draining", "leave", "ended 0"] and script.code() == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with started("runs", tmp_path) as script:
        script.line()
        script.process.terminate()
        assert script.line() == "draining"
        script.process.terminate()
        assert script.rest() == ["leave", "ended 0"] and script.code() == 0


def test_no_time_to_drain_ends_at_the_first_signal(tmp_path: Path) -> None:
    with started("runs", tmp_path, 0) as script:
        script.line()
        script.process.terminate()
        assert script.rest() == ["leave", "ended 0"] and script.code() == 0
        assert not (tmp_path / "drain").exists()


def test_a_drain_that_cannot_be_told_ends_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "drain").write_text("in the way")
    with started("runs", tmp_path) as script:
        script.line()
        script.process.terminate()
        assert script.rest() == ["leave", "ended 0"] and script.code() == 0


@pytest.mark.parametrize("what", ["refused", "lost"])
def test_a_client_that_cannot_go_on_starts_again_in_its_place(tmp_path: Path, what: str) -> None:
    with started(what, tmp_path) as script:
        first = script.line().split()
        assert script.line() == "leave", "and no end: it is the same service"
        second = script.line().split()
        assert (first[1], second[1]) == ("0", "1") and first[2:] == second[2:], "the same process, where it began"
        (tmp_path / "idle").touch()
        script.process.terminate()
        assert script.rest() == ["draining", "leave", "ended 0"] and script.code() == 0


@pytest.mark.parametrize("what", ["broken", "server"])
def test_what_another_start_would_not_mend_ends(tmp_path: Path, what: str) -> None:
    with started(what, tmp_path) as script:
        script.line()
        if what == "server":
            script.process.send_signal(signal.SIGTERM)
            (tmp_path / "idle").touch()
            assert script.code() == 0
        else:
            assert script.rest() == ["leave", "ended 1"] and script.code() == 1


# --- the tie to the server ---------------------------------------------------------------------------------------


def test_two_refused_heartbeats_in_a_row_are_a_lost_tie() -> None:
    state, told = connection_watchdog.Connection(), []
    state.lost = told.append
    for code in (ReturnCode.UNAUTHENTICATED, ReturnCode.OK, ReturnCode.TIMEOUT, ReturnCode.UNAUTHENTICATED):
        state.heartbeat(code)
    assert told == []
    state.heartbeat(ReturnCode.UNAUTHENTICATED)
    state.heartbeat(ReturnCode.UNAUTHENTICATED)
    assert len(told) == 1


def test_a_silo_is_ready_once_registered_and_while_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    state, now = connection_watchdog.Connection(), [100.0]
    monkeypatch.setattr(connection_watchdog.time, "monotonic", lambda: now[0])
    assert "not registered" in state.problem()
    state.taken(Client())
    assert state.problem() == ""
    now[0] += connection_watchdog.SILENT_S + 1
    assert "does not answer" in state.problem()
    state.heartbeat(ReturnCode.OK)
    assert state.problem() == ""
    state.quit()
    state.quit()


def test_a_silent_server_is_a_lost_tie_once_no_job_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    state, told, now, jobs = connection_watchdog.Connection(), [], [100.0], [4711]
    state.lost = told.append
    monkeypatch.setattr(connection_watchdog.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(connection_watchdog, "job_processes", lambda which: jobs)
    now[0] += connection_watchdog.LOST_S + 1
    state.beats()
    assert told == [], "not before it was registered"
    state.taken(Client())
    now[0] += connection_watchdog.LOST_S
    state.heartbeat(ReturnCode.TIMEOUT)
    state.beats()
    now[0] += 1
    state.beats()
    assert told == [], "a job is under way"
    jobs.clear()
    state.beats()
    state.beats()
    assert len(told) == 1


class Client:
    """As much of NVFlare's client as ``State`` touches."""

    token = "t"

    def __init__(self) -> None:
        self.cell = self.core_cell = self.communicator = self
        self.maint_msg_timeout = 30.0
        self.closed = 0

    def add_incoming_reply_filter(self, **how: object) -> None:
        assert how["topic"] == "heart_beat"

    def close(self) -> None:
        self.closed += 1
        raise RuntimeError("the server is gone")


def test_the_component_tells_of_a_registration_that_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    monkeypatch.setattr(connection_watchdog.CONNECTION, "taken", taken.append)
    context, client = FLContext(), Client()
    context.set_prop(FLContextKey.SITE_OBJ, client, private=True)
    connection_watchdog.ConnectionWatchdog().handle_event(EventType.SYSTEM_START, context)
    assert taken == []
    connection_watchdog.ConnectionWatchdog().handle_event(EventType.AFTER_CLIENT_REGISTER, context)
    client.token = ""
    connection_watchdog.ConnectionWatchdog().handle_event(EventType.AFTER_CLIENT_REGISTER, context)
    assert taken == [client]


# --- the door ----------------------------------------------------------------------------------------------------


def test_only_members_of_the_charter_are_let_in(tmp_path: Path) -> None:
    members = Bare(tmp_path, 3)
    manager = ClientManager("test")
    Admission().guard(manager, Home(members.aggregator))
    assert not any(manager.is_client_disabled(silo) for silo in members.silos)
    assert manager.is_client_disabled("silo-4")
    assert not manager.is_client_disabled("kim@example.org")
    manager.disable_client("silo-1")
    assert manager.is_client_disabled("silo-1"), "NVFlare's own list still counts"
    (members.aggregator / "consortium.pub").write_bytes(Identity.generate().public.raw)
    assert manager.is_client_disabled("silo-2"), "no charter that verifies"
    (members.aggregator / "charter.bin").unlink()
    assert manager.is_client_disabled("silo-2")


@pytest.mark.parametrize(
    "name", ["Silo_1", "silo-1 ", "stranger", "UPPER", "", "a" * 64, "kim@", "@example.org", "a/b", "silo-1\n", None]
)
def test_an_unknown_name_is_denied(tmp_path: Path, name: str) -> None:
    """L2: a certificate of the root with a name that is no silo's id was let in."""
    manager = ClientManager("test")
    Admission().guard(manager, Home(Bare(tmp_path, 3).aggregator))
    assert manager.is_client_disabled(name)


def asks(name: str) -> object:
    return type("Request", (), {"get_header": lambda self, key: name, "payload": None})()


@pytest.mark.parametrize(
    ("name", "kind", "let_in"),
    [
        ("silo-1", "REGULAR", True),
        ("kim@example.org", "ADMIN", True),
        ("silo-4", "REGULAR", False),
        ("kim@example.org", "REGULAR", False),
        ("silo-1", "ADMIN", False),
        ("silo-1", "RELAY", False),
        ("kim@example.org", "RELAY", False),
        ("silo-1", "future", False),
    ],
)
def test_who_may_register_as_what(tmp_path: Path, name: str, kind: str, let_in: bool) -> None:
    """L2: a silo as a client, an administrator as one, and nobody as anything else."""
    manager, context, past = ClientManager("test"), FLContext(), list[str]()
    manager.authenticated_client = lambda request, fl_ctx, client_type: past.append(client_type)  # type: ignore[method-assign]
    Admission().guard(manager, Home(Bare(tmp_path, 3).aggregator))
    kinds = {"REGULAR": ClientType.REGULAR, "ADMIN": ClientType.ADMIN, "RELAY": ClientType.RELAY}
    assert manager.authenticated_client(asks(name), context, kinds.get(kind, kind)) is None
    assert bool(past) is let_in
    assert ("not a member" in str(context.get_prop(FLContextKey.UNAUTHENTICATED))) is not let_in


def test_a_heartbeat_makes_no_client_of_an_administrator(tmp_path: Path) -> None:
    """L2: NVFlare takes an unknown token in a heartbeat as a client that comes back."""
    manager, context = ClientManager("test"), FLContext()
    Admission().guard(manager, Home(Bare(tmp_path, 3).aggregator))
    assert not manager.heartbeat("token", "kim@example.org", "kim", context) and not manager.clients
    assert "not a member" in str(context.get_prop(FLContextKey.UNAUTHENTICATED))
    assert manager.heartbeat("token", "silo-1", "silo-1", FLContext()) and list(manager.clients) == ["token"]


def test_nobody_else_asks_at_the_door() -> None:
    """Registration and heartbeat both ask the function that Admission replaces."""
    manager = ClientManager("test")
    manager.is_client_disabled = lambda name: True  # type: ignore[method-assign]
    request = type("Request", (), {"get_header": lambda self, key: "silo-1", "payload": None})()
    context = FLContext()
    assert manager.authenticated_client(request, context, "regular") is None
    assert "disabled" in str(context.get_prop(FLContextKey.UNAUTHENTICATED))
