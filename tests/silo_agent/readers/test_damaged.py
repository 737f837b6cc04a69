"""Damaged bytes, by every reader: refused with the file's name, or read and harmless; never another error."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from crypto.errors import DataRefused, NonFinite
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema
from tests.silo_agent.readers import test_arrays as arrays
from tests.silo_agent.readers import test_images as images
from tests.silo_agent.readers import test_texts as texts
from tests.silo_agent.readers.tables import SCHEMA, patients, write_csv

TABLE = DataSchema.parse(tomllib.loads(SCHEMA))
Made = tuple[Path, DataSchema]


def csv(root: Path) -> Made:
    return write_csv(root / "a.csv", patients(40)), TABLE


def parquet_file(root: Path) -> Made:
    rows = [{name: str(value) for name, value in row.items()} for row in patients(40)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "a.parquet")
    return root / "a.parquet", TABLE


def arrow(root: Path) -> Made:
    return texts.saved_to_disk(root / "d", texts.lines()) / "data-00000-of-00001.arrow", texts.BY


def jsonl(root: Path) -> Made:
    return texts.write(root / "a.jsonl", texts.lines()), texts.BY


def npy(root: Path) -> Made:
    return arrays.folder(root, **arrays.four()) / "x_train.npy", arrays.schema()


def npz(root: Path) -> Made:
    np.savez_compressed(root / "a.npz", **arrays.four())
    return root / "a.npz", arrays.schema()


def of_each_class(root: Path, make: Callable[[Path, int], object], suffix: str) -> Path:
    """Twenty-four files by ``make``; the one that is damaged."""
    for n in range(24):
        make(root / ("mask" if n % 2 else "none") / f"{n:02}{suffix}", n)
    return root / "mask" / f"01{suffix}"


def png(root: Path) -> Made:
    return of_each_class(root, lambda path, n: images.picture(path, images.grey(n)), ".png"), images.schema()


def dicom(root: Path) -> Made:
    fields = {"WindowCenter": 2000, "WindowWidth": 4000, "RescaleSlope": 1, "RescaleIntercept": 0}
    file = of_each_class(root, lambda path, n: images.dicom(path, images.STORED, **fields), ".dcm")
    return file, images.schema(window="file", range=[0, 1])


def nifti(root: Path) -> Made:
    def make(path: Path, n: int) -> object:
        return images.volume(path, np.full((4, 5, 6), n, np.int16))

    return of_each_class(root, make, ".nii"), images.schema((1, 4, 5, 6))


EACH = (csv, parquet_file, arrow, jsonl, npy, npz, png, dicom, nifti)


@pytest.mark.filterwarnings("ignore")  # of other packages, about what they read
@pytest.mark.parametrize("make", EACH, ids=lambda make: make.__name__)
def test_damaged_bytes_are_refused_by_name_or_do_no_harm(tmp_path: Path, make: Callable[[Path], Made]) -> None:
    file, schema = make(tmp_path)
    whole, rng, refused = file.read_bytes(), np.random.default_rng(3), 0
    for turn in range(40):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        most = min(len(damaged), 400) if turn % 2 else len(damaged)
        damaged[rng.integers(most, size=3)] = rng.integers(0, 256, size=3)
        file.write_bytes(damaged.tobytes() if turn % 5 else damaged[: rng.integers(len(damaged))].tobytes())
        try:
            Reference.take("x", tmp_path, schema).read("x")
        except (DataRefused, NonFinite):
            refused += 1
    assert refused
