"""Who holds which rows: the silos, and the newcomers who take no part in training, for benchmarks of methods.

A split is a source of labelled pictures, dealt by class (evenly, in Dirichlet proportions, or two classes a silo) and
shown in styles: silo i holds its pictures turned or otherwise changed by style i mod S, as S makes of scanner would.
Newcomers follow the silos in the same order. Deal, test rows and styles come from generators of their own.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from jobs.demo.stratified_split import stratified_split
from silo_agent.data import MIN_TRAIN_ROWS, DataSet, check

TEST_SHARE = 0.3
_REDRAWS = 20_000

#: Changes a picture (rows, side, side); the first is always "as it is".
Style = Callable[[np.ndarray], np.ndarray]


def turned(quarters: int) -> Style:
    return lambda pictures: np.rot90(pictures, quarters, axes=(1, 2))


def mirrored(pictures: np.ndarray) -> np.ndarray:
    return pictures[:, :, ::-1]


def negative(pictures: np.ndarray) -> np.ndarray:
    return 1.0 - pictures


TURNS = tuple(turned(quarters) for quarters in range(4))


@dataclass(frozen=True, slots=True)
class Source:
    """Labelled pictures: (rows, side, side) of values 0 to 1, and their classes."""

    name: str
    pictures: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Split:
    """``silos`` train; ``newcomers`` are met afterwards. ``styles``: name → number of its style."""

    silos: Mapping[str, DataSet]
    newcomers: Mapping[str, DataSet]
    styles: Mapping[str, int]

    @property
    def strangers(self) -> dict[str, DataSet]:
        """The newcomers with all their rows for test rows: nobody trains on them."""
        return {
            name: replace(
                data,
                x_test=np.concatenate([data.x_train, data.x_test]),
                y_test=np.concatenate([data.y_train, data.y_test]),
            )
            for name, data in self.newcomers.items()
        }

    @property
    def shape(self) -> dict[str, int]:
        """The parameters that every job on this split has."""
        one = next(iter(self.silos.values()))
        return {"features": one.features, "classes": one.classes}


@cache
def digits() -> Source:
    """scikit-learn's 1,797 handwritten digits, 8 × 8: nothing to download."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return Source("digits", images.reshape(-1, 8, 8) / 16.0, labels.astype(np.int64))


