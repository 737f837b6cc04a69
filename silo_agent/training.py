"""Local training, shared by all methods.

Momentum and Adam's means start from zero at every call, so that a round depends on nothing but the published state.

Shapes: E experts of a stack, S steps, B rows of a batch, D features, C classes; see ``experts``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from crypto.encoding import Writer
from silo_agent.experts import Weights, answers, stack, torch_, unstack

if TYPE_CHECKING:
    import torch

#: Log-likelihoods of the true labels (E, B) → the loss, a scalar.
Objective = Callable[["torch.Tensor"], "torch.Tensor"]
#: Answers (E, B, C) and targets (B, …) or (E, B, …) → log-likelihoods (E, B).
Likelihood = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


#: Decay of Adam's mean of squared gradients, and what keeps its division finite.
SQUARES_DECAY, SQUARES_LEAST = 0.999, 1e-8
OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """Settings of gradient descent. The number of steps is that of the batches."""

    learning_rate: float
    """Step size."""
    momentum: float
    """Share of the velocity that is kept at each step; of Adam's mean gradient likewise."""
    proximal: float = 0.0
    """μ of the pull μ/2 · ‖w − anchor‖² (FedProx)."""
    optimizer: str = "sgd"
    """One of ``OPTIMIZERS``. adam: weight decay is part of the gradient; adamw: apart from it."""
    weight_decay: float = 0.0
    """λ of the pull λ/2 · ‖w‖² to zero."""
    gradient_clip: float = 0.0
    """Most that the norm of one model's gradient may be, or it is scaled down to that; 0: no limit."""
    factors: tuple[float, ...] = ()
    """What the step size is multiplied by at each step; after the last one by the last; none: by 1."""
    class_weights: tuple[float, ...] = ()
    """What the log-likelihood of a row is multiplied by, by its class; none: by 1."""


class Descending:
    """Gradient descent of some tensors, in place.

    Written out and not taken from ``torch.optim``: there the proximal term is part of the gradient, and that order of
    additions gives other last bits.
    """

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        descent: Descent,
        anchors: Sequence[torch.Tensor] | None = None,
        *,
        models: Sequence[int] | None = None,
    ) -> None:
        """``anchors``: where the proximal term pulls each tensor to; needed if ``descent.proximal`` is not 0.
        ``models``: which model each tensor is of; None: along its first axis are as many models."""
        torch = torch_()
        self._tensors = list(tensors)
        self._descent = descent
        self._anchors = list(anchors or ())
        self._velocities = [torch.zeros_like(tensor) for tensor in self._tensors]
        self._squares = [torch.zeros_like(tensor) for tensor in self._tensors] if descent.optimizer != "sgd" else []
        self._models = models
        self._steps = 0
        for tensor in self._tensors:
            tensor.requires_grad_()

    def step(self, loss: torch.Tensor) -> None:
        """One step down the gradient of a scalar."""
        torch, factors = torch_(), self._descent.factors
        rate = self._descent.learning_rate
        rate *= factors[min(self._steps, len(factors) - 1)] if factors else 1
        gradients = [*torch.autograd.grad(loss, self._tensors)]
        with torch.no_grad():
            if self._descent.gradient_clip:
                gradients = self._clipped(gradients)
            self._steps += 1
            for i, gradient in enumerate(gradients):
                if self._squares:
                    self._adam(i, gradient, rate)
                else:
                    self._sgd(i, gradient, rate)

    def _sgd(self, i: int, gradient: torch.Tensor, rate: float) -> None:
        descent, tensor, velocity = self._descent, self._tensors[i], self._velocities[i]
        velocity.mul_(descent.momentum).add_(gradient)
        if descent.weight_decay:
            velocity.add_(tensor, alpha=descent.weight_decay)
        if descent.proximal:
            velocity.add_(tensor - self._anchors[i], alpha=descent.proximal)
        tensor.sub_(velocity, alpha=rate)

    def _adam(self, i: int, gradient: torch.Tensor, rate: float) -> None:
        descent, tensor, decay = self._descent, self._tensors[i], self._descent.weight_decay
        if descent.proximal:
            gradient = gradient.add(tensor - self._anchors[i], alpha=descent.proximal)
        if decay and descent.optimizer == "adam":
            gradient = gradient.add(tensor, alpha=decay)
        mean = self._velocities[i].mul_(descent.momentum).add_(gradient, alpha=1 - descent.momentum)
        squares = self._squares[i].mul_(SQUARES_DECAY).addcmul_(gradient, gradient, value=1 - SQUARES_DECAY)
        spread = (squares / (1 - SQUARES_DECAY**self._steps)).sqrt_().add_(SQUARES_LEAST)
        if decay and descent.optimizer == "adamw":
            tensor.mul_(1 - rate * decay)
        tensor.addcdiv_(mean / (1 - descent.momentum**self._steps), spread, value=-rate)

    def _clipped(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients, each model's scaled down to the norm that it may have."""
        if self._models is None:
            each = [gradient.square().flatten(1).sum(1) for gradient in gradients]
            scale_E = _scale(torch_().stack(each).sum(0), self._descent)
            return [gradient * scale_E.view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients]
        squares: dict[int, torch.Tensor] = {}
        for model, gradient in zip(self._models, gradients, strict=True):
            squares[model] = squares[model] + gradient.square().sum() if model in squares else gradient.square().sum()
        return [
            gradient * _scale(squares[model], self._descent)
            for model, gradient in zip(self._models, gradients, strict=True)
        ]


def _scale(squares: torch.Tensor, descent: Descent) -> torch.Tensor:
    return (descent.gradient_clip / (squares.sqrt() + 1e-12)).clamp(max=1.0)


def weighted(log_likelihood: torch.Tensor, y: torch.Tensor, descent: Descent) -> torch.Tensor:
    """Log-likelihoods (…, B) under the weights of their rows' classes."""
    if not descent.class_weights:
        return log_likelihood
    found: torch.Tensor = log_likelihood * torch_().tensor(descent.class_weights)[y]
    return found


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


def of_class(answers_EBC: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """log p_e(y|x) of class labels, from logits."""
    logp_EBC = answers_EBC.log_softmax(-1)
    found: torch.Tensor = logp_EBC.gather(-1, y.expand(logp_EBC.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return found


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
    likelihood: Likelihood = of_class,
) -> list[dict[str, np.ndarray]]:
    """The experts after one pass over ``order``: rows (S, B) shared by all, or (S, E, B) for rows of their own.

    ``anchors``: where the proximal term pulls each expert to; without them, to where it started. ``likelihood``: of
    rows, from the experts' answers and ``y``; of classes where it is left out.
    """
    torch = torch_()
    weights = stack(experts)
    pulled_to = stack(experts if anchors is None else anchors) if descent.proximal else {}
    descending = Descending(list(weights.values()), descent, list(pulled_to.values()))
    rows, targets, index = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y)), torch.from_numpy(order)
    for picked in index:
        likelihoods_EB = likelihood(answers(weights, rows[picked]), targets[picked])
        descending.step(objective(weighted(likelihoods_EB, targets[picked], descent)))
    return unstack({part: tensor.detach() for part, tensor in weights.items()})
