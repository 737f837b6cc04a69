"""The code that a published model runs: a file of the release whose digest the data owners approved.

The aggregator alone writes ``predictor.py`` and names its digest, so neither proves anything about it. The code digest
does: every survivor's data owner signed it, and it is the digest of ``release.sha256`` in the run's folder, which lists
the files of that release. So anyone can check the predictor, whatever release is installed where they check it.

Runs of ``consilium/1`` may lack that file. Their predictor is compared with the release that is installed here if it is
the run's; otherwise it is not checked, and the report says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from aggregator.home import PREDICTOR_FILE, RELEASE_FILE, RunFolder
from aggregator.ledger.format import Entry, at
from aggregator.ledger.records import RunStarted
from aggregator.run_record import RunRecord, nested_json
from aggregator.verify.report import VerificationReport, checking, same
from crypto.errors import EvidenceError
from crypto.release_manifest import MOST_BYTES, PREDICTOR, ReleaseManifest

#: The protocol whose first releases kept no manifest.
_WITHOUT_MANIFEST: Final = "consilium/1"
_FIELDS: Final = {"dtype", "file", "modes", "requirements", "settings", "sha256", "shape"}
#: What a predictor may have pip install. Our own package is on no index and is left out (decision 0020).
_PACKAGES: Final = frozenset({"consilium", "mlflow", "monai", "numpy", "peft", "safetensors", "torch", "transformers"})
#: A name and versions: no address, no path, no option of pip, no second line.
_REQUIREMENT = re.compile(r"([a-z0-9-]+)(?:\[[a-z,]+\])?(?:(?:[=<>!~]=|[<>])[0-9a-z.*]+(?:,|$))*")


@dataclass(frozen=True, slots=True)
class PredictorCheck:
    """A run's predictor, found to be the ledger's file and, where ``files`` is known, its release's. ``release``: what
    is installed here."""

    started: Entry[RunStarted]
    files: ReleaseManifest | None
    release: ReleaseManifest | None

    @classmethod
    def of(cls, record: RunRecord, folder: RunFolder, release: ReleaseManifest | None) -> PredictorCheck | None:
        """None for a run whose versions cannot predict. Raises EvidenceError as ``checked_predictor``."""
        if record.started.record.predictor is None:
            return None
        check_facts(record, record.started.record.predictor)
        return cls(record.started, checked_predictor(folder, record.started, release), release)

    def report_to(self, report: VerificationReport, approved: Mapping[str, bytes]) -> None:
        """Add the line of this check. ``approved``: silo → code digest in its data owner's checked approval."""
        code = self.started.record.code_digest
        used = (code or "none")[:16]
        here = self.release.digest.hex()[:16] if self.release is not None else "not given"
        if self.files is None:
            report.not_checked(
                "predictor",
                f"predictor not checked: the run used release {used}, this is release {here}, and {RELEASE_FILE} is "
                "not with the run. Do not load the model: it would run code that only the aggregator vouches for",
            )
            return
        name = f"{PREDICTOR_FILE} is {PREDICTOR} of release {used}"
        if silos := sorted(silo for silo, given in approved.items() if given.hex() == code):
            report.ok("predictor", f"{name}, which the data owners of {', '.join(silos)} approved")
        elif self.release is not None and self.release.digest.hex() == code:
            report.ok("predictor", f"{name}, which is installed here")
        else:
            said = f"predictor not checked: {name}, which no data owner approved; this is release {here}"
            report.not_checked("predictor", said)


def checked_predictor(
    folder: RunFolder, started: Entry[RunStarted], release: ReleaseManifest | None = None
) -> ReleaseManifest | None:
    """The files of the run's release, of which the predictor in ``folder`` is one; None where they are not known here.

    Raises EvidenceError for a file other than the ledger's or the release's, and for a release that is missing where
    the run's protocol has one.
    """
    facts = started.record.predictor or {}
    where = f"{folder.run}/{PREDICTOR_FILE}"
    same(at(started, "predictor.file"), PREDICTOR_FILE, facts.get("file"))
    try:
        found = f"SHA-256 {sha256(folder.predictor_path.read_bytes()).hexdigest()}"
    except OSError as missing:
        raise EvidenceError(where, expected=f"SHA-256 {facts.get('sha256')}", found=missing.strerror) from missing
    same(where, f"SHA-256 {facts.get('sha256')}", found)
    files = _release_of(folder, started)
    if files is None and release is not None and release.digest.hex() == started.record.code_digest:
        files = release
    if files is not None:
        expected = f"SHA-256 {files.files.get(PREDICTOR)}, {PREDICTOR} of the release that was approved"
        same(where, expected, f"{found}, {PREDICTOR} of the release that was approved")
    return files


def _release_of(folder: RunFolder, started: Entry[RunStarted]) -> ReleaseManifest | None:
    where = f"{folder.run}/{RELEASE_FILE}"
    expected = f"the files of release {started.record.code_digest}"
    try:
        with folder.release_path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as missing:
        if started.record.protocol == _WITHOUT_MANIFEST:
            return None
        raise EvidenceError(where, expected=expected, found=missing.strerror) from missing
    with checking(where, expected):
        files = ReleaseManifest.from_bytes(data)
    same(where, expected, f"the files of release {files.digest.hex()}")
    return files


def check_facts(record: RunRecord, facts: Mapping[str, Any]) -> None:
    """What the aggregator says beside the code follows from the approved job, and pip is asked for known packages only:
    an installation runs code, too. Raises EvidenceError."""
    where = at(record.started, "predictor")
    params = record.job.get("params")
    params = params if isinstance(params, dict) else {}
    same(f"{where}, fields", sorted(_FIELDS), sorted(facts))
    try:
        settings = nested_json(str(facts["settings"]))
    except ValueError as bad:
        raise EvidenceError(f"{where}, settings", expected="JSON", found=type(bad).__name__) from bad
    same(f"{where}, settings", dict, type(settings))
    for field, expected, found in (
        ("settings.method", record.job.get("method"), settings.get("method")),
        ("settings.params", _text(params), _text(settings.get("params"))),
        ("shape", _shape(params), facts["shape"]),
        ("dtype", "float32", facts["dtype"]),
        ("modes", ["global", "cold"], facts["modes"]),
    ):
        same(f"{where}, {field}", expected, found)
    needs = facts["requirements"]
    check_requirements(f"{where}, requirements", needs if isinstance(needs, list) else [needs])


def check_requirements(where: str, lines: Iterable[object]) -> None:
    """Raises EvidenceError unless each line asks pip for versions of a package that a predictor needs."""
    for line in lines:
        parts = _REQUIREMENT.fullmatch(line) if isinstance(line, str) else None
        if parts is None or parts[1] not in _PACKAGES:
            raise EvidenceError(where, expected=f"versions of {', '.join(sorted(_PACKAGES))}", found=repr(line))


def _shape(params: Mapping[str, Any]) -> list[object]:
    """The sides of a row by the job: ``shape``, sides with spaces between, or ``features``, one side."""
    text = params.get("shape")
    if isinstance(text, str) and all(side.isascii() and side.isdecimal() for side in text.split(" ")):
        return [int(side) for side in text.split(" ")]
    return [params.get("features")]


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
