"""The data owner's signed approvals and denials of jobs, kept at the silo: ``approvals/`` in its home.

Only the signature makes an approval valid: not its file name, its writer or any status beside it. A denial overrides
every approval of the same job until the owner signs a newer approval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from crypto import durable
from crypto.approval import Approval, Denial, Terms, approval_digest
from crypto.errors import FederationError, NoSpace, NotApproved
from crypto.keys import PublicIdentity

#: Most files that are read of each kind, and their size in bytes: reading an overfull folder must end.
MOST_FILES = 4096
_BIGGEST = 1 << 16


class Approvals:
    """``folder``: made when something is kept. ``owner``: the data owner's key, from the charter."""

    def __init__(self, folder: Path, owner: PublicIdentity) -> None:
        self.folder = folder
        self.owner = owner

    def add(self, signed: bytes) -> bytes:
        """Keep a signed approval; its digest. Raises BadSignature or Malformed for what the owner did not sign."""
        Approval.open(signed, lambda _: self.owner)
        digest = approval_digest(signed)
        self._keep(f"{digest.hex()}.approval", signed)
        return digest

    def deny(self, signed: bytes) -> None:
        """Keep a signed denial."""
        denial = Denial.open(signed, lambda _: self.owner)
        self._keep(f"{denial.job.hex()}-{denial.at}.denial", signed)

    def all(self) -> list[tuple[bytes, Approval]]:
        """(signed bytes, approval) of every file that the owner's signature holds for, newest first."""
        found = [
            (signed, Approval.open(signed, lambda _: self.owner))
            for signed in self._files(".approval", lambda signed: Approval.open(signed, lambda _: self.owner))
        ]
        return sorted(found, key=lambda item: (item[1].not_before, item[0]), reverse=True)

    def denial(self, job: bytes) -> Denial | None:
        """The newest denial of a job."""
        found = [
            Denial.open(signed, lambda _: self.owner)
            for signed in self._files(".denial", lambda signed: Denial.open(signed, lambda _: self.owner))
        ]
        return max((denial for denial in found if denial.job == job), key=lambda denial: denial.at, default=None)

    def grant(self, terms: Terms, *, now: int, uses: Callable[[str], int]) -> bytes:
        """A signed approval that covers ``terms`` now. ``uses``: how many other runs were joined on an approval, by
        the hexadecimal of its digest. Raises NotApproved with the reason why the oldest of this job's approvals
        does not cover them, or that there is none."""
        job = terms.job.hex()
        denial = self.denial(terms.job)
        refused = NotApproved(job, remedy="The data owner looks at it with `fed requests`; see `fed approve`.")
        for signed, approval in self.all():
            if approval.terms.job != terms.job:
                continue
            if denial is not None and denial.at >= approval.not_before:
                continue
            try:
                approval.check(terms, now=now, used=uses(approval_digest(signed).hex()))
            except NotApproved as mismatch:
                refused = mismatch
            else:
                return signed
        if denial is not None and refused.reason.startswith("there is no"):
            raise NotApproved(job, reason="the data owner has denied it", remedy="Ask the institution why.")
        raise refused

    def _files(self, suffix: str, opens: Callable[[bytes], object]) -> Iterator[bytes]:
        """The bytes of each file that opens. Others are not signed by the owner and are skipped."""
        names = sorted(self.folder.glob(f"*{suffix}")) if self.folder.is_dir() else []
        for path in names[:MOST_FILES]:
            try:
                with path.open("rb") as file:
                    signed = file.read(_BIGGEST)
                opens(signed)
            except (OSError, FederationError):
                continue
            yield signed

    def _keep(self, name: str, signed: bytes) -> None:
        try:
            durable.replace(self.folder / name, signed, hidden=True)
        except OSError as full:
            raise NoSpace(f"{name} could not be written: {full.strerror}.", remedy="Free disk space.") from full
