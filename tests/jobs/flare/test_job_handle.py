"""A silo's job process that dies is started again: how often, after which pauses, and when it is not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from nvflare.apis.job_launcher_spec import JobReturnCode

from crypto.errors import SpecError
from jobs.flare import job_handle
from jobs.flare.job_handle import MOST, MOST_VAR, RestartingHandle, Restarts

QUICK = Restarts(most=3, first_s=0.0, longest_s=0.0)


class Process:
    """Ends at once with its code, or when it is terminated. ``rc``: what it leaves in the file before."""

    def __init__(self, code: int | None, rc: str | None, rc_file: Path) -> None:
        self._code, self._ended = code, threading.Event()
        if rc is not None:
            rc_file.write_text(rc)

    def wait(self) -> int:
        if self._code is None:
            assert self._ended.wait(10)
            return -15
        return self._code

    def terminate(self) -> None:
        self._ended.set()


class Site:
    """Starts processes by a script of (exit code, rc file); OSError is raised where the script has one."""

    def __init__(self, folder: Path, *script: tuple[int | None, str | None] | OSError) -> None:
        self.script = list(script)
        self.rc_file = folder / "rc"
        self.started: list[Process] = []
        self.told: list[tuple[str, int, int]] = []
        self.wanted = True
        self.on_start: Callable[[], None] = lambda: None

    def start(self) -> Process:
        found = self.script.pop(0)
        if isinstance(found, OSError):
            raise found
        self.started.append(Process(*found, self.rc_file))
        self.on_start()
        return self.started[-1]

    def handle(self, restarts: Restarts = QUICK) -> RestartingHandle:
        return RestartingHandle(
            self.start,
            self.rc_file,
            "job",
            restarts=restarts,
            wanted=lambda: self.wanted,
            tell=lambda *what: self.told.append(what),
        )


@pytest.fixture(autouse=True)
def not_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_handle, "ENDING", threading.Event())


def test_a_process_that_ends_well_is_not_started_again(tmp_path: Path) -> None:
    site = Site(tmp_path, (0, "0"))
    handle = site.handle()
    handle.wait()
    assert handle.poll() == JobReturnCode.SUCCESS
    assert len(site.started) == 1 and site.told == [] and site.rc_file.read_text() == "0"


@pytest.mark.parametrize(
    ("code", "rc", "told"),
    [(-9, None, -9), (1, None, 1), (0, "1", 1), (101, "101", 101), (-11, "rubbish", -11), (1, "", 1)],
)
def test_one_that_died_is_started_again_and_the_bad_end_is_not_reported(
    tmp_path: Path, code: int, rc: str | None, told: int
) -> None:
    site = Site(tmp_path, (code, rc), (0, "0"))
    handle = site.handle()
    assert handle.poll() == JobReturnCode.UNKNOWN
    handle.wait()
    assert len(site.started) == 2
    assert site.told == [("job-restarted", 1, told)]
    assert handle.poll() == JobReturnCode.SUCCESS


def test_it_is_given_up_after_so_many_starts_in_a_row(tmp_path: Path) -> None:
    site = Site(tmp_path, *[(-9, None)] * 4)
    handle = site.handle()
    handle.wait()
    assert [event for event, _, _ in site.told] == ["job-restarted"] * 3 + ["job-given-up"]
    assert len(site.started) == 4 and handle.poll() == JobReturnCode.UNKNOWN
    assert not site.rc_file.exists(), "NVFlare would read it and fail the job for everybody"


def test_none_is_started_where_the_operator_wants_none(tmp_path: Path) -> None:
    site = Site(tmp_path, (-9, "9"))
    site.handle(Restarts(most=0)).wait()
    assert site.told == [("job-given-up", 0, -9)] and len(site.started) == 1


def test_a_process_that_lived_long_starts_the_row_anew(tmp_path: Path) -> None:
    site = Site(tmp_path, *[(-9, None)] * 6, (0, "0"))
    site.handle(Restarts(most=1, first_s=0.0, longest_s=0.0, steady_s=0.0)).wait()
    assert {attempt for _, attempt, _ in site.told} == {1} and len(site.started) == 7


def test_a_start_that_fails_is_an_attempt_like_any(tmp_path: Path) -> None:
    site = Site(tmp_path, (-9, None), OSError("no memory"), OSError("no memory"), (0, "0"))
    site.handle().wait()
    assert [attempt for _, attempt, _ in site.told] == [1, 2, 3] and len(site.started) == 2


def test_a_job_that_was_aborted_is_left_alone(tmp_path: Path) -> None:
    site = Site(tmp_path, (1, "1"))
    handle = site.handle()
    site.wanted = False
    handle.wait()
    assert site.told == [] and len(site.started) == 1 and not site.rc_file.exists()


def test_a_service_that_ends_starts_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, (-15, None))
    handle = site.handle()
    job_handle.ENDING.set()
    handle.wait()
    assert site.told == []


def test_terminate_ends_the_process_that_runs_and_no_other_follows(tmp_path: Path) -> None:
    site = Site(tmp_path, (-9, None), (None, None))
    second = threading.Event()
    handle = site.handle()
    site.on_start = second.set
    waiting = threading.Thread(target=handle.wait)
    waiting.start()
    assert second.wait(10)
    handle.terminate()
    waiting.join(10)
    assert not waiting.is_alive() and len(site.started) == 2
    assert [event for event, _, _ in site.told] == ["job-restarted"]


def test_terminate_ends_the_pause(tmp_path: Path) -> None:
    site = Site(tmp_path, (-9, None))
    handle = site.handle(Restarts(most=3, first_s=600.0, longest_s=600.0))
    waiting = threading.Thread(target=handle.wait)
    waiting.start()
    handle.terminate()
    waiting.join(10)
    assert not waiting.is_alive() and len(site.started) == 1


def test_the_pauses_double_up_to_a_minute() -> None:
    assert [Restarts().pause_s(done) for done in (0, 1, 2, 4, 5, 6, 500)] == [2, 4, 8, 32, 60, 60, 60]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "1001", "²", " 3"])
def test_a_number_of_starts_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(MOST_VAR, text)
    with pytest.raises(SpecError, match=MOST_VAR):
        Restarts.from_environment()


def test_the_operator_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MOST_VAR, raising=False)
    assert Restarts.from_environment().most == MOST
    monkeypatch.setenv(MOST_VAR, "0")
    assert Restarts.from_environment().most == 0
