"""Local training, shared by all methods.

The momentum starts from zero at every call, so that a round depends on nothing but the published state.

Shapes: E experts of a stack, S steps, B rows of a batch, D features, C classes; see ``experts``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from crypto.encoding import Writer
from silo_agent.experts import Weights, log_probabilities, stack, torch_, unstack

if TYPE_CHECKING:
    import torch

#: Log-likelihoods of the true labels (E, B) → the loss, a scalar.
Objective = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """Settings of stochastic gradient descent. The number of steps is that of the batches."""

    learning_rate: float
    """Step size."""
    momentum: float
    """Share of the velocity that is kept at each step."""
    proximal: float = 0.0
    """μ of the pull μ/2 · ‖w − anchor‖² (FedProx)."""


class Descending:
    """Stochastic gradient descent with momentum of some tensors, in place.

    Written out and not taken from ``torch.optim``: there the proximal term is part of the gradient, and that order of
    additions gives other last bits.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], descent: Descent, anchors: Sequence[torch.Tensor] | None = None
    ) -> None:
        """``anchors``: where the proximal term pulls each tensor to; needed if ``descent.proximal`` is not 0."""
        torch = torch_()
        self._tensors = list(tensors)
        self._descent = descent
        self._anchors = list(anchors or ())
        self._velocities = [torch.zeros_like(tensor) for tensor in self._tensors]
        for tensor in self._tensors:
            tensor.requires_grad_()

    def step(self, loss: torch.Tensor) -> None:
        """One step down the gradient of a scalar."""
        torch, descent = torch_(), self._descent
        gradients = torch.autograd.grad(loss, self._tensors)
        with torch.no_grad():
            for i, (tensor, velocity, gradient) in enumerate(
                zip(self._tensors, self._velocities, gradients, strict=True)
            ):
                velocity.mul_(descent.momentum).add_(gradient)
                if descent.proximal:
                    velocity.add_(tensor - self._anchors[i], alpha=descent.proximal)
                tensor.sub_(velocity, alpha=descent.learning_rate)


def generator(purpose: str, seed: int, silo: str, step: int) -> np.random.Generator:
    """A separate generator for each purpose (split, batches …), silo and step, so that draws are independent."""
    label = bytes(Writer().text("consilium/1/rng").text(purpose).u64(seed).text(silo).u32(step))
    return np.random.default_rng(int.from_bytes(sha256(label).digest(), "big"))


def batches(rows: int, steps: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers (S, B): epoch after epoch without replacement; a last incomplete batch is dropped."""
    batch = min(batch, rows)
    per_epoch = rows // batch
    epochs = [rng.permutation(rows)[: per_epoch * batch] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).reshape(-1, batch)[:steps]


def cross_entropy(log_likelihood_EB: torch.Tensor) -> torch.Tensor:
    """−log p_e(y|x) of each expert on its own: the sum over experts of the mean over rows."""
    return -log_likelihood_EB.mean(-1).sum()


def mixture(gate_E: np.ndarray) -> Objective:
    """−log Σ_e g_e p_e(y|x), the likelihood of the mixture (not of averaged logits), for a fixed gate of the silo."""
    log_gate_E1 = torch_().from_numpy(np.log(np.maximum(gate_E, 1e-12)).astype(np.float32)).unsqueeze(1)
    return lambda log_likelihood_EB: -(log_likelihood_EB + log_gate_E1).logsumexp(0).mean()


def train(
    experts: Sequence[Weights],
    x: np.ndarray,
    y: np.ndarray,
    order: np.ndarray,
    descent: Descent,
    objective: Objective,
    *,
    anchors: Sequence[Weights] | None = None,
) -> list[dict[str, np.ndarray]]:
    """The experts after one pass over ``order``: rows (S, B) shared by all, or (S, E, B) for rows of their own.

    ``anchors``: where the proximal term pulls each expert to; without them, to where it started.
    """
    torch = torch_()
    weights = stack(experts)
    pulled_to = stack(experts if anchors is None else anchors) if descent.proximal else {}
    descending = Descending(list(weights.values()), descent, list(pulled_to.values()))
    rows, labels, index = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y)), torch.from_numpy(order)
    for picked in index:
        logp_EBC = log_probabilities(weights, rows[picked])
        y_EB1 = labels[picked].expand(logp_EBC.shape[:2]).unsqueeze(-1)
        descending.step(objective(logp_EBC.gather(-1, y_EB1).squeeze(-1)))
    return unstack({part: tensor.detach() for part, tensor in weights.items()})
