"""What ``jobs.api`` is given: arrays and frames as files of silos, and raw rows as a model's inputs.

Everything that cannot be a silo's data is refused by a named error before numpy or pandas raises one of theirs.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np

from crypto.charter import check_new_id
from crypto.errors import DataRefused, SpecError
from silo_agent.readers.encoder import BadValue, TableEncoder, TextEncoder, level_of
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.source import splits

#: Share of rows that are held back for tests where (x, y) are given in one piece, as in a schema.
TEST_SHARE: Final = 0.2

#: What a silo may be given: a table, (x, y), or the arrays x_train, y_train, x_test and y_test.
SiloData = Any

_FOUR: Final = frozenset({"x_train", "y_train", "x_test", "y_test"})
_COUNTS: Final = ("classes", "labels")


def folder_of(data: object) -> Path:
    """The folder that was given in place of a mapping. Raises SpecError."""
    want = "a mapping from silos to their data, or a folder with a sub-folder or file for each silo"
    if not isinstance(data, str | PathLike):
        raise SpecError("data", got=type(data).__name__, want=want)
    if not (found := Path(data).resolve()).is_dir():
        raise SpecError("data", got=str(data), want=want)
    return found


def write(folder: Path, data: Mapping[str, SiloData], schema: DataSchema | None) -> None:
    """A file for each silo, as ``jobs.demo.own_data.read`` takes them: CSV of frames, npz of arrays."""
    for silo in data:
        if not isinstance(silo, str):
            raise SpecError("data", got=f"a silo named {silo!r}", want="names of silos, which are texts")
        check_new_id(silo, "data")
    frames = {silo: found for silo, found in data.items() if is_frame(found)}
    dates: Mapping[str, str] = {}
    if schema is not None and schema.kind == "table":
        dates = {column["name"]: column["formats"][0] for column in schema.columns if column["type"] == "date"}
    elif frames:
        raise SpecError(
            "schema",
            got="none" if schema is None else schema.kind,
            want="a schema of kind table, since frames are given",
            remedy="See docs/data.md; `jobs.api.draft_schema` drafts one.",
        )
    for silo, frame in frames.items():
        columns = columns_of(f"data, silo {silo}", frame)
        with (folder / f"{silo}.csv").open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file)
            out.writerow(columns)
            texts = ([_text(value, dates.get(name)) for value in values] for name, values in columns.items())
            out.writerows(zip(*texts, strict=True))
    arrays = {silo: _arrays(silo, found) for silo, found in data.items() if silo not in frames}
    counts = {silo: {} if schema is not None else _count(silo, found) for silo, found in arrays.items()}
    _check_alike(counts)
    together = {
        name: np.array(max(int(found[name]) for found in counts.values() if name in found))
        for name in _COUNTS
        if any(name in found for found in counts.values())
    }
    for silo, found in arrays.items():
        kept = {name: array for name, array in found.items() if name not in _COUNTS}
        kept |= {name: together[name] for name in counts[silo]}
        if schema is None and "x" in kept:
            x, y = kept.pop("x"), kept.pop("y")
            test = splits(y, None, TEST_SHARE)
            kept |= {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}
        np.savez(folder / f"{silo}.npz", allow_pickle=False, **kept)


def _arrays(silo: str, found: SiloData) -> dict[str, np.ndarray]:
    """x and y, or x_train, y_train, x_test and y_test, of as many rows; maybe classes or labels. Raises SpecError."""
    where = f"data, silo {silo}"
    if isinstance(found, Mapping):
        given = dict(found)
    elif isinstance(found, Sequence) and not isinstance(found, str | bytes) and len(found) == 2:
        given = {"x": found[0], "y": found[1]}
    else:
        given = {}
    named = given.keys() - set(_COUNTS)
    if named not in ({"x", "y"}, _FOUR):
        raise SpecError(
            where,
            got=sorted(map(str, given)) or type(found).__name__,
            want="a frame, (x, y), or a mapping with x_train, y_train, x_test and y_test",
        )
    made = {name: numbers(f"{where}, {name}", array) for name, array in given.items()}
    for name in named:
        if made[name].ndim < (2 if name[0] == "x" else 1):
            want = "numbers, (rows, …)" if name[0] == "x" else "one label, mask or number a row"
            raise SpecError(f"{where}, {name}", got=f"an array of shape {made[name].shape}", want=want)
        y = made[f"y{name[1:]}"]
        if name[0] == "x" and y.ndim and len(made[name]) != len(y):
            raise SpecError(where, got=f"{len(made[name])} rows and {len(y)} labels", want="one a row")
    for name in _COUNTS:
        if name in made and (made[name].shape != () or made[name].dtype.kind not in "iu"):
            raise SpecError(
                f"{where}, {name}", got=f"{made[name].dtype} of shape {made[name].shape}", want="an integer"
            )
    return {name: array.astype(np.int64) if array.dtype.kind == "b" else array for name, array in made.items()}


def _check_alike(counts: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Raise SpecError that names the first silo with another kind of target than the one before."""
    said = {"classes": "integer labels of a class", "labels": "several labels a row", "": "numbers to predict"}
    kinds = {silo: "".join(count) for silo, count in counts.items()}
    for (before, kind), (silo, other) in pairwise(kinds.items()):
        if kind != other:
            want = f"{said[kind]}, as {before} has"
            raise SpecError(f"data, silo {silo}", got=said[other], want=want)


