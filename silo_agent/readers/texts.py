"""JSONL: one object a line, with a text and its label; UTF-8. A folder of several files is one table."""

from __future__ import annotations

import json

import numpy as np

from silo_agent.readers.encoder import TextEncoder, level_of
from silo_agent.readers.source import Arrays, Source, label_of, splits


def read(source: Source) -> Arrays:
    """Every line of every file."""
    encoder, fields = source.schema.encoder, source.schema.fields
    assert isinstance(encoder, TextEncoder)
    target, group, field = fields["target"], fields["split"].get("group"), fields["text"]["field"]
    sides = source.sides()
    texts: list[str] = []
    labels: list[int] = []
    groups: list[str] = []
    test: list[bool] = []
    for file in source.files:
        for number, line in enumerate(_lines(source, file), 1):
            where = f"{file}: line {number}"
            row = _row(source, where, line)
            for name in (field, target, *([group] if group else [])):
                if name not in row:
                    raise source.refuse(where, f"has no {name!r}", "Write the fields as the schema names them.")
            text = row[field]
            if not isinstance(text, str):
                raise source.refuse(where, f"{field!r} is no text", "Write the text between quotation marks.")
            texts.append(text)
            labels.append(label_of(source, where, level_of(row[target])))
            groups += [level_of(row[group])] if group else []
            test.append(sides is not None and sides[file] == "test")
    x, y = encoder.encode(texts), np.array(labels, dtype=np.int64)
    at = np.array(test, dtype=bool) if sides else splits(y, groups if group else None, fields["split"]["test"])
    return {"x_train": x[~at], "y_train": y[~at], "x_test": x[at], "y_test": y[at]}


def _lines(source: Source, file: str) -> list[str]:
    try:
        return source.path(file).read_text(encoding="utf-8-sig").splitlines()
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
