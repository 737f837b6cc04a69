"""Rows parted into training and test, class by class: what every demonstration's data sets are made with."""

from __future__ import annotations

import numpy as np


def parted(x: np.ndarray, y: np.ndarray, classes: int, share: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of a data set's npz. ``share`` of each class's rows, by lot, are for the test."""
    test = np.zeros(len(y), dtype=bool)
    for label in range(classes):
        rows = rng.permutation(np.flatnonzero(y == label))
        test[rows[: round(len(rows) * share)]] = True
    return {
        "x_train": x[~test],
        "y_train": y[~test],
        "x_test": x[test],
        "y_test": y[test],
        "classes": np.array(classes, dtype=np.int64),
    }
