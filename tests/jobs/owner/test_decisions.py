"""The data owner's view: what a review shows of a job, what an approval covers, and when it no longer does."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.approval import Approval, approval_digest
from crypto.charter import SignedCharter
from crypto.errors import DataRefused, NoSpace, NotApproved, SpecError
from crypto.home import Home
from crypto.keys import Identity
from crypto.plan import Lane, Scope
from crypto.text import escaped
from jobs import release
from jobs.cli import main as cli
from jobs.demo.federation import Federation, made_up
from jobs.job import JobSpec
from jobs.owner import approval_terms, decisions
from jobs.owner.approval_terms import DAY
from jobs.owner.render import day, review_lines, state_line
from jobs.owner.review import OwnerView
from jobs.runtime.compose import answering_agent, open_agent
from jobs.security_log.writer import check_log
from jobs.security_log.writer import files as log_files
from silo_agent.agent import Agent, Refusing
from silo_agent.approval_store import ApprovalState
from silo_agent.home import SiloHome
from tests import local

SPEC = local.spec(features=5, classes=3)
LANES = local.spec("fedavg-lanes", features=5, classes=3, experts=2, visible=1).with_params(
    **{"holders-0": "silo-1 silo-2 silo-3", "holders-1": "silo-2 silo-3 silo-4"}
)


def tiny(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {"classes": np.array(3)}
    for part, rows in (("train", 37), ("test", 11)):
        made |= {f"x_{part}": rng.normal(size=(rows, 5)).astype(np.float32), f"y_{part}": np.arange(rows) % 3}
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    data = {f"silo-{at}": tiny(at) for at in range(1, 5)}
    return Federation.make(tmp_path_factory.mktemp("owner") / "f", "test", data, "digits")


@pytest.fixture
def federation(made: Federation, tmp_path: Path) -> Federation:
    """A copy of its own for each test: a home may be moved."""
    shutil.copytree(made.root, tmp_path / "f")
    return Federation(tmp_path / "f", made.name, made.silos)


@pytest.fixture
def home(federation: Federation) -> Path:
    return federation.silo("silo-1")


def approval_state(home: Path, spec: JobSpec = SPEC, **when: int) -> ApprovalState:
    return OwnerView(SiloHome(home), **when).approval_state(spec)


def events(home: Path) -> list[tuple[str, dict[str, Any]]]:
    """The home's security log, checked, without its first line."""
    check_log(Home(home))
    lines = [json.loads(line) for path in log_files(Home(home)) for line in path.read_bytes().splitlines()]
    return [(line["event"], line["fields"]) for line in lines if line["event"] != "log-opened"]


# --- what a request is shown to do -----------------------------------------------------------------------------------


def test_a_review_shows_what_would_leave(home: Path) -> None:
    review = OwnerView(SiloHome(home)).review(LANES)
    plan = LANES.plan(Home(home).charter())
    assert (review["job"], review["plan"]) == (LANES.digest.hex(), plan.digest.hex())
    assert (review["method"], review["dataset"], review["purpose"]) == ("fedavg-lanes", "digits", "a test")
    assert review["charter"]["silos"] == 4 and review["charter"]["epoch"] == 1
    assert review["rounds"] == 2 and len(review["leaves"]["steps"]) == len(plan.steps)
    assert {lane["name"]: (lane["holdings"], lane["floor"]) for lane in review["leaves"]["lanes"]} == {
        "trunk": ("everyone", 3),
        "expert-0": ("visible", 3),
        "expert-1": ("hidden", 3),
    }
    assert {"rows", "test.rows", "global.correct"} <= {
        slot for step in review["leaves"]["steps"] for slot in step["slots"]
    }
    assert review["registered"]["features"] == 5
    assert json.loads(json.dumps(review)) == review


