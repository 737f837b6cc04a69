"""The data owner's signed approvals and denials of jobs, kept at the silo: ``approvals/`` in its home.

Only the signature makes an approval valid: not its file name, its writer or any status beside it. A denial overrides
every approval of the same job until the owner signs a newer approval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from crypto import durable
from crypto.approval import Approval, Denial, Terms, approval_digest
from crypto.errors import DataRefused, FederationError, NoSpace, NotApproved
from crypto.keys import PublicIdentity

#: Most files that are read of each kind, and their size in bytes: reading an overfull folder must end.
MOST_FILES = 4096
_BIGGEST = 1 << 16

T = TypeVar("T")

#: How many runs were joined on an approval, by the hexadecimal of its digest.
Uses = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class ApprovalState:
    """``state``: waiting · approved · denied · expired · used-up · void. ``why``: a sentence. The rest: of the approval
    that covers the job, or else of the newest; times in seconds since 1970, UTC."""

    state: str
    why: str = ""
    approval: str = ""
    not_before: int = 0
    not_after: int = 0
    max_runs: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class JobDecisions:
    """The data owner's decisions on one job. ``approvals``: those that the denial does not override, newest first."""

    denial: Denial | None
    approvals: tuple[tuple[bytes, Approval], ...]

    def without_approval(self) -> ApprovalState | None:
        """The state if there is no approval to compare with the terms; else None."""
        if self.approvals:
            return None
        if self.denial is not None:
            return ApprovalState("denied", self.denial.reason)
        return ApprovalState("waiting", "nobody has decided")

    def state(self, terms: Terms | DataRefused, *, now: int, uses: Uses) -> ApprovalState:
        """What ``Approvals.grant`` would answer now, for the data owner. There must be an approval.

        ``terms``: what an approval must cover, or why there is no data that it could cover.
        """
        used = [uses(approval_digest(signed).hex()) for signed, _ in self.approvals]
        if isinstance(terms, DataRefused):
            return _state("void", terms.detail, *self.approvals[0], used[0])
        found = [_compared(*kept, terms, now, runs) for kept, runs in zip(self.approvals, used, strict=True)]
        return next((state for state in found if state.state == "approved"), found[0])


class Approvals:
    """``folder``: made when something is kept. ``owner``: the data owner's key, from the charter."""

    def __init__(self, folder: Path, owner: PublicIdentity) -> None:
        self.folder = folder
        self.owner = owner

    # --- files -------------------------------------------------------------------------------------------------------

    def add(self, signed: bytes) -> bytes:
        """Keep a signed approval; its digest. Raises BadSignature or Malformed for what the owner did not sign."""
        self._approval(signed)
        digest = approval_digest(signed)
        self._keep(f"{digest.hex()}.approval", signed)
        return digest

    def deny(self, signed: bytes) -> None:
        """Keep a signed denial."""
        denial = self._denial(signed)
        self._keep(f"{denial.job.hex()}-{denial.at}.denial", signed)

    def all(self) -> list[tuple[bytes, Approval]]:
        """(signed bytes, approval) of every file with a valid signature of the owner, newest first."""
        found = self._files(".approval", self._approval)
        return sorted(found, key=lambda item: (item[1].not_before, item[0]), reverse=True)

    def denial(self, job: bytes) -> Denial | None:
        """The newest denial of a job."""
        found = (denial for _, denial in self._files(".denial", self._denial) if denial.job == job)
        return max(found, key=lambda denial: denial.at, default=None)

    # --- what they allow ---------------------------------------------------------------------------------------------

    def grant(self, terms: Terms, *, now: int, uses: Uses) -> bytes:
        """A signed approval that covers ``terms`` now.

        Raises NotApproved: why the oldest of this job's approvals does not cover them, or that there is none.
        """
        job = terms.job.hex()
        decisions = self.decisions(terms.job)
        refused = NotApproved(job, remedy="The data owner looks at it with `fed requests`; see `fed approve`.")
        if decisions.denial is not None:
            refused = NotApproved(job, reason="the data owner has denied it", remedy="Ask the institution why.")
        for signed, approval in decisions.approvals:
            try:
                approval.check(terms, now=now, used=uses(approval_digest(signed).hex()))
            except NotApproved as mismatch:
                refused = mismatch
            else:
                return signed
        raise refused

    def decisions(self, job: bytes) -> JobDecisions:
        """The owner's decisions on one job, by its digest."""
        denial = self.denial(job)
        approvals = tuple(
            (signed, approval)
            for signed, approval in self.all()
            if approval.terms.job == job and (denial is None or denial.at < approval.not_before)
        )
        return JobDecisions(denial, approvals)

    # --- reading and writing -----------------------------------------------------------------------------------------

    def _approval(self, signed: bytes) -> Approval:
        return Approval.open(signed, lambda _: self.owner)

    def _denial(self, signed: bytes) -> Denial:
        return Denial.open(signed, lambda _: self.owner)

    def _files(self, suffix: str, opened: Callable[[bytes], T]) -> Iterator[tuple[bytes, T]]:
        """(signed bytes, what they say) of each file that opens. Others are not signed by the owner and are skipped."""
        names = sorted(self.folder.glob(f"*{suffix}")) if self.folder.is_dir() else []
        for path in names[:MOST_FILES]:
            try:
                with path.open("rb") as file:
                    signed = file.read(_BIGGEST)
                content = opened(signed)
            except (OSError, FederationError):
                continue
            yield signed, content

    def _keep(self, name: str, signed: bytes) -> None:
        try:
            durable.replace(self.folder / name, signed, hidden=True)
        except OSError as full:
            raise NoSpace(f"{name} could not be written: {full.strerror}.", remedy="Free disk space.") from full


def _compared(signed: bytes, approval: Approval, terms: Terms, now: int, used: int) -> ApprovalState:
    """How an approval relates to ``terms`` now, after ``used`` runs were joined on it."""
    try:
        approval.check(terms, now=now, used=used)
    except NotApproved as mismatch:
        why = mismatch.reason
    else:
        return _state("approved", "", signed, approval, used)
    if approval.terms != terms:
        return _state("void", why, signed, approval, used)
    if now > approval.not_after:
        return _state("expired", why, signed, approval, used)
    return _state("used-up" if used >= approval.max_runs else "waiting", why, signed, approval, used)


def _state(state: str, why: str, signed: bytes, approval: Approval, used: int) -> ApprovalState:
    return ApprovalState(
        state,
        why,
        approval_digest(signed).hex(),
        not_before=approval.not_before,
        not_after=approval.not_after,
        max_runs=approval.max_runs,
        used=used,
    )
