"""The administrator's functions and verbs over a pretended session: what they ask, make of the answers, and print."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.flare_api import api_spec
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.security.security import FLAuthorizer

from aggregator.home import AggregatorHome
from crypto.errors import FederationError, SpecError
from crypto.home import Home
from jobs.admin import jobs as admin_jobs
from jobs.admin import watch as watching
from jobs.admin.render import job_lines, table_lines
from jobs.cli import main as cli
from jobs.demo.federation import Federation
from jobs.flare import outcomes, session
from jobs.flare.local_kits import Kits, free_port, provision
from jobs.flare.session import AdminSession, JobEnded, JobUnknown, NoServer, NotAllowed, SessionError, kit_admin
from jobs.job import JobSpec
from jobs.runtime.compose import _take_turn
from jobs.runtime.status import Absent, LastClosed, RunEnd, RunState, RunStatus, as_json
from silo_agent.home import SiloHome
from silo_agent.journal import Journal
from tests import local

ID = "aaaaaaaa-0000-4000-8000-00000000000{}"
SILOS = tuple(f"silo-{i}" for i in range(1, 9))


def meta(number: int, status: str = "SUBMITTED", **more: Any) -> dict[str, Any]:
    facts = {"job_id": ID.format(number), "name": "demo", "status": status, "submitter_name": "kim@x"}
    return {**facts, "submit_time_iso": f"2026-01-01T00:00:0{number}", **more}


RUNNING = RunStatus(
    run="r1",
    job="ab",
    state=RunState.RUNNING,
    steps=4,
    k=1,
    step="train/0",
    attempt=1,
    phase="deal",
    since="2026-01-01T00:00:00.000Z",
    asked=("silo-1", "silo-2"),
    answered=("silo-2",),
    absent={"silo-3": Absent("train/0", "open", "NOT_APPROVED"), "silo-4": Absent("rows/0", "fetch")},
    released=1,
    void=1,
    closed=LastClosed(k=0, name="rows/0", time="t", invited=8, survivors=7, shut=("expert-0",), withheld=("rows",)),
)
ABORTED = replace(
    RUNNING,
    state=RunState.ABORTED,
    outcome=RunEnd(time="t2", recorded=True, code="ABORTED", phase="deal", detail="The administrator aborted the job."),
)
DONE = replace(RUNNING, state=RunState.FINISHED, outcome=RunEnd(time="t2", recorded=True))


class Pretended:
    """A session over these records. ``stats``: of the job that runs."""

    def __init__(self, *jobs: dict[str, Any], stats: Mapping[str, Any] | None = None, here: tuple[str, ...] = SILOS):
        self.jobs = {str(job["job_id"]): job for job in jobs}
        self.told = stats or {}
        self.here = here
        self.done: list[tuple[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def list_jobs(self, prefix: str = "") -> list[dict[str, Any]]:
        return [job for job in self.jobs.values() if str(job["job_id"]).startswith(prefix)]

    def meta(self, job_id: str) -> dict[str, Any]:
        return self.jobs[job_id]

    def stats(self, job_id: str) -> Mapping[str, Any]:
        return self.told

    def silos(self) -> tuple[str, ...]:
        return self.here

    def submit(self, folder: Path) -> str:
        files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
        self.done.append(("submit", files))
        self.jobs[ID.format(9)] = meta(9)
        return ID.format(9)

    def wait(self, job_id: str, timeout_s: float, seen: Any = None) -> str:
        self.done.append(("wait", timeout_s))
        if seen is not None:
            seen("RUNNING")
        found = {"ABORTED": "FINISHED:ABORTED"}.get(str(self.told.get("word")), "FINISHED:COMPLETED")
        self.jobs[job_id] |= {"status": found}
        return found

    def abort(self, job_id: str) -> None:
        self.done.append(("abort", job_id))
        self.jobs[job_id] |= {"status": "FINISHED:ABORTED", "consilium": as_json(ABORTED)}

    def log(self, job_id: str) -> str:
        return "one\ntwo \x1b[31mred\n"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return local.federation(tmp_path_factory.mktemp("admin") / "test")


@pytest.fixture(scope="module")
def kits(federation: Federation) -> Kits:
    return provision(
        federation.root / "kits",
        name="test",
        silos=federation.silos,
        port=free_port(),
        server_home=federation.aggregator_home,
        silo_homes=federation.silo_homes,
    )


# --- submit ------------------------------------------------------------------------------------------------------


def test_submit_signs_a_folder_of_the_job_under_the_charter(federation: Federation) -> None:
    charter = Home(federation.aggregator).charter()
    one = Pretended(here=SILOS[:6])
    done = admin_jobs.submit(one, "fedavg-digits", charter)  # type: ignore[arg-type]
    assert done["job_id"] == ID.format(9) and done["job"] == JobSpec.load("fedavg-digits").digest.hex()
    assert (done["silos"], done["not_connected"], done["least"]) == (list(SILOS), ["silo-7", "silo-8"], 6)
    ((what, files),) = one.done
    assert what == "submit" and json.loads(files["meta.json"])["deploy_map"]["app"] == ["server", *SILOS]


def test_resume_travels_with_the_job(federation: Federation) -> None:
    broken = replace(RUNNING, run="0123456789abcdef", job=JobSpec.load("fedavg-digits").digest.hex())
    one = Pretended(meta(1, "FINISHED:ABNORMAL", consilium=as_json(broken)))
    charter = Home(federation.aggregator).charter()
    admin_jobs.submit(one, "fedavg-digits", charter, resume="0123456789abcdef")  # type: ignore[arg-type]
    assert '"resume": "0123456789abcdef"' in one.done[0][1]["app/config/config_fed_server.json"]
    with pytest.raises(SpecError, match="hexadecimal"):
        admin_jobs.submit(one, "fedavg-digits", charter, resume="latest")  # type: ignore[arg-type]


def test_the_charter_is_checked_and_must_be_that_of_the_kit(federation: Federation, tmp_path: Path) -> None:
    now = int(time.time())
    for folder in (federation.root, federation.aggregator, federation.silo("silo-1")):
        assert admin_jobs.charter_of(folder, "test", now).silos == SILOS
    with pytest.raises(SpecError, match="that of other"):
        admin_jobs.charter_of(federation.root, "other", now)
    with pytest.raises(FederationError, match="not_after"):
        admin_jobs.charter_of(federation.root, "test", now + 400 * 86400)
    with pytest.raises(SpecError, match="pinned charter"):
        admin_jobs.charter_of(tmp_path, "test", now)
    broken = tmp_path / "charter.bin"
    data = bytearray((federation.aggregator / "charter.bin").read_bytes())
    data[40] ^= 1
    broken.write_bytes(bytes(data))
    (tmp_path / "consortium.pub").write_bytes((federation.aggregator / "consortium.pub").read_bytes())
    with pytest.raises(FederationError):
        admin_jobs.charter_of(tmp_path, "test", now)


# --- status ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "stats", "state", "why"),
    [
        (meta(1), None, "queued", "one job runs at a time"),
        (meta(1, schedule_history=["connected sites (2) < min_sites (5)"]), None, "queued", "connected sites (2)"),
        (meta(1, "DISPATCHED"), None, "starting", ""),
        (meta(1, "RUNNING"), None, "starting", ""),
        (meta(1, "RUNNING"), RUNNING, "running", "waiting for silo-1"),
        (meta(1, "RUNNING"), RUNNING, "running", "silo-3 refused: NOT_APPROVED, in step train/0, phase open"),
        (meta(1, "RUNNING"), RUNNING, "running", "signs with `fed approve` there; then submit again"),
        (meta(1, "RUNNING"), RUNNING, "running", "silo-4 did not answer, in step rows/0, phase fetch"),
        (meta(1, "RUNNING"), RUNNING, "running", "stayed shut in step rows/0: expert-0"),
        (meta(1, "RUNNING"), RUNNING, "running", "could show one silo's own: rows of rows/0."),
        (meta(1, "RUNNING"), RUNNING, "running", "1 void"),
        (meta(1, "FINISHED:ABORTED", consilium=as_json(ABORTED)), None, "aborted", "ended with ABORTED"),
        (meta(1, "FINISHED:ABORTED"), None, "aborted", ""),
        (meta(1, "FINISHED:COMPLETED", consilium=as_json(DONE)), None, "finished", "1 void"),
        (meta(1, "FINISHED:ABNORMAL", consilium=as_json(RUNNING)), None, "interrupted", "process ended under it"),
        (meta(1, "FINISHED:CANT_SCHEDULE", schedule_history=["no silos"]), None, "not started", "no silos"),
        (meta(1, "FAILED_TO_RUN", job_deploy_detail=["server: OK", "silo-1: bad"]), None, "not started", "silo-1: bad"),
        (meta(1, "FINISHED:EXECUTION_EXCEPTION"), None, "failed", "fed logs"),
        (meta(1, "A NEW WORD"), None, "unknown", ""),
    ],
)
def test_where_a_job_stands_and_why(record: dict[str, Any], stats: RunStatus | None, state: str, why: str) -> None:
    one = Pretended(record, stats=as_json(stats) if stats else None)
    found = admin_jobs.job_status(one, ID.format(1))  # type: ignore[arg-type]
    assert found["state"] == state and why in "\n".join(found["why"])
    assert found["run"] == ("r1" if stats or "consilium" in record else "")
    (row,) = admin_jobs.overview(one)  # type: ignore[arg-type]
    assert row["state"] == state
    goes_on = state in ("aborted", "interrupted", "failed") and found["run"] == "r1"
    assert (found["next"] == ["go on with it: fed submit JOB --resume r1"]) is goes_on
    assert ("check the run: fed verify r1 --home HOME" in found["next"]) is (state == "finished")
    assert job_lines(found, why=True)[0].startswith(f"demo ({ID.format(1)}): {state}")


def test_a_job_that_ends_while_it_is_asked_tells_its_end() -> None:
    class Ends(Pretended):
        def stats(self, job_id: str) -> Mapping[str, Any]:
            self.jobs[job_id] = meta(1, "FINISHED:ABORTED", consilium=as_json(ABORTED))
            return {}

    assert admin_jobs.job_status(Ends(meta(1, "RUNNING")), ID.format(1))["state"] == "aborted"  # type: ignore[arg-type]


def test_a_status_of_another_release_is_said_to_be_one() -> None:
    one = Pretended(meta(1, "RUNNING"), stats={"state": "fine"})
    with pytest.raises(FederationError, match="release"):
        admin_jobs.job_status(one, ID.format(1))  # type: ignore[arg-type]


def test_the_first_digits_of_an_id_will_do() -> None:
    one = Pretended(meta(1), meta(2))
    assert admin_jobs.whole_id(one, ID.format(2)) == ID.format(2)  # type: ignore[arg-type]
    assert admin_jobs.whole_id(Pretended(meta(1)), "aaaa") == ID.format(1)  # type: ignore[arg-type]
    for prefix, says in (("aaaa", "2 jobs"), ("bb", "No jobs"), ("-d", "No jobs"), ("A;ls", "No jobs")):
        with pytest.raises(JobUnknown, match=says):
            admin_jobs.whole_id(one, prefix)  # type: ignore[arg-type]


def test_a_server_cannot_steer_a_terminal() -> None:
    one = Pretended(meta(1, "RUNNING\x1b[2J", name="de\x07mo"))
    assert "\x1b" not in json.dumps(admin_jobs.overview(one)) and "\x07" not in table_lines(admin_jobs.overview(one))[1]  # type: ignore[arg-type]
    assert admin_jobs.log_text(one, ID.format(1)) == "one\ntwo  [31mred"  # type: ignore[arg-type]


def test_the_lines_of_a_running_job() -> None:
    one = Pretended(meta(1, "RUNNING"), stats=as_json(RUNNING))
    lines = job_lines(admin_jobs.job_status(one, ID.format(1)), why=False)  # type: ignore[arg-type]
    assert lines[1:] == [
        "run r1: 1 of 4 steps closed, 1 void",
        "is at step train/0 (2 of 4, attempt 2), phase deal",
        "since 2026-01-01T00:00:00.000Z: 1 of 2 answered; missing: silo-1",
        "last closed: rows/0 at t, 7 of 8 silos; shut: expert-0; figures withheld by the silos: rows",
        "out: silo-3 NOT_APPROVED (open), silo-4 silent (fetch)",
    ]
    scored = Pretended(meta(1, "RUNNING"), stats=as_json(replace(RUNNING, headline="global AUROC 0.8")))
    assert "scores: global AUROC 0.8" in job_lines(admin_jobs.job_status(scored, ID.format(1)), why=False)  # type: ignore[arg-type]
    assert table_lines([]) == ["no jobs"]


# --- the verbs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    one = Pretended(meta(1, "RUNNING"), stats=as_json(RUNNING))
    monkeypatch.setattr(session, "AdminSession", lambda kit: one)
    yield one


def fed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fed", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_day_in_verbs(
    pretended: Pretended,
    kits: Kits,
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kit = ("--kit", str(kits.admin))
    words = ("submit", "fedavg-digits", *kit, "--charter", str(federation.root))
    code, out, _ = fed(monkeypatch, capsys, *words)
    assert code == 0 and f"submitted as {ID.format(9)}" in out
    pretended.jobs[ID.format(9)] |= {"consilium": as_json(replace(ABORTED, state=RunState.FINISHED))}
    code, out, err = fed(monkeypatch, capsys, "jobs", *kit)
    assert code == 0 and len(out.splitlines()) == 3
    code, out, _ = fed(monkeypatch, capsys, "jobs", *kit, "--json")
    assert code == 0 and len(json.loads(out)["jobs"]) == 2
    code, out, _ = fed(monkeypatch, capsys, "status", ID.format(1), *kit, "--why", "--json")
    assert code == 0 and json.loads(out)["status"]["missing"] == ["silo-1"]
    code, out, _ = fed(monkeypatch, capsys, "logs", ID.format(1), *kit)
    assert code == 0 and out.startswith("one\ntwo")
    code, out, err = fed(monkeypatch, capsys, "abort", ID.format(1), *kit, "--json")
    assert code == 0 and json.loads(out)["state"] == "aborted" and "being stopped" in err
    assert ("abort", ID.format(1)) in pretended.done and ("wait", admin_jobs.ABORT_S) in pretended.done


@pytest.mark.parametrize(("kept", "code"), [(None, 40), (ABORTED, 40), (replace(ABORTED, state=RunState.FINISHED), 0)])
def test_submit_and_wait_ends_with_the_outcome(
    pretended: Pretended,
    kits: Kits,
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: RunStatus | None,
    code: int,
) -> None:
    ended = {"status": "FINISHED:EXECUTION_EXCEPTION"} | ({"consilium": as_json(kept)} if kept else {})
    monkeypatch.setattr(watching, "MODEL_S", 0.0)

    def submit(self: Pretended, folder: Path) -> str:
        self.jobs[ID.format(9)] = meta(9) | ended
        return ID.format(9)

    monkeypatch.setattr(Pretended, "submit", submit)
    words = ("submit", "fedavg-digits", "--kit", str(kits.admin), "--charter", str(federation.root), "--wait", "--json")
    got, out, _ = fed(monkeypatch, capsys, *words)
    assert got == code and json.loads(out.splitlines()[-1])["job_id"] == ID.format(9)


def test_a_watched_job_ends_with_its_outcome_and_its_log_is_followed(
    pretended: Pretended, kits: Kits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = ("--kit", str(kits.admin))
    model = {"model": "demo", "version": "2", "tracking_uri": "/x/mlflow.db", "run_id": "f"}
    done = meta(1, "FINISHED:COMPLETED", consilium=as_json(DONE), consilium_model=model)
    pretended.jobs[ID.format(1)] = done
    code, out, _ = fed(monkeypatch, capsys, "status", "aaaa", *kit, "--watch")
    assert code == 0 and "model: demo, version 2" in out and "fed lineage demo/2 --home HOME" in out
    code, out, err = fed(monkeypatch, capsys, "status", "aaaa", *kit, "--watch", "--json")
    assert code == 0 and json.loads(out)["model"] == model and "demo: finished" in err
    code, out, _ = fed(monkeypatch, capsys, "logs", "aaaa", *kit, "-f")
    assert code == 0 and out.splitlines()[0] == "one"
    code, out, _ = fed(monkeypatch, capsys, "logs", "aaaa", *kit, "--follow", "--json")
    assert code == 0 and json.loads(out.splitlines()[0]) == {"line": "one"}
    pretended.jobs[ID.format(1)] = meta(1, "FINISHED:ABORTED", consilium=as_json(ABORTED))
    code, _, _ = fed(monkeypatch, capsys, "status", "aaaa", *kit, "--watch", "--json")
    assert code == 40


def test_the_exit_code_of_an_outcome() -> None:
    for code, want in (("SPEC", 10), ("ROUND_LOST", 40), ("ABORTED", 40), ("NO_SPACE", 30), ("INTERNAL", 40)):
        assert admin_jobs.exit_code({"status": {"outcome": {"code": code}}}) == want
    assert admin_jobs.exit_code({"status": None}) == 40
    assert admin_jobs.wait_s("fedavg-digits") > JobSpec.load("fedavg-digits").timeouts["job"]


# --- the session -------------------------------------------------------------------------------------------------


def test_a_kit_of_somebody_else_is_refused(kits: Kits) -> None:
    assert kit_admin(kits.admin) == ("test", kits.admin_name)
    for kit in (kits.server, kits.silos["silo-1"]):
        with pytest.raises(SpecError, match="an administrator's kit"):
            AdminSession(kit)


def test_a_server_that_is_down_is_named_at_once(kits: Kits) -> None:
    began = time.monotonic()
    with pytest.raises(NoServer, match=f"localhost:{kits.port}"), AdminSession(kits.admin):
        pass
    assert time.monotonic() - began < 10


def test_who_does_not_answer_like_a_server_is_none(kits: Kits) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", kits.port))
        mute.listen()
        with pytest.raises(SessionError), AdminSession(kits.admin, timeout_s=1.0):
            pass


class Answers:
    """NVFlare's session: says this of a job's state, and does this when it is to abort."""

    def __init__(self, words: list[str], error: Exception | None = None, found: Any = None) -> None:
        self.words, self.error, self.found, self.aborted = words, error, found, False

    def get_job_meta(self, job_id: str) -> dict[str, str]:
        return {"status": self.words.pop(0)}

    def abort_job(self, job_id: str) -> None:
        if self.error is not None:
            raise self.error
        self.aborted = True

    def show_stats(self, job_id: str, target: str) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        assert target == "server"
        return self.found

    def get_job_logs(self, job_id: str, target: str) -> Any:
        assert target == "server"
        return self.found


def opened(kits: Kits, answers: Answers) -> AdminSession:
    found = AdminSession(kits.admin)
    found._session = answers  # type: ignore[assignment]
    return found


DENIED = api_spec.AuthorizationError("not ok '/tmp/x: user 'kim@x' is not authorized for 'abort_job''")


@pytest.mark.parametrize(
    ("words", "error", "wanted"),
    [
        (["FINISHED:COMPLETED"], None, JobEnded),
        (["FAILED_TO_RUN"], None, JobEnded),
        (["RUNNING", "FINISHED:COMPLETED"], api_spec.InternalError("not running"), JobEnded),
        (["RUNNING", "RUNNING"], api_spec.InternalError("broken"), SessionError),
        (["RUNNING"], DENIED, NotAllowed),
        (["RUNNING"], api_spec.JobNotFound("no such job"), JobUnknown),
    ],
)
def test_an_abort_that_cannot_be_is_named(
    kits: Kits, words: list[str], error: Exception | None, wanted: type[SessionError]
) -> None:
    with pytest.raises(SessionError) as refused:
        opened(kits, Answers(words, error)).abort("a")
    assert type(refused.value) is wanted
    if wanted is NotAllowed:
        assert refused.value.detail == "user 'kim@x' is not authorized for 'abort_job'."
        assert "lead" in refused.value.remedy


@pytest.mark.parametrize("word", ["SUBMITTED", "DISPATCHED", "RUNNING"])
def test_a_job_that_waits_or_runs_is_aborted(kits: Kits, word: str) -> None:
    answers = Answers([word])
    opened(kits, answers).abort("a")
    assert answers.aborted


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"server": {"consilium": {"run": "r"}}}, {"run": "r"}),
        ({"server": {"ServerRunner": {}}}, {}),
        ({"server": None}, {}),
        ("text", {}),
        (api_spec.JobNotRunning("a"), {}),
    ],
)
def test_statistics_without_ours_say_nothing(kits: Kits, found: Any, told: dict[str, Any]) -> None:
    assert opened(kits, Answers([], found=found)).stats("a") == told


def test_a_job_without_a_log_is_named(kits: Kits) -> None:
    assert opened(kits, Answers([], found={"logs": {"server": "text"}})).log("a") == "text"
    with pytest.raises(JobUnknown, match="no log"):
        opened(kits, Answers([], found={"logs": {}, "unavailable": {"server": "why"}})).log("a")


# --- what the kits allow -----------------------------------------------------------------------------------------


def may(kit: Path, role: str, right: str, *, submitter: str = "me@x") -> bool:
    policy = FLAuthorizer("consilium", json.loads((kit / "local" / "authorization.json").read_text()))
    user, other = Person("me@x", "consilium", role), Person(submitter, "consilium", "lead")
    allowed, _ = policy.evaluate(AuthzContext(right=right, user=user, submitter=other))
    return bool(allowed)


@pytest.mark.parametrize("role", ["lead", "org_admin", "member"])
def test_roles(kits: Kits, role: str) -> None:
    lead = role == "lead"
    assert may(kits.server, role, "submit_job") is lead
    assert may(kits.server, role, "abort_job") is lead
    assert not may(kits.server, role, "abort_job", submitter="you@x")
    for right in ("list_jobs", "get_job_meta", "show_stats", "get_job_log", "check_status"):
        assert may(kits.server, role, right), right
    for right in ("show_errors", "reset_errors", "configure_job_log", "clone_job", "app_command"):
        assert not may(kits.server, role, right), right
    for right in ("show_stats", "get_job_log", "show_errors"):
        assert not may(kits.silos["silo-1"], role, right), right


def test_one_job_at_a_time(kits: Kits) -> None:
    components = json.loads((kits.server / "local" / "resources.json").read_text())["components"]
    found = {one["id"]: one for one in components}
    assert found["job_scheduler"]["args"]["max_jobs"] == 1
    assert found["job_outcomes"]["path"] == "jobs.flare.outcomes.JobOutcomes"


# --- what ended jobs keep ----------------------------------------------------------------------------------------


class Manager:
    """NVFlare's job manager and engine in one."""

    def __init__(self, *known: str) -> None:
        self.known, self.kept = known, {}  # type: tuple[str, ...], dict[str, Any]

    def get_component(self, name: str) -> Manager:
        assert name == SystemComponents.JOB_MANAGER
        return self

    def get_job(self, job_id: str, fl_ctx: FLContext) -> object:
        return job_id if job_id in self.known else None

    def update_meta(self, job_id: str, found: dict[str, Any], fl_ctx: FLContext) -> None:
        self.kept[job_id] = found


