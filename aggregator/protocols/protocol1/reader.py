"""Protocol 1 behind the interface that verification uses: ``aggregator.protocols.interface.Reader``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aggregator.protocols.protocol1 import blocks, messages, transcript
from aggregator.protocols.protocol1.charter import Charter, open_charter
from aggregator.protocols.protocol1.equivocation import Proven, verify_pair
from aggregator.protocols.protocol1.messages import Advert, Approval, Closing, Decline
from aggregator.protocols.protocol1.plan import Plan, Step
from aggregator.protocols.protocol1.receipt import Receipt
from aggregator.protocols.protocol1.step import CheckedStep, Context, StepEvidence, check, words_digest
from crypto.keys import PublicIdentity


class Protocol1:
    name = "consilium/1"
    note = (
        "in this protocol the opened sums were not proven to the silos: that the sums they applied were those of their "
        "uploads was the aggregator's word"
    )
    early_refusals = True

    # --- charter and run ------------------------------------------------------------------------------------------

    def open_charter(self, data: bytes, consortium: PublicIdentity) -> Charter:
        return open_charter(data, consortium)

    def plan(self, data: bytes) -> Plan:
        return Plan.from_bytes(data)

    def job_digest(self, text: str) -> bytes:
        return transcript.digest("job", text)

    def run_id(self, job: bytes, charter: bytes, nonce: bytes) -> bytes:
        return transcript.run_id(job, charter, nonce)

    def initial_chain(self, run: bytes, state: bytes) -> bytes:
        return transcript.initial_chain(run, state)

    def void_chain(self, chain: bytes, t3: bytes) -> bytes:
        return transcript.next_chain(chain, t3, b"", released=False)

    # --- state ----------------------------------------------------------------------------------------------------

    def initial_state(self, plan: Plan, run: bytes) -> Mapping[str, np.ndarray]:
        """In this protocol every run of a plan started from the same blocks."""
        return blocks.initial_state(plan)

    def apply(
        self, plan: Plan, step: Step, state: blocks.State, sums: blocks.State, slots: Mapping[str, int]
    ) -> Mapping[str, np.ndarray]:
        return blocks.apply(plan, step, state, sums, slots)

    def state_digest(self, state: Mapping[str, np.ndarray]) -> bytes:
        return blocks.state_digest(state)

    def words_digest(self, words: np.ndarray) -> bytes:
        return words_digest(words)

    # --- signed messages ------------------------------------------------------------------------------------------

    def check_step(
        self, evidence: bytes, charter: Any, plan: Plan, *, run: bytes, k: int, attempt: int, chain: bytes
    ) -> CheckedStep:
        decoded = StepEvidence.from_bytes(evidence)
        return check(Context(charter, plan, run, k, attempt, chain), decoded)

    def approval_digest(self, signed: bytes) -> bytes:
        return messages.approval_digest(signed)

    def open_approval(self, signed: bytes, silo: str, charter: Any) -> Approval:
        return messages.open_approval(signed, silo, lambda name: charter.member(name).owner)

    def check_shown(
        self, signed: bytes, advert: Advert, charter: Any, *, job: bytes, plan: bytes, code: bytes
    ) -> Approval:
        run = {"charter": charter.digest, "job": job, "plan": plan, "code": code}
        return messages.check_shown(signed, advert, lambda name: charter.member(name).owner, **run)

    def open_closing(self, signed: bytes, charter: Any) -> Closing:
        return Closing.open(signed, lambda message: charter.member(message.silo).agent)

    def open_decline(self, signed: bytes, charter: Any) -> Decline:
        return Decline.open(signed, lambda message: charter.member(message.silo).agent)

    # --- single files ---------------------------------------------------------------------------------------------

    def open_receipt(self, signed: bytes, agent: Callable[[Receipt], PublicIdentity]) -> Receipt:
        receipt = Receipt.open(signed, agent)
        receipt.check()
        return receipt

    def verify_pair(self, evidence: bytes, charter: Any) -> Proven:
        return verify_pair(evidence, charter)
