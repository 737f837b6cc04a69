"""A silo leaves and another comes: rosters, ledger, plan. Whole jobs in this process, and what is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry, S, of_kind, read, verify
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import CharterRecorded, Kind, Record, RunStarted, StepClosed, Withdrawal
from aggregator.run_record import RunRecord
from aggregator.verify.models import models
from crypto.charter import SignedCharter
from crypto.errors import BadSignature, FederationError, SpecError
from crypto.home import Home
from crypto.keys import Identity
from crypto.pinned_charter import PinnedCharter
from jobs.demo.digits_data import make
from jobs.demo.federation import add_data
from jobs.evidence.try_model import ColdTrial, cold
from jobs.job import JobSpec
from jobs.membership import accept as membership_accept
from jobs.membership import withdraw
from jobs.membership.accept import accept, running
from jobs.membership.keygen import keygen_silo, read_member
from jobs.membership.propose import next_epoch
from jobs.membership.withdraw import Withdrawn
from jobs.membership.withdrawal_plan import WithdrawalPlan
from silo_agent.home import SiloHome
from silo_agent.journal import Journal
from tests import local
from tests.members import Bare, files

pytestmark = pytest.mark.slow

#: expert-0 and expert-1 have visible holders (1, 2, 3, 4 and 5, 6, 7, 8), expert-2 and expert-3 hidden ones.
JOB = JobSpec.load("fedavg-lanes-digits").with_params(local_steps=3, rounds=2)
LEFT = tuple(f"silo-{i}" for i in range(1, 9) if i != 3)


# --- the story ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """Eight silos run a job; silo-3 withdraws; seven run it; silo-9 joins, tries the model cold; eight run it."""

    home: Path
    runs: tuple[str, str, str]
    plan: WithdrawalPlan
    done: Withdrawn
    cold: ColdTrial
    keys: tuple[dict[str, dict[str, bytes]], ...]  # of every home: before, after the withdrawal, after the join

    def of(self, kind: type[S]) -> list[Entry[S]]:
        return list(of_kind(read(AggregatorHome(self.home).ledger_path), kind))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    federation = local.federation(tmp_path_factory.mktemp("story") / "f")
    home, homes_of = federation.aggregator, federation.homes
    consortium = Identity.load(federation.root / "consortium" / "consortium.key")

    def keys() -> dict[str, dict[str, bytes]]:
        everyone = {"aggregator": home, **federation.homes}
        return {name: files(one / "keys") | {"salt": _salt(one)} for name, one in everyone.items()}

    before = keys()
    first, _, _ = local.run_job(JOB, home, homes_of)
    plan = withdraw.plan(AggregatorHome(home), "silo-3")
    done = withdraw.withdraw(AggregatorHome(home), "silo-3", "consent withdrawn", consortium=consortium)
    for silo in LEFT:
        accept(Home(homes_of[silo]), done.file.read_bytes())
    after = keys()
    second, _, _ = local.run_job(JOB, home, {silo: homes_of[silo] for silo in LEFT})

    ninth = federation.silo("silo-9")
    member = keygen_silo(SiloHome(ninth), "silo-9")
    new = next_epoch(Home(home).charter(), add=[member], now=1_000 + Home(home).charter().not_before)
    signed = bytes(SignedCharter.sign(new, consortium))
    for one in (home, *(homes_of[silo] for silo in LEFT)):
        accept(Home(one), signed)
    accept(Home(ninth), signed, consortium=consortium.public, expect_fingerprint=consortium.public.fingerprint)
    add_data(SiloHome(ninth), "silo-9", "digits", make(8, 7)["newcomer-1"])
    tried = cold(SiloHome(ninth), home / "jobs" / second.run, "digits")
    third, _, _ = local.run_job(JOB, home, {silo: homes_of[silo] for silo in LEFT} | {"silo-9": ninth})
    runs = (first.run, second.run, third.run)
    return Story(home, runs, plan, done, tried, (before, after, keys()))


def _salt(home: Path) -> bytes:
    return (home / "salt").read_bytes() if (home / "salt").exists() else b""


def test_the_next_roster_lacks_the_one_that_left_and_has_the_one_that_came(story: Story) -> None:
    rosters = {entry.record.run: tuple(entry.record.silos) for entry in story.of(RunStarted)}
    assert [rosters[run] for run in story.runs] == [
        tuple(f"silo-{i}" for i in range(1, 9)),
        LEFT,
        tuple(sorted([*LEFT, "silo-9"])),
    ]
    for run, there, away in ((story.runs[1], "silo-4", "silo-3"), (story.runs[2], "silo-9", "silo-3")):
        closed = list(RunRecord.read(AggregatorHome(story.home), run).of(StepClosed))
        assert closed and all(there in one.record.survivors and away not in one.record.survivors for one in closed)


def test_nobody_elses_keys_change_by_a_byte(story: Story) -> None:
    assert story.keys[0] == story.keys[1]
    assert {name: story.keys[2][name] for name in story.keys[0]} == story.keys[0]
    assert set(story.keys[2]) == set(story.keys[0])


def test_the_ledger_has_every_epoch_and_the_withdrawal_and_still_checks(story: Story) -> None:
    digests = {entry.record.epoch: entry.record.charter_digest for entry in story.of(CharterRecorded)}
    assert sorted(digests) == [1, 2, 3]
    (entry,) = story.of(Withdrawal)
    record = entry.record
    assert (record.silo, record.reason, record.epoch) == ("silo-3", "consent withdrawn", 2)
    assert record.charter_digest == digests[2]
    assert record.models == (story.runs[0],) and record.remedies.keys() == {story.runs[0]}
    runs = {entry.record.run: entry.record.charter_digest for entry in story.of(RunStarted)}
    assert [runs[run] for run in story.runs] == [digests[1], digests[2], digests[3]]
    verify(AggregatorHome(story.home).ledger_path, Home(story.home).charter().aggregator)


def test_versions_know_whose_data_they_hold_that_has_left(story: Story) -> None:
    assert [one.withdrawn_silos for one in models(AggregatorHome(story.home))] == [("silo-3",), (), ()]


def test_the_plan_names_the_lanes_it_touched_and_how_sure_that_is(story: Story) -> None:
    (one,) = story.plan.models
    assert (one.run, one.took_part, story.plan.untouched) == (story.runs[0], (0, 1, 2, 3), ())
    found = {lane.lane: (lane.contributed, lane.possible, lane.indirect, lane.remedy.name) for lane in one.lanes}
    assert found == {
        "trunk": ((1, 2), (), True, "WHOLE"),
        "expert-0": ((1, 2), (), True, "RESET"),  # it holds it, and that is visible
        "expert-1": ((), (), True, "NOTHING"),  # it doesn't, and that is visible
        "expert-2": ((), (1, 2), True, "RESET"),  # it doesn't, but nobody can know
        "expert-3": ((), (1, 2), True, "RESET"),
    }
    text = "\n".join(story.plan.lines())
    assert "expert-0       contributed in train/0 … train/1 (weights are hidden)" in text
    assert "may have contributed in train/0 … train/1" in text


def test_afterwards_the_plan_is_the_same_and_the_later_models_are_untouched(story: Story) -> None:
    now = withdraw.plan(AggregatorHome(story.home), "silo-3")
    assert now.models == story.plan.models == story.done.plan.models
    assert now.untouched == story.runs[1:]


def test_the_newcomer_is_tried_cold_on_its_own_rows_with_checked_evidence(story: Story) -> None:
    assert (story.cold.silo, story.cold.run, story.cold.rows) == ("silo-9", story.runs[1], 39)
    assert {"ledger", "charters", "sums", "closing"} <= {line.name for line in story.cold.report.lines}


# --- half done, and done again -----------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return Bare(tmp_path)


def lines(home: Path) -> list[tuple[str, str]]:
    return [(entry.kind, getattr(entry.record, "silo", "")) for entry in read(AggregatorHome(home).ledger_path)]


DONE = [(Kind.CHARTER, ""), (Kind.CHARTER, ""), (Kind.WITHDRAWAL, "silo-3")]


def test_an_epoch_without_the_silo_is_pinned_and_handed_out(bare: Bare) -> None:
    done = withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    new = Home(bare.aggregator).charter()
    assert new.silos == ("silo-1", "silo-2", "silo-4") and done.changes.leaves == ("silo-3",)
    assert SignedCharter.open(done.file.read_bytes(), bare.consortium.public) == new
    assert lines(bare.aggregator) == DONE
    assert "silo-withdrawn" in (bare.aggregator / "security.jsonl").read_text()
    assert accept(Home(bare.home("silo-1")), done.file.read_bytes()).leaves == ("silo-3",)


@pytest.mark.parametrize("at", ["pin", "record_charter", "SecurityLog", "append"])
def test_what_a_crash_left_half_done_is_finished_by_calling_it_again(
    bare: Bare, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    class Crash(BaseException):
        pass

    real = Ledger.append

    def dies(*given: object, **more: object) -> None:
        raise Crash

    def dies_at_the_withdrawal(ledger: Ledger, record: Record) -> Entry:
        if record.kind is Kind.WITHDRAWAL:
            raise Crash
        return real(ledger, record)

    with monkeypatch.context() as patched:
        match at:
            case "pin":
                patched.setattr(PinnedCharter, "pin", dies)
            case "append":
                patched.setattr(Ledger, "append", dies_at_the_withdrawal)
            case _:
                patched.setattr(membership_accept, at, dies)
        with pytest.raises(Crash):
            withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    assert not _ledger(bare) or Kind.WITHDRAWAL not in [kind for kind, _ in lines(bare.aggregator)]
    withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    assert lines(bare.aggregator) == DONE
    assert Home(bare.aggregator).charter().epoch == 2


def _ledger(bare: Bare) -> bool:
    return AggregatorHome(bare.aggregator).ledger_path.exists()


def test_an_epoch_signed_elsewhere_needs_no_key_here(bare: Bare) -> None:
    _, signed = bare.following(remove=["silo-3"])
    accept(Home(bare.aggregator), signed)
    done = withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why")
    assert lines(bare.aggregator) == DONE and done.file.read_bytes() == signed


def test_the_demonstrations_silos_accept_at_once_and_who_would_not_is_named(bare: Bare) -> None:
    accept(Home(bare.home("silo-2")), bare.following(remove=["silo-3"])[1])
    members = [SiloHome(bare.home(silo)) for silo in bare.silos]
    with Journal(bare.home("silo-4") / "journal.jsonl"):
        done = withdraw.withdraw(
            AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium, members=members
        )
    assert [silo for silo, refused in done.accepted.items() if not refused] == ["silo-1", "silo-2", "silo-3"]
    assert "a run under way" in done.accepted["silo-4"]
    assert [home.charter().epoch for home in members] == [2, 2, 2, 1]
    assert lines(bare.aggregator) == DONE


def test_a_silo_may_come_back_and_leave_again(bare: Bare) -> None:
    withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    again = [read_member(bare.home("silo-3") / "member.json")]
    accept(Home(bare.aggregator), bare.following(Home(bare.aggregator).charter(), add=again)[1])
    done = withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    assert done.changes.new.epoch == 4 and done.changes.leaves == ("silo-3",)
    withdrawals = [
        e.record.epoch for e in read(AggregatorHome(bare.aggregator).ledger_path) if e.kind is Kind.WITHDRAWAL
    ]
    assert withdrawals == [2, 4]


def test_a_silo_that_came_later_leaves_like_any_other(bare: Bare, tmp_path: Path) -> None:
    accept(Home(bare.aggregator), bare.following(add=[keygen_silo(SiloHome(tmp_path / "ninth"), "silo-9")])[1])
    done = withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-9", "why", consortium=bare.consortium)
    assert done.changes.new.epoch == 3 and done.file.name == "000003.bin"


# --- refused by name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "bell\a", "x" * 501])
def test_a_reason_is_a_line_of_words(bare: Bare, reason: str) -> None:
    with pytest.raises(SpecError, match="reason"):
        withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", reason, consortium=bare.consortium)
    assert not _ledger(bare)


def test_what_can_not_be_done_is_refused_before_anything_is_written(bare: Bare, tmp_path: Path) -> None:
    three = Bare(tmp_path / "three", silos=3)
    cases: list[tuple[Bare, str, Identity | None, type[FederationError], str]] = [
        (bare, "silo-9", bare.consortium, SpecError, "one of silo-1, silo-2, silo-3, silo-4"),
        (bare, "silo-3", None, SpecError, "consortium's key"),
        (bare, "silo-3", Identity.generate(), SpecError, "the members have pinned"),
        (three, "silo-3", three.consortium, SpecError, "at least 3"),
    ]
    for federation, silo, key, error, says in cases:
        before = files(federation.root, but=["run.lock"])
        with pytest.raises(error, match=says):
            withdraw.withdraw(AggregatorHome(federation.aggregator), silo, "why", consortium=key)
        assert files(federation.root, but=["run.lock"]) == before
    with pytest.raises(SpecError, match="one of silo-1"):
        withdraw.plan(AggregatorHome(bare.aggregator), "silo-9")


def test_nobody_is_withdrawn_twice(bare: Bare) -> None:
    withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    with pytest.raises(SpecError, match=r"withdrawn with epoch 2.*000002\.bin"):
        withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    assert lines(bare.aggregator) == DONE


def test_only_between_runs_and_only_at_the_aggregator(bare: Bare) -> None:
    with running(AggregatorHome(bare.aggregator)), pytest.raises(SpecError, match="a run under way"):
        withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    with pytest.raises(SpecError, match="aggregator's home"):
        withdraw.withdraw(AggregatorHome(bare.home("silo-1")), "silo-3", "why", consortium=bare.consortium)
    assert Home(bare.aggregator).charter() == bare.first


def test_a_ledger_that_does_not_check_stops_it(bare: Bare) -> None:
    accept(Home(bare.aggregator), bare.following(remove=["silo-4"])[1])
    path = AggregatorHome(bare.aggregator).ledger_path
    path.write_bytes(path.read_bytes().replace(b'"epoch":1', b'"epoch":7'))
    before = files(bare.root, but=["run.lock"])
    with pytest.raises(FederationError, match="ledger"):
        withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
    assert files(bare.root, but=["run.lock"]) == before


def test_a_charter_that_was_swapped_in_the_home_stops_it(bare: Bare) -> None:
    other = SignedCharter.sign(bare.first, Identity.generate())
    (bare.aggregator / "charter.bin").write_bytes(bytes(other))
    with pytest.raises(BadSignature):
        withdraw.withdraw(AggregatorHome(bare.aggregator), "silo-3", "why", consortium=bare.consortium)
