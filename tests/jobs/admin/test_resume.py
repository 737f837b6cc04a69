"""What the administrator's side makes of interrupted runs: `--resume` is checked, `--wait` follows, `--why` tells."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.absences import Absence
from aggregator.interrupted import INTERRUPTED_KEY, Interrupted, Standing
from crypto.errors import FederationError, SpecError
from crypto.home import Home
from jobs.admin import jobs as admin_jobs
from jobs.admin import watch as watching
from jobs.admin.watch import watch
from jobs.flare.folder import RESUME_KEY
from jobs.flare.session import TooSlow
from jobs.job import JobSpec
from jobs.runtime.status import RunState, RunStatus, as_json, from_json
from tests import local
from tests.jobs.admin.test_jobs import DONE, ID, RUNNING, Pretended, meta

RUN = "0123456789abcdef"
SPEC = JobSpec.load("fedavg-digits")
OPEN = replace(RUNNING, run=RUN, job=SPEC.digest.hex())
FINISHED = replace(DONE, run=RUN, job=SPEC.digest.hex())


def told(standing: Standing, **more: Any) -> dict[str, Any]:
    one = Interrupted(run=RUN, name="demo", standing=standing, k=1, since=0, why="the reason", **more)
    return {INTERRUPTED_KEY: asdict(one)}


def broken(number: int = 1, **more: Any) -> dict[str, Any]:
    return meta(number, "FINISHED:ABNORMAL", consilium=as_json(OPEN), **more)


def check(*jobs: dict[str, Any], run: str = RUN, stats: RunStatus | None = None) -> None:
    session = Pretended(*jobs, stats=as_json(stats) if stats else None)
    admin_jobs.check_run(session, run, SPEC)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("jobs", "stats", "says"),
    [
        ((), None, "no job of this server has"),
        ((broken(),), None, ""),
        ((meta(1, "FINISHED:COMPLETED", consilium=as_json(FINISHED)),), None, "which has finished"),
        ((broken(1), meta(2, "FINISHED:COMPLETED", consilium=as_json(FINISHED))), None, "which has finished"),
        ((meta(1, "RUNNING"),), OPEN, "is under way as job"),
        ((broken(1), meta(2, "SUBMITTED", **{RESUME_KEY: RUN})), None, "waits to be resumed as job"),
        ((broken(1), meta(2, "DISPATCHED", **{RESUME_KEY: RUN})), None, "is under way as job"),
        ((broken(1), meta(2, "FAILED_TO_RUN", **{RESUME_KEY: RUN})), None, ""),
        ((meta(1, "FINISHED:ABNORMAL", consilium=as_json(replace(OPEN, job="ab" * 32))),), None, "of which"),
    ],
)
def test_a_run_that_cannot_go_on_is_refused_before_anything_is_submitted(
    jobs: tuple[dict[str, Any], ...], stats: RunStatus | None, says: str
) -> None:
    if not says:
        check(*jobs, stats=stats)
        return
    with pytest.raises(SpecError, match=says) as refused:
        check(*jobs, stats=stats)
    assert refused.value.path == "--resume" and refused.value.remedy, "what to do instead"


@pytest.mark.slow
def test_nothing_is_submitted_where_it_is_refused(tmp_path: Path) -> None:
    charter = Home(local.federation(tmp_path / "f").aggregator).charter()
    session = Pretended(meta(1, "FINISHED:COMPLETED", consilium=as_json(FINISHED)))
    with pytest.raises(SpecError):
        admin_jobs.submit(session, "fedavg-digits", charter, resume=RUN)  # type: ignore[arg-type]
    assert session.done == []


class Story(Pretended):
    """Each look at a job's record is the next of its list; the last one stays."""

    def __init__(self, **records: list[dict[str, Any]]) -> None:
        super().__init__()
        self.records = records

    def meta(self, job_id: str) -> dict[str, Any]:
        left = self.records[job_id]
        return left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture(autouse=True)
def no_model_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MODEL_S", 0.0)


def follow(**records: list[dict[str, Any]]) -> tuple[str, str]:
    """NVFlare's word and the id of the last job."""
    story, said = Story(**records), list[str]()
    found = watch(story, "one", said.append, timeout_s=60.0, pause=lambda seconds: None)  # type: ignore[arg-type]
    assert len([line for line in said if "goes on as job" in line]) == len(records) - 1
    return found["nvflare"], found["job_id"]


