"""The resumer over a pretended NVFlare: it submits an interrupted run's job once more, once, and says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import Job, job_from_meta

from aggregator.home import AggregatorHome
from aggregator.interrupted import INTERRUPTED_KEY, Standing, load
from aggregator.rounds.attempt import Exchange
from aggregator.run_record import RunRecord
from crypto.errors import SpecError
from jobs.demo.federation import Federation
from jobs.flare import resumer as module
from jobs.flare.folder import RESUME_KEY, resume_in
from jobs.flare.outcomes import META_KEY
from jobs.flare.resumer import RESUMED_AT, Resumer
from jobs.job import JobSpec
from jobs.runtime import drain
from jobs.runtime.compose import alone
from silo_agent.home import SiloHome
from tests import local

pytestmark = pytest.mark.slow

FIRST = "0b7a3f52-5c9c-4b0e-9a55-1f1f8b6a2c11"


class Killed(Exception):
    """The aggregator's process is gone."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return local.federation(tmp_path_factory.mktemp("resumer") / "f").root


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Federation:
    return local.copied(made, tmp_path / "f")


def job(policy: str) -> JobSpec:
    fields = json.loads(local.spec(rounds=2).text)
    return JobSpec.parse({**fields, "resume": {"policy": policy, "attempts": 2, "backoff": 10}})


class Store:
    """NVFlare's job store and its runner, as far as they are used."""

    def __init__(self, run: str) -> None:
        meta = {"job_id": FIRST, "name": "demo", "status": "FINISHED:ABNORMAL", "submit_time": 1.0}
        meta |= {"submitter_name": "kim@x", "submitter_org": "org", "submitter_role": "lead", "deploy_map": {"app": []}}
        self.jobs: dict[str, dict[str, Any]] = {FIRST: {**meta, META_KEY: {"run": run}, "job_deploy_detail": ["old"]}}
        self.run_processes: dict[str, Any] = {}
        self.job_runner = SimpleNamespace(running_jobs={})

    def get_component(self, name: str) -> Store:
        return self

    def get_all_jobs(self, fl_ctx: FLContext) -> list[Job]:
        return [job_from_meta(dict(meta)) for meta in self.jobs.values()]

    def clone(self, from_jid: str, meta: dict[str, Any], fl_ctx: FLContext) -> dict[str, Any]:
        assert from_jid in self.jobs and all(type(key) is str for key in meta)
        job_id = f"00000000-0000-4000-8000-{len(self.jobs):012d}"
        self.jobs[job_id] = {**meta, "job_id": job_id, "status": "SUBMITTED", "submit_time": 9.0}
        return self.jobs[job_id]

    def update_meta(self, job_id: str, meta: dict[str, Any], fl_ctx: FLContext) -> None:
        self.jobs[job_id] |= meta


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


class Case:
    def __init__(self, federation: Federation, policy: str, clock: Clock) -> None:
        self.home = AggregatorHome(federation.aggregator)
        spec = job(policy)
        for home in federation.homes.values():
            local.approve(SiloHome(home), spec)

        def watch(exchange: Exchange | None, note: str) -> None:
            if exchange is not None and (exchange.step, exchange.phase) == (1, "deal"):
                raise Killed

        with pytest.raises(Killed):
            local.run_job(spec, federation.aggregator, federation.homes, watch=watch)
        (folder,) = self.home.jobs_folder.iterdir()
        self.run = folder.name
        self.store = Store(self.run)
        self.resumer = Resumer()
        self.clock = clock
        clock.now = RunRecord.read(self.home, self.run).entries[-1].seconds + 1.0

    def look(self, seconds: float = 0.0) -> tuple[Any, ...]:
        """One look, so much later; what the home then says."""
        self.clock.now += seconds
        self.resumer.look(self.home, self.store, FLContext())
        return load(self.home)

    @property
    def submitted(self) -> list[dict[str, Any]]:
        return [meta for job_id, meta in self.store.jobs.items() if job_id != FIRST]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    one = Clock()
    monkeypatch.setattr(module, "time", one)
    yield one


