"""How much ε the data owner grants: to one job, or to all jobs on a data set together; signed with the owner's key.

A grant never leaves the silo. The newest one of a job, and the newest one of a data set, are in force: a newer one may
raise or lower it. What was spent stays spent. ``spent`` is how many records of spending the silo's journal had when the
grant was signed: a journal with fewer is an older copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Self

from crypto.charter import SILO_ID
from crypto.encoding import Reader, Writer
from crypto.errors import Malformed
from crypto.messages import Wire
from crypto.transcript import DIGEST_BYTES

#: Stands for a job in a grant to a data set.
EVERY_JOB = bytes(DIGEST_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyGrant(Wire):
    """``data``: commitment of the data set. ``job``: a job's digest, or ``EVERY_JOB``. ``epsilon`` at ``delta``, of all
    that is ever released of it. ``at``: seconds since 1970, UTC."""

    silo: str
    data: bytes
    job: bytes
    epsilon: float
    delta: float
    at: int
    spent: int
    KIND: ClassVar[int] = 15
    LABEL: ClassVar[str] = "privacy-grant"

    def write(self, out: Writer) -> None:
        out.text(self.silo).fixed(self.data, DIGEST_BYTES).fixed(self.job, DIGEST_BYTES)
        out.f64(self.epsilon).f64(self.delta).u64(self.at).u64(self.spent)

    @classmethod
    def read(cls, src: Reader) -> Self:
        grant = cls(
            silo=src.text(),
            data=src.fixed(DIGEST_BYTES),
            job=src.fixed(DIGEST_BYTES),
            epsilon=src.f64(),
            delta=src.f64(),
            at=src.u64(),
            spent=src.u64(),
        )
        if not SILO_ID.fullmatch(grant.silo):
            raise Malformed("A privacy grant with an invalid silo id.")
        if not (isfinite(grant.epsilon) and grant.epsilon > 0 and 0 < grant.delta < 1):
            raise Malformed("A privacy grant needs an epsilon above 0 and a delta between 0 and 1.")
        return grant
