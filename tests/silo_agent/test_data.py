"""Data sets: what is refused, one by one, and what the commitment binds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused, FederationError, NonFinite, SpecError
from silo_agent.data import check, check_name, commitment, load


def arrays(**changes: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    good = {
        "x_train": rng.normal(size=(20, 3)).astype(np.float32),
        "y_train": np.arange(20) % 3,
        "x_test": rng.normal(size=(6, 3)).astype(np.float32),
        "y_test": np.arange(6) % 3,
        "classes": np.array(3),
    }
    return {name: np.asarray(value) for name, value in (good | changes).items()}


def save(folder: Path, name: str = "heart", **changes: object) -> Path:
    path = folder / f"{name}.npz"
    with path.open("wb") as file:
        np.savez(file, allow_pickle=True, **arrays(**changes))
    return path


def test_a_good_file_becomes_frozen_arrays(tmp_path: Path) -> None:
    path = save(tmp_path, x_train=np.ones((20, 3), dtype=np.float64), y_train=(np.arange(20) % 2).astype(np.uint8))
    data = load(path, "heart")
    assert (data.x_train.dtype.name, data.y_train.dtype.name, data.classes) == ("float32", "int64", 3)
    assert (data.rows, data.features) == (20, 3)
    with pytest.raises(ValueError, match="read-only"):
        data.x_train[0] = 0
    assert "20" not in repr(data)


@pytest.mark.parametrize("name", ["", "Heart", "../heart", "a/b", "a" * 64, ".hidden", "heart\n"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(DataRefused, match="no data set name"):
        check_name(name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"there is no file 'heart\.npz'"):
        load(tmp_path / "heart.npz", "heart")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_a_broken_file(tmp_path: Path, content: bytes) -> None:
    path = save(tmp_path)
    path.write_bytes(content)
    with pytest.raises(DataRefused, match="not a readable npz"):
        load(path, "heart")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="not a readable npz"):
        load(tmp_path, "heart")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_damaged_bytes_are_refused_by_name_or_do_no_harm(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "heart.npz"
    write(path, **arrays())
    whole, rng = path.read_bytes(), np.random.default_rng(5)
    refused = 0
    for _ in range(400):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        damaged[rng.integers(len(whole), size=3)] ^= rng.integers(1, 256, size=3).astype(np.uint8)
        path.write_bytes(damaged[: rng.integers(len(whole) // 2, 2 * len(whole))].tobytes())
        try:
            load(path, "heart")
        except (DataRefused, NonFinite):
            refused += 1
    assert refused > 200


def test_a_bare_array_is_no_data_set(tmp_path: Path) -> None:
    path = save(tmp_path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(DataRefused, match="one array, not an npz"):
        load(path, "heart")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, x_train=np.array([{"a": 1}] * 20, dtype=object))
    with pytest.raises(DataRefused, match="without objects"):
        load(path, "heart")


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = save(tmp_path)
    kept = {name: array for name, array in arrays().items() if name != "y_test"}
    np.savez(path, allow_pickle=False, **kept)
    with pytest.raises(DataRefused, match="lacks y_test"):
        load(path, "heart")


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"classes": 3.0}, DataRefused, "classes"),
        ({"classes": [3]}, DataRefused, "classes"),
        ({"classes": 1}, DataRefused, "classes"),
        ({"x_train": np.ones(20)}, DataRefused, "x_train"),
        ({"x_train": np.full((20, 3), "a")}, DataRefused, "x_train"),
        ({"x_train": np.ones((20, 0))}, DataRefused, "x_train"),
        ({"x_test": np.ones((6, 4))}, DataRefused, "4 in x_test"),
        ({"y_train": np.arange(19) % 3}, DataRefused, "y_train"),
        ({"y_train": np.arange(20) % 3 + 0.0}, DataRefused, "y_train has numbers of float64, not class labels"),
        ({"y_train": np.full(20, "a")}, DataRefused, "y_train has shape"),
        ({"y_test": np.arange(6).reshape(6, 1)}, DataRefused, "y_test"),
        ({"y_train": np.arange(20) % 4}, DataRefused, "labels outside 0 … 2"),
        ({"y_test": np.arange(6) - 1}, DataRefused, "labels outside 0 … 2"),
        ({"y_train": np.ones(20, dtype=int)}, DataRefused, "single class"),
        ({"x_train": np.ones((15, 3)), "y_train": np.arange(15) % 3}, DataRefused, "fewer than 16"),
        ({"x_test": np.ones((0, 3)), "y_test": np.zeros(0, dtype=int)}, DataRefused, "no test rows"),
        ({"x_train": np.full((20, 3), np.nan)}, NonFinite, "x_train"),
        ({"x_test": np.full((6, 3), np.inf)}, NonFinite, "x_test"),
        ({"x_test": np.full((6, 3), 1e39)}, NonFinite, "x_test"),
    ],
)
def test_refusals(changes: dict[str, object], error: type[FederationError], why: str) -> None:
    with pytest.raises(error, match=why) as refused:
        check("heart", arrays(**changes))
    assert refused.value.remedy, "every refusal says what to do"


def test_the_commitment_binds_content_and_salt_only() -> None:
    salt, data = bytes(16), check("heart", arrays())
    first = commitment(data, salt)
    assert len(first) == 32
    assert first == commitment(check("renamed", arrays()), salt)
    assert first == commitment(check("heart", arrays(x_train=np.asfortranarray(arrays()["x_train"]))), salt)
    assert first != commitment(data, bytes(15) + b"\1")
    changed = [
        arrays(y_train=(np.arange(20) + 1) % 3),
        arrays(x_test=arrays()["x_test"] + 1),
        arrays(classes=4),
        arrays(x_train=arrays()["x_train"][:19], y_train=arrays()["y_train"][:19]),
    ]
    assert len({first} | {commitment(check("heart", other), salt) for other in changed}) == 5


def test_a_short_salt_is_refused() -> None:
    with pytest.raises(SpecError, match="salt"):
        commitment(check("heart", arrays()), b"short")


def test_data_needs_no_torch() -> None:
    script = (
        "import sys, silo_agent.data, silo_agent.cluster_gates, silo_agent.methods; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
