"""What methods speak to: copies of one network, whatever it is.

A *model* here is a dict of float32 arrays, part code → array, as the blocks of a plan hold it. A method never looks
into one: it adds, subtracts and sends parts.

Shapes: E models, B rows of a batch, S steps, C classes, F entries of a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from silo_agent import experts
from silo_agent.experts import Weights
from silo_agent.models.description import Role
from silo_agent.models.layout import Part
from silo_agent.models.tasks import Task
from silo_agent.training import Descent, Objective, train

if TYPE_CHECKING:
    import torch


class Experts(Protocol):
    """Copies of one network."""

    parts: tuple[Part, ...]
    """What training moves, in a fixed order."""
    frozen: tuple[Part, ...]
    """What stays as it starts: never trained, never sent."""
    shape: tuple[int, ...]
    """Of a row."""
    classes: int
    """Numbers of an answer: of the task."""
    task: Task
    at_home: bool
    """Whether predictions need unlabelled rows of the same site (running statistics)."""

    def view(self, x: np.ndarray) -> np.ndarray:
        """(B, F) float64 of rows (B, *shape): what a method compares rows by, without a network."""

    def opened(self, model: Weights) -> bool:
        """Whether an expert was ever moved by a sum: one whose lane never opened is not used."""

    def train(
        self,
        models: Sequence[Weights],
        x: np.ndarray,
        y: np.ndarray,
        order: np.ndarray,
        descent: Descent,
        objective: Objective,
        *,
        seed: int,
        together: bool = True,
    ) -> list[dict[str, np.ndarray]]:
        """The models after one pass over ``order``, row numbers (S, B), or (S, E, B) for rows of their own.

        ``seed``: of dropout and the like: the same call gives the same models. ``together``: shared parts are one
        tensor of all models; otherwise each model has its own copy. Raises NonFinite, naming the parameter.
        """

    def row_gradients(self, model: Weights, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(B, P) float32: of −log p(y|x) of each row, computed from that row alone, the parts one after another. Layers
        are in training mode; dropout is drawn for each row by itself. Rows may give NaN."""

    def mixing(self) -> tuple[str, ...]:
        """Names of the layers whose results for one row depend on other rows: no gradient is a row's own there."""

    def predict(self, models: Sequence[Weights], x: np.ndarray, home: np.ndarray | None = None) -> np.ndarray:
        """p_EBC, float64, or of another task than one class a row what its ``predictions`` are. ``home``: unlabelled
        rows of the site that x comes from, for running statistics; without them, x itself. Raises DataRefused where
        those are too few."""

    def module(self, model: Weights, home: np.ndarray | None = None) -> torch.nn.Module:
        """A torch module of one model: rows → answers of the task (logits), each row by itself. ``home``: as in
        ``predict``; where it is needed, DataRefused without it."""


class Perceptrons:
    """One hidden layer, as ``silo_agent.experts`` computes it: all models stacked, no torch before the first."""

    at_home = False
    frozen: tuple[Part, ...] = ()

    def __init__(self, features: int, hidden: int, task: Task) -> None:
        """``task``: with one answer a row, so no masks."""
        shapes, widths = experts.shapes(features, hidden, task.classes), experts.half_widths(features, hidden)
        self.shape: tuple[int, ...] = (features,)
        self.task = task
        self.classes = task.classes
        self.parts = tuple(
            Part(
                code=part,
                name=part,
                shape=shapes[part],
                role=Role.EXPERT,
                init=widths[part],
                expert_init=0.0 if part == "b2" else widths[part],
            )
            for part in experts.PARTS
        )

    def view(self, x: np.ndarray) -> np.ndarray:
        return x

    def opened(self, model: Weights) -> bool:
        return bool(model["b2"].any())  # it starts at zero in an expert

    def train(
        self,
        models: Sequence[Weights],
        x: np.ndarray,
        y: np.ndarray,
        order: np.ndarray,
        descent: Descent,
        objective: Objective,
        *,
        seed: int,
        together: bool = True,
    ) -> list[dict[str, np.ndarray]]:
        return train(models, x, y, order, descent, objective, likelihood=self.task.log_likelihood)

    def row_gradients(self, model: Weights, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        library = experts.torch_()

        def loss(weights: Mapping[str, torch.Tensor], row: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
            stacked = {part: tensor.unsqueeze(0) for part, tensor in weights.items()}
            answers = experts.answers(stacked, row.unsqueeze(0))[0]
            return -self.task.log_likelihood(answers, truth.unsqueeze(0))[0]

        weights = {part: library.tensor(model[part]) for part in experts.PARTS}
        rows, truths = library.tensor(x), library.tensor(y)
        found = library.func.vmap(library.func.grad(loss), in_dims=(None, 0, 0))(weights, rows, truths)
        return np.concatenate([found[part.code].reshape(len(y), -1).numpy() for part in self.parts], axis=1)

    def mixing(self) -> tuple[str, ...]:
        return ()

    def predict(self, models: Sequence[Weights], x: np.ndarray, home: np.ndarray | None = None) -> np.ndarray:
        return experts.predict(models, x, self.task.predictions)

    def module(self, model: Weights, home: np.ndarray | None = None) -> torch.nn.Module:
        nn, tensor = experts.torch_().nn, experts.torch_().tensor
        first, second = nn.Linear(*model["w1"].shape), nn.Linear(*model["w2"].shape)
        first.load_state_dict({"weight": tensor(model["w1"].T), "bias": tensor(model["b1"])})
        second.load_state_dict({"weight": tensor(model["w2"].T), "bias": tensor(model["b2"])})
        made: torch.nn.Module = nn.Sequential(first, nn.ReLU(), second).requires_grad_(False)
        return made


def moved(before: Weights, after: Weights) -> dict[str, np.ndarray]:
    """Part → after − before."""
    return {code: after[code] - before[code] for code in after}


def codes(parts: Sequence[Part], *roles: Role) -> tuple[str, ...]:
    """Codes of the parts with these roles."""
    return tuple(part.code for part in parts if part.role in roles)


def log_likelihood(
    of: Experts, models: Sequence[Weights], x: np.ndarray, y: np.ndarray, home: np.ndarray | None = None
) -> np.ndarray:
    """log p_e(y|x), (E, B) float64, of each model; ``home`` as in ``Experts.predict``."""
    return of.task.log_scores(of.predict(models, x, home), y)
