"""Processes of a real federation die, and its runs end complete without a command.

A silo's job process, its service killed and drained, the server's job process, the server's service; then a job whose
policy leaves it to the administrator. The tests go on from one another, in this order.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aggregator import absences
from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry, verify
from aggregator.ledger.records import Kind
from aggregator.run_record import RunRecord
from crypto.errors import SpecError
from crypto.home import Home
from jobs.admin import jobs as admin_jobs
from jobs.admin.watch import watch
from jobs.flare.session import AdminSession
from jobs.job import JobSpec
from jobs.security_log.reader import check_log
from tests.deployed import Deployed
from tests.test_federation import scrape

pytestmark = pytest.mark.federation

#: More rounds than a job gets done before it is aborted.
LONG = 1000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    deployed = Deployed(tmp_path_factory.mktemp("survive"))
    try:
        for one in ("server", *deployed.silos):
            deployed.start(one, drain_s=10)
        deployed.all_ready()
        yield deployed
    finally:
        deployed.stop()


def spec(site: Deployed, rounds: int, name: str, **tables: Any) -> JobSpec:
    fields = json.loads(site.spec(rounds).text)
    fields["timeouts"]["job"] = 600
    return JobSpec.parse({**fields, "name": name, "resume": {"backoff": 1} | tables.pop("resume", {}), **tables})


def job_process(site: Deployed, who: str) -> psutil.Process:
    """The job process of a site, once it has one."""
    verb = "server-job" if who == "server" else "client-job"
    found: list[psutil.Process] = []

    def there() -> bool:
        for child in psutil.Process(site.processes[who].pid).children():
            try:
                if verb in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return bool(found)

    site.until(there, f"a job process of {who}")
    return found[0]


def kill_service(site: Deployed, who: str) -> None:
    """SIGKILL to the long-lived process alone, as the system's out-of-memory killer does."""
    service = psutil.Process(site.processes[who].pid)
    service.send_signal(signal.SIGKILL)
    site.may_end = frozenset({who})
    assert site.ended(who) == -signal.SIGKILL
    site.may_end = frozenset()


def closed(site: Deployed, since: int) -> list[Any]:
    return [entry.record for entry in site.recorded(since, Kind.STEP_CLOSED)]


def back(site: Deployed, silo: str) -> None:
    """The silo has a job process, and a step that closes from now on has its update."""
    job_process(site, silo)
    since = len(site.ledger())

    site.until(lambda: any(silo in record.survivors for record in closed(site, since)), f"{silo} back")


def finished(site: Deployed, since: int, run: str = "") -> Entry[Any]:
    ends = (Kind.RUN_FINISHED, Kind.RUN_FAILED)
    site.until(lambda: any(site.recorded(since, kind) for kind in ends), "ended", 120)
    assert not site.recorded(since, Kind.RUN_FAILED)
    (end,) = site.recorded(since, Kind.RUN_FINISHED)
    assert not run or end.record.run == run
    home = AggregatorHome(site.home("server"))
    verify(home.ledger_path, home.identity().public)
    record = RunRecord.read(home, end.record.run)
    assert len(record.outcomes) == len(record.plan.steps), "every step of the plan, once"
    return end


def ended(site: Deployed, session: AdminSession, job: str) -> dict[str, Any]:
    """The job's status once NVFlare has cleared it away, and no process of it is left."""
    session.wait(job, 60)
    for who in ("server", *site.silos):
        children = psutil.Process(site.processes[who].pid).children()
        psutil.wait_procs([child for child in children if job in " ".join(child.cmdline())], timeout=30)
    return admin_jobs.job_status(session, job)


def test_a_silo_comes_back_in_the_same_job_whatever_of_it_dies(site: Deployed) -> None:
    with site.admin() as session:
        began, job = site.submit(session, spec(site, LONG, "silos"), "silos")
        site.until(lambda: bool(site.recorded(began, Kind.STEP_CLOSED, name="train/1")), "at train/2")

        job_process(site, "silo-2").kill()
        events = site.home("silo-2")
        site.until(lambda: check_log(Home(events)).events.get("job-restarted") == 1, "started again")
        back(site, "silo-2")
        port = int((site.home("silo-2") / "metrics.port").read_text())
        assert "consilium_silo_job_restarts_total 1.0" in scrape(port)
        assert "consilium_silo_jobs_given_up_total 0.0" in scrape(port)

        kill_service(site, "silo-3")
        site.start("silo-3", drain_s=10)
        back(site, "silo-3")

        site.may_end = frozenset({"silo-1"})
        site.term("silo-1")
        assert site.ended("silo-1") == 0
        site.may_end = frozenset()
        site.start("silo-1", drain_s=10)
        back(site, "silo-1")

        whole = len(site.ledger())
        site.until(lambda: any(one.survivors == tuple(site.silos) for one in closed(site, whole)), "all in one sum")
        session.abort(job)
        ended(site, session, job)
    record = RunRecord.read(AggregatorHome(site.home("server")), closed(site, began)[0].run)
    # The others may have been back so soon that no sum lacks them.
    assert "silo-1" in absences.of_run(record), "its service declined a step at least, before it ended"
    assert not site.recorded(began, Kind.RUN_RESUMED), "one job, one run, no break"
    assert not site.recorded(began, Kind.STEP_VOID)


