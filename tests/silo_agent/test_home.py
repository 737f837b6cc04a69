"""A silo's home: made once, private, read by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crypto.errors import SpecError
from silo_agent.home import MOST_EVIDENCE, SiloHome


@pytest.fixture
def home(tmp_path: Path) -> SiloHome:
    return SiloHome(tmp_path / "silo-1")


def test_a_new_home_has_an_id_keys_and_a_salt(home: SiloHome) -> None:
    assert not home.exists()
    member = home.make("silo-1", {"probe": "vectors"})
    assert home.exists() and home.silo == member.silo == "silo-1"
    assert json.loads(home.settings_path.read_text()) == home.settings() == {"silo": "silo-1", "probe": "vectors"}
    assert (home.identity().public, home.owner().public) == (member.agent, member.owner)
    assert len(home.salt()) == 32 and home.policy().floors == {}
    for secret in (home.agent_key_path, home.owner_key_path, home.salt_path):
        assert secret.stat().st_mode & 0o777 == 0o600
    for folder in (home.root, home.keys_folder, home.metrics_folder):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_keys_are_never_made_over_others(home: SiloHome) -> None:
    home.make("silo-1")
    before = home.agent_key_path.read_bytes()
    with pytest.raises(FileExistsError):
        home.make("silo-1")
    assert home.agent_key_path.read_bytes() == before


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "7", "not JSON"])
def test_another_folder_is_no_silos_home(home: SiloHome, text: str | None) -> None:
    home.root.mkdir()
    if text is not None:
        home.settings_path.write_text(text)
    with pytest.raises(SpecError, match="a silo's home"):
        home.settings()
    with pytest.raises(SpecError, match="a silo's home"):
        _ = home.silo


def test_the_first_receipt_of_a_name_stays(home: SiloHome) -> None:
    home.keep_receipt("run.bin", b"first")
    home.keep_receipt("run.bin", b"second")
    kept = home.receipts_folder / "run.bin"
    assert kept.read_bytes() == b"first" and kept.stat().st_mode & 0o777 == 0o600


def test_evidence_does_not_fill_the_disk(home: SiloHome) -> None:
    for number in range(MOST_EVIDENCE + 5):
        home.keep_evidence(f"{number}.bin", b"evidence")
    assert len(list(home.evidence_folder.iterdir())) == MOST_EVIDENCE
