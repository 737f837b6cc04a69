"""What a silo must find approved before it takes part: computed from its own home, the same way for owner and agent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from crypto.approval import NONCE_BYTES, Approval, Terms
from crypto.charter import Charter
from crypto.keys import Identity
from crypto.plan import Plan
from jobs import release
from jobs.job import JobSpec
from silo_agent.approvals import Approvals
from silo_agent.data import DataSet, commitment
from silo_agent.home import SiloHome
from silo_agent.pysyft.catalogue import Catalogue

DAY = 86400  # seconds


def terms(home: SiloHome, spec: JobSpec, charter: Charter, plan: Plan, data: DataSet, uid: str) -> Terms:
    """The terms of a job at this silo, as its charter, policy, data, salt and software are now."""
    return Terms(
        silo=home.silo,
        charter=charter.digest,
        job=spec.digest,
        plan=plan.digest,
        policy=home.policy().digest,
        code=release.digest(),
        data_uid=uid,
        commitment=commitment(data, home.salt()),
        purpose=spec.purpose,
    )


def terms_here(home: SiloHome, spec: JobSpec) -> Terms:
    """The same, with everything looked up: what a data owner is about to sign. Raises DataRefused, SpecError."""
    charter = home.charter()
    data, uid = Catalogue(home, home.silo).resolve(spec.dataset)
    return terms(home, spec, charter, spec.plan(charter), data, uid)


def sign(wanted: Terms, owner: Identity, *, max_runs: int, not_after: int, now: int | None = None) -> bytes:
    """The owner's approval of these terms, valid from now."""
    return Approval(
        terms=wanted,
        max_runs=max_runs,
        not_before=int(time.time()) if now is None else now,
        not_after=not_after,
        nonce=os.urandom(NONCE_BYTES),
    ).sign(owner)


def approve_for_demonstration(silos: Iterable[SiloHome], spec: JobSpec, *, max_runs: int = 8) -> None:
    """Sign as each silo's data owner: the demonstration owns these homes, and says so. For a day and a few runs."""
    for home in silos:
        owner = home.owner()
        signed = sign(terms_here(home, spec), owner, max_runs=max_runs, not_after=int(time.time()) + DAY)
        Approvals(home.approvals_folder, owner.public).add(signed)
