"""The error tree is the interface.

    FederationError
    ├── ProtocolError    the other side broke a rule
    ├── RoundRefused     we decline, safely; nothing left the silo
    ├── RoundLost        too few are left to finish
    ├── SpecError        a job file, charter or setting is wrong
    └── EvidenceError    a ledger, receipt or model doesn't check

Every error carries what happened (``detail``) and what to do (``remedy``). On the wire a refusal is only its
``code``, one of a closed set: never a text and never a count (see ``messages.Decline``).
"""

from __future__ import annotations

import errno
from typing import ClassVar

#: Error numbers of a full disk, quota or file-size limit. They become NoSpace.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FederationError(Exception):
    """Root of every error this project raises on purpose.

    ``code`` is stable, upper-case and documented in docs/errors; ``exit_code`` is what ``fed`` exits with.
    """

    code: ClassVar[str] = "FEDERATION"
    exit_code: ClassVar[int] = 1
    #: The silo whose fault it is, where the refusal blames one: it goes into the signed ``Decline``.
    blame: str = ""

    def __init__(self, detail: str, *, remedy: str = "") -> None:
        self.detail = detail
        self.remedy = remedy
        super().__init__(detail)

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}".rstrip()


# --- the other side broke a rule ---------------------------------------------------------------------------------


class ProtocolError(FederationError):
    """The other side broke a rule. The session is over and its secrets are wiped."""

    code = "PROTOCOL"
    exit_code = 20


class Unexpected(ProtocolError):
    """A message that the state table does not allow here. The state is unchanged."""

    code = "UNEXPECTED"


class Malformed(ProtocolError):
    """Bytes that do not decode canonically: truncated, trailing, out of range or a wrong version."""

    code = "MALFORMED"


class BadSignature(ProtocolError):
    """A signature does not verify under the key that the charter pins."""

    code = "BAD_SIGNATURE"


class Replay(ProtocolError):
    """A second, different request for a phase that has been answered."""

    code = "REPLAY"


class RosterMismatch(ProtocolError):
    """Someone takes part who is not in the charter, or a member is named twice."""

    code = "ROSTER_MISMATCH"


class TranscriptMismatch(ProtocolError):
    """A message was signed over another transcript than ours."""

    code = "TRANSCRIPT_MISMATCH"


class ModelMismatch(ProtocolError):
    """The state we computed ourselves differs from the one we were offered."""

    code = "MODEL_MISMATCH"


class SumNotProven(ProtocolError):
    """An announced result is not proven: sums, weights or slots are not those of the uploads. Nothing is applied."""

    code = "SUM_NOT_PROVEN"


class DuplicateKey(ProtocolError):
    """Two adverts show the same ephemeral key, or ours was reflected."""

    code = "DUPLICATE_KEY"


class SurvivorInvalid(ProtocolError):
    """A survivor set that is not a subset of the dealers, lacks us, or is too small."""

    code = "SURVIVOR_INVALID"


class BothShares(ProtocolError):
    """Both share kinds of one silo were asked for: together they open its upload."""

    code = "BOTH_SHARES"


class BadShare(ProtocolError):
    """A dealer's share does not open, or differs from its published hash. ``dealer`` is to blame."""

    code = "BAD_SHARE"

    def __init__(self, detail: str, *, dealer: str, key: bytes = b"", remedy: str = "") -> None:
        """``key``: private key of the channel to the dealer, which shows its row to anyone."""
        self.dealer = self.blame = dealer
        self.key = key
        super().__init__(detail, remedy=remedy)


class Equivocation(ProtocolError):
    """One signer signed two different things in one place. ``evidence`` is the two signed messages."""

    code = "EQUIVOCATION"

    def __init__(self, detail: str, *, evidence: tuple[bytes, bytes], remedy: str = "") -> None:
        self.evidence = evidence
        super().__init__(detail, remedy=remedy)


class LayoutMismatch(ProtocolError):
    """A vector, lane or slot section has another layout than in the plan."""

    code = "LAYOUT_MISMATCH"


# --- we decline --------------------------------------------------------------------------------------------------


class RoundRefused(FederationError):
    """We decline: the step could not be proved safe. Others go on if they may."""

    code = "REFUSED"
    exit_code = 30


class CohortTooSmall(RoundRefused):
    """Fewer silos than the charter's minimum."""

    code = "COHORT_TOO_SMALL"


class CohortDifference(RoundRefused):
    """With the sums opened before, this one would let a sum over too few silos be computed (see ``crypto.atoms``)."""

    code = "COHORT_DIFFERENCE"


class ThresholdInfeasible(RoundRefused):
    """No threshold satisfies both secrecy against c colluders and m honest inputs for this cohort."""

    code = "THRESHOLD_INFEASIBLE"


class LaneBelowFloor(RoundRefused):
    """A lane has too few contributors; it stays shut and its blocks keep their value."""

    code = "LANE_BELOW_FLOOR"

    def __init__(self, lane: str, *, remedy: str = "") -> None:
        self.lane = lane
        super().__init__(f"Lane {lane!r} stays shut: too few contributors.", remedy=remedy)


class NotApproved(RoundRefused):
    """No approval of the data owner covers this job here. ``digest`` names the job, ``reason`` says why."""

    code = "NOT_APPROVED"

    def __init__(self, digest: str, *, reason: str = "there is no approval of it", remedy: str = "") -> None:
        self.digest = digest
        self.reason = reason
        super().__init__(f"Job {digest} is not approved at this silo: {reason}.", remedy=remedy)