@cache
def idx(name: str, images: Path, labels: Path, digests: tuple[str, str]) -> Source:
    """Pictures and labels in MNIST's format, gzipped, halved to 14 × 14. SystemExit if the bytes are others."""
    raw = []
    for path, expected in zip((images, labels), digests, strict=True):
        if not path.is_file():
            raise SystemExit(f"{path} is not there: --data DIR names the folder with the benchmark's data.")
        data = path.read_bytes()
        if (found := sha256(data).hexdigest()) != expected:
            raise SystemExit(f"{path} has SHA-256 {found}; this benchmark was written for {expected}.")
        raw.append(_idx(gzip.decompress(data)))
    full = raw[0].astype(np.float64) / 255.0
    rows, side = full.shape[:2]
    pooled = full.reshape(rows, side // 2, 2, side // 2, 2).mean(axis=(2, 4))
    return Source(name, pooled, raw[1].astype(np.int64))


def _idx(data: bytes) -> np.ndarray:
    """The array of one IDX file of bytes: magic 0 0 8 rank, big-endian sides, values."""
    if data[:3] != b"\x00\x00\x08":
        raise SystemExit(f"An IDX file of bytes begins 00 00 08, not {data[:3].hex(' ')}.")
    shape = tuple(int(side) for side in np.frombuffer(data, ">u4", count=data[3], offset=4))
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def mnist(folder: Path) -> Source:
    place = folder / "mnist10k"
    return idx(
        "mnist",
        place / "t10k-images-idx3-ubyte.gz",
        place / "t10k-labels-idx1-ubyte.gz",
        (
            "167310007f03058885c7e95e6c0b19c20de5c7fd3031f4cbdadc9014a523d80b",
            "fc607395669ec21321ea83e4b82c0544b7e8e63ff5b34337c06bc0a17cc0da3c",
        ),
    )


def fashion(folder: Path) -> Source:
    place = folder / "fashion_subset"
    return idx(
        "fashion",
        place / "first3600-images-idx3-ubyte.gz",
        place / "first3600-labels-idx1-ubyte.gz",
        (
            "946a77f56a43a6ba8cbb8c1896bcad6cdc24258c45f66408c1dcbcb35af8c2e7",
            "ea33f128554d67c879d94c398ed117a9ad3677e956fcde4b3380a221b1708219",
        ),
    )


def deal(
    source: Source,
    seed: int,
    *,
    silos: int = 12,
    newcomers: int = 4,
    styles: Sequence[Style] = (turned(0),),
    skew: float | str = "even",
) -> Split:
    """``skew``: ``"even"``, ``"path2"`` (two classes a silo), or the concentration of Dirichlet proportions.

    Every silo and newcomer gets at least 16 training rows of two classes, else the proportions are drawn again.
    """
    names = [f"silo-{i + 1:02}" for i in range(silos)] + [f"newcomer-{i + 1}" for i in range(newcomers)]
    deal_rng, split_rng = (np.random.default_rng([seed, purpose]) for purpose in (1, 2))
    for _ in range(_REDRAWS):
        hands = _hands(source.labels, len(names), skew, deal_rng)
        if all(_suffices(source.labels[hand]) for hand in hands):
            break
    else:
        raise ValueError(f"{source.name} dealt {skew} does not give each of {len(names)} silos enough rows")
    centre = float(np.mean([style(source.pictures).mean() for style in styles]))  # one public constant a benchmark
    sets, style_of = {}, {}
    for at, (name, hand) in enumerate(zip(names, hands, strict=True)):
        style_of[name] = (at if at < silos else at - silos) % len(styles)
        pictures = styles[style_of[name]](source.pictures[hand]) - centre
        sets[name] = dataset(name, pictures.reshape(len(hand), -1), source.labels[hand], split_rng)
    cohort = {name: data for name, data in sets.items() if name.startswith("silo")}
    return Split(cohort, {name: data for name, data in sets.items() if name not in cohort}, style_of)


def dataset(name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator, classes: int = 10) -> DataSet:
    """About 30 % of each class of these rows are the test rows."""
    return check(name, stratified_split(x, y, classes, TEST_SHARE, rng))


def _hands(labels: np.ndarray, hands: int, skew: float | str, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of each hand."""
    classes = int(labels.max()) + 1
    dealt: list[list[np.ndarray]] = [[] for _ in range(hands)]
    if skew == "path2":
        # Shards of one class each, as many of each class as there are hands that hold it; two shards a hand.
        wanted = np.array([part % classes for part in range(2 * hands)])
        rng.shuffle(wanted)
        for label in range(classes):
            rows, holders = rng.permutation(np.flatnonzero(labels == label)), np.flatnonzero(wanted == label)
            for holder, part in zip(holders, np.array_split(rows, max(1, len(holders))), strict=False):
                dealt[holder // 2].append(part)
    else:
        for label in range(classes):
            rows = rng.permutation(np.flatnonzero(labels == label))
            if skew == "even":
                parts = np.array_split(rows, hands)
                rng.shuffle(parts)  # type: ignore[arg-type]
            else:
                shares = rng.dirichlet(np.full(hands, float(skew)))
                parts = np.split(rows, (np.cumsum(shares)[:-1] * len(rows)).astype(np.int64))
            for hand, part in zip(dealt, parts, strict=True):
                hand.append(part)
    return [rng.permutation(np.concatenate(hand)) if hand else np.zeros(0, np.int64) for hand in dealt]


def _suffices(labels: np.ndarray) -> bool:
    counts = np.bincount(labels) if len(labels) else np.zeros(1, np.int64)
    left = counts - np.round(counts * TEST_SHARE).astype(np.int64)
    return int(left.sum()) >= MIN_TRAIN_ROWS and int((left > 0).sum()) >= 2 and int(counts.sum() - left.sum()) > 0
