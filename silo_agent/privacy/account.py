"""A silo's account of a data set: what private jobs have spent, and the refusal of what would spend too much.

One account for each data commitment. It is the journal's records of spending, added up over steps, runs and jobs,
against two grants of the data owner: one for the data set, one for the job. Spending is recorded before a noised
contribution leaves this silo masked, and is never given back: from then on other silos can open it without us, so a
step that was lost, void or withdrawn has spent. The same contribution sent again, in a further attempt, costs nothing
more: it is the same release.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from crypto.errors import BudgetSpent, JournalLost
from crypto.privacy_grant import EVERY_JOB, PrivacyGrant
from silo_agent.journal import Journal, Spent
from silo_agent.privacy import accountant
from silo_agent.privacy.accountant import ROUNDING, Release
from silo_agent.privacy.grants import Grants
from silo_agent.privacy.terms import Privacy

_GRANT_JOB = "The data owner grants a job its share with `fed approve DIGEST --epsilon`."
_GRANT_DATA = "The data owner grants a data set its total with `fed data grant NAME --epsilon --delta`."


@dataclass(frozen=True, slots=True)
class Balance:
    """One line of an account. ``epsilon``: spent, at the grant's ``delta``; ``grant``: none was given yet."""

    grant: PrivacyGrant | None
    epsilon: float

    @property
    def left(self) -> float:
        """What is left of a grant; 0 without one."""
        return 0.0 if self.grant is None else max(self.grant.epsilon - self.epsilon, 0.0)


@dataclass(frozen=True, slots=True)
class Statement:
    """The account of one data set from its records. ``records``: of this data set alone."""

    records: tuple[Spent, ...]
    grants: Mapping[bytes, PrivacyGrant]
    """Job, or EVERY_JOB → the grant in force."""

    @classmethod
    def of(cls, records: Iterable[Spent], grants: Grants, data: bytes) -> Statement:
        return cls(tuple(one for one in records if one.data == data.hex()), grants.in_force(data))

    def releases(self, job: bytes = EVERY_JOB) -> list[Release]:
        """Of all jobs, or of one."""
        return [release_of(one) for one in self.records if job in (EVERY_JOB, bytes.fromhex(one.job))]

    @property
    def jobs(self) -> tuple[bytes, ...]:
        """Those that have spent or were granted anything, in the order of their first spending."""
        spent = dict.fromkeys(bytes.fromhex(one.job) for one in self.records)
        return tuple(dict.fromkeys([*spent, *(job for job in self.grants if job != EVERY_JOB)]))

    def balance(self, job: bytes = EVERY_JOB, *, delta: float) -> Balance:
        """``delta``: where there is no grant that says one."""
        grant = self.grants.get(job)
        return Balance(grant, accountant.epsilon(self.releases(job), delta if grant is None else grant.delta))

    def check(self, job: bytes, releases: Sequence[Release]) -> None:
        """Raise BudgetSpent if these would exceed the job's grant or the data set's, or if one is missing."""
        for whose, name, remedy in ((job, "this job", _GRANT_JOB), (EVERY_JOB, "the data set", _GRANT_DATA)):
            grant = self.grants.get(whose)
            if grant is None:
                raise BudgetSpent(f"The data owner has granted {name} no epsilon.", remedy=remedy)
            total = accountant.epsilon([*self.releases(whose), *releases], grant.delta)
            if total > grant.epsilon * (1 + ROUNDING):
                raise BudgetSpent(
                    f"This step would bring {name} to epsilon {accountant.rounded_up(total):g} at delta "
                    f"{grant.delta:g}; the data owner has granted {grant.epsilon:g}.",
                    remedy="The run goes on without this silo, if enough others take part. "
                    f"{remedy} What was spent stays spent.",
                )

    def steps_left(self, job: bytes, step: Release, most: int) -> int:
        """How many times ``step``, at most ``most``, both grants have room for."""
        found = most
        for whose in (job, EVERY_JOB):
            grant = self.grants.get(whose)
            if grant is None:
                return 0
            budget = grant.epsilon * (1 + ROUNDING)
            found = accountant.steps_within(budget, grant.delta, step, found, self.releases(whose))
        return found


class Account:
    """The account of a job's data set, of an agent that holds the journal."""

    def __init__(self, journal: Journal, grants: Grants, privacy: Privacy, *, job: bytes, data: bytes) -> None:
        """``job``: digest of the job; ``data``: commitment of the rows. Raises JournalLost for a journal older than a
        grant."""
        self._journal = journal
        self._grants = grants
        self._privacy = privacy
        self._job = job
        self._data = data
        grants.check_not_older(len(journal.spent))

    def check(self, releases: Sequence[Release]) -> None:
        """Raise BudgetSpent if these would exceed a grant as it is now. Nothing is spent."""
        self.statement.check(self._job, releases)

    def spend(self, run: str, step: int, releases: Sequence[Release]) -> None:
        """Check again and record. Raises BudgetSpent or NoSpace: then nothing may leave."""
        self.check(releases)
        for one in releases:
            self._journal.spend(
                Spent(
                    run=run,
                    step=step,
                    job=self._job.hex(),
                    data=self._data.hex(),
                    unit=self._privacy.unit,
                    mechanism=self._privacy.mechanism,
                    noise=repr(one.noise),
                    rate=repr(one.rate),
                    count=one.count,
                    accountant=accountant.name(),
                )
            )

    @property
    def statement(self) -> Statement:
        """As it is now."""
        return Statement.of(self._journal.spent, self._grants, self._data)


def release_of(record: Spent) -> Release:
    """What a record says was released. Raises JournalLost for what is none: too little must never be added up."""
    try:
        release = Release(float(record.noise), float(record.rate), record.count)
        if not (0 < release.noise < float("inf") and 0 < release.rate <= 1 and release.count > 0):
            raise ValueError("out of range")
    except ValueError as bad:
        raise JournalLost(
            f"A record of privacy spent in run {record.run[:16]}, step {record.step}, has impossible numbers.",
            remedy="Restore the latest journal from its volume.",
        ) from bad
    return release
