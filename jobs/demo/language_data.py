"""The demonstration's texts: four dialects of one made-up language, a dialect a silo.

All dialects share one lexicon; each has habits of its own about which word follows which (a Markov chain of words). So
a model of all silos must guess the dialect from context, and a personal expert knows it. A token is a letter or the
space. Nothing is downloaded and nobody wrote these texts: they come from seeded generators.

Rows are windows of ``CONTEXT`` tokens and the token after each (``silo_agent.language.base_model.windows``).
"""

from __future__ import annotations

import numpy as np

from silo_agent.language.base_model import windows

LETTERS = " abcdefghijklmnopqrstuvwxyz"
CLASSES = len(LETTERS)
CONTEXT = 24
DIALECTS = 4
TRAIN_ROWS, TEST_ROWS = 96, 48

_WORDS, _FOLLOWERS = 32, (0.7, 0.2, 0.1)
#: The language is the same whatever the seed of a federation: its base model was trained on it.
_LANGUAGE = 4242


def make(silos: int, seed: int, newcomers: int = 2) -> dict[str, dict[str, np.ndarray]]:
    """Silo name → the arrays of its npz, for ``silo-1 …`` and ``newcomer-1 …``. Silo i speaks dialect i mod 4.

    Raises ValueError for fewer than two silos.
    """
    if silos < 2 or newcomers < 0:
        raise ValueError(f"silos: got {silos}, want 2 or more; newcomers: got {newcomers}, want 0 or more")
    names = [f"silo-{i + 1}" for i in range(silos)] + [f"newcomer-{i + 1}" for i in range(newcomers)]
    made = {}
    for at, name in enumerate(names):
        x, y = rows(dialect(at, silos), TRAIN_ROWS + TEST_ROWS, np.random.default_rng([seed, at]))
        made[name] = {
            "x_train": x[:TRAIN_ROWS],
            "y_train": y[:TRAIN_ROWS],
            "x_test": x[TRAIN_ROWS:],
            "y_test": y[TRAIN_ROWS:],
            "classes": np.array(CLASSES, dtype=np.int64),
        }
    return made


def dialect(at: int, silos: int) -> int:
    """The dialect of silo number ``at`` (from 0; newcomers follow the silos and begin with the first again)."""
    return (at if at < silos else at - silos) % DIALECTS


def rows(which: int | None, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` windows of a text: x (count, CONTEXT), y (count,). ``which``: a dialect; None: words at random."""
    text = np.concatenate([[], *(_spelled(word) for word in _words(which, count * (CONTEXT + 1), rng))])
    x, y = windows(text.astype(np.int64), CONTEXT)
    return x[:count], y[:count]


def _words(which: int | None, letters: int, rng: np.random.Generator) -> list[str]:
    """Words of a text of at least so many letters."""
    words = _lexicon()
    follow = None if which is None else _habits(which)
    found, total, now = list[str](), 0, int(rng.integers(len(words)))
    while total <= letters:
        found.append(words[now])
        total += len(words[now]) + 1
        now = int(rng.integers(len(words)) if follow is None else rng.choice(follow[now], p=_FOLLOWERS))
    return found


def _lexicon() -> list[str]:
    """Words of two to five letters, consonants and vowels in turn."""
    rng = np.random.default_rng([_LANGUAGE, 1])
    kinds = ("bdfgklmnprstvz", "aeiou")
    found: dict[str, None] = {}
    while len(found) < _WORDS:
        length, first = int(rng.integers(2, 6)), int(rng.integers(2))
        found["".join(str(rng.choice(list(kinds[(first + at) % 2]))) for at in range(length))] = None
    return list(found)


def _habits(which: int) -> list[np.ndarray]:
    """Which words follow each word in a dialect, the most usual first."""
    rng = np.random.default_rng([_LANGUAGE, 2, which])
    return [rng.choice(_WORDS, size=len(_FOLLOWERS), replace=False) for _ in range(_WORDS)]


def _spelled(word: str) -> list[int]:
    return [LETTERS.index(letter) for letter in word + " "]
