"""The account adds up, never goes back, and refuses: across steps, runs and jobs, crashes and old copies."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crypto import durable
from crypto.errors import BadSignature, BudgetSpent, FederationError, JournalLost, Malformed, NoSpace, SpecError
from crypto.keys import Identity
from crypto.privacy_grant import EVERY_JOB, PrivacyGrant
from silo_agent.journal import ACCOUNT, Journal, Spent, mark_of, parse_record
from silo_agent.privacy.account import Account, Statement, release_of
from silo_agent.privacy.accountant import Release, epsilon
from silo_agent.privacy.grants import Grants
from silo_agent.privacy.terms import Privacy

DATA, OTHER_DATA, JOB, OTHER_JOB = b"d" * 32, b"e" * 32, b"j" * 32, b"k" * 32
RUN = "aa" * 32
STEP = Release(1.5, 0.1, 10)
DELTA = 1e-5
PRIVACY = Privacy(
    mechanism="local", unit="record", clip=1.0, sampling_rate=0.1, delta=DELTA, epsilon=2.0, noise_multiplier=1.5,
    accountant="an accountant",
)  # fmt: skip
OWNER = Identity.generate()


def grant(job: bytes, amount: float, *, data: bytes = DATA, at: int = 1, spent: int = 0, delta: float = DELTA) -> bytes:
    made = PrivacyGrant(silo="silo-1", data=data, job=job, epsilon=amount, delta=delta, at=at, spent=spent)
    return made.sign(OWNER)


def granted(folder: Path, *, job: float = 10.0, data: float = 10.0) -> Grants:
    grants = Grants(folder / "approvals", OWNER.public)
    grants.add(grant(JOB, job))
    grants.add(grant(OTHER_JOB, job))
    grants.add(grant(EVERY_JOB, data))
    return grants


def account(journal: Journal, grants: Grants, job: bytes = JOB, data: bytes = DATA) -> Account:
    return Account(journal, grants, PRIVACY, job=job, data=data)


def cost(steps: int) -> float:
    return epsilon([Release(1.5, 0.1, 10 * steps)], DELTA)


def test_it_adds_up_over_steps_runs_and_jobs_and_refuses(tmp_path: Path) -> None:
    budget = (cost(3) + cost(4)) / 2
    grants = granted(tmp_path, data=budget)
    with Journal(tmp_path / "journal.jsonl") as journal:
        account(journal, grants).spend(RUN, 0, [STEP])
        account(journal, grants).spend("bb" * 32, 0, [STEP])
        account(journal, grants, OTHER_JOB).spend("cc" * 32, 5, [STEP])
        before = (tmp_path / "journal.jsonl").read_bytes()
        for job in (JOB, OTHER_JOB):
            with pytest.raises(BudgetSpent, match="the data set"):
                account(journal, grants, job).spend("cc" * 32, 6, [STEP])
        assert (tmp_path / "journal.jsonl").read_bytes() == before  # nothing is spent that was not released
        statement = account(journal, grants).statement
        assert statement.balance(delta=DELTA).epsilon == cost(3)
        assert statement.balance(JOB, delta=DELTA).epsilon == cost(2)
        assert statement.balance(OTHER_JOB, delta=DELTA).epsilon == cost(1)
        assert statement.steps_left(JOB, STEP, 10) == 0
    with Journal(tmp_path / "journal.jsonl") as journal, pytest.raises(BudgetSpent):  # after a restart
        account(journal, grants).check([STEP])


def test_a_job_has_a_budget_of_its_own(tmp_path: Path) -> None:
    grants = granted(tmp_path, job=(cost(1) + cost(2)) / 2)
    with Journal(tmp_path / "journal.jsonl") as journal:
        account(journal, grants).spend(RUN, 0, [STEP])
        with pytest.raises(BudgetSpent, match="this job"):
            account(journal, grants).check([STEP])
        account(journal, grants, OTHER_JOB).check([STEP])


@pytest.mark.parametrize(
    ("kept", "named"), [([JOB], "the data set no epsilon"), ([EVERY_JOB], "this job no epsilon"), ([], "this job")]
)
def test_without_both_grants_nothing_may_be_spent(tmp_path: Path, kept: list[bytes], named: str) -> None:
    grants = Grants(tmp_path / "approvals", OWNER.public)
    for job in kept:
        grants.add(grant(job, 10.0))
    grants.add(grant(JOB, 10.0, data=OTHER_DATA))
    with Journal(tmp_path / "journal.jsonl") as journal, pytest.raises(BudgetSpent, match=named):
        account(journal, grants).check([STEP])


def test_other_data_have_an_account_of_their_own(tmp_path: Path) -> None:
    grants = granted(tmp_path, data=(cost(1) + cost(2)) / 2)
    grants.add(grant(JOB, 10.0, data=OTHER_DATA))
    grants.add(grant(EVERY_JOB, 10.0, data=OTHER_DATA))
    with Journal(tmp_path / "journal.jsonl") as journal:
        account(journal, grants, data=OTHER_DATA).spend(RUN, 0, [STEP])
        account(journal, grants, data=OTHER_DATA).spend(RUN, 1, [STEP])
        account(journal, grants).spend(RUN, 0, [STEP])


def test_the_newest_grant_is_in_force_and_may_be_lower(tmp_path: Path) -> None:
    grants = granted(tmp_path)
    with Journal(tmp_path / "journal.jsonl") as journal:
        account(journal, grants).spend(RUN, 0, [STEP])
        grants.add(grant(EVERY_JOB, cost(1) / 2, at=2, spent=1))
        with pytest.raises(BudgetSpent):
            account(journal, grants).check([STEP])
        grants.add(grant(EVERY_JOB, 10.0, at=3, spent=1))
        account(journal, grants).check([STEP])


# --- an account that was lost, is older, or is of another release ----------------------------------------------------


def test_an_older_journal_is_refused(tmp_path: Path) -> None:
    path, grants = tmp_path / "journal.jsonl", granted(tmp_path)
    with Journal(path) as journal:
        account(journal, grants).spend(RUN, 0, [STEP])
        old = path.read_bytes()
        account(journal, grants).spend(RUN, 1, [STEP])
    path.write_bytes(old)
    with pytest.raises(JournalLost, match="older copy"):
        Journal(path)
    path.unlink()
    with pytest.raises(JournalLost, match="0 records of privacy spent; there were 2"):
        Journal(path)


def test_an_older_home_is_refused_by_the_owners_newer_grant(tmp_path: Path) -> None:
    """Journal and mark were restored together; the grants say that more was spent when they were signed."""
    grants = granted(tmp_path)
    grants.add(grant(JOB, 20.0, at=5, spent=3))
    with Journal(tmp_path / "journal.jsonl") as journal, pytest.raises(JournalLost, match="there were 3"):
        account(journal, grants)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "01", "9" * 30, "1\n"])
def test_a_mark_that_is_no_number_is_refused(tmp_path: Path, text: str) -> None:
    mark_of(tmp_path / "journal.jsonl").write_text(text)
    with pytest.raises(JournalLost, match=r"journal\.spent"):
        Journal(tmp_path / "journal.jsonl")


def test_an_account_from_the_future_is_refused(tmp_path: Path) -> None:
    path, grants = tmp_path / "journal.jsonl", granted(tmp_path)
    with Journal(path) as journal:
        account(journal, grants).spend(RUN, 0, [STEP])
    lines = path.read_bytes().splitlines(keepends=True)
    record = json.loads(lines[-1])
    assert record["account"] == ACCOUNT
    path.write_bytes(b"".join(lines[:-1]) + json.dumps(record | {"account": ACCOUNT + 1}).encode() + b"\n")
    with pytest.raises(JournalLost, match=f"form {ACCOUNT + 1}"):
        Journal(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("noise", "0.0"), ("noise", "-1.0"), ("noise", "nan"), ("noise", "inf"), ("noise", "x"), ("rate", "0.0"),
     ("rate", "1.5"), ("rate", "nan"), ("count", 0), ("count", -5)],
)  # fmt: skip
def test_a_record_with_impossible_numbers_is_never_added_up(field: str, value: object) -> None:
    record = Spent(RUN, 0, JOB.hex(), DATA.hex(), "record", "local", "1.5", "0.1", 10, "a")
    with pytest.raises(JournalLost, match="impossible"):
        release_of(replace(record, **{field: value}))  # type: ignore[arg-type]


def test_another_version_of_the_accountant_adds_up_the_same_releases(tmp_path: Path) -> None:
    path, grants = tmp_path / "journal.jsonl", granted(tmp_path)
    with Journal(path) as journal:
        account(journal, grants).spend(RUN, 0, [STEP])
        journal.spend(replace(journal.spent[0], accountant="PLD of dp-accounting 0.1", step=1))
        assert account(journal, grants).statement.balance(delta=DELTA).epsilon == cost(2)


def test_two_agents_cannot_spend_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl"), pytest.raises(SpecError, match="in use"):
        Journal(tmp_path / "journal.jsonl")


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_the_record_is_on_disk_before_anything_leaves(tmp_path: Path) -> None:
    path, grants = tmp_path / "journal.jsonl", granted(tmp_path)
    with Journal(path) as journal:
        account(journal, grants).spend(RUN, 3, [STEP])
        record = parse_record(path.read_bytes().splitlines()[-1])
        assert isinstance(record, Spent) and (record.step, record.noise, record.count) == (3, "1.5", 10)
        assert mark_of(path).read_text() == "1"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_crash_at_any_write_never_gives_anything_back(tmp_path: Path, data: st.DataObject) -> None:
    """The process ends at a write of the journal or of its mark, half-way: whatever had left before still counts, and
    the journal opens again."""
    home = tmp_path / os.urandom(6).hex()
    home.mkdir()
    path, grants, left = home / "journal.jsonl", granted(home, job=900.0, data=900.0), 0

    class Died(BaseException):
        pass

    for _ in range(data.draw(st.integers(1, 3))):
        steps, dies = data.draw(st.integers(0, 3)), data.draw(st.sampled_from(["append", "replace", "between"]))
        with Journal(path) as journal:
            for step in range(steps):
                account(journal, grants).spend(RUN, step, [STEP])
                left += 1
            with pytest.MonkeyPatch.context() as patch:
                if dies == "append":
                    cut = data.draw(st.integers(0, 40))

                    def torn(fd: int, line: bytes, cut: int = cut) -> None:
                        os.write(fd, line[:cut])
                        raise Died

                    patch.setattr("silo_agent.journal.durable.append", torn)
                else:

                    def ended(path: Path, content: bytes, dies: str = dies, **how: bool) -> None:
                        if dies == "between":
                            durable_replace(path, content, **how)
                        raise Died

                    patch.setattr("silo_agent.journal.durable.replace", ended)
                with pytest.raises(Died):
                    account(journal, grants).spend(RUN, 9, [STEP])
        with Journal(path) as journal:
            assert len(journal.spent) >= left
            left = len(journal.spent)
            assert account(journal, grants).statement.balance(delta=DELTA).epsilon == (cost(left) if left else 0)


durable_replace = durable.replace


@pytest.mark.parametrize("place", ["append", "replace"])
def test_a_full_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    grants = granted(tmp_path)
    with Journal(tmp_path / "journal.jsonl") as journal:

        def full(*args: object, **how: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(f"silo_agent.journal.durable.{place}", full)
        with pytest.raises(NoSpace):
            account(journal, grants).spend(RUN, 0, [STEP])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([JOB, OTHER_JOB]), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_balance_only_grows_and_does_not_depend_on_the_order(jobs: list[bytes], shuffled: object) -> None:
    records = [
        Spent(RUN, at, job.hex(), DATA.hex(), "record", "local", "1.5" if job == JOB else "2.0", "0.1", 10, "a")
        for at, job in enumerate(jobs)
    ]
    found = [Statement(tuple(records[:at]), {}).balance(delta=DELTA).epsilon for at in range(len(records) + 1)]
    assert found == sorted(found) and found[0] == 0
    shuffled.shuffle(records)  # type: ignore[attr-defined]
    assert Statement(tuple(records), {}).balance(delta=DELTA).epsilon == found[-1]
    of_jobs = [Statement(tuple(records), {}).balance(job, delta=DELTA).epsilon for job in (JOB, OTHER_JOB)]
    assert max(of_jobs) <= found[-1] + 1e-9


# --- grants ----------------------------------------------------------------------------------------------------------


def test_a_grant_is_the_owners_signature_and_nothing_else(tmp_path: Path) -> None:
    grants = Grants(tmp_path / "approvals", OWNER.public)
    made = PrivacyGrant(silo="silo-1", data=DATA, job=JOB, epsilon=1.0, delta=DELTA, at=1, spent=0)
    with pytest.raises(BadSignature):
        grants.add(made.sign(Identity.generate()))
    grants.add(made.sign(OWNER))
    (tmp_path / "approvals" / "other.grant").write_bytes(made.sign(Identity.generate()))
    (tmp_path / "approvals" / "damaged.grant").write_bytes(grant(JOB, 900.0, at=9)[:-1])
    assert grants.all() == [made]


@pytest.mark.parametrize(
    ("amount", "delta"),
    [(0.0, DELTA), (-1.0, DELTA), (float("nan"), DELTA), (float("inf"), DELTA), (1.0, 0.0), (1.0, 1.0)],
)
def test_a_grant_of_impossible_numbers_does_not_open(tmp_path: Path, amount: float, delta: float) -> None:
    with pytest.raises(Malformed):
        Grants(tmp_path / "approvals", OWNER.public).add(grant(JOB, amount, delta=delta))


def test_a_grant_has_canonical_bytes() -> None:
    made = PrivacyGrant(silo="silo-1", data=DATA, job=JOB, epsilon=1.5, delta=DELTA, at=7, spent=3)
    assert PrivacyGrant.from_bytes(bytes(made)) == made
    for bad in (bytes(made) + b"\0", bytes(made)[:-1], bytes(replace(made, silo="No Silo"))):
        with pytest.raises(FederationError):
            PrivacyGrant.from_bytes(bad)
