"""The demonstration's data for MetaMoE: groups of silos that see different digits, and a public pool that sees all.

Every third of scikit-learn's digits is public (``silo_agent.proxies``) and held by everyone. The others are dealt: each
group of silos has classes of its own, as clinics of one speciality would, dealt evenly within the group. A newcomer
has digits of every class.
"""

from __future__ import annotations

import numpy as np

from jobs.demo.digits_data import CENTRE, CLASSES, TEST_SHARE
from jobs.demo.stratified_split import stratified_split
from silo_agent.proxies import PUBLIC_EVERY

#: Groups of silos; their classes are neighbours: 0 to 4 and 5 to 9.
GROUPS = 2

#: Rows a newcomer gets, of those that are not public.
NEWCOMER_ROWS = 100


def make(silos: int, seed: int, newcomers: int = 2) -> dict[str, dict[str, np.ndarray]]:
    """Silo name → the arrays of its npz, for ``silo-1 …`` and ``newcomer-1 …``; groups by ``group``.

    Raises ValueError for a number of silos that does not make groups of equal size.
    """
    from sklearn.datasets import load_digits

    if silos < GROUPS or silos % GROUPS or newcomers < 0:
        raise ValueError(f"silos: got {silos}, want a multiple of {GROUPS}; newcomers: got {newcomers}, want 0 or more")
    images, labels = load_digits(return_X_y=True)
    pictures = (images / 16.0 - CENTRE).astype(np.float32)
    deal_rng, split_rng = (np.random.default_rng([seed, purpose]) for purpose in (1, 2))
    private = deal_rng.permutation(np.flatnonzero(np.arange(len(labels)) % PUBLIC_EVERY))
    hands = {}
    for at in range(newcomers):
        hands[f"newcomer-{at + 1}"], private = private[:NEWCOMER_ROWS], private[NEWCOMER_ROWS:]
    for of in range(GROUPS):
        rows = private[labels[private] * GROUPS // CLASSES == of]
        names = [f"silo-{at + 1}" for at in range(silos) if group(at, silos) == of]
        hands |= dict(zip(names, np.array_split(rows, len(names)), strict=True))
    sets = {}
    for name in sorted(hands, key=lambda name: (name.startswith("newcomer"), int(name.rpartition("-")[2]))):
        hand = hands[name]
        y = labels[hand].astype(np.int64)
        sets[name] = stratified_split(pictures[hand], y, CLASSES, TEST_SHARE, split_rng)
    return sets


def group(at: int, silos: int) -> int:
    """The group of silo number ``at``, from 0: the first half of the silos makes the first expert."""
    return at * GROUPS // silos
