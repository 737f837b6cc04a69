"""Which silo trains which experts: prices that every silo derives by itself from opened loads.

Each silo has a capacity (how many experts it can train) and a fitness for each expert, which stays with it. The goal is
the assignment of the largest total fitness in which every expert's load (its number of holders) is between two bounds.
With unit loads that is a transportation problem: its linear programme has a solution in zeros and ones, and its dual
has one price per expert. At the right prices every silo simply takes the experts of the best fitness less price. So
no silo's fitness is needed elsewhere: silos open how many of them want each expert (a sum) and all move the prices by
the same rule.

Prices are integers, moved by integer arithmetic from opened loads alone: bit-identical at every silo on any machine.
No message carries a price.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from crypto.encoding import Writer

#: Integer units of a fitness or price of 1.
UNIT = 1024

#: Fewer silos than this move no price: sums over so few, at prices that hardly differ, reveal too much of each.
LEAST_SILOS = 5

#: Most times that prices move within a round.
MOST_MOVES = 10

#: Bounds of an expert's load about the mean load, in per cent either way, rounded outwards.
SLACK = 10

#: A silo leaves an expert that it holds only for one that is better by this share of the mean fitness: churn costs.
STICK = 1 / 16

#: First and largest step of a price. Steps grow by a fifth while a bound stays broken on one side and halve when it
#: breaks on the other: fitness differs by thousandths in the first rounds and by tenths in the last.
FIRST_STEP, LARGEST_STEP = 16, UNIT // 4

#: What each head that an expert lacked in the past adds to its worth, and how many heads are remembered.
SUBSIDY, MEMORY = 4, 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """Wanted loads: from ``low`` to ``high`` holders each for ``open`` experts; ``relaxed``: not for all there are."""

    low: int
    high: int
    open: int
    relaxed: bool


def bounds(*, places: int, silos: int, experts: int, floor: int) -> Bounds:
    """Bounds for ``places`` (the sum of the capacities) and a lane floor.

    The floor is a lower bound. Where the places do not suffice for all experts at the floor, as many are opened as
    can be, at least one, and the bounds are ``relaxed``.
    """
    opened = max(1, min(experts, places // floor))
    low = max(floor, places * (100 - SLACK) // (100 * opened))
    high = max(low, -(-places * (100 + SLACK) // (100 * opened)))
    return Bounds(min(low, silos), min(high, silos), opened, opened < experts)


def excess(loads: Sequence[int], wanted: Bounds, closed: frozenset[int] = frozenset()) -> tuple[int, int]:
    """(heads missing below the lower bound, all heads out of bounds) of experts not closed: less is better."""
    kept = [load for e, load in enumerate(loads) if e not in closed]
    below = sum(max(0, wanted.low - load) for load in kept)
    return below, below + sum(max(0, load - wanted.high) for load in kept)


@dataclass(frozen=True, slots=True)
class Market:
    """Prices after some opened loads. A value: the same loads in the same order give an equal market everywhere.

    ``steps`` and ``signs`` are of the last move of each price; ``deficits`` remember heads that an expert lacked when
    it was trained; ``closed`` experts are not offered, because the floor cannot be reached for all.
    """

    prices: tuple[int, ...]
    steps: tuple[int, ...]
    signs: tuple[int, ...]
    deficits: tuple[int, ...]
    closed: frozenset[int] = frozenset()

    @classmethod
    def opening(cls, experts: int) -> Market:
        """No price, no memory."""
        zeros = (0,) * experts
        return cls(zeros, (FIRST_STEP,) * experts, zeros, zeros)

    def moved(self, loads: Sequence[int], wanted: Bounds) -> Market:
        """Dual ascent, one step: up above the upper bound, down below the lower one.

        A price that no bound needs any more goes back towards 0 (complementary slackness), a quarter as fast.
        """
        loads = [int(load) for load in loads]
        closed = _closed(loads, wanted.open, self.closed)
        prices, steps, signs = [], [], []
        for e, (load, price, step, sign) in enumerate(zip(loads, self.prices, self.steps, self.signs, strict=True)):
            now = 0 if e in closed else (load > wanted.high) - (load < wanted.low)
            if now * sign > 0:
                step = min(LARGEST_STEP, step + step // 5 + 1)
            elif now * sign < 0:
                step = max(1, step // 2)
            if now:
                price, sign = price + now * step, now
            elif (price > 0 and load < wanted.high) or (price < 0 and load > wanted.low):
                back = min(abs(price), max(1, step // 4))
                price -= back if price > 0 else -back
            prices.append(price)
            steps.append(step)
            signs.append(sign)
        return Market(tuple(prices), tuple(steps), tuple(signs), self.deficits, closed)

    def trained(self, loads: Sequence[int], wanted: Bounds) -> Market:
        """Deficit memory: heads below the lower bound are remembered, one is forgotten with each round of service."""
        deficits = tuple(
            min(MEMORY, had + wanted.low - load) if load < wanted.low else max(0, had - 1)
            for had, load in zip(self.deficits, loads, strict=True)
        )
        return Market(self.prices, self.steps, self.signs, deficits, self.closed)

    def choice(self, fitness: Sequence[int], capacity: int, held: frozenset[int] = frozenset()) -> tuple[int, ...]:
        """The best experts at these prices, at most ``capacity``, ascending. ``fitness``: in units, this silo's own."""
        stays = int(UNIT * STICK) // len(fitness)
        worth = [
            own + SUBSIDY * lacked - price + (stays if e in held else 0)
            for e, (own, lacked, price) in enumerate(zip(fitness, self.deficits, self.prices, strict=True))
        ]
        return best(worth, capacity, self.closed)


def best(worth: Sequence[float], capacity: int, closed: frozenset[int] = frozenset()) -> tuple[int, ...]:
    """The ``capacity`` experts of the greatest worth that are not closed, ascending; of equals the first."""
    offered = sorted((e for e in range(len(worth)) if e not in closed), key=worth.__getitem__, reverse=True)
    return tuple(sorted(offered[: max(0, capacity)]))


def units(fitness_E: np.ndarray) -> tuple[int, ...]:
    """Fitness in integer units."""
    return tuple(int(value) for value in np.rint(np.clip(fitness_E, 0.0, 1.0) * UNIT))


def drawn_capacity(silo: str, seed: int, least: int, most: int) -> int:
    """From least to most, by a hash of silo and seed: anybody can recompute it."""
    label = bytes(Writer().text("consilium/1/capacity").u64(seed).text(silo))
    return least + int.from_bytes(sha256(label).digest()[:8], "big") % (most - least + 1)


def _closed(loads: Sequence[int], opened: int, before: frozenset[int]) -> frozenset[int]:
    """The least wanted experts beyond those that can be opened; of equals those closed before, then the last."""
    order = sorted(range(len(loads)), key=lambda e: (loads[e], e not in before, -e))
    return frozenset(order[: len(loads) - opened])
