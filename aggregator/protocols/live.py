"""The protocol in use behind the interface that verification uses: ``aggregator.protocols.interface.Reader``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crypto import blocks, cohort, equivocation, transcript
from crypto.approval import Approval, approval_digest, check_shown, open_approval
from crypto.blocks import State
from crypto.charter import Charter, SignedCharter
from crypto.cohort import Context
from crypto.errors import RosterMismatch
from crypto.evidence import Checked, StepEvidence
from crypto.keys import PublicIdentity
from crypto.messages import Advert, Closing, Decline
from crypto.plan import Plan, Step
from crypto.receipt import Receipt


class Live:
    note = ""
    early_refusals = False

    @property
    def name(self) -> str:
        return transcript.PROTOCOL

    # --- charter and run ------------------------------------------------------------------------------------------

    def open_charter(self, data: bytes, consortium: PublicIdentity) -> Charter:
        return SignedCharter.open(data, consortium)

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

    def initial_state(self, plan: Plan, run: bytes) -> State:
        return blocks.initial_state(plan, run)

    def apply(self, plan: Plan, step: Step, state: State, sums: State, slots: Mapping[str, int]) -> State:
        return blocks.apply(plan, step, state, sums, {lane: slots[f"{lane}.weight"] for lane in sums})

    def state_digest(self, state: State) -> bytes:
        return blocks.state_digest(state)

    def words_digest(self, words: np.ndarray) -> bytes:
        return cohort.words_digest(words)

    # --- signed messages ------------------------------------------------------------------------------------------

    def check_step(
        self, evidence: bytes, charter: Charter, plan: Plan, *, run: bytes, k: int, attempt: int, chain: bytes
    ) -> LiveStep:
        decoded = StepEvidence.from_bytes(evidence)
        context = Context(charter=charter, plan=plan, run=run, k=k, attempt=attempt, chain=chain)
        return LiveStep(decoded, decoded.check(context))

    def approval_digest(self, signed: bytes) -> bytes:
        return approval_digest(signed)

    def open_approval(self, signed: bytes, silo: str, charter: Charter) -> Approval:
        approval = open_approval(signed, lambda name: charter.member(name).owner)
        if approval.terms.silo != silo:
            raise RosterMismatch(f"{silo!r} showed an approval of {approval.terms.silo!r}.")
        return approval

    def check_shown(
        self, signed: bytes, advert: Advert, charter: Charter, *, job: bytes, plan: bytes, code: bytes
    ) -> Approval:
        return check_shown(signed, advert, charter, job=job, plan=plan, code=code)

    def open_closing(self, signed: bytes, charter: Charter) -> Closing:
        return Closing.open(signed, lambda message: charter.member(message.silo).agent)

    def open_decline(self, signed: bytes, charter: Charter) -> Decline:
        return Decline.open(signed, lambda message: charter.member(message.silo).agent)

    # --- single files ---------------------------------------------------------------------------------------------

    def open_receipt(self, signed: bytes, agent: Callable[[Receipt], PublicIdentity]) -> Receipt:
        receipt = Receipt.open(signed, agent)
        receipt.check()
        return receipt

    def verify_pair(self, evidence: bytes, charter: Charter) -> equivocation.Proven:
        return equivocation.verify(evidence, charter)


@dataclass(frozen=True, repr=False)
class LiveStep:
    """A checked step as verification sees it. ``evidence``: what it was checked from."""

    evidence: StepEvidence
    checked: Checked

    @property
    def step(self) -> Step:
        return self.checked.context.step

    @property
    def transcript(self) -> bytes:
        return self.checked.survivors.t3

    @property
    def adverts(self) -> Mapping[str, Advert]:
        return self.checked.survivors.dealt.cohort.adverts

    @property
    def survivors(self) -> tuple[str, ...]:
        return tuple(self.checked.survivors.signed)

    @property
    def upload_digests(self) -> Mapping[str, bytes]:
        return {silo: transcript.digest("upload", signed) for silo, signed in self.checked.survivors.signed.items()}

    @property
    def figures(self) -> Mapping[str, int]:
        return self.checked.figures

    @property
    def signers(self) -> tuple[str, ...]:
        return self.checked.signers

    @property
    def messages(self) -> int:
        signed = self.evidence
        parts = (signed.adverts, signed.deals, signed.headers, signed.attestations, signed.tags)
        return sum(map(len, (*parts, signed.slot_shares, signed.lane_shares)))

    def holders(self, lane: str) -> tuple[str, ...]:
        return self.checked.survivors.dealt.cohort.holders(lane, self.survivors)

    def words_signed(self, silo: str, lane: str) -> bytes:
        return dict(self.checked.survivors.headers[silo].lanes)[lane]

    def lanes_open(self) -> tuple[str, ...]:
        return self.checked.lanes_open()

    def replay(self, lane: str, uploads: Mapping[str, np.ndarray]) -> np.ndarray:
        found = self.checked.replay(lane, uploads)
        self.checked.prove(lane, found)
        return found.words

    def chain_after(self, sums: Sequence[tuple[str, bytes]] | None) -> bytes:
        return transcript.next_chain(
            self.checked.context.chain, self.transcript, self.checked.result.digest, released=True
        )