def test_an_interrupted_run_is_told_at_once_and_goes_on_after_its_pause(federation: Federation, clock: Clock) -> None:
    case = Case(federation, "always", clock)
    (one,) = case.look()
    assert (one.run, one.standing, one.job, one.k) == (case.run, Standing.WAITING, FIRST, 1)
    assert case.store.jobs[FIRST][INTERRUPTED_KEY]["standing"] == "waiting" and not case.submitted
    case.look(9)
    assert not case.submitted
    (one,) = case.look(1)
    (again,) = case.submitted
    assert (one.standing, one.next_job) == (Standing.QUEUED, again["job_id"])
    assert resume_in(again) == case.run and again[RESUMED_AT] == clock.now
    assert again["submit_time"] == 1.0, "before the jobs that came meanwhile"
    assert (again["submitter_name"], again["submitter_role"]) == ("kim@x", "lead")
    assert META_KEY not in again and "job_deploy_detail" not in again, "what is the old job's is not the copy's"
    assert case.store.jobs[FIRST][INTERRUPTED_KEY]["next_job"] == again["job_id"]
    for _ in range(5):
        case.look(60)
    assert len(case.submitted) == 1, "once"


def test_attempts_in_vain_end_and_somebody_is_told_what_to_type(federation: Federation, clock: Clock) -> None:
    case = Case(federation, "always", clock)
    case.look()
    case.look(10)
    case.submitted[-1]["status"] = "FINISHED:EXECUTION_EXCEPTION"
    (one,) = case.look(1)
    assert (one.standing, one.attempt) == (Standing.WAITING, 1)
    case.look(18)
    assert len(case.submitted) == 1
    case.look(2)
    case.submitted[-1]["status"] = "FAILED_TO_RUN"
    (one,) = case.look(1)
    assert one.standing is Standing.GIVEN_UP and f"--resume {case.run}" in one.command
    case.look(10_000)
    assert len(case.submitted) == 2


@pytest.mark.parametrize(("policy", "standing"), [("ask", Standing.ASK), ("never", Standing.NEVER)])
def test_under_another_policy_nothing_is_submitted(
    federation: Federation, clock: Clock, policy: str, standing: Standing
) -> None:
    case = Case(federation, policy, clock)
    (one,) = case.look()
    assert one.standing is standing and f"--resume {case.run}" in one.command
    assert case.look(10_000)[0].standing is standing and not case.submitted


def test_a_run_that_a_process_works_on_is_not_interrupted(federation: Federation, clock: Clock) -> None:
    case = Case(federation, "always", clock)
    with alone(case.home, case.run):
        assert case.look(1000) == ()
        with pytest.raises(SpecError, match="another process works on"), alone(case.home, case.run):
            pass
    (one,) = case.look()
    assert one.due == round(clock.now) + 10, "the pause begins when the process is gone"
    assert case.look() and case.home.interrupted_path.exists()
    with alone(case.home, case.run):
        assert case.look() == () and not case.home.interrupted_path.exists()


@pytest.mark.parametrize("what", ["running", "ending", "draining"])
def test_while_a_job_runs_or_the_service_ends_nothing_is_submitted(
    federation: Federation, clock: Clock, what: str
) -> None:
    case = Case(federation, "always", clock)
    case.look()
    if what == "running":
        case.store.run_processes["other"] = {}
    elif what == "ending":
        case.store.job_runner.running_jobs["other"] = object()
    else:
        drain.begin(case.home)
    assert case.look(1000)[0].standing is Standing.WAITING and not case.submitted


def test_a_run_that_finished_is_forgotten_at_once(federation: Federation, clock: Clock) -> None:
    case = Case(federation, "ask", clock)
    assert case.look()
    local.run_job(job("ask"), federation.aggregator, federation.homes, resume=case.run)
    assert case.look() == () and not case.home.interrupted_path.exists()


def test_a_changed_charter_blocks_it_by_name(federation: Federation, clock: Clock) -> None:
    case = Case(federation, "always", clock)
    (case.home.root / "charter.bin").unlink()
    (one,) = case.look(1000)
    assert one.standing is Standing.BLOCKED and "charter has changed" in one.why and not case.submitted


def test_a_run_that_is_no_run_cannot_be_held(federation: Federation) -> None:
    home = AggregatorHome(federation.aggregator)
    with pytest.raises(SpecError, match="a run of this aggregator"), alone(home, "0" * 16):
        pass


@pytest.mark.parametrize("found", [{RESUME_KEY: 3}, {RESUME_KEY: "../x"}, {RESUME_KEY: "0" * 15}])
def test_a_record_that_names_no_run_is_refused(found: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        resume_in(found)
    assert resume_in({}) == resume_in([]) == ""
