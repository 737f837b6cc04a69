"""A model with everything that proves it, in one file that verifies on another machine.

A bundle is a zip (``aggregator.verify.zip_format``) of the parts of the aggregator's home that one finished run rests
on, at the same paths, behind ``manifest.json``, which names each with size and SHA-256. Equal homes make equal bundles.

The manifest is not signed and need not be: it detects damage. Forgery is detected by the signatures inside: of the
consortium on the charters, of the aggregator on the ledger, of silos and data owners on the rest. A bundle has the
whole ledger, since a part of a chain proves nothing; so it names the federation's other runs too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from urllib.parse import quote
from zlib import crc32

from aggregator.home import AggregatorHome
from aggregator.ledger.format import canonical, read
from aggregator.ledger.records import run_of
from aggregator.run_record import RunRecord
from aggregator.verify.checks import verify_in
from aggregator.verify.report import CheckLine, VerificationReport
from aggregator.verify.verified_run import read_ledger, snapshot
from aggregator.verify.zip_format import CHUNK, Checker, Member, directory, measure, total
from crypto import durable
from crypto.errors import EvidenceError, FederationError, SpecError
from crypto.pinned_charter import CHARTER_FILE, CONSORTIUM_FILE
from crypto.release_manifest import ReleaseManifest

FORMAT = 1
MANIFEST = "manifest.json"
#: Longest manifest: of as many members as fit.
MOST_MANIFEST = 1 << 24

_ABOUT = "A run of a Consilium federation with its evidence. Verify it: fed verify FILE --consortium FINGERPRINT"
_RUN = re.compile(r"[0-9a-f]{16}")
_FEDERATION = (
    rf"{re.escape(CONSORTIUM_FILE)}|{re.escape(CHARTER_FILE)}|charters/\d{{6}}\.bin|ledger/ledger\.jsonl(?:\.head)?"
)
_PARTS = (
    r"checkpoints/\d{6,9}\.(?:safetensors|json)|evidence/\d{6,9}\.bin|predictor\.py|release\.sha256|mlflow\.json"
    r"|model-card\.md|uploads/\d{6,9}/[a-z0-9][a-z0-9.-]{0,62}/[A-Za-z0-9][A-Za-z0-9._%-]{0,126}\.u32"
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A written bundle. ``sha256``: of the whole file, to be given to the receiver out of band."""

    path: Path
    members: int
    size: int
    sha256: str


# --- writing -----------------------------------------------------------------------------------------------------


def write_bundle(home: AggregatorHome, run: str, out: Path, *, uploads: bool = True) -> Bundle:
    """Write the bundle of a finished run, 0600, whole or not at all. ``uploads``: with those that were kept.

    Raises SpecError for a run that has no end on the ledger, a file that exists, or more than a zip can hold.
    """
    with snapshot(home.ledger_path) as ledger:
        files = {
            "ledger/ledger.jsonl": ledger,
            "ledger/ledger.jsonl.head": ledger.with_name("ledger.jsonl.head"),
            **_federation_files(home),
            **_run_files(home, run, ledger, uploads),
        }
        measured = {name: measure(files[name]) for name in sorted(files)}
        manifest = _manifest(run, {name: (size, digest) for name, (size, _, digest) in measured.items()})
        members = [Member(MANIFEST, len(manifest), crc32(manifest))]
        members += [Member(name, size, crc) for name, (size, crc, _) in measured.items()]
        total((member.name, member.size) for member in members)
        return _write(out, members, {MANIFEST: manifest}, files)


def _federation_files(home: AggregatorHome) -> dict[str, Path]:
    paths = (home.pinned.consortium_path, home.pinned.path, *home.pinned.epoch_files())
    return {path.relative_to(home.root).as_posix(): path for path in paths if path.is_file()}


def _run_files(home: AggregatorHome, run: str, ledger: Path, uploads: bool) -> dict[str, Path]:
    """Path in the bundle → file, of the files in the run's folder that the ledger refers to."""
    record = RunRecord(run, tuple(entry for entry in read(ledger) if run_of(entry.record) == run))
    if record.finished is None:
        raise SpecError("run", got=run, want="a run that has finished on this ledger")
    folder, known = home.run_folder(run).root, re.compile(_PARTS)
    lanes = {entry.record.k: entry.record.lanes_open for entry in record.closed}
    opened = {(f"{k:06d}", f"{quote(lane, safe='')}.u32") for k in lanes for lane in lanes[k]}
    found = {}
    for path in folder.rglob("*"):
        part = path.relative_to(folder)
        if not path.is_file() or not known.fullmatch(part.as_posix()):
            continue
        if part.parts[0] != "uploads" or (uploads and (part.parts[1], part.name) in opened):
            found[f"jobs/{run}/{part.as_posix()}"] = path
    return found


def _manifest(run: str, members: Mapping[str, tuple[int, str]]) -> bytes:
    listed = _listed((name, size, digest) for name, (size, digest) in members.items())
    versions = {"bundle": FORMAT, "consilium": metadata.version("consilium-fl")}
    return canonical({"about": _ABOUT, "run": run, "versions": versions, "members": listed}) + b"\n"


