"""Mock rows from a schema: invented from what is public, so they tell nothing of any silo's rows.

A row may equal a real one by chance, where columns have few values; nobody could tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from math import ceil, floor, prod
from typing import Any

import numpy as np

from silo_agent.data import MIN_TRAIN_ROWS
from silo_agent.readers.encoder import DAYS, TableEncoder, ValueEncoder
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.source import PARTS

ROWS: Mapping[str, int] = {"train": 64, "test": 32}
#: Most values of one part: of volumes there are fewer rows.
_ELEMENTS = 1 << 22
#: Seed of the generator: a schema has one mock, the same at every silo.
SEED = 20260101
#: Share of missing values in a column that may lack them.
_GONE = 0.1


def made_up(schema: DataSchema) -> dict[str, np.ndarray]:
    """The arrays of a data set. Labels are given in turn, at least one row a class; numbers are drawn like columns."""
    rng = np.random.default_rng(SEED)
    least = {"train": MIN_TRAIN_ROWS, "test": 1}
    number, several = schema.number, len(schema.targets)
    classes = 2 if several else len(schema.classes)
    made: dict[str, np.ndarray] = {}
    if number is None:
        made["labels" if several else "classes"] = np.array(several or classes)
    for part in PARTS:
        rows = max(least[part], min(ROWS[part], _ELEMENTS // prod(schema.shape)))
        made[f"x_{part}"] = _inputs(schema, rows, rng)
        if number is not None:
            made[f"y_{part}"] = rng.normal(number["mean"], number["sd"], size=rows).clip(*number["range"])
            continue
        sides = schema.shape[1:] if schema.masks else ()
        of_row = (several,) if several else sides
        in_turn = np.arange(rows * prod(of_row), dtype=np.int64).reshape(rows, *of_row)
        made[f"y_{part}"] = (in_turn + in_turn // several if several else in_turn) % classes
    return made


def _inputs(schema: DataSchema, rows: int, rng: np.random.Generator) -> np.ndarray:
    encoder = schema.encoder
    if isinstance(encoder, TableEncoder):
        return encoder.encode_columns({column["name"]: _column(column, rows, rng) for column in schema.columns}, rows)
    if isinstance(encoder, ValueEncoder):
        low, high = schema.fields["values"]["range"]
        return encoder.encode(rng.uniform(low, high, size=(rows, *encoder.shape)))
    return rng.integers(1, 257, size=(rows, *encoder.shape)).astype(np.float32)


def _column(column: Mapping[str, Any], rows: int, rng: np.random.Generator) -> list[object]:
    """Raw values: levels with equal chances, numbers around the schema's mean and inside its range."""
    if column["type"] == "category":
        values: list[object] = list(rng.choice(column["levels"], size=rows))
    else:
        drawn = rng.normal(column["mean"], column["sd"], size=rows).clip(*column["range"])
        values = [_day(column, value) for value in drawn] if column["type"] == "date" else list(drawn)
    if column["missing"] != "refuse":
        for row in np.flatnonzero(rng.random(rows) < _GONE):
            values[row] = None
    return values


def _day(column: Mapping[str, Any], value: float) -> date:
    """The day nearest to so many days or years after the origin that lies in the range."""
    low, high = (bound * DAYS[column["unit"]] for bound in column["range"])
    days = int(min(max(round(value * DAYS[column["unit"]]), ceil(low)), floor(high)))
    return date.fromisoformat(column["origin"]) + timedelta(days=days)
