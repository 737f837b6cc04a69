"""How long each file of a home and each record of the ledger is kept; and removing what has expired.

Every file of a silo's home, an aggregator's home and an NVFlare kit is of exactly one kind, every kind of one class.
Audit records are not logs: they are kept for the life of the models and never removed here. The security log records
each removal, file by file, or folder by folder where files only mean something together (a run's uploads).
``table`` is the documentation.

Masked uploads are kept to replay a run's sums. They are removed when the run verifies with them, bit for bit, and
the last was written more than 30 days ago; afterwards ``fed verify`` says that they were not kept. Uploads that do not
verify stay: they are evidence.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from aggregator.home import AggregatorHome
from aggregator.ledger.records import Kind as Record
from crypto.errors import FederationError, SpecError
from crypto.home import Home
from crypto.pinned_charter import CONSORTIUM_FILE
from jobs.security_log.events import FIELDS, Event
from jobs.security_log.writer import SecurityLog
from silo_agent.home import SiloHome

DAY: Final = 86400


class Class(StrEnum):
    AUDIT = "audit"
    SECURITY = "security"
    UPLOAD = "upload"
    WORK = "work"
    MODEL = "model"
    TELEMETRY = "telemetry"
    SITE = "site"


#: Days after which a file of a class may be removed; None: never by age. And the retention rule in words.
CLASSES: Final[dict[Class, tuple[int | None, str]]] = {
    Class.AUDIT: (None, "ten years or more, as long as the models are used; never removed here"),
    Class.SECURITY: (365, "12 months after the month that they cover"),
    Class.UPLOAD: (30, "until the run verifies with them, then 30 days"),
    Class.WORK: (30, "30 days after they were last written; usually removed long before"),
    Class.MODEL: (365, "12 months after the run, or until the site leaves the federation"),
    Class.TELEMETRY: (30, "30 days: for operators, not a record"),
    Class.SITE: (None, "while the site takes part; removed by people, never by age"),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """``pattern``: of the path inside the home. Files with the same group ``unit`` go together, or not at all."""

    name: str
    of: Class
    pattern: re.Pattern[str]
    why: str


def _kind(name: str, of: Class, pattern: str, why: str) -> Kind:
    return Kind(name, of, re.compile(pattern), why)


_UPLOADS = "uploads"
_CONSORTIUM = re.escape(CONSORTIUM_FILE)
_RUN = r"jobs/[0-9a-f]{16}"
_RUN_ID = r"[0-9a-f]{16}([0-9a-f]{48})?"
#: Folders of ours in which a file may be left unfinished, other than those of runs.
_FOLDERS = r"(approvals|charters|evidence|keys|ledger|local|metrics|personal|receipts|runs)(/[^/]+)*"
_JOB = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

#: Of a silo's home, an aggregator's and a kit alike.
_ANYWHERE: Final = (
    _kind("settings", Class.SITE, r"(silo|aggregator)\.json|policy\.toml|metrics\.port", "id and rules of this site"),
    _kind("enrolment", Class.SITE, r"member\.json|aggregator\.pub", "public keys to be enrolled"),
    _kind("key", Class.SITE, r"keys/[^/]+\.key", "made here, never leaves; replaced by a new epoch"),
    _kind(
        "charter",
        Class.AUDIT,
        rf"charter\.bin|{_CONSORTIUM}|charters/\d{{6}}\.bin",
        "members and keys, for old records",
    ),
    _kind("security-log", Class.SECURITY, r"security(-\d{4}-\d{2}(\.\d+)?)?\.jsonl", "who did what at this site"),
    _kind("security-head", Class.SITE, r"security\.head", "where the security log ends"),
    _kind("log", Class.TELEMETRY, r"(error_)?log(_fl)?\.(txt|json)(\.\d+)?|pid\.fl", "debug output of processes"),
    _kind(
        "metrics",
        Class.TELEMETRY,
        r"metrics/(counter|histogram|gauge_[a-z]+)_\d+\.db(\.damaged)?",
        "counters of processes",
    ),
    _kind(
        "unfinished",
        Class.WORK,
        rf"({_FOLDERS}/)?[^/]+\.(new|part)",
        "a file that was not written to its end",
    ),
)
_OF_SILO: Final = (
    _kind("salt", Class.AUDIT, r"salt", "without it no data commitment can be opened to an auditor"),
    _kind("approval", Class.AUDIT, r"approvals/[^/]+\.(approval|denial|grant)", "the data owner's signed decision"),
    _kind("receipt", Class.AUDIT, r"receipts/[^/]+\.bin", "what the silo agreed to and each step's result, signed"),
    _kind("contradiction", Class.AUDIT, r"evidence/[^/]+\.bin", "proof that a party signed a contradiction"),
    _kind("journal", Class.AUDIT, r"journal\.(jsonl|spent)", "all that the silo promised, released and spent"),
    _kind("run-notes", Class.WORK, rf"runs/{_RUN_ID}\.safetensors", "the silo's progress in a run, its local expert"),
    _kind("personal-model", Class.MODEL, rf"personal/{_RUN_ID}\.safetensors", "the silo's own model of a run"),
    _kind("catalogue", Class.SITE, r"(syft|data)/.+", "data sets, mock data and requests; the data owner removes them"),
    _kind("probe", Class.WORK, r"probe\.json|probe/.+", "figures of the demonstration"),
)
_OF_AGGREGATOR: Final = (
    _kind("ledger", Class.AUDIT, r"ledger/ledger\.jsonl(\.head)?", "the record of every run: see the kinds of record"),
    _kind(
        "checkpoint",
        Class.AUDIT,
        rf"{_RUN}/checkpoints/[^/]+",
        "the weights of published versions, and how they were made",
    ),
    _kind("step-evidence", Class.AUDIT, rf"{_RUN}/evidence/[^/]+", "the signed messages of each step"),
    _kind("predictor", Class.AUDIT, rf"{_RUN}/predictor\.py", "the code a published version runs"),
    _kind("release", Class.AUDIT, rf"{_RUN}/release\.sha256", "the files of the release that made a run"),
    _kind("model-card", Class.AUDIT, rf"{_RUN}/model-card\.md", "what a version is for, how it was made, its limits"),
    _kind("run-index", Class.AUDIT, rf"{_RUN}/(mlflow\.json|report\.html)", "which registry entry a run became"),
    _kind("upload", Class.UPLOAD, rf"(?P<unit>{_RUN}/uploads(\.removed)?)/.+", "masked words, to replay a run's sums"),
    _kind("sums", Class.WORK, rf"{_RUN}/sums/.+", "opened sums that some silo still lacks"),
    _kind("events", Class.TELEMETRY, rf"{_RUN}/events\.jsonl", "a run's progress, for live display"),
    _kind("run-unfinished", Class.WORK, rf"{_RUN}/[^/]+\.(new|part)", "a file that was not written to its end"),
    _kind("registry", Class.AUDIT, r"mlflow\.db(-\w+)?|mlartifacts/.+", "model versions, cards, aliases, lineage"),
    _kind(
        "registry-index",
        Class.SITE,
        rf"lineage\.(json|lock)|run\.lock|interrupted\.json|{_RUN}/lock",
        "locks, interrupted runs, and how far MLflow has caught up",
    ),
    _kind("job-store", Class.SITE, r"nvflare/.+", "NVFlare's own store; `nvflare job delete` removes from it"),
)
_OF_KIT: Final = (
    _kind("kit", Class.SITE, r"(startup|local|transfer)/.*|readme\.txt", "certificates and the site's own rules"),
    _kind("nvflare-audit", Class.SECURITY, r"audit\.log", "NVFlare's log of administrators' commands"),
    _kind("job-folder", Class.TELEMETRY, rf"(?P<unit>{_JOB})/.+", "a job as submitted, and NVFlare's debug output"),
)
KINDS: Final = (*_ANYWHERE, *_OF_SILO, *_OF_AGGREGATOR, *_OF_KIT)

#: Class of each kind of record on the ledger, and why. The ledger is one file: they share its class.
RECORDS: Final[dict[Record, tuple[Class, str]]] = {
    Record.CHARTER: (Class.AUDIT, "the rules and keys that applied"),
    Record.RUN_STARTED: (Class.AUDIT, "which job, plan, code and purpose"),
    Record.RUN_RESUMED: (Class.AUDIT, "that a run was resumed, and from which step"),
    Record.APPROVAL: (Class.AUDIT, "what the data owner signed"),
    Record.STEP_OPENED: (Class.AUDIT, "which silos were invited"),
    Record.SILO_LOST: (Class.AUDIT, "which silo did not answer, and in which phase"),
    Record.REFUSAL: (Class.AUDIT, "which silo refused, with its signed code"),
    Record.STEP_ATTESTED: (Class.AUDIT, "the survivors of a step, before shares were asked for"),
    Record.STEP_VOID: (Class.AUDIT, "why a step has no result"),
    Record.STEP_CLOSED: (Class.AUDIT, "cohort, transcript, result, data commitments and approvals"),
    Record.RUN_FINISHED: (Class.AUDIT, "the final state and who countersigned it"),
    Record.RUN_FAILED: (Class.AUDIT, "what ended a run"),
    Record.MODEL_PUBLISHED: (Class.AUDIT, "which version got which alias, and who moved it"),
    Record.WITHDRAWAL: (Class.AUDIT, "which silo left, and which models contain its data"),
    Record.RECOVERED: (Class.AUDIT, "that an incomplete line was removed"),
}


@dataclass(frozen=True, slots=True)
class Expired:
    """An expired file, or a folder of files that are removed together. ``last``: when it was last written."""

    kind: Kind
    path: Path
    bytes: int
    last: float


def verified_run(home: AggregatorHome, run: str) -> None:
    """Raise EvidenceError unless a run verifies as it lies here, its uploads replayed."""
    from aggregator.verify.checks import verify_run

    verify_run(home, run)


def is_kit(root: Path) -> bool:
    """Whether a folder is a hardened NVFlare kit of a site."""
    return (root / "local" / "consilium.json").is_file() and (root / "startup").is_dir()


def kinds_at(root: Path) -> tuple[Kind, ...]:
    """The kinds of files that a folder may hold. Raises SpecError for a folder that is no home and no kit: what lies
    there is somebody else's."""
    keys = Home(root).keys_folder.is_dir()  # somebody else may have a silo.json
    if keys and SiloHome(root).exists():
        return (*_ANYWHERE, *_OF_SILO)
    if keys and AggregatorHome(root).exists():
        return (*_ANYWHERE, *_OF_AGGREGATOR)
    if is_kit(root):
        return (*_ANYWHERE, *_OF_KIT)
    raise SpecError(
        str(root),
        got="a folder without keys and silo.json, keys and aggregator.json, or local/consilium.json"
        if root.is_dir()
        else "no folder",
        want="a silo's or aggregator's home, or a kit",
        remedy="Nothing was looked at and nothing removed. Check --home and CONSILIUM_HOME.",
    )


