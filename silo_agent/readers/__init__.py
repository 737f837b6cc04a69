"""Readers: from a registered file or folder, which stays where it is, to a data set of arrays.

A reader is chosen by the kind of the schema and by the files. Other packages add readers with an entry point of the
group ``consilium.readers`` that names a ``Reader``; the built-in ones cannot be replaced. Whoever reads is part of the
data set's commitment: with another version of a reader's package the data set must be registered again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module, metadata
from typing import Final

import numpy as np

from crypto.encoding import Writer
from crypto.errors import DataRefused
from silo_agent.data import NUMBER, TARGETS, DataSet, check
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.source import LABELS, Arrays, Source

#: The group of entry points.
GROUP: Final = "consilium.readers"


@dataclass(frozen=True, slots=True)
class Reader:
    """``read``: a source to ``x_train``, ``y_train``, ``x_test``, ``y_test``; it may read only the source's files, and
    names the file in every refusal (``Source.refuse``). ``kind``: of the schemas it takes. ``suffixes``: lower case,
    with the dot; files with another suffix are no part of the data set."""

    read: Callable[[Source], Arrays]
    kind: str
    suffixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _BuiltIn:
    """A reader of ours. ``function``: ``module.function`` below this package; imported when it reads."""

    function: str
    kind: str
    suffixes: tuple[str, ...]

    def reader(self) -> Reader:
        module, _, function = self.function.rpartition(".")
        return Reader(getattr(import_module(f"{__name__}.{module}"), function), self.kind, self.suffixes)


_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
BUILT_IN: Final = {
    "arrays": _BuiltIn("arrays.read", "array", (".npz", ".npy")),
    "csv": _BuiltIn("tables.read_csv", "table", (".csv", ".tsv", ".txt")),
    "parquet": _BuiltIn("tables.read_parquet", "table", (".parquet",)),
    "images": _BuiltIn("images.read", "image", (*_PICTURES, LABELS)),
    "dicom": _BuiltIn("dicom.read", "image", (".dcm", ".dicom", LABELS)),
    "nifti": _BuiltIn("nifti.read", "image", (".nii", ".nii.gz", LABELS)),
    "jsonl": _BuiltIn("texts.read_jsonl", "text", (".jsonl",)),
    "arrow": _BuiltIn("tables.read_arrow", "table", (".arrow",)),
    "arrow-text": _BuiltIn("texts.read_arrow", "text", (".arrow",)),
}


def names() -> list[str]:
    """Every reader that is installed here."""
    return sorted({*BUILT_IN, *(point.name for point in metadata.entry_points(group=GROUP))})


def choose(name: str, schema: DataSchema, files: Sequence[str]) -> str:
    """The built-in reader for these files: by the schema's kind and the files' names.

    Raises DataRefused where none or several could read them.
    """
    found = candidates(schema, files)
    if len(found) == 1:
        return found[0]
    why = f"{' and '.join(found)} could read it" if found else f"no reader of kind {schema.kind!r} knows its files"
    raise DataRefused(
        f"Data set {name!r}: {why}.", remedy=f"Name the reader with --reader: one of {', '.join(names())}."
    )


def candidates(schema: DataSchema, files: Sequence[str]) -> list[str]:
    """The built-in readers of the schema's kind that know the ending of one of these files."""
    data = [file.lower() for file in files if not file.endswith(LABELS)]
    return [
        candidate
        for candidate, reader in BUILT_IN.items()
        if reader.kind == schema.kind and any(file.endswith(reader.suffixes) for file in data)
    ]


def reader(name: str) -> Reader:
    """A reader by its name. Raises DataRefused where it is not installed."""
    if name in BUILT_IN:
        return BUILT_IN[name].reader()
    point = _point(name)
    try:
        found = point.load()
    except Exception as broken:
        raise DataRefused(
            f"The reader {name!r} cannot be loaded: {type(broken).__name__}.", remedy="Look at its package."
        ) from broken
    if not isinstance(found, Reader):
        raise DataRefused(f"The reader {name!r} is no silo_agent.readers.Reader.", remedy="Look at its package.")
    return found


def identity(name: str) -> str:
    """What a commitment says of a reader: its name, and of a foreign one the digest of its distribution's files."""
    if name in BUILT_IN:
        return name
    distribution = _point(name).dist
    record = distribution.read_text("RECORD") if distribution is not None else None
    if distribution is None or record is None:
        raise DataRefused(
            f"The reader {name!r} comes from no installed distribution.", remedy="Install its package as a wheel."
        )
    digest = sha256(bytes(Writer().text(distribution.version).text(record))).hexdigest()
    return f"{name} {distribution.name} {digest}"


def read(source: Source, reader_name: str) -> DataSet:
    """The rows of a source, checked. Raises DataRefused or NonFinite."""
    chosen = reader(reader_name)
    if chosen.kind != source.schema.kind:
        raise DataRefused(
            f"Data set {source.name!r}: the reader {reader_name!r} takes schemas of kind {chosen.kind!r}, this one has"
            f" {source.schema.kind!r}.",
            remedy="Give another schema with --schema, or another reader with --reader.",
        )
    schema = source.schema
    count: dict[str, int] = (
        {} if schema.target == NUMBER else {"labels" if schema.targets else "classes": len(schema.classes)}
    )
    data = check(source.name, {**chosen.read(source), **{name: np.array(number) for name, number in count.items()}})
    if data.target != schema.target:
        raise DataRefused(
            f"Data set {source.name!r} has {TARGETS[data.target]}, its schema says {TARGETS[schema.target]}.",
            remedy="Give the schema that fits.",
        )
    return data


def _point(name: str) -> metadata.EntryPoint:
    found = [point for point in metadata.entry_points(group=GROUP) if point.name == name]
    if len(found) != 1:
        why = "is not installed here" if not found else "is offered by several packages"
        raise DataRefused(f"The reader {name!r} {why}.", remedy=f"The readers here: {', '.join(names())}.")
    return found[0]
