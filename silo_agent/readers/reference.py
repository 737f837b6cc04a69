"""A registered reference: which files, read how, by which schema. The catalogue holds it in place of rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from crypto.errors import DataRefused, SpecError
from silo_agent import readers
from silo_agent.data import DataSet
from silo_agent.readers import manifest
from silo_agent.readers.manifest import FileMark
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.source import Source


@dataclass(frozen=True, slots=True)
class Reference:
    """``path``: the file or folder, absolute. ``reader``: its name. ``marks``: its files as they were registered."""

    path: Path
    reader: str
    schema: DataSchema
    marks: tuple[FileMark, ...]

    @classmethod
    def take(cls, name: str, path: Path, schema: DataSchema, reader: str | None = None) -> Reference:
        """Hash every file of ``path``. ``reader``: default: by schema and files. Raises DataRefused."""
        path = path.resolve()
        chosen = reader or readers.choose(name, schema, manifest.present(name, path))
        found = manifest.listed(name, path, readers.reader(chosen).suffixes)
        return cls(path, chosen, schema, manifest.mark(name, manifest.root_of(path), found))

    def commitment(self, salt: bytes) -> bytes:
        """Of the manifest, the schema and the reader. Raises DataRefused for a reader that is not installed."""
        return manifest.commitment(salt, readers.identity(self.reader), self.schema.digest, self.marks)

    def check(self, name: str, *, thorough: bool) -> None:
        """Raise DataRefused that names the first file that is not as it was. ``thorough``: hash all of them."""
        if not self.path.exists():
            raise DataRefused(
                f"Data set {name!r}: {str(self.path)!r} has vanished since it was registered.",
                remedy="Put it back or mount it, or register the data set again: `fed data add --replace`.",
            )
        found = manifest.listed(name, self.path, readers.reader(self.reader).suffixes)
        manifest.check(name, manifest.root_of(self.path), found, self.marks, thorough=thorough)

    def read(self, name: str) -> DataSet:
        """The rows, checked. Raises DataRefused or NonFinite."""
        files = tuple(was.path for was in self.marks)
        return readers.read(Source(name, manifest.root_of(self.path), files, self.schema), self.reader)

    def __bytes__(self) -> bytes:
        """JSON, for the silo's catalogue. It never leaves the silo."""
        files = [[was.path, was.size, was.mtime_ns, was.ctime_ns, was.sha256.hex()] for was in self.marks]
        fields = {"path": str(self.path), "reader": self.reader, "schema": self.schema.text, "files": files}
        return json.dumps(fields).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        """Raises ValueError for what is no reference."""
        try:
            raw = json.loads(data)
            marks = tuple(
                FileMark(str(path), int(size), int(mtime), int(ctime), bytes.fromhex(digest))
                for path, size, mtime, ctime, digest in raw["files"]
            )
            return cls(Path(raw["path"]), str(raw["reader"]), DataSchema.from_text(raw["schema"]), marks)
        except (SpecError, KeyError, TypeError) as bad:
            raise ValueError("no reference") from bad
