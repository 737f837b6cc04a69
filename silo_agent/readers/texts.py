"""JSONL and Arrow files of texts with their labels. A folder of several files is one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from silo_agent.readers.encoder import TextEncoder, level_of
from silo_agent.readers.source import Arrays, Source, splits
from silo_agent.readers.tables import arrow_columns
from silo_agent.readers.targets import target_of

#: A file of the source → where a row stands, for messages, and the row.
Rows = Callable[[Source, str], Iterator[tuple[str, Mapping[str, object]]]]


def read_jsonl(source: Source) -> Arrays:
    """Every line of every JSONL file: UTF-8, one object a line."""
    return _read(source, _jsonl)


def read_arrow(source: Source) -> Arrays:
    """Every row of a Hugging Face data set on disk."""
    return _read(source, _arrow)


def _read(source: Source, rows_of: Rows) -> Arrays:
    encoder, fields = source.schema.encoder, source.schema.fields
    assert isinstance(encoder, TextEncoder)
    group, field = fields["split"].get("group"), fields["text"]["field"]
    sides = source.sides()
    texts: list[str] = []
    labels: list[Any] = []
    groups: list[str] = []
    test: list[bool] = []
    for file in source.files:
        for where, row in rows_of(source, file):
            for name in (field, *source.schema.label_columns, *([group] if group else [])):
                if name not in row:
                    raise source.refuse(where, f"has no {name!r}", "Write the fields as the schema names them.")
            text = row[field]
            if not isinstance(text, str):
                raise source.refuse(where, f"{field!r} is no text", "Write the text between quotation marks.")
            texts.append(text)
            labels.append(target_of(source, where, row))
            groups += [level_of(row[group])] if group else []
            test.append(sides is not None and sides[file] == "test")
    x, y = encoder.encode(texts), np.array(labels, dtype=np.float64 if source.schema.number else np.int64)
    at = np.array(test, dtype=bool) if sides else splits(y, groups if group else None, fields["split"]["test"])
    return {"x_train": x[~at], "y_train": y[~at], "x_test": x[at], "y_test": y[at]}


def _jsonl(source: Source, file: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in enumerate(_lines(source, file), 1):
        where = f"{file}: line {number}"
        yield where, _row(source, where, line)


def _arrow(source: Source, file: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        columns = arrow_columns(source.path(file))
    except ValueError as bad:
        raise source.refuse(file, str(bad), "Save the data set again, or leave the file out.") from bad
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        yield f"{file}: row {number}", dict(zip(columns, values, strict=True))


def _lines(source: Source, file: str) -> list[str]:
    try:
        return source.path(file).read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as bad:
        raise source.refuse(file, "is not UTF-8", "Save the file as UTF-8.") from bad
    except OSError as failed:
        raise source.refuse(
            file, failed.strerror or str(failed), "The agent's user must be able to read it."
        ) from failed


def _row(source: Source, where: str, line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as bad:
        raise source.refuse(where, "is no JSON", "Write one object a line.") from bad
    if not isinstance(row, dict):
        raise source.refuse(where, "is no JSON object", "Write one object a line.")
    return row
