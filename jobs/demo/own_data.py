"""``--data FOLDER``: your own files in place of a demonstration's, one silo for each sub-folder or file of the folder.

With a schema in the job every silo's files are registered by reference, as ``fed data add --from --schema`` does, so
nothing is copied. Without one each silo is one npz of numbers, as for ``fed data add --private``. Everything is read
and checked here, before a folder is made or a process started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from crypto.charter import check_new_id
from crypto.charter_defaults import Floors
from crypto.errors import DataRefused, NonFinite, SpecError
from crypto.text import escaped
from jobs.demo.datasets import Deal
from jobs.job import JobSpec
from jobs.membership.propose import least_silos
from jobs.owner.data_fit import check_rows
from silo_agent import readers
from silo_agent.data import DataSet, load
from silo_agent.pysyft.mock import arrays_of
from silo_agent.readers import manifest
from silo_agent.readers.ranges import findings
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema

#: How a silo without a schema is read: one npz with the arrays of ``silo_agent.data``.
NPZ: Final = "npz"


def gather(spec: JobSpec, folder: Path, silos: int | None = None) -> Deal:
    """The silos of a folder, each read and checked against the job. ``silos``: ``--silos``; the folder decides.

    Raises SpecError and DataRefused or NonFinite as ``read`` does, DataRefused also for a silo that does not fit.
    """
    found = read(spec.dataset, spec.schema, folder, fits=lambda data: check_rows(spec, data, spec.schema))
    if silos not in (None, len(found.silos)):
        raise SpecError("--silos", got=silos, want=f"none, or {len(found.silos)}: the number of silos in {folder}")
    return found


def read(
    dataset: str, schema: DataSchema | None, folder: Path, *, fits: Callable[[DataSet], None] = lambda data: None
) -> Deal:
    """The silos of a folder, by a schema or without one. ``dataset``: the name they register; ``fits``: raises
    DataRefused for data that a job cannot use.

    Raises SpecError for the folder: too few silos for a charter, names that cannot be a silo's id, an empty one,
    different forms, files that need a schema where there is none. DataRefused or NonFinite, naming the silo, for what
    is in the files.
    """
    places = _places(folder)
    least = least_silos(Floors())
    if len(places) < least:
        raise SpecError(
            "--data",
            got=f"{len(places)} silos in {folder}" + (f": {', '.join(places)}" if places else ""),
            want=f"at least {least}, one sub-folder or file each",
            remedy=f"With fewer than {least} silos a sum would show one silo's own.",
        )
    form = _form(schema, places)
    found: dict[str, DataSet] = {}
    references: dict[str, Reference] = {}
    by = form if schema is None else f"{form} and schema {schema.digest.hex()[:16]}"
    account = [f"{len(places)} silos by the data in {folder}, read by {by}"]
    for silo, place in places.items():
        try:
            if schema is None:
                found[silo] = load(_npz(silo, place), dataset)
            else:
                references[silo] = Reference.take(dataset, place, schema, form)
                found[silo] = references[silo].read(dataset)
            fits(found[silo])
        except (DataRefused, NonFinite) as refused:
            raise type(refused)(f"Silo {silo}: {refused.detail}", remedy=refused.remedy) from refused
        account += _account(silo, found[silo], schema)
        account += [f"{silo}: left out: {escaped(file)}" for file in _ignored(silo, place, form)]
    account += [f"left out: {escaped(path.name)}, whose ending no reader knows" for path in _strangers(folder)]
    return Deal({silo: arrays_of(data) for silo, data in found.items()}, {}, references, tuple(account))


def _places(folder: Path) -> dict[str, Path]:
    """Silo → its sub-folder or file, in order of the ids. What begins with a dot is no silo's."""
    if not folder.is_dir():
        raise SpecError("--data", got=f"{folder}, no folder", want="a folder with a sub-folder or file for each silo")
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders, files = [path for path in there if path.is_dir()], [path for path in there if _ending(path)]
    if folders and files:
        raise SpecError(
            "--data",
            got=f"sub-folders and files: {escaped(folders[0].name)}, {escaped(files[0].name)}",
            want="a sub-folder for each silo, or a file for each",
            remedy="Put other files somewhere else.",
        )
    places: dict[str, Path] = {}
    for path in folders or files:
        silo = path.name.removesuffix(_ending(path)) if files else path.name
        try:
            check_new_id(silo, "--data")
        except SpecError as bad:
            raise SpecError(
                "--data",
                got=escaped(path.name),
                want=bad.want,
                remedy="Rename it: sub-folders and files are named after their silos.",
            ) from bad
        if silo in places:
            raise SpecError("--data", got=f"{places[silo].name} and {path.name}", want=f"one file of silo {silo}")
        places[silo] = path.resolve()
    return dict(sorted(places.items()))


