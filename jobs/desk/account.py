"""A request as a page shows it, and what of it must still be so when it is signed.

No row is read for it: the terms are those of the data set's registration. When it is signed, the rows are read and
checked, and what is signed is compared with what was shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, Final

from crypto.approval import Terms
from crypto.errors import DataRefused, FederationError
from jobs.job import JobSpec
from jobs.owner import approval_terms
from jobs.owner.privacy import Accounts
from jobs.owner.review import OwnerView
from silo_agent.approval_store import ApprovalState
from silo_agent.pysyft.catalogue import DataId
from silo_agent.readers.ranges import without_values

#: A field of the terms → what people call it.
WORDS: Final[Mapping[str, str]] = {
    "silo": "this silo",
    "charter": "the charter: who takes part, and its floors",
    "job": "the job",
    "plan": "the plan: what leaves",
    "policy": "this silo's policy",
    "code": "the software of this silo",
    "data_uid": "the registration of the data set",
    "commitment": "the data",
    "purpose": "the purpose",
}
_BESIDES, _DECISION = "what the page says besides", "the decision"
_LACKING, _COST = "why it cannot be approved", "the account of privacy"


@dataclass(frozen=True, slots=True)
class Account:
    """``review``: of ``OwnerView.account``. ``terms``: what would be signed; None where nothing can be, and ``amiss``
    says why. ``standing``: the decision so far. ``forecast``: of a private job, what a run would cost here
    (``jobs.owner.privacy.Accounts.forecast``); empty of others."""

    spec: JobSpec
    review: Mapping[str, Any]
    terms: Terms | None
    amiss: str
    standing: ApprovalState
    forecast: Mapping[str, Any]

    @classmethod
    def of(cls, view: OwnerView, spec: JobSpec) -> Account:
        """Raises SpecError for a job that has no plan under the charter."""
        review = view.account(spec)
        here = review["registered"]
        if here is not None:
            here["findings"] = [without_values(finding) for finding in here["findings"]]
        amiss = here["amiss"] if here is not None else _unregistered(view, spec)
        terms = None
        if not amiss:
            data = DataId(here["uid"], bytes.fromhex(here["commitment"]))
            plan = spec.plan(view.charter)
            terms = approval_terms.terms(
                spec, plan, silo=view.silo, charter=view.charter, policy=view.policy, data=data
            )
        forecast: Mapping[str, Any] = {}
        if spec.privacy is not None and terms is not None:
            forecast = Accounts(view).forecast(spec, terms.commitment)
        return cls(spec, review, terms, amiss, _standing(view, spec, terms, amiss), forecast)

    @property
    def facts(self) -> Mapping[str, object]:
        """What was shown, by the words that people use for it: equal facts are equal pages."""
        besides = {key: value for key, value in self.review.items() if key not in ("job", "plan", "purpose")}
        found: dict[str, object] = {
            WORDS["job"]: self.review["job"],
            WORDS["plan"]: self.review["plan"],
            WORDS["purpose"]: self.review["purpose"],
            _LACKING: self.amiss,
            _COST: dict(self.forecast),
            _DECISION: [self.standing.state, self.standing.approval, self.standing.why],
        }
        if self.terms is not None:
            for one in fields(Terms):
                value = getattr(self.terms, one.name)
                found[WORDS[one.name]] = value.hex() if isinstance(value, bytes) else value
        return found | {_BESIDES: digest(besides)}  # of a large model it is long


def digest(facts: Mapping[str, object]) -> str:
    """SHA-256 in hex over what a page has shown."""
    return sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def changed(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What a page said that is no longer so, in the words of ``WORDS``; the rest only where nothing else is named."""
    found = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [name for name in found if name != _BESIDES] or found


def _unregistered(view: OwnerView, spec: JobSpec) -> str:
    try:
        view.catalogue.entry(spec.dataset)
    except FederationError as refused:
        return str(refused)
    return ""


def _standing(view: OwnerView, spec: JobSpec, terms: Terms | None, amiss: str) -> ApprovalState:
    decisions = view.approvals.decisions(spec.digest)
    if (state := decisions.without_approval()) is not None:
        return state
    return decisions.state(terms or DataRefused(amiss), now=view.now, uses=view.uses.__getitem__)
