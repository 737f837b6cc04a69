"""Private jobs over whole homes: spending before bytes leave, the stop, restarts, and what pages say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aggregator import privacy
from aggregator.home import AggregatorHome
from aggregator.ledger.records import Refusal
from aggregator.run_record import RunRecord
from aggregator.verify.checks import verify_run
from crypto.errors import BudgetSpent, RoundLost
from crypto.messages import Message
from crypto.privacy_grant import EVERY_JOB, PrivacyGrant
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.owner import approval_terms
from jobs.owner.privacy import Accounts, account_lines, forecast_lines
from jobs.owner.review import OwnerView
from jobs.runtime import in_process as production
from jobs.runtime.compose import open_agent
from silo_agent.agent import Agent
from silo_agent.approval_store import Approvals
from silo_agent.home import SiloHome
from silo_agent.journal import Journal, Spent
from silo_agent.methods import Published, method
from silo_agent.privacy import accountant
from silo_agent.privacy.accountant import Release
from silo_agent.privacy.grants import Grants
from tests import local

TABLE = {
    "mechanism": "local",
    "unit": "record",
    "clip": 1.0,
    "sampling_rate": 0.2,
    "delta": 1e-3,
    "noise_multiplier": 1.2,
}
JOB = JobSpec.parse(
    {
        "name": "private-test",
        "method": "fedavg",
        "dataset": "digits",
        "purpose": "a test",
        "keep_uploads": "all",
        "params": {"features": 64, "classes": 10, "rounds": 3, "local_steps": 2, "batch": 16},
        "privacy": TABLE,
    }
)
STEP = Release(1.2, 0.2, 2)


def cost(steps: int) -> float:
    return accountant.epsilon([Release(1.2, 0.2, 2 * steps)], 1e-3)


def between(steps: int) -> float:
    """A grant that is enough for so many steps and no more."""
    return (cost(steps) + cost(steps + 1)) / 2


def approve(home: SiloHome, job: float, data: float = 50.0) -> None:
    """The owner's approval, with these grants."""
    owner, wanted = home.owner(), approval_terms.current_terms(home, JOB)
    signed = approval_terms.sign(wanted, owner, max_runs=8, not_after=2**33)
    Approvals(home.approvals_folder, owner.public).add(signed)
    for whose, amount in ((JOB.digest, job), (EVERY_JOB, data)):
        grant = PrivacyGrant(
            silo=home.silo, data=wanted.commitment, job=whose, epsilon=amount, delta=1e-3, at=1, spent=0
        )
        Grants(home.approvals_folder, owner.public).add(grant.sign(owner))


def homes(federation: Federation, **grants: float) -> dict[str, SiloHome]:
    """Each silo's home; ``grants``: of silos with another than plenty, - written as _."""
    found = {silo: SiloHome(home) for silo, home in federation.homes.items()}
    for silo, home in found.items():
        approve(home, grants.get(silo.replace("-", "_"), 50.0))
    return found


def spent(home: SiloHome) -> tuple[Spent, ...]:
    with Journal(home.journal_path) as journal:
        return journal.spent


def test_a_whole_run_spends_what_the_job_says_at_each_silo(federation: Federation) -> None:
    silos, aggregator = homes(federation), AggregatorHome(federation.aggregator)
    outcome, run, _ = production.run_job(JOB, aggregator, silos)
    assert (outcome.steps_released, outcome.refusals) == (3, 0)
    assert all(np.isfinite(block).all() for block in run.state.values())
    record = RunRecord.read(aggregator, outcome.run)
    assert {name for entry in record.closed for name in entry.record.slots} == {
        "silos", "everyone.weight", "everyone.contributors",
    }  # fmt: skip
    assert {entry.record.slots["everyone.weight"] for entry in record.closed} == {8}
    assert JOB.privacy is not None
    for home in silos.values():
        assert [(one.step, one.noise, one.rate, one.count) for one in spent(home)] == [
            (k, "1.2", "0.2", 2) for k in range(3)
        ]
        found = Accounts(OwnerView(home)).all()
        (data,) = found["data"]
        assert data["spent"] == accountant.rounded_up(cost(3)) <= JOB.privacy.epsilon
        assert [job["spent"] for job in data["jobs"]] == [data["spent"]]
        assert data["jobs"][0]["gradient_steps"] == 6
    verified = verify_run(aggregator, outcome.run)
    assert "no figures of rows; 3 of 3 noised steps" in "\n".join(map(str, verified.lines))
    said = privacy.sentence(record.job)
    assert f"epsilon {JOB.privacy.epsilon:g}" in said and "dp-accounting" in said and "record" in said


def test_a_silo_whose_budget_is_spent_declines_and_the_others_go_on(federation: Federation) -> None:
    silos, aggregator = homes(federation, silo_3=between(1)), AggregatorHome(federation.aggregator)
    outcome, _, _ = production.run_job(JOB, aggregator, silos)
    record = RunRecord.read(aggregator, outcome.run)
    assert [entry.record.name for entry in record.closed] == ["train/0", "train/1", "train/2"]
    refused = [(one.record.silo, one.record.code, one.record.name) for one in record.of(Refusal)]
    assert refused == [("silo-3", "BUDGET_SPENT", "train/1"), ("silo-3", "BUDGET_SPENT", "train/2")]
    assert [len(entry.record.survivors) for entry in record.closed] == [8, 7, 7]
    assert [one.step for one in spent(silos["silo-3"])] == [0]
    assert len(spent(silos["silo-1"])) == 3


