"""Rows for tests of methods: scikit-learn's digits in the hands of eight silos and two newcomers.

``turned``: every silo sees other digits more often, and half of them see all pictures turned by 90°. ``domains``: half
of the silos have the digits 0 to 4, the others 5 to 9, and no row is in the public pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from sklearn.datasets import load_digits

from silo_agent.data import DataSet, check
from silo_agent.proxies import PUBLIC_EVERY

SILOS = tuple(f"silo-{i}" for i in range(1, 9))
NEWCOMERS = ("newcomer-1", "newcomer-2")
CLASSES = 10

#: Of a MetaMoE job on ``domains``.
GROUPS = {
    "group-0": " ".join(SILOS[:4]),
    "group-1": " ".join(SILOS[4:]),
    "pool": "digits-public",
    "pool_sha256": "5d3ceb199798dc3fbddde1c3eba9a74f4a100b2ec00754fac97fdf54f058da6b",
}


def silos(everyone: Mapping[str, DataSet]) -> dict[str, DataSet]:
    """Without the newcomers."""
    return {name: everyone[name] for name in SILOS}


@cache
def turned(seed: int = 3) -> Mapping[str, DataSet]:
    deal, split = generators(seed)
    pictures, labels = digits()
    hands: dict[str, list[np.ndarray]] = {name: [] for name in (*SILOS, *NEWCOMERS)}
    for label in range(CLASSES):
        rows = deal.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(deal.dirichlet(np.ones(len(hands))))[:-1] * len(rows)).astype(np.int64)
        for hand, part in zip(hands.values(), np.split(rows, cuts), strict=True):
            hand.append(part)
    upright = {*SILOS[:4], NEWCOMERS[0]}
    found = {}
    for name, rows in {name: deal.permutation(np.concatenate(parts)) for name, parts in hands.items()}.items():
        x = pictures[rows] if name in upright else np.rot90(pictures[rows], axes=(1, 2))
        found[name] = data_set(x.reshape(len(rows), -1), labels[rows], split)
    return found


@cache
def domains(seed: int = 3) -> Mapping[str, DataSet]:
    deal, split = generators(seed)
    pictures, labels = digits()
    rows = deal.permutation(np.flatnonzero(np.arange(len(labels)) % PUBLIC_EVERY))
    rest, parts = rows[200:], [rows[:100], rows[100:200]]
    of_silos = [part for of in (0, 1) for part in np.array_split(rest[labels[rest] // 5 == of], 4)]
    hands = zip((*SILOS, *NEWCOMERS), (*of_silos, *parts), strict=True)
    return {name: data_set(pictures[hand].reshape(len(hand), -1), labels[hand], split) for name, hand in hands}


def generators(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """For dealing and for the split."""
    return np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (1797, 8, 8) around 0, and labels."""
    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8) / 16 - 0.3).astype(np.float32), labels.astype(np.int64)


def data_set(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> DataSet:
    """Three rows in ten of each class are for the test."""
    test = np.zeros(len(y), dtype=bool)
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(y == label))
        test[rows[: round(len(rows) * 0.3)]] = True
    parts = {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}
    return check("digits", {**parts, "classes": np.array(CLASSES)})
