"""A small table of invented patients and its schema, for the tests of readers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SCHEMA = """
kind = "table"
classes = ["no", "yes"]
target = "died"
[split]
test = 0.25

[[columns]]
name = "age"
type = "number"
unit = "years"
range = [18, 110]
mean = 65
sd = 15

[[columns]]
name = "systolic"
type = "number"
unit = "mmHg"
range = [60, 260]
mean = 130
sd = 20
missing = "indicator"

[[columns]]
name = "diastolic"
type = "number"
unit = "mmHg"
range = [30, 160]
mean = 75
sd = 12
missing = 75

[[columns]]
name = "glucose"
type = "number"
unit = "mmol/l"
range = [1, 40]
mean = 7
sd = 3

[[columns]]
name = "sex"
type = "category"
levels = ["f", "m"]
missing = "indicator"

[[columns]]
name = "admitted"
type = "date"
origin = 2020-01-01
unit = "years"
formats = ["%Y-%m-%d", "%d.%m.%Y"]
range = [0, 10]
"""

Row = dict[str, object]


def patients(rows: int = 48, seed: int = 1) -> list[Row]:
    """Invented rows that fit the schema, with some missing values and a column that the schema does not name."""
    rng = np.random.default_rng(seed)
    return [
        {
            "name": f"Patient {n}",
            "age": int(np.clip(rng.normal(65, 10), 20, 100)),
            "systolic": "NA" if n % 11 == 3 else round(np.clip(rng.normal(130, 12), 80, 200)),
            "diastolic": "" if n % 7 == 2 else round(np.clip(rng.normal(75, 8), 40, 120)),
            "glucose": round(float(np.clip(rng.normal(7, 1.5), 3, 20)), 1),
            "sex": "" if n % 13 == 5 else "fm"[n % 2],
            "admitted": f"202{n % 5}-0{1 + n % 9}-1{n % 10}" if n % 2 else f"1{n % 10}.0{1 + n % 9}.202{n % 5}",
            "died": "yes" if n % 4 == 0 else "no",
        }
        for n in range(rows)
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """Rows as a CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path
