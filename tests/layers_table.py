"""One row for each public layer: what the tests of every layer need to know."""

import typing

import keras

from diffstride import (
    LEAF,
    PCEN,
    AvgMaxPool,
    AvgPool,
    BlurPool,
    ChangeHopSize,
    ConvAvgPool,
    DiffRes,
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    FixedSpectralPooling,
    FixedSpectralPooling1D,
    FixedSpectralPooling3D,
    LocalImportancePooling,
    LogMelSpectrogram,
    PolyphasePooling,
    SincFilterbank,
    SpaceToDepth,
    SpatialPooling,
    SpecAugment,
    SpectralResize,
    SpectralResize1D,
    SpectralResize3D,
    TimeDomainFilterbank,
    Whitening,
)
from diffstride.layers.bias import Bias
from diffstride.models.audio_tagger import AttentionPooling
from diffstride.models.residual_layer import ResidualLayer
from diffstride.models.resnet import Resnet
from diffstride.models.resnet_block import ResnetBlock

IMAGE = (12, 16, 3)
SPECTROGRAM = (20, 16)


class Row(typing.NamedTuple):
    """A layer, or a model, and its input.

    `arguments` are those of the constructor, `shape` is that of one example.
    `trains` says that the row takes part in the tests that train, which need
    the most time: it is one of the layers whose sizes or weights are special.
    """

    make: typing.Callable
    arguments: dict
    shape: tuple
    trains: bool = False

    def layer(self, **kwargs):
        return self.make(**self.arguments, **kwargs)

    def model(self, **kwargs):
        layer = self.layer(**kwargs)
        if isinstance(layer, keras.Model):
            return layer
        inputs = keras.Input(self.shape)
        return keras.Model(inputs, layer(inputs))

    @property
    def is_model(self):
        return not isinstance(self.make, type)


def _resnet(**kwargs):
    return Resnet(
        filters=4,
        strides=(1.5, 1.5),
        num_layers=1,
        num_output_classes=2,
        pooling_cls=DiffStride,
        input_shape=(16, 16, 3),
        **kwargs,
    )


STRIDES = {"strides": 1.5, "smoothness_factor": 2}
SLOT = {"filters": 4, "strides": 1.5, "pooling_cls": DiffStride}
REDUCED = {"reduction_rate": 0.5}

ROWS = {
    "DiffStride": Row(DiffStride, STRIDES, IMAGE, trains=True),
    "DiffStride static": Row(
        DiffStride, {**STRIDES, "static_sizes": True}, IMAGE, trains=True
    ),
    "DiffStride not trained": Row(
        DiffStride, {**STRIDES, "trainable": False}, IMAGE
    ),
    "DiffStride shared": Row(
        DiffStride,
        {**STRIDES, "shared_stride": True, "ramp": "inside"},
        IMAGE,
    ),
    "DiffStride aliasing": Row(
        DiffStride,
        {"strides": 1.5, "ramp": "inside", "aliasing": 0.5},
        IMAGE,
        trains=True,
    ),
    "DiffStride1D": Row(DiffStride1D, STRIDES, (24, 3)),
    "DiffStride3D": Row(DiffStride3D, STRIDES, (6, 8, 8, 2)),
    "FixedSpectralPooling": Row(FixedSpectralPooling, {"strides": 1.5}, IMAGE),
    "FixedSpectralPooling1D": Row(
        FixedSpectralPooling1D, {"strides": 1.5}, (24, 3)
    ),
    "FixedSpectralPooling3D": Row(
        FixedSpectralPooling3D, {"strides": 2}, (6, 8, 8, 2)
    ),
    "SpatialPooling": Row(SpatialPooling, {"pool_size": 2}, IMAGE),
    "BlurPool": Row(BlurPool, {"max_pool_size": 2}, IMAGE),
    "LocalImportancePooling": Row(LocalImportancePooling, {}, IMAGE),
    "SoftPool": Row(LocalImportancePooling, {"importance": "input"}, IMAGE),
    "SpaceToDepth": Row(SpaceToDepth, {"filters": 4}, IMAGE),
    "PolyphasePooling": Row(PolyphasePooling, {}, IMAGE),
    "PolyphasePooling learned": Row(
        PolyphasePooling, {"choice": "learned"}, IMAGE
    ),
    "ResidualLayer of two poolings": Row(
        ResidualLayer,
        {**SLOT, "strides": 2, "pooling_cls": SpaceToDepth, "project": True},
        IMAGE,
    ),
    "SpectralResize": Row(SpectralResize, {"factor": (1.5, 0.7)}, IMAGE),
    "SpectralResize1D": Row(SpectralResize1D, {"size": 37}, (24, 3)),
    "SpectralResize3D": Row(
        SpectralResize3D, {"factor": 1.5, "norm": "ortho"}, (6, 8, 8, 2)
    ),
    "Whitening": Row(Whitening, {"bias_steps": 3}, IMAGE),
    "Bias": Row(Bias, {"rate": 64}, IMAGE),
    "ResidualLayer": Row(
        ResidualLayer, {**SLOT, "project": True}, IMAGE, trains=True
    ),
    "ResidualLayer before": Row(
        ResidualLayer,
        {**SLOT, "project": True, "pooling_order": "before"},
        IMAGE,
        trains=True,
    ),
    "ResnetBlock": Row(ResnetBlock, {**SLOT, "num_layers": 2}, IMAGE),
    "Resnet": Row(_resnet, {}, (16, 16, 3)),
    "DiffRes": Row(DiffRes, REDUCED, SPECTROGRAM, trains=True),
    "DiffRes of features": Row(
        DiffRes,
        {
            **REDUCED,
            "log_scale": False,
            "features": "mean",
            "scorer": "dissimilarity",
            "score_threshold": 0.2,
        },
        SPECTROGRAM,
    ),
    "AvgPool": Row(AvgPool, REDUCED, SPECTROGRAM),
    "AvgMaxPool": Row(AvgMaxPool, REDUCED, SPECTROGRAM),
    "ConvAvgPool": Row(ConvAvgPool, REDUCED, SPECTROGRAM),
    "ChangeHopSize": Row(ChangeHopSize, REDUCED, SPECTROGRAM),
    "LogMelSpectrogram": Row(LogMelSpectrogram, {"num_mels": 8}, (1600,)),
    "LEAF": Row(LEAF, {"num_filters": 4}, (1600,)),
    "LEAF efficient": Row(LEAF, {"num_filters": 4, "num_groups": 2}, (1600,)),
    "SincFilterbank": Row(SincFilterbank, {"num_filters": 4}, (1600,)),
    "TimeDomainFilterbank": Row(
        TimeDomainFilterbank, {"num_filters": 4}, (1600,)
    ),
    "PCEN": Row(PCEN, {}, (20, 8)),
    "SpecAugment": Row(SpecAugment, {}, SPECTROGRAM),
    "AttentionPooling": Row(AttentionPooling, {"num_classes": 3}, (4, 5, 6)),
}