def test_a_review_as_lines(home: Path) -> None:
    text = "\n".join(review_lines(OwnerView(SiloHome(home)).review(LANES) | {"asked": "2027-01-02T03:04:05+00:00"}))
    for line in (
        "fedavg-lanes-test  waiting: nobody has decided",
        f"{LANES.digest.hex()}, asked for 2027-01-02 03:04 UTC",
        "4 silos of test, charter of epoch 1",
        "2 rounds, 4 steps",
        "holders visible to the aggregator, opens from 3 silos",
        "holders hidden, opens from 3 silos",
        "sums of silos, rows, global.correct, test.rows;",
        "all masked uploads",
        "registered here: 5 features, 3 classes",
    ):
        assert line in text, line


def test_no_review_shows_how_many_rows_there_are(home: Path) -> None:
    def numbers(value: object) -> set[object]:
        if isinstance(value, dict):
            return set().union(*map(numbers, value.values()))
        if isinstance(value, list):
            return set().union(*map(numbers, value))
        return {value}

    rows = {37, 11, 48}
    assert not rows & numbers(OwnerView(SiloHome(home)).review(SPEC))
    assert not rows & numbers(decisions.list_data(OwnerView(SiloHome(home))))


def test_floors_are_the_strictest_of_charter_plan_and_policy(home: Path) -> None:
    (home / "policy.toml").write_text("[floors]\ntrunk = 4\n")
    view = OwnerView(SiloHome(home))
    assert {lane["name"]: lane["floor"] for lane in view.review(LANES)["leaves"]["lanes"]} == {
        "trunk": 4,
        "expert-0": 3,
        "expert-1": 3,
    }
    strict = OwnerView(SiloHome(home))
    strict.__dict__["charter"] = replace(strict.charter, lane_floor=5, honest=2, colluders=1)
    assert strict.floor(Lane(name="a", scope=Scope.HELD, floor=1)) == 5
    assert strict.floor(Lane(name="a", scope=Scope.ALL, floor=1)) == 3, "m + c, whatever the plan says"
    assert strict.floor(Lane(name="a", scope=Scope.HELD, floor=6)) == 6


def test_requests_are_listed_and_invalid_ones_named(home: Path) -> None:
    view = OwnerView(SiloHome(home))
    view.queue.put(SPEC.text)
    view.queue.put(SPEC.text.replace('"method":"fedavg"', '"method":"unheard-of"'))
    tampered = view.queue.put(local.spec(features=5, classes=3, seed=8).text)
    [job] = home.rglob(f"{tampered}/code/job.json")
    job.write_text(SPEC.text)
    found = decisions.requests(view)
    assert found["silo"] == "silo-1"
    assert [request.get("name") for request in found["requests"]] == ["fedavg-test", None]
    assert "method" in found["requests"][1]["amiss"]
    assert "cannot be read here" in "\n".join(review_lines(found["requests"][1]))
    assert found["tampered"] == [{"name": tampered, "why": "its job was edited: the digest is another"}]
    assert all(request["pysyft"] == "pending" for request in found["requests"])


def test_what_was_approved_but_not_queued_is_listed(home: Path) -> None:
    view = OwnerView(SiloHome(home))
    signed = decisions.approve(view, SPEC)
    assert [item["job"] for item in decisions.requests(view)["approved_besides"]] == [SPEC.digest.hex()]
    assert decisions.requests(OwnerView(SiloHome(home), now=signed.not_after + 1))["approved_besides"] == []
    view.queue.put(SPEC.text)
    assert decisions.requests(view)["approved_besides"] == []
    decisions.approve(view, LANES)
    assert len(decisions.requests(view)["approved_besides"]) == 1
    decisions.deny(view, LANES.digest.hex(), "no")
    assert decisions.requests(view)["approved_besides"] == []


# --- approvals -------------------------------------------------------------------------------------------------------


