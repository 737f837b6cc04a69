"""Texts for tests of language models: four dialects of a made-up language, and a small model trained on all of them.

A dialect has habits of its own about which word follows which; in the model's text words follow at random.
"""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from silo_agent.data import DataSet, check
from silo_agent.language import base_model
from silo_agent.language.base_model import windows
from silo_agent.language.shape import Shape
from silo_agent.methods.flex import FLEx

LETTERS = " abcdefghijklmnopqrstuvwxyz"
CLASSES = len(LETTERS)
#: Tokens of a row, and rows of a silo for training; half as many are for the test.
CONTEXT, ROWS = 24, 32
SHAPE = Shape(
    classes=CLASSES, hidden=16, layers=2, heads=2, key_value_heads=1, experts=4, expert_width=16, shared_width=8
)  # fmt: skip

_LANGUAGE, _WORDS, _FOLLOWERS = 4242, 32, (0.7, 0.2, 0.1)


@cache
def base(steps: int = 80) -> Path:
    """The folder of the small model, trained once in this process."""
    place = Path(mkdtemp(prefix="consilium-texts-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return train(place, seed=7, steps=steps)


def train(models: Path, *, seed: int, steps: int) -> Path:
    """A model of ``SHAPE`` in ``models``, named by its digest."""
    library = base_model.library()
    torch = library.torch
    torch.set_num_threads(1)
    x, y = rows(None, 1280, np.random.default_rng([seed, 1 << 20]))
    tokens, rng = torch.from_numpy(np.concatenate([x, y[:, None]], axis=1)), np.random.default_rng([seed, 1])
    net = library.fresh(SHAPE, 2, seed)
    descent = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        picked = tokens[torch.from_numpy(rng.integers(len(tokens), size=32))]
        answer = net(picked[:, :-1], output_router_logits=True)
        loss = library.cross_entropy(answer.logits, picked).mean() + 0.01 * answer.aux_loss
        descent.zero_grad()
        loss.backward()
        descent.step()
    net.save_pretrained(models / "draft")
    return (models / "draft").rename(models / base_model.digest(models / "draft"))


def shape() -> dict[str, object]:
    """Parameters of FLEx that say what it reads and what base it needs, but not which."""
    return asdict(SHAPE) | {"features": CONTEXT}


def params(**changes: object) -> dict[str, object]:
    """Of FLEx on the small model."""
    small = {"rank": 4, "rounds": 3, "local_steps": 8, "batch": 8, "graft_rows": 16, "seed": 5, "base": base().name}
    return shape() | small | changes


class Here(FLEx):
    """FLEx whose models lie where ``base`` put them."""

    def __init__(self, raw: Mapping[str, object], silo: str = "") -> None:
        super().__init__(raw, silo)
        self.models = base().parent


@cache
def arrays() -> Mapping[str, dict[str, np.ndarray]]:
    """Four silos, a dialect each."""
    found = {}
    for dialect in range(4):
        x, y = rows(dialect, 144, np.random.default_rng([3, dialect]))
        train, test = slice(ROWS), slice(96, 96 + ROWS // 2)
        parts = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
        found[f"silo-{dialect + 1}"] = {**parts, "classes": np.array(CLASSES)}
    return found


@cache
def silos() -> Mapping[str, DataSet]:
    return {name: check(name, own) for name, own in arrays().items()}


def rows(dialect: int | None, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` windows of a text and the token after each: (count, CONTEXT), (count,). None: no dialect's order."""
    words, text = lexicon(), ""
    follow = None if dialect is None else habits(dialect)
    now = int(rng.integers(len(words)))
    while len(text) <= count * (CONTEXT + 1):
        text += words[now] + " "
        now = int(rng.integers(len(words)) if follow is None else rng.choice(follow[now], p=_FOLLOWERS))
    x, y = windows(np.array([LETTERS.index(letter) for letter in text]), CONTEXT)
    return x[:count], y[:count]


@cache
def lexicon() -> list[str]:
    """Words of two to five letters, consonants and vowels in turn."""
    rng, found = np.random.default_rng([_LANGUAGE, 1]), dict[str, None]()
    while len(found) < _WORDS:
        length, first = int(rng.integers(2, 6)), int(rng.integers(2))
        kinds = [list("aeiou" if (first + at) % 2 else "bdfgklmnprstvz") for at in range(length)]
        found["".join(str(rng.choice(kind)) for kind in kinds)] = None
    return list(found)


def habits(dialect: int) -> list[np.ndarray]:
    """Which words follow each word, the most usual first."""
    rng = np.random.default_rng([_LANGUAGE, 2, dialect])
    return [rng.choice(_WORDS, size=len(_FOLLOWERS), replace=False) for _ in range(_WORDS)]
