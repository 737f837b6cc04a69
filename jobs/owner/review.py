"""The owner review: what a job would do at this silo, and whether it is approved. ``fed requests`` shows it.

All of it is computed here and now, from the job's text and the silo's own home: its pinned charter, its policy, its
catalogue, its software, the signed approvals and denials, the journal. Nothing from the server and no status of
PySyft's is used. A review never contains the number of rows.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from crypto.approval import Approval, Terms
from crypto.charter import Charter
from crypto.errors import DataRefused, FederationError
from crypto.plan import Lane, Plan
from jobs.job import JobSpec
from jobs.owner import approval_terms
from jobs.owner.data_fit import check_fit, check_rows
from jobs.owner.egress_manifest import manifest_of
from silo_agent.approval_store import Approvals, ApprovalState
from silo_agent.home import SiloHome
from silo_agent.journal import Joined, parse_record
from silo_agent.policy import Policy
from silo_agent.pysyft.catalogue import Catalogue, Resolved
from silo_agent.pysyft.request_queue import RequestQueue


@dataclass(frozen=True)
class OwnerView:
    """The data owner's view of a silo's home at one time. ``now``: seconds since 1970.

    What it has read it keeps: make a new one to look again.
    """

    home: SiloHome
    now: int = field(default_factory=lambda: int(time.time()))

    # --- what it reads -----------------------------------------------------------------------------------------------

    @cached_property
    def silo(self) -> str:
        return self.home.silo

    @cached_property
    def charter(self) -> Charter:
        return self.home.charter()

    @cached_property
    def policy(self) -> Policy:
        return self.home.policy()

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.home, self.silo)

    @cached_property
    def queue(self) -> RequestQueue:
        return RequestQueue(self.home, self.silo)

    @cached_property
    def approvals(self) -> Approvals:
        return Approvals(self.home.approvals_folder, self.charter.member(self.silo).owner)

    @cached_property
    def uses(self) -> Counter[str]:
        """Approval → runs joined on it, from the journal. It is read even while an agent has it open."""
        found: Counter[str] = Counter()
        try:
            lines = self.home.journal_path.read_bytes().splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                record = parse_record(line)
            except ValueError:
                continue  # an incomplete line; a damaged journal stops the agent, not the owner
            if isinstance(record, Joined):
                found[record.approval] += 1
        return found

    # --- one job -----------------------------------------------------------------------------------------------------

    def review(self, spec: JobSpec) -> dict[str, Any]:
        """Everything that a data owner should know before signing, as plain values, and how the job stands.

        Raises SpecError for a job that has no plan under this charter.
        """
        return self.account(spec) | {"standing": asdict(self.approval_state(spec))}

    def account(self, spec: JobSpec) -> dict[str, Any]:
        """The same without how it stands: no row is read. Raises SpecError."""
        plan = spec.plan(self.charter)
        return {
            "job": spec.digest.hex(),
            "name": spec.name,
            "method": spec.method,
            "purpose": spec.purpose,
            "dataset": spec.dataset,
            "registered": self._registered(spec),
            "charter": {
                "federation": self.charter.federation,
                "epoch": self.charter.epoch,
                "silos": len(self.charter.silos),
                "digest": self.charter.digest.hex(),
            },
            "rounds": spec.params.get("rounds"),
            "params": dict(spec.params),
            "privacy": None if spec.privacy is None else spec.privacy.fields,
            "keep_uploads": spec.keep_uploads,
            "plan": plan.digest.hex(),
            "leaves": manifest_of(spec, plan, {lane.name: self.floor(lane) for lane in plan.lanes}),
        }

    def approval_state(self, spec: JobSpec) -> ApprovalState:
        """Whether the silo would take part in this job now, and if not, why not."""
        return self._approval_state(spec, spec.plan(self.charter))

    def terms(self, spec: JobSpec) -> Terms:
        """What an approval of this job must cover here. Raises DataRefused or SpecError."""
        terms = self._terms(spec, spec.plan(self.charter))
        if isinstance(terms, DataRefused):
            raise terms
        return terms

    def rows(self, name: str) -> int:
        """Training rows of a data set, for checks at this silo. Raises DataRefused."""
        found = self._data(name)
        if isinstance(found, DataRefused):
            raise found
        return found.data.rows

    def floor(self, lane: Lane) -> int:
        """Fewest contributors for which this silo opens a lane: the strictest of charter, plan and policy."""
        return self.charter.floor(lane, self.policy.floors.get(lane.name, 0))

    def in_force(self, approval: Approval) -> bool:
        """Whether an approval has not expired and no denial overrides it; its terms are not looked at."""
        denial = self.approvals.denial(approval.terms.job)
        return self.now <= approval.not_after and (denial is None or denial.at < approval.not_before)

    # --- its parts ---------------------------------------------------------------------------------------------------

    def _registered(self, spec: JobSpec) -> dict[str, Any] | None:
        """The catalogue's entry of a job's data set, or nothing. ``amiss``: why the job cannot use it, or "";
        ``findings``: what to look at in its values."""
        try:
            entry = self.catalogue.entry(spec.dataset)
        except FederationError:
            return None
        amiss = ""
        try:
            check_fit(spec, entry.schema, entry.read_by)
        except DataRefused as other:
            amiss = str(other)
        return {
            "uid": entry.uid,
            "commitment": entry.commitment.hex(),
            "features": entry.schema.features,
            "classes": entry.schema.classes,
            "target": entry.schema.target_text,
            "amiss": amiss,
            "findings": list(entry.findings),
        }

    def _approval_state(self, spec: JobSpec, plan: Plan) -> ApprovalState:
        decisions = self.approvals.decisions(spec.digest)
        if (state := decisions.without_approval()) is not None:
            return state  # the rows are not read
        return decisions.state(self._terms(spec, plan), now=self.now, uses=self.uses.__getitem__)

    def _terms(self, spec: JobSpec, plan: Plan) -> Terms | DataRefused:
        data = self._data(spec.dataset)
        if isinstance(data, DataRefused):
            return data
        try:
            check_rows(spec, data.data, data.schema)
        except DataRefused as other:
            return other
        return approval_terms.terms(spec, plan, silo=self.silo, charter=self.charter, policy=self.policy, data=data.id)

    def _data(self, name: str) -> Resolved | DataRefused:
        """Which data a name means, or why they cannot be used. The rows are read and checked once for all jobs."""
        if name not in self._checked:
            try:
                self._checked[name] = self.catalogue.resolve(name)
            except DataRefused as refused:
                self._checked[name] = refused
        return self._checked[name]

    @cached_property
    def _checked(self) -> dict[str, Resolved | DataRefused]:
        return {}
