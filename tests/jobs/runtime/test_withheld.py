"""Honest runs under the rule of atoms: what a missing silo costs, who is asked again, what a full disk stops."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import Refusal, StepClosed
from aggregator.run_record import RunRecord
from crypto import durable, scores
from crypto.messages import DECLINE, Decline, Message
from jobs.demo.federation import Federation
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from silo_agent.journal import Boot, Journal, Released
from tests import local

JOB = local.spec(rounds=3)
TRAIN = 1


def closed(federation: Federation, run: str) -> dict[int, StepClosed]:
    record = RunRecord.read(AggregatorHome(federation.aggregator), run)
    return {entry.record.k: entry.record for entry in record.of(StepClosed)}


def test_a_silo_that_misses_single_steps_costs_the_figures_of_the_data_in_these(federation: Federation) -> None:
    """The rest opens: correct answers and lanes are of other blocks in each step."""

    def away(request: Message, answer: Callable[[], Message]) -> Message | None:
        return None if local.asked(request).step in (2, 4) else answer()

    outcome, _, _ = local.play(federation, local.of_state(rounds=3), {"silo-5": away})
    steps = closed(federation, outcome.run)
    assert (outcome.steps_released, outcome.steps_void, outcome.lanes_shut) == (5, 0, 0)
    assert {k for k, one in steps.items() if "silo-5" not in one.survivors} == {2, 4}
    assert "rows" in steps[0].slots and all("global.correct" in steps[k].slots for k in (1, 2, 3, 4))
    assert {k for k, one in steps.items() if "test.rows" in one.slots} == {1, 3}


def test_metrics_open_with_the_test_rows_or_not_at_all(federation: Federation) -> None:
    """Counts of a class add up to its rows, whatever the model: with silo-5 and without it they would show silo-5's."""

    def away(request: Message, answer: Callable[[], Message]) -> Message | None:
        return None if local.asked(request).step in (2, 4) else answer()

    outcome, _, _ = local.play(federation, local.spec(rounds=3, metrics_every=1), {"silo-5": away})
    steps = closed(federation, outcome.run)
    assert (outcome.steps_released, outcome.steps_void, outcome.lanes_shut) == (5, 0, 0)
    assert {k for k, one in steps.items() if "test.rows" in one.slots} == {1, 3}
    for k in (1, 2, 3, 4):
        found = {score.metric: score for score in scores.scores(steps[k].slots, "global")}
        assert (k in (1, 3)) is bool(found) is ("global.correct" in steps[k].slots)
    of_rows = {k: sum(steps[k].slots[f"global.confusion.3.{named}"] for named in range(10)) for k in (1, 3)}
    assert of_rows[1] == of_rows[3], "all silos: the rows of a class are the same in each step"


def test_a_silo_that_stays_away_lets_the_figures_open_over_the_others_alone(federation: Federation) -> None:
    outcome, _, _ = local.play(federation, JOB, {"silo-5": local.silent_from("open", 0)})
    steps = closed(federation, outcome.run)
    assert outcome.lanes_shut == 0 and all("test.rows" in steps[k].slots for k in (1, 2, 3, 4))


# --- asked a second time ---------------------------------------------------------------------------------------------


class Deaf(InProcess):
    """Does not hear the first request of a phase in step ``TRAIN``; notes what it is asked in that phase."""

    def __init__(self, agent: Agent, phase: str, heard: list[bytes], deaf: bool) -> None:
        super().__init__(agent)
        self._phase, self._heard, self._deaf = phase, heard, deaf

    def send(self, request: Message) -> Message | None:
        if request.phase == self._phase and local.asked(request).step == TRAIN:
            self._heard.append(request.body)
            if self._deaf and len(self._heard) == 1:
                return None
        return super().send(request)


