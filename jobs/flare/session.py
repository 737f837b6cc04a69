"""The administrator's session with the server: submit, watch, read the log, abort.

A thin, quiet and impatient wrapper around ``nvflare.fuel.flare_api``: every call runs under a deadline (NVFlare retries
for minutes when the server dies under it), its exceptions end here as ours, its log lines are held back. Close the
session before the server ends, or NVFlare waits 5 s for an answer to its logout.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from nvflare.fuel.common.excepts import ConfigError
from nvflare.fuel.flare_api import api_spec
from nvflare.fuel.flare_api.flare_api import Session

from crypto.errors import FederationError, SpecError
from jobs.flare.proxy import proxy_for
from jobs.flare.status_reply import GROUP

T = TypeVar("T")

#: The part of NVFlare's refusal that names the user and the right.
_DENIAL = re.compile(r"user '[^']*' is not authorized for '[^']*'")
#: How NVFlare's words for the state of a job begin once it has ended.
ENDED = ("FINISHED", "FAILED", "ABANDONED")


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


class JobEnded(SessionError):
    """The job is over: there is nothing left to abort."""

    code = "JOB_ENDED"


class JobRejected(SessionError):
    """The server refused the job folder."""

    code = "JOB_REJECTED"


class NotAllowed(SessionError):
    """The role in this kit's certificate lacks the right, or the job was submitted by another user."""

    code = "NOT_ALLOWED"


_MEANING: tuple[tuple[tuple[type[BaseException], ...], type[SessionError], str], ...] = (
    (
        (api_spec.JobNotFound, api_spec.JobNotDone, api_spec.JobNotRunning),
        JobUnknown,
        "List the jobs with `fed jobs`.",
    ),
    ((api_spec.InvalidJobDefinition,), JobRejected, "Write the folder with `fed export` and leave it as it is."),
    (
        (api_spec.AuthorizationError,),
        NotAllowed,
        "A lead submits jobs and aborts those that it submitted; an org_admin or member can only look. "
        "The role is part of the kit's certificate: use another kit, or have one provisioned with that role.",
    ),
    (
        (api_spec.NoConnection, api_spec.SessionClosed, api_spec.AuthenticationError, ConnectionError),
        NoServer,
        "Is `fed aggregator run` up, and is this the kit of the same federation?",
    ),
)


def kit_admin(kit: Path) -> tuple[str, str]:
    """(federation, who it logs in as) of an administrator's kit. Raises SpecError for a folder that is none."""
    path = kit / "startup" / "fed_admin.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["admin"]
        return str(found["project_name"]), str(found["username"])
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise SpecError(
            "--kit",
            got=f"{kit}, without a startup/fed_admin.json",
            want="an administrator's kit",
            remedy="`fed provision` makes one for each administrator; a silo's or the server's kit is none.",
        ) from bad


class AdminSession:
    """``with AdminSession(kit) as session``: opens within ``timeout_s``, closes at the end. Not thread-safe.

    ``user``: who to log in as; by default the one that the kit is made for.
    """

    def __init__(self, kit: Path, user: str = "", *, timeout_s: float = 60.0, call_s: float = 30.0) -> None:
        self._kit = kit.resolve()
        self._user = user or kit_admin(kit)[1]
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
        _knock(self._kit, self._timeout_s)
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

    def wait(self, job_id: str, timeout_s: float, look_s: float = 0.5) -> str:
        """Until the job has finished; its status. Raises TooSlow."""
        end = time.monotonic() + timeout_s
        while not (status := self.status(job_id)).startswith(ENDED):
            if time.monotonic() > end:
                raise TooSlow(f"Job {job_id} is still {status} after {timeout_s:.0f} s.")
            time.sleep(look_s)
        return status

    def abort(self, job_id: str) -> None:
        """Asks the server to stop a job that waits or runs. Raises JobEnded, JobUnknown, NotAllowed.

        NVFlare answers "done" for a job that is over and "internal error" for one that ends at this moment.
        """
        if (status := self.status(job_id)).startswith(ENDED):
            raise JobEnded(f"Job {job_id} is {status}.", remedy="There is nothing left to abort.")
        try:
            self._call(lambda s: s.abort_job(job_id))
        except SessionError as failed:
            if type(failed) is SessionError and (status := self.status(job_id)).startswith(ENDED):
                raise JobEnded(f"Job {job_id} is {status}: it ended by itself meanwhile.") from failed
            raise

    def stats(self, job_id: str) -> dict[str, Any]:
        """What the run of a running job tells of itself; nothing while it starts or ends, or where it is not ours."""
        try:
            found = self._call(lambda s: s.show_stats(job_id, api_spec.TargetType.SERVER))
        except JobUnknown:
            return {}
        server = found.get("server") if isinstance(found, dict) else None
        status = server.get(GROUP) if isinstance(server, dict) else None
        return status if isinstance(status, dict) else {}

    def log(self, job_id: str) -> str:
        """The aggregator's log of a job. No silo is asked, and none would answer. Raises JobUnknown where none is."""
        found = self._call(lambda s: s.get_job_logs(job_id, "server"))
        text = found.get("logs", {}).get("server")
        if text is None:
            raise JobUnknown(
                f"Job {job_id} has no log yet.",
                remedy="A job gets one when it starts: `fed status JOB_ID` shows its state.",
            )
        return str(text)

    def list_jobs(self, prefix: str = "") -> list[dict[str, Any]]:
        """NVFlare's records of all jobs, this user's and others', newest last. ``prefix``: of their ids."""
        found: list[dict[str, Any]] = self._call(lambda s: s.list_jobs(detailed=True, id_prefix=prefix or None)) or []
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


def _knock(kit: Path, timeout_s: float) -> None:
    """NVFlare tries for its whole time-out where nothing listens. Raises NoServer at once then; says nothing else."""
    admin = json.loads((kit / "startup" / "fed_admin.json").read_text(encoding="utf-8"))["admin"]
    if proxy_for(str(admin.get("host", ""))) is not None:
        return
    place = (str(admin.get("host", "")), int(admin.get("port", 0)))
    try:
        socket.create_connection(place, timeout_s).close()
    except (ConnectionRefusedError, socket.gaierror) as nobody:
        raise NoServer(
            f"Nothing answers at {place[0]}:{place[1]} ({nobody.strerror}).",
            remedy="Is `fed aggregator run` up, and does this machine find it under this name?",
        ) from nobody
    except OSError:
        return  # slow, or a network that NVFlare may know better


def _say_nothing(*parts: object) -> None:
    pass


def _ours(error: BaseException) -> BaseException:
    if not isinstance(error, Exception):
        return error
    if isinstance(error, FederationError):
        return error
    if isinstance(error, ConfigError):
        return NoServer(f"{error}.", remedy="The kit is incomplete: have it provisioned again.")
    for kinds, ours, remedy in _MEANING:
        if isinstance(error, kinds):
            denial = _DENIAL.search(str(error))
            return ours(f"{denial[0] if denial else f'{type(error).__name__}: {error}'}.", remedy=remedy)
    return SessionError(f"{type(error).__name__}: {error}.")
