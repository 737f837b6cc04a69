"""Opened sums of four test rows, by hand: three of class 0, one of class 1, all right but one."""

from __future__ import annotations

from crypto.scores import counted, summed

TWO = dict.fromkeys((*counted("global", 2), *summed("global", 2)), 0) | {
    "global.correct": 3,
    "test.rows": 4,
    "global.confusion.0.0": 2,
    "global.confusion.0.1": 1,
    "global.confusion.1.1": 1,
    "global.ranking.60.0": 2,
    "global.ranking.70.0": 1,
    "global.ranking.70.1": 1,
    "global.calibration.2.rows": 2,
    "global.calibration.2.chance.q16": 2**16 // 2,
    "global.calibration.8.rows": 2,
    "global.calibration.8.hits": 1,
    "global.calibration.8.chance.q16": 2**16 * 7 // 4,
    "global.brier.q16": 2**16,
    "global.log-loss.q16": 2**17,
}

#: The row of class 1 becomes one of class 0.
ONE_CLASS = {"global.confusion.1.1": 0, "global.confusion.0.0": 3, "global.ranking.70.1": 0, "global.ranking.70.0": 2}
