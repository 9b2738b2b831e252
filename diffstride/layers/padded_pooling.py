"""Max and average pooling with padding that does not count."""

import functools
import math
from collections.abc import Sequence

import keras
from keras import ops

from diffstride.validation import (
    check_choice,
    check_data_format,
    check_integers,
)

register = keras.saving.register_keras_serializable(package="diffstride")


class BasePaddedPooling(keras.layers.Layer):
    """Max or average pooling of `rank` axes with any padding around them."""

    rank = None

    def __init__(
        self,
        pool_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Sequence[Sequence[int]] | None = None,
        pool_mode: str = "average",
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pool_size = check_integers(pool_size, "pool_size", self.rank)
        self.strides = check_integers(strides, "strides", self.rank)
        self.padding = tuple(map(tuple, padding or [(0, 0)] * self.rank))
        if [len(pair) for pair in self.padding] != [2] * self.rank or any(
            points < 0 for pair in self.padding for points in pair
        ):
            raise ValueError(
                "`padding` must be a pair for each axis, points before and "
                "after it, each of 0 or more: `((top, bottom), (left, right))` "
                f"for two axes. Received: padding={padding}"
            )
        self.pool_mode = check_choice(
            pool_mode, "pool_mode", ("average", "max")
        )
        self.data_format = check_data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)
        first = 1 if self.data_format == "channels_last" else 2
        self._axes = tuple(range(first, first + self.rank))

    def call(self, inputs):
        outside = self._pad_width(outside=True)
        if not any(map(any, outside)):
            return self._pool(inputs, self.strides)
        # Windows beside the map repeat those that still touch it.
        outputs = ops.pad(self._pool(inputs, 1), outside, "symmetric")
        steps = [slice(None)] * (self.rank + 2)
        for axis, stride in zip(self._axes, self.strides, strict=True):
            steps[axis] = slice(None, None, stride)
        return outputs[tuple(steps)]

    def _pool(self, inputs, strides):
        """The values of all windows that touch the map."""
        pool = functools.partial(
            ops.max_pool if self.pool_mode == "max" else ops.average_pool,
            pool_size=self.pool_size,
            strides=strides,
            padding="valid",
            data_format=self.data_format,
        )
        pad_width = self._pad_width(outside=False)
        if self.pool_mode == "max":
            return pool(ops.pad(inputs, pad_width, constant_values=-math.inf))
        # The share of each window that lies on the map.
        share = pool(ops.pad(ops.ones_like(inputs[:1]), pad_width))
        return pool(ops.pad(inputs, pad_width)) / share

    def _pad_width(self, outside):
        """Padding of all axes: what windows can take, or what is outside."""
        pad_width = [(0, 0)] * (self.rank + 2)
        for axis, pair, size in zip(
            self._axes, self.padding, self.pool_size, strict=True
        ):
            taken = [min(points, size - 1) for points in pair]
            if outside:
                taken = [a - b for a, b in zip(pair, taken, strict=True)]
            pad_width[axis] = tuple(taken)
        return pad_width

    def compute_output_shape(self, input_shape):
        output_shape = list(input_shape)
        for axis, pair, size, stride in zip(
            self._axes, self.padding, self.pool_size, self.strides, strict=True
        ):
            if input_shape[axis] is not None:
                starts = input_shape[axis] + sum(pair) - size
                output_shape[axis] = starts // stride + 1
        return tuple(output_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "pool_mode": self.pool_mode,
            "data_format": self.data_format,
        }


@register
class PaddedPooling2D(BasePaddedPooling):
    """Max or average pooling of a map with any padding around it.

    `padding="same"` of a Keras layer chooses the padding by size and strides.
    Here it is an argument, so that the windows start where they are told to.
    As in a Keras layer, the padding is never the maximum, and an average is
    over the points of the map alone. If there is more padding than a window
    takes, the rest of it mirrors the border of the map.

    `PaddedPooling1D` and `PaddedPooling3D` do the same for signals and volumes.

    `diffstride.learn_strides` makes this layer where a pooling without strides
    must see the windows of one with strides.

    Args:
        pool_size: integer, or tuple of two. Size of the window.
        strides: integer, or tuple of two. Steps of the window.
        padding: two tuples of two, points before and after the map: `((top,
            bottom), (left, right))`. Defaults to none.
        pool_mode: `"average"` or `"max"`.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`.

    Output shape:
        That of the input, with one point for each window.

    Example:

    >>> layer = PaddedPooling2D(3, padding=((0, 2), (0, 2)), pool_mode="max")
    >>> tuple(layer(np.zeros((1, 16, 12, 3))).shape)
    (1, 16, 12, 3)
    """

    rank = 2


@register
class PaddedPooling1D(BasePaddedPooling):
    """`PaddedPooling2D` for signals `(batch, steps, channels)`.

    Example:

    >>> layer = PaddedPooling1D(3, padding=[(0, 2)], pool_mode="max")
    >>> tuple(layer(np.zeros((1, 16, 3))).shape)
    (1, 16, 3)
    """

    rank = 1


@register
class PaddedPooling3D(BasePaddedPooling):
    """`PaddedPooling2D` for volumes `(batch, depth, height, width, channels)`.

    Example:

    >>> layer = PaddedPooling3D(2, padding=[(0, 0), (0, 1), (0, 1)])
    >>> tuple(layer(np.zeros((1, 8, 8, 8, 3))).shape)
    (1, 7, 8, 8, 3)
    """

    rank = 3
