"""The data owner's account of differential privacy: grants, what was spent, and what a job would cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from crypto.errors import FederationError, JournalLost, SpecError
from crypto.keys import Identity
from crypto.privacy_grant import EVERY_JOB, PrivacyGrant
from crypto.text import escaped
from jobs.job import JobSpec
from jobs.owner.review import OwnerView
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog
from silo_agent.journal import Spent, mark_of, parse_record, read_mark
from silo_agent.methods import Limits
from silo_agent.privacy import accountant
from silo_agent.privacy.account import Balance, Statement, release_of
from silo_agent.privacy.accountant import ROUNDING
from silo_agent.privacy.grants import Grants
from silo_agent.privacy.terms import LEAST_DELTA, MOST_DELTA, MOST_EPSILON, Privacy, total_steps

#: At which δ spending is shown where no grant names one.
USUAL_DELTA = 1e-5


@dataclass(frozen=True)
class Accounts:
    """The accounts of a silo's home. ``view``: of the home, at one time. Read while an agent may have the journal."""

    view: OwnerView

    @cached_property
    def records(self) -> tuple[Spent, ...]:
        """All spending. Raises JournalLost for a journal with a damaged line, or an older copy: what is shown must not
        be too little."""
        path = self.view.home.journal_path
        wanted = read_mark(mark_of(path))
        try:
            lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was never finished
        except FileNotFoundError:
            lines = []
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                record = parse_record(line)
            except ValueError as bad:
                raise JournalLost(f"Line {number} of {path.name} is damaged.", remedy=_RESTORE) from bad
            if isinstance(record, Spent):
                found.append(record)
        if wanted > len(found):
            raise JournalLost(
                f"{path.name} has {len(found)} records of privacy spent; there were {wanted}: it is an older copy.",
                remedy=_RESTORE,
            )
        self.grants.check_not_older(len(found))
        return tuple(found)

    @cached_property
    def grants(self) -> Grants:
        return Grants(self.view.approvals.folder, self.view.approvals.owner)

    def statement(self, data: bytes) -> Statement:
        return Statement.of(self.records, self.grants, data)

    @cached_property
    def names(self) -> dict[bytes, list[str]]:
        """Commitment → the names under which the catalogue has it."""
        found: dict[bytes, list[str]] = {}
        for name in self.view.catalogue.names():
            try:
                found.setdefault(self.view.catalogue.entry(name).commitment, []).append(name)
            except FederationError:
                continue  # `fed data list` says what is amiss with it
        return found

    # --- grants ------------------------------------------------------------------------------------------------------

    def check_grant(self, epsilon: float, delta: float, rows: int) -> None:
        """Raise SpecError for numbers that no grant can have."""
        if not 0 < epsilon <= MOST_EPSILON:  # nor is NaN
            raise SpecError("--epsilon", got=epsilon, want=f"a number above 0, at most {MOST_EPSILON:g}")
        if not LEAST_DELTA <= delta <= MOST_DELTA or delta >= 1 / rows:
            most = min(MOST_DELTA, 1 / rows)
            raise SpecError(
                "--delta", got=delta, want=f"from {LEAST_DELTA:g} to below {most:.1e}: below one over the training rows"
            )

    def sign(self, owner: Identity, *, data: bytes, job: bytes, epsilon: float, delta: float) -> PrivacyGrant:
        """Sign a grant and keep it. ``owner``: the data owner's key. It is in force from now on."""
        before = [grant.at for grant in self.grants.all() if (grant.data, grant.job) == (data, job)]
        grant = PrivacyGrant(
            silo=self.view.silo,
            data=data,
            job=job,
            epsilon=epsilon,
            delta=delta,
            at=max(self.view.now, max(before, default=-1) + 1),
            spent=len(self.records),
        )
        fields = {"data": data.hex()} | ({} if job == EVERY_JOB else {"job": job.hex()})
        SecurityLog(self.view.home)(Event.PRIVACY_GRANTED, **fields)
        return self.grants.add(grant.sign(owner))

    # --- what people read --------------------------------------------------------------------------------------------

    def all(self) -> dict[str, Any]:
        """Every account, as plain values for the data owner."""
        granted = [grant.data for grant in self.grants.all()]
        spent = [bytes.fromhex(one.data) for one in self.records]
        together = [release_of(one) for one in self.records]
        found = dict.fromkeys([*granted, *spent])
        return {
            "silo": self.view.silo,
            "accountant": accountant.name() if found else "",
            "data": [self._shown(data) for data in found],
            "all_data": None
            if len(set(spent)) < 2
            else {"spent": accountant.rounded_up(accountant.epsilon(together, USUAL_DELTA)), "delta": USUAL_DELTA},
        }

    def _shown(self, data: bytes) -> dict[str, Any]:
        statement = self.statement(data)
        delta = statement.grants[EVERY_JOB].delta if EVERY_JOB in statement.grants else USUAL_DELTA
        return {
            "commitment": data.hex(),
            "names": self.names.get(data, []),
            "records": len(statement.records),
            "unit": "record",
            **_balance(statement.balance(delta=delta), delta),
            "jobs": [self._job(statement, job, delta) for job in statement.jobs],
        }

    def _job(self, statement: Statement, job: bytes, delta: float) -> dict[str, Any]:
        records = [one for one in statement.records if one.job == job.hex()]
        return {
            "job": job.hex(),
            "runs": len({one.run for one in records}),
            "records": len(records),
            "gradient_steps": sum(one.count for one in records),
            **_balance(statement.balance(job, delta=delta), delta),
        }

    def forecast(self, spec: JobSpec, data: bytes | None = None) -> dict[str, Any]:
        """What a whole run of a job would cost here, before it is approved. ``data``: the commitment of its data set;
        default: looked up, with the rows read and checked. Raises DataRefused, SpecError."""
        if spec.privacy is None:
            return {"job": spec.digest.hex(), "privacy": None}
        spec.privacy.check_claim(spec.params)
        data = self.view.terms(spec).commitment if data is None else data
        statement, step, rounds = self.statement(data), _step(spec, spec.privacy), _rounds(spec)
        grant, whole = statement.grants.get(EVERY_JOB), accountant.Release(step.noise, step.rate, step.count * rounds)
        delta = spec.privacy.delta if grant is None else grant.delta
        after = accountant.epsilon([*statement.releases(), whole], delta)
        fit = 0
        if grant is not None:
            budget = grant.epsilon * (1 + ROUNDING)
            fit = accountant.steps_within(budget, delta, step, rounds, statement.releases())
        return {
            "job": spec.digest.hex(),
            "privacy": spec.privacy.fields,
            "commitment": data.hex(),
            "rounds": rounds,
            "rounds_that_fit": fit,
            "granted": None if grant is None else grant.epsilon,
            "spent": accountant.rounded_up(statement.balance(delta=delta).epsilon),
            "after": accountant.rounded_up(after),
            "delta": delta,
        }


