"""The import path of the 2022 release. The models are in `models.resnet`."""

from diffstride.models.resnet import (
    ResidualLayer,
    Resnet,
    ResnetBlock,
    resnet18,
    resnet56,
)

__all__ = ["ResidualLayer", "Resnet", "ResnetBlock", "resnet18", "resnet56"]
