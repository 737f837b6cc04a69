"""A home takes the next epoch: between runs, one at a time, with its own keys; the ledger learns of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read, verify
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from crypto.charter import SignedCharter
from crypto.errors import BadSignature, FederationError, RosterMismatch, SpecError
from crypto.home import Home
from crypto.keys import Identity
from crypto.pinned_charter import PinnedCharter
from jobs.membership import accept as membership_accept
from jobs.membership.accept import accept, between_runs, preview, read_epoch, record_charter, running
from jobs.membership.keygen import keygen_silo, read_member, renew
from jobs.membership.propose import unsigned
from jobs.runtime.compose import answering_agent
from silo_agent.agent import Refusing
from silo_agent.home import SiloHome
from silo_agent.journal import Journal
from tests import local
from tests.members import Bare, files


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return Bare(tmp_path)


def epochs_on(home: Path) -> list[tuple[int, str]]:
    path = AggregatorHome(home).ledger_path
    records = [entry.record for entry in read(path) if entry.kind is Kind.CHARTER] if path.exists() else []
    return [(record.epoch, record.charter_digest) for record in records]


def events(home: Path) -> str:
    path = home / "security.jsonl"
    return path.read_text() if path.exists() else ""


# --- taking an epoch ---------------------------------------------------------------------------------------------


def test_an_epoch_is_pinned_and_the_one_before_kept(bare: Bare) -> None:
    new, signed = bare.following(remove=["silo-3"])
    home = bare.home("silo-1")
    secrets = files(home / "keys")
    changes = accept(Home(home), signed)
    assert (changes.leaves, changes.silo, changes.out) == (("silo-3",), "silo-1", False)
    assert Home(home).charter() == new
    assert [charter for charter, _ in Home(home).pinned.epochs()] == [bare.first, new]
    assert (home / "charters" / "000001.bin").read_bytes() == bytes(bare.sign(bare.first))
    assert (home / "charters" / "000002.bin").read_bytes() == signed == Home(home).pinned.epochs()[1][1]
    assert files(home / "keys") == secrets
    assert "charter-accepted" in events(home) and bare.first.digest.hex() in events(home)


def test_looking_changes_nothing(bare: Bare) -> None:
    _, signed = bare.following(remove=["silo-3"])
    before = files(bare.root)
    assert preview(Home(bare.home("silo-1")), signed).leaves == ("silo-3",)
    assert files(bare.root) == before


def test_accepting_twice_is_accepting_once(bare: Bare) -> None:
    _, signed = bare.following(remove=["silo-3"])
    for home in (bare.home("silo-1"), bare.aggregator):
        assert not accept(Home(home), signed).done
        before = files(home)
        again = accept(Home(home), signed)
        assert again.done and again.facts()["pinned_already"]
        assert files(home) == before


def test_the_aggregator_writes_every_epoch_to_the_ledger_once(bare: Bare) -> None:
    second, signed = bare.following(remove=["silo-3"])
    accept(Home(bare.aggregator), signed)
    ninth = keygen_silo(SiloHome(bare.root / "ninth"), "silo-9")
    third, more = bare.following(second, add=[ninth])
    accept(Home(bare.aggregator), more)
    digests = [charter.digest.hex() for charter in (bare.first, second, third)]
    assert epochs_on(bare.aggregator) == list(zip((1, 2, 3), digests, strict=True))
    verify(AggregatorHome(bare.aggregator).ledger_path, bare.first.aggregator)
    (last,) = [
        e.record
        for e in read(AggregatorHome(bare.aggregator).ledger_path)
        if e.kind is Kind.CHARTER and e.record.epoch == 3
    ]
    assert SignedCharter.open(bytes.fromhex(last.charter), bare.consortium.public) == third


def test_a_run_records_the_epoch_it_is_under_if_nobody_has(bare: Bare) -> None:
    home = bare.aggregator
    ledger = Ledger.open(AggregatorHome(home).ledger_path, Identity.load(home / "keys" / "aggregator.key"))
    record_charter(ledger, AggregatorHome(home))
    record_charter(ledger, AggregatorHome(home))
    assert epochs_on(home) == [(1, bare.first.digest.hex())]


@pytest.mark.parametrize("crash", ["pin", "record_charter"])
def test_what_a_crash_left_half_done_is_finished_by_accepting_again(
    bare: Bare, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    class Crash(BaseException):
        pass

    def dies(*given: object) -> None:
        raise Crash

    new, signed = bare.following(remove=["silo-3"])
    with monkeypatch.context() as patched:
        patched.setattr(PinnedCharter if crash == "pin" else membership_accept, crash, dies)
        with pytest.raises(Crash):
            accept(Home(bare.aggregator), signed)
    accept(Home(bare.aggregator), signed)
    assert Home(bare.aggregator).charter() == new
    assert [epoch for epoch, _ in epochs_on(bare.aggregator)] == [1, 2]


def test_an_epoch_that_was_written_but_is_not_in_force_is_not_one_of_those_pinned(bare: Bare) -> None:
    home = bare.home("silo-1")
    Home(home).pinned.epoch_path(2).write_bytes(bare.following(remove=["silo-3"])[1])
    assert [charter for charter, _ in Home(home).pinned.epochs()] == [bare.first]


def test_an_epoch_in_the_history_that_the_consortium_did_not_sign_is_found(bare: Bare) -> None:
    home = bare.home("silo-1")
    accept(Home(home), bare.following(remove=["silo-3"])[1])
    Home(home).pinned.epoch_path(1).write_bytes(bytes(SignedCharter.sign(bare.first, Identity.generate())))
    with pytest.raises(BadSignature):
        Home(home).pinned.epochs()


# --- refused by name ---------------------------------------------------------------------------------------------


def test_only_the_next_epoch_of_this_federation_by_this_consortium_is_taken(bare: Bare, tmp_path: Path) -> None:
    second, signed = bare.following(remove=["silo-3"])
    third, later = bare.following(second, add=[keygen_silo(SiloHome(tmp_path / "ninth"), "silo-9")])
    fork, forked = bare.following(remove=["silo-4"])
    other = replace(second, federation="other")
    stranger = Identity.generate()
    for home in (bare.home("silo-1"), bare.aggregator):
        before = files(home, but=["journal.jsonl", "run.lock"])
        cases: list[tuple[bytes, type[FederationError], str]] = [
            (later, SpecError, "charter.epoch"),
            (bytes(bare.sign(other)), SpecError, "charter.federation"),
            (bytes(bare.sign(replace(second, previous=bytes(32)))), SpecError, "charter.previous"),
            (bytes(SignedCharter.sign(second, stranger)), BadSignature, "signature"),
            (bytes(unsigned(second)), BadSignature, "fed charter sign"),
            (signed[:-1] + bytes([signed[-1] ^ 1]), BadSignature, "signature"),
        ]
        for data, error, says in cases:
            for take in (preview, accept):
                with pytest.raises(error, match=says):
                    take(Home(home), data)
            assert files(home, but=["journal.jsonl", "run.lock"]) == before
        accept(Home(home), signed)
        for data in (bytes(bare.sign(bare.first)), forked):
            with pytest.raises(SpecError, match=r"charter\.epoch"):
                accept(Home(home), data)
        assert accept(Home(home), later).new == third
        assert fork.epoch == 2


def test_the_consortium_is_the_one_that_was_pinned(bare: Bare) -> None:
    _, signed = bare.following(remove=["silo-3"])
    home = bare.home("silo-1")
    stranger = Identity.generate().public
    with pytest.raises(SpecError, match="pinned here"):
        accept(Home(home), signed, consortium=stranger)
    with pytest.raises(SpecError, match="the fingerprint"):
        accept(Home(home), signed, expect_fingerprint=stranger.fingerprint)
    spelled = bare.consortium.public.fingerprint.upper().replace(" ", "")
    accept(Home(home), signed, consortium=bare.consortium.public, expect_fingerprint=spelled)


def test_pinning_does_not_change_the_consortiums_key(bare: Bare) -> None:
    new, _ = bare.following(remove=["silo-3"])
    home = bare.home("silo-1")
    with pytest.raises(SpecError, match="consortium"):
        Home(home).pinned.pin(bare.sign(new), Identity.generate().public)
    assert (home / "consortium.pub").read_bytes() == bare.consortium.public.raw
    with pytest.raises(BadSignature):
        Home(bare.root / "new").pinned.pin(bare.sign(new), Identity.generate().public)
    assert not (bare.root / "new").exists()


def test_a_folder_that_is_no_home_is_refused(bare: Bare, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "consortium.pub").write_bytes(bare.consortium.public.raw)
    with pytest.raises(SpecError, match="silo's home"):
        preview(Home(tmp_path / "empty"), bare.following(remove=["silo-3"])[1])


@pytest.mark.parametrize("data", [None, b"", b"no charter"])
def test_a_file_that_is_no_charter_is_named(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "epoch.bin"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SpecError, match=r"epoch\.bin"):
        read_epoch(path)


# --- between runs ------------------------------------------------------------------------------------------------


def test_no_epoch_while_an_agent_works(bare: Bare) -> None:
    _, signed = bare.following(remove=["silo-3"])
    home = bare.home("silo-1")
    with Journal(home / "journal.jsonl"), pytest.raises(SpecError, match="a run under way"):
        accept(Home(home), signed)
    assert Home(home).charter() == bare.first
    accept(Home(home), signed)


def test_no_agent_starts_while_an_epoch_is_taken(bare: Bare) -> None:
    with between_runs(Home(bare.home("silo-1"))), pytest.raises(SpecError, match="in use"):
        Journal(bare.home("silo-1") / "journal.jsonl")


def test_no_epoch_at_the_aggregator_while_runs_last(bare: Bare) -> None:
    _, signed = bare.following(remove=["silo-3"])
    home = bare.aggregator
    with (
        running(AggregatorHome(home)),
        running(AggregatorHome(home)),
        pytest.raises(SpecError, match="a run under way"),
    ):
        accept(Home(home), signed)
    with (
        between_runs(Home(home)),
        pytest.raises(SpecError, match="a change of the charter"),
        running(AggregatorHome(home)),
    ):
        pass
    accept(Home(home), signed)


# --- the silo's own place in it ----------------------------------------------------------------------------------


def test_a_silo_that_was_removed_pins_its_last_epoch_and_declines_by_name(bare: Bare) -> None:
    home = bare.home("silo-3")
    new, signed = bare.following(remove=["silo-3"])
    changes = accept(Home(home), signed)
    assert changes.out and "NOT a member" in "\n".join(changes.lines())
    assert Home(home).charter() == new
    agent = answering_agent(local.spec().text, SiloHome(home))
    assert isinstance(agent, Refusing) and isinstance(agent._reason, RosterMismatch)
    assert "'silo-3' is not in the charter of epoch 2" in str(agent._reason)


def test_a_silo_that_was_removed_follows_and_may_come_back(bare: Bare, tmp_path: Path) -> None:
    home = bare.home("silo-3")
    second, one = bare.following(remove=["silo-3"])
    third, two = bare.following(second, add=[keygen_silo(SiloHome(tmp_path / "ninth"), "silo-9")])
    fourth, three = bare.following(third, add=[read_member(home / "member.json")])
    assert [accept(Home(home), signed).out for signed in (one, two, three)] == [True, True, False]
    assert Home(home).charter() == fourth


def test_a_new_silo_pins_its_first_epoch_with_the_consortiums_key(bare: Bare, tmp_path: Path) -> None:
    home = tmp_path / "ninth"
    new, signed = bare.following(add=[keygen_silo(SiloHome(home), "silo-9")])
    with pytest.raises(SpecError, match="consortium's public key"):
        accept(Home(home), signed)
    with pytest.raises(BadSignature):
        accept(Home(home), signed, consortium=Identity.generate().public)
    with pytest.raises(SpecError, match="the fingerprint"):
        accept(Home(home), signed, consortium=bare.consortium.public, expect_fingerprint="0000 " * 8)
    with pytest.raises(SpecError, match=r"silo-9.*epoch 1 does not name"):
        accept(Home(home), bytes(bare.sign(bare.first)), consortium=bare.consortium.public)
    assert not (home / "charter.bin").exists() and not (home / "consortium.pub").exists()
    mark = bare.consortium.public.fingerprint
    changes = accept(Home(home), signed, consortium=bare.consortium.public, expect_fingerprint=mark)
    assert changes.old is None and Home(home).charter() == new
    assert [charter for charter, _ in Home(home).pinned.epochs()] == [new]


def test_an_epoch_with_another_key_for_this_home_is_refused(bare: Bare) -> None:
    mine = bare.first.member("silo-1")
    other = Identity.generate().public
    for role, changed in (("agent", replace(mine, agent=other)), ("owner", replace(mine, owner=other))):
        _, signed = bare.following(change=[changed])
        for take in (preview, accept):
            with pytest.raises(SpecError, match=f"silo-1 {role} key.*the key of this home"):
                take(Home(bare.home("silo-1")), signed)
    new = replace(bare.first, epoch=2, previous=bare.first.digest, aggregator=Identity.generate().public)
    with pytest.raises(SpecError, match="aggregator key"):
        accept(Home(bare.aggregator), bytes(bare.sign(new)))
    shown = preview(Home(bare.home("silo-1")), bytes(bare.sign(new)))
    assert shown.facts()["aggregator"] == {
        "before": bare.first.aggregator.fingerprint,
        "now": new.aggregator.fingerprint,
    }
    assert f"new key    aggregator: {new.aggregator.fingerprint}" in "\n".join(shown.lines())


def test_a_renewed_key_takes_its_place_with_the_epoch_that_names_it(bare: Bare) -> None:
    home = bare.home("silo-1")
    old = (home / "keys" / "owner.key").read_bytes()
    member = renew(SiloHome(home), ["owner"])
    _, other = bare.following(remove=["silo-3"])
    new, signed = bare.following(change=[member])
    assert preview(Home(home), other).leaves == ("silo-3",)  # an epoch with the old key is taken too
    changes = accept(Home(home), signed)
    assert [(silo, role) for silo, role, _, _ in changes.keys] == [("silo-1", "owner")]
    keys = files(home / "keys")
    assert keys.keys() == {"agent.key", "owner.key", "owner.epoch-000001.key"}
    assert keys["owner.epoch-000001.key"] == old
    assert Identity.load(home / "keys" / "owner.key").public == member.owner == new.member("silo-1").owner
    assert "key-replaced" in events(home)
    for silo in ("silo-2", "silo-4"):
        before = files(bare.home(silo) / "keys")
        accept(Home(bare.home(silo)), signed)
        assert files(bare.home(silo) / "keys") == before


def test_a_lost_owner_key_is_replaced_and_old_signatures_still_check_under_their_epoch(bare: Bare) -> None:
    home = bare.home("silo-1")
    owner = Identity.load(home / "keys" / "owner.key")
    signature = owner.sign(b"an approval of epoch 1")
    (home / "keys" / "owner.key").unlink()
    _, signed = bare.following(change=[renew(SiloHome(home), ["owner"])])
    accept(Home(home), signed)
    then, now = (charter.member("silo-1").owner for charter, _ in Home(home).pinned.epochs())
    then.verify(signature, b"an approval of epoch 1")
    with pytest.raises(BadSignature):
        now.verify(signature, b"an approval of epoch 1")


@pytest.mark.parametrize("name", ["pin", "replace"])
def test_a_crash_between_key_and_charter_is_finished_by_accepting_again(
    bare: Bare, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Crash(BaseException):
        pass

    home = bare.home("silo-1")
    member = renew(SiloHome(home), ["agent"])
    new, signed = bare.following(change=[member])
    real: Callable[..., Any] = os.replace

    def half(source: Path, target: Path) -> None:
        """The old key is put aside; then the light goes out."""
        if Path(source).name == "agent.next.key":
            raise Crash
        real(source, target)

    def dies(*given: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(*((PinnedCharter, "pin", dies) if name == "pin" else (os, "replace", half)))
        with pytest.raises(Crash):
            accept(Home(home), signed)
    accept(Home(home), signed)
    assert Home(home).charter() == new
    assert Identity.load(home / "keys" / "agent.key").public == member.agent
    assert (home / "keys" / "agent.epoch-000001.key").exists()


def test_a_data_owners_key_may_be_kept_elsewhere(bare: Bare) -> None:
    home = bare.home("silo-1")
    (home / "keys" / "owner.key").unlink()
    accept(Home(home), bare.following(remove=["silo-3"])[1])
    (bare.home("silo-2") / "keys" / "agent.key").unlink()
    with pytest.raises(SpecError, match=r"agent\.key"):
        accept(Home(bare.home("silo-2")), bare.following(remove=["silo-3"])[1])


def test_a_key_that_was_anothers_long_ago_is_refused_at_each_home(bare: Bare) -> None:
    gone = bare.first.member("silo-3")
    second, signed = bare.following(remove=["silo-3"])
    stolen = replace(gone, silo="silo-9")
    _, later = bare.following(second, add=[stolen])
    for home in (bare.home("silo-1"), bare.aggregator):
        accept(Home(home), signed)
        with pytest.raises(SpecError, match="silo-3's agent key in epoch 1"):
            accept(Home(home), later)
