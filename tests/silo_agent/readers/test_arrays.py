"""npz and npy of any shape: what is read, mapped from disk, and refused with the file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused
from silo_agent.data import DataSet
from silo_agent.readers.ranges import findings
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema

PLAIN = {"shape": [2, 3, 4], "range": [-10, 10], "mean": 0, "sd": 1}


def schema(**values: object) -> DataSchema:
    return DataSchema.parse({"kind": "array", "classes": ["a", "b", "c"], "values": PLAIN | values})


def four(rows: int = 20, **changes: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {
        "x_train": rng.normal(size=(rows, 2, 3, 4)).astype(np.float32),
        "y_train": np.arange(rows) % 3,
        "x_test": rng.normal(size=(6, 2, 3, 4)).astype(np.float32),
        "y_test": np.arange(6) % 3,
    }
    return {name: np.asarray(value) for name, value in (made | changes).items()}


def folder(path: Path, **arrays: np.ndarray) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def read(path: Path, by: DataSchema | None = None) -> DataSet:
    return Reference.take("scans", path, by or schema()).read("scans")


def test_float32_rows_stay_mapped_from_disk(tmp_path: Path) -> None:
    data = read(folder(tmp_path / "d", **four()))
    assert data.shape == (2, 3, 4) and np.array_equal(data.x_train, four()["x_train"])
    assert isinstance(data.x_train.base, np.memmap) and not data.x_train.flags.writeable


def test_an_npz_gives_the_same_and_may_hold_all_rows_in_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **four(), classes=3, patient=np.arange(26))
    assert np.array_equal(read(tmp_path / "d.npz").x_test, four()["x_test"])
    whole = four(30)
    np.savez(tmp_path / "one.npz", x=whole["x_train"], y=whole["y_train"])
    data = read(tmp_path / "one.npz")
    assert (len(data.y_train), len(data.y_test)) == (24, 6) and sorted(data.y_test) == [0, 0, 1, 1, 2, 2]


def test_other_types_are_scaled_when_they_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    raw = {f"x_{part}": rng.integers(0, 256, size=(20, 2, 3, 4), dtype=np.uint8) for part in ("train", "test")}
    arrays = four(y_test=np.arange(20) % 3) | raw
    by = schema(range=[0, 255], mean=127.5, sd=127.5)
    data = read(folder(tmp_path / "d", **arrays), by)
    assert np.allclose(data.x_train, raw["x_train"] / 127.5 - 1, atol=1e-6)
    assert findings(data, by) == []
    unscaled = schema(range=[0, 255])
    assert "Unscaled: values range from 0 to 255" in findings(read(tmp_path / "d", unscaled), unscaled)[0]


def test_masks_of_arrays(tmp_path: Path) -> None:
    by = DataSchema.parse({**schema().fields, "labels": "masks"})
    masks = {f"y_{part}": np.arange(rows * 12).reshape(rows, 3, 4) % 3 for part, rows in (("train", 20), ("test", 6))}
    data = read(folder(tmp_path / "d", **four(**masks)), by)
    assert data.masks and np.array_equal(data.y_test, masks["y_test"])
    with pytest.raises(DataRefused, match="has masks, its schema says one label a row"):
        read(tmp_path / "d")
    with pytest.raises(DataRefused, match="has one label a row, its schema says masks"):
        read(folder(tmp_path / "e", **four()), by)
    with pytest.raises(DataRefused, match=r"y_test has shape \(6, 4, 3\) .* of shape \(2, 3, 4\)"):
        read(folder(tmp_path / "f", **four(**masks | {"y_test": masks["y_test"].reshape(6, 4, 3)})), by)
    with pytest.raises(DataRefused, match="labels in one split and masks in the other"):
        read(folder(tmp_path / "g", **four(y_test=masks["y_test"])), by)


def nan(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[7, 1, 1, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"x_test": nan(np.zeros((8, 2, 3, 4), np.float32))}, r"x_test\.npy: .*NaN or infinite values \(row 8\)"),
        ({"x_train": np.zeros((20, 3, 2, 4), np.float32)}, r"x_train\.npy: .*shape \(3, 2, 4\)"),
        ({"x_train": np.full((20, 2, 3, 4), 11.0)}, r"x_train\.npy: .*from 11 to 11, the schema says -10 to 10"),
        ({"x_train": np.full((20, 2, 3, 4), "a")}, r"x_train\.npy: .*is no type of numbers"),
        ({"y_train": np.arange(20) % 4}, "labels outside 0 … 2"),
        ({"y_train": np.arange(19) % 3}, r"y_train has shape \(19,\)"),
        ({"x_test": np.zeros((0, 2, 3, 4)), "y_test": np.zeros(0, int)}, "no test rows"),
        ({"classes": np.array(4)}, r"classes\.npy: has 4 classes, the schema 3"),
    ],
)
def test_faults_name_the_file(tmp_path: Path, changes: dict[str, np.ndarray], why: str) -> None:
    with pytest.raises(DataRefused, match=why) as refused:
        read(folder(tmp_path / "d", **four(**changes)))
    assert refused.value.remedy


def test_broken_files_and_arrays_that_lack_or_come_twice(tmp_path: Path) -> None:
    where = folder(tmp_path / "d", **four())
    (where / "x_train.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataRefused, match=r"x_train\.npy: is no readable npz or npy"):
        read(where)
    (where / "x_train.npy").unlink()
    with pytest.raises(DataRefused, match="has the arrays x_test, y_test, y_train"):
        read(where)
    np.savez(where / "more.npz", **four())
    with pytest.raises(DataRefused, match=r"x_test\.npy: has x_test, and so has more\.npz"):
        read(where)


def test_outliers_may_be_clipped(tmp_path: Path) -> None:
    data = read(folder(tmp_path / "d", **four(x_test=np.full((6, 2, 3, 4), 99.0))), schema(outside="clip"))
    assert (data.x_test == 10).all()