def test_an_approval_covers_everything_that_decides(home: Path) -> None:
    view = OwnerView(SiloHome(home))
    signed = decisions.approve(view, SPEC)
    assert (signed.max_runs, signed.not_after - view.now) == (decisions.DEFAULT_RUNS, 30 * DAY)
    [(kept, approval)] = view.approvals.all()
    assert approval_digest(kept).hex() == signed.approval
    assert approval.terms == approval_terms.current_terms(SiloHome(home), SPEC)
    assert (approval.terms.purpose, approval.terms.code) == ("a test", release.digest())
    assert approval_state(home) == ApprovalState(
        "approved", "", signed.approval, view.now, signed.not_after, max_runs=signed.max_runs
    )
    assert view.approvals.grant(view.terms(SPEC), now=view.now, uses=lambda _: 0) == kept


def test_the_terms_of_two_jobs_on_one_data_set_are_their_own(home: Path) -> None:
    view = OwnerView(SiloHome(home))
    assert view.terms(SPEC) == approval_terms.current_terms(SiloHome(home), SPEC)
    assert view.terms(LANES) == approval_terms.current_terms(SiloHome(home), LANES) != view.terms(SPEC)


def test_until_and_the_end_of_the_charter(home: Path) -> None:
    view = OwnerView(SiloHome(home))
    last = view.charter.not_after
    assert decisions.approve(OwnerView(SiloHome(home), now=last - DAY), SPEC).not_after == last
    assert decisions.approve(view, SPEC, until=last, max_runs=5).max_runs == 5
    for wrong in (last + 1, view.now, view.now - 1):
        with pytest.raises(SpecError, match="--until"):
            decisions.approve(view, SPEC, until=wrong)
    with pytest.raises(SpecError, match=r"charter\.not_after"):
        decisions.approve(OwnerView(SiloHome(home), now=last + 1), SPEC)
    assert len(view.approvals.all()) == 2


@pytest.mark.parametrize("text", ["2027-13-01", "tomorrow", "", "9999-12-31"])
def test_what_is_no_day(text: str) -> None:
    with pytest.raises(SpecError, match="--until"):
        decisions.parse_until(text)


def test_a_day_ends_at_its_end() -> None:
    assert day(decisions.parse_until("2027-02-28")) == "2027-02-28 23:59 UTC"


def test_an_approval_lapses_in_the_ways_it_says(home: Path) -> None:
    view = OwnerView(SiloHome(home))
    assert approval_state(home).state == "waiting"
    signed = decisions.approve(view, SPEC, max_runs=2)
    journal = home / "journal.jsonl"
    for used in (1, 2):
        with journal.open("a") as out:
            out.write(json.dumps({"kind": "joined", "run": f"{used}", "approval": signed.approval}) + "\n")
            out.write(json.dumps({"kind": "released", "run": f"{used}"}) + "\n")
        now = approval_state(home)
        assert (now.state, now.used) == (("approved", 1) if used == 1 else ("used-up", 2))
    assert "2 of 2 runs used" in state_line(
        {name: getattr(now, name) for name in ("state", "why", "approval", "not_after", "max_runs", "used")}
    )
    with journal.open("a") as out:
        out.write('[7]\n{"kind":\n')
    assert approval_state(home).used == 2, "an incomplete line is not a use"
    journal.unlink()
    assert approval_state(home, now=signed.not_after).state == "approved"
    late = approval_state(home, now=signed.not_after + 1)
    assert (late.state, late.why) == ("expired", "its approval has expired")
    early = approval_state(home, now=signed.not_before - 1)
    assert (early.state, early.why) == ("waiting", "its approval is not valid yet")


def change_policy(home: Path) -> None:
    (home / "policy.toml").write_text("[floors]\neveryone = 4\n")


def register_anew(home: Path) -> None:
    homes_data(home, tiny(1))


def other_data(home: Path) -> None:
    homes_data(home, tiny(9))


def homes_data(home: Path, arrays: dict[str, np.ndarray]) -> None:
    private, mock = home / "p.npz", home / "m.npz"
    np.savez(private, allow_pickle=False, **arrays)
    np.savez(mock, allow_pickle=False, **made_up(arrays))
    decisions.add_data(OwnerView(SiloHome(home)), "digits", private, mock, replace=True)


