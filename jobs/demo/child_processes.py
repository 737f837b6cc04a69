"""The processes of a federation on this machine: started as institutions start them, and always stopped, by pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Final

from crypto.errors import RoundLost
from crypto.home import Home
from jobs.demo.federation import Federation

#: Signals that ask a process to end.
_ASKS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def local_federation(
    federation: Federation, *, say: Callable[[str], None], environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Running]:
    """Kits, server and silos as processes, and an open admin session; all of it stopped at the end.

    ``environment``: more variables of the processes."""
    from jobs.flare.local_kits import free_port, provision
    from jobs.flare.proxy import except_loopback
    from jobs.flare.session import AdminSession

    except_loopback()
    with ExitStack() as stack:
        port = free_port()
        kits = provision(
            federation.root / "kits",
            name=federation.name,
            silos=federation.silos,
            port=port,
            server_home=federation.aggregator_home,
            silo_homes=federation.silo_homes,
        )
        processes = Processes(environment)
        stack.callback(processes.stop)
        say(f"server on 127.0.0.1:{port} (mTLS)")
        processes.start("aggregator", kits.server, federation.aggregator_home)
        processes.wait_for_port("aggregator", port)
        for silo, home in federation.silo_homes.items():
            processes.start("silo", kits.silos[silo], home)
        session = stack.enter_context(AdminSession(kits.admin, kits.admin_name))
        session.wait_for_silos(len(federation.silos), timeout_s=90)
        (federation.root / "federation.json").write_text(
            json.dumps(
                {
                    "name": federation.name,
                    "port": port,
                    "admin": kits.admin_name,
                    "silos": list(federation.silos),
                    "metrics": {
                        home.name: read_port(home)
                        for home in (federation.aggregator_home, *federation.silo_homes.values())
                    },
                },
                indent=2,
            )
            + "\n",
            encoding="utf-8",
        )
        say(f"{len(federation.silos)} silos registered")
        yield Running(kits, session, processes)


@dataclass(frozen=True, slots=True)
class Running:
    """A federation that is up."""

    kits: Any
    session: Any
    processes: Processes


class Processes:
    """The long-lived processes, started as institutions start them, ended by pid."""

    def __init__(self, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self._environment = environment
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, kind: str, kit: Path, home: Home) -> None:
        command = [sys.executable, "-P", "-m", "jobs.cli", kind, "run", "--kit", str(kit), "--drain-seconds", "0"]
        from jobs.flare.nvflare_mains import clean_path

        environment = clean_path({**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", **self._environment})
        with home.log_path.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        self._running.append((home.name, process))

    def wait_for_port(self, name: str, port: int, timeout_s: float = 60.0) -> None:
        import socket

        end = time.monotonic() + timeout_s
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            self.check()
            if time.monotonic() > end:
                raise RoundLost("start", (name,), detail=f"Nothing listens on port {port} after {timeout_s:.0f} s.")
            time.sleep(0.05)

    def pid(self, name: str) -> int:
        """The process of a home, by the home's name."""
        return next(process.pid for home, process in self._running if home == name)

    def check(self) -> None:
        """Raise RoundLost if a process has ended by itself."""
        for name, process in self._running:
            if process.poll() is not None:
                raise RoundLost(
                    "start",
                    (name,),
                    detail=f"Its process ended with code {process.returncode}.",
                    remedy="See log.txt in its folder.",
                )

    def stop(self) -> None:
        """SIGTERM to the silos, then to the server; SIGKILL to those that stay. Another signal changes nothing."""
        with _signals(signal.SIG_IGN):
            self._stop()

    def _stop(self) -> None:
        for name, process in reversed(self._running):
            if name != "aggregator" and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in reversed(self._running):
            if name == "aggregator" and process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running = []


def read_port(home: Home) -> int | None:
    """The port of a home's /metrics, once its process has written it."""
    try:
        return int(home.metrics_port_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def until_stopped(processes: Processes) -> None:
    """Return on Ctrl-C. Raises RoundLost if a process ends by itself."""
    try:
        while True:
            processes.check()
            time.sleep(1)
    except KeyboardInterrupt:
        return


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP (the terminal is gone) end us as Ctrl-C does: through the clean-up, which no further signal
    interrupts."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in _ASKS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _signals(stop):
        yield


@contextmanager
def _signals(answer: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """What the signals that ask us to end do meanwhile. One that is ignored stays so: SIGHUP under nohup, SIGINT in the
    background of a shell without job control."""
    before = {one: signal.getsignal(one) for one in _ASKS}
    asks = [one for one, handler in before.items() if handler is not signal.SIG_IGN]
    for one in asks:
        signal.signal(one, answer)
    try:
        yield
    finally:
        for one in asks:
            signal.signal(one, before[one])