def _strangers(folder: Path) -> list[Path]:
    """The files beside the silos' that are no silo's, since no reader knows their ending."""
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in there if not path.is_dir() and not _ending(path)]


def _ignored(silo: str, place: Path, form: str) -> list[str]:
    """The files of a silo's folder that its reader does not take."""
    suffixes = (".npz",) if form == NPZ else readers.reader(form).suffixes
    return [file for file in manifest.present(silo, place) if not file.lower().endswith(suffixes)]


def _ending(path: Path) -> str:
    """The longest ending of a file's name that a built-in reader knows, as it is written; "" where none does."""
    known = {suffix for name in readers.BUILT_IN for suffix in readers.BUILT_IN[name].suffixes if suffix[0] == "."}
    fitting = [suffix for suffix in known if path.is_file() and path.name.lower().endswith(suffix)]
    return path.name[-len(max(fitting, key=len)) :] if fitting else ""


def _form(schema: DataSchema | None, places: Mapping[str, Path]) -> str:
    """The reader of every silo's files. Raises SpecError where there is none, or not the same one."""
    forms = {silo: _form_of(schema, silo, manifest.present(silo, place)) for silo, place in places.items()}
    first, *others = forms
    for other in others:
        if forms[other] != forms[first]:
            raise SpecError(
                "--data",
                got=f"{first} by {forms[first]}, {other} by {forms[other]}",
                want="files of one form at all silos",
                remedy="Convert the files of one of them.",
            )
    return forms[first]


def _form_of(schema: DataSchema | None, silo: str, files: Sequence[str]) -> str:
    if not files:
        raise SpecError(
            "--data", got=f"no file at {silo}", want="a silo's data", remedy="Fill the folder or remove it."
        )
    if schema is not None:
        found = readers.candidates(schema, files)
        if len(found) == 1:
            return found[0]
        several = f"{' and '.join(found)} at {silo}"
        raise SpecError(
            "--data",
            got=several if found else f"{escaped(files[0])} at {silo}",
            want="files of one form" if found else f"files that a reader of the job's schema ({schema.kind}) knows",
            remedy="docs/data.md lists the readers and their files.",
        )
    if all(file.lower().endswith(".npz") for file in files):
        return NPZ
    raise SpecError(
        "job.schema",
        got=f"none, and {escaped(files[0])} at {silo}",
        want="a schema: only npz files of numbers are read without one",
        remedy="Draft one with `fed data schema FILE --target COLUMN`, and name it in the job file: "
        'schema = "FILE.toml".',
    )


def _npz(silo: str, place: Path) -> Path:
    files = manifest.present(silo, place)
    if len(files) != 1:
        raise SpecError("--data", got=f"{len(files)} npz files at {silo}", want="one, or a schema in the job file")
    return manifest.root_of(place) / files[0]


def _account(silo: str, data: DataSet, schema: DataSchema | None) -> list[str]:
    """What is said of a silo's data before the start. Whoever gave the folder owns all of it."""
    rows = f"{silo}: {data.rows} training rows, {len(data.y_test)} test rows"
    return [rows, *(f"{silo}: look at: {finding}" for finding in findings(data, schema))]
