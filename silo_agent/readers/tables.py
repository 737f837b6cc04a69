"""CSV, Parquet and Arrow by a schema: columns by name, in the schema's order, other columns never read.

A folder of several files is one table, in the order of their names.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from crypto.errors import DataRefused
from silo_agent.readers.encoder import BadValue, TableEncoder, level_of
from silo_agent.readers.extras import needed
from silo_agent.readers.ranges import explain_table
from silo_agent.readers.source import Arrays, Source, splits
from silo_agent.readers.targets import targets_of

Columns = dict[str, list[object]]
DELIMITERS = ",;\t|"


def read_csv(source: Source) -> Arrays:
    """Every CSV file of the source."""
    return _read(source, csv_columns)


def read_parquet(source: Source) -> Arrays:
    """Every Parquet file of the source."""
    return _read(source, parquet_columns)


def read_arrow(source: Source) -> Arrays:
    """Every Arrow file of a Hugging Face data set on disk."""
    return _read(source, arrow_columns)


def csv_columns(path: Path, wanted: Sequence[str] | None = None) -> Columns:
    """Column → texts. UTF-8, with or without a byte order mark; one header line; , ; tab or | between values.

    ``wanted``: the columns to keep; default: all. Raises ValueError that says what is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=lambda char: head.count(char)) if head else ","
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(rows, [])]
            if not header or "" in header or len(set(header)) != len(header):
                raise ValueError("the first line must name every column, each once")
            kept = [n for n, name in enumerate(header) if wanted is None or name in wanted]
            made: Columns = {header[n]: [] for n in kept}
            for row in rows:
                if len(row) != len(header):
                    if not row:
                        continue
                    raise ValueError(f"line {rows.line_num} has {len(row)} values, the first line {len(header)}")
                for n in kept:
                    made[header[n]].append(row[n])
            return made
    except UnicodeDecodeError as bad:
        raise ValueError("is not UTF-8: save it as CSV UTF-8") from bad
    except csv.Error as bad:
        raise ValueError(f"is no CSV: {bad}") from bad


def parquet_columns(path: Path, wanted: Sequence[str] | None = None) -> Columns:
    """Column → values. Raises ValueError that says what is wrong."""
    with needed("Parquet", "tabular"):
        import pyarrow
        from pyarrow import parquet
    try:
        with parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
            table = file.read(columns=names)
        return {name: table.column(name).to_pylist() for name in names}
    except (pyarrow.ArrowException, OSError, ValueError) as bad:
        raise ValueError("is no Parquet file that can be read") from bad


def arrow_columns(path: Path, wanted: Sequence[str] | None = None) -> Columns:
    """Column → values of an Arrow stream; class labels by their names. Raises ValueError that says what is wrong."""
    with needed("Arrow", "tabular"):
        import pyarrow
    try:
        with pyarrow.memory_map(str(path)) as mapped, pyarrow.ipc.open_stream(mapped) as stream:
            table = stream.read_all()
            table.validate(full=True)  # offsets of a damaged file would point anywhere
            names = [name for name in table.column_names if wanted is None or name in wanted]
            columns = {name: table.column(name).to_pylist() for name in names}
        features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})["features"]
    except KeyError:
        return columns
    except (pyarrow.ArrowException, OSError, ValueError, AttributeError) as bad:
        raise ValueError("is no Arrow stream that can be read") from bad
    for name, feature in features.items():
        if name in columns and isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel":
            labels = list(feature["names"])
            columns[name] = [labels[n] if isinstance(n, int) and 0 <= n < len(labels) else n for n in columns[name]]
    return columns


def columns_of(path: Path) -> Columns:
    """Every column of one table, CSV or Parquet by its ending. Raises DataRefused that names the file."""
    read = parquet_columns if path.suffix.lower() == ".parquet" else csv_columns
    try:
        return read(path)
    except (OSError, ValueError) as bad:
        why = bad.strerror or str(bad) if isinstance(bad, OSError) else str(bad)
        raise DataRefused(f"{path.name}: {why}.", remedy="Give a CSV or Parquet file with a header.") from bad


def _read(source: Source, columns_in: Callable[[Path, Sequence[str]], Columns]) -> Arrays:
    schema = source.schema
    made = schema.encoder
    assert isinstance(made, TableEncoder)
    group = schema.fields["split"].get("group")
    wanted = [*schema.label_columns, *([group] if group else []), *(column["name"] for column in schema.columns)]
    sides = source.sides()
    tables: dict[str, Columns] = {}
    for file in source.files:
        try:
            tables[file] = columns_in(source.path(file), wanted)
        except (OSError, ValueError) as bad:
            why = bad.strerror or str(bad) if isinstance(bad, OSError) else str(bad)
            raise source.refuse(file, why, "Correct the file, or leave it out.") from bad
        _check_columns(source, file, tables[file], wanted)
    xs, ys, groups, tests = [], [], [], []
    for file, table in tables.items():
        rows = len(table[schema.label_columns[0]])
        explain_table(source, file, table)
        try:
            xs.append(made.encode_columns(table, rows))
        except BadValue as bad:
            raise source.refuse(file, str(bad), _remedy(bad)) from bad
        ys.append(targets_of(source, file, table))
        groups += [level_of(value) for value in table[group]] if group else []
        tests.append(np.full(rows, sides is not None and sides[file] == "test"))
    x, y = np.concatenate(xs), np.concatenate(ys)
    test = np.concatenate(tests) if sides else splits(y, groups if group else None, schema.fields["split"]["test"])
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def _check_columns(source: Source, file: str, table: Mapping[str, object], wanted: Sequence[str]) -> None:
    may_lack = {column["name"] for column in source.schema.columns if column["absent"] == "allow"}
    lacking = [name for name in wanted if name not in table and name not in may_lack]
    if lacking:
        raise source.refuse(
            file,
            f"has no column {', '.join(map(repr, lacking))}",
            'Name the columns as the schema does. A column that some silos lack needs absent = "allow" there.',
        )


def _remedy(bad: BadValue) -> str:
    if "level" in bad.why:
        return "Write levels as the schema does, or ask for a schema with this level."
    if "missing" in bad.why:
        return "Fill these values in, leave the rows out, or ask for a schema with a missing rule for this column."
    if "values outside" in bad.why:
        return (
            "Compare the column's unit with the schema's. Correct the values, or ask for a schema with another range."
        )
    return "Correct the values. Row 1 is the first below the header."
