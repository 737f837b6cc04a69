"""A run that breaks off goes on where the ledger says it stands, with the silos' own notes, and ends alike."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import verify
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Refusal, RunResumed, StepClosed, StepVoid
from aggregator.rounds.attempt import Exchange
from aggregator.run_record import RunRecord
from crypto.errors import EvidenceError, RoundLost, SpecError
from crypto.home import Home
from crypto.messages import Message
from crypto.receipt import Receipt
from jobs.demo.federation import Federation
from jobs.evidence.run_summary import published_by
from jobs.flare.folder import export
from jobs.membership.propose import DAY
from jobs.runtime.compose import open_site
from silo_agent.home import SiloHome
from tests import local

pytestmark = pytest.mark.slow

JOB = local.spec("fedcoe", rounds=2, hidden=4, finetune_steps=1)
NONCE = b"n" * 32


class Killed(Exception):
    """The aggregator's process is gone: nothing of ours catches it, as nothing catches SIGKILL."""


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The final state of the same run when nothing happens to it."""
    federation = local.copied(made, tmp_path_factory.mktemp("whole") / "f")
    _, run, _ = local.run_job(JOB, federation.aggregator, federation.homes, nonce=NONCE)
    return dict(run.state)


def kill_at(step: int, phase: str, times: int = 1) -> Callable[[Exchange | None, str], None]:
    """A watcher that ends the process when this exchange is about to be made."""
    left = [times]

    def watch(exchange: Exchange | None, note: str) -> None:
        if exchange is not None and (exchange.step, exchange.phase) == (step, phase):
            left[0] -= 1
            if left[0] >= 0:
                raise Killed

    return watch


def broken(federation: Federation, step: int, phase: str) -> str:
    """The id of a run that was killed there."""
    with pytest.raises(Killed):
        local.run_job(JOB, federation.aggregator, federation.homes, nonce=NONCE, watch=kill_at(step, phase))
    (folder,) = (federation.aggregator / "jobs").iterdir()
    return folder.name


def resume(federation: Federation, run: str, **how: object) -> RunRecord:
    outcome, _, _ = local.run_job(JOB, federation.aggregator, federation.homes, resume=run, **how)
    assert outcome.run == run
    record = RunRecord.read(AggregatorHome(federation.aggregator), run)
    assert record.finished is not None and len(record.finished.record.countersignatures) == 8
    assert sum(1 for _ in record.of(RunResumed)) >= 1
    _, identity = AggregatorHome(federation.aggregator).open()
    verify(AggregatorHome(federation.aggregator).ledger_path, identity.public)
    return record


def state_of(federation: Federation, record: RunRecord) -> dict[str, np.ndarray]:
    return dict(published_by(AggregatorHome(federation.aggregator), record).blocks)


@pytest.mark.parametrize(("step", "phase"), [(0, "open"), (1, "deal"), (2, "fetch"), (2, "attest"), (4, "open")])
def test_before_any_share_left_nothing_is_lost(
    federation: Federation, whole: dict[str, np.ndarray], step: int, phase: str
) -> None:
    run = broken(federation, step, phase)
    record = resume(federation, run)
    assert sum(1 for _ in record.of(StepVoid)) == 0
    state = state_of(federation, record)
    assert all(np.array_equal(state[name], block) for name, block in whole.items())


@pytest.mark.parametrize("phase", ["unmask-slots", "unmask-lanes"])
def test_a_step_whose_shares_may_have_left_is_void_and_the_run_goes_on(federation: Federation, phase: str) -> None:
    run = broken(federation, 2, phase)
    record = resume(federation, run)
    (void,) = record.of(StepVoid)
    assert (void.record.k, void.record.reason) == (2, "INTERRUPTED")
    assert sum(1 for _ in record.of(StepClosed)) == len(record.plan.steps) - 1


def test_a_run_that_broke_off_at_the_very_end_is_closed(federation: Federation, whole: dict[str, np.ndarray]) -> None:
    steps = len(JOB.plan(Home(federation.aggregator).charter()).steps)
    run = broken(federation, steps, "close")
    record = resume(federation, run)
    state = state_of(federation, record)
    assert all(np.array_equal(state[name], block) for name, block in whole.items())


def test_it_may_break_off_again_and_again(federation: Federation, whole: dict[str, np.ndarray]) -> None:
    run = broken(federation, 1, "contribute")
    for step, phase in ((1, "attest"), (2, "deal"), (3, "fetch")):
        with pytest.raises(Killed):
            local.run_job(JOB, federation.aggregator, federation.homes, resume=run, watch=kill_at(step, phase))
    record = resume(federation, run)
    state = state_of(federation, record)
    assert all(np.array_equal(state[name], block) for name, block in whole.items())


def test_a_run_that_was_lost_goes_on_when_the_silos_are_back(
    federation: Federation, whole: dict[str, np.ndarray]
) -> None:
    """Too few silos are up: the run fails by name. When they are back it goes on, and nothing was lost."""

    def away(message: Message, answer: Callable[[], Message]) -> Message | None:
        return None if message.phase == "deal" else answer()

    gone = {f"silo-{i}" for i in range(1, 6)}
    with pytest.raises(RoundLost):
        local.run_job(
            JOB,
            federation.aggregator,
            federation.homes,
            nonce=NONCE,
            courier=lambda silo, agent: local.Faulty(agent, away if silo in gone else lambda _, answer: answer()),
        )
    (folder,) = (federation.aggregator / "jobs").iterdir()
    record = resume(federation, folder.name)
    state = state_of(federation, record)
    assert all(np.array_equal(state[name], block) for name, block in whole.items())


def test_receipts_of_a_resumed_run_check(federation: Federation) -> None:
    run = broken(federation, 2, "unmask-lanes")
    resume(federation, run)
    charter = Home(federation.aggregator).charter()
    for silo, home in federation.homes.items():
        signed = (home / "receipts" / f"{run}.bin").read_bytes()
        receipt = Receipt.open(signed, lambda _, silo=silo: charter.member(silo).agent)
        receipt.check()
        assert [step.released for step in receipt.steps].count(False) == 1


def test_one_use_of_an_approval_is_one_run_however_often_it_is_resumed(federation: Federation) -> None:
    run = broken(federation, 1, "contribute")
    resume(federation, run)
    journal = (federation.silo("silo-1") / "journal.jsonl").read_text()
    assert sum(json.loads(line)["kind"] == "joined" for line in journal.splitlines()) == 1


def test_a_silo_on_old_notes_lags_behind_and_is_refused_or_catches_up(federation: Federation) -> None:
    """An old copy of the notes never makes a silo release twice: the journal has every release."""
    run = broken(federation, 1, "open")
    old = (federation.silo("silo-1") / "runs" / f"{run}.safetensors").read_bytes()
    with pytest.raises(Killed):
        local.run_job(JOB, federation.aggregator, federation.homes, resume=run, watch=kill_at(4, "open"))
    (federation.silo("silo-1") / "runs" / f"{run}.safetensors").write_bytes(old)
    outcome, _, _ = local.run_job(JOB, federation.aggregator, federation.homes, resume=run)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    refused = {(one.record.silo, one.record.code) for one in record.of(Refusal)}
    assert refused <= {("silo-1", "MODEL_MISMATCH")}
    assert record.finished is not None and len(record.finished.record.countersignatures) == 7


def test_what_cannot_be_resumed_says_why(federation: Federation, tmp_path: Path) -> None:
    run = broken(federation, 1, "deal")
    home, silos = federation.aggregator, federation.homes
    with pytest.raises(SpecError, match="run name"):  # M3: it was joined to a path as it came
        local.run_job(JOB, home, silos, resume="../../outside")
    with pytest.raises(SpecError, match="a run on the ledger"):
        local.run_job(JOB, home, silos, resume="0" * 16)
    _, identity = AggregatorHome(home).open()
    ledger = Ledger.open(AggregatorHome(home).ledger_path, identity)
    ledger.append(RunResumed(run="1" * 16, k=0, state_digest="ab" * 32))
    with pytest.raises(EvidenceError, match="a line run-started"):
        local.run_job(JOB, home, silos, resume="1" * 16)
    with pytest.raises(SpecError, match="job_digest"):
        local.run_job(local.spec("fedcoe", rounds=3, hidden=4, finetune_steps=1), home, silos, resume=run)
    with pytest.raises(SpecError, match="--resume"):
        export(JOB, Home(home).charter(), tmp_path / "job", resume="../x")
    last = max((home / "jobs" / run / "checkpoints").glob("*.safetensors"))
    data = last.read_bytes()
    last.write_bytes(data[:-1])
    with pytest.raises(EvidenceError, match="SHA-256"):
        local.run_job(JOB, home, silos, resume=run)
    last.write_bytes(data)
    resume(federation, run)
    with pytest.raises(SpecError, match="has not finished"):
        local.run_job(JOB, home, silos, resume=run)


@pytest.mark.parametrize(("step", "phase"), [(2, "unmask-lanes"), (4, "open")])
def test_the_figures_of_a_resumed_run_count_the_steps_before_it_broke_off(
    federation: Federation, step: int, phase: str
) -> None:
    run = broken(federation, step, phase)
    outcome, _, _ = local.run_job(JOB, federation.aggregator, federation.homes, resume=run)
    record = RunRecord.read(AggregatorHome(federation.aggregator), run)
    assert (outcome.steps_released, outcome.steps_void) == (len(record.closed), len(record.void))
    assert outcome.steps_released + outcome.steps_void == len(record.plan.steps)
    assert outcome.upload_bytes == sum(entry.record.upload_bytes for entry in record.closed) > 0
    assert outcome.lanes_shut == sum(len(entry.record.lanes_shut) for entry in record.closed)
    assert outcome.refusals == len(record.refusals)


def test_notes_of_a_countersigned_run_are_dropped_after_a_day(federation: Federation) -> None:
    run = broken(federation, 1, "deal")
    home = federation.silo("silo-1")
    notes, receipt = home / "runs" / f"{run}.safetensors", home / "receipts" / f"{run}.bin"
    for age, there in ((None, True), (0, True), (2 * DAY, False)):
        if age is not None:
            receipt.parent.mkdir(exist_ok=True)
            receipt.touch()
            os.utime(receipt, (time.time() - age, time.time() - age))
        open_site(SiloHome(home)).journal.close()
        assert notes.exists() is there
    assert (federation.silo("silo-2") / "runs" / f"{run}.safetensors").exists()


def test_an_exported_folder_names_the_run_to_go_on_with(federation: Federation, tmp_path: Path) -> None:
    folder = export(JOB, Home(federation.aggregator).charter(), tmp_path / "job", resume="ab" * 8)
    server = json.loads((folder / "app" / "config" / "config_fed_server.json").read_text())
    assert server["workflows"][0]["args"]["resume"] == "ab" * 8
