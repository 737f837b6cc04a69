"""Homes: keys that never move, a pinned charter that only its successor replaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crypto.charter import SignedCharter
from crypto.errors import BadSignature, SpecError
from crypto.home import Home
from crypto.keys import Identity
from tests import local


def test_a_pinned_charter_is_replaced_by_its_successor_only(tmp_path: Path) -> None:
    federation = local.federation(tmp_path / "f")
    consortium = Identity.load(federation.root / "consortium" / "consortium.key")
    home = federation.silo("silo-1")
    old = Home(home).charter()
    following = replace(old, epoch=2, previous=old.digest)
    stranger = Identity.generate()
    for charter, key, error in (
        (old, consortium, SpecError),
        (replace(following, epoch=3), consortium, SpecError),
        (following, stranger, BadSignature),
    ):
        with pytest.raises(error):
            Home(home).pinned.pin(SignedCharter.sign(charter, key), key.public)
        assert Home(home).charter() == old
    Home(home).pinned.pin(SignedCharter.sign(following, consortium), consortium.public)
    assert Home(home).charter() == following
    with pytest.raises(SpecError):
        Home(home).pinned.pin(SignedCharter.sign(old, consortium), consortium.public)


def test_keys_and_salt_are_private_and_each_its_own(tmp_path: Path) -> None:
    federation = local.federation(tmp_path / "f")
    secrets = [*federation.root.rglob("*.key"), *federation.root.rglob("salt")]
    assert len(secrets) == 2 * 8 + 1 + 1 + 8
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    assert len({path.read_bytes() for path in secrets}) == len(secrets)
    assert all(home.stat().st_mode & 0o777 == 0o700 for home in (federation.aggregator, *federation.homes.values()))
