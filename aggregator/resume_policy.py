"""Whether the aggregator's service takes a run up again by itself: the table ``[resume]`` of a job.

    [resume]
    policy = "always"    # always | ask | never
    attempts = 5         # in a row without a step that ended
    backoff = 10         # seconds before the first of them; doubles, up to ten minutes

It is part of the job, so data owners approve it. A job without the table has the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from crypto.errors import SpecError

ALWAYS, ASK, NEVER = POLICIES = ("always", "ask", "never")
MOST_ATTEMPTS: Final = 100
#: The longest first pause, and the longest at all. Seconds.
MOST_BACKOFF_S: Final = 3600.0
LONGEST_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePolicy:
    """``always``: the service resumes the run. ``ask``: it tells what to type. ``never``: it only shows the run."""

    policy: str = ALWAYS
    attempts: int = 5
    backoff: float = 10.0

    @classmethod
    def parse(cls, raw: Mapping[str, object], where: str) -> ResumePolicy:
        """Raises SpecError that names the field."""
        known = ("policy", "attempts", "backoff")
        for key in raw:
            if key not in known:
                raise SpecError(f"{where}.{key}", got=raw[key], want=f"one of the fields {', '.join(known)}")
        policy, attempts, backoff = raw.get("policy", ALWAYS), raw.get("attempts", 5), raw.get("backoff", 10.0)
        if not isinstance(policy, str) or policy not in POLICIES:
            raise SpecError(f"{where}.policy", got=policy, want=f"one of {', '.join(POLICIES)}")
        if type(attempts) is not int or not 1 <= attempts <= MOST_ATTEMPTS:
            raise SpecError(f"{where}.attempts", got=attempts, want=f"a whole number from 1 to {MOST_ATTEMPTS}")
        if type(backoff) not in (int, float) or not 1 <= backoff <= MOST_BACKOFF_S:  # type: ignore[operator]
            raise SpecError(f"{where}.backoff", got=backoff, want=f"seconds, from 1 to {MOST_BACKOFF_S:g}")
        return cls(policy=policy, attempts=attempts, backoff=float(backoff))  # type: ignore[arg-type]

    @classmethod
    def of_job(cls, job: Mapping[str, object]) -> ResumePolicy:
        """Of a job's fields, as they stand on the ledger. Raises SpecError."""
        raw = job.get("resume", {})
        if not isinstance(raw, Mapping):
            raise SpecError("job.resume", got=type(raw).__name__, want="a table")
        return cls.parse(raw, "job.resume")

    @property
    def fields(self) -> dict[str, object]:
        return {"policy": self.policy, "attempts": self.attempts, "backoff": self.backoff}

    def pause_s(self, done: int) -> float:
        """The pause before the next attempt, after so many in a row."""
        return min(max(LONGEST_S, self.backoff), self.backoff * 2.0 ** min(done, 16))
