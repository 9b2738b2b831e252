"""Learned strides and learned temporal resolution for Keras."""

import warnings

import keras

# A saved model loads where all that it may hold has been imported.
from diffstride.analysis import stride_checks  # noqa: F401
from diffstride.analysis.resolution import summary
from diffstride.layers.blur_pool import BlurPool
from diffstride.layers.diffres import DiffRes
from diffstride.layers.frame_pooling import (
    AvgMaxPool,
    AvgPool,
    ChangeHopSize,
    ConvAvgPool,
)
from diffstride.layers.leaf import LEAF
from diffstride.layers.local_importance_pooling import LocalImportancePooling
from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.layers.pcen import PCEN
from diffstride.layers.polyphase import PolyphasePooling
from diffstride.layers.pooling import (
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    FixedSpectralPooling,
    FixedSpectralPooling1D,
    FixedSpectralPooling3D,
    SpatialPooling,
    StrideConstraint,
)
from diffstride.layers.resize import (
    SpectralResize,
    SpectralResize1D,
    SpectralResize3D,
)
from diffstride.layers.restore_frames import RestoreFrames
from diffstride.layers.sinc_filterbank import SincFilterbank
from diffstride.layers.space_to_depth import SpaceToDepth
from diffstride.layers.spec_augment import SpecAugment
from diffstride.layers.time_domain_filterbank import TimeDomainFilterbank
from diffstride.layers.whitening import Whitening
from diffstride.models import (  # noqa: F401
    audio_cnn,
    audio_tagger,
    fast_cnn,
    residual,
)
from diffstride.surgery.conversion_summary import conversion_summary
from diffstride.surgery.freeze import freeze
from diffstride.surgery.learn_strides import learn_strides
from diffstride.surgery.recalibrate import recalibrate
from diffstride.surgery.to_integer_strides import to_integer_strides
from diffstride.training import (  # noqa: F401
    losses_and_metrics,
    schedules,
)
from diffstride.training.average_precision import MeanAveragePrecision
from diffstride.training.draw_reduction_rate import DrawReductionRate
from diffstride.training.fade_aliasing import FadeAliasing
from diffstride.training.macs_budget import MacsBudget
from diffstride.training.refresh_sizes import RefreshSizes
from diffstride.training.stride_history import StrideHistory
from diffstride.training.stride_rate import set_stride_rate, set_weight_rates

__version__ = "0.1.0"

_KERAS_MAJOR = 3
if int(keras.version().split(".")[0]) > _KERAS_MAJOR:
    warnings.warn(
        f"diffstride {__version__} was tested with Keras {_KERAS_MAJOR}. "
        f"Installed: Keras {keras.version()}. It may work, and it may not.",
        stacklevel=2,
    )

__all__ = [
    "LEAF",
    "PCEN",
    "AvgMaxPool",
    "AvgPool",
    "BlurPool",
    "ChangeHopSize",
    "ConvAvgPool",
    "DiffRes",
    "DiffStride",
    "DiffStride1D",
    "DiffStride3D",
    "DrawReductionRate",
    "FadeAliasing",
    "FixedSpectralPooling",
    "FixedSpectralPooling1D",
    "FixedSpectralPooling3D",
    "LocalImportancePooling",
    "LogMelSpectrogram",
    "MacsBudget",
    "MeanAveragePrecision",
    "PolyphasePooling",
    "RefreshSizes",
    "RestoreFrames",
    "SincFilterbank",
    "SpaceToDepth",
    "SpatialPooling",
    "SpecAugment",
    "SpectralResize",
    "SpectralResize1D",
    "SpectralResize3D",
    "StrideConstraint",
    "StrideHistory",
    "TimeDomainFilterbank",
    "Whitening",
    "conversion_summary",
    "freeze",
    "learn_strides",
    "recalibrate",
    "set_stride_rate",
    "set_weight_rates",
    "summary",
    "to_integer_strides",
]
