"""How a service tells the processes of its jobs that it leaves: the folder ``<home>/drain``, there while it does.

The long-lived process makes it on SIGTERM; a job's process looks before it takes part in a step, and leaves its own
number in it once it takes part in nothing any more. Files, so that it does not matter how the two were started, and a
crash leaves nothing that could not be cleared: every start begins with ``clear``.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_FOLDER = "drain"


def begin(home: Path) -> None:
    """From now on no step begins here. Raises OSError."""
    (home / _FOLDER).mkdir(mode=0o700, exist_ok=True)


def clear(home: Path) -> None:
    """This home takes part again."""
    shutil.rmtree(home / _FOLDER, ignore_errors=True)


def begun(home: Path) -> bool:
    """Whether this home leaves."""
    return (home / _FOLDER).is_dir()


def note_left(home: Path) -> None:
    """This process takes part in nothing any more."""
    if begun(home):
        (home / _FOLDER / str(os.getpid())).touch(mode=0o600)


def left(home: Path) -> set[int]:
    """The processes that said so."""
    folder = home / _FOLDER
    return {int(path.name) for path in folder.iterdir()} if folder.is_dir() else set()
