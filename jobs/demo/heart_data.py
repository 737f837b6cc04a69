"""Four hospitals' heart data: the UCI heart-disease files, checked, as one data set a hospital.

The data are Janosi, Steinbrunn, Pfisterer and Detrano's (1988, doi:10.24432/C52P4X, CC BY 4.0): Cleveland, Budapest,
Zurich and Basel, Long Beach. They do not come with the package; a folder with the four ``processed.*.data`` is named.
A copy of Cleveland with *inverted* labels is in circulation, so label counts are checked before anything else, and the
bytes after that: what a federation is measured on should be one thing.

``python -m jobs.demo.heart_data FOLDER OUT`` writes one npz a hospital, for ``fed data add``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path

import numpy as np

from crypto.errors import DataRefused
from jobs.demo.stratified_split import stratified_split

#: Columns used: slope, ca and thal are left out, which most rows of three hospitals lack. The label is the last.
COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
_ALL = 14
_MISSING = {"-9", "-9.0", "?"}

#: (subtracted, divided by) per column: public constants near what the literature gives for adults. Statistics of the
#: hospitals' own rows would be one more thing to leak.
SCALES = {
    "age": (55.0, 10.0),
    "trestbps": (130.0, 20.0),
    "chol": (240.0, 50.0),
    "thalach": (140.0, 25.0),
    "oldpeak": (1.0, 1.0),
}
#: Categories of the two columns that are codes: one input each.
CODES = {"cp": (1, 2, 3, 4), "restecg": (0, 1, 2)}

TEST_SHARE = 0.34


@dataclass(frozen=True, slots=True)
class Known:
    """One published file: its SHA-256, and how many rows have each label 0 … 4 (0: no disease)."""

    sha256: str
    labels: tuple[int, int, int, int, int]


HOSPITALS: Mapping[str, Known] = {
    "cleveland": Known("a8a74af09afc967d70c5564d46f2211aedddb00e0498ff1ebf91b0de03b729aa", (164, 55, 36, 35, 13)),
    "hungarian": Known("753e06f36272bcd2b7d8366f3414682e7b5c1d731c4a7957d1a4da67c822633b", (188, 106, 0, 0, 0)),
    "switzerland": Known("eff77adf92b1cb7c01de5e4a8051734b8d368463d16ce591ca51fca79191f6e2", (8, 48, 32, 30, 5)),
    "va": Known("3b4d4e3eb2d460196afcf21778b62e63dde0986fcfdb52004fce2620cc8e7f58", (51, 56, 41, 42, 10)),
}


def read(folder: Path, known: Mapping[str, Known] = HOSPITALS) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Hospital → x (rows, 15) float32 of order one, y (rows,) 0 or 1. Rows with a missing value are left out.

    Raises DataRefused for a file that is missing, is no such table, has other label counts, or other bytes.
    """
    return {hospital: _hospital(folder / f"processed.{hospital}.data", facts) for hospital, facts in known.items()}


def make(folder: Path, seed: int, known: Mapping[str, Known] = HOSPITALS) -> dict[str, dict[str, np.ndarray]]:
    """Hospital → the arrays of its npz: about a third of each class for the test. One of a class stays in training."""
    sets = {}
    for place, (hospital, (x, y)) in enumerate(read(folder, known).items()):
        sets[hospital] = stratified_split(x, y, 2, TEST_SHARE, np.random.default_rng([seed, place]))
    return sets


def _hospital(path: Path, facts: Known) -> tuple[np.ndarray, np.ndarray]:
    try:
        data = path.read_bytes()
        rows = _rows(data.decode("ascii"))
    except FileNotFoundError as gone:
        raise DataRefused(
            f"There is no {path.name} in the folder given.",
            remedy="Name the folder with the four processed.*.data of UCI's heart-disease data.",
        ) from gone
    except (ValueError, KeyError) as bad:
        raise DataRefused(
            f"{path.name} is no table of {_ALL} numbers a row.", remedy="Get UCI's processed file again."
        ) from bad
    labels = np.array([int(float(row[-1])) for row in rows])
    found = tuple(int((labels == label).sum()) for label in range(5))
    if found != facts.labels:
        positive, expected = len(labels) - found[0], sum(facts.labels[1:])
        inverted = found[0] != facts.labels[0] and abs(found[0] - expected) <= 1
        raise DataRefused(
            f"{path.name} has {positive} of {len(labels)} rows with disease, not {expected} of {sum(facts.labels)}"
            + (": its labels look inverted." if inverted else ", or other grades of it."),
            remedy="Get UCI's processed file; a well-known copy has its labels turned round.",
        )
    if (digest := sha256(data).hexdigest()) != facts.sha256:
        raise DataRefused(
            f"{path.name} has SHA-256 {digest}, not {facts.sha256}.",
            remedy="Rows differ between copies: see docs/methods/heart.md.",
        )
    complete = [row for row in rows if not _MISSING & set(row[: len(COLUMNS)])]
    x = np.array([_features(dict(zip(COLUMNS, row, strict=False))) for row in complete], dtype=np.float32)
    return x, np.array([int(float(row[-1]) > 0) for row in complete], dtype=np.int64)


def _rows(text: str) -> list[list[str]]:
    """Rows of stripped cells, without the header if there is one. Raises ValueError for another shape."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(StringIO(text)) if row]
    if rows and not rows[0][0].replace(".", "").isdigit():
        rows = rows[1:]
    for row in rows:
        if len(row) != _ALL or row[-1] in _MISSING:
            raise ValueError("a row of another shape")
        for cell in row:
            if cell not in _MISSING:
                float(cell)
    return rows


def _features(row: Mapping[str, str]) -> list[float]:
    """One row's inputs. Cholesterol 0 means that it was not measured: it is put at the centre."""
    values: list[float] = []
    for column in COLUMNS:
        value = float(row[column])
        if column in CODES:
            values += [float(value == code) for code in CODES[column]]
        elif column in SCALES:
            centre, scale = SCALES[column]
            values.append(0.0 if column == "chol" and value == 0 else (value - centre) / scale)
        else:
            values.append(value)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=7, help="of the split into training and test rows")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for hospital, arrays in make(args.folder, args.seed).items():
        np.savez(args.out / f"{hospital}.npz", allow_pickle=False, **arrays)
        print(f"{hospital}: {len(arrays['y_train'])} training rows, {len(arrays['y_test'])} test rows")


if __name__ == "__main__":
    main()
