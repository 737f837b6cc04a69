"""Files with labels: by the folder that a file lies in, or by ``labels.csv`` at the root of the data set.

By folder: ``[train|test/]CLASS/…/file``, CLASS one of the job's class names; a site may lack some. In ``labels.csv``
each row names a ``file`` (a path below the root) and its ``label``; ``group`` keeps a patient's files on one side,
``split`` says train or test. With it folders mean nothing, and files that it does not name are an error: a forgotten
row is no choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from silo_agent.readers.encoder import BadValue, ValueEncoder, level_of
from silo_agent.readers.source import LABELS, PARTS, Arrays, Source, check_fits_memory, label_of, splits
from silo_agent.readers.tables import csv_columns


@dataclass(frozen=True, slots=True)
class Labelled:
    """One file and its label. ``side``: train, test, or "" where the schema's split decides."""

    file: str
    label: int
    group: str
    side: str


def labelled(source: Source) -> list[Labelled]:
    """Every file of the source with its label, sorted by file. Raises DataRefused that names a file."""
    files = [file for file in source.files if file != LABELS]
    return _by_table(source, files) if LABELS in source.files else _by_folder(source, files)


def read_each(source: Source, decode: Callable[[Source, str], np.ndarray]) -> Arrays:
    """Encode every labelled file and split the rows. ``decode``: a file's raw array, in the schema's shape."""
    rows, encoder = labelled(source), source.schema.encoder
    assert isinstance(encoder, ValueEncoder)
    check_fits_memory(source, len(rows))
    x = np.empty((len(rows), *encoder.shape), dtype=np.float32)
    for number, row in enumerate(rows):
        raw = decode(source, row.file)
        try:
            x[number] = encoder.encode_one(raw)
        except BadValue as bad:
            raise source.refuse(
                row.file, bad.why, "Correct the file, leave it out, or ask for a schema with another range or fit."
            ) from bad
    y = np.array([row.label for row in rows], dtype=np.int64)
    if rows and rows[0].side:
        test = np.array([row.side == "test" for row in rows], dtype=bool)
    else:
        groups = [row.group for row in rows] if any(row.group for row in rows) else None
        test = splits(y, groups, source.schema.fields["split"]["test"])
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def _by_folder(source: Source, files: Sequence[str]) -> list[Labelled]:
    split = {file.split("/")[0] for file in files} == set(PARTS) and not set(PARTS) & set(source.schema.classes)
    found = []
    for file in files:
        folders = file.split("/")[:-1]
        side = folders.pop(0) if split and folders else ""
        if not folders:
            raise source.refuse(
                file,
                "lies in no folder of a class",
                f"Put it into a folder with the name of its class, or write {LABELS} with the columns file and label.",
            )
        found.append(Labelled(file, label_of(source, file, folders[0]), "", side))
    return found


def _by_table(source: Source, files: Sequence[str]) -> list[Labelled]:
    remedy = f"Name every file once in {LABELS}: a row with its path below the root and its label."
    try:
        table = csv_columns(source.path(LABELS), ("file", "label", "group", "split"))
    except (OSError, ValueError) as bad:
        raise source.refuse(LABELS, str(bad), remedy) from bad
    if not {"file", "label"} <= table.keys():
        raise source.refuse(LABELS, "has no columns file and label", remedy)
    rows = len(table["file"])
    sides = [str(side).strip() for side in table.get("split", [""] * rows)]
    groups = [level_of(group) for group in table.get("group", [""] * rows)]
    present, found = set(files), {}
    for n, (name, label) in enumerate(zip(table["file"], table["label"], strict=True)):
        file, where = str(name).strip(), f"{LABELS}: row {n + 1}"
        if file not in present:
            raise source.refuse(where, f"there is no file {file!r}", remedy)
        if file in found:
            raise source.refuse(where, f"{file!r} is named twice", remedy)
        if "split" in table and sides[n] not in PARTS:
            raise source.refuse(where, f"split is {sides[n]!r}", "Write train or test in every row, or no such column.")
        found[file] = Labelled(file, label_of(source, where, level_of(label)), groups[n], sides[n])
    if unnamed := sorted(present - found.keys()):
        raise source.refuse(LABELS, f"does not name {unnamed[0]!r}", remedy)
    return [found[file] for file in sorted(found)]