def test_a_job_that_ends_keeps_its_last_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "job_home", lambda: Home(tmp_path))
    manager, keeper = Manager("one", "two", "torn"), outcomes.JobOutcomes()
    fl_ctx = FLContext()
    monkeypatch.setattr(fl_ctx, "get_engine", lambda: manager)
    files = {name: outcomes.status_file(AggregatorHome(tmp_path), name) for name in ("one", "two", "gone", "torn")}
    files["one"].parent.mkdir(parents=True)
    for name, path in files.items():
        path.write_text(json.dumps({"run": name}) if name != "torn" else "{")
    fl_ctx.set_prop(FLContextKey.EVENT_DATA, {"job_id": "one"}, private=True, sticky=False)
    keeper.handle_event(EventType.JOB_STARTED, fl_ctx)
    assert manager.kept == {}
    keeper.handle_event(EventType.JOB_COMPLETED, fl_ctx)
    assert manager.kept == {"one": {"consilium": {"run": "one"}}} and not files["one"].exists()
    keeper.handle_event(EventType.JOB_COMPLETED, fl_ctx)  # nothing was left: nothing is kept
    keeper.handle_event(EventType.SYSTEM_START, fl_ctx)
    assert set(manager.kept) == {"one", "two"} and list(files["one"].parent.iterdir()) == []


