"""The package that a model comes from, by the bytes of its files: what a data owner approved is what runs.

A job names the digest, so an approval of the job covers it. The digest is that of a list as ``sha256sum`` prints it,
sorted by path, of the files that the distribution's RECORD names. Left out are files that differ from one installation
to the next: the installer's notes, compiled Python, scripts outside the packages.
"""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath
from typing import Final

from crypto.errors import SpecError

_NOTES: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
_CODE: Final = frozenset({".py", ".so", ".pyd", ".pth"})

_REINSTALL: Final = "Install the wheel that the federation has agreed on, not in editable mode, at every silo."


def digest(package: Distribution) -> str:
    """SHA-256 in hex over names and bytes of a distribution's files, as they are on disk now.

    Raises SpecError for an editable installation, for files that are missing, and for code in its folders that is not
    in its list.
    """
    where = f"package {package.name}"
    note = package.read_text("direct_url.json")
    if note is not None and json.loads(note).get("dir_info", {}).get("editable"):
        got, want = "an editable installation", "an installed wheel, whose files are listed"
        raise SpecError(where, got=got, want=want, remedy=_REINSTALL)
    # Not ``package.files``: where the backport of importlib.metadata is imported, that leaves out missing files.
    record = package.read_text("RECORD")
    if not record:
        raise SpecError(where, got="no list of its files", want="an installed wheel", remedy=_REINSTALL)
    names = [row[0] for row in csv.reader(record.splitlines()) if row and _counts(PurePosixPath(row[0]))]
    files = {name: Path(str(package.locate_file(name))) for name in names}
    _check_complete(where, files)
    lines = []
    for name, path in sorted(files.items()):
        try:
            lines.append(f"{sha256(path.read_bytes()).hexdigest()}  {name}\n")
        except OSError as missing:
            got = f"{name}: {missing.strerror}"
            raise SpecError(where, got=got, want="every file of its list", remedy=_REINSTALL) from missing
    return sha256("".join(lines).encode()).hexdigest()


def _counts(file: PurePosixPath) -> bool:
    inside = ".." not in file.parts and not file.is_absolute()
    note = file.parent.suffix == ".dist-info" and file.name in _NOTES
    return inside and not note and file.suffix != ".pyc"


def _check_complete(where: str, files: dict[str, Path]) -> None:
    """No code lies in the distribution's folders that its list does not name."""
    listed = {path.resolve() for path in files.values()}
    tops = {name.partition("/")[0]: path for name, path in files.items() if "/" in name}
    for top, path in tops.items():
        folder = next(parent for parent in path.parents if parent.name == top)
        for found in sorted(folder.rglob("*")):
            if found.suffix in _CODE and found.resolve() not in listed:
                got = f"{found.relative_to(folder.parent)}, which is not in its list"
                raise SpecError(where, got=got, want="only files of the wheel", remedy=_REINSTALL)
