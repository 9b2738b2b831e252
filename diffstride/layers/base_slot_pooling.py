"""What the pooling layers with integer strides share."""

from collections.abc import Sequence

import keras

from diffstride.validation import (
    check_data_format,
    check_floating_point,
    check_integers,
    is_number,
)


class BaseSlotPooling(keras.layers.Layer):
    """A layer for the pooling slot that divides sizes by integer strides.

    A size of `n` becomes `n / stride`, rounded up, whatever `n` is. A map with
    strides of 1 stays as it is, if no argument asks for something else. A
    subclass has `_pool`, or a `call` of its own.

    Attributes:
        serves_one_map: whether the layer has weights for the channels of its
            input, so that a second map needs a layer of its own (see
            `diffstride.models.pooling_slot`).
    """

    serves_one_map = False

    def __init__(
        self,
        strides: int | Sequence[int] = 2,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.strides = check_integers(strides, "strides", rank=2)
        self.data_format = check_data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        is_last = self.data_format == "channels_last"
        self._axes = (1, 2) if is_last else (2, 3)
        self._channel_axis = 3 if is_last else 1

    def _window_sizes(self, value, name):
        """Sizes for each axis; a single one is for axes with a stride."""
        sizes = check_integers(value, name, rank=2)
        if not is_number(value):
            return sizes
        return tuple(
            1 if stride == 1 else size
            for size, stride in zip(sizes, self.strides, strict=True)
        )

    def call(self, inputs):
        self._check_floating(inputs)
        return self._pool(inputs)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        for axis, stride in zip(self._axes, self.strides, strict=True):
            if shape[axis] is not None:
                shape[axis] = -(-shape[axis] // stride)
        return tuple(shape)

    def _check_floating(self, inputs):
        check_floating_point(inputs, self.name, "cast or rescale them first")

    def get_config(self):
        return {
            **super().get_config(),
            "strides": self.strides,
            "data_format": self.data_format,
        }
