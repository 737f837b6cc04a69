"""The manifest of a registered reference: which files it is, and how a change of them is noticed.

The files stay where they are. What is registered is a sorted list of (path, size, SHA-256); the commitment is an HMAC
over it, the schema and the reader. At each job sizes and times are compared, and a file with another time is hashed
again; at an approval and by doctor every file is. The time of the last change of the inode is one of them: unlike the
file's own time it cannot be set back.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from crypto.encoding import Writer
from crypto.errors import DataRefused, SpecError
from crypto.text import escaped
from silo_agent.data import MIN_SALT_BYTES

#: Most files of one reference.
MOST_FILES = 1 << 20
_AGAIN = (
    "Put the file back as it was, or register the data set again: `fed data add --replace`. Approvals of the old"
    " registration are void then."
)


@dataclass(frozen=True, slots=True)
class FileMark:
    """A file as it was when it was registered. ``path``: below the root, with ``/``; ``mtime_ns``,
    ``ctime_ns``: last change of its bytes and of its inode."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: bytes


def root_of(reference: Path) -> Path:
    """The folder of a reference: itself, or the folder of the file."""
    return reference if reference.is_dir() else reference.parent


def present(name: str, reference: Path) -> tuple[str, ...]:
    """Every file of a reference: paths below its root, sorted.

    What begins with a dot is left out, also every folder that does. Raises DataRefused for what is not there.
    """
    if reference.is_file():
        return (reference.name,)
    if not reference.is_dir():
        raise DataRefused(
            f"Data set {name!r}: there is no file or folder {str(reference)!r}.", remedy="Give the path of the data."
        )
    return tuple(sorted(_walk(reference, reference)))


def listed(name: str, reference: Path, suffixes: Sequence[str]) -> tuple[str, ...]:
    """The files of a reference that a reader with these suffixes reads; a single file whatever its name is.

    Raises DataRefused where nothing is left, and for names that are not UTF-8.
    """
    found = present(name, reference)
    if not reference.is_file():
        found = tuple(path for path in found if path.lower().endswith(tuple(suffixes)))
    if not found:
        raise DataRefused(
            f"Data set {name!r}: {reference.name!r} has no file that ends with {', '.join(suffixes)}.",
            remedy="Give the folder of the data, or another reader with --reader.",
        )
    for file in found:
        if not _is_text(file):
            raise DataRefused(
                f"Data set {name!r}: the name {file.encode(errors='surrogateescape')!r} is not UTF-8.",
                remedy="Rename the file.",
            )
    if len(found) > MOST_FILES:
        raise DataRefused(
            f"Data set {name!r} has {len(found)} files, at most {MOST_FILES} can be registered.",
            remedy="Put the rows into fewer files.",
        )
    return found


def mark(name: str, root: Path, files: Sequence[str]) -> tuple[FileMark, ...]:
    """Read and hash every file. Raises DataRefused that names the file."""
    return tuple(_mark(name, root, file) for file in files)


def check(name: str, root: Path, files: Sequence[str], marks: Sequence[FileMark], *, thorough: bool) -> None:
    """Raise DataRefused that names the first file that vanished, changed or was added since it was registered.

    ``files``: what is there now. ``thorough``: hash every file, not only those with another time.
    """
    known, there = {was.path: was for was in marks}, set(files)
    changed = f"Data set {name!r}: {{}} since it was registered."
    for file in files:
        if file not in known:
            raise DataRefused(changed.format(f"{escaped(file)} was added"), remedy=_AGAIN)
    for was in marks:
        if was.path not in there:
            raise DataRefused(
                f"Data set {name!r}: {escaped(was.path)} has vanished since it was registered.", remedy=_AGAIN
            )
        found = _stat(name, root, was.path)
        same = found.st_size == was.size
        if same and (thorough or (found.st_mtime_ns, found.st_ctime_ns) != (was.mtime_ns, was.ctime_ns)):
            same = _mark(name, root, was.path).sha256 == was.sha256
        if not same:
            raise DataRefused(
                f"Data set {name!r}: {escaped(was.path)} has changed since it was registered.", remedy=_AGAIN
            )


def commitment(salt: bytes, reader: str, schema: bytes, marks: Sequence[FileMark]) -> bytes:
    """HMAC-SHA256(salt, reader ‖ schema ‖ manifest): binds the silo to files and to how they are read.

    ``reader``: its identity (``silo_agent.readers.identity``); ``schema``: its digest. Times and the root are left
    out: a folder that was moved stays the same data.
    """
    if len(salt) < MIN_SALT_BYTES:
        raise SpecError("salt", got=f"{len(salt)} bytes", want=f"at least {MIN_SALT_BYTES} bytes")
    content = Writer().text("consilium/1/reference").text(reader).blob(schema)
    content.each(sorted(marks, key=lambda was: was.path), _write)
    return hmac.new(salt, bytes(content), sha256).digest()


def _write(out: Writer, was: FileMark) -> object:
    return out.text(was.path).u64(was.size).blob(was.sha256)


def _mark(name: str, root: Path, file: str) -> FileMark:
    found = _stat(name, root, file)
    try:
        with (root / file).open("rb") as opened:
            digest = file_digest(opened, "sha256").digest()
    except OSError as failed:
        raise _unreadable(name, file, failed) from failed
    return FileMark(file, found.st_size, found.st_mtime_ns, found.st_ctime_ns, digest)


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8; Python gives the bytes of others as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _stat(name: str, root: Path, file: str) -> os.stat_result:
    try:
        return (root / file).stat()
    except OSError as failed:
        raise _unreadable(name, file, failed) from failed


def _unreadable(name: str, file: str, failed: OSError) -> DataRefused:
    return DataRefused(
        f"Data set {name!r}: {escaped(file)} cannot be read: {failed.strerror or failed}.",
        remedy="The agent's user must be able to read every file of the data set.",
    )


def _walk(root: Path, folder: Path) -> Iterator[str]:
    """Regular files below a folder, as paths with ``/``; links to folders are not followed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(root, Path(entry.path))
                elif entry.is_file():
                    yield Path(entry.path).relative_to(root).as_posix()
    except OSError as failed:
        raise _unreadable(root.name, Path(folder).relative_to(root).as_posix(), failed) from failed
