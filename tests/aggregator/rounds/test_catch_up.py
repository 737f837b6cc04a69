"""What silos lack of the opened results: parts of whole steps, a copy for all at one step, none kept for long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aggregator.home import RunFolder
from aggregator.rounds.catch_up import Backlog, check_steps
from aggregator.rounds.resume import Result
from crypto.cohort import words_digest
from crypto.errors import SpecError
from crypto.messages import ARRAY_WORDS, MESSAGE_ARRAYS, LaneSum, StepResult
from crypto.plan import Apply, Block, Lane, Plan, Scope, Step
from crypto.plan import Sum as Summed
from crypto.proof import Sum

SILOS = ("silo-1", "silo-2", "silo-3")


def opened(k: int) -> dict[str, Sum]:
    """Two lanes, of 6 and of 4 words; with their carries they travel as 13 words."""
    return {
        "trunk": Sum(np.full(6, k, np.uint32), np.full(6, k % 3, np.uint8)),
        "expert": Sum(np.arange(4, dtype=np.uint32), np.arange(4, dtype=np.uint8)),
    }


def sums(k: int) -> tuple[np.ndarray, ...]:
    return tuple(array for one in opened(k).values() for array in one.wire)


def result(k: int) -> StepResult:
    lanes = tuple(
        LaneSum(
            lane=lane,
            words=words_digest(one.words),
            carries=words_digest(one.carries),
            uploaders=SILOS,
            weight=3,
            contributors=3,
        )
        for lane, one in opened(k).items()
    )
    return StepResult(step=k, chain=bytes(32), t3=bytes(32), released=True, slots=(k,), sums=lanes)


def proof(k: int) -> tuple[bytes, ...]:
    return tuple(f"tags of {silo} in step {k}".encode() for silo in SILOS)


def kept(k: int) -> Result:
    return Result(result(k), proof(k), sums(k))


def fill(backlog: Backlog, first: int, until: int) -> None:
    for k in range(first, until):
        backlog.add(result(k), proof(k), sums(k))


def steps(backlog: Backlog, silo: str) -> list[int]:
    """The steps of a silo's next part, whose proofs and words are those of the steps and nothing else."""
    part = backlog.part(silo)
    want = [words for one in part.results for words in sums(one.step)]
    assert np.concatenate([*part.arrays, np.empty(0, np.uint32)]).tolist() == [int(w) for words in want for w in words]
    assert part.results == tuple(result(one.step) for one in part.results)
    assert part.proofs == tuple(proof(one.step) for one in part.results)
    return [one.step for one in part.results]


def on_disk(folder: Path) -> list[int]:
    return sorted(int(place.name) for place in (folder / "sums").glob("*"))


def test_a_silo_gets_what_it_has_not_confirmed(tmp_path: Path) -> None:
    backlog = Backlog(RunFolder(tmp_path), SILOS)
    assert steps(backlog, "silo-1") == []
    fill(backlog, 0, 2)
    backlog.confirmed("silo-1")
    fill(backlog, 2, 4)
    assert [steps(backlog, silo) for silo in SILOS] == [[2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert backlog.part("silo-2") is backlog.part("silo-3")


def test_parts_are_whole_steps_and_never_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backlog = Backlog(RunFolder(tmp_path), SILOS)
    fill(backlog, 0, 5)
    for words, want in ((9, [0]), (25, [0]), (26, [0, 1]), (64, [0, 1, 2, 3]), (65, [0, 1, 2, 3, 4])):
        monkeypatch.setattr("aggregator.rounds.catch_up.PART_WORDS", words)
        assert steps(Backlog(RunFolder(tmp_path), SILOS, [kept(k) for k in range(5)]), "silo-1") == want
    monkeypatch.setattr("aggregator.rounds.catch_up.PART_STEPS", 3)
    assert steps(backlog, "silo-1") == [0, 1, 2]
    backlog.took("silo-1")
    assert steps(backlog, "silo-1") == [3, 4]
    backlog.took("silo-1")
    backlog.took("silo-1")
    assert steps(backlog, "silo-1") == []


def test_proofs_fill_a_part_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of slots alone brings no words, but the tags of every survivor, in the body of the message."""
    size = sum(map(len, proof(0)))
    for most, want in ((1, [0]), (2 * size - 1, [0]), (2 * size, [0, 1]), (4 * size, [0, 1, 2, 3])):
        monkeypatch.setattr("aggregator.rounds.catch_up.PART_PROOFS", most)
        assert steps(Backlog(RunFolder(tmp_path), SILOS, [kept(k) for k in range(4)]), "silo-1") == want


def test_a_void_step_brings_neither_words_nor_proof(tmp_path: Path) -> None:
    backlog = Backlog(RunFolder(tmp_path), SILOS)
    fill(backlog, 0, 1)
    void = StepResult(step=1, chain=bytes(32), t3=bytes(32), released=False, slots=(), sums=())
    backlog.add(void, (), ())
    part = backlog.part("silo-1")
    assert (part.results, part.proofs) == ((result(0), void), (proof(0), ()))
    assert sum(words.size for words in part.arrays) == 13


def test_a_plan_counts_the_carries_among_what_one_message_carries() -> None:
    def plan(words: int) -> Plan:
        return Plan(
            method="fedavg",
            seed=7,
            n_max=3,
            lanes=(Lane(name="trunk", scope=Scope.ALL, floor=2),),
            blocks=(Block(name="w", shape=(words,), lane="trunk", clip=1.0),),
            steps=(Step(task="train", index=0, sums=(Summed("w", Apply.AVERAGE),)),),
        )

    most = (MESSAGE_ARRAYS * ARRAY_WORDS - 1) * 2 // 3  # each word and at most two bytes of carry
    check_steps(plan(most))
    with pytest.raises(SpecError, match="step train/0"):
        check_steps(plan(most + 1))


def test_sums_stay_on_disk_until_every_silo_has_them(tmp_path: Path) -> None:
    backlog = Backlog(RunFolder(tmp_path), SILOS)
    fill(backlog, 0, 3)
    backlog.confirmed("silo-1")
    backlog.confirmed("silo-2")
    fill(backlog, 3, 4)
    assert on_disk(tmp_path) == [0, 1, 2, 3]
    backlog.confirmed("silo-3")
    fill(backlog, 4, 5)
    assert on_disk(tmp_path) == [3, 4]
    assert [steps(backlog, silo) for silo in SILOS] == [[3, 4], [3, 4], [4]]


def test_a_run_that_goes_on_has_what_was_kept(tmp_path: Path) -> None:
    backlog = Backlog(RunFolder(tmp_path), SILOS, [kept(k) for k in (7, 8)], oldest=7)
    fill(backlog, 9, 10)
    assert steps(backlog, "silo-1") == [7, 8, 9]
