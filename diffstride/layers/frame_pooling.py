"""Ways to reduce the frames of a spectrogram that DiffRes is compared with.

Reference: Liu et al., [Learning the spectrogram temporal resolution for audio
classification](https://arxiv.org/abs/2210.01719), 2022, section 3.1.
"""

import keras
import numpy as np
from keras import ops

from diffstride.layers.frame_reduction import (
    BaseFrameReduction,
    ResConv1D,
    build_all,
)
from diffstride.ops import warping
from diffstride.validation import check_positive_integer


@keras.saving.register_keras_serializable(package="diffstride")
class ChangeHopSize(BaseFrameReduction):
    """Takes single frames at equal distances, as a larger hop would.

    If the number of frames is a multiple of the number of output frames, the
    result is the spectrogram of the larger hop. Otherwise the layer takes the
    frames nearest to it. A front end with a larger hop does the same, and does
    not compute the other frames first.

    Args:
        reduction_rate: number of 0 or more, below 1. The share of frames to do
            without.
        output_frames: integer. How many frames to leave; give this or
            `reduction_rate`.
        log_scale: boolean. If True, the input is clipped to ±80, as logarithms
            are in `DiffRes`. It has no other effect here.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`, three times the same.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> tuple(ChangeHopSize(reduction_rate=0.75)(log_mel).shape)
    (2, 25, 64, 3)
    """

    def _features(self, spectrogram, output_frames, training):
        frames = ops.shape(spectrogram)[1]
        # In 64 bits, because the product is over 2**31 from 60,000 frames on.
        # JAX has 32-bit integers only, but knows all sizes: NumPy takes them.
        if isinstance(frames, int):
            outputs = np.arange(output_frames, dtype="int64")
        else:
            frames = ops.cast(frames, "int64")
            output_frames = ops.cast(output_frames, "int64")
            outputs = ops.arange(output_frames, dtype="int64")
        nearest = (2 * frames * outputs + output_frames) // (2 * output_frames)
        nearest = ops.cast(nearest, "int32")
        return [ops.take(spectrogram, nearest, axis=1)]


@keras.saving.register_keras_serializable(package="diffstride")
class AvgPool(BaseFrameReduction):
    """Averages equal stretches of frames: DiffRes with constant scores.

    A frame between two stretches contributes to both in proportion.

    Args:
        reduction_rate: number of 0 or more, below 1. The share of frames to do
            without.
        output_frames: integer. How many frames to leave; give this or
            `reduction_rate`.
        log_scale: boolean. Whether the input is a logarithm and its averages
            are taken on the linear scale, as in `DiffRes`. Defaults to True.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`, three times the same.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> tuple(AvgPool(output_frames=30)(log_mel).shape)
    (2, 30, 64, 3)
    """

    def _features(self, spectrogram, output_frames, training):
        linear = self._to_linear(spectrogram)
        return [
            self._from_linear(pooled, linear)
            for pooled in self._pooled(linear, output_frames)
        ]

    def _pooled(self, linear, output_frames):
        return [_average(linear, output_frames)]


@keras.saving.register_keras_serializable(package="diffstride")
class AvgMaxPool(AvgPool):
    """Averages and maxima of equal stretches of frames.

    For the maximum, a frame between two stretches counts in the one in which it
    ends.

    Args:
        reduction_rate: number of 0 or more, below 1. The share of frames to do
            without.
        output_frames: integer. How many frames to leave; give this or
            `reduction_rate`.
        log_scale: boolean. Whether the input is a logarithm and its averages
            are taken on the linear scale, as in `DiffRes`. Defaults to True.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`: average, maximum, average.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> tuple(AvgMaxPool(reduction_rate=0.5)(log_mel).shape)
    (2, 50, 64, 3)
    """

    def _pooled(self, linear, output_frames):
        return [
            _average(linear, output_frames),
            _maximum(linear, output_frames),
        ]


@keras.saving.register_keras_serializable(package="diffstride")
class ConvAvgPool(BaseFrameReduction):
    """Three residual convolutional blocks before average pooling.

    It has 493,824 trainable parameters at 128 mel channels.

    Args:
        reduction_rate: number of 0 or more, below 1. The share of frames to do
            without.
        output_frames: integer. How many frames to leave; give this or
            `reduction_rate`.
        log_scale: boolean. If True, the input is clipped to ±80, as logarithms
            are in `DiffRes`. It has no other effect here.
        kernel_size: integer. Frames that each of the six convolutions sees.
            Defaults to 5.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`, three times the same.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> tuple(ConvAvgPool(reduction_rate=0.75)(log_mel).shape)
    (2, 25, 64, 3)
    """

    def __init__(
        self,
        reduction_rate: float | None = None,
        output_frames: int | None = None,
        log_scale: bool = True,
        kernel_size: int = 5,
        **kwargs,
    ):
        super().__init__(reduction_rate, output_frames, log_scale, **kwargs)
        self.kernel_size = check_positive_integer(kernel_size, "kernel_size")

    def build(self, input_shape):
        super().build(input_shape)
        mels = input_shape[2]
        self._network = [
            ResConv1D(mels, self.kernel_size, dtype=self.dtype_policy)
            for _ in range(3)
        ]
        build_all(self._network, tuple(input_shape[:3]))

    def _features(self, spectrogram, output_frames, training):
        x = spectrogram
        for block in self._network:
            x = block(x, training=training)
        return [_average(ops.cast(x, "float32"), output_frames)]

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}


def all_frames(
    reduction_rate: float | None = None,
    output_frames: int | None = None,
    name: str | None = None,
) -> keras.layers.Layer:
    """A layer that leaves a spectrogram as it is, whatever it is told.

    It stands where another one reduces the frames, so that a configuration
    with a rate can do without a reduction by one name.

    Args:
        reduction_rate: not used.
        output_frames: not used.
        name: string. Name of the layer.

    Example:

    >>> all_frames(reduction_rate=0.75)(np.ones((2, 100, 64, 1))).shape[1]
    100
    """
    del reduction_rate, output_frames
    return keras.layers.Identity(name=name)


def _average(features, output_frames):
    windows = _windows(features, output_frames)
    if windows is not None:
        return ops.mean(windows, axis=2)
    warp = _constant_warp(features, output_frames)
    return warping.weighted_mean(features, warp, output_frames)


def _maximum(features, output_frames):
    windows = _windows(features, output_frames)
    if windows is not None:
        if windows.shape[0] == 0:
            # On torch, the maximum of nothing has another shape.
            return windows[:, :, 0]
        return ops.max(windows, axis=2, initial=-np.inf)
    warp = _constant_warp(features, output_frames, split=False)
    return warping.row_maxima(features, warp.rows, output_frames)


def _windows(features, output_frames):
    """Frames as (batch, output frames, window, mel), or None if the number of
    frames is unknown or no multiple of `output_frames`."""
    batch, frames, mels = ops.shape(features)
    sizes = (frames, output_frames)
    if not all(isinstance(size, int) for size in sizes) or (
        frames % output_frames
    ):
        return None
    window = frames // output_frames
    return ops.reshape(features, (batch, output_frames, window, mels))


def _constant_warp(features, output_frames, split=True):
    scores = ops.ones_like(features[..., 0])
    scores = scores * warping.rate(scores, output_frames)
    return warping.warp(scores, output_frames, split=split)