def test_waiting_follows_a_run_from_job_to_job() -> None:
    waits, queued = told(Standing.WAITING), told(Standing.QUEUED, next_job="two")
    two = broken(2, **told(Standing.QUEUED, next_job="three"))
    three = meta(3, "FINISHED:COMPLETED", consilium=as_json(FINISHED))
    first = [broken(1), broken(1), broken(1, **waits), broken(1, **queued)]
    assert follow(one=first, two=[two], three=[three]) == ("FINISHED:COMPLETED", ID.format(3))


@pytest.mark.parametrize("standing", [Standing.ASK, Standing.NEVER, Standing.GIVEN_UP, Standing.BLOCKED])
def test_it_does_not_wait_for_somebody(standing: Standing) -> None:
    assert follow(one=[broken(1, **told(standing))]) == ("FINISHED:ABNORMAL", ID.format(1))


def test_nor_for_a_run_that_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    done = meta(1, "FINISHED:COMPLETED", consilium=as_json(FINISHED))
    assert follow(one=[done]) == ("FINISHED:COMPLETED", ID.format(1))
    monkeypatch.setattr(admin_jobs, "NOTICED_S", 0.0)
    assert follow(one=[broken(1)]) == ("FINISHED:ABNORMAL", ID.format(1)), "an aggregator that tells nothing"


def test_the_time_out_holds_for_the_pause_too() -> None:
    story = Story(one=[broken(1, **told(Standing.WAITING))])
    with pytest.raises(TooSlow):
        watch(story, "one", lambda line: None, timeout_s=0.0, pause=lambda seconds: None)  # type: ignore[arg-type]


def test_it_says_what_becomes_of_it_and_what_to_do() -> None:
    def why(**more: Any) -> str:
        session = Pretended(broken(1, **more))
        found = admin_jobs.job_status(session, ID.format(1))  # type: ignore[arg-type]
        return "\n".join([*found["why"], *found["next"]])

    assert f"fed submit JOB --resume {RUN}" in why()
    assert "its run: the reason" in why(**told(Standing.WAITING)) and "--resume" not in why(**told(Standing.WAITING))
    assert "see the job that it goes on as: fed status two" in why(**told(Standing.QUEUED, next_job="two"))
    assert f"--resume {RUN}" in why(**told(Standing.ASK))
    session = Pretended(broken(1, **told(Standing.QUEUED, next_job="two")))
    assert admin_jobs.job_status(session, ID.format(1))["goes_on_as"] == "two"  # type: ignore[arg-type]


def test_a_server_that_tells_rubbish_is_told_so_and_cannot_steer_a_terminal() -> None:
    for rubbish in ({}, {"run": 3}, {**told(Standing.ASK)[INTERRUPTED_KEY], "standing": "gone"}):
        with pytest.raises(FederationError, match="can't be read"):
            admin_jobs.job_status(Pretended(broken(1, **{INTERRUPTED_KEY: rubbish})), ID.format(1))  # type: ignore[arg-type]
    nasty = told(Standing.ASK)
    nasty[INTERRUPTED_KEY]["why"] = "\x1b[2J"
    session = Pretended(broken(1, **nasty))
    assert "\x1b" not in "".join(admin_jobs.job_status(session, ID.format(1))["why"])  # type: ignore[arg-type]


def test_a_run_without_some_silos_says_who_when_and_why() -> None:
    absence = Absence(steps=2, first="train/0", last="train/1", phase="open", code="", time="2026-01-01T00:00:00.000Z")
    partial = replace(FINISHED, missed={"silo-3": absence})
    assert from_json(as_json(partial)) == partial
    session = Pretended(meta(1, "FINISHED:COMPLETED", consilium=as_json(partial)))
    found = admin_jobs.job_status(session, ID.format(1))  # type: ignore[arg-type]
    said = "silo-3 missing from 2 steps, train/0 to train/1 (did not answer in phase open"
    assert any(line.startswith(f"finished without some silos: {said}") for line in found["why"])
    assert admin_jobs.exit_code(found) == admin_jobs.PARTIAL == 41
    whole = {"state": RunState.FINISHED.value, "status": as_json(FINISHED)}
    assert admin_jobs.exit_code(whole) == 0
