"""The data owner's signed grants of ε, kept at the silo beside the approvals: ``approvals/*.grant``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crypto import durable
from crypto.errors import FederationError, JournalLost, NoSpace
from crypto.keys import PublicIdentity
from crypto.privacy_grant import PrivacyGrant
from crypto.transcript import digest

#: Most files that are read, and their size in bytes.
MOST_FILES: Final = 4096
_BIGGEST: Final = 1 << 12


class Grants:
    """``folder``: of the approvals. ``owner``: the data owner's key, from the charter."""

    def __init__(self, folder: Path, owner: PublicIdentity) -> None:
        self.folder = folder
        self.owner = owner

    def add(self, signed: bytes) -> PrivacyGrant:
        """Keep a signed grant. Raises BadSignature or Malformed for what the owner did not sign, NoSpace."""
        grant = self._opened(signed)
        try:
            durable.private_folder(self.folder)
            durable.replace(self.folder / f"{digest('privacy-grant', signed).hex()}.grant", signed, hidden=True)
        except OSError as full:
            raise NoSpace(f"The grant could not be written: {full.strerror}.", remedy="Free disk space.") from full
        return grant

    def all(self) -> list[PrivacyGrant]:
        """Every one that the owner signed, oldest first; of one second the smaller later."""
        return sorted(self._files(), key=lambda grant: (grant.at, -grant.epsilon, grant.delta))

    def in_force(self, data: bytes) -> dict[bytes, PrivacyGrant]:
        """Job, or EVERY_JOB → the newest grant, of one data set."""
        return {grant.job: grant for grant in self.all() if grant.data == data}

    def check_not_older(self, spent: int) -> None:
        """Raise JournalLost if a journal has fewer records of spending than when a grant was signed."""
        wanted = max((grant.spent for grant in self.all()), default=0)
        if wanted > spent:
            raise JournalLost(
                f"The journal has {spent} records of privacy spent; there were {wanted} when a grant was signed.",
                remedy="Restore the latest journal from its volume: what was spent stays spent.",
            )

    def _opened(self, signed: bytes) -> PrivacyGrant:
        return PrivacyGrant.open(signed, lambda _: self.owner)

    def _files(self) -> Iterator[PrivacyGrant]:
        names = sorted(self.folder.glob("*.grant")) if self.folder.is_dir() else []
        for path in names[:MOST_FILES]:
            try:
                with path.open("rb") as file:
                    yield self._opened(file.read(_BIGGEST))
            except (OSError, FederationError):
                continue  # not signed by the owner