def _write(out: Path, members: list[Member], made: Mapping[str, bytes], files: Mapping[str, Path]) -> Bundle:
    try:
        with durable.creating(out) as file:
            for member in members:
                file.write(member.local())
                with BytesIO(made[member.name]) if member.name in made else files[member.name].open("rb") as source:
                    _copy(member, source, file)
            file.write(directory(members))
    except FileExistsError:
        raise SpecError(str(out), got="a file that exists", want="a new name") from None
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    size, _, digest = measure(out)
    return Bundle(out, len(members), size, digest)


def _copy(member: Member, source: BinaryIO, file: BinaryIO) -> None:
    size = crc = 0
    while chunk := source.read(CHUNK):
        file.write(chunk)
        size, crc = size + len(chunk), crc32(chunk, crc)
    if (size, crc) != (member.size, member.crc):
        raise EvidenceError(member.name, expected="an unchanged file", found="a file that changed while it was copied")


# --- verifying ---------------------------------------------------------------------------------------------------


def verify_bundle(
    path: Path,
    *,
    consortium: str | Path | None = None,
    release: ReleaseManifest | None = None,
    show: Callable[[CheckLine], None] = lambda line: None,
) -> VerificationReport:
    """Check every byte of a bundle, then its run as ``verify_run`` does. Parameters and errors are the same."""
    report = VerificationReport(path.name, show)
    with unpacked(path, report) as (home, run):
        report.target = f"run {run}"
        verify_in(read_ledger(home, consortium, report), run, report, release=release)
        folder = home.run_folder(run)
        if unsigned := [path.name for path in (folder.mlflow_path, folder.model_card_path) if path.exists()]:
            report.not_checked("unsigned", f"{', '.join(unsigned)}: for people and for MLflow, not signed")
    return report


@contextmanager
def unpacked(path: Path, report: VerificationReport) -> Iterator[tuple[AggregatorHome, str]]:
    """(home, run) of a bundle: its files in a private temporary folder, every byte of the archive checked.

    A file is written only if the manifest names it, and only names of a home's files are accepted, so none leaves the
    folder.
    Raises EvidenceError that names the member, or the byte of the zip's own structure.
    """
    try:
        size, file = path.stat().st_size, path.open("rb")
    except OSError as missing:
        raise EvidenceError(path.name, expected="a readable bundle", found=missing.strerror) from missing
    with file, TemporaryDirectory(prefix="consilium-") as place:
        checker = Checker(file, path.name, size)
        run, members = _read_manifest(path.name, checker.first(MANIFEST, MOST_MANIFEST), size)
        for name, length, digest in members:
            target = Path(place) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                checker.member(name, length, digest, out)
        checker.end()
        report.ok("bundle", f"{path.name}: {size} bytes, {len(members)} files as the manifest says")
        yield AggregatorHome(Path(place)), run


def _read_manifest(bundle: str, data: bytes, size: int) -> tuple[str, list[tuple[str, int, str]]]:
    """(run, members as name, size and SHA-256), once its form, names and sizes are those of a bundle."""
    where = f"{bundle}, {MANIFEST}"
    try:
        fields = json.loads(data)
        run, version = fields["run"], fields["versions"]["bundle"]
        members = [(str(one["name"]), int(one["size"]), str(one["sha256"])) for one in fields["members"]]
        expected = canonical({**fields, "about": _ABOUT, "run": run, "members": _listed(members)}) + b"\n"
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, FederationError) as bad:
        raise EvidenceError(where, expected="a bundle's manifest", found=f"{type(bad).__name__}: {bad}") from bad
    if version != FORMAT:
        raise EvidenceError(where, expected=f"format {FORMAT}", found=f"format {version}")
    if expected != data or fields.keys() != {"about", "run", "versions", "members"}:
        raise EvidenceError(where, expected="a manifest in canonical form", found="other fields or another encoding")
    if not isinstance(run, str) or not _RUN.fullmatch(run):
        raise EvidenceError(where, expected="a run id", found=repr(run))
    known = re.compile(rf"{_FEDERATION}|jobs/{run}/(?:{_PARTS})")
    names = [name for name, _, _ in members]
    for name, length, _ in members:
        if not known.fullmatch(name):
            raise EvidenceError(where, expected="files of one run's home", found=repr(name))
        if not 0 <= length <= size:
            raise EvidenceError(f"{where}, {name}", expected=f"at most {size} bytes", found=f"{length} bytes")
    if names != sorted(set(names)):
        raise EvidenceError(where, expected="each name once, sorted", found="a name twice, or names not sorted")
    wanted = total([(MANIFEST, len(data)), *((name, length) for name, length, _ in members)])
    if wanted != size:
        raise EvidenceError(bundle, expected=f"{wanted} bytes, by its manifest", found=f"{size} bytes")
    return run, members


def _listed(members: Iterable[tuple[str, int, str]]) -> list[dict[str, Any]]:
    return [{"name": name, "size": size, "sha256": digest} for name, size, digest in members]
