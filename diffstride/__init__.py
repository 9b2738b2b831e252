"""Learned strides and learned temporal resolution for Keras."""

from diffstride.conversion import learn_strides, to_integer_strides
from diffstride.freezing import freeze
from diffstride.pooling import (
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    FixedSpectralPooling,
    FixedSpectralPooling1D,
    FixedSpectralPooling3D,
    SpatialPooling,
    StrideConstraint,
)

__version__ = "0.1.0"

__all__ = [
    "DiffStride",
    "DiffStride1D",
    "DiffStride3D",
    "FixedSpectralPooling",
    "FixedSpectralPooling1D",
    "FixedSpectralPooling3D",
    "SpatialPooling",
    "StrideConstraint",
    "freeze",
    "learn_strides",
    "to_integer_strides",
]
