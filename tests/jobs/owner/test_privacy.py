"""The data owner's grants and what `fed privacy` shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.errors import BudgetSpent, DataRefused, JournalLost, SpecError
from crypto.keys import Identity
from crypto.privacy_grant import EVERY_JOB
from jobs.cli import main as cli
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.owner import approval_terms, decisions
from jobs.owner.privacy import Accounts, account_lines, forecast_lines
from jobs.owner.render import review_lines
from jobs.owner.review import OwnerView
from jobs.runtime.compose import open_agent
from silo_agent.home import SiloHome
from silo_agent.journal import Journal, mark_of
from silo_agent.privacy.account import Account
from silo_agent.privacy.accountant import Release, epsilon, rounded_up
from silo_agent.privacy.grants import Grants

TABLE = {
    "mechanism": "local",
    "unit": "record",
    "clip": 1.0,
    "sampling_rate": 0.2,
    "delta": 1e-3,
    "noise_multiplier": 1.5,
}
RAW: dict[str, Any] = {
    "name": "private-test",
    "method": "fedavg",
    "dataset": "digits",
    "purpose": "a test",
    "params": {"features": 5, "classes": 3, "rounds": 2, "local_steps": 3, "batch": 16},
}
PLAIN, JOB = JobSpec.parse(RAW), JobSpec.parse(RAW | {"privacy": TABLE})
STEP = Release(1.5, 0.2, 3)


def cost(steps: int) -> float:
    return epsilon([Release(1.5, 0.2, 3 * steps)], 1e-3)


def tiny(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {"classes": np.array(3)}
    for part, rows in (("train", 37), ("test", 11)):
        made |= {f"x_{part}": rng.normal(size=(rows, 5)).astype(np.float32), f"y_{part}": np.arange(rows) % 3}
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    data = {f"silo-{at}": tiny(at) for at in range(1, 5)}
    return Federation.make(tmp_path_factory.mktemp("private") / "f", "test", data, "digits")


@pytest.fixture
def home(made: Federation, tmp_path: Path) -> Path:
    shutil.copytree(made.root, tmp_path / "f")
    return Federation(tmp_path / "f", made.name, made.silos).silo("silo-1")


def view(home: Path) -> OwnerView:
    return OwnerView(SiloHome(home))


def spend(home: Path, steps: int, run: str = "aa" * 32) -> None:
    silo = SiloHome(home)
    with Journal(silo.journal_path) as journal:
        grants = Grants(silo.approvals_folder, silo.owner().public)
        data = approval_terms.current_terms(silo, JOB).commitment
        assert JOB.privacy is not None
        for step in range(steps):
            Account(journal, grants, JOB.privacy, job=JOB.digest, data=data).spend(run, step, [STEP])


def test_a_private_job_needs_both_grants(home: Path) -> None:
    with pytest.raises(SpecError, match="without a grant"):
        decisions.approve(view(home), JOB, epsilon=1.0)
    decisions.grant_data(view(home), "digits", epsilon=5.0, delta=1e-3)
    with pytest.raises(SpecError, match="--epsilon"):
        decisions.approve(view(home), JOB)
    assert view(home).approval_state(JOB).state == "waiting"
    decisions.approve(view(home), JOB, epsilon=3.0)
    decisions.approve(view(home), JOB, max_runs=3)  # the grant stays in force
    found = Accounts(view(home)).statement(approval_terms.current_terms(SiloHome(home), JOB).commitment)
    assert {job: (grant.epsilon, grant.delta) for job, grant in found.grants.items()} == {
        EVERY_JOB: (5.0, 1e-3),
        JOB.digest: (3.0, 1e-3),
    }
    agent = open_agent(JOB.text, SiloHome(home))
    assert agent.account is not None
    agent.account.check([STEP])
    agent.close()


@pytest.mark.parametrize(
    ("amount", "delta"),
    [
        *((amount, 1e-3) for amount in (0.0, -1.0, float("nan"), float("inf"), 1e9)),
        *((1.0, delta) for delta in (0.0, 1 / 37, 0.5, -1.0, float("nan"))),
    ],
)
def test_grants_of_impossible_numbers_are_refused_by_name(home: Path, amount: float, delta: float) -> None:
    with pytest.raises(SpecError, match=r"--epsilon|--delta"):
        decisions.grant_data(view(home), "digits", epsilon=amount, delta=delta)
    decisions.grant_data(view(home), "digits", epsilon=5.0, delta=1e-3)
    with pytest.raises(SpecError, match=r"--epsilon|--delta"):
        decisions.approve(view(home), JOB, epsilon=amount, delta=delta)
    assert view(home).approval_state(JOB).state == "waiting"


def test_only_the_owners_key_grants(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    Identity.generate().save(other)
    with pytest.raises(SpecError, match="owner key"):
        decisions.grant_data(view(home), "digits", epsilon=5.0, delta=1e-3, key=other)
    assert Accounts(view(home)).all()["data"] == []


def test_a_job_without_privacy_on_granted_data_is_meant_or_refused(home: Path) -> None:
    decisions.approve(view(home), PLAIN)  # no grant yet
    with pytest.raises(SpecError, match="--epsilon"):
        decisions.approve(view(home), PLAIN, epsilon=1.0)
    decisions.grant_data(view(home), "digits", epsilon=5.0, delta=1e-3)
    with pytest.raises(SpecError, match="without privacy"):
        decisions.approve(view(home), PLAIN)
    decisions.approve(view(home), PLAIN, without_privacy=True)


def test_a_data_set_that_does_not_fit_is_not_approved(home: Path) -> None:
    decisions.grant_data(view(home), "digits", epsilon=5.0, delta=1e-3)
    large = JobSpec.parse(RAW | {"params": RAW["params"] | {"batch": 38}, "privacy": TABLE})
    with pytest.raises(DataRefused, match="batch of 38"):
        decisions.approve(view(home), large, epsilon=1.0)
    few = JobSpec.parse(RAW | {"privacy": TABLE | {"delta": 1e-2}})
    decisions.approve(view(home), few, epsilon=1.0)  # 1/37 is more than 0.01


def test_the_account_shows_granted_spent_and_left(home: Path) -> None:
    decisions.grant_data(view(home), "digits", epsilon=5.0, delta=1e-3)
    decisions.approve(view(home), JOB, epsilon=3.0)
    spend(home, 2)
    spend(home, 1, run="bb" * 32)
    (data,) = Accounts(view(home)).all()["data"]
    assert data["names"] == ["digits"] and data["spent"] == rounded_up(cost(3)) and data["granted"] == 5.0
    assert data["left"] == pytest.approx(5.0 - cost(3), abs=1e-4) and data["left"] <= 5.0 - cost(3)
    (job,) = data["jobs"]
    assert (job["job"], job["runs"], job["records"], job["gradient_steps"]) == (JOB.digest.hex(), 2, 3, 9)
    lines = "\n".join(account_lines(Accounts(view(home)).all()))
    assert f"epsilon {rounded_up(cost(3)):g} spent" in lines and "of 5 granted" in lines and "dp-accounting" in lines


def test_a_forecast_takes_what_was_spent_into_account(home: Path) -> None:
    before = Accounts(view(home)).forecast(JOB)
    assert before["granted"] is None and "no grant yet" in forecast_lines(before)[-1]
    decisions.grant_data(view(home), "digits", epsilon=(cost(3) + cost(4)) / 2, delta=1e-3)
    decisions.approve(view(home), JOB, epsilon=9.0)
    assert "It fits" in forecast_lines(Accounts(view(home)).forecast(JOB))[-1]
    spend(home, 2)
    after = Accounts(view(home)).forecast(JOB)
    assert (after["rounds"], after["rounds_that_fit"]) == (2, 1)
    assert after["after"] == rounded_up(cost(4)) and "1 of 2 rounds" in forecast_lines(after)[-1]
    spend(home, 1)
    with pytest.raises(BudgetSpent):
        spend(home, 1)


def test_an_older_journal_shows_no_account(home: Path) -> None:
    decisions.grant_data(view(home), "digits", epsilon=5.0, delta=1e-3)
    decisions.approve(view(home), JOB, epsilon=3.0)
    path = SiloHome(home).journal_path
    old = path.read_bytes() if path.exists() else b""
    spend(home, 1)
    whole = path.read_bytes()
    path.write_bytes(old)
    with pytest.raises(JournalLost, match="older copy"):
        Accounts(view(home)).all()
    path.write_bytes(whole.replace(b'"kind":"spent"', b'"kind":"spend"'))
    with pytest.raises(JournalLost, match="damaged"):
        Accounts(view(home)).all()
    path.write_bytes(whole + b'{"kind":"spe')  # being written
    assert len(Accounts(view(home)).records) == 1
    mark_of(path).write_text("x")
    with pytest.raises(JournalLost):
        Accounts(view(home)).all()


def test_a_newer_grant_in_the_same_second_is_in_force(home: Path) -> None:
    at = OwnerView(SiloHome(home), now=view(home).now)
    decisions.grant_data(at, "digits", epsilon=2.0, delta=1e-3)
    decisions.grant_data(OwnerView(SiloHome(home), now=at.now), "digits", epsilon=7.0, delta=1e-3)
    (data,) = Accounts(view(home)).all()["data"]
    assert data["granted"] == 7.0


def test_the_review_says_what_a_job_promises(home: Path) -> None:
    said = "\n".join(review_lines(view(home).review(JOB)))
    assert JOB.privacy is not None
    assert f"epsilon {JOB.privacy.epsilon:g} at delta 0.001 for one record" in said
    assert "none promised: no noise is added" in "\n".join(review_lines(view(home).review(PLAIN)))


def test_the_commands(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fed(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["fed", *words, "--home", str(home)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        found = capsys.readouterr()
        assert not ended.value.code or "--epsilon" in found.err
        return found.out if not ended.value.code else f"exit {ended.value.code}"

    path = tmp_path / "job.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in RAW.items() if key != "params"]
    for name, table in (("params", RAW["params"]), ("privacy", TABLE)):
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path.write_text("\n".join(lines))
    assert "epsilon 5 at delta 0.001" in fed("data", "grant", "digits", "--epsilon", "5", "--delta", "1e-3")
    assert "It fits into the 5 granted" in fed("privacy", "--job", str(path))
    signed = json.loads(fed("approve", "--job", str(path), "--epsilon", "3", "--json").splitlines()[-1])
    assert signed["account"]["privacy"]["mechanism"] == "local"
    found = json.loads(fed("privacy", "--json").splitlines()[-1])
    assert found["data"][0]["granted"] == 5 and found["forecast"] is None
    assert fed("data", "grant", "digits", "--epsilon", "0", "--delta", "1e-3") == "exit 10"
