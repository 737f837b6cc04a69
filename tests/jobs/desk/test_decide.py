"""Decisions on the desk: what was shown is what is signed, once, with the owner's key."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from crypto import durable
from crypto.approval import Approval, Denial
from crypto.errors import KeyLocked
from crypto.keys import Identity, is_locked
from jobs.cli.main import app
from jobs.desk.owner_key import FREE, IDLE, LONGEST, KeyState, OwnerKeyFile, Unlocked
from jobs.desk.server import Server
from jobs.job import JobSpec
from jobs.owner import decisions
from jobs.owner.approval_terms import DAY
from jobs.owner.privacy import Accounts
from jobs.owner.review import OwnerView
from jobs.security_log.events import Event
from jobs.security_log.reader import files, lines_of
from jobs.security_log.writer import check_log
from silo_agent.home import SiloHome
from silo_agent.pysyft.request_queue import RequestQueue, request_name
from tests.jobs.desk.conftest import ASKED, PASSPHRASE, Reply, Visitor, enter, rows, start

JOB = ASKED.digest.hex()


def approvals(home: SiloHome) -> list[Approval]:
    return [approval for _, approval in OwnerView(home).approvals.all() if approval.terms.job == ASKED.digest]


def denial(home: SiloHome) -> Denial | None:
    return OwnerView(home).approvals.denial(ASKED.digest)


def events(home: SiloHome, *wanted: Event) -> int:
    check_log(home)
    return sum(1 for path in files(home) for _ in lines_of(path, wanted))


def change_data(home: SiloHome, folder: Path) -> None:
    """Register the data set anew."""
    for name, seed in (("private", 50), ("mock", 60)):
        np.savez(folder / f"{name}.npz", allow_pickle=False, **rows(seed))
    decisions.add_data(OwnerView(home), "digits", folder / "private.npz", folder / "mock.npz", replace=True)


# --- approve and deny ------------------------------------------------------------------------------------------------


def test_a_request_is_read_and_approved(visitor: Visitor, home: SiloHome) -> None:
    page = visitor.get(f"/requests/{JOB}")
    for said in ("a test", "4 silos of test: silo-1, silo-2, silo-3, silo-4", "opens from", "3 silos", JOB[:16]):
        assert said.lower() in page.text.lower(), said
    terms = OwnerView(home).terms(ASKED)
    for digest in (JOB, *(getattr(terms, name).hex() for name in ("plan", "charter", "policy", "code", "commitment"))):
        assert digest in page.text
    done = visitor.decide(ASKED, visitor.read(ASKED), runs="3", days="7")
    assert (done.status, done.headers["location"]) == (303, f"/requests/{JOB}")
    (found,) = approvals(home)
    assert found.terms == terms and found.max_runs == 3
    assert found.not_after - found.not_before == pytest.approx(7 * DAY, abs=60)
    assert "0 of 3 runs used" in visitor.get(f"/requests/{JOB}").text
    assert OwnerView(home).approval_state(ASKED).state == "approved"
    assert events(home, Event.APPROVAL_GRANTED) >= 1


def test_a_request_is_denied_with_a_reason(visitor: Visitor, home: SiloHome) -> None:
    assert visitor.decide(ASKED, visitor.read(ASKED), "deny", reason="  not\nnow ").status == 303
    found = denial(home)
    assert found is not None and found.reason == "not now"
    assert "denied" in visitor.get("/requests").text and "not now" in visitor.get(f"/requests/{JOB}").text
    assert OwnerView(home).approval_state(ASKED).state == "denied"


@pytest.mark.parametrize(
    ("decision", "more"),
    (
        ("approve", {"runs": "0"}),
        ("approve", {"runs": "-1"}),
        ("approve", {"runs": "1e3"}),
        ("approve", {"runs": "1001"}),
        ("approve", {"runs": "٣"}),
        ("approve", {"days": ""}),
        ("approve", {"days": "367"}),
        ("deny", {"reason": " "}),
        ("deny", {"reason": "x" * 501}),
        ("deny", {"reason": "bell \x07"}),
        ("other", {}),
    ),
)
def test_what_was_typed_is_checked(visitor: Visitor, home: SiloHome, decision: str, more: dict[str, str]) -> None:
    found = visitor.decide(ASKED, visitor.read(ASKED), decision, **more)
    assert found.status == 400 and "SPEC" in found.text
    assert not approvals(home) and denial(home) is None


def test_an_approval_ends_with_the_charter(visitor: Visitor, home: SiloHome) -> None:
    assert visitor.decide(ASKED, visitor.read(ASKED), days="366").status == 303
    assert approvals(home)[0].not_after == home.charter().not_after


# --- what was shown is what is signed --------------------------------------------------------------------------------


def refused(found: Reply, *said: str) -> None:
    assert found.status == 409 and "Nothing was signed" in found.text
    for one in said:
        assert one in found.text, one


def test_data_that_changed_since_are_named(visitor: Visitor, home: SiloHome, tmp_path: Path) -> None:
    read = visitor.read(ASKED)
    change_data(home, tmp_path)
    found = visitor.decide(ASKED, read)
    refused(found, "the registration of the data set", "the data")
    assert not approvals(home)
    shown_anew = {name: found.field(name) for name in ("csrf", "page", "shown")}
    assert visitor.decide(ASKED, shown_anew).status == 303
    assert approvals(home)[0].terms == OwnerView(home).terms(ASKED)


def test_rows_that_were_changed_on_disk_are_not_approved(visitor: Visitor, home: SiloHome) -> None:
    """The registration is as it was, so the page is too: the rows are read before anything is signed."""
    read = visitor.read(ASKED)
    private = OwnerView(home).catalogue.entry("digits").private
    np.savez(private, allow_pickle=False, **rows(99))
    found = visitor.decide(ASKED, read)
    assert found.status == 400 and "DATA_REFUSED" in found.text and not approvals(home)


def test_a_policy_that_changed_since_is_named(visitor: Visitor, home: SiloHome) -> None:
    read = visitor.read(ASKED)
    home.policy_path.write_text("[floors]\neveryone = 4\n", encoding="utf-8")
    refused(visitor.decide(ASKED, read), "this silo’s policy".replace("’", "&#39;"))
    assert not approvals(home)


def test_software_that_changed_since_is_named(
    visitor: Visitor, home: SiloHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = visitor.read(ASKED)
    monkeypatch.setattr("jobs.release.digest", lambda: bytes(32))
    refused(visitor.decide(ASKED, read), "the software")
    assert not approvals(home)


def test_terms_that_change_while_it_is_signed_are_not_signed(
    visitor: Visitor, home: SiloHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the page was compared, and before the signature."""
    read = visitor.read(ASKED)
    terms = OwnerView(home).terms(ASKED)
    monkeypatch.setattr(OwnerView, "terms", lambda view, spec: replace(terms, policy=bytes(32)))
    found = visitor.decide(ASKED, read)
    assert found.status == 400 and "NOT_APPROVED" in found.text and not approvals(home)


