"""The targets of raw rows: class labels by name, several labels of yes and no, or numbers within public bounds.

Every refusal names the file, the column and the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from silo_agent.data import LABELS, NUMBER
from silo_agent.readers.encoder import BadValue, is_missing, level_in, level_of, numbers, outside
from silo_agent.readers.source import Source, label_of

#: How labels of yes and no may be written, as levels: see ``encoder.level_of``.
YES, NO = ("1", "true", "yes"), ("0", "false", "no")
#: (column, row) → how a message names it.
Place = Callable[[str, int], str]
_LEAVE_OUT = "Leave rows without a target out."


def targets_of(
    source: Source, file: str, columns: Mapping[str, Sequence[object]], *, alone: bool = False
) -> np.ndarray:
    """``y`` of the rows of a table, from its columns. ``alone``: it is one row, and ``file`` says which. Raises
    DataRefused."""
    schema = source.schema

    def place(name: str, row: int) -> str:
        if alone:
            return f"{file}: {name!r}" if schema.target in (LABELS, NUMBER) else file
        return f"{file}: column {name!r}, row {row + 1}"

    if (number := schema.number) is not None:
        return _numbers(source, file, number, columns[number["name"]], place)
    if schema.targets:
        return np.stack([_yes_or_no(source, name, columns[name], place) for name in schema.targets], axis=1)
    (target,) = schema.label_columns
    return _labels(source, target, columns[target], place)


def target_of(source: Source, where: str, row: Mapping[str, object]) -> Any:
    """``y`` of one row, from its fields. Raises DataRefused."""
    return targets_of(source, where, {name: [row[name]] for name in source.schema.label_columns}, alone=True)[0]


def targets_of_array(source: Source, file: str, y: np.ndarray) -> np.ndarray:
    """``y`` of an array, with numbers checked against the schema's bounds, or clipped. Raises DataRefused."""
    schema = source.schema
    if schema.target == LABELS and y.dtype.kind == "b":
        return y.astype(np.int64)
    if (number := schema.number) is None:
        return y
    if y.dtype.kind not in "fiu" or y.ndim != 1:
        raise source.refuse(file, f"has targets of {y.dtype}, shape {y.shape}", "Save one number a row.")
    return _bounded(source, number, y.astype(np.float64), lambda row: f"{file}: targets, row {row + 1}")


def _numbers(
    source: Source, file: str, number: Mapping[str, Any], values: Sequence[object], place: Place
) -> np.ndarray:
    try:
        made = numbers({"type": "number", **number}, values)
    except BadValue as bad:
        raise source.refuse(file, str(bad), "Correct the values. Row 1 is the first below the header.") from bad
    return _bounded(source, number, made, lambda row: place(str(number["name"]), row))


def _bounded(source: Source, number: Mapping[str, Any], made: np.ndarray, place: Callable[[int], str]) -> np.ndarray:
    for what, at in (("missing", np.isnan(made)), ("infinite", np.isinf(made))):
        if (bad := np.flatnonzero(at)).size:
            raise source.refuse(f"{place(int(bad[0]))}{_more(bad)}", f"the target is {what}", _LEAVE_OUT)
    bad = np.flatnonzero(outside(number, made))
    if bad.size and number["outside"] == "refuse":
        low, high = number["range"]
        unit = f" {number['unit']}" if number.get("unit") else ""
        raise source.refuse(
            f"{place(int(bad[0]))}{_more(bad)}",
            f"values outside {low:g} to {high:g}{unit}; the median of the column is {np.median(made):.4g}",
            'Compare the unit with the schema\'s. Correct the values, or ask for another range or outside = "clip".',
        )
    clipped: np.ndarray = np.clip(made, *number["range"])
    return clipped


def _yes_or_no(source: Source, name: str, values: Sequence[object], place: Place) -> np.ndarray:
    made = np.zeros(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        where = place(name, row)
        if is_missing(value):
            raise source.refuse(where, "the label is missing", "Leave rows without a label out.")
        level = level_in((*YES, *NO), level_of(value).lower())
        if level not in YES and level not in NO:
            raise source.refuse(where, f"{level[:40]!r} is neither yes nor no", "Write 1 for yes and 0 for no.")
        made[row] = level in YES
    return made


def _labels(source: Source, target: str, values: Sequence[object], place: Place) -> np.ndarray:
    at = {name: n for n, name in enumerate(source.schema.classes)}
    made = np.zeros(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        where = place(target, row)
        if is_missing(value):
            raise source.refuse(where, "the label is missing", "Leave rows without a label out.")
        level = level_in(at, value)
        made[row] = at[level] if level in at else label_of(source, where, level)
    return made


def _more(bad: np.ndarray) -> str:
    return f" and {bad.size - 1} more" if bad.size > 1 else ""
