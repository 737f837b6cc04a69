"""The long-lived NVFlare parent of a site: run it, drain it, start it again when it cannot go on.

**Draining.** The first SIGTERM (or Ctrl-C) lets the step under way end: a silo takes part in no further step and says
so, an aggregator waits for the step's record. Then, or when the time is up, or at a second signal, the process ends
with 0.

**Again.** A silo whose registration was refused, or whose token the server no longer takes, starts itself anew in its
place, under the same pid and with the same command line, after a pause that doubles up to a minute. Nobody needs to
look after it: it is back when the server is, or when the charter names it. To the security log that is no end and no
start: a silo that has left the charter would write one every minute.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from crypto.home import Home
from jobs.flare import nvflare_mains
from jobs.runtime import drain

log = logging.getLogger("consilium.service")

#: How long an answer may take to leave a job's process that has just given it. Seconds.
ANSWER_S: Final = 1.0
LOOK_S: Final = 0.1
#: What asks a service to end. SIGHUP: its terminal is gone.
_ENDS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Pauses before a client is started again. Seconds.
FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 60.0
#: How often this process has started itself again since its client was last registered.
AGAIN_VAR: Final = "CONSILIUM_STARTED_AGAIN"
#: How NVFlare's main ends over a kit that it cannot read: another start would not help.
_BROKEN: Final = (0, 103)


class _Stop(BaseException):
    """A signal to end; a BaseException so that NVFlare's handlers let it through."""


class _Again(BaseException):
    """The tie to the server is lost."""


@dataclass(slots=True, kw_only=True)
class Parent:
    """``which``: ``client`` or ``server``. ``idle``: whether the step under way has ended, asked while draining.

    ``draining``: called once. ``ended``: called with the exit code, last of all. ``leave``: the logout.
    ``registered``: whether this client ever was; None for a server, which never starts itself again.
    """

    which: str
    kit: Path
    home: Home
    options: list[str]
    drain_s: float
    idle: Callable[[], bool]
    draining: Callable[[], None] = lambda: None
    ended: Callable[[int], None] = lambda code: None
    leave: Callable[[], None] = lambda: None
    registered: Callable[[], bool] | None = None
    _leaving: bool = False

    def run(self) -> NoReturn:
        """In the main thread, to the end of the process."""
        where = os.getcwd()
        nvflare_mains.export(self.home)
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as under nohup
        ends = [number for number in _ENDS if not (number == signal.SIGHUP and ignored)]
        for number in ends:
            signal.signal(number, self._asked)
        signal.signal(signal.SIGUSR1, self._lost)
        code, again = 0, False
        try:
            try:
                code = nvflare_mains.run_main(self.which, self.kit, self.options)
                again = self.registered is not None and (code not in _BROKEN or self.registered())
                code = code or 1  # nobody asked it to end
            except _Again:
                code, again = 1, True
            if again:
                self._pause()
        except _Stop:
            code, again = 0, False
        finally:
            for number in (*_ENDS, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
            self.leave()
            nvflare_mains.end_children()
            if not again:
                self.ended(code)
            sys.stdout.flush()
            sys.stderr.flush()
        if again:
            for number in (*ends, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)  # what is ignored stays so in the new image
            os.chdir(where)
            os.execv(sys.executable, sys.orig_argv)
        os._exit(code)  # NVFlare leaves threads that would keep the process; nothing of ours is pending

    def lost(self, why: str) -> None:
        """From any thread: only a new start mends this."""
        log.warning("%s: starting again", why)
        os.kill(os.getpid(), signal.SIGUSR1)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._leaving or self.drain_s <= 0:
            for one in _ENDS:
                signal.signal(one, signal.SIG_IGN)
            raise _Stop
        self._leaving = True
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _lost(self, number: int, frame: FrameType | None) -> None:
        if not self._leaving:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            raise _Again

    def _drain(self) -> None:
        end = time.monotonic() + self.drain_s
        try:
            drain.begin(self.home)
            self.draining()
            while not self.idle() and time.monotonic() < end:
                time.sleep(LOOK_S)
        except Exception:  # whatever it is, we were asked to end
            log.exception("no clean drain")
        os.kill(os.getpid(), signal.SIGTERM)

    def _pause(self) -> None:
        """Raises _Stop when we are asked to end meanwhile."""
        before = 0 if self.registered is None or self.registered() else int(os.environ.get(AGAIN_VAR, "0"))
        os.environ[AGAIN_VAR] = str(before + 1)
        end = time.monotonic() + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(before, 10))
        log.warning("NVFlare's client is started again in %.0f s", end - time.monotonic())
        while time.monotonic() < end:
            if self._leaving:
                raise _Stop
            time.sleep(LOOK_S)


def run_client(
    kit: Path, home: Home, *, drain_s: float, draining: Callable[[], None], ended: Callable[[int], None]
) -> NoReturn:
    """A silo's NVFlare parent until SIGTERM, in the main thread; then calls ``ended`` and ends the process."""
    from jobs.flare.connection_watchdog import CONNECTION
    from jobs.flare.job_handle import ENDING

    def leave() -> None:
        ENDING.set()
        CONNECTION.quit()

    found = nvflare_mains.settings(kit)

    def idle() -> bool:
        busy = set(nvflare_mains.job_processes("client-job"))
        if not busy:
            return True
        if busy - drain.left(home):
            return False
        time.sleep(ANSWER_S)
        return True

    site = ["secure_train=true", f"org={found['org']}", f"uid={found['site']}"]
    parent = Parent(
        which="client",
        kit=kit,
        home=home,
        options=["-s", "fed_client.json", "--set", *site],
        drain_s=drain_s,
        idle=idle,
        draining=draining,
        ended=ended,
        leave=leave,
        registered=lambda: CONNECTION.registered,
    )
    CONNECTION.lost = parent.lost
    parent.run()


def run_server(
    kit: Path,
    home: Home,
    *,
    drain_s: float,
    idle: Callable[[], bool],
    draining: Callable[[], None],
    ended: Callable[[int], None],
) -> NoReturn:
    """The server's NVFlare parent until SIGTERM. ``idle``: whether the step has its record, asked while draining."""
    found = nvflare_mains.settings(kit)
    Parent(
        which="server",
        kit=kit,
        home=home,
        options=["-s", "fed_server.json", "--set", "secure_train=true", f"org={found['org']}"],
        drain_s=drain_s,
        idle=lambda: not nvflare_mains.job_processes("server-job") or idle(),
        draining=draining,
        ended=ended,
    ).run()
