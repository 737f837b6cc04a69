"""A silo's catalogue of data sets, kept by PySyft: private rows, mock rows beside them, and who may read which.

    <home>/syft/<owner>/private/syft_datasets/v1/<name>/   data.npz · record.json     the owner's alone: 0600 in 0700
    <home>/syft/<owner>/public/syft_datasets/v1/<name>/    data.npz · dataset.yaml    the mock, for admins

Registering goes through PySyft's dataset manager and asks PySyft's rules afterwards. Rows of an npz are copied: both
files are written anew from the checked arrays, so nothing else that was in them (names, identifiers, another array) is.
A reference is not copied: its private half has ``reference.json`` in place of rows (``silo_agent.readers.reference``).

``record.json`` is ours and is written last: uid, schema and salted commitment. A folder without it is an incomplete
registration and is ignored. Job processes call ``resolve``, which reads the record and the rows and needs no PySyft:
importing it takes longer than all the rest.

The catalogue is not signed: every process of the agent's user can rewrite it. Jobs are protected from that because
approvals name uid and commitment.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crypto import durable
from crypto.errors import DataRefused
from silo_agent.data import CLASS, LABELS, MASK, NUMBER, DataSet, check, check_name, commitment, load
from silo_agent.home import SiloHome
from silo_agent.pysyft.datasite import ADMIN, STRANGER, Datasite, disk, pysyft, remove
from silo_agent.pysyft.mock import DATA, PROTOCOL, Schema, arrays_of, check_mock, dataset_folder, read_mock
from silo_agent.readers.mock_rows import made_up
from silo_agent.readers.ranges import findings
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema

if TYPE_CHECKING:
    from syft_datasets.dataset_storage import DatasetStorage

RECORD = "record.json"
REFERENCE = "reference.json"

_HALVES = ("private", "public")
_STAGING = ".adding"
_BIGGEST_RECORD = 1 << 16
_AGAIN = "Register it again: `fed data add --replace`. Approvals of the old registration are void then."


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A registered data set. ``uid`` names this registration, another has another. ``private``: the npz, or the
    reference; ``mock``: the npz."""

    name: str
    uid: str
    schema: Schema
    commitment: bytes
    summary: str
    private: Path
    mock: Path
    findings: tuple[str, ...] = ()
    """What the data owner should look at in the values, as it was found when they were registered."""
    reference: Reference | None = None
    """Where and what the rows are, if they were not copied."""

    @property
    def read_by(self) -> DataSchema | None:
        """The schema of a reference."""
        return None if self.reference is None else self.reference.schema


@dataclass(frozen=True, slots=True)
class DataId:
    """Which data an approval binds. ``commitment``: of the rows, salted. ``uid``: of their registration."""

    uid: str
    commitment: bytes


@dataclass(frozen=True, slots=True)
class Resolved:
    """The rows of a data set, checked against their registration."""

    data: DataSet
    id: DataId
    schema: DataSchema | None = None
    """What the rows were read by, where they were registered by reference."""