def _count(silo: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``classes`` or ``labels`` as given, or as the targets tell: one more than the largest label, columns of several
    labels; nothing of numbers. Raises SpecError."""
    if given := {name: found[name] for name in _COUNTS if name in found}:
        return given
    targets = {name: y for name, y in found.items() if name[0] == "y"}
    kinds = {y.dtype.kind for y in targets.values()}
    if kinds == {"f"}:
        return {}
    if kinds - {"i", "u"} or any(not y.size for y in targets.values()):
        got = "no rows" if any(not y.size for y in targets.values()) else "integers and numbers of floating point"
        raise SpecError(f"data, silo {silo}", got=got, want="integer labels from 0 on, or floats in every split")
    several = {
        y.shape[1] for name, y in targets.items() if y.ndim == 2 and y.shape[1:] != found[f"x{name[1:]}"].shape[2:]
    }
    if several:
        return {"labels": np.array(max(several))}
    return {"classes": np.array(max(2, 1 + max(int(y.max()) for y in targets.values())))}


def numbers(where: str, found: object) -> np.ndarray:
    """An array of real numbers. Raises SpecError for objects, texts, complex numbers, and rows of different lengths."""
    try:
        made = np.asarray(found)
    except (ValueError, TypeError) as bad:
        raise SpecError(
            where, got="rows of different shapes", want="an array of numbers, all rows of one shape"
        ) from bad
    if made.dtype.kind not in "fiub":
        raise SpecError(
            where,
            got=f"an array of {made.dtype}",
            want="numbers, all rows of one shape",
            remedy="Texts, dates and missing values need a frame and a schema: see docs/data.md.",
        )
    return made


def encoded(schema: DataSchema | None, rows: Any) -> np.ndarray:
    """Raw rows as inputs. Raises DataRefused for what the schema, or a model without one, cannot read."""
    try:
        if schema is None:
            return numbers("rows", rows)
        made = schema.encoder
        if isinstance(made, TableEncoder):
            return _encoded_table(made, rows)
        if isinstance(made, TextEncoder):
            texts = [rows] if isinstance(rows, str) else list(rows)
            if any(not isinstance(text, str) for text in texts):
                raise DataRefused("These rows are no texts.", remedy="Give a list of texts.")
            return made.encode(texts)
        return made.encode(_at_least_one_axis(numbers("rows", rows)))
    except BadValue as bad:
        raise DataRefused(f"These rows cannot be read: {bad}.", remedy="Give them as the schema says.") from bad
    except (SpecError, TypeError) as bad:
        why = bad.detail if isinstance(bad, SpecError) else f"{type(rows).__name__} holds no rows"
        raise DataRefused(f"These rows cannot be read: {why}", remedy="Give them as the schema says.") from bad


def _encoded_table(made: TableEncoder, rows: Any) -> np.ndarray:
    if is_frame(rows):
        columns = columns_of("rows", rows)
        return made.encode_columns(columns, len(rows))
    if isinstance(rows, Mapping):
        one = {str(name): [value] for name, value in rows.items() if _is_value(value)}
        columns = {str(name): list(values) for name, values in rows.items() if not _is_value(values)} or one
        if one and columns is not one:
            raise DataRefused(
                f"Column {next(iter(one))!r} is one value, others have several.", remedy="Give as many values of each."
            )
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataRefused(f"Columns have different lengths: {lengths}.", remedy="Give as many values of each.")
        return made.encode_columns(columns, max(lengths.values(), default=0))
    listed = list(rows)
    if any(not isinstance(row, Mapping) for row in listed):
        raise DataRefused(
            "These rows have no names of columns.", remedy="Give a frame, or a dict of each row, or of the columns."
        )
    return made.encode(listed)


def _is_value(found: Any) -> bool:
    """Whether this is one value and no column of them."""
    return isinstance(found, str | bytes) or not hasattr(found, "__iter__") or np.ndim(found) == 0


def _at_least_one_axis(array: np.ndarray) -> np.ndarray:
    if not array.ndim:
        raise SpecError("rows", got="one number", want="an array (rows, …)")
    return array


def is_frame(found: object) -> bool:
    return hasattr(found, "columns") and hasattr(found, "notna")


def columns_of(where: str, frame: Any) -> dict[str, list[object]]:
    """Column → values, None where pandas has one of its missing values. Raises SpecError for what is no frame, and for
    two columns of one name."""
    if not is_frame(frame):
        raise SpecError(where, got=type(frame).__name__, want="a pandas frame")
    twice = [name for name, count in Counter(map(str, frame.columns)).items() if count > 1]
    if twice:
        raise SpecError(f"{where}, columns", got=f"{twice[0]!r} twice", want="a name for each column")
    values = frame.astype(object).where(frame.notna(), None)
    return {str(name): [*values[name]] for name in frame.columns}


def _text(value: object, form: str | None) -> str:
    """A value as a reader of CSV takes it. ``form``: of the column's dates."""
    if value is None:
        return ""
    return value.strftime(form) if form and isinstance(value, date) else level_of(value)
