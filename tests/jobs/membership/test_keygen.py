"""Keys made at the silo, and the member file: both keys vouch for it, and nothing secret is in it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from crypto import durable
from crypto.charter import Member
from crypto.errors import BadSignature, SpecError
from crypto.keys import Identity
from jobs.membership.keygen import keygen_aggregator, keygen_consortium, keygen_silo, read_member, renew
from silo_agent.home import SiloHome
from tests.members import files


def key(home: Path, name: str) -> Identity:
    return Identity.load(home / "keys" / f"{name}.key")


def test_a_silo_makes_its_keys_and_a_file_with_the_public_ones(tmp_path: Path) -> None:
    home = tmp_path / "silo-9"
    member = keygen_silo(SiloHome(home), "silo-9")
    assert member == Member("silo-9", key(home, "agent").public, key(home, "owner").public)
    assert read_member(home / "member.json") == member
    assert home.stat().st_mode & 0o777 == 0o700
    secrets = {name for name in files(home) if name.endswith(".key") or name == "salt"}
    assert secrets == {"keys/agent.key", "keys/owner.key", "salt"}
    assert {(home / name).stat().st_mode & 0o777 for name in secrets} == {0o600}
    text = (home / "member.json").read_bytes()
    for name in secrets:
        assert (home / name).read_bytes().hex().encode() not in text


def test_the_aggregator_and_the_consortium_make_theirs(tmp_path: Path) -> None:
    public = keygen_aggregator(AggregatorHome(tmp_path / "aggregator"))
    assert key(tmp_path / "aggregator", "aggregator").public == public
    assert (tmp_path / "aggregator" / "aggregator.pub").read_bytes() == public.raw
    consortium = keygen_consortium(tmp_path / "offline")
    assert Identity.load(tmp_path / "offline" / "consortium.key").public == consortium
    assert (tmp_path / "offline" / "consortium.pub").read_bytes() == consortium.raw


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    home = tmp_path / "silo-9"
    keygen_silo(SiloHome(home), "silo-9")
    before = files(home)
    for make in (
        lambda: keygen_silo(SiloHome(home), "silo-9"),
        lambda: keygen_aggregator(AggregatorHome(home)),
        lambda: keygen_consortium(home),
    ):
        with pytest.raises(SpecError, match="never overwritten"):
            make()
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="never overwritten"):
        keygen_silo(SiloHome(tmp_path / "file"), "silo-9")
    assert files(home) == before


@pytest.mark.parametrize("silo", ["", "Silo", "../up", "a b", "a\n", "x" * 64])
def test_a_bad_id_makes_no_home(tmp_path: Path, silo: str) -> None:
    with pytest.raises(SpecError, match="silo"):
        keygen_silo(SiloHome(tmp_path / "new"), silo)
    assert not (tmp_path / "new").exists()


def test_a_renewed_key_waits_beside_the_one_in_use(tmp_path: Path) -> None:
    home = tmp_path / "silo-9"
    old = keygen_silo(SiloHome(home), "silo-9")
    new = renew(SiloHome(home), ["owner"])
    assert new.agent == old.agent and new.owner != old.owner
    assert key(home, "owner").public == old.owner and key(home, "owner.next").public == new.owner
    assert (home / "keys" / "owner.next.key").stat().st_mode & 0o777 == 0o600
    assert read_member(home / "member.json") == new
    with pytest.raises(SpecError, match="waits for its epoch"):
        renew(SiloHome(home), ["agent", "owner"])
    assert not (home / "keys" / "agent.next.key").exists()


def test_a_lost_key_can_be_renewed(tmp_path: Path) -> None:
    home = tmp_path / "silo-9"
    keygen_silo(SiloHome(home), "silo-9")
    (home / "keys" / "owner.key").unlink()
    with pytest.raises(SpecError, match=r"owner\.key"):
        renew(SiloHome(home), ["agent"])
    assert (
        read_member((renew(SiloHome(home), ["owner"]), home / "member.json")[1]).owner == key(home, "owner.next").public
    )


@pytest.mark.parametrize("roles", [[], ["aggregator"], ["agent", "salt"]])
def test_only_a_silos_own_keys_are_renewed(tmp_path: Path, roles: list[str]) -> None:
    keygen_silo(SiloHome(tmp_path / "silo-9"), "silo-9")
    with pytest.raises(SpecError, match="agent, owner"):
        renew(SiloHome(tmp_path / "silo-9"), roles)
    with pytest.raises(SpecError, match="silo's home"):
        renew(SiloHome(tmp_path), ["agent"])


def test_a_member_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    keygen_silo(SiloHome(tmp_path / "a"), "silo-9")
    path = tmp_path / "a" / "member.json"
    fields = json.loads(path.read_text())
    mine, other = Identity.generate(), Identity.generate()
    changes: list[tuple[dict[str, object], type[Exception]]] = [
        ({"silo": "silo-8"}, BadSignature),
        ({"agent": mine.public.raw.hex()}, BadSignature),
        ({"owner": other.public.raw.hex()}, BadSignature),
        ({"agent_signature": "00" * 64}, BadSignature),
        ({"owner_signature": fields["agent_signature"]}, BadSignature),
        ({"silo": "../up"}, SpecError),
        ({"silo": 3}, SpecError),
        ({"agent": "00" * 32}, SpecError),
        ({"agent": "zz" * 32}, SpecError),
        ({"agent": "00" * 31}, SpecError),
        ({"agent": None}, SpecError),
        ({"format": "consilium/2/member"}, SpecError),
        ({"more": "x"}, SpecError),
    ]
    for change, error in changes:
        path.write_text(json.dumps({**fields, **change}))
        with pytest.raises(error):
            read_member(path)
    for text in ("", "[]", "{", json.dumps({key: fields[key] for key in list(fields)[1:]})):
        path.write_text(text)
        with pytest.raises(SpecError, match="member"):
            read_member(path)
    with pytest.raises(SpecError, match="member file"):
        read_member(tmp_path / "nothing.json")


def test_nobody_enrols_a_key_that_he_does_not_hold(tmp_path: Path) -> None:
    """A file with somebody else's public key, signed with one's own."""
    keygen_silo(SiloHome(tmp_path / "a"), "silo-8")
    keygen_silo(SiloHome(tmp_path / "b"), "silo-9")
    theirs = json.loads((tmp_path / "a" / "member.json").read_text())
    mine = json.loads((tmp_path / "b" / "member.json").read_text())
    stolen = mine | {name: theirs[name] for name in ("agent", "agent_signature")}
    (tmp_path / "stolen.json").write_text(json.dumps(stolen))
    with pytest.raises(BadSignature):
        read_member(tmp_path / "stolen.json")


@pytest.mark.parametrize("silo", ["st.mary", "server", "localhost", "admin", "ca", "A", "-a", "a" * 64, "", "a b", "ä"])
def test_an_id_that_no_kit_can_have_gets_no_keys(tmp_path: Path, silo: str) -> None:
    with pytest.raises(SpecError, match="a silo's id: a-z, 0-9 and -"):
        keygen_silo(SiloHome(tmp_path / "home"), silo)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_failed_attempt_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Half a home would block the next attempt: keys are never overwritten."""
    home = tmp_path / "above" / "home"
    if there:
        home.mkdir(parents=True)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "create", full)
        for make in (
            lambda: keygen_silo(SiloHome(home), "silo-9"),
            lambda: keygen_aggregator(AggregatorHome(home)),
            lambda: keygen_consortium(home),
        ):
            with pytest.raises(OSError, match="No space"):
                make()
            assert home.exists() == there and not files(tmp_path)
    keygen_silo(SiloHome(home), "silo-9")
