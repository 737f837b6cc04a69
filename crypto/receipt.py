"""A silo's own record of a run it took part in, kept at the silo: evidence against a server that changes its ledger.

It holds what the silo agreed to and the result of every step as the silo applied it. From it anyone can recompute the
run's id and the whole state chain, and compare them with a ledger, a bundle, or another silo's receipt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from crypto import transcript
from crypto.encoding import Reader, Writer
from crypto.errors import EvidenceError
from crypto.messages import Wire
from crypto.transcript import DIGEST_BYTES

_DIGESTS = ("run", "job", "plan", "charter", "code", "nonce", "approval", "data", "initial", "chain", "ledger")


@dataclass(frozen=True, slots=True)
class Applied:
    """A step as the silo applied it: ``result`` is the digest of its StepResult, zeros where it was void."""

    k: int
    t3: bytes
    result: bytes
    released: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(Wire):
    """Signed with the agent's key. ``initial``: digest of the blocks before the first step; ``chain``: S after the
    last; ``ledger``: the head that the silo countersigned."""

    silo: str
    run: bytes
    job: bytes
    plan: bytes
    charter: bytes
    code: bytes
    nonce: bytes
    approval: bytes
    data: bytes
    initial: bytes
    chain: bytes
    ledger: bytes
    steps: tuple[Applied, ...]
    KIND: ClassVar[int] = 13
    LABEL: ClassVar[str] = "receipt"

    def write(self, out: Writer) -> None:
        out.text(self.silo)
        for name in _DIGESTS:
            out.fixed(getattr(self, name), DIGEST_BYTES)
        out.each(
            self.steps,
            lambda w, step: (
                w.u32(step.k).fixed(step.t3, DIGEST_BYTES).fixed(step.result, DIGEST_BYTES).u8(step.released)
            ),
        )

    @classmethod
    def read(cls, src: Reader) -> Self:
        silo = src.text()
        digests = {name: src.fixed(DIGEST_BYTES) for name in _DIGESTS}
        steps = src.each(lambda s: Applied(s.u32(), s.fixed(DIGEST_BYTES), s.fixed(DIGEST_BYTES), s.flag()))
        return cls(silo=silo, **digests, steps=steps)

    def check(self) -> None:
        """Raise EvidenceError unless the run's id and the chain follow from the receipt's other fields."""
        run = transcript.run_id(self.job, self.charter, self.nonce)
        if run != self.run:
            raise EvidenceError(f"receipt of {self.silo}, run", expected=run.hex(), found=self.run.hex())
        for place, step in enumerate(self.steps):
            if step.k != place:
                raise EvidenceError(f"receipt of {self.silo}", expected=f"step {place}", found=f"step {step.k}")
        if (chain := self.chains()[-1]) != self.chain:
            raise EvidenceError(f"receipt of {self.silo}, chain", expected=chain.hex(), found=self.chain.hex())

    def chains(self) -> tuple[bytes, ...]:
        """S_0 and S after each step."""
        found = [transcript.initial_chain(self.run, self.initial)]
        for step in self.steps:
            result = step.result if step.released else b""
            found.append(transcript.next_chain(found[-1], step.t3, result, released=step.released))
        return tuple(found)