def next_epoch(home: Path) -> None:
    charter = Home(home).charter()
    consortium = Identity.load(home.parents[1] / "consortium" / "consortium.key")
    after = replace(charter, epoch=2, previous=charter.digest)
    Home(home).pinned.pin(SignedCharter.sign(after, consortium), consortium.public)


def no_data(home: Path) -> None:
    shutil.rmtree(home / "syft")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (change_policy, "this silo's policy has changed since"),
        (register_anew, "the data set was registered anew since"),
        (other_data, "the data"),
        (next_epoch, "it was given under another charter"),
        (no_data, "Data set 'digits' is not in this silo's catalogue."),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_an_approval_is_void_when_anything_it_covers_changes(home: Path, change, why: str) -> None:  # type: ignore[no-untyped-def]
    decisions.approve(OwnerView(SiloHome(home)), SPEC)
    change(home)
    now = approval_state(home)
    assert now.state == "void" and why in now.why
    with pytest.raises((NotApproved, DataRefused)):
        open_agent(SPEC.text, SiloHome(home))
    if change is not no_data:
        decisions.approve(OwnerView(SiloHome(home)), SPEC)
        assert approval_state(home).state == "approved", "signed again, it is covered again"


def test_other_software_voids_approvals(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decisions.approve(OwnerView(SiloHome(home)), SPEC)
    monkeypatch.setattr(release, "digest", lambda: bytes(32))
    now = approval_state(home)
    assert (now.state, now.why) == ("void", "the software has changed since")


def test_a_data_set_that_is_not_there_cannot_be_approved(home: Path) -> None:
    no_data(home)
    with pytest.raises(DataRefused, match="fed data add"):
        decisions.approve(OwnerView(SiloHome(home)), SPEC)
    assert OwnerView(SiloHome(home)).review(SPEC)["registered"] is None
    assert "not registered here" in "\n".join(review_lines(OwnerView(SiloHome(home)).review(SPEC)))


@pytest.mark.parametrize(
    "decide", [lambda view, **key: decisions.approve(view, SPEC, **key), lambda view, **key: no(view, **key)]
)
def test_only_the_owner_the_charter_names_decides(home: Path, tmp_path: Path, decide) -> None:  # type: ignore[no-untyped-def]
    other = Identity.generate()
    other.save(tmp_path / "other.key")
    for wrong in (tmp_path / "other.key", home / "keys" / "agent.key"):
        with pytest.raises(SpecError, match="silo-1 owner key") as refused:
            decide(OwnerView(SiloHome(home)), key=wrong)
        assert "new epoch" in refused.value.remedy
    (home / "keys" / "owner.key").rename(tmp_path / "mine.key")
    with pytest.raises(SpecError, match="no file"):
        decide(OwnerView(SiloHome(home)))
    assert not (home / "approvals").exists()
    decide(OwnerView(SiloHome(home)), key=tmp_path / "mine.key")
    assert list((home / "approvals").iterdir())
    assert [event for event, _ in events(home)[:2]] == ["key-mismatch"] * 2


def test_an_approval_that_cannot_be_logged_is_not_signed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "security.jsonl").mkdir()
    with pytest.raises(NoSpace, match="approval-granted must not happen"):
        decisions.approve(OwnerView(SiloHome(home)), SPEC)
    assert not (home / "approvals").exists()


# --- denials ---------------------------------------------------------------------------------------------------------


def no(view: OwnerView, reason: str = "not this year", **key: Path) -> None:
    decisions.deny(view, SPEC.digest.hex(), reason, **key)


def test_the_newer_decision_is_valid_even_in_the_same_second(home: Path) -> None:
    now = OwnerView(SiloHome(home)).now
    for _ in range(2):
        decisions.approve(OwnerView(SiloHome(home), now=now), SPEC)
        assert approval_state(home, now=now + 5).state == "approved"
        no(OwnerView(SiloHome(home), now=now))
        assert approval_state(home, now=now + 5) == ApprovalState("denied", "not this year")
        with pytest.raises(NotApproved, match="denied"):
            view = OwnerView(SiloHome(home), now=now + 5)
            view.approvals.grant(view.terms(SPEC), now=view.now, uses=lambda _: 0)


