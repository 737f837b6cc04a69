"""From raw rows to float32, as a schema says: a pure function, the same at every silo and inside a published model.

This file is self-contained: it imports numpy and the standard library only. Together with a schema's canonical text
(``silo_agent.readers.schema.DataSchema.text``) it can be packed with a registered model and used where nothing of ours
is installed: ``encoder(text).encode([{"age": 71, "sex": "f"}])``.

Nothing is learned from rows: every constant (levels, ranges, mean, sd) stands in the schema, which is public.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

#: Texts that stand for a missing value, after blanks are cut off.
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", ".")
#: What a number may be given as.
_NUMBERS = (str, int, float, Decimal, np.integer, np.floating)
#: A whole number as a column of floats spells it.
_WHOLE = re.compile(r"(-?\d+)\.0+")
#: Row numbers that a message names.
_NAMED = 3
#: Unit of a date column → days.
DAYS = {"days": 1.0, "years": 365.25}


class BadValue(ValueError):
    """A value that the schema does not allow. ``column``: its name; ``rows``: where, from 0."""

    def __init__(self, column: str, why: str, rows: Sequence[int] = ()) -> None:
        self.column = column
        self.why = why
        self.rows = tuple(int(row) for row in rows)
        super().__init__(f"column {column!r}: {why}{self._where()}")

    def _where(self) -> str:
        if not self.rows:
            return ""
        named = ", ".join(str(row + 1) for row in self.rows[:_NAMED])
        more = f" and {len(self.rows) - _NAMED} more" if len(self.rows) > _NAMED else ""
        return f" (row {named}{more})"


class TableEncoder:
    """Columns of a table → one float32 vector a row. ``fields``: a schema of kind ``table``, as plain values."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.columns: list[Mapping[str, Any]] = list(fields["columns"])
        self.features = [name for column in self.columns for name in _outputs(column)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded row."""
        return (len(self.features),)

    def encode(self, rows: Iterable[Mapping[str, object]]) -> np.ndarray:
        """float32 (rows, features). A key that a row lacks is a missing value, one that all lack is an absent column.
        Raises BadValue."""
        listed = list(rows)
        names = [column["name"] for column in self.columns]
        there = [name for name in names if not listed or any(name in row for row in listed)]
        return self.encode_columns({name: [row.get(name) for row in listed] for name in there}, len(listed))

    def encode_columns(self, columns: Mapping[str, Sequence[object]], rows: int) -> np.ndarray:
        """The same from whole columns. A column that may be absent, and is, is missing in every row. Raises BadValue
        for another one: under a wrong name it would be taken for missing."""
        for column in self.columns:
            if column["name"] not in columns and column.get("absent") != "allow":
                raise BadValue(column["name"], "there is no such column")
        made = np.zeros((rows, len(self.features)), dtype=np.float32)
        at = 0
        for column in self.columns:
            values = columns.get(column["name"], [None] * rows)
            part = _categories(column, values) if column["type"] == "category" else _numbers(column, values)
            made[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        return made


class ValueEncoder:
    """Arrays, images and volumes: (value − mean) / sd of every element. ``fields``: a schema of kind ``array`` or
    ``image``."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        values = fields["values"]
        self.shape = tuple(int(side) for side in values["shape"])
        self._low, self._high = values["range"]
        self._mean, self._sd = values["mean"], values["sd"]
        self._clip = values["outside"] == "clip"

    def encode(self, arrays: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
        """float32 (rows, *shape). float32 rows that need no scaling come back as they are, mapped from disk or not.

        Raises BadValue for another shape, NaN, or a value outside the range.
        """
        rows = arrays if isinstance(arrays, np.ndarray) else list(arrays)
        if not len(rows):
            return np.zeros((0, *self.shape), dtype=np.float32)
        plain = isinstance(rows, np.ndarray) and rows.dtype == np.float32 and (self._mean, self._sd) == (0.0, 1.0)
        if isinstance(rows, np.ndarray) and plain and rows.shape[1:] == self.shape and self._fits(rows):
            return rows
        made = np.empty((len(rows), *self.shape), dtype=np.float32)
        for number, row in enumerate(rows):
            try:
                made[number] = self.encode_one(row)
            except BadValue as bad:
                raise BadValue(bad.column, bad.why, (number,)) from bad
        return made

    def encode_one(self, array: np.ndarray) -> np.ndarray:
        """float32 of the schema's shape from one row's array. Raises BadValue."""
        if array.shape != self.shape:
            raise BadValue("values", f"shape {array.shape}, the schema says {self.shape}")
        if array.dtype.kind not in "fiub":
            raise BadValue("values", f"{array.dtype} is no type of numbers")
        low, high = float(array.min()), float(array.max())
        if not math.isfinite(low) or not math.isfinite(high):
            raise BadValue("values", "NaN or infinite values")
        if not self._fits(array):
            if not self._clip:
                raise BadValue("values", f"from {low:g} to {high:g}, the schema says {self._low:g} to {self._high:g}")
            array = array.clip(self._low, self._high)
        made: np.ndarray = ((array.astype(np.float64) - self._mean) / self._sd).astype(np.float32)
        return made

    def _fits(self, array: np.ndarray) -> bool:
        """Whether all values lie in the range; NaN does not."""
        return bool(self._low <= array.min() and array.max() <= self._high)


class TextEncoder:
    """Text → its UTF-8 bytes plus one, padded with 0 or cut at ``length``. ``fields``: a schema of kind ``text``."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.length = int(fields["text"]["length"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded row."""
        return (self.length,)

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """float32 (rows, length): whole numbers from 0 to 256."""
        listed = list(texts)
        made = np.zeros((len(listed), self.length), dtype=np.float32)
        for row, text in enumerate(listed):
            tokens = np.frombuffer(text.encode()[: self.length], dtype=np.uint8)
            made[row, : len(tokens)] = tokens.astype(np.float32) + 1
        return made


def encoder(text: str) -> TableEncoder | ValueEncoder | TextEncoder:
    """The encoder of a schema's canonical text."""
    fields = json.loads(text)
    if fields["kind"] == "table":
        return TableEncoder(fields)
    return TextEncoder(fields) if fields["kind"] == "text" else ValueEncoder(fields)


def is_missing(value: object) -> bool:
    """Whether a raw value stands for "not known": None, NaN, or one of the texts of ``MISSING``."""
    if value is None:
        return True
    if isinstance(value, str):
        return value.strip() in MISSING
    return isinstance(value, float) and math.isnan(value)


def numbers(column: Mapping[str, Any], values: Sequence[object]) -> np.ndarray:
    """float64 (rows,) in the column's unit, NaN where missing; ranges are not looked at. Raises BadValue."""
    parse = _date if column["type"] == "date" else _number
    made = np.full(len(values), np.nan)
    bad: list[int] = []
    seen: dict[str, float] = {}  # texts repeat, and a date takes long
    for row, value in enumerate(values):
        if isinstance(value, str) and value in seen:
            made[row] = seen[value]
            continue
        try:
            found = math.nan if is_missing(value) else parse(column, value)
        except ValueError:
            bad.append(row)
            continue
        made[row] = found
        if isinstance(value, str):
            seen[value] = found
    if bad:
        shown = str(values[bad[0]])[:24]
        wanted = f"a date like {' or '.join(column['formats'])}" if column["type"] == "date" else "a number"
        hint = ": write a decimal point, not a comma" if "," in shown and column["type"] == "number" else ""
        raise BadValue(column["name"], f"{shown!r} is not {wanted}{hint}", bad)
    return made


def outside(column: Mapping[str, Any], made: np.ndarray) -> np.ndarray:
    """Which of these numbers lie outside the column's range."""
    low, high = column["range"]
    with np.errstate(invalid="ignore"):
        found: np.ndarray = (made < low) | (made > high)
    return found


def _outputs(column: Mapping[str, Any]) -> list[str]:
    name = column["name"]
    found = [f"{name}={level}" for level in column["levels"]] if column["type"] == "category" else [name]
    return found + ([f"{name} missing"] if column["missing"] == "indicator" else [])


def _numbers(column: Mapping[str, Any], values: Sequence[object]) -> np.ndarray:
    made = numbers(column, values)
    beyond = outside(column, made)
    if beyond.any():
        if column["outside"] == "refuse":
            low, high = column["range"]
            unit = f" {column['unit']}" if column.get("unit") else ""
            why = f"values outside {low:g} to {high:g}{unit}"
            raise BadValue(column["name"], why, np.flatnonzero(beyond).tolist())
        if column["outside"] == "clip":
            made = np.clip(made, *column["range"])
        else:
            made[beyond] = np.nan
    gone = np.isnan(made)
    scaled = (made - column["mean"]) / column["sd"]
    return _filled(column, scaled[:, None], gone)


def _categories(column: Mapping[str, Any], values: Sequence[object]) -> np.ndarray:
    at = {level: number for number, level in enumerate(column["levels"])}
    gone = np.array([is_missing(value) for value in values], dtype=bool)
    made = np.zeros((len(values), len(at)))
    bad: list[int] = []
    for row, value in enumerate(values):
        if gone[row]:
            continue
        index = at.get(level_in(at, value))
        if index is None:
            bad.append(row)
        else:
            made[row, index] = 1
    if bad:
        shown = level_of(values[bad[0]])[:40]
        raise BadValue(column["name"], f"level {shown!r} is not in the schema", bad)
    return _filled(column, made, gone)


def _filled(column: Mapping[str, Any], made: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The missing rule: refuse, a public constant in the column's own unit, or 0 with a column of its own."""
    rule = column["missing"]
    if gone.any():
        if rule == "refuse":
            why = "values are missing, and the schema has no rule for them"
            raise BadValue(column["name"], why, np.flatnonzero(gone).tolist())
        if column["type"] == "category":
            made[gone] = 0.0
            if rule != "indicator":
                made[gone, column["levels"].index(rule)] = 1.0
        else:
            made[gone] = 0.0 if rule == "indicator" else (rule - column["mean"]) / column["sd"]
    return np.concatenate([made, gone[:, None].astype(float)], axis=1) if rule == "indicator" else made


def level_of(value: object) -> str:
    """A raw value as a level's text: ``1``, ``1.0``, ``True`` and their texts keep one spelling each."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def level_in(levels: Collection[str], value: object) -> str:
    """The level that a raw value is, as ``levels`` spells it; where there is none, or more than one, its own text.

    Libraries that write tables spell a level in their own way: pandas writes ``True`` for true, and ``2.0`` for 2 in a
    column where values are missing; a spreadsheet writes ``TRUE``.
    """
    text = level_of(value)
    if text in levels:
        return text
    plain = _plain(text)
    same = [level for level in levels if _plain(level) == plain]
    return same[0] if len(same) == 1 else text


def _plain(text: str) -> str:
    """One spelling of a level for all libraries."""
    if whole := _WHOLE.fullmatch(text):
        return whole[1]
    return text.lower() if text.lower() in ("true", "false") else text


def _number(column: Mapping[str, Any], value: object) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, _NUMBERS):
        raise ValueError(value)
    made = float(value.strip()) if isinstance(value, str) else float(value)
    if not math.isfinite(made) or (isinstance(value, str) and "_" in value):
        raise ValueError(value)
    return made


def _date(column: Mapping[str, Any], value: object) -> float:
    """Days or years since the column's origin."""
    found: date | None = None
    if isinstance(value, datetime):
        found = value.date()
    elif isinstance(value, date):
        found = value
    elif isinstance(value, str):
        for form in column["formats"]:
            try:
                found = datetime.strptime(value.strip(), form).date()
                break
            except ValueError:
                continue
    if found is None:
        raise ValueError(value)
    return (found - date.fromisoformat(column["origin"])).days / DAYS[column["unit"]]