def _step(spec: JobSpec, privacy: Privacy) -> accountant.Release:
    return privacy.release(total_steps(spec.params) // _rounds(spec))


def _rounds(spec: JobSpec) -> int:
    """Steps of the plan that release anything."""
    return sum(bool(step.sums) for step in spec.plan_within(Limits(n_max=3)).steps)


def _balance(balance: Balance, delta: float) -> dict[str, Any]:
    grant = balance.grant
    return {
        "granted": None if grant is None else grant.epsilon,
        "spent": accountant.rounded_up(balance.epsilon),
        "left": None if grant is None else _down(balance.left),
        "delta": delta if grant is None else grant.delta,
    }


def _down(value: float) -> float:
    """What is left is rounded down, as what is spent is rounded up."""
    return int(value / accountant.SHOWN + 1e-6) / round(1 / accountant.SHOWN)


_RESTORE = "Restore the latest journal from its volume: what was spent stays spent."


# --- as lines --------------------------------------------------------------------------------------------------------


def account_lines(found: dict[str, Any]) -> list[str]:
    """``Accounts.all`` for a terminal."""
    lines = []
    for one in found["data"]:
        names = ", ".join(map(escaped, one["names"])) or "no longer registered"
        lines += [f"{names}  {one['commitment'][:16]}", f"  {_line(one)}"]
        lines += [
            f"  job {job['job'][:16]}  {_line(job)}; in {job['runs']} run{'s' * (job['runs'] != 1)}, "
            f"{job['gradient_steps']} gradient steps"
            for job in one["jobs"]
        ]
    if not lines:
        return ["Nothing was granted and nothing spent: see `fed data grant` and `fed approve --epsilon`."]
    lines.append(f"Unit: one training row, added or removed. Accountant: {found['accountant']}.")
    if found["all_data"]:
        every = found["all_data"]
        lines.append(
            f"A row that is in all of these data sets: epsilon {every['spent']:g} at delta {every['delta']:g}."
        )
    return lines


def _line(one: dict[str, Any]) -> str:
    granted = "nothing granted" if one["granted"] is None else f"of {one['granted']:g} granted, {one['left']:g} left"
    return f"epsilon {one['spent']:g} spent at delta {one['delta']:g}, {granted}"


def forecast_lines(found: dict[str, Any]) -> list[str]:
    """``Accounts.forecast`` for a terminal."""
    if found["privacy"] is None:
        return ["The job promises no differential privacy: no noise is added, and no account can say what it costs."]
    table = found["privacy"]
    lines = [
        f"Asks for epsilon {table['epsilon']:g} at delta {table['delta']:g} for each row, by {table['accountant']}.",
        f"Data set: epsilon {found['spent']:g} before, {found['after']:g} after a whole run, at delta "
        f"{found['delta']:g}.",
    ]
    if found["granted"] is None:
        return [*lines, "The data set has no grant yet: `fed data grant NAME --epsilon --delta`."]
    if found["rounds_that_fit"] < found["rounds"]:
        fit = f"{found['rounds_that_fit']} of {found['rounds']} rounds fit into the {found['granted']:g} granted"
        return [*lines, f"Only {fit}: then this silo declines BUDGET_SPENT."]
    return [*lines, f"It fits into the {found['granted']:g} granted."]