def test_a_denial_without_its_data_set_is_shown_as_one(home: Path) -> None:
    no(OwnerView(SiloHome(home)))
    no_data(home)
    assert approval_state(home).state == "denied"


@pytest.mark.parametrize("reason", ["", "x" * 501, "a\nb", "\x1b[2J"])
def test_a_reason_is_a_sentence(home: Path, reason: str) -> None:
    with pytest.raises(SpecError, match="--reason"):
        no(OwnerView(SiloHome(home)), reason)


def test_a_job_is_named_by_its_beginning(home: Path) -> None:
    view, digest = OwnerView(SiloHome(home)), SPEC.digest.hex()
    view.queue.put(SPEC.text)
    assert decisions.find(view, digest[:8]) == SPEC
    for wrong in (digest[:7], digest[:8].upper() + "A", "../../etc", "", digest + "0"):
        with pytest.raises(SpecError, match="at least 8"):
            decisions.find(view, wrong)
        with pytest.raises(SpecError, match="at least 8"):
            decisions.deny(view, wrong, "no")
    for act in (lambda: decisions.find(view, "00000000"), lambda: decisions.deny(view, "00000000", "no")):
        with pytest.raises(SpecError, match="DIGEST"):
            act()
    assert decisions.deny(view, digest[:8], "no").job == SPEC.digest
    decisions.approve(view, LANES)  # not queued, but approved
    assert decisions.deny(view, LANES.digest.hex()[:8], "no").job == LANES.digest
    assert decisions.deny(view, "ab" * 32, "no").job == bytes.fromhex("ab" * 32), "a whole digest needs neither"


def test_pysyft_shows_the_decision_and_its_trouble_changes_nothing(home: Path) -> None:
    view = OwnerView(SiloHome(home))
    view.queue.put(SPEC.text)
    decisions.approve(view, SPEC)
    assert decisions.requests(OwnerView(SiloHome(home)))["requests"][0]["pysyft"] == "approved"
    decisions.deny(OwnerView(SiloHome(home)), SPEC.digest.hex(), "confidential grounds")
    assert decisions.requests(OwnerView(SiloHome(home)))["requests"][0]["pysyft"] == "denied"
    for path in (home / "syft").rglob("*"):
        assert path.is_dir() or b"confidential" not in path.read_bytes(), path
    shutil.rmtree(home / "syft" / "owner@silo-1.invalid" / "app_data")
    (home / "syft" / "owner@silo-1.invalid" / "app_data").write_text("")
    decisions.deny(OwnerView(SiloHome(home)), SPEC.digest.hex(), "still")
    assert approval_state(home).why == "still"


def test_what_the_owner_does_is_in_the_security_log(home: Path) -> None:
    before = OwnerView(SiloHome(home)).catalogue.entry("digits").commitment.hex()
    other_data(home)
    after = OwnerView(SiloHome(home)).catalogue.entry("digits").commitment.hex()
    decisions.add_data(OwnerView(SiloHome(home)), "more", home / "p.npz", home / "m.npz")
    signed = decisions.approve(OwnerView(SiloHome(home)), SPEC)
    no(OwnerView(SiloHome(home)), "confidential grounds")
    logged = events(home)
    assert logged[0] == ("data-replaced", {"name": "digits", "before": before, "after": after})
    assert logged[1] == ("data-registered", {"name": "more", "data": after})
    assert logged[2][0] == "approval-granted" and logged[2][1]["approval"] == signed.approval
    assert logged[3] == ("approval-denied", {"job": SPEC.digest.hex()})
    assert not any(b"confidential" in path.read_bytes() for path in log_files(Home(home)))


# --- on to the agent -------------------------------------------------------------------------------------------------


