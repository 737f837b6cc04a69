"""The demonstration's texts: dialects of one lexicon, made alike from a seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from jobs.demo.language_data import CLASSES, CONTEXT, DIALECTS, LETTERS, TEST_ROWS, TRAIN_ROWS, dialect, make, rows
from silo_agent.data import check


def test_texts_are_fit_for_every_silo_and_a_function_of_the_seed() -> None:
    made, again, other = make(8, 7), make(8, 7), make(8, 8)
    assert list(made) == [*(f"silo-{i}" for i in range(1, 9)), "newcomer-1", "newcomer-2"]
    for name, arrays in made.items():
        data = check(name, arrays)
        assert (data.features, data.classes, data.rows, len(data.y_test)) == (CONTEXT, CLASSES, TRAIN_ROWS, TEST_ROWS)
        assert all(np.array_equal(arrays[part], again[name][part]) for part in arrays)
        assert not np.array_equal(arrays["x_train"], other[name]["x_train"])
    assert not np.array_equal(made["silo-1"]["x_train"], made["silo-5"]["x_train"]), "one dialect, two texts"


def pairs(which: int, seed: int) -> set[tuple[str, str]]:
    """Words that follow each other in a dialect's rows."""
    x, _ = rows(which, 60, np.random.default_rng(seed))
    lines = ["".join(LETTERS[token] for token in row).split(" ")[1:-1] for row in x]
    return {pair for line in lines for pair in pairwise(line)}


def test_dialects_share_words_and_differ_in_habits() -> None:
    same, other = pairs(0, 1) & pairs(0, 2), pairs(0, 1) & pairs(1, 2)
    assert len(same) > 4 * len(other)
    words = [{word for pair in pairs(which, 1) for word in pair} for which in range(DIALECTS)]
    assert len(words[0] & words[1]) > 10


def test_dialects_go_round_and_newcomers_begin_again() -> None:
    assert [dialect(at, 8) for at in range(10)] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_too_few_silos_are_refused() -> None:
    with pytest.raises(ValueError, match="silos: got 1"):
        make(1, 7)
    with pytest.raises(ValueError, match="newcomers: got -1"):
        make(4, 7, -1)
