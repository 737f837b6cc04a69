"""npz and npy of any shape.

One npz has ``x_train``, ``y_train``, ``x_test``, ``y_test``, or ``x`` and ``y``; a folder has these as npy files. npy
files are mapped from disk: float32 rows that need no scaling are never copied, all others are converted once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crypto.errors import DataRefused
from silo_agent.data import COUNTS, UNREADABLE
from silo_agent.readers.encoder import BadValue, ValueEncoder
from silo_agent.readers.source import PARTS, Arrays, Source, splits
from silo_agent.readers.targets import targets_of_array

_FOUR = tuple(f"{array}_{part}" for part in PARTS for array in "xy")


def read(source: Source) -> Arrays:
    """The arrays of one npz, or of a folder of npy files."""
    arrays, file_of = _load(source)
    for count in COUNTS:
        if count in arrays and (arrays[count].shape != () or int(arrays[count]) != len(source.schema.classes)):
            has = int(arrays[count]) if arrays[count].shape == () else f"an array of shape {arrays[count].shape} as"
            raise source.refuse(
                file_of[count],
                f"has {has} {count}, the schema {len(source.schema.classes)}",
                "Label the rows by the schema's classes.",
            )
    if not (wanted := next((names for names in (_FOUR, ("x", "y")) if set(names) <= arrays.keys()), None)):
        have = ", ".join(sorted(arrays)) or "nothing"
        raise DataRefused(
            f"Data set {source.name!r} has the arrays {have}.", remedy=f"Save {', '.join(_FOUR)}, or x and y."
        )
    found = {
        name: _encoded(source, file_of[name], arrays[name])
        if name[0] == "x"
        else targets_of_array(source, file_of[name], arrays[name])
        for name in wanted
    }
    if "x" not in found:
        return found
    x, y = found["x"], found["y"]
    if y.shape[:1] != x.shape[:1]:
        raise source.refuse(file_of["y"], f"has {len(y)} labels for {len(x)} rows", "Save one label a row.")
    test = splits(y, None, source.schema.fields["split"]["test"])
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def _load(source: Source) -> tuple[Mapping[str, np.ndarray], dict[str, str]]:
    """Array → its values, and array → its file."""
    arrays: dict[str, np.ndarray] = {}
    file_of: dict[str, str] = {}
    for file in source.files:
        try:
            if file.lower().endswith(".npy"):
                found = {file.rpartition("/")[2][:-4]: np.load(source.path(file), mmap_mode="r", allow_pickle=False)}
            else:
                with np.load(source.path(file), allow_pickle=False) as archive:
                    names = [name for name in archive.files if name in (*_FOUR, "x", "y", *COUNTS)]
                    found = {name: archive[name] for name in names}
        except UNREADABLE as bad:
            raise source.refuse(
                file, "is no readable npz or npy of plain arrays", "Save it again with numpy, without objects."
            ) from bad
        for name, array in found.items():
            if name in arrays:
                raise source.refuse(file, f"has {name}, and so has {file_of[name]}", "Keep each array once.")
            arrays[name], file_of[name] = array, file
    return arrays, file_of


def _encoded(source: Source, file: str, x: np.ndarray) -> np.ndarray:
    made = source.schema.encoder
    assert isinstance(made, ValueEncoder)
    try:
        return made.encode(x)
    except BadValue as bad:
        raise source.refuse(file, str(bad), "Save the values as the schema says: shape, unit and range.") from bad