def test_submitted_shown_approved_and_on(home: Path) -> None:
    assert isinstance(answering_agent(SPEC.text, SiloHome(home)), Refusing)
    [request] = decisions.requests(OwnerView(SiloHome(home)))["requests"]
    assert request["standing"]["state"] == "waiting"
    decisions.approve(OwnerView(SiloHome(home)), decisions.find(OwnerView(SiloHome(home)), request["job"][:8]))
    agent = answering_agent(SPEC.text, SiloHome(home))
    assert isinstance(agent, Agent)
    agent.close()


def forge_state(federation: Federation, home: Path) -> None:
    """``rejected`` → ``approved`` in PySyft's own file."""
    decisions.deny(OwnerView(SiloHome(home)), SPEC.digest.hex(), "no")
    [state] = home.rglob("state.yaml")
    state.write_text(state.read_text().replace("rejected", "approved"))
    assert decisions.requests(OwnerView(SiloHome(home)))["requests"][0]["pysyft"] == "approved"


def overwrite_code(federation: Federation, home: Path) -> None:
    """PySyft approves, then the script is another: PySyft's own runner would run it."""
    from syft_job.client import get_client

    datasite = OwnerView(SiloHome(home)).queue.datasite
    [shown] = list(get_client(str(datasite.syftbox), datasite.owner).jobs)
    shown.approve()
    for script in home.rglob("*.sh"):
        script.write_text("#!/bin/sh\ntrue\n")


def copy_from_another_silo(federation: Federation, home: Path) -> None:
    other = federation.silo("silo-2")
    decisions.approve(OwnerView(SiloHome(other)), SPEC)
    shutil.copytree(other / "approvals", home / "approvals")


def copy_from_another_job(federation: Federation, home: Path) -> None:
    decisions.approve(OwnerView(SiloHome(home)), LANES)
    [kept] = (home / "approvals").iterdir()
    kept.rename(kept.with_name(f"{SPEC.digest.hex()}.approval"))


def sign_with_the_agents_key(federation: Federation, home: Path) -> None:
    agent = Identity.load(home / "keys" / "agent.key")
    signed = approval_terms.sign(
        OwnerView(SiloHome(home)).terms(SPEC), agent, max_runs=9, not_after=OwnerView(SiloHome(home)).charter.not_after
    )
    (home / "approvals").mkdir()
    (home / "approvals" / f"{approval_digest(signed).hex()}.approval").write_bytes(signed)


def stretch(federation: Federation, home: Path) -> None:
    """A genuine approval that has expired, its last day edited."""
    early = OwnerView(SiloHome(home), now=OwnerView(SiloHome(home)).charter.not_before + 1)
    decisions.approve(early, SPEC, until=early.now + 60)
    [kept] = (home / "approvals").iterdir()
    approval = Approval.open(kept.read_bytes(), lambda _: early.approvals.owner)
    longer = bytes(replace(approval, not_after=early.charter.not_after))
    kept.write_bytes(kept.read_bytes().replace(bytes(approval), longer))


@pytest.mark.parametrize(
    "forge",
    [
        forge_state,
        overwrite_code,
        copy_from_another_silo,
        copy_from_another_job,
        sign_with_the_agents_key,
        stretch,
    ],
)
def test_a_forgery_starts_no_agent(federation: Federation, home: Path, forge) -> None:  # type: ignore[no-untyped-def]
    assert isinstance(answering_agent(SPEC.text, SiloHome(home)), Refusing)
    forge(federation, home)
    with pytest.raises(NotApproved):
        open_agent(SPEC.text, SiloHome(home))
    assert approval_state(home).state in ("waiting", "denied")


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path):  # type: ignore[no-untyped-def]
    """Runs ``fed WORDS`` at the silo's home; (exit code, stdout, stderr)."""
    monkeypatch.setenv("CONSILIUM_HOME", str(home))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fed", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()  # type: ignore[return-value]

    return run


