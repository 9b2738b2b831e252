"""Ways to reduce the frames of a spectrogram that DiffRes is compared with.

Reference: Liu et al., [Learning the spectrogram temporal resolution for audio
classification](https://arxiv.org/abs/2210.01719), 2022, section 3.1.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from diffstride.layers.frame_reduction import BaseFrameReduction
from diffstride.layers.res_conv import ResConv1D, build_all
from diffstride.ops import frame_scores, warping
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
        seed: integer or None. Seed of what is drawn from a range, as in
            `DiffRes`.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`, three times the same.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> tuple(ChangeHopSize(reduction_rate=0.75)(log_mel).shape)
    (2, 25, 64, 3)
    """

    def _features(self, clips, training):
        if clips.mask is None:
            nearest = self._nearest(clips)
            return [ops.take(clips.spectrogram, nearest, axis=1)]
        # The frames of a clip come first, then the padding. Divide before the
        # product, which could exceed 32 bits.
        counts = ops.sum(ops.cast(clips.mask, "int32"), axis=1)[:, None]
        used = ops.maximum(clips.used, 1)[:, None]
        outputs = ops.arange(clips.output_frames, dtype="int32")
        nearest = (2 * (counts % used) * outputs + used) // (2 * used)
        nearest = nearest + counts // used * outputs
        last = ops.shape(clips.spectrogram)[1] - 1
        nearest = ops.minimum(nearest, last)[..., None]
        return [ops.take_along_axis(clips.spectrogram, nearest, axis=1)]

    def _nearest(self, clips):
        """The frames to take where there is no padding."""
        frames = ops.shape(clips.spectrogram)[1]
        output_frames = clips.output_frames
        # In 64 bits, because the product is over 2**31 from 60,000 frames on.
        # JAX has 32-bit integers only, but knows all sizes: NumPy takes them.
        if isinstance(frames, int):
            outputs = np.arange(output_frames, dtype="int64")
        else:
            frames = ops.cast(frames, "int64")
            output_frames = ops.cast(output_frames, "int64")
            outputs = ops.arange(output_frames, dtype="int64")
        nearest = (2 * frames * outputs + output_frames) // (2 * output_frames)
        return ops.cast(nearest, "int32")


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
        seed: integer or None. Seed of what is drawn from a range, as in
            `DiffRes`.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`, three times the same.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> tuple(AvgPool(output_frames=30)(log_mel).shape)
    (2, 30, 64, 3)
    """

    def _features(self, clips, training):
        linear = self._to_linear(clips.spectrogram)
        return [
            self._from_linear(pooled, linear, clips.mask)
            for pooled in self._pooled(linear, clips)
        ]

    def _pooled(self, linear, clips):
        return [_average(linear, clips)]


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
        seed: integer or None. Seed of what is drawn from a range, as in
            `DiffRes`.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`: average, maximum, average.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> tuple(AvgMaxPool(reduction_rate=0.5)(log_mel).shape)
    (2, 50, 64, 3)
    """

    def _pooled(self, linear, clips):
        return [_average(linear, clips), _maximum(linear, clips)]


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
        seed: integer or None. Seed of what is drawn from a range, as in
            `DiffRes`.

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
        reduction_rate: float | Sequence[float] | None = None,
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

    def _features(self, clips, training):
        x = clips.spectrogram
        for block in self._network:
            x = block(x, training=training, mask=clips.mask)
        return [_average(ops.cast(x, "float32"), clips)]

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}


def all_frames(
    reduction_rate: float | Sequence[float] | None = None,
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


def _average(features, clips):
    windows = _windows(features, clips)
    if windows is not None:
        return ops.mean(windows, axis=2)
    warp = _constant_warp(clips)
    return warping.weighted_mean(features, warp, clips.output_frames)


def _maximum(features, clips):
    windows = _windows(features, clips)
    if windows is not None:
        if windows.shape[0] == 0:
            # On torch, the maximum of nothing has another shape.
            return windows[:, :, 0]
        return ops.max(windows, axis=2, initial=-np.inf)
    warp = _constant_warp(clips, split=False)
    if clips.mask is not None:
        features = ops.where(clips.mask[..., None], features, -np.inf)
    return warping.row_maxima(features, warp.rows, clips.output_frames)


def _windows(features, clips):
    """Frames as (batch, output frames, window, mel), or None if the number of
    frames is unknown or no multiple of the output frames, or there is a mask.
    """
    batch, frames, mels = ops.shape(features)
    output_frames = clips.output_frames
    sizes = (frames, output_frames)
    if clips.mask is not None or not (
        all(isinstance(size, int) for size in sizes)
        and frames % output_frames == 0
    ):
        return None
    window = frames // output_frames
    return ops.reshape(features, (batch, output_frames, window, mels))


def _constant_warp(clips, split=True):
    """The warp of clips whose frames all have the same score."""
    scores = ops.ones_like(clips.spectrogram[..., 0])
    rate = frame_scores.for_each_clip(clips.rate(scores), scores.dtype)
    scores = scores * rate
    if clips.mask is not None:
        scores = ops.where(clips.mask, scores, 0.0)
    return warping.warp(scores, clips.counts, split=split)
