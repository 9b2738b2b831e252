"""Averages whose weights say which points of a window matter."""

from collections.abc import Sequence

import keras
from keras import ops

from diffstride.layers.base_slot_pooling import BaseSlotPooling
from diffstride.validation import check_choice

# The largest logarithm of a learned weight. The smallest one is 0.
_LARGEST_LOGIT = 12.0
# Smaller logarithms count as this one, because the square of its exp(), which
# the gradient divides by, is about the smallest number that float32 can hold.
_SMALLEST_LOGIT = -40.0


@keras.saving.register_keras_serializable(package="diffstride")
class LocalImportancePooling(BaseSlotPooling):
    """LIP: the average of each window, by weights that depend on the input.

    A point of a channel weighs `exp(logit)`. With `importance="learned"`, the
    logits are made by a 3x3 convolution, an instance normalization and a
    sigmoid, times 12, as in the "simplified LIP" of the paper. At first all
    weights are equal, and the layer is average pooling. With
    `importance="input"`, the logits are the input itself. This is SoftPool: a
    layer without weights, between average and max pooling.

    The weights of windows that are more than `exp(40)` times smaller than the
    largest weight of the same channel are taken for equal, because float32
    could not tell them apart.

    Args:
        strides: integer, or tuple of two. Downsampling factor of each axis.
            Defaults to 2.
        pool_size: integer, tuple of two, or None for the `strides`. Size of the
            window. A single integer is for the axes that have a stride above 1.
            LIP was published with 3 for strides of 2, SoftPool with 2. Defaults
            to None.
        importance: `"learned"` or `"input"`.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`. Of a window
        that is partly outside of the map, the points inside count.

    Output shape:
        That of the input, with height and width divided by the strides, rounded
        up.

    Example:

    >>> x = np.array([0.0, 1.0, 5.0, 5.0]).reshape((1, 1, 4, 1))
    >>> layer = LocalImportancePooling((1, 2), importance="input")
    >>> [round(float(each), 2) for each in keras.ops.ravel(layer(x))]
    [0.73, 5.0]

    References:
        - Gao et al., [LIP: local importance-based pooling](
          https://arxiv.org/abs/1908.04156), ICCV 2019.
        - Stergiou et al., [Refining activation downsampling with SoftPool](
          https://arxiv.org/abs/2101.00440), ICCV 2021.
    """

    def __init__(
        self,
        strides: int | Sequence[int] = 2,
        pool_size: int | Sequence[int] | None = None,
        importance: str = "learned",
        *,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(strides, data_format, **kwargs)
        self.pool_size = self._window_sizes(
            self.strides if pool_size is None else pool_size, "pool_size"
        )
        self.importance = check_choice(
            importance, "importance", ("learned", "input")
        )
        # A window of one point has its value, whatever its weight is.
        has_windows = max(self.pool_size) > 1
        self.serves_one_map = importance == "learned" and has_windows

    def build(self, input_shape):
        if not self.serves_one_map:
            return
        self.convolution = keras.layers.Conv2D(
            input_shape[self._channel_axis],
            3,
            padding="same",
            use_bias=False,
            kernel_initializer="zeros",
            data_format=self.data_format,
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.normalization = keras.layers.GroupNormalization(
            groups=-1,  # One for each channel.
            axis=self._channel_axis,
            dtype=self.dtype_policy,
            name="normalization",
        )
        self.convolution.build(input_shape)
        self.normalization.build(input_shape)

    def _pool(self, inputs):
        if max(self.pool_size) == 1:
            return self._average(inputs)
        # Products with such weights are beyond what float16 can hold.
        x = ops.cast(inputs, "float32")
        weights = self._weights(inputs)
        total = self._average(weights)
        return ops.cast(self._average(x * weights) / total, inputs.dtype)

    def _weights(self, inputs):
        logits = inputs
        if self.importance == "learned":
            logits = self.normalization(self.convolution(inputs))
            logits = _LARGEST_LOGIT * ops.sigmoid(logits)
        logits = ops.cast(logits, "float32")
        # The largest logit cancels out. Without it exp() would overflow.
        largest = ops.max(logits, axis=self._axes, keepdims=True)
        logits = logits - ops.stop_gradient(largest)
        return ops.exp(ops.maximum(logits, _SMALLEST_LOGIT))

    def _average(self, x):
        return ops.average_pool(
            x, self.pool_size, self.strides, "same", self.data_format
        )

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "importance": self.importance,
        }
