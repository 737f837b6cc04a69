"""The demonstration's data: handwritten digits, photographed two ways, by silos that see different digits.

scikit-learn's digits (1,797 images, 8 × 8, no download, no licence question) are dealt to the silos class by class in
Dirichlet(1) proportions. The first half of the silos holds them upright, the second half turned by 90°: two
acquisition styles, as two scanner makes would be. One newcomer of each style takes no part in training.
"""

from __future__ import annotations

import numpy as np

from jobs.demo.stratified_split import stratified_split

#: Subtracted from every pixel/16. A public constant: a mean computed from the data would be one more thing to leak.
CENTRE = 0.3

CLASSES = 10
TEST_SHARE = 0.3
MIN_TRAIN_ROWS = 16
_DIRICHLET = 1.0
_REDRAWS = 100


def make(silos: int, seed: int, newcomers: int = 2) -> dict[str, dict[str, np.ndarray]]:
    """Silo name → the arrays of its npz, for ``silo-1 …`` and ``newcomer-1 …``; styles by ``style``.

    Label proportions, test split and order come from generators of their own, so that changing one leaves the others.
    Every silo gets at least 16 training rows of at least two classes: shares that miss that are drawn again, from the
    same generator. Raises ValueError when the images do not suffice for that many silos.
    """
    from sklearn.datasets import load_digits

    if silos < 2 or silos % 2 or newcomers < 0:
        raise ValueError(
            f"silos: got {silos}, want an even number, 2 or more; newcomers: got {newcomers}, want 0 or more"
        )
    names = [f"silo-{i + 1}" for i in range(silos)] + [f"newcomer-{i + 1}" for i in range(newcomers)]
    images, labels = load_digits(return_X_y=True)
    pictures = (images.reshape(-1, 8, 8) / 16.0 - CENTRE).astype(np.float32)
    deal_rng, split_rng = (np.random.default_rng([seed, purpose]) for purpose in (1, 2))
    # A hand of k rows keeps at most (1 − TEST_SHARE) of them for training, give or take a row a class.
    possible = len(names) * MIN_TRAIN_ROWS <= len(labels)
    for _ in range(_REDRAWS if possible else 0):
        hands = _deal(labels, len(names), deal_rng)
        if all(_suffices(labels[hand]) for hand in hands):
            break
    else:
        raise ValueError(f"silos: got {silos}, want fewer: {len(labels)} images do not give each 16 training rows")
    sets = {}
    for at, (name, hand) in enumerate(zip(names, hands, strict=True)):
        turned = np.rot90(pictures[hand], style(at, silos), axes=(1, 2)).reshape(len(hand), -1)
        x, y = np.ascontiguousarray(turned, dtype=np.float32), labels[hand].astype(np.int64)
        sets[name] = stratified_split(x, y, CLASSES, TEST_SHARE, split_rng)
    return sets


def style(at: int, silos: int) -> int:
    """Quarter turns of the images of silo number ``at`` (from 0; newcomers follow the silos)."""
    return int(at >= silos // 2) if at < silos else (at - silos) % 2


def _deal(labels: np.ndarray, hands: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of each hand: every class is cut in Dirichlet proportions of its own."""
    dealt: list[list[np.ndarray]] = [[] for _ in range(hands)]
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(rng.dirichlet(np.full(hands, _DIRICHLET)))[:-1] * len(rows)).astype(np.int64)
        for hand, part in zip(dealt, np.split(rows, cuts), strict=True):
            hand.append(part)
    return [rng.permutation(np.concatenate(hand)) for hand in dealt]


def _suffices(labels: np.ndarray) -> bool:
    counts = np.bincount(labels, minlength=CLASSES)
    left = counts - np.round(counts * TEST_SHARE).astype(np.int64)
    return int(left.sum()) >= MIN_TRAIN_ROWS and int((left > 0).sum()) >= 2 and int(counts.sum() - left.sum()) > 0
