"""Files with labels: by the folder that a file lies in, or by ``labels.csv`` at the root of the data set.

By folder: ``[train|test/]CLASS/…/file``, CLASS one of the job's class names; a site may lack some. In ``labels.csv``
each row names a ``file`` (a path below the root) and its ``label``; ``group`` keeps a patient's files on one side,
``split`` says train or test. With it folders mean nothing, and files that it does not name are an error: a forgotten
row is no choice. Where the schema says masks, the column ``mask`` names the file of each image's mask instead; where it
has a number to predict or several labels, their columns stand in place of ``label``, and folders say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from silo_agent.data import CLASS, MASK, TARGETS
from silo_agent.data import LABELS as SEVERAL
from silo_agent.readers.encoder import BadValue, ValueEncoder, level_in, level_of
from silo_agent.readers.fitting import fitted, fitted_mask
from silo_agent.readers.source import LABELS, PARTS, Arrays, Source, check_fits_memory, label_of, splits
from silo_agent.readers.tables import csv_columns
from silo_agent.readers.targets import targets_of

#: A file of the source → its raw array.
Decode = Callable[[Source, str], np.ndarray]
#: What a fault of an image's values asks for.
_VALUES = "Correct the file, leave it out, or ask for a schema with another range or fit."


@dataclass(frozen=True, slots=True)
class Labelled:
    """One file and its label. ``side``: train, test, or "" where the schema's split decides. ``mask``: the file of its
    mask, where the schema says masks; then ``label`` is 0."""

    file: str
    label: Any
    """As ``y`` has it."""
    group: str
    side: str
    mask: str = ""


def labelled(source: Source) -> list[Labelled]:
    """Every file of the source with its label, sorted by file. Raises DataRefused that names a file."""
    files = [file for file in source.files if file != LABELS]
    if LABELS in source.files:
        return _by_table(source, files)
    if source.schema.target != CLASS:
        columns = ", ".join(("mask",) if source.schema.masks else source.schema.label_columns)
        raise source.refuse(
            LABELS,
            f"is not there, and the schema says {TARGETS[source.schema.target]}",
            f"Write it with the columns file and {columns}: one row an image.",
        )
    return _by_folder(source, files)


def read_each(source: Source, decode: Decode, decode_mask: Decode | None = None) -> Arrays:
    """Encode every labelled file and split the rows. ``decode``: a file's raw (channels, …); ``decode_mask``: its raw
    class numbers, without channels; None: this reader knows no masks."""
    rows, encoder = labelled(source), source.schema.encoder
    assert isinstance(encoder, ValueEncoder)
    check_fits_memory(source, len(rows))
    x = np.empty((len(rows), *encoder.shape), dtype=np.float32)
    schema = source.schema
    sides = {MASK: encoder.shape[1:], SEVERAL: (len(schema.targets),)}.get(schema.target, ())
    y = np.zeros((len(rows), *sides), dtype=np.int64 if schema.number is None else np.float64)
    for number, row in enumerate(rows):
        raw = decode(source, row.file)
        try:
            x[number] = encoder.encode_one(fitted(source, row.file, raw))
        except BadValue as bad:
            raise source.refuse(row.file, bad.why, _VALUES) from bad
        y[number] = _mask(source, row, raw.shape[1:], decode_mask) if row.mask else row.label
    if rows and rows[0].side:
        test = np.array([row.side == "test" for row in rows], dtype=bool)
    else:
        groups = [row.group for row in rows] if any(row.group for row in rows) else None
        test = splits(y, groups, source.schema.fields["split"]["test"])
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def _mask(source: Source, row: Labelled, shape: tuple[int, ...], decode: Decode | None) -> np.ndarray:
    """The mask of an image of this shape, checked, in the schema's shape."""
    if decode is None:
        raise source.refuse(row.mask, "this reader knows no masks", "Convert images and masks to NIfTI or PNG.")
    mask = decode(source, row.mask)
    if mask.shape != shape:
        raise source.refuse(
            row.mask,
            f"the mask has shape {mask.shape}, its image {row.file} {shape}",
            "Draw the mask on the image itself, or resample both alike.",
        )
    classes = len(source.schema.classes)
    if not ((mask >= 0) & (mask < classes) & (mask == np.floor(mask))).all():
        raise source.refuse(
            row.mask,
            f"has values other than the class numbers 0 to {classes - 1}",
            "Number the classes as the schema lists them.",
        )
    return fitted_mask(source, mask)


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
    schema = source.schema
    columns = {CLASS: ("label",), MASK: ("mask",)}.get(schema.target, schema.label_columns)
    try:
        table = csv_columns(source.path(LABELS), ("file", *columns, "group", "split"))
    except (OSError, ValueError) as bad:
        raise source.refuse(LABELS, str(bad), remedy) from bad
    if not {"file", *columns} <= table.keys():
        raise source.refuse(LABELS, f"has no columns {' and '.join(('file', *columns))}", remedy)
    target = None if schema.target in (CLASS, MASK) else targets_of(source, LABELS, table)
    rows = len(table["file"])
    sides = [str(side).strip() for side in table.get("split", [""] * rows)]
    groups = [level_of(group) for group in table.get("group", [""] * rows)]
    present, named, found = set(files), set(), {}
    for n, (name, label) in enumerate(zip(table["file"], table[columns[0]], strict=True)):
        file, mask, where = str(name).strip(), str(label).strip(), f"{LABELS}: row {n + 1}"
        for one in (file, mask) if source.schema.masks else (file,):
            if one not in present:
                raise source.refuse(where, f"there is no file {one!r}", remedy)
            if one in named:
                raise source.refuse(where, f"{one!r} is named twice", remedy)
            named.add(one)
        if "split" in table and sides[n] not in PARTS:
            raise source.refuse(where, f"split is {sides[n]!r}", "Write train or test in every row, or no such column.")
        if source.schema.masks:
            found[file] = Labelled(file, 0, groups[n], sides[n], mask)
        elif target is not None:
            found[file] = Labelled(file, target[n], groups[n], sides[n])
        else:
            found[file] = Labelled(
                file, label_of(source, where, level_in(source.schema.classes, label)), groups[n], sides[n]
            )
    if unnamed := sorted(present - named):
        raise source.refuse(LABELS, f"does not name {unnamed[0]!r}", remedy)
    return [found[file] for file in sorted(found)]