def test_a_job_that_was_edited_is_no_longer_there(visitor: Visitor, home: SiloHome) -> None:
    read = visitor.read(ASKED)
    queue = RequestQueue(home, "silo-1")
    file = queue._folder("inbox") / request_name(ASKED.text) / "code" / "job.json"
    file.chmod(0o600)
    file.write_text(ASKED.text.replace("a test", "a sale"), encoding="utf-8")
    found = visitor.decide(ASKED, read)
    refused(found, "no longer in the queue")
    assert not approvals(home) and visitor.get(f"/requests/{JOB}").status == 404
    listed = visitor.get("/requests").text
    assert "no valid requests" in listed and "was edited" in listed and "a sale" not in listed


@pytest.mark.parametrize("forged", ("shown", "page"))
def test_a_form_of_another_page_signs_nothing(visitor: Visitor, home: SiloHome, forged: str) -> None:
    refused(visitor.decide(ASKED, visitor.read(ASKED) | {forged: "0" * 64}))
    assert not approvals(home)


def test_a_page_of_one_request_does_not_sign_another(visitor: Visitor, home: SiloHome) -> None:
    other = ASKED.with_params(rounds=2)
    RequestQueue(home, "silo-1").put(other.text)
    refused(visitor.decide(other, visitor.read(ASKED)))
    assert not OwnerView(home).approvals.decisions(other.digest).approvals


