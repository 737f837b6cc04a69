"""Jobs that wait for the data owner's decision, in PySyft's request queue.

    <home>/syft/<owner>/app_data/job/inbox/<admin>/v1/<job>-<digest16>/   config.yaml · run.sh · code/job.json
    <home>/syft/<owner>/app_data/job/review/<admin>/v1/<…>/               state.yaml

A request is the job's canonical text and nothing executable: ``run.sh`` only prints a refusal. It is named by its
digest and accepted only while the digest matches. PySyft's status is shown but decides nothing: only what the data
owner signed is valid (``silo_agent.approval_store``). The owner's reasons are not in it, because PySyft's review folder
is meant for the submitter.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from crypto import durable, transcript
from crypto.errors import DataRefused, FederationError, NoSpace, SpecError
from silo_agent.home import SiloHome
from silo_agent.pysyft.datasite import ADMIN, Datasite, disk, pysyft, remove

if TYPE_CHECKING:
    from syft_job.client import JobClient
    from syft_job.job_ref import JobRef

#: Most requests in the queue: submitters must not be able to fill the disk.
MOST_REQUESTS = 256
#: Bytes of a job's text.
MOST_TEXT = 1 << 16
#: What a request is called, and so its folders' name.
REQUEST_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}-[0-9a-f]{16}")
#: The decisions that PySyft's state can show.
DECISIONS = ("approved", "denied")

#: The line of PySyft's state that marks a decided request.
_DECIDED = re.compile(rb"^status: ['\"]?(approved|rejected)\b", re.MULTILINE)

_JOB = "job.json"
_REFUSE = """#!/bin/sh
echo "A request is not a program: the silo's own agent runs jobs, once the data owner has signed." >&2
exit 1
"""
_AGAIN = "The admin submits the job again, or sends its file: `fed approve --job FILE`."


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A queued job. ``shown``: PySyft's status, which every user of the silo's disk can write. ``asked``: when."""

    name: str
    digest: bytes
    text: str
    asked: datetime
    shown: str


@dataclass(frozen=True, slots=True)
class Tampered:
    """An entry of the queue that is not a valid request, and why. It is reported, never listed as a request."""

    name: str
    why: str


