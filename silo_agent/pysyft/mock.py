"""A data set's public half: its schema and its mock. Nobody but the data owner sees more of it.

A mock is a data set of invented rows with the schema of the real ones. An admin whose PySyft folder has the public
halves of several silos develops on their mocks: ``fed simulate --mock``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crypto.errors import DataRefused
from silo_agent.data import ARRAYS, DataSet, check_name, load
from silo_agent.pysyft.datasite import silo_of

#: PySyft's on-disk protocol. Pinned, with the packages: a test compares our paths with PySyft's.
PROTOCOL = "1"
#: The file that holds a data set's arrays, in either half.
DATA = "data.npz"


@dataclass(frozen=True, slots=True)
class Schema:
    """What anyone may know of a data set. Never how many rows it has."""

    features: int
    classes: int

    @classmethod
    def of(cls, data: DataSet) -> Schema:
        return cls(features=data.features, classes=data.classes)

    @property
    def arrays(self) -> dict[str, str]:
        """Array → type and shape, as jobs get them."""
        x, y = f"float32 (rows, {self.features})", f"int64 (rows) from 0 to {self.classes - 1}"
        return {array: x if array.startswith("x") else y for array in ARRAYS if array != "classes"}


def dataset_folder(syftbox: Path, owner: str, half: str, name: str) -> Path:
    """PySyft's folder of a data set. ``half``: private or public."""
    return syftbox / owner / half / "syft_datasets" / f"v{PROTOCOL}" / name


def arrays_of(data: DataSet) -> dict[str, np.ndarray]:
    """What ``numpy.savez`` takes and ``silo_agent.data.load`` gives back."""
    return {array: np.asarray(getattr(data, array)) for array in ARRAYS}


def read_mock(syftbox: Path, owner: str, name: str) -> dict[str, np.ndarray]:
    """The mock arrays of one owner's data set, from the public half alone."""
    check_name(name)
    return arrays_of(load(dataset_folder(syftbox, owner, "public", name) / DATA, f"mock of {name}"))


def read_mocks(syftbox: Path, name: str) -> dict[str, dict[str, np.ndarray]]:
    """Silo → mock arrays, of every owner in an admin's PySyft folder whose public half has this data set."""
    check_name(name)
    owners = {silo: path.name for path in sorted(syftbox.glob("*@*")) if (silo := silo_of(path.name))}
    found = {
        silo: read_mock(syftbox, owner, name)
        for silo, owner in owners.items()
        if dataset_folder(syftbox, owner, "public", name).is_dir()
    }
    if not found:
        raise DataRefused(
            f"No silo's public half in {syftbox.name!r} has data set {name!r}.",
            remedy="Put the public halves of the silos' PySyft folders there.",
        )
    return found


def check_mock(name: str, rows: DataSet, mock: DataSet) -> None:
    """Raise DataRefused for a mock with another schema than the data, or with a row of the data.

    Rows are compared exactly: a private row with noise on it is not found. A mock is invented, not blurred.
    """
    if Schema.of(mock) != Schema.of(rows):
        raise DataRefused(
            f"The mock of {name!r} has {mock.features} features and {mock.classes} classes,"
            f" the private rows have {rows.features} and {rows.classes}.",
            remedy="Make a mock with the same arrays.",
        )
    shown = set(_features_of_rows(mock))
    if any(row in shown for row in _features_of_rows(rows)):
        raise DataRefused(
            f"The mock of {name!r} shows rows of the private data.",
            remedy="Make the mock of invented rows, never of real ones.",
        )


def _features_of_rows(data: DataSet) -> Iterator[bytes]:
    """Each row's features as bytes, with -0 as 0. The label is left out: a row is as revealing without it."""
    for x in (data.x_train, data.x_test):
        yield from (row.tobytes() for row in x + np.float32(0))
