"""The data sets of the catalogue for the desk: how their rows look in public, and the mock. Never a value of a row.

Errors of readers quote values. So of a data set that cannot be read the desk says which check failed, and where to read
the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from crypto.errors import FederationError
from jobs.owner.review import OwnerView
from silo_agent.data import LABELS, MASK, NUMBER
from silo_agent.pysyft.catalogue import CatalogueEntry
from silo_agent.readers.ranges import without_values
from silo_agent.readers.schema import DataSchema

#: Invented rows, and columns of them, that are shown.
MOST_ROWS, MOST_COLUMNS = 3, 12


@dataclass(frozen=True, slots=True)
class Column:
    """``real``: what the schema says of it. ``mock``: what the invented rows have."""

    name: str
    real: str
    mock: str


@dataclass(frozen=True, slots=True)
class DataSetPage:
    """``columns``: of the schema, or of the arrays. ``rows``: some invented ones, as text, under ``heads``."""

    entry: CatalogueEntry
    findings: tuple[str, ...]
    columns: tuple[Column, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    mock_rows: int


def page_of(view: OwnerView, name: str) -> DataSetPage:
    """Raises DataRefused for a data set whose registration does not check."""
    entry = view.catalogue.entry(name)
    mock = view.catalogue.mock(name)
    x, y = mock["x_train"], mock["y_train"]
    schema = entry.read_by
    columns = _columns(schema, x) if schema is not None else _arrays(entry, mock)
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    if x.ndim == 2:
        shown = range(min(MOST_COLUMNS, x.shape[1]))
        names = _features(schema, x.shape[1])
        heads = (*(names[n] for n in shown), "label")
        kind = entry.schema.target
        rows = tuple(
            (*(f"{x[r, n]:.4g}" for n in shown), _label(schema, y[r], kind)) for r in range(min(MOST_ROWS, len(x)))
        )
    findings = tuple(without_values(one) for one in entry.findings)
    return DataSetPage(entry, findings, tuple(columns), heads, rows, len(x) + len(mock["x_test"]))


def trouble(view: OwnerView, name: str) -> str:
    """Read a data set and compare it with its registration: "" or why jobs cannot use it."""
    try:
        entry = view.catalogue.entry(name)
        if entry.reference is not None:
            entry.reference.check(name, thorough=True)  # its errors name files, no values
    except FederationError as refused:
        return str(refused)
    try:
        view.catalogue.resolve(name, thorough=False)
    except FederationError as refused:
        return f"Its rows cannot be used [{refused.code}]. What is wrong is shown by `fed data list` at a terminal."
    return ""


def _columns(schema: DataSchema, x: np.ndarray) -> list[Column]:
    """Of a table each column, with the encoded range of its mock; of other rows one line."""
    if not schema.columns:
        values: Mapping[str, Any] = schema.fields.get("values", {})
        low, high = values.get("range", (None, None))
        real = f"{' × '.join(map(str, schema.shape))}" + (f", from {low:g} to {high:g}" if low is not None else "")
        return [Column(schema.kind, real, f"{' × '.join(map(str, x.shape[1:]))}")]
    found, at = [], 0
    for column in schema.columns:
        width = (len(column["levels"]) if column["type"] == "category" else 1) + (column["missing"] == "indicator")
        part = x[:, at : at + width]
        at += width
        found.append(Column(column["name"], said_of(column), _mock_of(column, part)))
    return [*found, Column(", ".join(schema.label_columns), _target(schema), "as the schema says")]


def _target(schema: DataSchema) -> str:
    if (number := schema.number) is not None:
        low, high = number["range"]
        return f"to predict: a number from {low:g} to {high:g}"
    return f"to predict: {', '.join(schema.classes)}"


_MISSING: Final = {"refuse": "none may be missing", "indicator": "missing values have a column of their own"}


def said_of(column: Mapping[str, Any]) -> str:
    """What a schema says of a column, in words."""
    missing = _MISSING.get(str(column["missing"]), f"a missing value counts as {column['missing']}")
    if column["type"] == "category":
        return f"one of {', '.join(column['levels'])}; {missing}"
    low, high = column["range"]
    unit = f" {column['unit']}" if column.get("unit") else ""
    beyond = {"refuse": "others are refused", "clip": "others are cut off", "missing": "others count as missing"}
    kind = f"date in {' or '.join(column['formats'])}, as" if column["type"] == "date" else "number"
    return f"{kind} from {low:g} to {high:g}{unit}, {beyond[column['outside']]}; {missing}"


def _mock_of(column: Mapping[str, Any], part: np.ndarray) -> str:
    if column["type"] == "category":
        used = [level for n, level in enumerate(column["levels"]) if part[:, n].any()]
        return ", ".join(used) or "none of the levels"
    values = part[:, 0].astype(float) * column["sd"] + column["mean"]
    return f"from {values.min():.4g} to {values.max():.4g}" if len(values) else "no rows"


def _arrays(entry: CatalogueEntry, mock: Mapping[str, np.ndarray]) -> list[Column]:
    return [
        Column(name, said, f"{mock[name].dtype} {' × '.join(map(str, mock[name].shape))}")
        for name, said in entry.schema.arrays.items()
    ]


def _features(schema: DataSchema | None, count: int) -> list[str]:
    names = list(getattr(schema.encoder, "features", ())) if schema is not None else []
    return names if len(names) == count else [f"x{n}" for n in range(count)]


def _label(schema: DataSchema | None, label: Any, target: str) -> str:
    if target == MASK:
        return "a mask"
    if target == LABELS:
        return " ".join(map(str, label))
    if target == NUMBER:
        return f"{float(label):.4g}"
    return schema.classes[int(label)] if schema is not None and int(label) < len(schema.classes) else str(int(label))
