"""What silos lack of the opened results: parts of whole steps, a copy for all at one step, none kept for long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aggregator.home import RunFolder
from aggregator.rounds.catch_up import Backlog
from crypto.cohort import words_digest
from crypto.messages import StepResult

SILOS = ("silo-1", "silo-2", "silo-3")


def sums(k: int) -> tuple[np.ndarray, ...]:
    return np.full(6, k, np.uint32), np.arange(4, dtype=np.uint32)


def result(k: int) -> StepResult:
    named = tuple(zip(("trunk", "expert"), map(words_digest, sums(k)), strict=True))
    return StepResult(step=k, t3=bytes(32), released=True, slots=(k,), sums=named)


def fill(backlog: Backlog, first: int, until: int) -> None:
    for k in range(first, until):
        backlog.add(result(k), sums(k))


def steps(backlog: Backlog, silo: str) -> list[int]:
    """The steps of a silo's next part, whose words are those of the steps and nothing else."""
    results, arrays = backlog.part(silo)
    want = [words for one in results for words in sums(one.step)]
    assert np.concatenate([*arrays, np.empty(0, np.uint32)]).tolist() == [int(w) for words in want for w in words]
    return [one.step for one in results]


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
    for words, want in ((9, [0]), (19, [0]), (20, [0, 1]), (49, [0, 1, 2, 3]), (50, [0, 1, 2, 3, 4])):
        monkeypatch.setattr("aggregator.rounds.catch_up.PART_WORDS", words)
        assert steps(Backlog(RunFolder(tmp_path), SILOS, [(result(k), sums(k)) for k in range(5)]), "silo-1") == want
    monkeypatch.setattr("aggregator.rounds.catch_up.PART_STEPS", 3)
    assert steps(backlog, "silo-1") == [0, 1, 2]
    backlog.took("silo-1")
    assert steps(backlog, "silo-1") == [3, 4]
    backlog.took("silo-1")
    backlog.took("silo-1")
    assert steps(backlog, "silo-1") == []


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
    backlog = Backlog(RunFolder(tmp_path), SILOS, [(result(k), sums(k)) for k in (7, 8)], oldest=7)
    fill(backlog, 9, 10)
    assert steps(backlog, "silo-1") == [7, 8, 9]
