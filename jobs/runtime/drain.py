"""How a service tells the processes of its jobs that it is about to end: the folder ``<home>/drain`` exists meanwhile.

The long-lived process makes it on SIGTERM; a job's process looks before it takes part in a step, and leaves its own
number in it once it takes part in nothing any more. Files, so that it does not matter how the two were started, and a
crash leaves nothing that could not be cleared: every start begins with ``clear``.
"""

from __future__ import annotations

import os
import shutil

from crypto.home import Home


def begin(home: Home) -> None:
    """From now on no step begins here. Raises OSError."""
    home.drain_folder.mkdir(mode=0o700, exist_ok=True)


def clear(home: Home) -> None:
    """This home takes part again."""
    shutil.rmtree(home.drain_folder, ignore_errors=True)


def begun(home: Home) -> bool:
    """Whether this home leaves."""
    return home.drain_folder.is_dir()


def note_left(home: Home) -> None:
    """This process takes part in nothing any more."""
    if begun(home):
        (home.drain_folder / str(os.getpid())).touch(mode=0o600)


def left(home: Home) -> set[int]:
    """The processes that called ``note_left``."""
    folder = home.drain_folder
    return {int(path.name) for path in folder.iterdir()} if folder.is_dir() else set()