def test_a_finished_job_gets_the_name_of_its_model_when_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = AggregatorHome(tmp_path)
    monkeypatch.setattr(outcomes, "job_home", lambda: Home(tmp_path))
    facts = {"model": "wards", "version": "1", "tracking_uri": "sqlite", "run_id": "f" * 32}
    done = threading.Event()

    class Engine(Manager):
        def new_context(self) -> FLContext:
            return FLContext()

        def update_meta(self, job_id: str, found: dict[str, Any], fl_ctx: FLContext) -> None:
            self.kept.setdefault(job_id, {}).update(found)
            if outcomes.MODEL_KEY in found:
                done.set()
            else:  # the follower writes it later
                home.run_folder("r1").mlflow_path.parent.mkdir(parents=True, exist_ok=True)
                home.run_folder("r1").mlflow_path.write_text(json.dumps(facts))

    engine, fl_ctx = Engine("one", "two", "three"), FLContext()
    monkeypatch.setattr(fl_ctx, "get_engine", lambda: engine)
    outcomes.status_file(home, "one").parent.mkdir(parents=True)
    left = {"one": as_json(DONE), "two": as_json(ABORTED), "three": {"run": "../x", "state": "finished"}}
    for name, status in left.items():
        outcomes.status_file(home, name).write_text(json.dumps(status))
    outcomes.JobOutcomes().handle_event(EventType.SYSTEM_START, fl_ctx)
    assert done.wait(30)
    assert engine.kept["one"][outcomes.MODEL_KEY] == facts
    assert outcomes.MODEL_KEY not in engine.kept["two"] and outcomes.MODEL_KEY not in engine.kept["three"]


# --- the next job ------------------------------------------------------------------------------------------------


def test_an_agent_waits_for_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.runtime import compose as runtime_compose

    _take_turn(SiloHome(tmp_path))  # no journal yet: nobody to wait for
    before = Journal(tmp_path / "journal.jsonl")
    looked: list[float] = []

    def look(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) == 3:
            before.close()

    monkeypatch.setattr(runtime_compose.time, "sleep", look)
    _take_turn(SiloHome(tmp_path))
    assert len(looked) == 3
    Journal(tmp_path / "journal.jsonl").close()
    held = Journal(tmp_path / "journal.jsonl")
    monkeypatch.setattr(runtime_compose, "TURN_S", 0.0)
    _take_turn(SiloHome(tmp_path))  # in vain: the journal says why
    with pytest.raises(SpecError, match="in use"):
        Journal(tmp_path / "journal.jsonl")
    held.close()


def test_a_jobs_agent_takes_its_turn(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.runtime import compose as runtime_compose

    home = federation.silo("silo-2")
    before = Journal(home / "journal.jsonl")
    monkeypatch.setattr(runtime_compose.time, "sleep", lambda seconds: before.close())
    local.open_agent(local.spec("fedavg").text, SiloHome(home)).close()