def kind_of(path: str, kinds: tuple[Kind, ...] = KINDS) -> Kind:
    """The kind of a path inside a home or kit, with ``/``. Raises SpecError for a file of no kind."""
    found = [kind for kind in kinds if kind.pattern.fullmatch(path)]
    if len(found) != 1:
        raise SpecError(path, got=[kind.name for kind in found], want="a file of one kind: see `fed retention`")
    return found[0]


def contents(root: Path) -> Iterator[tuple[Path, Kind | None]]:
    """Every file of a home with its kind; None for a file of no kind, which is never removed. Raises SpecError for a
    folder that is no home and no kit."""
    kinds = kinds_at(root)
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder) / name
            try:
                yield path, kind_of(path.relative_to(root).as_posix(), kinds)
            except SpecError:
                yield path, None


def plan(
    root: Path,
    now: float,
    *,
    verified: Callable[[AggregatorHome, str], None] = verified_run,
    held: Callable[[Path, FederationError], None] = lambda path, why: None,
) -> list[Expired]:
    """What has expired. ``verified`` raises for a run that does not verify; ``held`` is called with uploads that stay
    for that reason. Nothing is removed. Raises SpecError for a folder that is no home and no kit."""
    units: dict[Path, list[tuple[Kind, Path, os.stat_result]]] = {}
    for path, kind in contents(root):
        if kind is not None and not _in_use(path):
            units.setdefault(_unit(root, path, kind), []).append((kind, path, path.lstat()))
    found = []
    for path, files in sorted(units.items()):
        kind, days = files[0][0], CLASSES[files[0][0].of][0]
        last = max(_written(one, stat) for _, one, stat in files)
        if days is None or now - last <= days * DAY:
            continue
        if path.name == _UPLOADS:
            try:
                verified(AggregatorHome(root), path.parent.name)
            except FederationError as why:
                held(path, why)
                continue
        found.append(Expired(kind, path, sum(stat.st_size for _, _, stat in files), last))
    return found


