"""The adversaries of ``tests.benchmarks.trap``: announced sums, or uploads, make a model that shows single rows.

A hidden unit whose activation is positive for one row of the whole federation, and for no other, is trained by that row
alone: in the next sum ΔW1[:, j] / Δb1[j] is the row, whatever weights and learning rates the silos used, and the one
positive entry of ΔW2[j] is its label (F. Boenisch et al., When the curious abandon honesty, EuroS&P 2023; L. Fowl et
al., Robbing the Fed, ICLR 2022). The adversary makes all hidden units of all networks such units, reads the next sum,
and at once replaces that one too.

It knows the plan, what opens, and public rows of the same kind; of private rows only those that it has read. From the
public rows it draws directions in which rows spread about alike, and guesses a threshold that one row exceeds. A unit
that fired for no row gets a lower threshold next, one that fired for many a higher one; directions are bent so that
rows that are known do not fire again. That a pixel is a whole number of grey levels is public, too. So the adversary
can tell whether it has read one row, and takes apart mixtures of two.

Shapes: N public rows, M known rows, D features, H hidden units, C classes, P pairs of grey levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, log

import numpy as np

from crypto import blocks, ring
from crypto.plan import Lane, Plan, Step
from jobs.demo.digits_data import CENTRE
from silo_agent.experts import PARTS
from tests.plain import RUN

#: Grey levels of a pixel above black. Public, as ``CENTRE`` is.
LEVELS = 16

#: How far a pixel may be from a whole grey level in one row, and from the levels' mean in a mixture of two.
#: The first is a thousandth of the range of a feature.
ONE, TWO = 1e-3 * LEVELS, 4e-3

#: A smaller |Δb1| is rounding: the unit did not fire.
SILENT = 1e-6


@dataclass(slots=True)
class Unit:
    """A hidden unit as the adversary sees it: it fires for rows with direction_D · x > threshold."""

    direction_D: np.ndarray
    threshold: float
    scale: float
    """By so much must the threshold rise that e times fewer rows exceed it."""
    none: float = inf
    """The lowest threshold that no row exceeded."""
    many: float = -inf
    """The highest threshold that more than two rows exceeded."""

    def missed(self) -> None:
        """No row fired."""
        self.none = self.threshold
        self.threshold = self.threshold - 1.2 * self.scale if self.many == -inf else (self.none + self.many) / 2

    def flooded(self) -> None:
        """More rows fired than can be told apart."""
        self.many = self.threshold
        self.threshold = self.threshold + self.scale if self.none == inf else (self.none + self.many) / 2

    def succeeded(self) -> None:
        """Its rows are known, and will not fire again: go on to the next."""
        self.threshold -= 0.8 * self.scale

    @property
    def spent(self) -> bool:
        """Whether there is nothing left to search in this direction."""
        return self.threshold <= 0 or self.none - self.many < 0.02 * self.scale


@dataclass(frozen=True, slots=True)
class Reading:
    """A row of features and its label as the adversary claims them. ``alone``: read from a unit that fired for this row
    alone, each pixel within a thousandth of the range of the row claimed."""

    row_D: np.ndarray
    label: int
    alone: bool


@dataclass(slots=True)
class Adversary:
    """``announce`` sees each true sum and says what is announced instead.

    ``bounded``: whether it keeps within what ``crypto.proof.check_bounds`` allows, or uses the whole ring, as it could
    while sums were not checked. ``lies``: if not, every sum is announced as it is, and only read.
    The run's id is ``tests.plain.RUN``.
    """

    plan: Plan
    public_ND: np.ndarray
    public_labels_N: np.ndarray
    seed: int
    bounded: bool
    lies: bool = True
    readings: dict[bytes, Reading] = field(default_factory=dict)
    _rows: int = 0
    _last: Step = field(init=False)
    _state: blocks.State = field(init=False)
    _units: dict[str, list[Unit]] = field(default_factory=dict)
    _rng: np.random.Generator = field(init=False)
    _inverse_DD: np.ndarray = field(init=False)
    _root_DD: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._last = [step for step in self.plan.steps if step.task == "train"][-1]
        self._state = blocks.initial_state(self.plan, RUN)
        self._rng = np.random.default_rng([self.seed, 17])
        features = self.public_ND.shape[1]
        self._inverse_DD = np.linalg.inv(np.cov(self.public_ND.T) + 0.03 * np.eye(features))
        self._root_DD = np.linalg.cholesky(self._inverse_DD)

    def announce(
        self, step: Step, sums: Mapping[str, np.ndarray], figures: Mapping[str, int]
    ) -> Mapping[str, np.ndarray]:
        """Lane → words that the silos are told. ``sums``: opened lane → true words; ``figures``: all else that opened.
        Blocks that are no network's are told as they are, and so is the last sum, which no training follows."""
        self._rows = figures.get("rows", self._rows)
        told = dict(sums)
        weights = {lane: figures[f"{lane}.weight"] for lane in sums}
        if step.task == "train":
            for lane in self.plan.lanes_of(step):
                if lane.name in sums:
                    contributors = figures[lane.contributors_figure]
                    told[lane.name] = self._replaced(step, lane, sums[lane.name], weights[lane.name], contributors)
        self._state = blocks.apply(self.plan, step, self._state, told, weights)
        return told

    def _replaced(self, step: Step, lane: Lane, words: np.ndarray, weight: int, contributors: int) -> np.ndarray:
        """Read the networks in a lane's sum; the words of a sum that makes each of them a trap."""
        bits, told = self.plan.ring_bits, words.copy()
        most = (1 << bits - 1) - 1
        if self.bounded:
            most = ring.bound(self.plan.n_max, bits, weight=weight, heaviest=lane.grid[-1], contributors=contributors)
        places = {block.name: (block, at) for block, _, at in self.plan.blocks_of(step, lane.name)}
        for name in (found.removesuffix(".w1") for found in places if found.endswith(".w1")):
            units, moved = {}, {}
            for part in PARTS:
                block, at = places[f"{name}.{part}"]
                units[part] = block.clip / ring.limit(self.plan.n_max, bits) * lane.grid[-1] / weight
                total = ring.signed(self._by_others(lane.name, words)[at : at + block.size], bits).astype(np.float64)
                moved[part] = (total * units[part]).reshape(block.shape)
            self._read(self._set(name, step.index - 1), moved)
            if not self.lies or step == self._last:
                continue
            new = self._trap(name, self._set(name, step.index), reach=most * min(units.values()))
            for part in PARTS:
                block, at = places[f"{name}.{part}"]
                wanted = (new[part] - self._state[block.name].astype(np.float64)).reshape(-1) / units[part]
                integers = np.clip(np.rint(wanted), -most, most).astype(np.int64)
                told[at : at + block.size] = integers.astype(np.uint32)
        return ring.reduce(told, bits)

    def _by_others(self, lane: str, words: np.ndarray) -> np.ndarray:
        """A lane's sum without what the adversary uploaded itself."""
        return words

    def _set(self, name: str, index: int) -> str:
        """The set of units that a network gets by the sum of training step ``index``."""
        return name

    # --- the next model ------------------------------------------------------------------------------------------

    def _trap(self, name: str, units_of: str, reach: float) -> dict[str, np.ndarray]:
        """The parts of the next network, with a set of units. ``reach``: the farthest that one sum moves a value; each
        value stays within half of it, so that any trap follows any other in one step, but b1, which is always at the
        same place."""
        shapes = {part: self._state[f"{name}.{part}"].shape for part in PARTS}
        features, hidden = shapes["w1"]
        units = self._units.setdefault(units_of, [self._fresh() for _ in range(hidden)])
        units[:] = [unit if self._bend(unit) else self._fresh() for unit in units]
        w1_DH, b1_H = np.empty((features, hidden)), np.empty(hidden)
        for j, unit in enumerate(units):
            size = min(0.9 * reach / unit.threshold, 0.45 * reach / float(np.abs(unit.direction_D).max()))
            w1_DH[:, j], b1_H[j] = size * unit.direction_D, -size * unit.threshold
        # Small, so that training hardly moves a unit; not so small that what it moves drowns in rounding.
        w2_HC = self._rng.uniform(-0.2, 0.2, shapes["w2"]) * reach
        return {"w1": w1_DH, "b1": b1_H, "w2": w2_HC, "b2": np.zeros(shapes["b2"])}

    def _fresh(self) -> Unit:
        """A unit in a random direction, and a threshold that about two rows exceed if private rows are as public ones:
        the tail beyond the public rows' ninth decile is taken for exponential."""
        while True:
            direction_D = self._root_DD @ self._rng.standard_normal(len(self._root_DD))
            along_N = np.sort(self.public_ND @ direction_D)
            tail = along_N[int(0.9 * len(along_N)) :]
            scale = float((tail - tail[0]).mean())
            unit = Unit(direction_D, float(tail[0]) + scale * log(0.1 * self._rows / 2), scale)
            if self._bend(unit):
                return unit

    def _bend(self, unit: Unit) -> bool:
        """Turn the direction, as little as can be, until no known row is near firing. Whether the unit is of use."""
        if unit.spent:
            return False
        for _ in range(5):
            known_MD = np.array([one.row_D for one in self.readings.values()]).reshape(-1, len(unit.direction_D))
            near_MD = known_MD[known_MD @ unit.direction_D > unit.threshold - 0.3 * unit.scale]
            if not len(near_MD):
                return True
            if len(near_MD) > len(unit.direction_D) // 4:
                return False
            lever_DM = self._inverse_DD @ near_MD.T
            wanted_M = unit.threshold - unit.scale - near_MD @ unit.direction_D
            unit.direction_D = unit.direction_D + lever_DM @ np.linalg.lstsq(near_MD @ lever_DM, wanted_M)[0]
            unit.none, unit.many = inf, -inf
        return False

    # --- what a sum shows ----------------------------------------------------------------------------------------

    def _read(self, units_of: str, moved: Mapping[str, np.ndarray]) -> None:
        """Try to read rows from each hidden unit of a network. ``moved``: part → mean update."""
        units = self._units.get(units_of)
        for j, db in enumerate(moved["b1"]):
            silent = abs(db) < SILENT
            found = [] if silent else self._rows_in(moved["w1"][:, j] / db, moved["w2"][j])
            for one in found:
                self.readings.setdefault(one.row_D.tobytes(), one)
            if units:
                units[j].missed() if silent else units[j].succeeded() if found else units[j].flooded()

    def _rows_in(self, mix_D: np.ndarray, out_C: np.ndarray) -> list[Reading]:
        """The one or two rows of which ``mix_D`` is a weighted mean; none if it is of more."""
        black_D = np.abs(LEVELS * (mix_D + CENTRE)) < 0.1
        labels = np.flatnonzero(out_C > 0).tolist()
        if not black_D.any() or not 1 <= len(labels) <= 2:
            return []
        # b1 is large, so Δb1 is rounded more coarsely than Δw1. Pixels that are black in every row give its true value.
        levels_D = LEVELS * (mix_D * (-CENTRE / mix_D[black_D].mean()) + CENTRE)
        whole_D = np.rint(levels_D)
        if np.abs(levels_D - whole_D).max() < ONE and whole_D.min() >= 0 and whole_D.max() <= LEVELS:
            return [Reading(picture(whole_D), labels[0], alone=True)] if len(labels) == 1 else []
        pair = two(levels_D)
        if pair is None:
            return []
        rows = [picture(one_D) for one_D in pair]
        ways = [(labels[0], labels[-1]), (labels[-1], labels[0])]
        ways.sort(key=lambda way: sum(self._distance(row_D, label) for row_D, label in zip(rows, way, strict=True)))
        return [Reading(row_D, label, alone=False) for row_D, label in zip(rows, ways[0], strict=True)]

    def _distance(self, row_D: np.ndarray, label: int) -> float:
        """To the nearest public row with this label."""
        alike_ND = self.public_ND[self.public_labels_N == label]
        return float(np.linalg.norm(alike_ND - row_D, axis=1).min(initial=inf))


