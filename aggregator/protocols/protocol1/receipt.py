"""A silo's receipt of a run under protocol 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from aggregator.protocols.protocol1 import transcript
from aggregator.protocols.protocol1.encoding import Reader
from aggregator.protocols.protocol1.messages import Message
from crypto.errors import EvidenceError


@dataclass(frozen=True, slots=True)
class Applied:
    """A step as the silo applied it. ``result``: digest of what was opened, zeros where it was void."""

    k: int
    t3: bytes
    result: bytes
    released: bool

    @classmethod
    def read(cls, src: Reader) -> Self:
        return cls(src.u32(), src.digest(), src.digest(), src.flag())


@dataclass(frozen=True, slots=True)
class Receipt(Message):
    """Fields in the order of their bytes."""

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

    @classmethod
    def read(cls, src: Reader) -> Self:
        silo = src.text()
        run, job, plan, charter, code, nonce, approval, data, initial, chain, ledger = (src.digest() for _ in range(11))
        steps = src.each(Applied.read)
        return cls(silo, run, job, plan, charter, code, nonce, approval, data, initial, chain, ledger, steps)

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
