"""Pooling behind a small low-pass filter, so that less aliases."""

from collections.abc import Sequence

import keras
from keras import ops

from diffstride.layers.base_slot_pooling import BaseSlotPooling
from diffstride.ops.borders import extend

_LARGEST_FILTER = 7


@keras.saving.register_keras_serializable(package="diffstride")
class BlurPool(BaseSlotPooling):
    """Anti-aliased pooling: a blur, of which every `strides`-th point is kept.

    The filter is binomial, such as `[1, 2, 1] / 4` for a `filter_size` of 3,
    along both axes. Around the map, the filter sees the map mirrored at its
    border. Much less aliases than if points are dropped without a filter; what
    `FixedSpectralPooling` does instead lets nothing alias.

    With `max_pool_size` the layer first takes the maximum of each window, in
    steps of one point. This is max pooling in which the blur takes the place of
    the stride ("MaxBlurPool").

    The layer has no weights. An axis with a stride of 1 stays as it is, unless
    a tuple of sizes asks for something else.

    Args:
        strides: integer, or tuple of two. Downsampling factor of each axis.
            Defaults to 2.
        filter_size: integer from 1 to 7, or tuple of two. Points of the filter
            along each axis. 1 is no filter. A single integer is for the axes
            that have a stride above 1. Filters of even size move the map by
            half a point. Defaults to 3.
        max_pool_size: as `filter_size`, or None for the `strides`. Size of the
            windows whose maximum is blurred. Defaults to 1, without maximum.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`. Any size
        will do, also one smaller than the filter.

    Output shape:
        That of the input, with height and width divided by the strides, rounded
        up.

    Example:

    >>> x = np.array([0.0, 0.0, 4.0, 0.0]).reshape((1, 1, 4, 1))
    >>> blurred = BlurPool(strides=(1, 2))(x)
    >>> keras.ops.convert_to_numpy(blurred).ravel().tolist()
    [0.0, 2.0]

    Reference:
        Zhang, [Making convolutional networks shift-invariant again](
        https://arxiv.org/abs/1904.11486), ICML 2019, section 3.
    """

    def __init__(
        self,
        strides: int | Sequence[int] = 2,
        filter_size: int | Sequence[int] = 3,
        max_pool_size: int | Sequence[int] | None = 1,
        *,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(strides, data_format, **kwargs)
        self.filter_size = self._window_sizes(filter_size, "filter_size")
        if max(self.filter_size) > _LARGEST_FILTER:
            raise ValueError(
                f"`filter_size` must be at most {_LARGEST_FILTER}. "
                f"Received: filter_size={filter_size}"
            )
        self.max_pool_size = self._window_sizes(
            self.strides if max_pool_size is None else max_pool_size,
            "max_pool_size",
        )

    def _pool(self, inputs):
        x = inputs
        if max(self.max_pool_size) > 1:
            x = ops.max_pool(x, self.max_pool_size, 1, "same", self.data_format)
        for axis, size in zip(self._axes, self.filter_size, strict=True):
            x = extend(x, axis, (size - 1) // 2, size // 2, "reflect")
        return self._blur(x)

    def _blur(self, x):
        """Filters and drops points, in a row of averages of two points.

        The averages make a binomial filter: each of them adds one point to it.
        Several of them take less time than one depthwise convolution.
        """
        passes = max(self.filter_size) - 1
        for index in range(passes, 0, -1):
            x = ops.average_pool(
                x,
                tuple(2 if size > index else 1 for size in self.filter_size),
                self.strides if index == 1 else 1,
                "valid",
                self.data_format,
            )
        if not passes:
            x = ops.average_pool(x, 1, self.strides, "valid", self.data_format)
        return x

    def get_config(self):
        return {
            **super().get_config(),
            "filter_size": self.filter_size,
            "max_pool_size": self.max_pool_size,
        }
