"""Networks of MONAI for pictures and volumes, with random weights: classifiers, and two for segmentation.

model = "monai"
model-network = "densenet121"           # or efficientnet-b0, resnet18; for masks unet, segresnet
"""

from __future__ import annotations

from typing import Final

from monai.networks import nets

from silo_agent.models.description import Model

NETWORKS: Final = ("densenet121", "efficientnet-b0", "resnet18", "unet", "segresnet")


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
        case "unet":
            module = nets.UNet(
                spatial_dims=sides,
                in_channels=channels,
                out_channels=classes,
                channels=(16, 32, 64, 128),
                strides=(2, 2, 2),
                num_res_units=1,
                norm=("group", {"num_groups": 4}),
            )
            return Model(module=module, task="segmentation")
        case "segresnet":
            module = nets.SegResNet(spatial_dims=sides, in_channels=channels, out_channels=classes)
            return Model(module=module, task="segmentation")
        case _:
            raise ValueError(f"network {network!r}: one of {', '.join(NETWORKS)} is wanted")
    return Model(module=module)
