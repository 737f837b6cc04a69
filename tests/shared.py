"""The one real federation that the slow tests share: ``fed up --keep`` in a process of its own, and what is done to it.

Whoever asks for the fixture ``up`` (tests/conftest.py) gets it after its first job. When the last test is done it is
stopped with Ctrl-C, and nothing of it may be left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry, read
from aggregator.ledger.records import Kind, run_of
from aggregator.run_record import RunRecord
from crypto.home import Home
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.security_log.reader import check_log
from silo_agent.home import SiloHome
from tests import local

SILOS = 8
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born ignoring Ctrl-C
from pathlib import Path
from jobs.demo.console import Shown
from jobs.demo.up import Options, up
import json
view = Shown(json=True, on_result=lambda report: print(json.dumps(report), flush=True))
up(Options(name="shared", keep=True, probe="vectors", runs=Path(sys.argv[1])), view)
"""


@dataclass(frozen=True)
class Up:
    """``fed up --keep``, after its job: the object it printed, and its processes."""

    report: dict[str, Any]
    federation: Federation
    process: subprocess.Popen[str]

    @property
    def record(self) -> RunRecord:
        return RunRecord.read(AggregatorHome(self.federation.aggregator), self.report["run_id"])

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def started(runs: Path) -> Iterator[Up]:
    with (runs / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(runs)], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=runs
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        pytest.fail((runs / "stderr.txt").read_text())
    federation = Federation(runs / "shared", "shared", tuple(f"silo-{i}" for i in range(1, SILOS + 1)))
    up = Up(json.loads(line), federation, process)
    yield up
    tree = up.tree()
    assert len(tree) >= SILOS + 1
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (0, 130)
    process.stdout.close()
    _, alive = psutil.wait_procs(tree, timeout=10)
    assert alive == [], "processes that Ctrl-C on `fed up --keep` left behind"
    for home in (federation.aggregator, *federation.homes.values()):
        assert check_log(Home(home)).events["service-stopped"] == 1, home.name


def fed(*words: str, code: int = 0) -> dict[str, Any]:
    """The object that ``fed WORDS --json`` prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words, "--json"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, f"fed {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def approved(up: Up, job: str) -> None:
    """Every data owner's approval, for tests that are about something else."""
    for home in up.federation.homes.values():
        local.approve(SiloHome(home), JobSpec.load(job))


def submit(up: Up, job: str, tmp_path: Path) -> int:
    """Through ``fed export`` and ``nvflare job submit``. Returns how many entries the ledger had."""
    folder = tmp_path / "exported"
    fed("export", job, "--out", str(folder), "--federation", str(up.federation.root))
    assert not list(folder.rglob("custom"))
    before = sum(1 for _ in read(AggregatorHome(up.federation.aggregator).ledger_path))
    admin = json.loads((up.federation.root / "federation.json").read_text())["admin"]
    nvflare = str(Path(sys.executable).with_name("nvflare"))
    kit = up.federation.root / "kits" / "admin"
    submitted = subprocess.run(
        [nvflare, "job", "submit", "-j", str(folder), "--startup-kit", str(kit)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr + admin
    return before


def is_job_of(process: psutil.Process, silo: str) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return "client-job" in line and any(silo in part for part in line)


class KeptDead:
    """Kills the job processes of silos again and again: their service starts them anew. Call ``end`` in the end."""

    def __init__(self, up: Up) -> None:
        self._up = up
        self._silos: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._kill, daemon=True)
        self._thread.start()

    def add(self, *silos: str) -> None:
        """These, too; at once."""
        self._silos |= set(silos)
        self._look()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _kill(self) -> None:
        while not self._ended.wait(0.2):
            self._look()

    def _look(self) -> None:
        for silo in self._silos.copy():
            for process in self._up.tree():
                if is_job_of(process, silo):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()


def lines_of(up: Up, run: str) -> list[Entry[Any]]:
    """A run's lines on the ledger."""
    return [
        entry for entry in read(AggregatorHome(up.federation.aggregator).ledger_path) if run_of(entry.record) == run
    ]


def follow(up: Up, before: int, until: set[Kind], name: str = "", timeout_s: float = 180.0) -> list[Any]:
    """The ledger's entries since ``before``, once one of these kinds (of the step ``name``) is among them."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        new = [entry for entry in read(AggregatorHome(up.federation.aggregator).ledger_path) if entry.seq >= before]
        if any(entry.kind in until and (not name or entry.record.name == name) for entry in new):
            return new
        assert up.process.poll() is None
        os.sched_yield()
    raise AssertionError(f"none of {sorted(until)} after {timeout_s:.0f} s: {[entry.kind for entry in new]}")
