"""Follow a job to its end: a line for each step that closes, or its log as it is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from jobs.admin.jobs import following, job_status, log_text
from jobs.runtime.status import from_json
from jobs.runtime.step_log import closed

if TYPE_CHECKING:
    from jobs.flare.session import AdminSession

#: Pause between two looks. Seconds.
LOOK_S: Final = 1.0
#: How long the name of the model of a finished run is waited for: another process registers it. Seconds.
MODEL_S: Final = 30.0
#: How many looks may fail in a row, as while the server starts again, before the watch ends.
MOST_FAILED: Final = 30
#: States of a job that can still change by themselves.
UNDER_WAY: Final = frozenset({"queued", "starting", "running", "unknown"})


def watch(
    session: AdminSession,
    job_id: str,
    say: Callable[[str], None],
    *,
    timeout_s: float | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Until the job, and those that its run goes on as, have ended and, if it finished, its model has a name; the last
    one's status, as ``job_status``.

    ``say`` gets a line for each change: the job's state, a step that closed, a silo that is out. Raises TooSlow after
    ``timeout_s``, and what the session raises when the server is gone for MOST_FAILED looks in a row.
    """
    from jobs.flare.session import NoServer, TooSlow

    end = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    failed, seen = 0, _Seen(say)
    while True:
        try:
            found = job_status(session, job_id)
            seen.look(found)
            over = found["state"] not in UNDER_WAY
            goes_on = following(session, job_id, end, pause, LOOK_S) if over else ""
            failed = 0
        except (NoServer, TooSlow):
            failed += 1
            if failed > MOST_FAILED or time.monotonic() > end:
                raise
            pause(LOOK_S)
            continue
        if goes_on:
            say(f"interrupted; it goes on as job {goes_on}")
            job_id, seen = goes_on, _Seen(say)
            continue
        if over:
            return _with_model(session, job_id, found, pause)
        if time.monotonic() > end:
            raise TooSlow(f"Job {job_id} is still {found['state']} after {timeout_s:.0f} s.")
        pause(LOOK_S)


class _Seen:
    """What was told of a job so far."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._state = ""
        self._step = -1
        self._headline = ""
        self._absent: dict[str, Any] = {}

    def look(self, found: dict[str, Any]) -> None:
        if found["state"] != self._state:
            self._state = found["state"]
            self._say(f"{found['name']}: {self._state}")
        if found["status"] is None:
            return
        status = from_json(found["status"])
        if status.closed is not None and status.closed.k > self._step:
            self._step = status.closed.k
            new = status.headline if status.headline != self._headline else ""
            self._headline = status.headline
            self._say(closed(status, new))
        for silo, why in sorted(status.absent.items()):
            if self._absent.get(silo) != why:
                self._say(f"{silo} is out in step {why.step}, phase {why.phase}: {why.code or 'it did not answer'}")
        for silo in sorted(self._absent.keys() - status.absent.keys()):
            self._say(f"{silo} is back")
        self._absent = dict(status.absent)


def _with_model(
    session: AdminSession, job_id: str, found: dict[str, Any], pause: Callable[[float], None]
) -> dict[str, Any]:
    """The status once the model has a name, or after MODEL_S without one."""
    end = time.monotonic() + MODEL_S
    while found["state"] == "finished" and found["model"] is None and time.monotonic() < end:
        pause(LOOK_S)
        found = job_status(session, job_id)
    return found


def follow_log(
    session: AdminSession, job_id: str, say: Callable[[str], None], *, pause: Callable[[float], None] = time.sleep
) -> None:
    """The lines of a job's log, each once, as they are written, until the job has ended. Waits for one that has not
    begun. A log that was rotated meanwhile begins again."""
    from jobs.flare.session import JobUnknown

    told: list[str] = []
    while True:
        over = job_status(session, job_id)["state"] not in UNDER_WAY
        try:
            lines = log_text(session, job_id).splitlines()
        except JobUnknown:
            if over:
                raise
            lines = []
        if lines[: len(told)] != told:
            told = []
        for line in lines[len(told) :]:
            say(line)
        told = lines
        if over:
            return
        pause(LOOK_S)
