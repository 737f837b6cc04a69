"""A silo's job process that is started again when it dies: the handle that NVFlare holds for as long as the job lasts.

A process that was killed (by hand, out of memory) or crashed is started again after a pause, with the same command line
and so under the same name to NVFlare: for the server the job has been here all the time. The new process has none of
the old one's secrets; its agent goes on from its journal and its notes at the next step's ``open``. A process that
ended well, that was told to stop, or whose service ends, stays away.

To the outside a bad end polls as UNKNOWN, which NVFlare does not report: it is nobody else's business.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any, Final, Protocol

from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode

from crypto.errors import SpecError

log = logging.getLogger("consilium.silo")

#: The environment variable with the most starts in a row; 0: a job process that died stays away.
MOST_VAR: Final = "CONSILIUM_JOB_RESTARTS"
MOST: Final = 8
_LARGEST: Final = 1000
#: Set when this service ends: from then on nothing is started again.
ENDING: Final = Event()


@dataclass(frozen=True, slots=True)
class Restarts:
    """``most``: starts in a row. The pause before each doubles, from ``first_s`` to ``longest_s``. A process that
    lived for ``steady_s`` starts the row anew. Seconds. The first pause and a start together take longer than the
    courier's time between two heartbeats, so that it notices."""

    most: int = MOST
    first_s: float = 2.0
    longest_s: float = 60.0
    steady_s: float = 300.0

    @classmethod
    def from_environment(cls) -> Restarts:
        """Raises SpecError for a number that is none."""
        text = os.environ.get(MOST_VAR, str(MOST))
        if not text.isascii() or not text.isdigit() or int(text) > _LARGEST:
            raise SpecError(MOST_VAR, got=text, want=f"a whole number from 0 to {_LARGEST}")
        return cls(int(text))

    def pause_s(self, done: int) -> float:
        """The pause after so many starts in a row."""
        return min(self.longest_s, self.first_s * 2.0 ** min(done, 16))


class Started(Protocol):
    """One process. ``wait``: until it has ended; its exit code, negative for a signal."""

    def wait(self) -> int: ...

    def terminate(self) -> None: ...


class RestartingHandle(JobHandleSpec):
    """``start``: starts a process, may raise OSError. ``rc_file``: where NVFlare's monitor in the process leaves its
    own exit code. ``wanted``: whether the job is still to run here. ``tell``: called with ``job-restarted`` or
    ``job-given-up``, the number of starts in a row, and the exit code."""

    def __init__(
        self,
        start: Callable[[], Started],
        rc_file: Path,
        job_id: str,
        *,
        restarts: Restarts,
        wanted: Callable[[], bool],
        tell: Callable[[str, int, int], None],
    ) -> None:
        super().__init__()
        self._start = start
        self._rc_file = rc_file
        self._job_id = job_id
        self._restarts = restarts
        self._wanted = wanted
        self._tell = tell
        self._stopped = Event()
        self._lock = Lock()
        self._well = False
        self._process: Started | None = start()

    def terminate(self) -> None:
        """Stops the process, and no other is started."""
        with self._lock:
            self._stopped.set()
            process = self._process
        if process is not None:
            process.terminate()

    def poll(self) -> Any:
        return JobReturnCode.SUCCESS if self._well else JobReturnCode.UNKNOWN

    def wait(self) -> None:
        """Until no process of the job runs here and none will."""
        done, code = 0, 0
        while True:
            if (process := self._process) is not None:
                began = time.monotonic()
                code = process.wait()
                own, self._well = self._taken_code(), False
                if code == 0 and own in (None, JobReturnCode.SUCCESS):
                    self._well = True
                    return
                code = code or own or 0
                if time.monotonic() - began >= self._restarts.steady_s:
                    done = 0
            if not self._again():
                return
            why = f"signal {-code}" if code < 0 else f"exit code {code}"
            if done >= self._restarts.most:
                log.error(
                    "[SILO_CRASHED] the process of job %s ended (%s) and is not started again after %d starts in a "
                    "row: this silo is out of the run; see the log in the job's folder",
                    self._job_id, why, done,
                )  # fmt: skip
                self._tell("job-given-up", done, code)
                return
            pause = self._restarts.pause_s(done)
            done += 1
            log.error(
                "[SILO_CRASHED] the process of job %s ended (%s); it is started again in %.0f s, start %d of %d",
                self._job_id, why, pause, done, self._restarts.most,
            )  # fmt: skip
            if self._stopped.wait(pause) or not self._restart(done, code):
                return

    def _restart(self, done: int, code: int) -> bool:
        """Whether the job goes on here; without a process where none could be started."""
        if not self._again():
            return False
        self._tell("job-restarted", done, code)
        with self._lock:
            if self._stopped.is_set() or ENDING.is_set():
                return False
            try:
                self._process = self._start()
            except OSError as failed:  # too little memory, too many processes: perhaps not for long
                self._process = None
                log.error("no process for job %s: %s", self._job_id, failed)
        return True

    def _again(self) -> bool:
        return not self._stopped.is_set() and not ENDING.is_set() and self._wanted()

    def _taken_code(self) -> int | None:
        """The process's own exit code. Its file is removed if it is bad: NVFlare would read and report it."""
        try:
            found = int(self._rc_file.read_text(encoding="utf-8").split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            found = None
        if found != JobReturnCode.SUCCESS:
            self._rc_file.unlink(missing_ok=True)
        return found
