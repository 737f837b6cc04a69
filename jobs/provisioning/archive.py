"""A kit from outside, untrusted: a folder or a ``*.kit.tar.gz``, its files read into memory and checked.

Only regular files below ``startup/`` and ``local/`` are taken, few and small. An archive with links or with paths that
lead out of its folder is refused; its modes and owners are ignored.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from crypto.errors import SpecError

#: What a kit may hold. NVFlare's has about 20 files, 80 KiB.
MOST_FILES: Final = 100
MOST_BYTES: Final = 4 << 20
#: What NVFlare reads of a kit; the rest is a readme and an empty folder.
FOLDERS: Final = ("startup", "local")

Files = dict[PurePosixPath, bytes]


def read(kit: Path) -> Files:
    """Path in the kit → bytes, of everything in ``startup/`` and ``local/``. Raises SpecError."""
    found: Files = {}
    left = MOST_BYTES
    for path, data in _folder(kit) if kit.is_dir() else _archive(kit):
        left -= len(data)
        if left < 0 or len(found) >= MOST_FILES:
            raise SpecError(str(kit), got="more", want=f"a kit: at most {MOST_FILES} files, {MOST_BYTES >> 20} MiB")
        found[path] = data
    if not all(any(path.parts[0] == folder for path in found) for folder in FOLDERS):
        raise SpecError(
            str(kit),
            got=sorted(map(str, found)),
            want="a kit: startup and local, with local/consilium.json",
            remedy=_REMEDY,
        )
    return found


def write(files: Files, folder: Path) -> None:
    """Put them into a folder: files 0600, folders and ``*.sh`` 0700. Raises OSError."""
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(data)
        target.chmod(0o700 if target.suffix == ".sh" else 0o600)


_REMEDY: Final = "Ask the federation's administrator for the site's kit again."


def _folder(kit: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """A mounted folder may contain links inside itself, as Kubernetes makes them; none may lead out."""
    root = kit.resolve()
    for folder in FOLDERS:
        for path in sorted((kit / folder).rglob("*")):
            if not path.resolve().is_relative_to(root):
                raise SpecError(str(path), got="a link out of the kit", want="a file", remedy=_REMEDY)
            if path.is_file() and not any(part.startswith("..") for part in path.relative_to(kit).parts):
                if path.stat().st_size > MOST_BYTES:
                    raise SpecError(str(path), got=path.stat().st_size, want=f"at most {MOST_BYTES} bytes")
                yield PurePosixPath(path.relative_to(kit)), path.read_bytes()
            elif not path.is_dir():
                raise SpecError(str(path), got="something else", want="a file", remedy=_REMEDY)


def _archive(kit: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    try:
        with gzip.open(kit) as packed:
            plain = packed.read(2 * MOST_BYTES + 1)
        if len(plain) > 2 * MOST_BYTES:
            raise SpecError(str(kit), got="more", want=f"at most {MOST_BYTES >> 20} MiB of files")
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            for entry in tar:
                path = PurePosixPath(entry.name)
                if path.is_absolute() or ".." in path.parts or not (entry.isreg() or entry.isdir()):
                    raise SpecError(
                        str(kit), got=entry.name, want="files inside the kit, no links, no devices", remedy=_REMEDY
                    )
                inside = PurePosixPath(*path.parts[1:])  # the first is the site's name
                if entry.isreg() and len(inside.parts) > 1 and inside.parts[0] in FOLDERS:
                    data = tar.extractfile(entry)
                    assert data is not None
                    yield inside, data.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as bad:
        why = bad.strerror if isinstance(bad, OSError) and bad.strerror else str(bad)
        raise SpecError(str(kit), got=why, want="a kit: a folder or a .kit.tar.gz", remedy=_REMEDY) from bad
