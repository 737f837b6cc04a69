"""Classifiers of MONAI for pictures and volumes, with random weights.

model = "monai"
model-network = "densenet121"           # or efficientnet-b0, resnet18
"""

from __future__ import annotations

from typing import Final

from monai.networks import nets

from silo_agent.models.description import Model

NETWORKS: Final = ("densenet121", "efficientnet-b0", "resnet18")


def monai(shape: tuple[int, ...], classes: int, *, network: str) -> Model:
    """``shape``: (channels, *sides), two sides or three."""
    if len(shape) not in (3, 4):
        raise ValueError(f"rows of shape {shape}: channels and two or three sides are wanted")
    channels, sides = shape[0], len(shape) - 1
    match network:
        case "densenet121":
            module = nets.DenseNet121(spatial_dims=sides, in_channels=channels, out_channels=classes)
        case "efficientnet-b0":
            module = nets.EfficientNetBN(
                network, pretrained=False, spatial_dims=sides, in_channels=channels, num_classes=classes
            )
        case "resnet18":
            module = nets.resnet18(spatial_dims=sides, n_input_channels=channels, num_classes=classes)
        case _:
            raise ValueError(f"network {network!r}: one of {', '.join(NETWORKS)} is wanted")
    return Model(module=module)
