"""The administrator's day on the real federation: submit, status, why, two jobs in a row, aborts, roles, wrong words.

The tests go on from one another, in this order. The jobs are small; a silo's process that hangs gives them time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

from aggregator.home import AggregatorHome
from aggregator.ledger.format import verify
from aggregator.ledger.records import Kind
from aggregator.tracking.follower import default_uri
from crypto.home import Home
from jobs.admin import jobs as admin_jobs
from jobs.flare.kit_builder import Roster, build
from jobs.flare.local_kits import root_path
from jobs.flare.session import ENDED, AdminSession, JobUnknown, NotAllowed
from tests.made_ledger import MLFLOW_WARNINGS
from tests.shared import Up, approved, fed, is_job_of, lines_of

pytestmark = [pytest.mark.federation, *MLFLOW_WARNINGS]

HUNG = "silo-3"
#: More than a job gets done before it is aborted.
ROUNDS = 400


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("admin")


@pytest.fixture(scope="module")
def kit(up: Up) -> str:
    return str(up.federation.root / "kits" / "admin")


@pytest.fixture(scope="module")
def member(up: Up, place: Path) -> str:
    """A kit of the same federation for somebody who only looks on."""
    kits = up.federation.root / "kits"
    port = json.loads((up.federation.root / "federation.json").read_text())["port"]
    who = {"looker@consilium.example": ("consilium", "member")}
    roster = Roster(name=up.federation.name, host="localhost", port=port, org="consilium", admins=who)
    with build(roster, root_path(kits).read_bytes()) as built:
        shutil.move(str(built.folder / "looker@consilium.example"), str(place / "member"))
    return str(place / "member")


@pytest.fixture(scope="module")
def watch(up: Up, kit: str) -> Iterator[AdminSession]:
    with AdminSession(Path(kit)) as session:
        yield session


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What one test hands to the next: job ids."""
    return {}


def job(up: Up, place: Path, name: str, rounds: int) -> str:
    path = place / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nmethod = "fedavg"\ndataset = "digits"\npurpose = "a test"\n[params]\n'
        f"features = 64\nclasses = 10\nrounds = {rounds}\n[timeouts]\nphase = 120\nstep = 240\n"
    )
    approved(up, str(path))
    return str(path)


def submit(up: Up, kit: str, path: str, *more: str, code: int = 0) -> dict[str, Any]:
    return fed("submit", path, "--kit", kit, "--charter", str(up.federation.root), *more, code=code)


