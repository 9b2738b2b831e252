"""Pooling that drops nothing: points become channels, which are mixed."""

from collections.abc import Sequence

import keras

from diffstride.layers.base_slot_pooling import BaseSlotPooling
from diffstride.validation import check_positive_integer


@keras.saving.register_keras_serializable(package="diffstride")
class SpaceToDepth(BaseSlotPooling):
    """SPD: moves the points of each window to channels, then convolves by 1x1.

    Windows are as large as the strides, so that every point of the input
    reaches the convolution. Both steps together are a convolution whose kernel
    is as large as its strides, and this is how they are computed. The
    convolution has no bias: a normalization should follow. With strides of 1,
    and without `filters`, a map stays as it is.

    Args:
        strides: integer, or tuple of two. Downsampling factor of each axis.
            Defaults to 2.
        filters: integer or None. Number of output channels. Defaults to that of
            the input.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`. A size that
        is no multiple of the stride is filled up with zeros, half of them at
        each end, an odd one at the last.

    Output shape:
        That of the input, with height and width divided by the strides, rounded
        up, and `filters` channels.

    Example:

    >>> layer = SpaceToDepth(strides=2)
    >>> tuple(layer(np.zeros((1, 8, 7, 3))).shape)
    (1, 4, 4, 3)
    >>> layer.count_params()  # Four points of three channels, to three.
    36

    Reference:
        Sunkara and Luo, [No more strided convolutions or pooling](
        https://arxiv.org/abs/2208.03641), ECML PKDD 2022.
    """

    def __init__(
        self,
        strides: int | Sequence[int] = 2,
        filters: int | None = None,
        *,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(strides, data_format, **kwargs)
        if filters is not None:
            filters = check_positive_integer(filters, "filters")
        self.filters = filters
        self.serves_one_map = self.strides != (1, 1) or filters is not None

    def build(self, input_shape):
        if not self.serves_one_map:
            return
        self.convolution = keras.layers.Conv2D(
            self.filters or input_shape[self._channel_axis],
            self.strides,
            self.strides,
            padding="same",
            use_bias=False,
            data_format=self.data_format,
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.convolution.build(input_shape)

    def _pool(self, inputs):
        return self.convolution(inputs) if self.serves_one_map else inputs

    def compute_output_shape(self, input_shape):
        shape = list(super().compute_output_shape(input_shape))
        if self.filters is not None:
            shape[self._channel_axis] = self.filters
        return tuple(shape)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}
