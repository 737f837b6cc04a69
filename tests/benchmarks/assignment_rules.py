"""Rules of assignment that prices are compared with. Each but ``penalised`` needs every silo's fitness in one place.

Shapes: N silos, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from silo_agent.expert_prices import UNIT, Bounds, best


def ranks(fitness_NE: np.ndarray) -> np.ndarray:
    """Each silo's fitness as ranks in [0, 1]: all that a server would be shown of it."""
    order = fitness_NE.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    scaled: np.ndarray = order / max(1, fitness_NE.shape[1] - 1)
    return scaled


def penalised(fitness: Sequence[int], capacity: int, loads: Sequence[int], strength: float = 0.25) -> tuple[int, ...]:
    """Greedy with a penalty on last round's load: ``strength`` of the full fitness for twice the mean load."""
    mean = sum(loads) / len(loads)
    over = [load / mean - 1.0 if mean else 0.0 for load in loads]
    return best([own - strength * UNIT * more for own, more in zip(fitness, over, strict=True)], capacity)


def solve(worth_NE: np.ndarray, capacities: Sequence[int], wanted: Bounds) -> tuple[np.ndarray, Bounds]:
    """The best assignment x_NE in zeros and ones, by linear programming, and the bounds it keeps.

    Lower bounds that cannot be kept (capacities too uneven) are relaxed by one until they can. scipy is imported
    here: it is no dependency of a silo.
    """
    from scipy.optimize import linprog  # type: ignore[import-untyped]
    from scipy.sparse import eye, kron, vstack  # type: ignore[import-untyped]

    silos, experts = worth_NE.shape
    rows = kron(eye(silos), np.ones((1, experts)), format="csr")
    columns = kron(np.ones((1, silos)), eye(experts), format="csr")
    opened = np.argsort(-worth_NE.sum(axis=0), kind="stable")[: wanted.open]
    offered = np.isin(np.arange(experts), opened)
    held = np.minimum(np.asarray(capacities), wanted.open)
    for low in range(wanted.low, -1, -1):
        high = wanted.high if low == wanted.low else silos
        found = linprog(
            -worth_NE.ravel(),
            A_ub=vstack([columns, -columns]),
            b_ub=np.concatenate([np.where(offered, high, 0), np.where(offered, -low, 0)]),
            A_eq=rows,
            b_eq=held,
            bounds=(0, 1),
            method="highs-ds",  # simplex: a vertex, which here is integral
        )
        if found.status == 0:
            kept = Bounds(low, high, wanted.open, wanted.relaxed or low < wanted.low)
            return np.rint(found.x).astype(np.int64).reshape(silos, experts), kept
    raise AssertionError("with a lower bound of 0 there is always an assignment")