def test_two_tabs(visitor: Visitor, home: SiloHome) -> None:
    """The second tab shows a request that waits; meanwhile the first has approved it."""
    first, second = visitor.read(ASKED), visitor.read(ASKED)
    assert visitor.decide(ASKED, first).status == 303
    refused(visitor.decide(ASKED, second, "deny"), "the decision", "approved")
    assert denial(home) is None and len(approvals(home)) == 1


def test_a_form_that_is_sent_twice_signs_once(visitor: Visitor, home: SiloHome) -> None:
    read = visitor.read(ASKED)
    assert visitor.decide(ASKED, read).status == 303
    again = visitor.decide(ASKED, read)
    refused(again, "was sent before", "approved, approval")
    assert len(approvals(home)) == 1


def test_a_form_that_is_sent_twice_at_once_signs_once(visitor: Visitor, home: SiloHome) -> None:
    read, found = visitor.read(ASKED), []
    threads = [threading.Thread(target=lambda: found.append(visitor.decide(ASKED, read).status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [303, 409, 409, 409] and len(approvals(home)) == 1


def test_a_page_of_an_earlier_desk_is_refused(home: SiloHome) -> None:
    for server in start(home):
        read = enter(server).read(ASKED)
    for server in start(home):
        later = enter(server)
        assert later.decide(ASKED, read).status == 403  # its secret is another session's
        refused(later.decide(ASKED, read | {"csrf": later.csrf}), "too old")
    assert not approvals(home)


def test_a_data_set_that_does_not_fit_cannot_be_approved(visitor: Visitor, home: SiloHome) -> None:
    other = ASKED.with_params(features=6)
    RequestQueue(home, "silo-1").put(other.text)
    page = visitor.get(f"/requests/{other.digest.hex()}")
    assert "has 5 features, the job wants 6" in page.text and b'value="approve"' not in page.body
    read = {name: page.field(name) for name in ("csrf", "page", "shown")}
    assert visitor.decide(other, read).status == 400
    assert not OwnerView(home).approvals.decisions(other.digest).approvals


# --- the key ---------------------------------------------------------------------------------------------------------


def test_a_locked_key_signs_with_its_passphrase_and_stays_unlocked(locked: Server, home: SiloHome) -> None:
    visitor = enter(locked)
    assert b'type="password"' in visitor.get(f"/requests/{JOB}").body
    none = visitor.decide(ASKED, visitor.read(ASKED))
    wrong = visitor.decide(ASKED, visitor.read(ASKED), passphrase="something else")
    assert (none.status, wrong.status) == (403, 403) and "KEY_LOCKED" in wrong.text and not approvals(home)
    assert b"something else" not in wrong.body and PASSPHRASE.encode() not in wrong.body
    assert events(home, Event.PASSPHRASE_REFUSED) == 1
    assert visitor.decide(ASKED, visitor.read(ASKED), passphrase=PASSPHRASE).status == 303
    assert b'type="password"' not in visitor.get(f"/requests/{JOB}").body
    assert visitor.decide(ASKED, visitor.read(ASKED), "deny").status == 303
    assert visitor.post("/lock", {"csrf": visitor.csrf}).status == 303
    assert visitor.decide(ASKED, visitor.read(ASKED)).status == 403


def test_after_three_wrong_passphrases_the_right_one_waits_too(locked: Server, home: SiloHome) -> None:
    visitor = enter(locked)
    for _ in range(FREE):
        assert "does not unlock" in visitor.decide(ASKED, visitor.read(ASKED), passphrase="wrong wrong wrong").text
    found = visitor.decide(ASKED, visitor.read(ASKED), passphrase=PASSPHRASE)
    assert found.status == 403 and "Wait" in found.text and not approvals(home)


def test_the_wait_grows_and_ends(home: SiloHome) -> None:
    now = [0.0]
    owner = home.owner()
    owner.lock(home.owner_key_path, PASSPHRASE.encode())
    file = OwnerKeyFile(home.owner_key_path, clock=lambda: now[0])
    waits = []
    for tries in range(1, FREE + 8):
        with pytest.raises(KeyLocked, match="does not unlock"):
            file.open(b"wrong")
        before = now[0]
        if tries >= FREE:  # the right one, too early
            with pytest.raises(KeyLocked) as early:
                file.open(PASSPHRASE.encode())
            now[0] += int(early.value.remedy.split()[1])
        waits.append(now[0] - before)
    assert waits[: FREE + 1] == [0, 0, 5, 9]
    assert max(waits) == LONGEST + 1
    assert file.open(PASSPHRASE.encode()).public == owner.public


def test_an_unlocked_key_is_forgotten_in_time(home: SiloHome) -> None:
    now, want = [0.0], home.owner().public
    home.owner().lock(home.owner_key_path, PASSPHRASE.encode())
    key = Unlocked(OwnerKeyFile(home.owner_key_path, clock=lambda: now[0]))
    assert key.state(want) is KeyState.LOCKED
    key.unlock(PASSPHRASE.encode())
    now[0] += IDLE
    assert key.state(want) is KeyState.UNLOCKED and key.identity().public == want
    now[0] += IDLE + 1
    assert key.state(want) is KeyState.LOCKED
    with pytest.raises(KeyLocked):
        key.identity()


def test_another_key_is_no_owners(home: SiloHome) -> None:
    home.owner_key_path.unlink()
    Identity.generate().save(home.owner_key_path)
    for server in start(home):
        visitor = enter(server)
        assert "not the one that the charter names" in visitor.get("/requests").text
        assert visitor.decide(ASKED, visitor.read(ASKED)).status == 400
    assert not approvals(home)


# --- signed elsewhere ------------------------------------------------------------------------------------------------


@pytest.fixture
def away(home: SiloHome, tmp_path: Path) -> Path:
    """The owner's key, on another machine, locked."""
    owner = home.owner()
    home.owner_key_path.unlink()
    owner.save(tmp_path / "owner.key", PASSPHRASE.encode())
    return tmp_path / "owner.key"


def sign(key: Path, terms: bytes) -> bytes:
    file = key.with_name("job.terms")
    file.write_bytes(terms)
    out = Path(f"{file}.signed")
    out.unlink(missing_ok=True)
    done = CliRunner().invoke(app, ["sign", str(file), "--key", str(key), "--json"], input=f"{PASSPHRASE}\n")
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout.splitlines()[-1])["silo"] == "silo-1"
    return out.read_bytes()


def hand_in(visitor: Visitor, content: bytes) -> Reply:
    mark = "limit"
    parts = (
        f'--{mark}\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{visitor.csrf}\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="signed"; filename="x"\r\n\r\n'
    )
    body = parts.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return visitor.ask("POST", "/hand-in", body, Content_Type=f"multipart/form-data; boundary={mark}")


def test_terms_are_signed_elsewhere_and_handed_in(away: Path, visitor: Visitor, home: SiloHome) -> None:
    page = visitor.get(f"/requests/{JOB}")
    assert b'value="approve"' not in page.body and b'value="terms"' in page.body
    assert visitor.decide(ASKED, visitor.read(ASKED)).status == 403
    terms = visitor.decide(ASKED, visitor.read(ASKED), "terms", runs="2")
    assert terms.status == 200 and "attachment" in terms.headers["content-disposition"]
    signed = sign(away, terms.body)
    assert not approvals(home)
    for _ in range(2):  # again: nothing more
        assert hand_in(visitor, signed).headers["location"] == f"/requests/{JOB}"
    (found,) = approvals(home)
    assert found.max_runs == 2 and OwnerView(home).approval_state(ASKED).state == "approved"
    denied = visitor.decide(ASKED, visitor.read(ASKED), "deny-terms", reason="not now")
    assert hand_in(visitor, sign(away, denied.body)).status == 303
    assert OwnerView(home).approval_state(ASKED).state == "denied"
    older = hand_in(visitor, sign(away, terms.body))  # kept already, and older than the denial
    assert older.status == 303 and OwnerView(home).approval_state(ASKED).state == "denied"


def test_an_approval_that_a_newer_denial_overrides_is_refused(away: Path, visitor: Visitor, home: SiloHome) -> None:
    terms = visitor.decide(ASKED, visitor.read(ASKED), "terms").body
    denied = visitor.decide(ASKED, visitor.read(ASKED), "deny-terms").body
    assert hand_in(visitor, sign(away, denied)).status == 303
    found = hand_in(visitor, sign(away, terms))
    assert found.status == 400 and "newer than the denial" in found.text and not approvals(home)


def test_signed_terms_that_changed_since_are_refused(
    away: Path, visitor: Visitor, home: SiloHome, tmp_path: Path
) -> None:
    signed = sign(away, visitor.decide(ASKED, visitor.read(ASKED), "terms").body)
    change_data(home, tmp_path)
    found = hand_in(visitor, signed)
    assert found.status == 409 and "registered anew" in found.text and not approvals(home)


def test_what_the_owner_did_not_sign_is_refused(away: Path, visitor: Visitor, home: SiloHome) -> None:
    terms = visitor.decide(ASKED, visitor.read(ASKED), "terms").body
    stranger = Approval.from_bytes(terms).sign(Identity.generate())
    signed = bytearray(sign(away, terms))
    signed[-1] ^= 1
    for content in (b"", b"x", terms, stranger, bytes(signed), b"\0" * 4096, b"\xff" * 20000):
        assert hand_in(visitor, content).status in (400, 409)
    assert not approvals(home)


def test_terms_of_another_silo_are_refused(away: Path, visitor: Visitor, home: SiloHome) -> None:
    approval = Approval.from_bytes(visitor.decide(ASKED, visitor.read(ASKED), "terms").body)
    owner = Identity.load(away, PASSPHRASE.encode())
    for other in (
        replace(approval, terms=replace(approval.terms, silo="silo-2")),
        replace(approval, terms=replace(approval.terms, job=bytes(32))),
        replace(approval, not_after=home.charter().not_after + 1),
    ):
        assert hand_in(visitor, other.sign(owner)).status in (400, 409)
    assert not approvals(home)


def test_no_other_file_is_signed_as_terms(away: Path) -> None:
    file = away.with_name("other")
    for content in (b"", b"hello", bytes(1000)):
        file.write_bytes(content)
        done = CliRunner().invoke(app, ["sign", str(file), "--key", str(away)], input=f"{PASSPHRASE}\n")
        assert done.exit_code != 0 and not Path(f"{file}.signed").exists()


# --- locking a key ---------------------------------------------------------------------------------------------------


def test_a_key_is_locked_and_approves_at_the_terminal(home: SiloHome) -> None:
    def fed(*args: str, typed: str) -> int:
        return CliRunner().invoke(app, [*args, "--home", str(home.root)], input=typed).exit_code

    before = home.owner().public
    assert fed("keygen", "--owner-passphrase", typed="short\n") != 0 and not is_locked(home.owner_key_path)
    assert fed("keygen", "--owner-passphrase", typed=f"{PASSPHRASE}\n") == 0 and is_locked(home.owner_key_path)
    assert home.owner_key_path.stat().st_mode & 0o777 == 0o600
    assert fed("keygen", "--owner-passphrase", typed="wrong\nanother passphrase\n") != 0
    assert fed("keygen", "--owner-passphrase", typed=f"{PASSPHRASE}\nanother passphrase\n") == 0
    assert Identity.load(home.owner_key_path, b"another passphrase").public == before
    assert fed("approve", JOB, typed="wrong\n") != 0 and not approvals(home)
    assert fed("approve", JOB, typed="another passphrase\n") == 0 and len(approvals(home)) == 1


def test_a_new_home_has_a_locked_key(tmp_path: Path) -> None:
    asked = ["keygen", "--silo", "anna", "--home", str(tmp_path / "anna"), "--owner-passphrase"]
    assert CliRunner().invoke(app, asked, input="short\n").exit_code != 0 and not (tmp_path / "anna").exists()
    assert CliRunner().invoke(app, asked, input=f"{PASSPHRASE}\n").exit_code == 0
    made = SiloHome(tmp_path / "anna")
    assert is_locked(made.owner_key_path) and not is_locked(made.agent_key_path)
    with pytest.raises(KeyLocked):
        made.owner()
    renewed = ["keygen", "--renew", "agent", "--home", str(made.root)]
    assert CliRunner().invoke(app, renewed, input="wrong\n").exit_code != 0
    assert CliRunner().invoke(app, renewed, input=f"{PASSPHRASE}\n").exit_code == 0


def test_a_damaged_locked_key_is_refused(home: SiloHome) -> None:
    home.owner().lock(home.owner_key_path, PASSPHRASE.encode())
    whole = home.owner_key_path.read_bytes()
    for at in range(25, len(whole)):
        durable.replace(home.owner_key_path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], hidden=True)
        if at % 16 == 0:  # each costs a scrypt
            with pytest.raises(KeyLocked):
                Identity.load(home.owner_key_path, PASSPHRASE.encode())
    durable.replace(home.owner_key_path, whole[:60], hidden=True)
    with pytest.raises(KeyLocked):
        Identity.load(home.owner_key_path, PASSPHRASE.encode())


# --- a private job ---------------------------------------------------------------------------------------------------

PRIVATE = JobSpec.parse(
    {
        "name": "private-test",
        "method": "fedavg",
        "dataset": "digits",
        "purpose": "a test",
        "params": {"features": 5, "classes": 3, "rounds": 2, "local_steps": 3, "batch": 16},
        "privacy": {
            "mechanism": "local",
            "unit": "record",
            "clip": 1.0,
            "sampling_rate": 0.2,
            "delta": 1e-3,
            "noise_multiplier": 1.5,
        },
    }
)


def test_a_private_job_is_approved_with_what_it_may_spend(visitor: Visitor, home: SiloHome) -> None:
    RequestQueue(home, "silo-1").put(PRIVATE.text)
    page = visitor.get(f"/requests/{PRIVATE.digest.hex()}")
    assert "noise multiplier 1.5" in page.text and "no grant yet" in page.text
    none = visitor.decide(PRIVATE, visitor.read(PRIVATE), epsilon="9")
    assert none.status == 400 and "without a grant" in none.text
    decisions.grant_data(OwnerView(home), "digits", epsilon=20, delta=1e-3)
    assert "epsilon 20, 20 left" in visitor.get("/data/digits").text
    for text in ("", "-1", "nan", "inf", "1e3", "0", "101"):
        assert visitor.decide(PRIVATE, visitor.read(PRIVATE), epsilon=text).status == 400, text
    read = visitor.read(PRIVATE)
    assert visitor.decide(PRIVATE, read, epsilon="9.5").status == 303
    assert OwnerView(home).approval_state(PRIVATE).state == "approved"
    grants = Accounts(OwnerView(home)).grants.in_force(OwnerView(home).terms(PRIVATE).commitment)
    assert grants[PRIVATE.digest].epsilon == 9.5


def test_a_grant_that_changed_since_is_named(visitor: Visitor, home: SiloHome) -> None:
    RequestQueue(home, "silo-1").put(PRIVATE.text)
    read = visitor.read(PRIVATE)
    decisions.grant_data(OwnerView(home), "digits", epsilon=20, delta=1e-3)
    refused(visitor.decide(PRIVATE, read, epsilon="9"), "the account of privacy")


def test_a_job_without_privacy_does_not_spoil_an_account(away: Path, visitor: Visitor, home: SiloHome) -> None:
    """Neither when it is signed here nor when it is handed in."""
    terms = visitor.decide(ASKED, visitor.read(ASKED), "terms").body
    owner = Identity.load(away, PASSPHRASE.encode())
    decisions.grant_data(OwnerView(home), "digits", epsilon=20, delta=1e-3, key=owner)
    found = hand_in(visitor, sign(away, terms))
    assert found.status == 400 and "without privacy" in found.text and not approvals(home)
    owner.save(home.owner_key_path)
    here = visitor.decide(ASKED, visitor.read(ASKED))
    assert here.status == 400 and "without privacy" in here.text and not approvals(home)
