"""The charters of a federation, checked: each is signed by the consortium and names the one before it.

They are on the ledger (``charter`` records), in ``charters/`` and in ``charter.bin``. The aggregator is not trusted:
the consortium's key comes from the auditor, or else its fingerprint is shown, to be compared out of band.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from aggregator.epochs import Epochs
from aggregator.ledger.format import Entry
from aggregator.ledger.records import CharterRecorded, Record
from aggregator.protocols.choice import open_charter
from aggregator.protocols.interface import Charter
from aggregator.verify.report import VerificationReport, checking, same
from crypto.errors import BadSignature, EvidenceError, FederationError, SpecError
from crypto.home import Home
from crypto.keys import KEY_BYTES, PublicIdentity

_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
#: What members and auditors do with a fingerprint that is only shown.
_COMPARE = "compare it with the fingerprint that the consortium gave you"


def consortium_key(home: Home, given: str | Path | None, report: VerificationReport) -> PublicIdentity:
    """The consortium's key.

    ``given``: its file, or its fingerprint, which the home's key must then have. Without it the key pinned in the home
    is taken; that proves nothing about who made the home, and the report says so. Raises EvidenceError for a key that
    is missing or another one, SpecError for a ``given`` that is neither a file nor a fingerprint.
    """
    path = home.pinned.consortium_path
    if given is not None and not isinstance(given, Path) and not os.path.isfile(given):
        wanted = re.sub(r"[\s:]", "", given).lower()
        if not _FINGERPRINT.fullmatch(wanted):
            raise SpecError(
                "--consortium", got=given, want="a file with the consortium's public key, or its fingerprint"
            )
        key = _read_key(path)
        same(path.name, _spaced(wanted), key.fingerprint)
        report.ok("consortium", f"{key.fingerprint}, as given")
        return key
    if given is not None:
        key = _read_key(Path(given))
        if path.exists():
            same(path.name, key.fingerprint, _read_key(path).fingerprint)
        report.ok("consortium", f"{key.fingerprint}, from {Path(given).name}")
        return key
    key = _read_key(path)
    report.not_checked("consortium", f"the key came with the evidence: {key.fingerprint}; {_COMPARE}")
    return key


def _read_key(path: Path) -> PublicIdentity:
    try:
        data = path.read_bytes()
    except OSError as missing:
        raise EvidenceError(path.name, expected="the consortium's public key", found=missing.strerror) from missing
    with checking(path.name, f"a public key of {KEY_BYTES} bytes"):
        return PublicIdentity(data)


def _spaced(digits: str) -> str:
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def read_epochs(
    home: Home, entries: Iterable[Entry[Record]], consortium: PublicIdentity, report: VerificationReport
) -> Epochs:
    """Check every charter of ledger and home. Raises EvidenceError for the first that the consortium did not sign or
    that does not follow the one before."""
    found: dict[int, tuple[str, Charter]] = {}
    for where, data, claimed in _sources(home, entries):
        with checking(where, "a charter that the consortium signed"):
            charter = open_charter(data, consortium)
        if claimed is not None:
            same(where, claimed, (charter.epoch, charter.digest.hex()))
        place, known = found.setdefault(charter.epoch, (where, charter))
        if known.digest != charter.digest:
            expected = f"one charter of epoch {charter.epoch}: {known.digest.hex()}, as in {place}"
            raise EvidenceError(where, expected=expected, found=charter.digest.hex())
    if not found:
        raise _no_charter()
    ordered = [found[epoch] for epoch in sorted(found)]
    gaps = [
        f"{old.epoch + 1} to {new.epoch - 1}" for (_, old), (_, new) in pairwise(ordered) if new.epoch > old.epoch + 1
    ]
    for (_, old), (where, new) in pairwise(ordered):
        same(f"{where}, federation", old.federation, new.federation)
        if new.epoch == old.epoch + 1:
            with checking(where, f"the successor of epoch {old.epoch}"):
                new.check_succeeds(old)
    if (first := ordered[0][1].epoch) > 1:
        gaps.insert(0, f"1 to {first - 1}")
    charters = tuple(charter for _, charter in ordered)
    names = ", ".join(f"{charter.epoch} ({charter.digest.hex()[:16]})" for charter in charters)
    report.ok("charters", f"federation {charters[-1].federation!r}, epoch {names}: signed by the consortium")
    if gaps:
        report.not_checked("charters", f"epochs {', '.join(gaps)} are missing: succession across them not checked")
    return Epochs(consortium, charters)


def _sources(home: Home, entries: Iterable[Entry[Record]]) -> Iterator[tuple[str, bytes, tuple[int, str] | None]]:
    """(where, signed bytes, the epoch and digest that the place itself claims)."""
    for entry in entries:
        record = entry.record
        if isinstance(record, CharterRecorded):
            claimed = (record.epoch, record.charter_digest)
            yield f"ledger.jsonl line {entry.seq + 1} (charter)", bytes.fromhex(record.charter), claimed
    for path in (*home.pinned.epoch_files(), home.pinned.path):
        if path.is_file():
            yield path.relative_to(home.root).as_posix(), path.read_bytes(), None


def signing_charters(home: Home, ledger: Path, consortium: PublicIdentity) -> list[Charter]:
    """The charters whose aggregators may have signed the ledger, by epoch, while its lines are still to be checked.

    Raises EvidenceError for a file that the consortium did not sign. A line that cannot be decoded is skipped here: the
    verification of the ledger reports it.
    """
    found = []
    for where, data, _ in _sources(home, ()):
        with checking(where, "a charter that the consortium signed"):
            found.append(open_charter(data, consortium))
    for line in ledger.read_bytes().splitlines():
        if b'"kind":"charter"' in line:
            with suppress(ValueError, KeyError, TypeError, RecursionError, FederationError):
                found.append(open_charter(bytes.fromhex(json.loads(line)["record"]["charter"]), consortium))
    if not found:
        raise _no_charter()
    return sorted(found, key=lambda charter: charter.epoch)


def _no_charter() -> EvidenceError:
    return EvidenceError("charter.bin", expected="a charter that the consortium signed", found="none")


class KeyRing:
    """Checks the ledger's lines in order: each under the aggregator's key of an epoch, never again under the key of an
    earlier one once a later key has signed. ``used``: the key of each signature so far.
    """

    def __init__(self, charters: Sequence[Charter]) -> None:
        self._keys = tuple(dict.fromkeys(charter.aggregator for charter in charters))
        self._at = 0
        self.used: list[PublicIdentity] = []

    def verify(self, signature: bytes, message: bytes) -> None:
        for place in range(self._at, len(self._keys)):
            try:
                self._keys[place].verify(signature, message)
            except BadSignature:
                continue
            self._at = place
            self.used.append(self._keys[place])
            return
        raise BadSignature("No charter's aggregator key, from the one in use on, verifies this signature.")
