"""The lineage of one model as a value: version → run → steps → cohort → data commitments and approvals.

``trace`` draws it up. None stands for what an older ledger did not record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aggregator.verify.models import ModelVersion
from jobs.evidence.lineage.consent import Consent
from jobs.evidence.lineage.steps import Steps


@dataclass(frozen=True, slots=True)
class Part:
    """What one silo had to do with a run. ``data``: its commitments, usually one. ``approval``: digest named by the
    steps; ``consent``: what it says, where the ledger has it."""

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
class Withdrawal:
    """``seq``: its ledger line. ``remedies``: model → what is to be done about it, as planned when the silo left."""

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
    steps: tuple[Steps, ...]
    silos: tuple[Part, ...]
    parents: tuple[ModelVersion, ...]
    descendants: tuple[ModelVersion, ...]
    newer: str | None
    withdrawals: tuple[Withdrawal, ...]
    lines: int
    head: str
    unproven: tuple[str, ...]

    @property
    def subject(self) -> str:
        return self.model.label if self.model is not None else self.run.run

    @property
    def commands(self) -> tuple[str, str]:
        """What to type to check this here, and to check it elsewhere."""
        subject = self.subject
        bundle = f"{subject.replace('/', '-')}.zip"
        return f"fed verify {subject} --home AGGREGATOR", f"fed lineage {subject} --bundle {bundle} --home AGGREGATOR"