def test_the_story_by_commands(fed, home: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert fed("requests")[:2] == (0, "No requests.\n")
    assert isinstance(answering_agent(SPEC.text, SiloHome(home)), Refusing)
    short = SPEC.digest.hex()[:8]
    code, out, _ = fed("requests")
    assert code == 0 and "waiting: nobody has decided" in out and "fedavg-test" in out
    code, out, _ = fed("approve", short, "--max-runs", "2", "--until", "2027-01-01")
    assert code == 0 and "approved for 2 runs until 2027-01-01 23:59 UTC" in out and "purpose   a test" in out
    assert json.loads(fed("requests", "--json")[1])["requests"][0]["standing"]["max_runs"] == 2
    code, out, _ = fed("deny", short, "--reason", "not now", "--json")
    assert code == 0 and json.loads(out)["job"] == SPEC.digest.hex()
    assert "denied: not now" in fed("requests")[1]
    (tmp_path / "job.toml").write_text(
        'name = "by-mail"\nmethod = "fedavg"\ndataset = "digits"\npurpose = "To see."\n'
        "[params]\nfeatures = 5\nclasses = 3\n"
    )
    by_mail = JobSpec.load(tmp_path / "job.toml").digest.hex()
    code, out, _ = fed("approve", by_mail[:8], "--job", str(tmp_path / "job.toml"), "--json")
    assert code == 0 and json.loads(out)["signed"]["job"] == json.loads(out)["account"]["job"] == by_mail
    assert "Approved, not in the queue: job " + by_mail[:16] in fed("requests")[1]


def test_data_by_commands(fed, home: Path) -> None:  # type: ignore[no-untyped-def]
    np.savez(home / "p.npz", allow_pickle=False, **tiny(5))
    np.savez(home / "m.npz", allow_pickle=False, **tiny(6))
    add = ("data", "add", "heart", "--private", str(home / "p.npz"), "--mock", str(home / "m.npz"))
    code, out, _ = fed(*add, "--summary", "Echo \x1b[2J")
    assert code == 0 and "5 features, 3 classes" in out and "\x1b" not in out
    code, _, err = fed(*add)
    assert code == 30 and err.startswith("error [DATA_REFUSED]") and "--replace" in err
    first = json.loads(fed("data", "list", "--json")[1])["datasets"]
    assert [entry["name"] for entry in first] == ["digits", "heart"]
    assert json.loads(fed(*add, "--replace", "--json")[1])["uid"] not in [entry["uid"] for entry in first]
    Path(OwnerView(SiloHome(home)).catalogue.entry("heart").private).write_bytes(b"gone")
    code, out, _ = fed("data", "list")
    assert (
        code == 0
        and "heart  cannot be used: " in out
        and "digits\n  schema" in out.replace("  made by the demonstration", "")
    )


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("approve",), 10, "a DIGEST of `fed requests`, or --job FILE"),
        (("approve", "0123"), 10, "at least 8"),
        (("approve", "0123456789"), 10, "0 requests begin so"),
        (("approve", "0123456789", "--job", "fedavg-digits"), 10, "the digest of fedavg-digits"),
        (("approve", "--job", "fedavg-digits", "--until", "never"), 10, "YYYY-MM-DD"),
        (("approve", "--job", "fedavg-digits", "--until", "2001-01-01"), 10, "from now on"),
        (("approve", "--job", "fedavg-digits", "--max-runs", "0"), 2, "max-runs"),
        (("deny", "0123456789", "--reason", "no"), 10, "one job's digest"),
        (("data", "add", "../x", "--private", "a", "--mock", "b"), 30, "no data set name"),
        (("data", "add", "x", "--private", "a", "--mock", "b"), 30, "no file 'a'"),
    ],
)
def test_bad_arguments(fed, words: tuple[str, ...], code: int, says: str) -> None:  # type: ignore[no-untyped-def]
    ended, _, err = fed(*words)
    assert ended == code and says in err


def test_a_home_that_is_none(fed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = fed("requests", "--home", str(tmp_path))
    assert code == 10 and "silo's home" in err


def test_names_that_would_act_on_a_terminal_are_escaped() -> None:
    assert escaped("Ä plain – name") == "Ä plain – name"
    assert escaped("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"
