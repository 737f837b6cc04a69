"""Which reader a thing is read with: the one place that decides.

A run is read with the protocol that its record run-started names; a single file (a charter, a receipt, two
contradicting messages) with that of its version byte. A protocol that was replaced has a frozen reader of its own.
"""

from __future__ import annotations

from typing import Any

from aggregator.protocols.interface import Charter, Proven
from aggregator.protocols.interface import Reader as ProtocolReader
from aggregator.protocols.live import Live
from aggregator.protocols.protocol1.reader import Protocol1
from crypto import encoding
from crypto.encoding import Reader
from crypto.errors import EvidenceError, Malformed
from crypto.keys import PublicIdentity

_LIVE: ProtocolReader = Live()
_PROTOCOL_1: ProtocolReader = Protocol1()


def reader(protocol: str, where: str) -> ProtocolReader:
    """The reader of the protocol of that name. Raises EvidenceError at ``where`` for a name that is not known."""
    for known in (_PROTOCOL_1, _LIVE):
        if known.name == protocol:
            return known
    names = " or ".join(dict.fromkeys((_PROTOCOL_1.name, _LIVE.name)))
    remedy = "A later release wrote it: verify it with that release."
    raise EvidenceError(where, expected=names, found=repr(protocol), remedy=remedy)


def of_version(version: int) -> ProtocolReader:
    """The reader of files with that version byte. Raises Malformed for one that is not known."""
    if version == 1:
        return _PROTOCOL_1
    if version == encoding.VERSION:
        return _LIVE
    raise Malformed(f"Version {version}, which this release does not know.")


def open_charter(signed: bytes, consortium: PublicIdentity) -> Charter:
    """A charter that the consortium signed. Raises Malformed, BadSignature, SpecError, ThresholdInfeasible."""
    return of_signed(signed).open_charter(signed, consortium)


def of_signed(signed: bytes) -> ProtocolReader:
    """The reader of a signed file, such as a receipt. Raises Malformed."""
    return of_version(Reader(Reader(signed).blob()).u8())


def verify_pair(evidence: bytes, charter: Any) -> Proven:
    """What two contradicting messages prove. ``charter``: the federation's, its signature already checked.

    Raises EvidenceError.
    """
    try:
        chosen = of_version(Reader(evidence).u8())
    except Malformed as bad:
        raise EvidenceError("evidence", expected="two messages signed under this charter", found=bad.detail) from bad
    return chosen.verify_pair(evidence, charter)