class BudgetSpent(RoundRefused):
    """A step of a private job would cost more ε than the data owner has granted, or nothing was granted."""

    code = "BUDGET_SPENT"


class EgressDenied(RoundRefused):
    """Something would leave that the plan does not list. ``field`` names it."""

    code = "EGRESS_DENIED"

    def __init__(self, field: str, *, remedy: str = "") -> None:
        self.field = field
        super().__init__(f"{field!r} is not in the plan, so it may not leave this silo.", remedy=remedy)


class CatchingUp(RoundRefused):
    """This silo has applied the results that came with the request and lacks more: it has been away for long."""

    code = "CATCHING_UP"


class AlreadyReleased(RoundRefused):
    """Shares of this step, or of a later one, have left this silo: one release per (run, step)."""

    code = "ALREADY_RELEASED"


class JournalLost(RoundRefused):
    """The run is under way but this silo's journal does not know it; or ``blame`` runs on an old copy of its own."""

    code = "JOURNAL_LOST"

    def __init__(self, detail: str, *, blame: str = "", remedy: str = "") -> None:
        self.blame = blame
        super().__init__(detail, remedy=remedy)


class VersionMismatch(RoundRefused):
    """``site`` has another version of ``what`` than is wanted: both digests are named."""

    code = "VERSION_MISMATCH"

    def __init__(self, what: str, *, site: str, have: str, want: str, remedy: str = "") -> None:
        self.what = what
        self.site = site
        self.have = have
        self.want = want
        super().__init__(f"{site}: has {what} {have[:16]}, the run wants {want[:16]}.", remedy=remedy)


class Leaving(RoundRefused):
    """The silo's service is about to end: it has finished its step and takes part in no further one."""

    code = "LEAVING"


class NonFinite(RoundRefused):
    """A value is NaN or infinite."""

    code = "NON_FINITE"


class OutOfRange(RoundRefused):
    """A weight, slot or value is outside what the plan allows."""

    code = "OUT_OF_RANGE"


class HeadroomExceeded(RoundRefused):
    """The ring could overflow with this many silos; refused at construction."""

    code = "HEADROOM_EXCEEDED"


class DataRefused(RoundRefused):
    """The data set is missing, malformed or too small to train on."""

    code = "DATA_REFUSED"


class NoSpace(RoundRefused):
    """The disk refused a write that must come before bytes leave."""

    code = "NO_SPACE"


class KeyLocked(FederationError):
    """A private key is locked, and its passphrase is missing, wrong, or was tried too often."""

    code = "KEY_LOCKED"


class SystemRefused(FederationError):
    """The operating system refused something that no other error speaks of: a folder, a full disk, a limit."""

    code = "SYSTEM_REFUSED"

    @classmethod
    def of(cls, refused: OSError) -> SystemRefused:
        """The error in our words: which file, why, what to do."""
        where = " → ".join(str(name) for name in (refused.filename, refused.filename2) if name is not None)
        why = refused.strerror or str(refused) or type(refused).__name__
        remedies = {
            errno.EROFS: "Choose a folder that can be written to.",
            errno.EACCES: "Choose another folder, or let this account in.",
            errno.EPERM: "Choose another folder, or let this account in.",
            errno.ENOENT: "Check the path; folders above it must exist.",
            errno.EMFILE: "Raise this account's limit of open files (ulimit -n).",
            **dict.fromkeys(FULL, "Free some space, then repeat the command."),
        }
        return cls(f"{where}: {why}." if where else f"{why}.", remedy=remedies.get(refused.errno or 0, ""))


# --- the rest ----------------------------------------------------------------------------------------------------


class RoundLost(FederationError):
    """Too few silos are left to finish the step. ``phase``: the phase it was lost in; ``missing``: the silos; ``why``:
    the detail. The state of the last step is kept."""

    code = "ROUND_LOST"
    exit_code = 40

    def __init__(self, phase: str, missing: tuple[str, ...], *, detail: str = "", remedy: str = "") -> None:
        self.phase = phase
        self.missing = missing
        self.why = detail
        names = ", ".join(missing) or "none"
        super().__init__(
            f"The step was lost in phase {phase!r}. {detail} Missing: {names}.".replace("  ", " "), remedy=remedy
        )


class SpecError(FederationError):
    """A job file, charter or setting is wrong: ``path``, what it ``got``, what it ``want``s."""

    code = "SPEC"
    exit_code = 10

    def __init__(self, path: str, *, got: object, want: str, remedy: str = "") -> None:
        self.path = path
        self.got = got
        self.want = want
        super().__init__(f"{path}: got {got!r}, want {want}.", remedy=remedy)


class EvidenceError(FederationError):
    """A ledger, receipt or model doesn't check: ``where``, what was ``expected``, what was ``found``."""

    code = "EVIDENCE"
    exit_code = 50

    def __init__(self, where: str, *, expected: object, found: object, remedy: str = "") -> None:
        self.where = where
        self.expected = expected
        self.found = found
        super().__init__(f"{where}: expected {expected}, found {found}.", remedy=remedy)


def _leaves(cls: type[FederationError]) -> list[type[FederationError]]:
    below = cls.__subclasses__()
    return [cls] if not below else [leaf for sub in below for leaf in _leaves(sub)]


#: code → class, for every error that may be named on the wire or as an exit.
BY_CODE: dict[str, type[FederationError]] = {cls.code: cls for cls in _leaves(FederationError)}
