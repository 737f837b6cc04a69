"""A newcomer tries a model on its own rows before its first round: checked evidence, no other silo, nothing sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from aggregator.home import AggregatorHome, RunFolder
from aggregator.rounds.storage import checkpoint_steps
from aggregator.run_record import RunRecord
from aggregator.verify.bundle import write_bundle
from crypto.charter import SignedCharter
from crypto.errors import DataRefused, EvidenceError, FederationError, SpecError
from crypto.home import Home
from crypto.keys import Identity
from jobs.cli import main as cli
from jobs.demo.digits_data import make
from jobs.demo.federation import Federation, add_data
from jobs.evidence.run_summary import cold_score, published_by
from jobs.evidence.try_model import cold
from jobs.membership.accept import accept
from jobs.membership.keygen import keygen_silo
from jobs.membership.propose import next_epoch
from silo_agent.data import check
from silo_agent.home import SiloHome
from tests import local
from tests.members import Bare, files

pytestmark = pytest.mark.slow

JOB = local.spec("fedcoe", rounds=4, local_steps=20)
ROWS = make(local.SILOS, 7)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, Path]:
    """A federation of eight that has run a job, and the run's folder."""
    federation = local.federation(tmp_path_factory.mktemp("join") / "f")
    outcome, _, _ = local.run_job(JOB, federation.aggregator, federation.homes)
    return federation, federation.aggregator / "jobs" / outcome.run


