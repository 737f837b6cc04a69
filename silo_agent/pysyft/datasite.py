"""The silo's PySyft box, ``<home>/syft``: two addresses, one writer at a time, and PySyft's errors made ours.

PySyft keeps the catalogue, the mock data, the permission rules and the request queue, as files. What it says is shown
and never trusted: its files are unsigned, its approval is bound to no code and its permission rules bind only those
who ask. So names are checked before it builds paths of them, folders are 0700, and what counts
is what the data owner signed (``silo_agent.approvals``). ``SyftJobRunner`` is never used.
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

#: Whoever submits jobs, in PySyft's eyes. Nobody has these addresses (RFC 2606), and no mail is ever sent.
ADMIN = "admin@consilium.invalid"
#: Somebody PySyft has never heard of: what this address may read, everybody may.
STRANGER = "stranger@example.invalid"

_OWNER = ("owner@", ".invalid")


def owner_address(silo: str) -> str:
    """The data owner's address in PySyft, made from the silo's id. Raises SpecError for what is no id."""
    if not SILO_ID.fullmatch(silo):
        raise SpecError("silo", got=silo, want="a silo's id: a-z 0-9 . -, at most 63")
    return silo.join(_OWNER)


def silo_of(address: str) -> str | None:
    """The silo whose data owner has this address."""
    silo = address.removeprefix(_OWNER[0]).removesuffix(_OWNER[1])
    return silo if SILO_ID.fullmatch(silo) and address == silo.join(_OWNER) else None


@dataclass(frozen=True, slots=True)
class Box:
    """``path``: PySyft's folder. ``owner``: the address whose datasite, ``path/owner``, is this silo's."""

    path: Path
    owner: str

    @classmethod
    def of(cls, home: Path, silo: str) -> Box:
        return cls(home / "syft", owner_address(silo))

    @property
    def site(self) -> Path:
        return self.path / self.owner

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folders if need be, and hold the box's lock: job processes and the owner's verbs take turns."""
        with disk(f"The box of {self.owner}"):
            for folder in (self.path, self.site):
                folder.mkdir(mode=0o700, exist_ok=True)
                self.check_place(folder)
            lock = durable.lock(self.path / ".lock", follow=False)
        try:
            yield
        finally:
            os.close(lock)

    def check_place(self, path: Path) -> None:
        """Raise DataRefused for a path of the box that a link leads elsewhere."""
        if path.resolve() != self.path.parent.resolve() / path.relative_to(self.path.parent):
            raise DataRefused(
                f"{path.name!r} in the silo's box is a link, or lies behind one.",
                remedy="Data stay in the silo's home: put the folder itself there.",
            )


@contextmanager
def disk(what: str) -> Iterator[None]:
    """The disk's errors by our names: NoSpace where it is full, else DataRefused."""
    try:
        yield
    except OSError as failed:
        if failed.errno in FULL:
            remedy = "Free space on the volume of the silo's home."
            raise NoSpace(f"{what}: the disk is full.", remedy=remedy) from failed
        raise DataRefused(f"{what}: {failed.strerror or failed}.", remedy="Look at the silo's home.") from failed


@contextmanager
def pysyft(what: str, *, remedy: str) -> Iterator[None]:
    """What PySyft raises over its own files, as DataRefused; the disk's errors as ``disk`` has them."""
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
