"""A data owner's approval of a job: its terms, number of runs and validity, signed with the owner's key.

An approval binds everything that decides what the silo's data will be used for: the job, the plan (all that leaves),
the charter (who else takes part), the silo's policy, the code, the data set and the purpose. If any of them changes,
the approval is void. It is as secure as the owner's key: anyone who holds the key can approve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from crypto.charter import SILO_ID, Charter
from crypto.encoding import Reader, Writer
from crypto.errors import BadSignature, Malformed, NotApproved, RosterMismatch
from crypto.keys import PublicIdentity
from crypto.messages import Advert, Wire
from crypto.transcript import DIGEST_BYTES, digest

NONCE_BYTES = 16
#: Longest purpose and reason, in characters.
MOST_TEXT = 500

_DIGESTS = ("charter", "job", "plan", "policy", "code", "commitment")
_CHANGED = {
    "silo": "it was given at another silo",
    "charter": "it was given under another charter",
    "job": "it is for another job",
    "plan": "it is for another plan: what would leave has changed",
    "policy": "this silo's policy has changed since",
    "code": "the software has changed since",
    "data_uid": "the data set was registered anew since",
    "commitment": "the data have changed since",
    "purpose": "it is for another purpose",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an approval covers. Digests are SHA-256; ``commitment`` is the data set's, salted; ``data_uid`` the
    catalogue's name of one registration."""

    silo: str
    charter: bytes
    job: bytes
    plan: bytes
    policy: bytes
    code: bytes
    data_uid: str
    commitment: bytes
    purpose: str

    def write(self, out: Writer) -> None:
        out.text(self.silo)
        for name in _DIGESTS:
            out.fixed(getattr(self, name), DIGEST_BYTES)
        out.text(self.data_uid).text(self.purpose)

    @classmethod
    def read(cls, src: Reader) -> Self:
        silo = src.text()
        digests = {name: src.fixed(DIGEST_BYTES) for name in _DIGESTS}
        return cls(silo=silo, **digests, data_uid=src.text(), purpose=src.text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(Wire):
    """``max_runs``: runs that may be started on it. ``not_before``, ``not_after``: seconds since 1970, UTC. ``nonce``
    distinguishes two approvals of the same terms, so that each has its own count of runs."""

    terms: Terms
    max_runs: int
    not_before: int
    not_after: int
    nonce: bytes
    KIND: ClassVar[int] = 11
    LABEL: ClassVar[str] = "approval"

    def write(self, out: Writer) -> None:
        self.terms.write(out)
        out.u32(self.max_runs).u64(self.not_before).u64(self.not_after).fixed(self.nonce, NONCE_BYTES)

    @classmethod
    def read(cls, src: Reader) -> Self:
        approval = cls(
            terms=Terms.read(src),
            max_runs=src.u32(),
            not_before=src.u64(),
            not_after=src.u64(),
            nonce=src.fixed(NONCE_BYTES),
        )
        if not SILO_ID.fullmatch(approval.terms.silo) or len(approval.terms.purpose) > MOST_TEXT:
            raise Malformed(f"An approval with an invalid silo id, or a purpose longer than {MOST_TEXT} characters.")
        return approval

    def check(self, terms: Terms, *, now: int, used: int) -> None:
        """Raise NotApproved unless this approval covers ``terms`` at ``now`` after ``used`` runs were started on it."""
        job = terms.job.hex()
        for part in fields(Terms):
            if getattr(self.terms, part.name) != getattr(terms, part.name):
                raise NotApproved(job, reason=_CHANGED[part.name], remedy=_AGAIN)
        if now < self.not_before:
            raise NotApproved(job, reason="its approval is not valid yet", remedy="Check this machine's clock.")
        if now > self.not_after:
            raise NotApproved(job, reason="its approval has expired", remedy=_AGAIN)
        if used >= self.max_runs:
            raise NotApproved(job, reason="its approval is used up", remedy=_AGAIN)


_AGAIN = "The data owner looks at it with `fed requests` and signs with `fed approve`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial(Wire):
    """The data owner's refusal of a job. It never leaves the silo: ``reason`` is for the silo's own staff."""

    silo: str
    job: bytes
    reason: str
    at: int
    KIND: ClassVar[int] = 12
    LABEL: ClassVar[str] = "denial"

    def write(self, out: Writer) -> None:
        out.text(self.silo).fixed(self.job, DIGEST_BYTES).text(self.reason).u64(self.at)

    @classmethod
    def read(cls, src: Reader) -> Self:
        denial = cls(silo=src.text(), job=src.fixed(DIGEST_BYTES), reason=src.text(), at=src.u64())
        if not SILO_ID.fullmatch(denial.silo) or len(denial.reason) > MOST_TEXT:
            raise Malformed(f"A denial with an invalid silo id, or a reason longer than {MOST_TEXT} characters.")
        return denial


def approval_digest(signed: bytes) -> bytes:
    """The digest by which adverts, journal and ledger name a signed approval."""
    return digest("approval", signed)


def open_approval(signed: bytes, owner: Callable[[str], PublicIdentity]) -> Approval:
    """The approval, its signature checked under the key that ``owner`` names for its silo."""
    return Approval.open(signed, lambda approval: owner(approval.terms.silo))


def check_shown(signed: bytes, advert: Advert, charter: Charter, *, job: bytes, plan: bytes, code: bytes) -> Approval:
    """The approval that an advert names, checked as far as others can: the owner's signature, and that it covers this
    run and the data that the silo trains on. Only the silo can check uses, policy and validity.

    Raises BadSignature, RosterMismatch, or NotApproved with the first thing that differs.
    """
    if approval_digest(signed) != advert.approval:
        raise BadSignature(f"{advert.silo!r} showed another approval than its advert names.")
    approval = open_approval(signed, lambda silo: charter.member(silo).owner)
    if approval.terms.silo != advert.silo:
        raise RosterMismatch(f"{advert.silo!r} showed an approval of {approval.terms.silo!r}.")
    public = {"charter": charter.digest, "job": job, "plan": plan, "code": code, "commitment": advert.data}
    for name, value in public.items():
        if getattr(approval.terms, name) != value:
            raise NotApproved(job.hex(), reason=f"at {advert.silo}, {_CHANGED[name]}", remedy=_AGAIN)
    return approval