class RequestQueue:
    """``silo``: the id. Raises SpecError for what is no job, NoSpace where there is no room."""

    def __init__(self, home: SiloHome, silo: str) -> None:
        self.datasite = Datasite.of(home, silo)

    # --- the agent's side ------------------------------------------------------------------------------------------

    def put(self, job: str) -> str:
        """Queue a job's canonical text for the data owner; the request's name. The same job twice is one request.

        Raises NoSpace when the queue is full of undecided jobs.
        """
        name = request_name(job)
        with self.datasite.writing(), disk(f"Request {name}"):
            inbox = self._folder("inbox")
            self.datasite.check_place(inbox / name)
            if self._text(inbox / name) == job:
                return name
            self._drop(name)  # half written, or edited since: what is submitted now counts
            self._make_room(inbox)
            try:
                with pysyft(f"Request {name}", remedy=_AGAIN):
                    folder = self._client(ADMIN).submit_bash_job(self.datasite.owner, _REFUSE, name)
                for script in folder.rglob("*.sh"):
                    script.chmod(0o600)
                durable.create(folder / "code" / _JOB, job.encode())
            except BaseException:
                self._drop(name)
                raise
        return name

    def _make_room(self, inbox: Path) -> None:
        """Delete the oldest decided requests when the queue is full: the decisions are signed elsewhere."""
        excess = len(list(inbox.iterdir())) - MOST_REQUESTS + 1 if inbox.is_dir() else 0
        if excess <= 0:
            return
        decided = sorted((request for request in self.all()[0] if request.shown != "pending"), key=lambda r: r.asked)
        for request in decided[:excess]:
            self._drop(request.name)
        if len(decided) < excess:
            raise NoSpace(
                f"The request queue holds {MOST_REQUESTS} jobs that wait for the data owner.",
                remedy="The data owner decides on some: `fed requests`, then `fed approve` or `fed deny`.",
            )

    # --- the owner's side ------------------------------------------------------------------------------------------

    def all(self) -> tuple[list[QueuedRequest], list[Tampered]]:
        """Every request, oldest first, and everything else in the queue."""
        found = [self._read(ref) for ref in self._refs()]
        requests = [item for item in found if isinstance(item, QueuedRequest)]
        tampered = [item for item in found if isinstance(item, Tampered)]
        return sorted(requests, key=lambda request: (request.asked, request.name)), tampered

    def pending(self) -> list[QueuedRequest]:
        """Requests that PySyft shows as undecided."""
        return [request for request in self.all()[0] if request.shown == "pending"]

    def waiting(self) -> int:
        """How many requests PySyft shows as undecided, read without PySyft: a figure that is asked for often.

        Raises OSError.
        """
        inbox, review = self._folder("inbox"), self._folder("review")
        names = [path.name for path in inbox.iterdir() if REQUEST_NAME.fullmatch(path.name)] if inbox.is_dir() else []
        return sum(1 for name in names if not _decided(review / name / "state.yaml"))

    def find(self, prefix: str) -> QueuedRequest:
        """The one request whose digest begins so, in hexadecimal. Raises SpecError for none or several."""
        found = [request for request in self.all()[0] if request.digest.hex().startswith(prefix)]
        if len(found) != 1:
            raise SpecError(
                "DIGEST",
                got=prefix,
                want="the beginning of one request's digest",
                remedy=f"{len(found)} requests begin so: see `fed requests`.",
            )
        return found[0]

    def mark(self, digest: bytes, decision: str) -> None:
        """Have PySyft show what the data owner decided. This grants nothing; a job that was never queued is ignored."""
        from syft_job.models import JobState, JobStatus

        if decision not in DECISIONS:
            raise ValueError(f"decision: got {decision!r}, want one of {DECISIONS}")
        now, owner = datetime.now(UTC), self.datasite.owner
        if decision == "approved":
            state = JobState(status=JobStatus.APPROVED, approved_by=owner, approved_at=now)
        else:
            state = JobState(status=JobStatus.REJECTED, rejected_by=owner, rejected_at=now)
        with self.datasite.writing(), pysyft("The request queue", remedy=_AGAIN):
            for ref in self._refs():
                found = self._read(ref)
                if isinstance(found, QueuedRequest) and found.digest == digest:
                    self._client(owner).manager.write_state(ref, state)

    # --- where things lie ------------------------------------------------------------------------------------------

    def _client(self, who: str) -> JobClient:
        from syft_job.client import get_client

        return get_client(str(self.datasite.syftbox), who, self.datasite.owner)

    def _refs(self) -> list[JobRef]:
        """Everything that PySyft finds in the inbox."""
        if not self.datasite.folder.is_dir():
            return []
        with pysyft("The request queue", remedy=_AGAIN):
            return list(self._client(self.datasite.owner).manager.iter_submission_refs(self.datasite.owner))

    def _folder(self, side: str) -> Path:
        return self.datasite.folder / "app_data" / "job" / side / ADMIN / "v1"

    def _drop(self, name: str) -> None:
        for side in ("review", "inbox"):
            remove(self._folder(side) / name)

    def _read(self, ref: JobRef) -> QueuedRequest | Tampered:
        if ref.ds_email != ADMIN or not REQUEST_NAME.fullmatch(ref.job_name):
            return Tampered(ascii(ref.job_name), "it was not queued by this silo's agent")
        name = ref.job_name
        text = self._text(self._folder("inbox") / name)
        if text is None:
            return Tampered(name, "its job is missing, unreadable or behind a link")
        try:
            if request_name(text) != name:
                return Tampered(name, "its job was edited: the digest is another")
            self.datasite.check_place(self._folder("review") / name)
            with pysyft(f"Request {name}", remedy=_AGAIN):
                client = self._client(self.datasite.owner)
                asked = client.manager.read_submission(ref).submitted_at
                try:
                    state = client.manager.read_state(ref)
                except FileNotFoundError:
                    state = client.receive_job(ref.ds_email, name, ref.protocol_version)
        except FederationError as bad:
            return Tampered(name, bad.detail)
        shown = "denied" if state.status.value == "rejected" else str(state.status.value)
        if asked.tzinfo is None:  # PySyft writes it with one, but its file is anyone's
            asked = asked.replace(tzinfo=UTC)
        return QueuedRequest(name, transcript.digest("job", text), text, asked, shown)

    def _text(self, folder: Path) -> str | None:
        """The job's text in a request's folder, if it can be read at all."""
        path = folder / "code" / _JOB
        try:
            self.datasite.check_place(path)
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                return file.read(MOST_TEXT + 1).decode()
        except (OSError, UnicodeDecodeError, DataRefused):
            return None


def request_name(job: str) -> str:
    """``<job name>-<first 16 hex digits of the digest>``. Raises SpecError for a text that has no such name."""
    try:
        name = f"{json.loads(job)['name']}-{transcript.digest('job', job).hex()[:16]}"
    except (ValueError, KeyError, TypeError, RecursionError) as bad:
        raise SpecError("job text", got=job[:40], want="the canonical text of a job") from bad
    if not REQUEST_NAME.fullmatch(name) or len(job.encode()) > MOST_TEXT:
        raise SpecError("job.name", got=name[:80], want=f"a job's name, in a text of at most {MOST_TEXT} bytes")
    return name


def _decided(state: Path) -> bool:
    try:
        return _DECIDED.search(state.read_bytes()[:MOST_TEXT]) is not None
    except FileNotFoundError:
        return False  # not decided yet
