"""The command line as people meet it: exit codes, one line per error, one JSON object when asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jobs import cli
from tests import local


def fed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of ``fed WORDS``."""
    monkeypatch.setattr(sys, "argv", ["fed", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_help_names_the_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = fed(monkeypatch, capsys, "--help")
    assert code == 0
    for verb in ("up", "simulate", "silo", "aggregator", "egress", "export", "jobs"):
        assert verb in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("up", "--silos", "7"), "--silos"),
        (("up", "--silos", "6"), "from 8"),
        (("up", "--job", "nothing"), "The catalogue has"),
        (("simulate", "--rounds", "0"), "params.rounds"),
        (("egress", "nothing"), "fedcoe-digits"),
    ],
)
def test_bad_words_end_with_the_spec_code_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _out, err = fed(monkeypatch, capsys, *words)
    assert code == 10
    assert err.startswith("error [SPEC]:") and says in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_errors_are_json_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = fed(monkeypatch, capsys, "up", "--silos", "7", "--json")
    assert code == 10
    assert json.loads(out.splitlines()[-1])["error"] == "SPEC"


def test_egress_is_the_plan_read_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = fed(monkeypatch, capsys, "egress", "fedcoe-digits", "--json")
    assert code == 0
    found = json.loads(out)
    assert {lane["name"] for lane in found["lanes"]} == {"everyone", "cluster-0", "cluster-1", "expert-0", "expert-1"}
    assert all(lane["floor"] >= 3 for lane in found["lanes"])
    assert len(found["steps"]) == 15
    assert found["steps"][-1]["lanes"] == {}
    code, out, _ = fed(monkeypatch, capsys, "egress", "fedcoe-digits")
    assert "What the aggregator sees of one silo" in out and "expert-1" in out


def test_export_writes_a_native_job_folder_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    federation = local.federation(tmp_path / "f")
    words = ("export", "fedavg-digits", "--out", str(tmp_path / "job"), "--federation", str(federation.root))
    code, out, _ = fed(monkeypatch, capsys, *words)
    assert code == 0 and "8 silos" in out
    assert sorted(path.name for path in (tmp_path / "job").rglob("*") if path.is_file()) == [
        "config_fed_client.json",
        "config_fed_server.json",
        "meta.json",
    ]
    assert fed(monkeypatch, capsys, *words)[0] == 10


def test_a_kit_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = fed(monkeypatch, capsys, "silo", "run", "--kit", str(tmp_path))
    assert code == 10 and "consilium.json" in err


def test_simulate_prints_its_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = fed(monkeypatch, capsys, "simulate", "--rounds", "1", "--json", "--name", "one")
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["rounds_completed"] == 1
    assert found["secure_aggregation"]["steps_released"] == 4
    assert Path(found["report"]).exists()
    assert "what the aggregator saw" in err.lower()
