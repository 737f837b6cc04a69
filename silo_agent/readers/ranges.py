"""Ranges are looked at: swapped columns and wrong units are refused, unscaled and constant ones are named.

A fault of one silo's values is invisible to all others: its updates are masked. So it must be found here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from silo_agent.data import DataSet
from silo_agent.readers.encoder import BadValue, TableEncoder, numbers, outside
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.source import Source

#: A column whose mean or standard deviation is larger than this, as a model sees it, is unscaled.
UNSCALED = 5.0
#: Columns whose medians are so many standard deviations off look swapped if, exchanged, they are less than one off.
SWAPPED = 2.0
#: From this share outside the range on, a column has another unit, not outliers.
MOST_OUTSIDE = 0.5
#: A column whose median is so many of the schema's standard deviations off is named.
FAR = 3.0
#: Columns that a message names.
_NAMED = 6


def explain_table(source: Source, file: str, table: Mapping[str, Sequence[object]]) -> None:
    """Raise DataRefused for columns of a table that look swapped, or that seem to have another unit."""
    found: dict[str, tuple[Mapping[str, Any], np.ndarray]] = {}
    for column in source.schema.columns:
        if column["type"] == "category" or column["name"] not in table:
            continue
        try:
            values = numbers(column, table[column["name"]])
        except BadValue:
            continue  # the encoder refuses it, with the rows
        if (~np.isnan(values)).sum() >= 5:
            found[column["name"]] = (column, values)
    off = {name: _off(column, values) for name, (column, values) in found.items()}
    for one, other in combinations([name for name, far in off.items() if far > SWAPPED], 2):
        (mine, values), (theirs, others) = found[one], found[other]
        if _off(mine, others) < 1 and _off(theirs, values) < 1:
            raise source.refuse(
                file,
                f"columns {one!r} and {other!r} look swapped: the values of each fit the other",
                "Look at the header of the file, and name the columns as the schema means them.",
            )
    for name, (column, values) in found.items():
        known = values[~np.isnan(values)]
        if outside(column, known).mean() > MOST_OUTSIDE and column["outside"] == "refuse":
            low, high = column["range"]
            unit = column.get("unit", "")
            raise source.refuse(
                file,
                f"column {name!r}: most values lie outside {low:g} to {high:g} {unit}".rstrip()
                + f"; their median is {np.median(known):.4g}",
                f"Is it another unit? Convert the column to {unit or 'what the schema means'}.",
            )


def findings(data: DataSet, schema: DataSchema | None) -> list[str]:
    """What a data owner should look at: sentences that name columns. Nothing here makes the data unusable."""
    x = data.x_train
    if (schema is None and _tokens(data)) or (schema is not None and schema.kind == "text"):
        return []
    if x.ndim > 2 or (schema is not None and schema.kind != "table"):
        return _of_arrays(x)
    made = None if schema is None else schema.encoder
    names = made.features if isinstance(made, TableEncoder) else [str(n) for n in range(x.shape[1])]
    mean_F, sd_F = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    said = []
    unscaled = [names[n] for n in np.flatnonzero(np.maximum(np.abs(mean_F), sd_F) > UNSCALED)]
    if unscaled:
        low, high = float(x.min()), float(x.max())
        said.append(
            f"Unscaled: {_list(unscaled)}, values range from {low:g} to {high:g}. Models want values around 0 with a"
            " standard deviation around 1: scale them, by a schema with mean and sd."
        )
    if schema is None:
        return said  # pixels at the border are constant, and nobody has named the columns
    constant = _constant(schema, x)
    far = [
        column["name"]
        for column in schema.columns
        if column["type"] != "category" and abs(mean_F[names.index(column["name"])]) > FAR
    ]
    if far:
        said.append(f"Far from the schema's mean: {_list(far)}. Is it another unit?")
    if constant:
        said.append(f"Constant: {_list(constant)}. A column with one value teaches nothing; is it filled in?")
    return said


_EXTREMES = re.compile(r"[Vv]alues range from \S+ to \S+\.(?= |$)")


def without_values(finding: str) -> str:
    """A finding without the least and the greatest value, which are values of rows: for pages that show none."""
    return _EXTREMES.sub(lambda found: f"{found[0][0]}alues are far from 0.", finding)


def _of_arrays(x: np.ndarray) -> list[str]:
    """The same for inputs without columns: images, volumes, signals."""
    mean, sd = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    if sd == 0:
        return ["All values are the same."]
    if max(abs(mean), sd) <= UNSCALED:
        return []
    return [
        f"Unscaled: values range from {float(x.min()):g} to {float(x.max()):g}. Models want values around 0 with a"
        " standard deviation around 1: scale them, by a schema with mean and sd."
    ]


def _off(column: Mapping[str, Any], values: np.ndarray) -> float:
    """How many of the schema's standard deviations the median of these values is off."""
    return float(abs(np.nanmedian(values) - column["mean"]) / column["sd"])


def _constant(schema: DataSchema, x: np.ndarray) -> list[str]:
    """Columns of a table of which every encoded value is the same in all rows."""
    same_F = (x == x[:1]).all(axis=0)
    found, at = [], 0
    for column in schema.columns:
        width = (len(column["levels"]) if column["type"] == "category" else 1) + (column["missing"] == "indicator")
        if same_F[at : at + width].all():
            found.append(column["name"])
        at += width
    return found


def _tokens(data: DataSet) -> bool:
    """Whether the inputs are tokens of a language: whole numbers like the labels, the next tokens."""
    x = data.x_train
    if data.classes <= 16 or x.ndim != 2:
        return False
    return bool(x.min() >= 0 and x.max() < data.classes and (x == np.floor(x)).all())


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMED]))
    return f"columns {shown}" + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
