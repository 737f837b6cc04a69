"""A job that requires silos: its run ends by name without them, and says who was missing where it does not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from aggregator import absences
from aggregator.errors import RequiredLost
from aggregator.home import AggregatorHome
from aggregator.ledger.format import verify
from aggregator.run_record import RunRecord
from crypto.errors import SpecError
from crypto.home import Home
from crypto.messages import Message
from jobs.demo.federation import Federation
from jobs.flare.folder import export
from jobs.job import JobSpec
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from tests import local

pytestmark = pytest.mark.slow


def job(**require: object) -> JobSpec:
    raw = {
        "name": "required",
        "method": "fedavg",
        "dataset": "digits",
        "purpose": "a test",
        "params": {"features": 64, "classes": 10, "rounds": 3, "local_steps": 2, "seed": 7},
    }
    return JobSpec.parse(raw | ({"require": require} if require else {}))


class Flaky(InProcess):
    """Silent when ``silent`` says so of its silo and the number of opens so far."""

    def __init__(self, silo: str, agent: Agent, silent: Callable[[str, int], bool]) -> None:
        super().__init__(agent)
        self._silo, self._silent, self._opens = silo, silent, 0

    def send(self, request: Message) -> Message | None:
        self._opens += request.phase == "open"
        return None if self._silent(self._silo, self._opens) else super().send(request)


def run(federation: Federation, spec: JobSpec, silent: Callable[[str, int], bool]) -> RunRecord:
    home = AggregatorHome(federation.aggregator)
    with suppress(RequiredLost):
        local.run_job(
            spec, federation.aggregator, federation.homes, courier=lambda silo, agent: Flaky(silo, agent, silent)
        )
    (folder,) = (federation.aggregator / "jobs").iterdir()
    _, identity = home.open()
    verify(home.ledger_path, identity.public)
    return RunRecord.read(home, folder.name)


def test_without_a_silo_that_it_requires_it_ends_by_name_before_anything_opens(federation: Federation) -> None:
    record = run(federation, job(silos=["silo-2"]), lambda silo, opens: silo == "silo-2" and opens > 2)
    assert record.failed is not None and record.finished is None
    failed = record.failed.record
    assert (failed.code, failed.phase, failed.k) == ("REQUIRED_LOST", "open", 2)
    assert failed.missing == ("silo-2",) and "does not go on without silo-2" in (failed.detail or "")
    assert [entry.record.attempt for entry in record.opened if entry.record.k == 2] == [0, 1, 2], "tried again before"
    assert not record.attested_at.get(2), "no share left for it"


def test_one_that_is_back_in_time_costs_an_attempt_and_nothing_else(federation: Federation) -> None:
    record = run(federation, job(silos=["silo-2"]), lambda silo, opens: silo == "silo-2" and opens == 3)
    assert record.finished is not None
    assert [entry.record.attempt for entry in record.opened if entry.record.k == 2] == [0, 1]
    assert absences.of_run(record) == {}, "every sum has it"


def test_it_falls_out_after_the_open(federation: Federation) -> None:
    class Late(Flaky):
        def send(self, request: Message) -> Message | None:
            if request.phase == "contribute" and self._silo == "silo-2":
                return None
            return super().send(request)

    with pytest.raises(RequiredLost, match="without silo-2"):
        local.run_job(
            job(silos=["silo-2"]),
            federation.aggregator,
            federation.homes,
            courier=lambda silo, agent: Late(silo, agent, lambda *_: False),
        )


def test_a_share_of_the_silos(federation: Federation) -> None:
    record = run(federation, job(fraction=0.9), lambda silo, opens: silo == "silo-5" and opens > 1)
    assert record.failed is not None and record.failed.record.code == "REQUIRED_LOST"
    assert "with 7 of 8 silos, and it requires 8" in (record.failed.record.detail or "")


def test_a_share_of_the_rows(federation: Federation) -> None:
    gone = {"silo-1", "silo-2"}
    record = run(federation, job(rows=0.95), lambda silo, opens: silo in gone and opens > 2)
    assert record.failed is not None and record.failed.record.code == "REQUIRED_LOST"
    assert "of the rows that it had, and it requires 95%" in (record.failed.record.detail or "")
    assert len(record.closed) == 3, "what had opened is on the ledger; the run ends with it"


def test_a_run_that_requires_nothing_says_who_was_missing(federation: Federation) -> None:
    record = run(federation, job(), lambda silo, opens: silo == "silo-3" and opens in (2, 3))
    assert record.finished is not None
    found = absences.of_run(record)
    assert set(found) == {"silo-3"}
    one = found["silo-3"]
    assert (one.steps, one.first, one.last, one.phase, one.code) == (2, "train/0", "train/1", "open", "")
    assert "silo-3 missing from 2 steps, train/0 to train/1 (did not answer in phase open" in absences.sentence(found)


def test_a_silo_of_no_charter_cannot_be_required(federation: Federation, tmp_path: Path) -> None:
    charter = Home(federation.aggregator).charter()
    with pytest.raises(SpecError, match="silo-99"):
        export(job(silos=["silo-99"]), charter, tmp_path / "job")
    assert not (tmp_path / "job").exists()
    with pytest.raises(SpecError, match="silo-99"):
        local.run_job(job(silos=["silo-99"]), federation.aggregator, federation.homes)


def test_the_tables_are_part_of_the_job_only_where_it_has_them() -> None:
    plain = job()
    assert '"require"' not in plain.text and '"resume"' not in plain.text
    asked = job(silos=["silo-2", "silo-1"], rows=1)
    assert JobSpec.from_text(asked.text) == asked and asked.digest != plain.digest
    assert '"require":{"rows":1.0,"silos":["silo-1","silo-2"]}' in asked.text
