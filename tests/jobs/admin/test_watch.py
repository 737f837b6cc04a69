"""A job followed to its end, over a pretended session whose clock is the pause between two looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from jobs.admin import jobs as admin_jobs
from jobs.admin import watch as watching
from jobs.admin.watch import follow_log, watch
from jobs.flare.outcomes import META_KEY, MODEL_KEY
from jobs.flare.session import JobUnknown, NoServer, TooSlow
from jobs.runtime.status import Absent, LastClosed, RunEnd, RunState, RunStatus, as_json

JOB = "aaaaaaaa-0000-4000-8000-000000000001"
MODEL = {"model": "wards", "version": "3", "tracking_uri": "https://mlflow.example", "run_id": "r"}


def closed(k: int, **more: Any) -> LastClosed:
    facts: dict[str, Any] = {"invited": 4, "survivors": 4, "shut": (), "withheld": ()}
    return LastClosed(k=k, name=f"train/{k}", time="t", **facts | more)


RUNNING = RunStatus(run="r1", job="ab", state=RunState.RUNNING, steps=3)
DONE = replace(RUNNING, state=RunState.FINISHED, closed=closed(2), outcome=RunEnd(time="t", recorded=True))


class Server:
    """Each look gets the next of these: a record, a record with the status of the running job, or an error."""

    def __init__(self, *looks: Any, logs: tuple[Any, ...] = ()) -> None:
        self.looks, self.logs, self.pauses = list(looks), list(logs), 0
        self.now: Any = None

    def pause(self, seconds: float) -> None:
        assert seconds == watching.LOOK_S
        self.pauses += 1

    def meta(self, job_id: str) -> dict[str, Any]:
        assert job_id == JOB
        self.now = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(self.now, Exception):
            raise self.now
        status = "RUNNING" if isinstance(self.now, RunStatus) else self.now["status"]
        return {"job_id": JOB, "name": "wards", "status": status, **(self.now if isinstance(self.now, dict) else {})}

    def stats(self, job_id: str) -> Mapping[str, Any]:
        return as_json(self.now) if isinstance(self.now, RunStatus) else {}

    def log(self, job_id: str) -> str:
        found = self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]
        if isinstance(found, Exception):
            raise found
        return str(found)


def finished(**more: Any) -> dict[str, Any]:
    return {"status": "FINISHED:COMPLETED", META_KEY: as_json(DONE), **more}


def watched(server: Server, **options: Any) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    found = watch(server, JOB, said.append, pause=server.pause, **options)  # type: ignore[arg-type]
    return found, said


def test_each_change_is_a_line_and_the_end_has_the_model() -> None:
    away = {"silo-2": Absent("train/1", "deal")}
    server = Server(
        {"status": "SUBMITTED"},
        {"status": "SUBMITTED"},
        RUNNING,
        replace(RUNNING, closed=closed(0), headline="global AUROC 0.7"),
        replace(RUNNING, closed=closed(0), headline="global AUROC 0.7"),
        replace(RUNNING, closed=closed(1, survivors=3, shut=("expert-0",)), headline="global AUROC 0.7", absent=away),
        finished(),
        finished(**{MODEL_KEY: MODEL}),
    )
    found, said = watched(server)
    assert said == [
        "wards: queued",
        "wards: running",
        "step train/0 (1 of 3) closed with 4 of 4 silos; global AUROC 0.7",
        "step train/1 (2 of 3) closed with 3 of 4 silos; shut: expert-0",
        "silo-2 is out in step train/1, phase deal: it did not answer",
        "wards: finished",
        "step train/2 (3 of 3) closed with 4 of 4 silos",
        "silo-2 is back",
    ]
    assert found["model"] == MODEL and found["state"] == "finished"
    assert found["next"] == [
        "see the model: open https://mlflow.example",
        "check the run: fed verify r1 --home HOME",
        "see what it was made from: fed lineage wards/3 --home HOME",
    ]
    assert server.pauses == 7


def test_a_model_that_never_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MODEL_S", 0.0)
    found, _ = watched(Server(finished()))
    assert found["model"] is None and "fed lineage MODEL/VERSION --home HOME" in found["next"][-1]


def test_a_server_that_starts_again_is_waited_for_and_one_that_is_gone_is_named() -> None:
    gone = NoServer("gone")
    found, said = watched(Server(RUNNING, *[gone] * watching.MOST_FAILED, finished(**{MODEL_KEY: MODEL})))
    assert found["state"] == "finished" and said[0] == "wards: running"
    with pytest.raises(NoServer):
        watched(Server(RUNNING, gone))


def test_a_job_that_takes_too_long_is_named_with_its_state() -> None:
    with pytest.raises(TooSlow, match="still running"):
        watched(Server(RUNNING), timeout_s=-1.0)


@pytest.mark.parametrize("state", ["FINISHED:ABORTED", "FINISHED:EXECUTION_EXCEPTION", "FINISHED:ABNORMAL"])
def test_a_job_that_did_not_finish_ends_the_watch_without_a_model(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_jobs, "NOTICED_S", 0.0)
    server = Server({"status": state, META_KEY: as_json(replace(RUNNING, closed=closed(0)))})
    found, _ = watched(server)
    assert server.pauses == 0 and found["model"] is None
    assert found["next"] == ["go on with it: fed submit JOB --resume r1"]


def follow(server: Server) -> list[str]:
    said: list[str] = []
    follow_log(server, JOB, said.append, pause=server.pause)  # type: ignore[arg-type]
    return said


def test_a_log_is_followed_line_by_line_from_before_its_begin_to_its_end() -> None:
    no_log: Callable[[], Exception] = lambda: JobUnknown("no log yet")  # noqa: E731
    looks = ({"status": "SUBMITTED"}, RUNNING, RUNNING, RUNNING, finished())
    server = Server(*looks, logs=(no_log(), no_log(), "a\n", "a\nb\n", "a\nb\nc\n"))
    assert follow(server) == ["a", "b", "c"]


def test_a_rotated_log_begins_again() -> None:
    assert follow(Server(RUNNING, finished(), logs=("a\nb\n", "c\n"))) == ["a", "b", "c"]


def test_an_ended_job_without_a_log_is_named() -> None:
    with pytest.raises(JobUnknown):
        follow(Server({"status": "FINISHED:ABORTED"}, logs=(JobUnknown("no log"),)))
