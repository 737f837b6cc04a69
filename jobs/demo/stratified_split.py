"""Split rows into training and test rows, class by class, as every data set of the demonstrations is."""

from __future__ import annotations

import numpy as np


def stratified_split(
    x: np.ndarray, y: np.ndarray, classes: int, share: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The arrays of a data set's npz. ``share``: part of each class's rows, drawn at random, that are test rows."""
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
