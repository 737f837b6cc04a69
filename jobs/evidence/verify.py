"""``fed verify``: what the target is follows from its contents; then it is checked.

    a run id or a prefix of it, name/version, name@alias      in the aggregator's home (or bundle) of ``home``
    a run's folder                                            jobs/<run> in an aggregator's home
    a bundle                                                  a zip file
    a receipt                                                 of a silo: alone, and against the ledger of ``home``
    evidence                                                  of a silo's evidence/: two signed messages that contradict

Offline, with the base install.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aggregator.epochs import Epochs
from aggregator.home import AggregatorHome
from aggregator.protocols.choice import open_charter, verify_pair
from aggregator.protocols.interface import Charter, Proven
from aggregator.run_record import CheckedLedger
from aggregator.verify.bundle import unpacked, verify_bundle
from aggregator.verify.charters import consortium_key, read_epochs
from aggregator.verify.checks import verify_in, verify_run
from aggregator.verify.models import pick, versions
from aggregator.verify.receipts import check_receipt, compare, looks_like_receipt
from aggregator.verify.report import CheckLine, VerificationReport
from aggregator.verify.verified_run import read_ledger
from crypto.errors import EvidenceError, FederationError, SpecError
from crypto.home import Home
from crypto.keys import PublicIdentity
from jobs import release

_RUN = re.compile(r"[0-9a-f]{4,16}")
_ZIP = b"PK"
Show = Callable[[CheckLine], None]


def is_contradiction(target: str) -> bool:
    """Whether the target is a file of a silo's evidence/, or at least no bundle and no receipt."""
    path = Path(target)
    return os.path.isfile(target) and not _is_bundle(path) and not looks_like_receipt(path.read_bytes())


def contradiction(path: Path, consortium: str | None, charter: Path | None) -> tuple[Charter, Proven]:
    """The charter, and who signed two contradicting messages. Without ``charter`` and ``consortium`` those of the home
    that the file lies in are used."""
    pins = Home(path.resolve().parent.parent).pinned
    trusted = _charter(charter or pins.path, Path(consortium) if consortium else pins.consortium_path)
    return trusted, verify_pair(path.read_bytes(), trusted)


def check_mlflow(home: AggregatorHome, target: str, address: str, report: VerificationReport) -> None:
    """What MLflow shows of a run against the ledger. ``address``: of MLflow; "home": the database in the home.

    Raises EvidenceError with the first difference and all of them in the remedy, SpecError without MLflow installed.
    """
    try:
        from aggregator.tracking.compare_runs import compare as compare_mlflow
    except ImportError as missing:
        raise SpecError("--mlflow", got="no MLflow here", want="our package with the extra aggregator") from missing
    run = find_run(
        read_ledger(home, None, VerificationReport(target)), Path(target).name if os.path.isdir(target) else target
    )
    found = compare_mlflow(home.root, None if address == "home" else address, run)
    if found:
        first, rest = found[0], "; ".join(str(one) for one in found[1:])
        remedy = f"Also: {rest}." if rest else ""
        raise EvidenceError(first.where, expected=first.expected, found=first.found, remedy=remedy)
    report.ok("mlflow", f"run, versions and files of {run} are what the ledger makes of them")


def audit(
    target: str, *, home: Path | None, consortium: str | None = None, show: Show = lambda line: None
) -> VerificationReport:
    """Verify any target other than a contradiction. ``home``: an aggregator's home or a bundle; a receipt needs none.

    Raises EvidenceError at the first check that fails, SpecError for a target that does not exist.
    """
    path, here, is_file = Path(target), release.manifest(), os.path.isfile(target)
    if os.path.isdir(target):
        folder = path.resolve()
        if folder.parent.name != "jobs":
            raise SpecError("target", got=target, want="a run's folder: jobs/<run> in an aggregator's home")
        around = AggregatorHome(folder.parent.parent)
        return verify_run(around, folder.name, consortium=consortium, release=here, show=show)
    if is_file and _is_bundle(path):
        return verify_bundle(path, consortium=consortium, release=here, show=show)
    report = VerificationReport(target, show)
    if is_file:
        return _receipt(path, home, consortium, report)
    if home is None:
        remedy = "Give the aggregator's home, or a bundle, with --home. Files are given by their path."
        raise SpecError("target", got=target, want="a file, a run's folder, or a run or model of --home", remedy=remedy)
    with _opened(home, report) as place:
        ledger = read_ledger(place, consortium, report)
        run = find_run(ledger, target)
        report.target = f"run {run}"
        verify_in(ledger, run, report, release=here)
    return report


def find_run(ledger: CheckedLedger, text: str) -> str:
    """The run that an id, the beginning of one, name/version or name@alias names."""
    hits = [run for run in ledger.runs if run.startswith(text)] if _RUN.fullmatch(text) else []
    if len(hits) > 1:
        raise SpecError("run", got=text, want=f"one of {', '.join(hits)}")
    return hits[0] if hits else pick(versions(ledger), text).run


def _receipt(path: Path, home: Path | None, consortium: str | None, report: VerificationReport) -> VerificationReport:
    """A receipt lies in its silo's home, and the key pinned there is the one that the silo trusts."""
    around = Home(path.resolve().parent.parent)
    pinned_here = around.pinned.consortium_path.is_file()
    if home is None or not (home.is_file() or AggregatorHome(home).ledger_path.exists()):
        pins = Home(home) if home is not None else around if pinned_here else None
        if pins is None:
            remedy = (
                "Leave it in the silo's home, or give with --home the home of a silo or an aggregator, or a bundle."
            )
            raise SpecError("target", got=str(path), want="a receipt with a charter to check it by", remedy=remedy)
        check_receipt(path, _pinned(pins, consortium, report), report)
        report.not_checked("history", "against the aggregator's ledger: give its home, or a bundle, with --home")
        return report
    trusted = consortium or (around.pinned.consortium_path if pinned_here else None)
    with _opened(home, report) as place:
        ledger = read_ledger(place, trusted, report)
        compare(ledger, check_receipt(path, ledger.epochs, report), report)
    return report


def _pinned(home: Home, consortium: str | None, report: VerificationReport) -> Epochs:
    return read_epochs(home, (), consortium_key(home, consortium, report), report)


@contextmanager
def _opened(home: Path, report: VerificationReport) -> Iterator[AggregatorHome]:
    """An aggregator's home as it is, or the one inside a bundle."""
    if home.is_file():
        with unpacked(home, report) as (place, _):
            yield place
    else:
        yield AggregatorHome(home)


def _is_bundle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP or path.suffix == ".zip"


def _charter(charter: Path, consortium: Path) -> Charter:
    try:
        return open_charter(charter.read_bytes(), PublicIdentity(consortium.read_bytes()))
    except OSError as missing:
        remedy = "Give the charter with --charter and the consortium's public key with --consortium."
        raise SpecError(str(missing.filename), got=missing.strerror, want="a readable file", remedy=remedy) from missing
    except FederationError as bad:
        raise EvidenceError(str(charter), expected="a charter that the consortium signed", found=bad.detail) from bad
