"""Files that survive a crash: replace, create, append, lock. Every durable write of the product goes through here.

Files are private (0600), folders too (0700). "Synced" means that the bytes are on disk when the call returns; a new
name is on disk once its folder is synced. A full disk raises OSError with an errno of ``crypto.errors.FULL``; each
caller says what could not be written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import BinaryIO

# --- whole files -------------------------------------------------------------------------------------------------


def unfinished(path: Path, *, hidden: bool = False) -> Path:
    """Where ``replace`` writes the new bytes first. After a crash or a full disk this file may be left."""
    return path.with_name(f".{path.name}.new" if hidden else f"{path.name}.new")


def replace(path: Path, data: bytes | memoryview, *, hidden: bool = False) -> None:
    """Write a file whole or not at all: readers and crashes find the old bytes or the new ones.

    Its folder is made, 0700, if there is none. ``hidden``: the unfinished file's name starts with a dot, for folders
    that are read with a pattern. Raises OSError; then ``path`` is as before, and ``unfinished(path)`` may be left. The
    next call overwrites it.
    """
    private_folder(path.parent)
    new = unfinished(path, hidden=hidden)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    move(new, path)


def move(old: Path, new: Path) -> None:
    """Rename within a folder, over a file that may be there, and sync the folder."""
    os.replace(old, new)
    sync_folder(new.parent)


def finish(part: Path, whole: Path, size: int) -> None:
    """Give a file that was appended to its final length and name, synced before the name. Raises OSError."""
    fd = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)
    move(part, whole)


def create(path: Path, data: bytes) -> None:
    """Write a new file and sync it. Raises FileExistsError for a name that is taken, OSError."""
    with creating(path) as out:
        out.write(data)


@contextmanager
def creating(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, synced at the end. Raises FileExistsError for a name that is taken, OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


# --- folders -----------------------------------------------------------------------------------------------------


def private_folder(path: Path) -> None:
    """Make a folder, with mode 0700, unless it is there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: what was created in it, renamed and removed."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- files that grow ---------------------------------------------------------------------------------------------


def append(fd: int, data: bytes | memoryview, *, sync: bool = True) -> None:
    """Write at the end of an open file and sync it. Raises OSError; then the file is as long as before."""
    start = os.lseek(fd, 0, os.SEEK_END)
    try:
        _write_all(fd, data)
        if sync:
            os.fsync(fd)
    except OSError:
        os.ftruncate(fd, start)
        raise


def cut(fd: int, end: int) -> bytes:
    """Cut a file off after ``end`` bytes and sync it; the bytes that were cut. Nothing happens if it ends there."""
    if not (size := os.fstat(fd).st_size - end):
        return b""
    rest = os.pread(fd, size, end)
    os.ftruncate(fd, end)
    os.fsync(fd)
    return rest


def cut_torn_line(fd: int, longest: int | None = None) -> tuple[bytes, bytes]:
    """Cut off the half line that a killed writer left at the end of a file of lines.

    Call it under the lock, so that nobody is writing that line. Returns the whole lines (without the last newline) and
    what was cut. ``longest``: look at so many last bytes only; the lines returned are those of this part.
    """
    size = os.fstat(fd).st_size
    start = 0 if longest is None else max(0, size - longest)
    whole, _, torn = os.pread(fd, size - start, start).rpartition(b"\n")
    return whole, cut(fd, size - len(torn))


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        if not (written := os.write(fd, view)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


# --- locks -------------------------------------------------------------------------------------------------------


def lock(path: Path, *, shared: bool = False, wait: bool = True, create: bool = True, follow: bool = True) -> int:
    """Open a file and lock it (``flock``); closing the descriptor, or the end of the process, gives it back.

    ``shared``: together with others that share it. ``wait``: until it is free, else BlockingIOError. ``create``: make
    the file if there is none, else FileNotFoundError. ``follow``: also where the path is a link, else OSError. The
    file is open for reading and appending; for reading only when it is shared and not created.
    """
    flags = os.O_RDONLY if shared and not create else os.O_RDWR | os.O_APPEND
    flags |= os.O_CLOEXEC | (os.O_CREAT if create else 0) | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags, 0o600)
    try:
        flock(fd, (LOCK_SH if shared else LOCK_EX) | (0 if wait else LOCK_NB))
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """A folder that no other process fills meanwhile. Raises BlockingIOError where one does."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        yield
    finally:
        os.close(fd)


@contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: bool = True, create: bool = True, follow: bool = True
) -> Iterator[int]:
    """``lock``, given back at the end."""
    fd = lock(path, shared=shared, wait=wait, create=create, follow=follow)
    try:
        yield fd
    finally:
        os.close(fd)
