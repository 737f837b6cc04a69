"""What a reader gets and gives: the files of a registered reference, and the four arrays of a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from crypto.errors import DataRefused
from crypto.text import escaped
from silo_agent.readers.schema import DataSchema

#: ``x_train``, ``y_train``, ``x_test``, ``y_test``.
Arrays = Mapping[str, np.ndarray]
PARTS = ("train", "test")
#: The table of labels beside images. Readers have it among their suffixes, so that it belongs to the data set.
LABELS = "labels.csv"


@dataclass(frozen=True, slots=True)
class Source:
    """A reference as a reader sees it."""

    name: str
    """The data set's name, for messages."""
    root: Path
    """The folder, or the folder of the single file."""
    files: tuple[str, ...]
    """Paths below ``root``, with ``/``, sorted: all that the reader may read. Their bytes are committed to."""
    schema: DataSchema

    def path(self, file: str) -> Path:
        return self.root / file

    def refuse(self, file: str, why: str, remedy: str) -> DataRefused:
        """An error that names the file."""
        return DataRefused(f"Data set {self.name!r}: {escaped(file)}: {escaped(why)}.", remedy=remedy)

    def side(self, file: str) -> str | None:
        """train or test where the files tell it: by their first folder, or by a name like ``train.csv`` or
        ``x_train.npy``."""
        first = file.split("/")[0]
        stem = first.split(".")[0]
        return next((part for part in PARTS if first == part or stem == part or stem.endswith(f"_{part}")), None)

    def sides(self) -> dict[str, str] | None:
        """File → train or test, or None where the rows are to be split. Raises DataRefused for half of it."""
        found = {file: self.side(file) for file in self.files}
        told = {side for side in found.values() if side}
        if not told:
            return None
        for file, side in found.items():
            if side is None:
                raise self.refuse(file, "is in neither train nor test", "Put every file into train or test, or none.")
        if told != set(PARTS):
            gone = next(part for part in PARTS if part not in told)
            raise DataRefused(
                f"Data set {self.name!r} has no {gone} files.", remedy="Keep files in train and in test, or in neither."
            )
        return {file: side for file, side in found.items() if side}


def splits(y: np.ndarray, groups: Sequence[str] | None, share: float) -> np.ndarray:
    """Which rows are test rows: bool (rows,). The same rows in the same order give the same answer everywhere.

    Without groups every class gives its share, at least one row where it has two. With groups all rows of a group stay
    on one side, and the share is of groups. ``y``: (rows,) or (rows, …); only class labels (rows,) are told apart.
    """
    test = np.zeros(len(y), dtype=bool)
    if groups is not None:
        chosen = set(_chosen(sorted(set(groups)), share))
        return np.array([group in chosen for group in groups], dtype=bool)
    labels = y if y.ndim == 1 and y.dtype.kind != "f" else np.zeros(len(y), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        test[[int(row) for row in _chosen([str(row) for row in rows], share)]] = True
    return test


def _chosen(keys: Sequence[str], share: float) -> list[str]:
    """The share of these keys whose digests are lowest."""
    count = max(round(share * len(keys)), 1) if len(keys) > 1 else 0
    return sorted(keys, key=lambda key: sha256(f"consilium/1/split {key}".encode()).digest())[:count]


def label_of(source: Source, where: str, name: str) -> int:
    """The index of a class name. Raises DataRefused that names where it was found."""
    try:
        return source.schema.classes.index(name)
    except ValueError:
        known = ", ".join(source.schema.classes[:12])
        raise source.refuse(
            where,
            f"{name!r} is none of the job's classes",
            f"The classes are {known}: rename it, move it away, or ask for a schema with this class.",
        ) from None


def check_fits_memory(source: Source, rows: int) -> None:
    """Raise DataRefused where the encoded rows would not fit into this machine's memory."""
    size = rows * int(np.prod(source.schema.shape)) * 4
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise DataRefused(
            f"Data set {source.name!r} needs {size / 1e9:.1f} GB of memory, this machine has {memory / 1e9:.1f} GB.",
            remedy="Register fewer files, or ask for a schema with smaller images.",
        )
