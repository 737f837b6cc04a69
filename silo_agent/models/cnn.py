"""A small convolutional network for pictures: two blocks of convolution, normalisation and pooling, and a head."""

from __future__ import annotations

from torch import nn

from silo_agent.models.description import Model

NORMS = ("group", "batch")


def cnn(shape: tuple[int, ...], classes: int, *, width: int = 16, norm: str = "group") -> Model:
    """``shape``: (channels, height, width), each side at least 4. ``width``: channels of the first block, a multiple
    of 4; the second has twice as many. ``norm``: ``group`` (four groups) or ``batch``, whose running statistics stay
    at home."""
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise ValueError(f"pictures of shape {shape}: a cnn takes channels, height, width, each side at least 4")
    if not isinstance(width, int) or not 4 <= width <= 4096 or width % 4:
        raise ValueError(f"width {width}: a multiple of 4 from 4 to 4096 is wanted")
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: one of {', '.join(NORMS)} is wanted")

    def normal(channels: int) -> nn.Module:
        return nn.GroupNorm(4, channels) if norm == "group" else nn.BatchNorm2d(channels)

    def block(before: int, after: int) -> nn.Sequential:
        # Without a bias: the normalisation would take it away again.
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False), normal(after), nn.ReLU(), nn.MaxPool2d(2)
        )

    features = nn.Sequential(block(shape[0], width), block(width, 2 * width), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    module = nn.Sequential()
    module.add_module("features", features)
    module.add_module("head", nn.Linear(8 * width, classes))
    return Model(module=module)