@pytest.mark.parametrize("phase", ["attest", "unmask-slots", "unmask-lanes"])
@pytest.mark.parametrize("deaf", [4, 3])
def test_who_did_not_answer_is_asked_again_if_too_few_did(federation: Federation, phase: str, deaf: int) -> None:
    """t is 5 of 8: four answers are too few, five are enough."""
    heard: dict[str, list[bytes]] = {silo: [] for silo in federation.silos}
    quiet = federation.silos[:deaf]
    outcome, _, _ = local.run_job(
        local.spec(rounds=1),
        federation.aggregator,
        federation.homes,
        courier=lambda silo, agent: Deaf(agent, phase, heard[silo], silo in quiet),  # type: ignore[arg-type]
    )
    steps = closed(federation, outcome.run)
    assert (outcome.steps_released, outcome.steps_void, outcome.lanes_shut) == (3, 0, 0)
    asked = 2 if deaf == 4 else 1
    assert {silo: len(found) for silo, found in heard.items()} == {
        silo: asked if silo in quiet else 1 for silo in federation.silos
    }
    assert all(len(set(found)) == 1 for found in heard.values()), "the same request"
    assert steps[TRAIN].lost == ({} if deaf == 4 else dict.fromkeys(quiet, phase)), "who answers then is in"


# --- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["unmask-slots", "unmask-lanes"])
def test_no_share_leaves_that_is_not_on_record(
    federation: Federation, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the record of what is about to open: the silo declines, and the others go on."""
    append, answers = durable.append, list[Message]()

    def full(fd: int, data: bytes, **how: bool) -> None:
        if b'"kind":"opened"' in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(fd, data, **how)

    def fault(request: Message, answer: Callable[[], Message]) -> Message | None:
        if (local.asked(request).step, request.phase) != (TRAIN, phase):
            return answer()
        with monkeypatch.context() as patched:
            patched.setattr(durable, "append", full)
            answers.append(answer())
        return answers[-1]

    outcome, _, _ = local.play(federation, local.spec(rounds=1), {"silo-3": fault})
    (refused,) = answers
    assert refused.phase == DECLINE and Decline.open(refused.body, local.any_key).code == "NO_SPACE"
    assert not refused.arrays and (outcome.steps_released, outcome.lanes_shut) == (3, 0)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    assert {(one.record.silo, one.record.phase, one.record.code) for one in record.of(Refusal)} == {
        ("silo-3", phase, "NO_SPACE")
    }
    journal = (federation.silo("silo-3") / "journal.jsonl").read_text()
    assert sum('"opened"' in line and f'"step":{TRAIN},' in line for line in journal.splitlines()) == (
        phase == "unmask-lanes"
    )


@pytest.mark.parametrize("then", [8, 7])
def test_releases_of_the_earlier_protocol_count_for_figures_of_the_data(federation: Federation, then: int) -> None:
    """All eight released under consilium/1, over ``then`` of them. Now all eight take part: their rows open only if
    they are the same eight."""
    cohort = federation.silos[:then]
    for silo in cohort:
        old = bytes(Boot("00")).replace(b',"protocol":""', b"") + bytes(Released("aa" * 32, 0, "bb" * 32, cohort))
        (federation.silo(silo) / "journal.jsonl").write_bytes(old)
    outcome, _, _ = local.run_job(local.of_state(rounds=3), federation.aggregator, federation.homes)
    steps = closed(federation, outcome.run)
    assert (outcome.steps_released, outcome.lanes_shut) == (5, 0)
    assert ("rows" in steps[0].slots) is (then == 8) is ("test.rows" in steps[2].slots)
    assert all("global.correct" in steps[k].slots for k in (1, 2, 3, 4))


class Gone(InProcess):
    def send(self, request: Message) -> Message | None:
        return None


def test_what_no_signature_proves_counts_at_each_silo_that_released_it(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a change of keys: nobody is told of it any more."""
    monkeypatch.setattr(Journal, "told", lambda journal, quantities, charter: ())
    first, _, _ = local.run_job(local.of_state(rounds=1), federation.aggregator, federation.homes)
    again, _, _ = local.run_job(
        local.of_state(rounds=1),
        federation.aggregator,
        federation.homes,
        courier=lambda silo, agent: Gone(agent) if silo == "silo-8" else InProcess(agent),
    )
    assert "rows" in closed(federation, first.run)[0].slots
    assert "rows" not in closed(federation, again.run)[0].slots
