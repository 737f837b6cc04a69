"""Results that never were, as a malicious aggregator would announce them: consistent in themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aggregator.rounds.resume import Result
from crypto import transcript
from crypto.cohort import words_digest
from crypto.messages import LaneSum, StepResult
from crypto.proof import Sum
from tests.evil.server import EvilServer


def other_words(true: Result) -> Result:
    """A result with one word of its first sum changed by one, consistent in itself. The proof is that of the truth."""
    first, *others = true.result.sums
    words = np.array(true.sums[0], dtype=np.uint32)
    words[0] += 1
    named = replace(first, words=words_digest(words))
    return Result(replace(true.result, sums=(named, *others)), true.proof, (words, *true.sums[1:]))


def other_slots(result: StepResult) -> StepResult:
    """A result whose first slot is larger by one."""
    return replace(result, slots=(result.slots[0] + 1, *result.slots[1:]))


def invented_past(server: EvilServer, steps: int) -> list[Result]:
    """The first steps of the plan as the server would have them: within every bound, and signed by nobody."""
    past, chain = [], server.chain
    for k, step in enumerate(server.plan.steps[:steps]):
        lanes, arrays = [], []
        for lane in server.plan.lanes_of(step):
            size = server.plan.words_of(step, lane.name)
            found = Sum(np.arange(size, dtype=np.uint32), np.zeros(size, dtype=np.uint8))
            arrays += found.wire
            lanes.append(
                LaneSum(
                    lane=lane.name,
                    words=words_digest(found.words),
                    carries=words_digest(found.carries),
                    uploaders=server.silos,
                    weight=len(server.silos) * lane.grid[0],
                    contributors=len(server.silos),
                )
            )
        t3, slots = transcript.digest("a step that never was", k), (1,) * len(step.slots)
        result = StepResult(step=k, chain=chain, t3=t3, released=True, slots=slots, sums=tuple(lanes))
        past.append(Result(result, (), tuple(arrays)))
        chain = server.after(past[-1], chain)
    return past


def false_void(true: Result) -> Result:
    """A result as if its step had been void."""
    return Result(replace(true.result, released=False, slots=(), sums=()), (), ())
