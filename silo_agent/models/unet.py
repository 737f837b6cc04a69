"""A small U-Net for masks of pictures and volumes: two sizes down, two up, group normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from silo_agent.models.description import Model


def unet(shape: tuple[int, ...], classes: int, *, width: int = 8) -> Model:
    """``shape``: (channels, *sides), two sides or three, each a multiple of 4. ``width``: channels of the first block,
    a multiple of 4; each block below has twice as many."""
    if len(shape) not in (3, 4) or any(side % 4 for side in shape[1:]):
        raise ValueError(f"rows of shape {shape}: a unet takes channels and two or three sides, each a multiple of 4")
    if not isinstance(width, int) or not 4 <= width <= 1024 or width % 4:
        raise ValueError(f"width {width}: a multiple of 4 from 4 to 1024 is wanted")
    return Model(module=_UNet(shape[0], classes, width, len(shape) - 1), task="segmentation")


class _UNet(nn.Module):
    def __init__(self, channels: int, classes: int, width: int, sides: int) -> None:
        super().__init__()
        conv: Any = nn.Conv2d if sides == 2 else nn.Conv3d
        self.pool = nn.MaxPool2d(2) if sides == 2 else nn.MaxPool3d(2)

        def block(before: int, after: int) -> nn.Sequential:
            # Without a bias: the normalisation would take it away again.
            return nn.Sequential(conv(before, after, 3, padding=1, bias=False), nn.GroupNorm(4, after), nn.ReLU())

        self.first, self.second, self.deepest = (
            block(channels, width),
            block(width, 2 * width),
            block(2 * width, 4 * width),
        )
        self.up_second, self.up_first = block(6 * width, 2 * width), block(3 * width, width)
        self.head = conv(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        second = self.second(self.pool(first))
        back = self.up_second(torch.cat([second, _wider(self.deepest(self.pool(second)))], 1))
        logits: torch.Tensor = self.head(self.up_first(torch.cat([first, _wider(back)], 1)))
        return logits


def _wider(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="nearest")
