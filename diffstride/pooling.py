"""The import path of the 2022 release. The layers are in `layers.pooling`."""

from diffstride.layers.pooling import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
    StrideConstraint,
)

__all__ = [
    "DiffStride",
    "FixedSpectralPooling",
    "SpatialPooling",
    "StrideConstraint",
]
