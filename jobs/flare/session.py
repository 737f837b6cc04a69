"""The administrator's session with the server: submit, watch, abort.

A thin, quiet and impatient wrapper around ``nvflare.fuel.flare_api``: every call runs under a deadline (NVFlare retries
for minutes when the server dies under it), its exceptions end here as ours, its log lines are held back. Close the
session before the server ends, or NVFlare waits 5 s for an answer to its logout.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from nvflare.fuel.flare_api import api_spec
from nvflare.fuel.flare_api.flare_api import Session

from crypto.errors import FederationError

T = TypeVar("T")


class SessionError(FederationError):
    """The administrator's session with the NVFlare server failed."""

    code: ClassVar[str] = "SESSION"
    exit_code: ClassVar[int] = 60


class NoServer(SessionError):
    """The server cannot be reached, or does not know us."""

    code = "NO_SERVER"


class TooSlow(SessionError):
    """Nothing came before the deadline: silos, a job's end, or an answer."""

    code = "TOO_SLOW"


class JobUnknown(SessionError):
    """The server has no job with this id, or it is not in a state for this."""

    code = "JOB_UNKNOWN"


class JobRejected(SessionError):
    """The server refused the job folder, or the user may not do this."""

    code = "JOB_REJECTED"


_MEANING: tuple[tuple[tuple[type[BaseException], ...], type[SessionError], str], ...] = (
    (
        (api_spec.JobNotFound, api_spec.JobNotDone, api_spec.JobNotRunning),
        JobUnknown,
        "List the jobs with `nvflare job list`.",
    ),
    ((api_spec.InvalidJobDefinition, api_spec.AuthorizationError), JobRejected, "Check the job folder and the role."),
    (
        (api_spec.NoConnection, api_spec.SessionClosed, api_spec.AuthenticationError, ConnectionError),
        NoServer,
        "Is `fed aggregator run` up, and is this the kit of the same federation?",
    ),
)


class AdminSession:
    """``with AdminSession(kit, user) as session``: opens within ``timeout_s``, closes at the end. Not thread-safe."""

    def __init__(self, kit: Path, user: str, *, timeout_s: float = 20.0, call_s: float = 15.0) -> None:
        self._kit = kit.resolve()
        self._user = user
        self._timeout_s = timeout_s
        self._call_s = call_s
        self._session: Session | None = None
        self._logger = logging.getLogger("nvflare")
        self._level = logging.NOTSET

    def __enter__(self) -> Self:
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)
        try:
            self._session = self._within(self._timeout_s, self._connect)
        except BaseException:
            self._logger.setLevel(self._level)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        try:
            if session is not None:
                self._within(6.0, session.close)
        except SessionError:
            pass  # the server is gone: there is nothing left to log out of
        finally:
            self._logger.setLevel(self._level)

    def _connect(self) -> Session:
        """What ``new_secure_session`` does, without its prints (they would spoil ``--json``)."""
        session = Session(username=self._user, startup_path=str(self._kit), secure_mode=True)
        session.api._print_hci = _say_nothing
        session.api.auto_login_max_tries = 3
        try:
            session.try_connect(self._timeout_s)
        except BaseException:
            session.api.close()
            raise
        return session

    def silos(self) -> tuple[str, ...]:
        """The silos that are registered now, sorted."""
        info = self._call(lambda s: s.get_system_info())
        return tuple(sorted(client.name for client in info.client_info))

    def wait_for_silos(self, n: int, timeout_s: float = 60.0, look_s: float = 0.25) -> tuple[str, ...]:
        """Until ``n`` silos are registered. Raises TooSlow, naming those that are."""
        end = time.monotonic() + timeout_s
        while len(here := self.silos()) < n:
            if time.monotonic() > end:
                names = ", ".join(here) or "none"
                raise TooSlow(f"Only {len(here)} of {n} silos came within {timeout_s:.0f} s: {names}.")
            time.sleep(look_s)
        return here

    def submit(self, folder: Path) -> str:
        """Signs and submits a job folder; the job id. Raises JobRejected."""
        return str(self._call(lambda s: s.submit_job(str(folder.resolve()))))

    def meta(self, job_id: str) -> dict[str, Any]:
        """NVFlare's own record of the job."""
        found: dict[str, Any] = self._call(lambda s: s.get_job_meta(job_id))
        return found

    def status(self, job_id: str) -> str:
        """NVFlare's word, for example RUNNING or FINISHED:COMPLETED. The outcome of record is ours, in the ledger."""
        return str(self.meta(job_id)["status"])

    def wait(
        self, job_id: str, timeout_s: float, look_s: float = 0.5, seen: Callable[[str], None] | None = None
    ) -> str:
        """Until the job has finished; its status. ``seen`` is told each new status. Raises TooSlow."""
        end, last = time.monotonic() + timeout_s, ""
        while not (status := self.status(job_id)).startswith(("FINISHED", "FAILED", "ABANDONED")):
            if seen is not None and status != last:
                seen(status)
            last = status
            if time.monotonic() > end:
                raise TooSlow(f"Job {job_id} is still {status} after {timeout_s:.0f} s.")
            time.sleep(look_s)
        return status

    def abort(self, job_id: str) -> None:
        """Asks the server to stop the job. Raises JobUnknown if it is not running."""
        self._call(lambda s: s.abort_job(job_id))

    def list_jobs(self) -> list[dict[str, Any]]:
        """NVFlare's records of all jobs, this user's and others', newest last."""
        found: list[dict[str, Any]] = self._call(lambda s: s.list_jobs(detailed=True)) or []
        return sorted(found, key=lambda job: str(job.get("submit_time_iso", "")))

    def _call(self, action: Callable[[Session], T]) -> T:
        session = self._session
        if session is None:
            raise NoServer("The session is not open.")
        return self._within(self._call_s, lambda: action(session))

    def _within(self, seconds: float, action: Callable[[], T]) -> T:
        """``action`` in a thread of its own, left behind if it takes longer than ``seconds`` (plus 1 to tell why)."""
        done: list[T] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                done.append(action())
            except BaseException as error:  # noqa: BLE001 - handed to the caller below
                failed.append(error)

        thread = threading.Thread(target=work, name="admin-call", daemon=True)
        thread.start()
        thread.join(seconds + 1.0)
        if done:
            return done[0]
        if failed:
            raise _ours(failed[0]) from failed[0]
        raise TooSlow(f"The server did not answer within {seconds:.0f} s.", remedy="Is `fed aggregator run` up?")


def _say_nothing(*parts: object) -> None:
    pass


def _ours(error: BaseException) -> BaseException:
    if not isinstance(error, Exception):
        return error
    for kinds, ours, remedy in _MEANING:
        if isinstance(error, kinds):
            return ours(f"{type(error).__name__}: {error}.", remedy=remedy)
    return SessionError(f"{type(error).__name__}: {error}.")
