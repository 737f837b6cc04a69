"""What a job would do at this silo, and how it stands with the data owner: what ``fed requests`` shows.

All of it is computed here and now, from the job's text and the silo's own home: its pinned charter, its policy, its
catalogue, its software, the signed approvals and denials, the journal. The server's word and PySyft's status are not
asked. An account never says how many rows the silo has.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from crypto.approval import Approval, Terms, approval_digest
from crypto.charter import Charter
from crypto.errors import DataRefused, FederationError, NotApproved
from crypto.plan import Lane
from jobs.job import JobSpec
from jobs.owner.approval_terms import terms_here
from jobs.owner.egress_manifest import manifest_of
from silo_agent.approvals import Approvals
from silo_agent.home import SiloHome
from silo_agent.policy import Policy
from silo_agent.pysyft.catalogue import Catalogue
from silo_agent.pysyft.request_queue import RequestQueue


@dataclass(frozen=True, slots=True)
class Standing:
    """``state``: waiting · approved · denied · expired · used-up · void. ``why``: a sentence. The rest: of the approval
    that counts, or that came closest; times in seconds since 1970, UTC."""

    state: str
    why: str = ""
    approval: str = ""
    not_before: int = 0
    not_after: int = 0
    max_runs: int = 0
    used: int = 0


@dataclass(frozen=True)
class Desk:
    """The data owner's view of a silo's home at one time: make a new one to look again. ``now``: seconds since 1970."""

    home: SiloHome
    now: int = field(default_factory=lambda: int(time.time()))

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
        """Approval → runs joined on it, from the journal; read beside an agent that has it open."""
        found: Counter[str] = Counter()
        try:
            lines = self.home.journal_path.read_bytes().splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                record = json.loads(line)
                if record["kind"] == "joined":
                    found[record["approval"]] += 1
            except (ValueError, KeyError, TypeError):
                continue  # half a line, or an old one; a journal that is damaged stops the agent, not the reader
        return found

    @cached_property
    def _terms(self) -> dict[str, Terms | DataRefused]:
        return {}

    def terms(self, spec: JobSpec) -> Terms:
        """What an approval of this job must cover here. Raises DataRefused or SpecError. Data are read once a desk."""
        if spec.dataset not in self._terms:
            try:
                self._terms[spec.dataset] = terms_here(self.home, spec)
            except DataRefused as refused:
                self._terms[spec.dataset] = refused
        found = self._terms[spec.dataset]
        if isinstance(found, DataRefused):
            raise found
        return replace(found, job=spec.digest, plan=spec.plan(self.charter).digest, purpose=spec.purpose)

    # --- how a job stands --------------------------------------------------------------------------------------------

    def standing(self, spec: JobSpec) -> Standing:
        """Whether the silo would take part in this job now, by ``Approvals.grant`` itself; and if not, why not."""
        denial = self.approvals.denial(spec.digest)
        newest = next((found for found in self.approvals.all() if found[1].terms.job == spec.digest), None)
        if newest is None or self._denied(newest[1]):
            return Standing("waiting", "nobody has decided") if denial is None else Standing("denied", denial.reason)
        try:
            wanted = self.terms(spec)
            signed = self.approvals.grant(wanted, now=self.now, uses=self.uses.__getitem__)
        except DataRefused as gone:
            return self._of("void", gone.detail, *newest)
        except NotApproved:
            return self._lapsed(wanted, *newest)
        return self._of("approved", "", signed, Approval.open(signed, lambda _: self.approvals.owner))

    def _lapsed(self, wanted: Terms, signed: bytes, approval: Approval) -> Standing:
        """Why an approval does not cover the terms now."""
        used = self.uses[approval_digest(signed).hex()]
        if approval.terms != wanted:
            state = "void"
        elif self.now > approval.not_after:
            state = "expired"
        else:
            state = "used-up" if used >= approval.max_runs else "waiting"
        try:
            approval.check(wanted, now=self.now, used=used)
        except NotApproved as amiss:
            return self._of(state, amiss.reason, signed, approval)
        raise AssertionError("an approval that covers the terms was refused")  # pragma: no cover

    def _of(self, state: str, why: str, signed: bytes, approval: Approval) -> Standing:
        digest = approval_digest(signed).hex()
        return Standing(
            state,
            why,
            digest,
            not_before=approval.not_before,
            not_after=approval.not_after,
            max_runs=approval.max_runs,
            used=self.uses[digest],
        )

    def in_force(self, approval: Approval) -> bool:
        """Whether an approval has not ended and was not taken back; its terms are not looked at."""
        return self.now <= approval.not_after and not self._denied(approval)

    def _denied(self, approval: Approval) -> bool:
        denial = self.approvals.denial(approval.terms.job)
        return denial is not None and denial.at >= approval.not_before

    # --- what a job would do -----------------------------------------------------------------------------------------

    def account(self, spec: JobSpec) -> dict[str, Any]:
        """Everything that a data owner should know before signing, as plain values."""
        plan = spec.plan(self.charter)
        leaves = manifest_of(spec, plan)
        for shown, lane in zip(leaves["lanes"], plan.lanes, strict=True):
            shown["floor"] = self.floor(lane)
        return {
            "job": spec.digest.hex(),
            "name": spec.name,
            "method": spec.method,
            "purpose": spec.purpose,
            "dataset": spec.dataset,
            "registered": self._registered(spec.dataset),
            "charter": {
                "federation": self.charter.federation,
                "epoch": self.charter.epoch,
                "silos": len(self.charter.silos),
                "digest": self.charter.digest.hex(),
            },
            "rounds": spec.params.get("rounds"),
            "params": dict(spec.params),
            "keep_uploads": spec.keep_uploads,
            "plan": plan.digest.hex(),
            "leaves": leaves,
            "standing": asdict(self.standing(spec)),
        }

    def floor(self, lane: Lane) -> int:
        """Fewest contributors for which this silo opens a lane: the strictest of charter, plan and policy."""
        return self.charter.floor(lane, self.policy.floors.get(lane.name, 0))

    def _registered(self, name: str) -> dict[str, Any] | None:
        """The catalogue's entry of a data set, or nothing."""
        try:
            entry = self.catalogue.entry(name)
        except FederationError:
            return None
        return {
            "uid": entry.uid,
            "commitment": entry.commitment.hex(),
            "features": entry.schema.features,
            "classes": entry.schema.classes,
        }
