"""One silo's agent without a home: a site of keys and charter alone, FedAvg on made-up rows, requests to it.

What the aggregator would send is made here, with its key, so no run is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from crypto import blocks, transcript
from crypto.approval import Approval, Terms
from crypto.charter import Charter
from crypto.keys import Identity
from crypto.messages import DECLINE, Decline, Message, Open, Request
from crypto.plan import Plan
from silo_agent.agent import Agent, Site
from silo_agent.approval_store import Approvals
from silo_agent.data import DataSet, check
from silo_agent.journal import Journal
from silo_agent.methods import Limits
from silo_agent.methods.fedavg import FedAvg
from silo_agent.policy import Policy
from tests.federation import Federation, identity

SILO = "silo-1"
PARAMS = {"features": 4, "classes": 3, "hidden": 2, "rounds": 2, "local_steps": 1}
JOB, CODE = b"j" * 32, b"c" * 32
NOW = 1_000


@dataclass(frozen=True)
class OneAgent:
    """``root``: where journal, approvals and notes lie."""

    root: Path

    @cached_property
    def federation(self) -> Federation:
        return Federation(5)

    @property
    def charter(self) -> Charter:
        return self.federation.charter

    @cached_property
    def plan(self) -> Plan:
        return FedAvg.plan(PARAMS, Limits(n_max=5))

    @cached_property
    def data(self) -> DataSet:
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(30, 4)), np.arange(30) % 3
        return check("rows", {"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[:9], "classes": np.array(3)})

    @cached_property
    def terms(self) -> Terms:
        return Terms(
            silo=SILO, charter=self.charter.digest, job=JOB, plan=self.plan.digest, policy=Policy().digest, code=CODE,
            data_uid="uid", commitment=b"d" * 32, purpose="a test",
        )  # fmt: skip

    def open(self) -> Agent:
        """The agent of a job that the data owner has approved. As often as wanted, one after another."""
        owner = identity(f"{SILO}/owner")
        approvals = Approvals(self.root / "approvals", owner.public)
        given = Approval(terms=self.terms, max_runs=8, not_before=0, not_after=2 * NOW, nonce=bytes(16))
        approvals.add(given.sign(owner))
        site = Site(
            silo=SILO,
            identity=self.federation.identities[SILO],
            charter=self.charter,
            policy=Policy(),
            approvals=approvals,
            journal=Journal(self.root / "journal.jsonl"),
            runs=self.root / "runs",
            code=CODE,
            now=lambda: NOW,
        )
        return Agent(site, terms=self.terms, plan=self.plan, method=FedAvg(PARAMS, SILO), data=self.data)

    def first_open(self, nonce: bytes = b"n" * 32) -> Message:
        """The request that opens step 0 of the run with this nonce."""
        run = transcript.run_id(JOB, self.charter.digest, nonce)
        start = blocks.state_digest(blocks.initial_state(self.plan, run))
        offer = Open(
            job=JOB, plan=self.plan.digest, charter=self.charter.digest, code=CODE, nonce=nonce,
            chain=transcript.initial_chain(run, start), results=(), proofs=(),
        )  # fmt: skip
        request = Request(run=run, step=0, attempt=0, phase="open", payload=bytes(offer))
        return Message("open", request.sign(self.federation.aggregator))

    def again(self, message: Message) -> Message:
        """Another request for the same place."""
        return another(message, self.federation.aggregator)


def another(message: Message, signer: Identity) -> Message:
    """Another request for the place of ``message``."""
    request = read(message)
    return Message(message.phase, replace(request, payload=request.payload + b"more").sign(signer))


def read(message: Message) -> Request:
    """A request, whoever signed it."""
    return Request.open(message.body, lambda _: _Anyone())  # type: ignore[arg-type,return-value]


def code_of(reply: Message) -> str:
    """The code of a refusal, whoever signed it."""
    assert reply.phase == DECLINE
    return Decline.open(reply.body, lambda _: _Anyone()).code  # type: ignore[arg-type,return-value]


class _Anyone:
    def verify(self, signature: bytes, message: bytes) -> None:
        """Every signature holds."""
