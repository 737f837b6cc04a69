"""How a run ends beside what silos say: from outside, or by what its job requires.

Not in the tree of ``crypto.errors``: no silo sends these codes. A driver throws a ``RunStopped`` into the run, which
writes its closing record. Unlike ``RoundLost`` no step is tried again.
"""

from __future__ import annotations

from typing import ClassVar

from crypto.errors import FederationError, RoundLost


class RunStopped(FederationError):
    """Ended in ``phase``. Released steps stay released, and the run can be resumed."""

    def __init__(self, phase: str, detail: str, remedy: str) -> None:
        self.phase = phase
        super().__init__(f"{detail} {f'in phase {phase!r}' if phase else 'before its first step'}.", remedy=remedy)


class RunAborted(RunStopped):
    """The administrator aborted the job. Nothing was wrong."""

    code: ClassVar[str] = "ABORTED"
    exit_code: ClassVar[int] = 40

    def __init__(self, phase: str) -> None:
        remedy = "Submit it again as a new run, or go on with this one: --resume."
        super().__init__(phase, "The administrator aborted the job", remedy)


class RunGivenUp(RunStopped):
    """NVFlare gave up the job. ``why``: for instance fewer silos are connected than the job folder requires."""

    code: ClassVar[str] = "GIVEN_UP"
    exit_code: ClassVar[int] = 40

    def __init__(self, phase: str, why: str) -> None:
        remedy = "Bring the silos up; then submit it again, or go on with this run: --resume."
        super().__init__(phase, f"NVFlare gave the job up ({why})", remedy)


class RequiredLost(RoundLost):
    """A step cannot have whom the job requires. ``lacking``: what is not met, as ``Requirement.lacking`` says it."""

    code = "REQUIRED_LOST"

    def __init__(self, phase: str, missing: tuple[str, ...], lacking: str) -> None:
        remedy = "Bring the silos back and resume the run; or submit a job that requires less, as a new run."
        super().__init__(phase, missing, detail=f"The job does not go on {lacking}.", remedy=remedy)
