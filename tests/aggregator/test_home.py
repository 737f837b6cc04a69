"""The aggregator's home: made once, private, read by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.home import AggregatorHome, RunFolder
from crypto.errors import SpecError


def test_a_new_home_has_a_key(tmp_path: Path) -> None:
    home = AggregatorHome(tmp_path / "aggregator")
    assert not home.exists()
    public = home.make()
    assert home.exists() and home.identity().public == public
    assert home.identity_path.stat().st_mode & 0o777 == 0o600
    for folder in (home.root, home.keys_folder, home.metrics_folder, home.jobs_folder):
        assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        home.make()
    assert home.identity().public == public


def test_a_home_opens_under_a_charter_only(tmp_path: Path) -> None:
    home = AggregatorHome(tmp_path)
    home.make()
    with pytest.raises(SpecError, match="a pinned charter"):
        home.open()


@pytest.mark.parametrize("run", ["", "..", "a/b", "/etc", ".hidden", "a" * 64, "a b"])
def test_a_run_is_a_folder_inside_the_home(tmp_path: Path, run: str) -> None:
    home = AggregatorHome(tmp_path)
    assert home.run_folder("0123abcd") == RunFolder(tmp_path / "jobs" / "0123abcd")
    with pytest.raises(SpecError, match="run name"):
        home.run_folder(run)