class Catalogue:
    """``silo``: the id. Refusals are DataRefused with a remedy, NoSpace for a full disk."""

    def __init__(self, home: SiloHome, silo: str) -> None:
        self.datasite = Datasite.of(home, silo)
        self._salt = home.salt_path

    # --- reading -----------------------------------------------------------------------------------------------------

    def resolve(self, name: str, *, thorough: bool = True) -> Resolved:
        """The rows of a data set, checked to be those that were registered. Raises DataRefused or NonFinite.

        ``thorough``: hash every file of a reference again, not only those with another size or time.
        """
        record = self._record(name)
        path = self._private_file(name, record)
        self._check_private(path)
        schema = None
        if record.reader:
            reference = self._reference(name, path)
            schema, sealed = reference.schema, reference.commitment(self._read_salt())
            if reference.reader != record.reader or sealed != record.commitment:
                raise DataRefused(f"Data set {name!r} is not read as it was registered.", remedy=_AGAIN)
            reference.check(name, thorough=thorough)
            data = reference.read(name)
        else:
            data = load(path, name)
            sealed = commitment(data, self._read_salt())
        if Schema.of(data) != record.schema or sealed != record.commitment:
            raise DataRefused(f"The rows of data set {name!r} are not those that were registered.", remedy=_AGAIN)
        return Resolved(data, DataId(record.uid, record.commitment), schema)

    def mock(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a data set's mock: what admins develop on."""
        return read_mock(self.datasite.syftbox, self.datasite.owner, name)

    def names(self) -> list[str]:
        """Every data set in PySyft's folder: what PySyft lists, and incomplete registrations."""
        found = {path.name for half in _HALVES for path in self._folder(half, "").glob("*/")}
        with pysyft("The catalogue", remedy=_AGAIN):
            found |= {ref.name for ref in self._storage().iter_dataset_refs(self.datasite.owner)}
        return sorted(found)

    def entry(self, name: str) -> CatalogueEntry:
        """One data set: its record compared with PySyft's files, and PySyft's rules asked again."""
        record = self._record(name)
        with pysyft(f"Data set {name!r}", remedy=_AGAIN):
            storage = self._storage()
            ref = storage.find_dataset_ref(self.datasite.owner, name)
            dataset, private = storage.read_dataset(ref), storage.read_private_config(ref)
        if {str(dataset.uid), str(private.uid)} != {record.uid}:
            raise DataRefused(f"PySyft knows another registration of data set {name!r}.", remedy=_AGAIN)
        self._check_rules(name, record)
        return self._entry(name, record, dataset.summary or "")

    def entries(self) -> list[CatalogueEntry]:
        """Every data set. Raises DataRefused for the first that does not check."""
        return [self.entry(name) for name in self.names()]

    # --- registering -------------------------------------------------------------------------------------------------

    def add(self, name: str, private: Path, mock: Path, summary: str = "", *, replace: bool = False) -> CatalogueEntry:
        """Register two npz files under a name. The originals stay where they are, and are not read again.

        The mock must have the schema of the private rows and none of them. A name that is taken needs ``replace``,
        and gets a new uid, so that approvals of the old registration don't cover it. What fails changes nothing.
        """
        _check_new_name(name)
        rows, shown = load(private, name), load(mock, f"mock of {name}")
        check_mock(name, rows, shown)
        sealed = commitment(rows, self._read_salt())

        def save(folder: Path) -> None:
            _save(rows, folder)

        record = _Record("", Schema.of(rows), sealed, findings=tuple(findings(rows, None)))
        return self._register(name, save, shown, summary, record, replace=replace)

    def add_reference(
        self, name: str, reference: Reference, mock: Path | None = None, summary: str = "", *, replace: bool = False
    ) -> CatalogueEntry:
        """Register files that stay where they are. All rows are read and checked once; what fails changes nothing.

        ``mock``: an npz of invented rows; default: one is made from the schema, which is public.
        """
        _check_new_name(name)
        rows = reference.read(name)
        if mock is None:
            shown = check(f"mock of {name}", made_up(reference.schema))
        else:
            shown = load(mock, f"mock of {name}")
            check_mock(name, rows, shown)

        def save(folder: Path) -> None:
            folder.mkdir(mode=0o700)
            durable.create(folder / REFERENCE, bytes(reference))

        sealed, found = reference.commitment(self._read_salt()), tuple(findings(rows, reference.schema))
        record = _Record("", Schema.of(rows), sealed, reader=reference.reader, findings=found)
        return self._register(name, save, shown, summary, record, replace=replace)

    def _register(
        self,
        name: str,
        save_private: Callable[[Path], None],
        shown: DataSet,
        summary: str,
        unnamed: _Record,
        *,
        replace: bool,
    ) -> CatalogueEntry:
        """``save_private``: makes the private half in a folder. ``unnamed``: the record but for its uid."""
        with disk(f"Data set {name!r}"), self.datasite.writing(), self._replacing(name, replace=replace) as staging:
            save_private(staging / "private")
            _save(shown, staging / "public")
            record = dataclasses.replace(unnamed, uid=self._create(name, staging, summary))
            self._tighten(name)
            self._check_rules(name, record)
            record.save(self._folder("private", name) / RECORD)
            self.resolve(name, thorough=False)  # PySyft has copied the files: the copies must be what was checked
            return self._entry(name, record, summary)

    @contextmanager
    def _replacing(self, name: str, *, replace: bool) -> Iterator[Path]:
        """A folder to stage in. The old halves of ``name`` wait in it, and go back if anything fails."""
        halves = {half: self._folder(half, name) for half in _HALVES}
        for folder in halves.values():
            self.datasite.check_place(folder)
        if (halves["private"] / RECORD).exists() and not replace:
            raise DataRefused(
                f"Data set {name!r} is registered here already.",
                remedy="`fed data add --replace` registers it anew. Approvals of the old registration are void then.",
            )
        staging = self.datasite.syftbox / _STAGING
        remove(staging)
        staging.mkdir(mode=0o700)
        old = {half: staging / f"old-{half}" for half, folder in halves.items() if folder.exists()}
        for half, aside in old.items():
            os.rename(halves[half], aside)
        try:
            yield staging
        except BaseException:
            for half, folder in halves.items():
                remove(folder)
                if half in old:
                    os.rename(old[half], folder)
            raise
        finally:
            remove(staging)

    def _create(self, name: str, staging: Path, summary: str) -> str:
        from syft_datasets.dataset_manager import SyftDatasetManager

        with pysyft(f"Data set {name!r}", remedy=_AGAIN):
            dataset = SyftDatasetManager(self.datasite.syftbox, self.datasite.owner).create(
                name,
                mock_path=staging / "public",
                private_path=staging / "private",
                summary=summary or None,
                users=[ADMIN],
                protocol_versions=[PROTOCOL],
            )
            return str(dataset.uid)

    def _tighten(self, name: str) -> None:
        """PySyft leaves modes to the umask. Here the private half is the agent's user's alone."""
        private = self._folder("private", name)
        for folder in (private, *private.parents):
            if folder.is_relative_to(self.datasite.syftbox):
                folder.chmod(0o700)
        for path in private.iterdir():
            path.chmod(0o600)
        (self._folder("public", name) / DATA).chmod(0o644)

    def _check_rules(self, name: str, record: _Record) -> None:
        """Ask PySyft who may read what. Raises DataRefused where its rules are not those that we set."""
        from syft_perms import SyftPermContext

        expected = {
            ("public", self.datasite.owner): True,
            ("public", ADMIN): True,
            ("public", STRANGER): False,
            ("private", self.datasite.owner): True,
            ("private", ADMIN): False,
            ("private", STRANGER): False,
        }
        with pysyft(f"The rules of data set {name!r}", remedy=_AGAIN):
            rules = SyftPermContext(datasite=self.datasite.folder)
            for (half, who), may in expected.items():
                file = self._private_file(name, record) if half == "private" else self._folder(half, name) / DATA
                path = file.relative_to(self.datasite.folder)
                if rules.open(path).has_read_access(who) is not may:
                    verb = "cannot read" if may else "can read"
                    raise DataRefused(f"By PySyft's rules {who} {verb} the {half} half of {name!r}.", remedy=_AGAIN)

    # --- folders and files --------------------------------------------------------------------------------------------

    def _storage(self) -> DatasetStorage:
        from syft_datasets.dataset_manager import SyftDatasetManager

        return SyftDatasetManager(self.datasite.syftbox, self.datasite.owner).storage

    def _folder(self, half: str, name: str) -> Path:
        return dataset_folder(self.datasite.syftbox, self.datasite.owner, half, name)

    def _entry(self, name: str, record: _Record, summary: str) -> CatalogueEntry:
        private, mock = self._private_file(name, record), self._folder("public", name) / DATA
        reference = self._reference(name, private) if record.reader else None
        return CatalogueEntry(
            name, record.uid, record.schema, record.commitment, summary, private, mock, record.findings, reference
        )

    def _private_file(self, name: str, record: _Record) -> Path:
        """The private half's file: the rows, or the reference to them."""
        return self._folder("private", name) / (REFERENCE if record.reader else DATA)

    def _reference(self, name: str, path: Path) -> Reference:
        with disk(f"{path.name} of data set {name!r}"):
            content = path.read_bytes()
        try:
            return Reference.from_bytes(content)
        except ValueError as bad:
            raise DataRefused(f"The reference of data set {name!r} is damaged.", remedy=_AGAIN) from bad

    def _record(self, name: str) -> _Record:
        check_name(name)
        folder = self._folder("private", name)
        if not folder.exists():
            raise DataRefused(
                f"Data set {name!r} is not in this silo's catalogue.",
                remedy="The data owner registers it: `fed data add`.",
            )
        if not (folder / RECORD).exists():
            raise DataRefused(
                f"Data set {name!r} is half registered: interrupted, or not done by `fed data add`.",
                remedy="Run `fed data add` for it again.",
            )
        self._check_private(folder / RECORD)
        return _Record.load(name, folder / RECORD)

    def _check_private(self, path: Path) -> None:
        """Raise DataRefused for a private file that is a link, lies behind one, or is open to others."""
        self.datasite.check_place(path)
        what = f"{path.name} of data set {path.parent.name!r}"
        with disk(what):
            mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise DataRefused(f"{what} has mode {mode:o}, want 600.", remedy=f"See who read it; chmod 600 {path}")

    def _read_salt(self) -> bytes:
        with disk("The silo's salt"):
            return self._salt.read_bytes()


@dataclass(frozen=True, slots=True)
class _Record:
    """``record.json``: what makes a registration one."""

    uid: str
    schema: Schema
    commitment: bytes
    reader: str = ""
    """Of a reference; "" where the rows were copied."""
    findings: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Rows of one axis have ``features``, all others a ``shape``."""
        shape = self.schema.shape
        fields: dict[str, object] = {
            "uid": self.uid,
            **({"features": shape[0]} if len(shape) == 1 else {"shape": list(shape)}),
            "classes": self.schema.classes,
            "commitment": self.commitment.hex(),
            **({"masks": True} if self.schema.target == MASK else {}),
            **({"target": self.schema.target} if self.schema.target in (LABELS, NUMBER) else {}),
            **({"reader": self.reader} if self.reader else {}),
            **({"findings": self.findings} if self.findings else {}),
        }
        durable.create(path, json.dumps(fields).encode())

    @classmethod
    def load(cls, name: str, path: Path) -> _Record:
        try:
            with path.open("rb") as file:
                raw = json.loads(file.read(_BIGGEST_RECORD))
            shape = raw["shape"] if "shape" in raw else [raw["features"]]
            target = MASK if raw.get("masks") else str(raw.get("target", CLASS))
            schema = Schema(shape=tuple(int(side) for side in shape), classes=int(raw["classes"]), target=target)
            reader, found = str(raw.get("reader", "")), tuple(map(str, raw.get("findings", ())))
            return cls(str(raw["uid"]), schema, bytes.fromhex(raw["commitment"]), reader, found)
        except (OSError, ValueError, KeyError, TypeError) as bad:
            raise DataRefused(f"The record of data set {name!r} is damaged.", remedy=_AGAIN) from bad


def _check_new_name(name: str) -> None:
    check_name(name)
    if re.fullmatch(r"v\d+", name):
        raise DataRefused(f"{name!r} is a name that PySyft keeps for itself.", remedy="Choose another name.")


def _save(data: DataSet, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with durable.creating(folder / DATA) as out:
        np.savez(out, allow_pickle=False, **arrays_of(data))
