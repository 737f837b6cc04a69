"""Text files that people write: UTF-8, whatever the locale says, with or without a byte order mark.

Two machines must read one job file alike: its digest is what data owners sign.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

from crypto.errors import SpecError

#: Of a file that somebody wrote by hand. Bytes.
MOST_BYTES: Final = 4 << 20


def read(path: Path, want: str, *, remedy: str = "") -> str:
    """The text of a file. ``want``: what it should be, for the error. Raises SpecError, which says what is there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer would block
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SpecError(str(path), got="a pipe or device", want=want, remedy=remedy)
            data = file.read(MOST_BYTES + 1)
    except OSError as refused:
        raise SpecError(str(path), got=refused.strerror or str(refused), want=want, remedy=remedy) from refused
    if len(data) > MOST_BYTES:
        raise SpecError(str(path), got="a larger file", want=f"{want} of at most {MOST_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        raise SpecError(
            str(path),
            got=f"bytes that are not UTF-8, the first at position {bad.start}",
            want=f"{want} in UTF-8",
            remedy="Save it in UTF-8: another encoding gives other text on other machines.",
        ) from bad


def read_toml(path: Path, want: str, *, remedy: str = "") -> dict[str, Any]:
    """A TOML file. Raises SpecError, which says what is there and in which line."""
    try:
        return tomllib.loads(read(path, want, remedy=remedy))
    except (tomllib.TOMLDecodeError, RecursionError) as bad:
        raise SpecError(str(path), got=str(bad), want=f"{want} in TOML", remedy=remedy) from bad
