"""Released results that some silo still lacks: how far each silo is, and the next part for it.

A silo that is up lacks the last step's result. One that stayed away lacks many, and gets them in parts, one with each
request: it applies a part and answers ``CATCHING_UP`` until the last. Sums stay on disk until every silo has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from aggregator.home import RunFolder
from aggregator.rounds.resume import Result
from aggregator.rounds.storage import drop_sums, keep_sums
from crypto.errors import SpecError
from crypto.messages import ARRAY_WORDS, BODY_BYTES, MESSAGE_ARRAYS, StepResult, pack_words
from crypto.plan import Plan

#: Words of sums in one part, 64 MB, and steps in it; but at least one step's result. A part has to be fetched and
#: applied within a phase's time.
PART_WORDS: Final = 1 << 24
PART_STEPS: Final = 1000
#: Bytes of proofs in one part: half of a message's body.
PART_PROOFS: Final = BODY_BYTES // 2


@dataclass(frozen=True, slots=True)
class Part:
    """Results in order, the signed tags that prove each, and the arrays of all their sums."""

    results: tuple[StepResult, ...]
    proofs: tuple[tuple[bytes, ...], ...]
    arrays: tuple[np.ndarray, ...]


def check_steps(plan: Plan) -> None:
    """Raises SpecError for a step whose sums no message could carry to the silos."""
    most = MESSAGE_ARRAYS * ARRAY_WORDS
    for step in plan.steps:
        summed = sum(plan.words_of(step, lane.name) for lane in plan.lanes_of(step))
        if (words := summed + summed // 2 + len(plan.lanes)) > most:  # with the carries, of at most two bytes a word
            raise SpecError(
                f"step {step.name}",
                got=f"{words} words in all lanes with their carries",
                want=f"at most {most}, {most >> 18} MiB, which is what one message carries",
                remedy="Take a smaller model, or a method that sends less of it.",
            )


class Backlog:
    """``folder``: the run's. ``results``: those of a run that goes on, of the steps from ``oldest`` on; silos have what
    is older."""

    def __init__(
        self, folder: RunFolder, silos: Iterable[str], results: Sequence[Result] = (), oldest: int = 0
    ) -> None:
        self._folder = folder
        self._results = dict(enumerate(results, oldest))
        self._first = dict.fromkeys(silos, oldest)  #: silo → first step whose result it has not confirmed
        self._next = oldest + len(results)
        self._parts: dict[int, Part] = {}

    def add(self, result: StepResult, proof: tuple[bytes, ...], sums: Sequence[np.ndarray]) -> None:
        """The next step's result, with the signed tags that prove it and the arrays of what opened."""
        for k in [k for k in self._results if k < min(self._first.values())]:
            del self._results[k]
            drop_sums(self._folder, k)
        self._results[self._next] = Result(result, proof, keep_sums(self._folder, self._next, sums))
        self._next += 1
        self._parts = {}

    def confirmed(self, silo: str) -> None:
        """The silo has every result so far."""
        self._first[silo] = self._next

    def took(self, silo: str) -> None:
        """The silo has applied its next part."""
        self._first[silo] += len(self.part(silo).results)

    def part(self, silo: str) -> Part:
        """What the silo gets next. Silos at the same step share one copy."""
        first = self._first[silo]
        if first not in self._parts:
            self._parts[first] = self._pack(first)
        return self._parts[first]

    def _pack(self, first: int) -> Part:
        taken: list[Result] = []
        words = proofs = 0
        for k in range(first, min(self._next, first + PART_STEPS)):
            one = self._results[k]
            words += sum(vector.size for vector in one.sums)
            proofs += sum(map(len, one.proof))
            if taken and (words > PART_WORDS or proofs > PART_PROOFS):
                break
            taken.append(one)
        arrays = pack_words([array for one in taken for array in one.sums])
        return Part(tuple(one.result for one in taken), tuple(one.proof for one in taken), arrays)
