"""What a silo must find approved before it takes part: computed from its own home, the same way for owner and agent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from crypto.approval import NONCE_BYTES, Approval, Terms
from crypto.charter import Charter
from crypto.keys import Identity
from crypto.plan import Plan
from crypto.privacy_grant import EVERY_JOB, PrivacyGrant
from jobs import release
from jobs.job import JobSpec
from jobs.owner.data_fit import check_rows
from silo_agent.approval_store import Approvals
from silo_agent.home import SiloHome
from silo_agent.policy import Policy
from silo_agent.privacy.grants import Grants
from silo_agent.pysyft.catalogue import Catalogue, DataId

DAY = 86400  # seconds


def terms(spec: JobSpec, plan: Plan, *, silo: str, charter: Charter, policy: Policy, data: DataId) -> Terms:
    """The terms of a job at a silo, with the software that is installed now."""
    return Terms(
        silo=silo,
        charter=charter.digest,
        job=spec.digest,
        plan=plan.digest,
        policy=policy.digest,
        code=release.digest(),
        data_uid=data.uid,
        commitment=data.commitment,
        purpose=spec.purpose,
    )


def current_terms(home: SiloHome, spec: JobSpec) -> Terms:
    """The same, with everything looked up in the silo's home. Raises DataRefused, SpecError."""
    charter = home.charter()
    found = Catalogue(home, home.silo).resolve(spec.dataset)
    check_rows(spec, found.data, found.schema)
    return terms(spec, spec.plan(charter), silo=home.silo, charter=charter, policy=home.policy(), data=found.id)


def unsigned(wanted: Terms, *, max_runs: int, not_after: int, now: int | None = None) -> Approval:
    """An approval of these terms, valid from now, for the owner to sign."""
    return Approval(
        terms=wanted,
        max_runs=max_runs,
        not_before=int(time.time()) if now is None else now,
        not_after=not_after,
        nonce=os.urandom(NONCE_BYTES),
    )


def sign(wanted: Terms, owner: Identity, *, max_runs: int, not_after: int, now: int | None = None) -> bytes:
    """The owner's approval of these terms, valid from now."""
    return unsigned(wanted, max_runs=max_runs, not_after=not_after, now=now).sign(owner)


def approve_for_demonstration(silos: Iterable[SiloHome], spec: JobSpec, *, max_runs: int = 8) -> None:
    """Sign as each silo's data owner, for one day. Only where the demonstration owns the homes."""
    for home in silos:
        owner, wanted, now = home.owner(), current_terms(home, spec), int(time.time())
        signed = sign(wanted, owner, max_runs=max_runs, not_after=now + DAY)
        Approvals(home.approvals_folder, owner.public).add(signed)
        if (privacy := spec.privacy) is not None:  # as much as one run costs
            for job in (EVERY_JOB, spec.digest):
                grant = PrivacyGrant(
                    silo=home.silo,
                    data=wanted.commitment,
                    job=job,
                    epsilon=privacy.epsilon,
                    delta=privacy.delta,
                    at=now,
                    spent=0,
                )
                Grants(home.approvals_folder, owner.public).add(grant.sign(owner))