@dataclass(slots=True)
class Uploader(Adversary):
    """The adversary if it announces true sums: a member uploads the trap itself, before it knows the sum that this will
    be in. So the others' updates blur the trap, and what a set of units shows is known only after the next upload: two
    sets of units take turns."""

    _own: Mapping[str, np.ndarray] = field(default_factory=dict)
    _weights: dict[str, int] = field(default_factory=dict)

    def announce(
        self, step: Step, sums: Mapping[str, np.ndarray], figures: Mapping[str, int]
    ) -> Mapping[str, np.ndarray]:
        self._weights |= {lane: figures[f"{lane}.weight"] for lane in sums}
        return super(Uploader, self).announce(step, sums, figures)

    def upload(self, step: Step) -> dict[str, np.ndarray]:
        """Block → what the member uploads in a training step, at the highest weight of each lane."""
        sums = {part.block: np.zeros(self._state[part.block].shape) for part in step.sums}
        for lane in self.plan.lanes_of(step):
            # Before the first sum the weights are guessed: 2 is that of a silo with as many rows as the mean.
            share = lane.grid[-1] / self._weights.get(lane.name, 2 * self.plan.n_max)
            for block, _, _ in self.plan.blocks_of(step, lane.name):
                if block.name.endswith(".w1") and step != self._last:
                    name = block.name.removesuffix(".w1")
                    new = self._trap(name, self._set(name, step.index), reach=share * block.clip)
                    for part in PARTS:
                        sums[f"{name}.{part}"] = (new[part] - self._state[f"{name}.{part}"]) / share
        highest = {lane.name: lane.grid[-1] for lane in self.plan.lanes_of(step)}
        contribution = blocks.Contribution(sums, {slot.name: 0 for slot in step.slots})
        self._own = blocks.encode(self.plan, step, contribution, highest).lanes
        return sums

    def _by_others(self, lane: str, words: np.ndarray) -> np.ndarray:
        return words - self._own[lane]

    def _set(self, name: str, index: int) -> str:
        return f"{name}/{index % 2}"


