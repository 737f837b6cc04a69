"""The silo's PySyft folder, ``<home>/syft``: its two addresses, one writer at a time, PySyft's errors as ours.

PySyft keeps the catalogue, the mock data, the permission rules and the request queue, as files. Its content is
shown and never trusted: its files are unsigned, its approval is bound to no code, and its permission rules bind only
programs that ask. So names are checked before PySyft builds paths of them, folders are 0700, and only what the data
owner signed is valid (``silo_agent.approval_store``). ``SyftJobRunner`` is never used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crypto import durable
from crypto.charter import SILO_ID
from crypto.errors import FULL, DataRefused, NoSpace, SpecError
from silo_agent.home import SiloHome

#: The submitter of jobs, for PySyft. These addresses are reserved (RFC 2606), and no mail is ever sent.
ADMIN = "admin@consilium.invalid"
#: An address that PySyft has no rule for: what it may read, anyone may.
STRANGER = "stranger@example.invalid"

_OWNER = ("owner@", ".invalid")


def owner_address(silo: str) -> str:
    """The data owner's address in PySyft, made from the silo's id. Raises SpecError for an invalid id."""
    if not SILO_ID.fullmatch(silo):
        raise SpecError("silo", got=silo, want="a silo's id: a-z 0-9 . -, at most 63")
    return silo.join(_OWNER)


def silo_of(address: str) -> str | None:
    """The silo whose data owner has this address."""
    silo = address.removeprefix(_OWNER[0]).removesuffix(_OWNER[1])
    return silo if SILO_ID.fullmatch(silo) and address == silo.join(_OWNER) else None


@dataclass(frozen=True, slots=True)
class Datasite:
    """``syftbox``: PySyft's folder in the home. ``owner``: the data owner's address in PySyft."""

    syftbox: Path
    owner: str

    @classmethod
    def of(cls, home: SiloHome, silo: str) -> Datasite:
        return cls(home.syftbox_folder, owner_address(silo))

    @property
    def folder(self) -> Path:
        """PySyft's own name for it is the datasite."""
        return self.syftbox / self.owner

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make missing folders and hold the lock: job processes and the owner's commands take turns."""
        with disk(f"The PySyft folder of {self.owner}"):
            for folder in (self.syftbox, self.folder):
                folder.mkdir(mode=0o700, exist_ok=True)
                self.check_place(folder)
            lock = durable.lock(self.syftbox / ".lock", follow=False)
        try:
            yield
        finally:
            os.close(lock)

    def check_place(self, path: Path) -> None:
        """Raise DataRefused for a path of PySyft's folder that is, or lies behind, a symbolic link."""
        if path.resolve() != self.syftbox.parent.resolve() / path.relative_to(self.syftbox.parent):
            raise DataRefused(
                f"{path.name!r} in the silo's PySyft folder is a link, or lies behind one.",
                remedy="Data stay in the silo's home: put the folder itself there.",
            )


@contextmanager
def disk(what: str) -> Iterator[None]:
    """The disk's errors: NoSpace where it is full, else DataRefused."""
    try:
        yield
    except OSError as failed:
        if failed.errno in FULL:
            remedy = "Free space on the volume of the silo's home."
            raise NoSpace(f"{what}: the disk is full.", remedy=remedy) from failed
        raise DataRefused(f"{what}: {failed.strerror or failed}.", remedy="Look at the silo's home.") from failed


@contextmanager
def pysyft(what: str, *, remedy: str) -> Iterator[None]:
    """PySyft's errors about its own files as DataRefused; the disk's errors as in ``disk``."""
    import yaml  # type: ignore[import-untyped]  # PySyft brings it
    from syft_migration import MigrationError

    damaged = (MigrationError, yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
    with disk(what):
        try:
            yield
        except damaged as bad:
            raise DataRefused(f"{what}: PySyft cannot read its files ({type(bad).__name__}).", remedy=remedy) from bad


def remove(path: Path) -> None:
    """A file, link or folder, if it is there; a link's target stays."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
