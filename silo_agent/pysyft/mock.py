"""A data set's public half: its schema and its mock. Nobody but the data owner sees more of it.

A mock is a data set of invented rows with the schema of the real ones. An admin whose PySyft folder has the public
halves of several silos develops on their mocks: ``fed simulate --mock``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, prod, sqrt
from pathlib import Path

import numpy as np

from crypto.errors import DataRefused
from silo_agent.data import ARRAYS, CLASS, LABELS, MASK, NUMBER, DataSet, check_name, load
from silo_agent.pysyft.datasite import silo_of

#: PySyft's on-disk protocol. Pinned, with the packages: a test compares our paths with PySyft's.
PROTOCOL = "1"
#: The file that holds a data set's arrays, in either half.
DATA = "data.npz"


@dataclass(frozen=True, slots=True)
class Schema:
    """What anyone may know of a data set. Never how many rows it has."""

    shape: tuple[int, ...]
    """Of one row's input."""
    classes: int
    """Classes, or yes-or-no labels of a row; of numbers 1."""
    target: str = CLASS
    """The kind of target: one of ``silo_agent.data.KINDS``."""

    @classmethod
    def of(cls, data: DataSet) -> Schema:
        return cls(shape=data.shape, classes=data.classes, target=data.target)

    @property
    def features(self) -> int:
        """Numbers in one row's input."""
        return prod(self.shape)

    @property
    def arrays(self) -> dict[str, str]:
        """Array → type and shape, as jobs get them."""
        sides = {MASK: self.shape[1:], LABELS: (self.classes,)}.get(self.target, ())
        x = f"float32 (rows, {', '.join(map(str, self.shape))})"
        most = 1 if self.target == LABELS else self.classes - 1
        y = f"int64 ({', '.join(('rows', *map(str, sides)))}) from 0 to {most}"
        if self.target == NUMBER:
            y = "float64 (rows)"
        return {array: x if array.startswith("x") else y for array in ARRAYS}

    @property
    def text(self) -> str:
        """For people: inputs and target."""
        sides = " × ".join(map(str, self.shape))
        return f"{sides} features and {self.target_text}"

    @property
    def target_text(self) -> str:
        """For people: the target."""
        of = {
            LABELS: f"{self.classes} yes-or-no labels",
            NUMBER: "a number to predict",
            MASK: f"{self.classes} classes in masks",
        }
        return of.get(self.target, f"{self.classes} classes")


def dataset_folder(syftbox: Path, owner: str, half: str, name: str) -> Path:
    """PySyft's folder of a data set. ``half``: private or public."""
    return syftbox / owner / half / "syft_datasets" / f"v{PROTOCOL}" / name


def arrays_of(data: DataSet) -> dict[str, np.ndarray]:
    """What ``numpy.savez`` takes and ``silo_agent.data.load`` gives back."""
    count = {NUMBER: {}, LABELS: {"labels": data.classes}}.get(data.target, {"classes": data.classes})
    arrays = {array: np.asarray(getattr(data, array)) for array in ARRAYS}
    return arrays | {name: np.asarray(number) for name, number in count.items()}


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
    """Raise DataRefused for a mock with another schema than the data, or with rows of the data.

    Rows are compared exactly: a private row with noise on it is not found. A mock is invented, not blurred. Where
    columns have few values, invented rows meet real ones by chance; only more than that is refused.
    """
    if Schema.of(mock) != Schema.of(rows):
        raise DataRefused(
            f"The mock of {name!r} has {Schema.of(mock).text}, the private rows have {Schema.of(rows).text}.",
            remedy="Make a mock with the same arrays.",
        )
    private, shown = set(_features_of_rows(rows)), list(_features_of_rows(mock))
    same = sum(row in private for row in shown)
    if same and same > _met_by_chance(len(shown), len(private), _possible_rows(rows, mock)):
        raise DataRefused(
            f"The mock of {name!r} shows rows of the private data.",
            remedy="Make the mock of invented rows, never of real ones.",
        )


def _met_by_chance(shown: int, private: int, possible: float) -> float:
    """Most invented rows that equal one of the private rows by chance: the mean and four standard deviations."""
    share = min(private / possible, 1.0)
    return shown * share + 4 * sqrt(shown * share * (1 - share))


def _possible_rows(*sets: DataSet) -> float:
    """How many different rows the values of each column allow; infinite where that is beyond counting."""
    found = 1.0
    columns = np.concatenate([x.reshape(len(x), -1) for data in sets for x in (data.x_train, data.x_test)]).T
    for column in columns:
        found *= len(np.unique(column))
        if found > 1e12:
            return inf
    return found


def _features_of_rows(data: DataSet) -> Iterator[bytes]:
    """Each row's features as bytes, with -0 as 0. The label is left out: a row is as revealing without it."""
    for x in (data.x_train, data.x_test):
        yield from (row.tobytes() for row in x + np.float32(0))