def picture(levels_D: np.ndarray) -> np.ndarray:
    """Grey levels as features, with the same bits as in ``jobs.demo.digits_data``."""
    return (levels_D / LEVELS - CENTRE).astype(np.float32)


def two(levels_D: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The two pictures of whole grey levels of which ``levels_D`` is a weighted mean; None if there are no such two.

    The pixel that is farthest from a whole level has one of few pairs of levels, and each gives the weights: the right
    ones fit all other pixels.
    """
    low_P, high_P = (pairs.ravel() for pairs in np.meshgrid(*[np.arange(LEVELS + 1.0)] * 2))
    odd = levels_D[int(np.argmax(np.abs(levels_D - np.rint(levels_D))))]
    differ_P = low_P != high_P
    shares = (odd - low_P[differ_P]) / (high_P[differ_P] - low_P[differ_P])
    best, least = None, TWO
    for share in np.unique(shares[(shares > 0.5) & (shares < 0.995)]):
        for _ in range(3):  # the share again from all pixels, as it is less exact from one
            found = _nearest(levels_D, share * high_P + (1 - share) * low_P)
            high_D, low_D = high_P[found], low_P[found]
            worst = float(np.abs(share * high_D + (1 - share) * low_D - levels_D).max())
            gap_D = high_D - low_D
            if worst > 0.05 or not gap_D.any():
                break
            share = float((levels_D - low_D) @ gap_D / (gap_D @ gap_D))
        else:
            if worst < least:
                best, least = (high_D, low_D), worst
    return best


def _nearest(wanted_D: np.ndarray, given_P: np.ndarray) -> np.ndarray:
    """For each wanted value the place of the nearest given one."""
    order_P = np.argsort(given_P)
    after_D = np.clip(np.searchsorted(given_P[order_P], wanted_D), 1, len(given_P) - 1)
    left_D, right_D = order_P[after_D - 1], order_P[after_D]
    return np.where(wanted_D - given_P[left_D] < given_P[right_D] - wanted_D, left_D, right_D)