def test_where_too_many_stop_the_run_ends_by_name_with_what_it_has(federation: Federation) -> None:
    few = {f"silo_{i}": between(2) for i in range(1, 5)}
    silos, aggregator = homes(federation, **few), AggregatorHome(federation.aggregator)
    with pytest.raises(RoundLost, match="granted") as lost:
        production.run_job(JOB, aggregator, silos)
    assert "fed data grant" in f"{lost.value} {lost.value.remedy}"
    ledger = AggregatorHome(federation.aggregator).ledger_path.read_text()
    run = json.loads(next(line for line in ledger.splitlines() if '"run-started"' in line))
    record = RunRecord.read(aggregator, next(iter(run_ids(run))))
    assert [entry.record.name for entry in record.closed] == ["train/0", "train/1"]
    assert record.failed is not None
    assert {one.record.code for one in record.of(Refusal)} == {BudgetSpent.code}


def run_ids(line: object) -> set[str]:
    """Every text of 16 hexadecimal digits under the key ``run``."""
    if isinstance(line, dict):
        found = {line["run"]} if isinstance(line.get("run"), str) else set()
        return found.union(*(run_ids(value) for value in line.values())) if line else found
    return set().union(*(run_ids(value) for value in line)) if isinstance(line, list) else set()


def test_a_step_that_is_tried_again_sends_the_same_and_spends_once(federation: Federation) -> None:
    """Three silos answer nothing at attest of the first attempt, after all have uploaded."""
    silos, aggregator = homes(federation), AggregatorHome(federation.aggregator)
    silent = {"silo-1", "silo-2", "silo-3", "silo-4", "silo-5"}
    seen: dict[str, list[bytes]] = {}

    class Once(production.InProcess):
        def __init__(self, silo: str, agent: Agent) -> None:
            super().__init__(agent)
            self.left = 2 if silo in silent else 0  # an attestation that is missing is asked for again

        def send(self, request: Message) -> Message | None:
            if request.phase == "attest" and self.left:
                self.left -= 1
                return None
            return super().send(request)

    class Kept(local.Recording):
        def _contributed(self, step):  # type: ignore[no-untyped-def]
            found = super()._contributed(step)
            seen.setdefault(f"{self.site.silo}/{self.k}", []).append(found.lanes["everyone"].tobytes())
            return found

    def agent(job: str, home: SiloHome) -> Agent:
        opened = open_agent(job, home)
        opened.__class__ = Kept
        return opened

    outcome, _, _ = production.run_job(JOB, aggregator, silos, agent=agent, courier=Once)
    assert outcome.steps_released == 3
    assert len(seen["silo-8/0"]) == 2 and len(set(seen["silo-8/0"])) == 1
    assert [one.step for one in spent(silos["silo-8"])] == [0, 1, 2]


def test_a_silo_that_dies_after_its_upload_has_spent(federation: Federation) -> None:
    silos, aggregator = homes(federation), AggregatorHome(federation.aggregator)

    class Dies(production.InProcess):
        def __init__(self, silo: str, agent: Agent) -> None:
            super().__init__(agent)
            self.silo = silo

        def send(self, request: Message) -> Message | None:
            return None if self.silo == "silo-2" and request.phase == "attest" else super().send(request)

    production.run_job(JOB, aggregator, silos, courier=Dies)
    assert len(spent(silos["silo-2"])) >= 1


def test_a_silo_computes_the_epsilon_itself(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    silos, aggregator = homes(federation), AggregatorHome(federation.aggregator)
    truth = accountant.epsilon
    monkeypatch.setattr("silo_agent.privacy.accountant.epsilon", lambda releases, delta: 2 * truth(releases, delta))
    with pytest.raises(RoundLost):
        production.run_job(JOB, aggregator, silos)
    assert not spent(silos["silo-1"])


def test_a_private_model_predicts_as_an_ordinary_one(federation: Federation) -> None:
    silos, aggregator = homes(federation), AggregatorHome(federation.aggregator)
    outcome, run, _ = production.run_job(JOB, aggregator, silos)
    x = np.zeros((3, 64), np.float32)
    p_BC = method(JOB.method)(JOB.params).predict(Published(run.state), x, "global")
    assert p_BC.shape == (3, 10) and p_BC.sum(axis=1) == pytest.approx(np.ones(3))
    assert run.predictor is not None and (outcome.folder / "predictor.py").is_file()


def test_the_forecast_says_how_far_a_grant_goes(federation: Federation) -> None:
    home = SiloHome(federation.silo("silo-1"))
    approve(home, 50.0, data=between(2))
    found = Accounts(OwnerView(home)).forecast(JOB)
    assert (found["rounds"], found["rounds_that_fit"], found["spent"]) == (3, 2, 0)
    assert found["after"] == accountant.rounded_up(cost(3))
    assert any("2 of 3 rounds" in line for line in forecast_lines(found))
    assert any("granted" in line for line in account_lines(Accounts(OwnerView(home)).all()))
    plain = JobSpec.parse({key: value for key, value in json.loads(JOB.text).items() if key != "privacy"})
    assert "no differential privacy" in forecast_lines(Accounts(OwnerView(home)).forecast(plain))[0]