def apply(root: Path, expired: list[Expired], log: SecurityLog) -> int:
    """Remove them; how many bytes were freed. The security log records each. Raises SpecError, before anything is
    removed, for a folder that is no home and no kit, and for a file of a class that does not expire."""
    kinds = kinds_at(root)
    for one in expired:
        if CLASSES[one.kind.of][0] is None or kind_of(_inside(root, one), kinds) is not one.kind:
            raise SpecError(str(one.path), got=one.kind.of, want="a file of a class that expires")
    for one in expired:
        if one.path.is_dir():
            shutil.rmtree(_aside(one.path) if one.path.name == _UPLOADS else one.path)
        else:
            one.path.unlink(missing_ok=True)
        shown = one.path.relative_to(root).as_posix()
        fits = FIELDS["path"][1]
        log(Event.RECORD_REMOVED, kind=one.kind.name, path=shown if fits(shown) else one.kind.name, bytes=one.bytes)
    return sum(one.bytes for one in expired)


def _aside(uploads: Path) -> Path:
    """Rename a run's uploads first, so that they disappear at once: a part of them would fail verification."""
    gone = uploads.with_name(f"{_UPLOADS}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    return uploads.rename(gone)


def _unit(root: Path, path: Path, kind: Kind) -> Path:
    """The folder that goes as a whole with this file, or the file."""
    if not kind.pattern.groupindex:
        return path
    return root / kind.pattern.sub(r"\g<unit>", path.relative_to(root).as_posix())


def _inside(root: Path, one: Expired) -> str:
    """A path that has the kind: of a file, or of a file that a folder could hold."""
    inside = one.path.relative_to(root).as_posix()
    return f"{inside}/a" if one.kind.pattern.groupindex else inside


def _written(path: Path, stat: os.stat_result) -> float:
    """When a file was last written. A security log that was put aside is as old as its month."""
    month = re.fullmatch(r"security-(\d{4})-(0[1-9]|1[0-2])(?:\.\d+)?\.jsonl", path.name)
    if month is None:
        return stat.st_mtime
    year, number = int(month[1]), int(month[2])
    return datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()


def _in_use(path: Path) -> bool:
    """The log that is being written, and the counters of a process that lives."""
    if path.name == "security.jsonl":
        return True
    counters = re.fullmatch(r"\w+_(\d+)\.db", path.name)
    return counters is not None and (counters[1] == "0" or Path("/proc", counters[1]).exists())


def table() -> str:
    """Kinds and records with their classes as Markdown tables, for the documentation."""
    classes = (f"| {name} | {kept} |\n" for name, (_, kept) in CLASSES.items())
    kinds = (f"| {kind.name} | {kind.of} | {kind.why} |\n" for kind in KINDS)
    records = (f"| `{record}` | {of} | {why} |\n" for record, (of, why) in RECORDS.items())
    return (
        "| class | kept |\n|---|---|\n"
        + "".join(classes)
        + "\n| kind of file | class | what it is |\n|---|---|---|\n"
        + "".join(kinds)
        + "\n| kind of record on the ledger | class | what it says |\n|---|---|---|\n"
        + "".join(records)
    )
