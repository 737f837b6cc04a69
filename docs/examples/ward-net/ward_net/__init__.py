"""A residual network for rows of measurements, with a trunk that all silos share and a head for each expert."""

from __future__ import annotations

import torch
from torch import nn

from silo_agent.models.description import Model


class WardNet(nn.Module):
    """``depth`` residual layers of ``width`` units with batch normalisation, and a linear head."""

    def __init__(self, features: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(depth)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        for layer in self.layers:
            h = h + layer(h)
        return self.head(h)


def ward_net(shape: tuple[int, ...], classes: int, *, width: int = 16, depth: int = 2) -> Model:
    """``shape``: (features,). A job sets ``model-width`` and ``model-depth``."""
    if len(shape) != 1:
        raise ValueError(f"rows of shape {shape}: one side is wanted, the features")
    module = WardNet(shape[0], classes, width, depth)
    return Model(module=module, roles={"head.*": "expert", "*": "shared"})
