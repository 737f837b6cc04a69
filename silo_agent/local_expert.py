"""The expert that stays at its silo: a published model fine-tuned on the silo's own rows, and its share in predictions.

Under label skew most of what is called personalisation is the silo's label prior, so the shared answer gets that first.
What is left is chosen by likelihood on rows that the candidate was not tuned on (cross-fitting in folds): which
published model to start from, and the local expert's share, which may be none.

Shapes: B rows, E candidates, C classes, S steps; see ``experts``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from silo_agent.data import DataSet
from silo_agent.experts import Weights
from silo_agent.models.experts import Experts
from silo_agent.models.tasks import Classes
from silo_agent.training import Descent, batches, cross_entropy

#: Shares of the local expert to choose from, and the folds of the rows that choose.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FOLDS = 4
_EXPERT = "expert/"


@dataclass(frozen=True, slots=True)
class LocalExpert:
    """``expert``: the fine-tuned model, one of ``of``; ``share``: its part of a personal answer; ``log_prior``: (C,) of
    the labels."""

    of: Experts
    expert: Weights
    share: float
    log_prior: np.ndarray | None
    """None: of another task than one class a row."""

    def blend(self, shared_BC: np.ndarray, x: np.ndarray, home: np.ndarray | None = None) -> np.ndarray:
        """(1 − share) · shared answer under the silo's label prior + share · local expert. ``home``: as in
        ``Experts.predict``."""
        return blend(shared_BC, self.of.predict([self.expert], x, home)[0], self.share, self.log_prior)

    def arrays(self) -> dict[str, np.ndarray]:
        """For ``restored``, which makes the same expert of them."""
        weights = {f"{_EXPERT}{code}": array for code, array in self.expert.items()}
        prior = {} if self.log_prior is None else {"log_prior": self.log_prior}
        return weights | {"share": np.array([self.share])} | prior


def restored(of: Experts, arrays: Mapping[str, np.ndarray]) -> LocalExpert | None:
    """The expert that gave these arrays; None for none."""
    if not arrays:
        return None
    weights = {name.removeprefix(_EXPERT): array for name, array in arrays.items() if name.startswith(_EXPERT)}
    return LocalExpert(of, weights, float(arrays["share"][0]), arrays.get("log_prior"))


def blend(shared_BC: np.ndarray, own_BC: np.ndarray, share: float, log_prior_C: np.ndarray | None) -> np.ndarray:
    prior_BC: np.ndarray = shared_BC
    if log_prior_C is not None:
        prior_BC = shared_BC * np.exp(log_prior_C)
        prior_BC /= prior_BC.sum(axis=1, keepdims=True)
    if share == 0:  # then the local expert has no say, also where its training ended in no numbers
        return prior_BC
    return (1 - share) * prior_BC + share * own_BC


def tune(
    of: Experts,
    starts: Sequence[Weights],
    shared_BC: np.ndarray,
    data: DataSet,
    *,
    steps: int,
    batch: int,
    descent: Descent,
    rng: np.random.Generator,
    seed: int = 0,
) -> LocalExpert:
    """Fine-tune each of ``starts`` on this silo's rows; keep the start and share most likely on held-out rows.

    ``shared_BC``: the shared answer on the training rows. ``seed``: as in ``Experts.train``. Ties go to the smaller
    share and the earlier start.
    """
    fold = rng.permutation(data.rows) % FOLDS
    kept = [*(np.flatnonzero(fold != held) for held in range(FOLDS)), np.arange(data.rows)]
    size = min(batch, *(len(rows) for rows in kept))
    order_SEB = np.stack([rows[batches(len(rows), steps, size, rng)] for rows in kept], axis=1)
    tuned = of.train(
        [start for start in starts for _ in kept],
        data.x_train,
        data.y_train,
        np.tile(order_SEB, (1, len(starts), 1)),
        descent,
        cross_entropy,
        seed=seed,
        together=False,
    )
    log_prior = None
    if isinstance(of.task, Classes):
        counts = np.bincount(data.y_train, minlength=data.classes) + 1.0
        log_prior = np.log(counts / counts.sum())
    own = of.predict(tuned, data.x_train, data.x_train)
    own_EBC = own.reshape(len(starts), len(kept), *own.shape[1:])
    unseen_EBC = own_EBC[:, fold, np.arange(data.rows)]

    def likelihood(choice: tuple[int, float]) -> float:
        p_BC = blend(shared_BC, unseen_EBC[choice[0]], choice[1], log_prior)
        found = float(of.task.log_scores(p_BC, data.y_train, 1e-9).mean())
        return found if np.isfinite(found) else -np.inf

    start, share = max(((e, share) for e in range(len(starts)) for share in SHARES), key=likelihood)
    chosen: Weights = tuned[start * len(kept) + FOLDS]
    if not all(np.isfinite(array).all() for array in chosen.values()):
        chosen, share = starts[start], 0.0
    return LocalExpert(of, chosen, share, log_prior)
