"""The expert network: a perceptron with one hidden layer, as a flat dict of float32 arrays.

Experts of one shape are computed together, stacked along a first axis. torch is imported when the first expert is
computed, not with this module: listing data or refusing a job needs no torch.

Shapes: E experts of a stack, B rows of a batch, D features, H hidden, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod, sqrt
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Weights = Mapping[str, np.ndarray]

PARTS = ("w1", "b1", "w2", "b2")


def shapes(features: int, hidden: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Part → shape of one expert: w1_DH, b1_H, w2_HC, b2_C."""
    return {"w1": (features, hidden), "b1": (hidden,), "w2": (hidden, classes), "b2": (classes,)}


def half_widths(features: int, hidden: int) -> dict[str, float]:
    """Part → half-width of its uniform initial values, 1/√(inputs)."""
    return {"w1": 1 / sqrt(features), "b1": 1 / sqrt(features), "w2": 1 / sqrt(hidden), "b2": 1 / sqrt(hidden)}


def size(features: int, hidden: int, classes: int) -> int:
    """Parameters of one expert."""
    return sum(prod(shape) for shape in shapes(features, hidden, classes).values())


def stack(experts: Sequence[Weights]) -> dict[str, torch.Tensor]:
    """w1_EDH, b1_EH, w2_EHC, b2_EC: copies, so that training one leaves the published blocks alone."""
    torch = torch_()
    return {part: torch.from_numpy(np.stack([expert[part] for expert in experts])) for part in PARTS}


def unstack(weights: Mapping[str, torch.Tensor]) -> list[dict[str, np.ndarray]]:
    """One dict of arrays per expert of the stack."""
    arrays = {part: tensor.numpy() for part, tensor in weights.items()}
    return [{part: arrays[part][e] for part in PARTS} for e in range(len(arrays["w1"]))]


def answers(weights: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Logits (E, B, C) of a stack on x_BD (the same rows for all) or x_EBD (rows of its own for each)."""
    h_EBH = (x @ weights["w1"] + weights["b1"].unsqueeze(1)).relu()
    return h_EBH @ weights["w2"] + weights["b2"].unsqueeze(1)


def log_probabilities(weights: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """logp_EBC of a stack, on rows as in ``answers``."""
    return answers(weights, x).log_softmax(-1)


def predict(
    experts: Sequence[Weights],
    x_BD: np.ndarray,
    predictions: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits.log_softmax(-1).double().exp(),
) -> np.ndarray:
    """p_EBC: each expert's class probabilities, float64; or what ``predictions`` makes of its answers."""
    torch = torch_()
    with torch.no_grad():
        rows = torch.from_numpy(np.array(x_BD, dtype=np.float32))
        p_EBC: np.ndarray = predictions(answers(stack(experts), rows)).numpy()
    return p_EBC


@cache
def torch_() -> ModuleType:
    """torch, on one thread: many silos may share a machine, and these networks gain nothing from more."""
    import torch

    torch.set_num_threads(1)
    return torch
