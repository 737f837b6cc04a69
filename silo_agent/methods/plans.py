"""What the plans of several methods have in common: networks as blocks, the step that counts rows, scores.

A network ``NAME`` is the four blocks ``NAME.w1`` … ``NAME.b2`` of a perceptron of ``silo_agent.experts``.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from crypto.plan import Basis, Block, Slot, Step
from silo_agent import experts
from silo_agent.data import DataSet
from silo_agent.methods import ROWS_BOUND, Published, TrainingParams


def counts(*names: str, basis: Basis = Basis.STATE) -> tuple[Slot, ...]:
    """Slots that each count rows of a silo."""
    return tuple(Slot(name, ROWS_BOUND, basis) for name in names)


#: How many silos a step's figures are of: each adds one, whatever its data are.
SILOS = Slot("silos", 1, Basis.STEP)

#: Test rows: the same in every step, so they open over one set of silos, or over sets that are far apart.
TEST_ROWS = counts("test.rows", basis=Basis.DATA)

#: The first step of most plans: training rows, from which ``mean_rows`` follows.
ROWS_STEP = Step(task="rows", index=0, slots=(SILOS, *counts("rows", basis=Basis.DATA)))


def correct_slots(*modes: str) -> tuple[Slot, ...]:
    """Test rows that these modes' models name right. Of basis DATA, like the rows: while a model names one class for
    every row, they are the rows of that class, whatever the state."""
    return counts(*(f"{mode}.correct" for mode in modes), basis=Basis.DATA)


#: Correct predictions of the global model, of all test rows.
SCORE = (*correct_slots("global"), *TEST_ROWS)


def network_blocks(
    name: str, p: TrainingParams, *, lane: str, zero: Collection[str] = (), classes: int | None = None
) -> tuple[Block, ...]:
    """The blocks of one network. ``zero``: parts that start at zero. ``classes``: outputs, if not those of the job.

    An expert whose ``b2`` starts at zero has a ``b2`` of exactly zero until its lane first opens: see ``ever_opened``.
    """
    shapes = experts.shapes(p.features, p.hidden, p.classes if classes is None else classes)
    widths = experts.half_widths(p.features, p.hidden)
    return tuple(
        Block(
            name=f"{name}.{part}",
            shape=shapes[part],
            lane=lane,
            clip=p.clip,
            init=0.0 if part in zero else widths[part],
        )
        for part in experts.PARTS
    )


def network(published: Published, name: str) -> dict[str, np.ndarray]:
    """Part → array, of a published network."""
    return {part: published.blocks[f"{name}.{part}"] for part in experts.PARTS}


def ever_opened(published: Published, e: int) -> bool:
    """Whether the lane of ``expert-e`` has ever opened. An expert that never had enough silos is not used."""
    return bool(published.blocks[f"expert-{e}.b2"].any())


def correct(p_BC: np.ndarray, data: DataSet) -> int:
    """Test rows whose most probable class is their label."""
    return int((p_BC.argmax(axis=1) == data.y_test).sum())
