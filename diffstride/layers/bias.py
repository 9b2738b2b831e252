"""A bias with a learning rate of its own."""

import keras
from keras import ops

from diffstride.validation import check_data_format, check_positive


@keras.saving.register_keras_serializable(package="diffstride")
class Bias(keras.layers.Layer):
    """Adds a bias to each channel, which learns at a rate of its own.

    With a learning rate that suits the kernels, the biases of normalized maps
    hardly move in a short training. The weight of this layer is the bias
    divided by the root of `rate`. A step of gradient descent then moves the
    bias `rate` times as far, under any optimizer that does not rescale
    gradients (SGD with or without momentum; Adam and its relatives move it by
    the root of `rate`).

    Args:
        rate: positive number. Factor of the learning rate. Defaults to 1.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Input shape:
        Any, with the channels last or, with `"channels_first"`, first.

    Output shape:
        That of the input.

    Example:

    >>> layer = Bias(rate=64)
    >>> tuple(layer(np.zeros((2, 8, 8, 3))).shape)
    (2, 8, 8, 3)
    """

    def __init__(
        self, rate: float = 1.0, *, data_format: str | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        check_positive(rate=rate)
        self.rate = float(rate)
        self.data_format = check_data_format(data_format)

    def build(self, input_shape):
        axis = 1 if self.data_format == "channels_first" else -1
        self.bias = self.add_weight(
            name="bias", shape=(input_shape[axis],), initializer="zeros"
        )

    def call(self, inputs):
        bias = ops.convert_to_tensor(self.bias) * self.rate**0.5
        if self.data_format == "channels_first":
            bias = ops.reshape(bias, (-1, *[1] * (len(inputs.shape) - 2)))
        return inputs + bias

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "data_format": self.data_format,
        }
