"""The lineage of one model as a value: version → run → steps → cohort → data commitments and approvals.

``trace`` makes it. None stands for what an older ledger did not record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aggregator.verify.models import ModelVersion
from jobs.evidence.lineage.consent import Consent
from jobs.evidence.lineage.steps import StepGroup


@dataclass(frozen=True, slots=True)
class SiloPart:
    """One silo in a run. ``data``: its data commitments, usually one. ``approval``: the digest that the steps name;
    ``consent``: its contents, where the ledger has them. ``steps``: sums it is in. ``withdrew``: when, if it did."""

    silo: str
    data: tuple[str, ...]
    approval: str | None
    consent: Consent | None
    policy: str | None
    steps: int
    absences: tuple[str, ...]
    countersigned: bool
    withdrew: str | None


@dataclass(frozen=True, slots=True)
class WithdrawalFacts:
    """A withdrawal on the ledger. ``seq``: number of its line. ``remedies``: model → what was planned then."""

    silo: str
    seq: int
    at: str
    reason: str
    epoch: int
    models: tuple[str, ...]
    remedies: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """``epoch``: of the charter, where it is at hand. ``replayable``: of ``summed`` steps, those with uploads kept."""

    run: str
    job: str
    method: str
    purpose: str | None
    status: str
    started: str
    ended: str | None
    job_digest: str
    plan_digest: str
    charter_digest: str
    epoch: int | None
    code_digest: str | None
    versions: Mapping[str, str]
    members: tuple[str, ...]
    threshold: int
    chain: str | None
    ledger_head: str | None
    replayable: int
    summed: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """``parents`` nearest first; ``descendants`` oldest first; ``newer``: the newest version of the same name.
    ``consortium``: fingerprint of the key that signed the charters, as it lies in the home."""

    federation: str
    consortium: str
    model: ModelVersion | None
    run: RunFacts
    steps: tuple[StepGroup, ...]
    silos: tuple[SiloPart, ...]
    parents: tuple[ModelVersion, ...]
    descendants: tuple[ModelVersion, ...]
    newer: str | None
    withdrawals: tuple[WithdrawalFacts, ...]
    lines: int
    head: str
    unproven: tuple[str, ...]

    @property
    def subject(self) -> str:
        return self.model.label if self.model is not None else self.run.run

    @property
    def commands(self) -> tuple[str, str]:
        """The commands that check this here, and on another machine."""
        subject = self.subject
        bundle = f"{subject.replace('/', '-')}.zip"
        return f"fed verify {subject} --home AGGREGATOR", f"fed lineage {subject} --bundle {bundle} --home AGGREGATOR"
