"""The epochs of a federation's charter that were found, as a value; ``aggregator.verify.charters`` reads them."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.protocols.interface import Charter
from crypto.errors import EvidenceError
from crypto.keys import PublicIdentity


@dataclass(frozen=True, slots=True)
class Epochs:
    """By epoch, ascending. The aggregator's key may change from one to the next."""

    consortium: PublicIdentity
    charters: tuple[Charter, ...]

    def find(self, digest: str, where: str) -> Charter:
        """The charter of that digest (hex), or EvidenceError at ``where``."""
        for charter in self.charters:
            if charter.digest.hex() == digest:
                return charter
        have = ", ".join(f"{charter.digest.hex()[:16]} (epoch {charter.epoch})" for charter in self.charters)
        raise EvidenceError(where, expected="a charter that the consortium signed", found=f"{digest}; there are {have}")

    @property
    def newest(self) -> Charter:
        return self.charters[-1]