def until(look: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


def processes_of(up: Up, job_id: str) -> list[psutil.Process]:
    found = []
    for process in up.tree():
        try:
            if any(job_id in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def last_line(up: Up, run: str) -> Any:
    return lines_of(up, run)[-1]


def ended(up: Up, job_id: str, found: dict[str, Any]) -> None:
    """Aborted by name everywhere: NVFlare, ledger, MLflow, and no process of it anywhere."""
    assert (found["nvflare"], found["state"]) == ("FINISHED:ABORTED", "aborted")
    run = found["run"]
    last = last_line(up, run)
    assert last.kind is Kind.RUN_FAILED and last.record.code == "ABORTED"
    assert found["status"]["outcome"]["on_ledger"] and found["status"]["outcome"]["phase"] == last.record.phase
    until(lambda: not processes_of(up, job_id), f"no process of {job_id}")
    uri = default_uri(AggregatorHome(up.federation.aggregator))
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    mark = f"tags.`consilium.run` = '{run}' and tags.`consilium.record` = 'job'"

    def killed() -> bool:
        runs = client.search_runs(experiments, mark)
        return [one.info.status for one in runs] == ["KILLED"]

    until(killed, "KILLED in MLflow")


def test_two_jobs_are_submitted_and_the_second_waits(
    up: Up, kit: str, place: Path, watch: AdminSession, told: dict[str, str]
) -> None:
    until(lambda: all(one["status"].startswith(ENDED) for one in watch.list_jobs()), "an idle server")
    first = submit(up, kit, job(up, place, "first", ROUNDS))
    assert first["not_connected"] == [] and len(first["job"]) == 64
    told["first"] = first["job_id"]
    told["second"] = submit(up, kit, job(up, place, "second-in-line", ROUNDS))["job_id"]
    until(lambda: admin_jobs.job_status(watch, told["first"])["state"] == "running", "the first runs")
    waits = admin_jobs.job_status(watch, told["second"])
    assert (waits["state"], waits["nvflare"], waits["status"]) == ("queued", "SUBMITTED", None)
    rows = {row["job_id"]: row for row in fed("jobs", "--kit", kit)["jobs"]}
    assert rows[told["first"]]["state"] == "running" and rows[told["second"]]["state"] == "queued"
    assert rows[told["first"]]["run"]


def test_why_names_the_silo_that_is_missing(
    up: Up, kit: str, watch: AdminSession, told: dict[str, str], place: Path
) -> None:
    until(lambda: admin_jobs.job_status(watch, told["first"])["status"]["last_closed"], "a step has closed")
    (hung,) = [p for p in processes_of(up, told["first"]) if is_job_of(p, HUNG)]
    hung.send_signal(signal.SIGSTOP)
    found = until(
        lambda: (now := admin_jobs.job_status(watch, told["first"]))["status"]["missing"] == [HUNG] and now,
        "it is missed",
    )
    assert len(found["status"]["answered"]) == len(up.federation.silos) - 1
    shown = fed("status", told["first"][:8], "--kit", kit, "--why")
    assert shown["status"]["missing"] == [HUNG] and shown["status"]["step"]["of"] == ROUNDS + 2
    (why,) = [line for line in shown["why"] if HUNG in line]
    assert f"phase {found['status']['phase']}" in why and "waiting for" in why


def test_an_abort_ends_it_everywhere_although_a_silo_hangs(up: Up, kit: str, told: dict[str, str]) -> None:
    found = fed("abort", told["first"], "--kit", kit)
    ended(up, told["first"], found)
    _, identity = AggregatorHome(up.federation.aggregator).open()
    verify(AggregatorHome(up.federation.aggregator).ledger_path, identity.public)
    assert fed("abort", told["first"], "--kit", kit, code=60)["error"] == "JOB_ENDED"


def test_the_next_in_line_runs_with_every_silo(up: Up, watch: AdminSession, told: dict[str, str]) -> None:
    found = until(
        lambda: (
            (now := admin_jobs.job_status(watch, told["second"]))["status"] and now["status"]["last_closed"] and now
        ),
        "the second job's first step",
    )
    assert found["status"]["last_closed"]["survivors"] == len(up.federation.silos), "the silo that hung is back"
    assert found["status"]["absent"] == {}


def test_a_member_looks_on_and_does_nothing(
    up: Up, member: str, place: Path, watch: AdminSession, told: dict[str, str]
) -> None:
    with AdminSession(Path(member)) as looker:
        assert admin_jobs.job_status(looker, told["second"])["state"] == "running"
        assert "closed with 8 of 8 silos" in looker.log(told["second"])
        with pytest.raises(NotAllowed, match="abort_job"):
            looker.abort(told["second"])
    refused = submit(up, member, str(place / "first.toml"), code=60)
    assert refused["error"] == "NOT_ALLOWED" and "submit_job" in refused["detail"] and "lead" in refused["remedy"]
    assert watch.status(told["second"]) == "RUNNING"


def test_a_job_that_waits_is_aborted_before_it_runs(
    up: Up, place: Path, watch: AdminSession, told: dict[str, str]
) -> None:
    charter = Home(up.federation.aggregator).charter()
    waits = admin_jobs.submit(watch, str(place / "first.toml"), charter)["job_id"]
    watch.abort(waits)
    watch.wait(waits, 60)
    found = admin_jobs.job_status(watch, waits)
    assert (found["state"], found["run"], found["status"]) == ("aborted", "", None)
    assert watch.status(told["second"]) == "RUNNING"


def nvflare(place: Path, *words: str, kit: str) -> subprocess.CompletedProcess[str]:
    """NVFlare's own command line."""
    command = [str(Path(sys.executable).with_name("nvflare")), "job", *words, "--startup-kit", kit]
    environment = {**os.environ, "HOME": str(place)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_nvflares_own_commands_abort_and_tell_as_ours_do(
    up: Up, kit: str, member: str, place: Path, watch: AdminSession, told: dict[str, str]
) -> None:
    refused = nvflare(place, "abort", told["second"], "--force", kit=member)
    assert refused.returncode != 0 and "not authorized" in refused.stdout + refused.stderr
    done = nvflare(place, "abort", told["second"], "--force", kit=kit)
    assert done.returncode == 0, done.stdout + done.stderr
    watch.wait(told["second"], 60)
    ended(up, told["second"], admin_jobs.job_status(watch, told["second"]))
    shown = nvflare(place, "meta", told["second"], "--format", "json", kit=kit).stdout
    assert "FINISHED:ABORTED" in shown and told["second"] in nvflare(place, "list", kit=kit).stdout


def test_a_site_that_nobody_knows_is_named(up: Up, kit: str, place: Path, watch: AdminSession) -> None:
    folder = place / "strange"
    fed("export", str(place / "first.toml"), "--out", str(folder), "--federation", str(up.federation.root))
    meta = json.loads((folder / "meta.json").read_text())
    meta["deploy_map"]["app"].append("silo-99")
    (folder / "meta.json").write_text(json.dumps(meta))
    job_id = watch.submit(folder)
    watch.wait(job_id, 60)
    found = admin_jobs.job_status(watch, job_id)
    outcome = found["status"]["outcome"]
    assert (found["state"], found["run"], outcome["code"], outcome["on_ledger"]) == ("failed", "", "SPEC", False)
    assert "silo-99" in outcome["detail"] and "silo-99" in "\n".join(found["why"])


def test_after_all_that_a_job_runs_to_its_end(up: Up, kit: str, place: Path) -> None:
    found = submit(up, kit, job(up, place, "last", 1), "--wait")
    assert (found["state"], found["nvflare"]) == ("finished", "FINISHED:COMPLETED")
    assert found["model"]["model"] == "last" and f"fed lineage last/{found['model']['version']}" in found["next"][-1]
    log = fed("logs", found["job_id"], "--kit", kit)["log"].splitlines()
    assert len([line for line in log if "closed with 8 of 8 silos" in line]) == 3
    assert not [line for line in log if "Register blob" in line]
    last = last_line(up, found["run"])
    assert last.kind is Kind.RUN_FINISHED and len(last.record.countersignatures) == len(up.federation.silos)
    assert not list((up.federation.aggregator / "nvflare" / "status").iterdir()), "NVFlare's record has it now"


def test_what_is_not_there_is_named(up: Up, kit: str, watch: AdminSession) -> None:
    unknown = "11111111-1111-4111-8111-111111111111"
    assert fed("abort", unknown, "--kit", kit, code=60)["error"] == "JOB_UNKNOWN"
    for ask in (watch.meta, watch.log, watch.abort):
        with pytest.raises(JobUnknown):
            ask(unknown)
    silo = str(up.federation.root / "kits" / "silo-1")
    assert fed("jobs", "--kit", silo, code=10)["error"] == "SPEC"
