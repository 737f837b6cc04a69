"""The silo's own floors."""

from __future__ import annotations

from pathlib import Path

import pytest

from crypto.errors import SpecError
from silo_agent.policy import Policy


def test_a_missing_policy_has_no_floors_of_its_own(tmp_path: Path) -> None:
    assert Policy.load(tmp_path / "policy.toml") == Policy()


def test_policies_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[floors]\n"expert-0" = 5\n')
    assert Policy.load(path).floors == {"expert-0": 5}
    for text in ("floors = 3", "[floors]\na = 0", "[floors]\na = true", "[floors]\na = 4294967296", "other = 1", "="):
        path.write_text(text)
        with pytest.raises(SpecError):
            Policy.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(SpecError):
        Policy.load(path)


def test_the_approval_lists_of_old_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('approval = "automatic"\n')
    with pytest.raises(SpecError, match="fed approve"):
        Policy.load(path)


def test_the_digest_is_the_policys_content() -> None:
    digests = {
        policy.digest
        for policy in (Policy(), Policy({"a": 3}), Policy({"a": 4}), Policy({"b": 3}), Policy({"a": 3, "b": 3}))
    }
    assert len(digests) == 5
    assert Policy({"a": 3, "b": 4}).digest == Policy({"b": 4, "a": 3}).digest
