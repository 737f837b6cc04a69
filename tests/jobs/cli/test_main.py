"""The command line as people meet it: exit codes, one line per error, one JSON object when asked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.verify.bundle import write_bundle
from crypto.equivocation import Pair
from crypto.messages import Request
from jobs.cli import main as cli
from jobs.demo.federation import Federation
from tests import local, tampering

pytestmark = pytest.mark.slow


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
    for verb in ("up", "simulate", "silo", "aggregator", "egress", "export", "verify", "jobs", "catalog", "try"):
        assert verb in out


def test_a_renamed_verb_fails_with_the_new_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = fed(monkeypatch, capsys, "join", "--home", "silo-1")
    assert code == 2 and "renamed to `fed try`" in err
    assert "join" not in fed(monkeypatch, capsys, "--help")[1].split()


def test_catalog_lists_the_jobs_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = fed(monkeypatch, capsys, "catalog", "--json")
    assert code == 0 and json.loads(out)["fedcoe-digits"] == "fedcoe"


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


def evidence(federation: Federation) -> Path:
    """Two requests that the federation's aggregator signed for one place."""
    _, identity = AggregatorHome(federation.aggregator).open()
    one = Request(run=bytes(32), step=0, attempt=0, phase="attest", payload=b"one")
    path = federation.root / "evidence.bin"
    path.write_bytes(bytes(Pair(one.sign(identity), replace(one, payload=b"two").sign(identity))))
    return path


def test_verify_says_who_signed_what_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    federation = local.federation(tmp_path / "f")
    charter, consortium = federation.silo("silo-1") / "charter.bin", federation.silo("silo-1") / "consortium.pub"
    words = ("verify", str(evidence(federation)), "--charter", str(charter), "--consortium", str(consortium))
    code, out, _ = fed(monkeypatch, capsys, *words)
    assert code == 0 and out.startswith("proven, under the charter of 'test', epoch 1: aggregator (key ")
    code, out, _ = fed(monkeypatch, capsys, *words, "--json")
    found = json.loads(out.splitlines()[-1])
    assert code == 0 and (found["proven"], found["signer"], found["kind"]) == (True, "aggregator", "Request")

    other = local.federation(tmp_path / "other")
    for elsewhere in (
        {str(charter): str(other.aggregator / "charter.bin")},
        {str(consortium): str(other.aggregator / "consortium.pub")},
        {str(consortium): str(charter)},
        {
            str(charter): str(other.aggregator / "charter.bin"),
            str(consortium): str(other.aggregator / "consortium.pub"),
        },
    ):
        code, out, err = fed(monkeypatch, capsys, *(elsewhere.get(word, word) for word in words))
        assert (code, out) == (50, "") and err.startswith("error [EVIDENCE]:")


def test_verify_prints_each_check_and_ends_with_what_it_did_not_look_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tampering.finish(tmp_path / "f", replace(local.spec(rounds=1), keep_uploads="none"))
    words = ("verify", run.run[:8], "--home", str(run.home.root))
    code, out, _ = fed(monkeypatch, capsys, *words)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("ok           charters") and any("steps" in line for line in lines)
    verdict = next(place for place, line in enumerate(lines) if line.startswith(f"run {run.run} holds: "))
    assert [line.split()[2] for line in lines[verdict + 1 :]] == ["consortium", "sums", "state"]
    assert not any(line.startswith("not checked") for line in lines[:verdict])

    code, out, _ = fed(monkeypatch, capsys, *words, "--json")
    found = json.loads(out)
    assert code == 0 and len(found["not_checked"]) == 3 and found["verdict"].endswith("3 not checked.")
    assert {line["outcome"] for line in found["lines"]} == {"ok", "not checked"}

    tampering.flip(run.folder / "evidence" / "000001.bin")
    code, out, err = fed(monkeypatch, capsys, *words)
    assert code == 50 and "evidence/000001.bin" in err and "holds" not in out
    code, out, _ = fed(monkeypatch, capsys, *words, "--json")
    assert code == 50 and json.loads(out)["error"] == "EVIDENCE"
    assert fed(monkeypatch, capsys, "verify", "no-such/1", "--home", str(run.home.root))[0] == 10


@pytest.mark.parametrize("target", ["run", "bundle", "receipt"])
def test_a_run_a_bundle_and_a_receipt_verify_with_the_base_install_only(tmp_path: Path, target: str) -> None:
    run = tampering.finish(tmp_path / "f", local.spec(rounds=1))
    bundle = write_bundle(run.home, run.run, tmp_path / "b.zip").path
    receipt = run.federation.silo("silo-2") / "receipts" / f"{run.run}.bin"
    words = {
        "run": [run.run, "--home", str(run.home.root)],
        "bundle": [str(bundle)],
        "receipt": [str(receipt), "--home", str(bundle)],
    }
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ImportError("forbidden: " + name)
sys.meta_path.insert(0, Block())
from jobs.cli import main as cli
sys.argv = ["fed", "verify", *{words[target]!r}]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert " holds: " in done.stdout


#: What the base install lacks.
FORBIDDEN = ("torch", "nvflare", "mlflow", "prometheus_client", "syft", "syft_job", "syft_datasets", "syft_perm",
             "sklearn", "scipy", "pandas", "jinja2", "matplotlib", "requests", "yaml")  # fmt: skip


def test_verify_needs_the_base_install_only(tmp_path: Path) -> None:
    federation = local.federation(tmp_path / "f")
    home = federation.silo("silo-2")
    code = f"""
import sys
for name in ("torch", "nvflare", "mlflow", "prometheus_client", "sklearn", "jinja2", "matplotlib"):
    sys.modules[name] = None
from jobs.cli import main as cli
sys.argv = ["fed", "verify", {str(evidence(federation))!r}, "--charter", {str(home / "charter.bin")!r}]
sys.argv += ["--consortium", {str(home / "consortium.pub")!r}]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("proven")
