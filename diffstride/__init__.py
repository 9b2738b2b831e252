"""Learned strides and learned temporal resolution for Keras."""

# A saved model loads where all that it may hold has been imported.
from diffstride import (  # noqa: F401
    audio_cnn,
    audio_tagger,
    objectives,
    residual,
    schedules,
)
from diffstride.average_precision import MeanAveragePrecision
from diffstride.conversion import learn_strides, to_integer_strides
from diffstride.diffres import DiffRes
from diffstride.frame_pooling import (
    AvgMaxPool,
    AvgPool,
    ChangeHopSize,
    ConvAvgPool,
)
from diffstride.freezing import freeze
from diffstride.frontend import LogMelSpectrogram
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
from diffstride.spec_augment import SpecAugment

__version__ = "0.1.0"

__all__ = [
    "AvgMaxPool",
    "AvgPool",
    "ChangeHopSize",
    "ConvAvgPool",
    "DiffRes",
    "DiffStride",
    "DiffStride1D",
    "DiffStride3D",
    "FixedSpectralPooling",
    "FixedSpectralPooling1D",
    "FixedSpectralPooling3D",
    "LogMelSpectrogram",
    "MeanAveragePrecision",
    "SpatialPooling",
    "SpecAugment",
    "StrideConstraint",
    "freeze",
    "learn_strides",
    "to_integer_strides",
]
