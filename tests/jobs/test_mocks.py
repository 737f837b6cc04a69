"""Mock data for admins: from a federation's folder, or from public halves that silos handed over."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused
from jobs import homes
from jobs.mocks import mocks_at
from silo_agent.box import Box


def tiny(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {"classes": np.array(3)}
    for part, rows in (("train", 20), ("test", 6)):
        made |= {f"x_{part}": rng.normal(size=(rows, 5)).astype(np.float32), f"y_{part}": np.arange(rows) % 3}
    return made


@pytest.fixture
def federation(tmp_path: Path) -> homes.Federation:
    return homes.Federation.make(tmp_path / "f", "test", {f"silo-{at}": tiny(at) for at in range(1, 4)}, "heart")


def test_the_mocks_of_a_federation_on_this_machine(federation: homes.Federation) -> None:
    found = mocks_at(federation.root, "heart")
    assert list(found) == ["silo-1", "silo-2", "silo-3"]
    for silo, home in federation.homes.items():
        with np.load(home / "syft" / Box.of(home, silo).owner / "public/syft_datasets/v1/heart/data.npz") as mock:
            assert all(np.array_equal(found[silo][name], mock[name]) for name in mock.files)
        assert not np.isin(found[silo]["x_train"], tiny(int(silo[-1]))["x_train"]).any()


def test_nothing_private_is_needed(federation: homes.Federation, tmp_path: Path) -> None:
    for silo, home in federation.homes.items():
        owner = Box.of(home, silo).owner
        shutil.copytree(home / "syft" / owner / "public", tmp_path / "box" / owner / "public")
    expected = mocks_at(federation.root, "heart")
    shutil.rmtree(federation.root)
    found = mocks_at(tmp_path / "box", "heart")
    assert list(found) == list(expected)
    assert all(np.array_equal(found[silo]["x_test"], expected[silo]["x_test"]) for silo in found)


def test_a_silo_without_a_mock_is_named(federation: homes.Federation, tmp_path: Path) -> None:
    shutil.rmtree(federation.silo("silo-2") / "syft")
    with pytest.raises(DataRefused, match="silo-2 shows no mock of 'heart'"):
        mocks_at(federation.root, "heart")
    with pytest.raises(DataRefused, match="No silo's public half"):
        mocks_at(tmp_path, "heart")
    with pytest.raises(DataRefused, match="no data set name"):
        mocks_at(tmp_path, "../heart")
