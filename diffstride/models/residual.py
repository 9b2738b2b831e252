"""The residual layer and the block of such layers, under one name."""

from diffstride.models.residual_layer import ResidualLayer
from diffstride.models.resnet_block import ResnetBlock

__all__ = ["ResidualLayer", "ResnetBlock"]
