"""Where `fed` meets the operating system: locale, refusals, a reader that has gone, a terminal that has gone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crypto.errors import SystemRefused
from jobs import release
from jobs.cli import main as cli
from jobs.demo.child_processes import Processes, terminable

JOB = """
name = "x"
method = "fedavg"
dataset = "digits"
purpose = "Läsionen zählen, ε ≤ 1"
[params]
features = 64
classes = 10
"""
#: A locale that is not UTF-8, on every machine.
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def run(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "jobs.cli", *words]
    root = str(Path(cli.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=300, check=False)


@pytest.mark.slow
def test_one_job_has_one_digest_in_every_locale(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    digests = set()
    for more in ({}, ASCII):
        done = run("egress", "job.toml", "--json", cwd=tmp_path, **more)
        assert done.returncode == 0, done.stderr.decode()
        digests.add(json.loads(done.stdout.splitlines()[-1])["job"])
    assert len(digests) == 1
    refused = run("egress", "zählen.toml", cwd=tmp_path, **ASCII)
    assert refused.returncode == 10 and "zählen.toml" in refused.stderr.decode("utf-8"), refused.stderr


@pytest.mark.slow
def test_nothing_in_the_current_folder_is_imported(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    for name in ("jobs/__init__.py", "token.py", "typer.py"):
        (tmp_path / name).write_text('open("RAN", "w")\n', encoding="utf-8")
    assert run("catalog", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "RAN").exists()


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-P", "-m", "jobs.cli", "egress", "fedavg-digits"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 1 and b"Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("refused", "says", "remedy"),
    [
        (OSError(errno.EROFS, "Read-only file system", "ro/a"), "ro/a: Read-only file system.", "can be written to"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "x: No space left on device.", "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied.", "let this account in"),
        (OSError(errno.EXDEV, "Invalid link", "a", None, "b"), "a → b: Invalid link.", ""),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), "a/b: No such file.", "folders above it"),
        (TimeoutError("timed out"), "timed out.", ""),
        (ConnectionError(), "ConnectionError.", ""),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_the_system_refuses_is_one_line_with_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: OSError,
    says: str,
    remedy: str,
    as_json: bool,
) -> None:
    def refuse() -> None:
        raise refused

    monkeypatch.setattr(cli, "app", refuse)
    monkeypatch.setattr(sys, "argv", ["fed", "keygen", *(["--json"] if as_json else [])])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == SystemRefused.exit_code == 1
    assert err.startswith(f"error [SYSTEM_REFUSED]: {says}") and remedy in err and err.count("\n") == 1
    found = json.loads(out) if as_json else None
    assert found == (
        {"error": "SYSTEM_REFUSED", "detail": says, "remedy": SystemRefused.of(refused).remedy} if as_json else None
    )


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("nvflare", "flare"),
        ("nvflare.apis", "flare"),
        ("torch", "silo"),
        ("mlflow", "aggregator"),
        ("jinja2", "silo,demo"),
    ],
)
def test_a_package_of_an_extra_that_is_missing_is_named_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str, extra: str
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(cli, "app", missing)
    monkeypatch.setattr(sys, "argv", ["fed", "submit"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    err = capsys.readouterr().err
    assert ended.value.code == 10 and f"no package {package}" in err and f"[{extra}]" in err, err


def test_a_package_of_ours_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'jobs.x'", name="jobs.x")

    monkeypatch.setattr(cli, "app", missing)
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_the_release_says_what_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fed", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"consilium-fl {release.version()}, code {release.digest().hex()}\n"
    monkeypatch.setattr(sys, "argv", ["fed", "-h"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--version" in capsys.readouterr().out


# --- signals -----------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup, or in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
from jobs.demo.child_processes import Processes, terminable
processes = Processes()
stubborn = '''
import signal, time
signal.signal(signal.SIGTERM, lambda *_: time.sleep(1) or exit())
print("up", flush=True)
time.sleep(60)
'''
try:
    with terminable():
        try:
            command = [sys.executable, "-P", "-c", stubborn]
            child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
            child.stdout.readline()
            processes._running.append(("silo-1", child))
            print(child.pid, flush=True)
            time.sleep(60)
        finally:
            print("stopping", flush=True)
            processes.stop()
            print("stopped", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_us_ends_what_we_started_also_at_a_second_signal(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SCRIPT], stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(number)
        assert process.stdout.readline() == "stopping\n"
        for again in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(again)
        assert process.stdout.readline() == "stopped\n"
        assert process.wait(20) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGHUP)
            Processes().stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_are_those_of_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
