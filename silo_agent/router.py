"""A silo's own router: which of the experts it holds predicts a row. It is trained with them and never leaves the silo.

One row of weights per expert id, so that an expert that returns finds its row; NaN until the silo has held it.

Shapes: B rows of a batch, D features, E experts, A experts held (assigned), in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from silo_agent import experts
from silo_agent.experts import torch_
from silo_agent.training import Descending, Descent


def blank(count: int, features: int) -> np.ndarray:
    """(E, D + 1): the router of a silo that has held nothing yet. The last column is the bias."""
    return np.full((count, features + 1), np.nan, dtype=np.float32)


def rows_of(router_ED: np.ndarray, held: Sequence[int]) -> np.ndarray:
    """(A, D + 1): the rows of these experts; one never held gets the mean of the rows known, or zeros."""
    known = ~np.isnan(router_ED[:, 0])
    width = router_ED.shape[1]
    fresh = router_ED[known].mean(axis=0) if known.any() else np.zeros(width, dtype=np.float32)
    return np.array([router_ED[e] if known[e] else fresh for e in held], dtype=np.float32).reshape(-1, width)


def with_rows(router_ED: np.ndarray, held: Sequence[int], rows_AD: np.ndarray) -> np.ndarray:
    """The router with new rows for the experts held."""
    new: np.ndarray = router_ED.copy()
    new[list(held)] = rows_AD
    return new


def gate(rows_AD: np.ndarray, x_BD: np.ndarray) -> np.ndarray:
    """softmax over the experts held: (B, A), each row sums to 1. At least one expert must be held."""
    logits_BA = x_BD @ rows_AD[:, :-1].T + rows_AD[:, -1]
    g_BA: np.ndarray = np.exp(logits_BA - logits_BA.max(axis=1, keepdims=True))
    g_BA /= g_BA.sum(axis=1, keepdims=True)
    return g_BA


def train(
    models: Sequence[Mapping[str, np.ndarray]],
    rows_AD: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    order: np.ndarray,
    descent: Descent,
) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """A generalist (the first model) and the A experts held, with their router, after one pass over ``order`` (S, B).

    The generalist learns by cross-entropy; experts and router by −log Σ_a g_a(x) p_a(y|x), as in ``training``.
    """
    torch = torch_()
    weights = experts.stack(models)
    tensors = weights | ({"router": torch.from_numpy(rows_AD.copy())} if len(rows_AD) else {})
    descending = Descending(list(tensors.values()), descent)
    inputs, labels = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y))
    for picked in torch.from_numpy(order):
        x_BD = inputs[picked]
        logp_EBC = experts.log_probabilities(weights, x_BD)
        seen_EB = logp_EBC.gather(-1, labels[picked].expand(logp_EBC.shape[:2]).unsqueeze(-1)).squeeze(-1)
        loss = -seen_EB[0].mean()
        if len(rows_AD):
            own = tensors["router"]
            log_gate_AB = (x_BD @ own[:, :-1].T + own[:, -1]).log_softmax(-1).T
            loss = loss - (seen_EB[1:] + log_gate_AB).logsumexp(0).mean()
        descending.step(loss)
    after = {name: tensor.detach() for name, tensor in tensors.items()}
    rows = after["router"].numpy() if len(rows_AD) else rows_AD
    return experts.unstack(after), rows