def test_a_run_goes_on_when_the_servers_job_process_was_killed(site: Deployed) -> None:
    with site.admin() as session:
        began, job = site.submit(session, spec(site, 12, "server-job"), "server-job")
        site.until(lambda: bool(site.recorded(began, Kind.STEP_CLOSED, name="train/1")), "at train/2")
        run = closed(site, began)[0].run
        job_process(site, "server").kill()
        said: list[str] = []
        found = watch(session, job, said.append, timeout_s=90)
        last = found["job_id"]
        assert last != job and f"interrupted; it goes on as job {last}" in said
        finished(site, began, run)
        (resumed,) = site.recorded(began, Kind.RUN_RESUMED)
        first, second = ended(site, session, job), ended(site, session, last)
    assert found["nvflare"] == "FINISHED:COMPLETED" and resumed.record.run == run
    assert (first["state"], first["goes_on_as"]) == ("interrupted", last)
    assert (second["state"], second["run"]) == ("finished", run)


def test_a_run_goes_on_when_the_servers_service_was_killed(site: Deployed) -> None:
    with site.admin() as session:
        began, _ = site.submit(session, spec(site, 12, "server"), "server")
        site.until(lambda: bool(site.recorded(began, Kind.STEP_CLOSED, name="train/1")), "at train/2")
    run = closed(site, began)[0].run
    kill_service(site, "server")
    assert not site.recorded(began, Kind.RUN_FINISHED)
    site.start("server", drain_s=10)
    finished(site, began, run)
    assert site.recorded(began, Kind.RUN_RESUMED)
    site.all_ready()


def test_under_the_policy_ask_it_is_told_and_goes_on_by_command(site: Deployed, tmp_path: Path) -> None:
    asks = spec(site, 12, "asks", resume={"policy": "ask"})
    charter = Home(site.home("server")).charter()
    path = tmp_path / "asks.toml"
    params = "\n".join(f"{key} = {value}" for key, value in asks.params.items())
    times = "\n".join(f"{key} = {value}" for key, value in asks.timeouts.items())
    path.write_text(
        f'name = "asks"\nmethod = "fedavg"\ndataset = "digits"\npurpose = "a test"\n[params]\n{params}\n'
        f'[timeouts]\n{times}\n[resume]\npolicy = "ask"\nbackoff = 1\n'
    )
    assert JobSpec.load(path) == asks
    with site.admin() as session:
        session.wait_for_silos(3)
        began, job = site.submit(session, asks, "asks")
        site.until(lambda: bool(site.recorded(began, Kind.STEP_CLOSED, name="train/1")), "at train/2")
        run = closed(site, began)[0].run
        with pytest.raises(SpecError, match="is under way as job"):
            admin_jobs.submit(session, str(path), charter, resume=run)
        job_process(site, "server").kill()
        port = int((site.home("server") / "metrics.port").read_text())
        asked = 'consilium_aggregator_interrupted_runs{standing="ask"} 1.0'
        site.until(lambda: asked in scrape(port), "told to Prometheus")
        assert f"fed submit asks.toml --resume {run}" in json.loads(scrape(port, "readyz"))["detail"]
        session.wait(job, 60)

        def told() -> str:
            found = admin_jobs.job_status(session, job)
            return " ".join([*found["why"], *found["next"]])

        site.until(lambda: "policy is 'ask'" in told(), "told to the administrator")
        assert f"--resume {run}" in told()
        other = spec(site, 13, "asks", resume={"policy": "ask"})
        with pytest.raises(SpecError, match="of which"):
            admin_jobs.check_run(session, run, other)
        with pytest.raises(SpecError, match="no job of this server"):
            admin_jobs.submit(session, str(path), charter, resume="0" * 16)
        assert not site.recorded(began, Kind.RUN_RESUMED)
        again = admin_jobs.submit(session, str(path), charter, resume=run)
        finished(site, began, run)
        assert ended(site, session, again["job_id"])["state"] == "finished"
        with pytest.raises(SpecError, match="has finished"):
            admin_jobs.submit(session, str(path), charter, resume=run)
    site.until(lambda: asked.replace("1.0", "0.0") in scrape(port), "told no more")
    assert "detail" not in json.loads(scrape(port, "readyz"))