@pytest.fixture(scope="module")
def newcomer(trained: tuple[Federation, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of silo-9, enrolled in an epoch that it alone has accepted so far, with its data registered."""
    federation, _ = trained
    consortium = Identity.load(federation.root / "consortium" / "consortium.key")
    home = tmp_path_factory.mktemp("newcomer") / "silo-9"
    old = Home(federation.aggregator).charter()
    new = next_epoch(old, add=[keygen_silo(SiloHome(home), "silo-9")], now=old.not_before + 1)
    accept(Home(home), bytes(SignedCharter.sign(new, consortium)), consortium=consortium.public)
    add_data(SiloHome(home), "silo-9", "digits", ROWS["newcomer-1"])
    return home


def test_it_is_useful_before_its_first_round_and_says_so_at_home_only(
    trained: tuple[Federation, Path], newcomer: Path
) -> None:
    federation, folder = trained
    before = files(federation.root)
    tried = cold(SiloHome(newcomer), folder, "digits")
    y = ROWS["newcomer-1"]["y_train"], ROWS["newcomer-1"]["y_test"]
    assert tried.rows == len(y[1]) and tried.majority == int((y[1] == np.bincount(y[0]).argmax()).sum())
    assert tried.right > 2 * tried.majority
    record = RunRecord.read(AggregatorHome(federation.aggregator), folder.name)
    data = {"silo-9": check("digits", ROWS["newcomer-1"])}
    assert (tried.right, tried.rows) == cold_score(
        JOB, published_by(AggregatorHome(federation.aggregator), record), data
    )
    assert files(federation.root) == before
    assert (tried.model, tried.method, tried.silo) == ("fedcoe-test", "fedcoe", "silo-9")
    assert {"charters", "ledger", "steps", "sums", "model"} <= {line.name for line in tried.report.lines}


def test_the_verb_shows_the_figures_and_that_nothing_was_sent(
    trained: tuple[Federation, Path],
    newcomer: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried = cold(SiloHome(newcomer), trained[1], "digits")
    words = ["fed", "try", "--home", str(newcomer), "--model", str(trained[1]), "--data", "digits"]
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", words + more)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    *text, last = capsys.readouterr().out.splitlines()
    assert f"cold, on 39 test rows of silo-9: {tried.right / 39:.1%} right" in "\n".join(text)
    assert f"always the commonest label here: {tried.majority / 39:.1%}" in text
    assert "these figures stay here: nothing was sent" in text and tried.report.verdict in text
    facts = json.loads(last)
    assert (facts["right"], facts["majority"], facts["rows"]) == (tried.right, tried.majority, 39)
    assert facts["verified"]["verdict"] == tried.report.verdict


def test_a_bundle_does_as_well(trained: tuple[Federation, Path], newcomer: Path, tmp_path: Path) -> None:
    federation, folder = trained
    bundle = write_bundle(AggregatorHome(federation.aggregator), folder.name, tmp_path / "model.zip").path
    tried = cold(SiloHome(newcomer), bundle, "digits")
    assert (tried.right, tried.run) == (cold(SiloHome(newcomer), folder, "digits").right, folder.name)
    assert tried.report.lines[0].name == "bundle"
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(bytes(data))
    with pytest.raises(EvidenceError):
        cold(SiloHome(newcomer), bundle, "digits")


def test_a_model_whose_weights_were_changed_is_not_used(
    trained: tuple[Federation, Path], newcomer: Path, tmp_path: Path
) -> None:
    federation, folder = trained
    copy = tmp_path / "aggregator"
    for name, kept in files(federation.aggregator).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(kept)
    weights = copy / "jobs" / folder.name / "checkpoints" / f"{checkpoint_steps(RunFolder(folder))[-1]:06d}.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(EvidenceError, match="safetensors"):
        cold(SiloHome(newcomer), copy / "jobs" / folder.name, "digits")


def test_the_predictor_in_the_evidence_is_not_run(
    trained: tuple[Federation, Path], newcomer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification refuses another predictor; here it is left out, and still only the installed release's code runs."""
    federation, folder = trained
    copy, ran = tmp_path / "aggregator", tmp_path / "ran"
    for name, kept in files(federation.aggregator).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(kept)
    (copy / "jobs" / folder.name / "predictor.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with pytest.raises(EvidenceError, match="predictor"):
        cold(SiloHome(newcomer), copy / "jobs" / folder.name, "digits")
    record = RunRecord.read(AggregatorHome(federation.aggregator), folder.name)
    monkeypatch.setattr("jobs.evidence.try_model.verify_in", lambda *given, **how: SimpleNamespace(record=record))
    tried = cold(SiloHome(newcomer), copy / "jobs" / folder.name, "digits")
    assert tried.right == cold(SiloHome(newcomer), folder, "digits").right and not ran.exists()


def test_another_consortiums_model_is_refused(trained: tuple[Federation, Path], tmp_path: Path) -> None:
    other = Bare(tmp_path)
    add_data(SiloHome(other.home("silo-1")), "silo-1", "digits", ROWS["newcomer-1"])
    with pytest.raises(EvidenceError, match="consortium"):
        cold(SiloHome(other.home("silo-1")), trained[1], "digits")


def test_another_federation_of_the_same_consortium_is_refused(trained: tuple[Federation, Path], tmp_path: Path) -> None:
    federation, folder = trained
    consortium = Identity.load(federation.root / "consortium" / "consortium.key")
    other = Bare(tmp_path, name="elsewhere")
    home = other.home("silo-1")
    (home / "charter.bin").unlink()
    Home(home).pinned.pin(SignedCharter.sign(other.first, consortium), consortium.public)
    add_data(SiloHome(home), "silo-1", "digits", ROWS["newcomer-1"])
    with pytest.raises(EvidenceError, match="federation 'elsewhere', found test"):
        cold(SiloHome(home), folder, "digits")


def test_what_is_missing_is_named(trained: tuple[Federation, Path], newcomer: Path, tmp_path: Path) -> None:
    federation, folder = trained
    keygen_silo(SiloHome(tmp_path / "tenth"), "silo-10")
    arrays: dict[str, np.ndarray] = {
        "x_train": np.zeros((20, 3), np.float32),
        "y_train": np.arange(20) % 2,
        "x_test": np.zeros((4, 3), np.float32),
        "y_test": np.arange(4) % 2,
        "classes": np.array(2),
    }
    add_data(SiloHome(newcomer), "silo-9", "small", arrays)
    cases: list[tuple[Path, Path, str, type[FederationError], str]] = [
        (newcomer, folder, "scans", DataRefused, "scans"),
        (newcomer, folder, "../up", DataRefused, "name"),
        (newcomer, folder, "small", DataRefused, "3 features"),
        (newcomer, federation.aggregator, "digits", SpecError, "a bundle, or a run's folder"),
        (newcomer, tmp_path / "nothing", "digits", SpecError, "a bundle, or a run's folder"),
        (newcomer, folder.parent / "0000", "digits", SpecError, "a bundle, or a run's folder"),
        (tmp_path / "tenth", folder, "digits", SpecError, "a pinned charter"),
        (federation.aggregator, folder, "digits", SpecError, "silo's home"),
    ]
    for home, source, data, error, says in cases:
        with pytest.raises(error, match=says):
            cold(SiloHome(home), source, data)
