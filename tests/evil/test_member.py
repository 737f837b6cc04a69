"""Every misdeed of one member against an honest aggregator and honest peers, in this process; and what each would come
to without the check that finds it. Over NVFlare: ``make evil GAME=bad-member``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import StepClosed
from aggregator.rounds.attempt import Attempt
from aggregator.rounds.run import Run
from aggregator.run_record import RunRecord
from crypto import cohort, opening, proof, silo_session, transcript
from crypto.cohort import Survivors, _combine, mask_key
from crypto.errors import JournalLost, RoundLost
from crypto.keys import SessionKey
from crypto.messages import Shares
from crypto.server_session import ServerSession
from jobs.demo.federation import Federation
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from silo_agent.journal import Journal
from tests import local, tiny
from tests.evil.logs import Line, heard, lines
from tests.evil.member import KINDS, LIAR, SILOS, STEP, VICTIM, Kind, Lying, judged
from tests.evil.outcome import Outcome

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Played:
    kind: Kind
    record: RunRecord
    logged: dict[str, Counter[Line]]
    run: Run
    agents: Mapping[str, Agent]

    @property
    def outcome(self) -> Outcome:
        return judged(self.kind, self.record, self.run.charter, self.logged)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.federation(tmp_path_factory.mktemp("member") / "f", SILOS).root


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Federation:
    return local.copied(made, tmp_path / "f")


class _Heard(InProcess):
    def __init__(self, agent: Any, log: list[str]) -> None:
        super().__init__(agent)
        self._log = log

    def send(self, request: Any) -> Any:
        with heard(self._log):
            return self.agent.handle(request)


def play(name: str, federation: Federation) -> Played:
    kind = KINDS[name]
    kind.register(federation)
    said: dict[str, list[str]] = {silo: [] for silo in federation.silos}

    def courier(silo: str, agent: Agent) -> InProcess:
        return _Heard(Lying(agent, kind.play) if silo == LIAR else agent, said[silo])

    outcome, run, agents = local.run_job(kind.job(), federation.aggregator, federation.homes, courier=courier)
    record = RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    return Played(kind, record, {silo: lines("\n".join(one)) for silo, one in said.items()}, run, agents)


@pytest.mark.parametrize("name", KINDS)
def test_one_bad_member_costs_its_own_part_and_is_named_where_it_can_be(name: str, federation: Federation) -> None:
    assert play(name, federation).outcome.wrong == ()


# --- without the check, the misdeed succeeds --------------------------------------------------------------------------


def missed(played: Played, *what: str) -> None:
    """Of the liar's deeds these are no longer found."""
    for start in what:
        assert any(line.startswith(start) for line in played.outcome.wrong), played.outcome


NOT_NAMED = "the ledger names the liar in: {} instead of"


def test_a_seed_that_is_not_committed_to_is_nobodys(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cohort, silo_session, opening):
        monkeypatch.setattr(module, "commitment", lambda silo, lane, seed: transcript.digest("none", silo, lane))
    missed(play("uncommitted-self-seed", federation), NOT_NAMED, "steps whose lane stays shut: ()")


def test_a_mask_key_that_is_not_compared_is_nobodys(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as one that dropped out, and its masks are not removed: the sums of the step are false."""

    def unchecked(self: Survivors, shares: Iterable[Shares]) -> dict[str, SessionKey]:
        points, threshold = self.dealt.cohort.points, self.dealt.cohort.threshold
        masks = {points[one.silo]: dict(one.masks) for one in shares}
        found = {silo: {point: given[silo] for point, given in masks.items()} for silo in self.dropped}
        return {silo: mask_key(_combine(silo, table, threshold)) for silo, table in found.items()}

    monkeypatch.setattr(Survivors, "recover_masks", unchecked)
    missed(play("uncommitted-mask-seed", federation), "the ledger names the liar in: {1: 'NO_SPACE'}", "void steps: ()")


@pytest.mark.parametrize(("name", "believed"), [("garbage-row", "silo"), ("false-complaint", "dealer")])
def test_without_the_key_of_the_row_the_victim_is_left_out(
    name: str, believed: str, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guess(self: ServerSession, silo: str, dealer: str, key: bytes) -> str:
        return {"silo": silo, "dealer": dealer}[believed]

    monkeypatch.setattr(ServerSession, "at_fault", guess)
    played = play(name, federation)
    assert all(VICTIM not in entry.record.survivors for entry in played.record.of(StepClosed) if entry.record.k > STEP)
    missed(played, "silos without a part")


def test_without_a_look_at_each_tag_a_false_one_voids_the_step(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attempt, "_blame_false_tags", lambda self: False)
    missed(play("false-tag", federation), NOT_NAMED, f"void steps: ({STEP},)")


def test_without_the_bounds_the_raw_words_become_the_model(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "check_bounds", lambda *given: None)
    played = play("beyond-the-clip", federation)
    missed(played, "steps whose lane stays shut: ()")
    moved = max(float(np.abs(block).max()) for block in played.agents[VICTIM].state.values())
    assert moved > 1.5 * 2 * max(block.clip for block in played.run.spec.plan.blocks), "further than two means may"


def test_a_counter_whose_silo_nobody_names_stops_all(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    see = Journal.see_peers

    def silent(self: Journal, releases: Mapping[str, int]) -> None:
        try:
            see(self, releases)
        except JournalLost as lost:
            raise JournalLost(lost.detail) from lost

    monkeypatch.setattr(Journal, "see_peers", silent)
    with pytest.raises(RoundLost, match="JOURNAL_LOST"):
        play("counter-jump", federation)
