"""The residual convolutions over time of which DiffRes' networks consist."""

import keras
from keras import ops

from diffstride.validation import check_positive_integer


@keras.saving.register_keras_serializable(package="diffstride")
class ResConv1D(keras.layers.Layer):
    """Two convolutions over time, the second one residual (Figure 3).

    Each is followed by a leaky rectifier and batch normalization, with the
    settings of the released PyTorch code. With a mask, the convolutions see
    zeros in the place of padding, as at the end of a clip, and the statistics
    of a batch are those of the other frames.

    Args:
        filters: integer. Number of output channels.
        kernel_size: integer. Frames that a convolution sees. Defaults to 5.

    Input shape:
        `(batch, time, channels)`

    Output shape:
        `(batch, time, filters)`

    Example:

    >>> x = np.ones((2, 50, 16), "float32")
    >>> tuple(ResConv1D(8)(x).shape)
    (2, 50, 8)
    """

    def __init__(self, filters: int, kernel_size: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.filters = check_positive_integer(filters, "filters")
        self.kernel_size = check_positive_integer(kernel_size, "kernel_size")
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.supports_masking = True
        self._convolutions = [
            keras.layers.Conv1D(
                self.filters,
                self.kernel_size,
                padding="same",
                dtype=self.dtype_policy,
            )
            for _ in range(2)
        ]
        self._normalizations = [
            keras.layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy
            )
            for _ in range(2)
        ]

    def build(self, input_shape):
        hidden_shape = self.compute_output_shape(input_shape)
        shapes = (input_shape, hidden_shape)
        for convolution, shape in zip(self._convolutions, shapes, strict=True):
            convolution.build(shape)
        for normalization in self._normalizations:
            normalization.build(hidden_shape)

    def call(self, inputs, training=None, mask=None):
        hidden = self._half(0, inputs, training, mask)
        return hidden + self._half(1, hidden, training, mask)

    def _half(self, index, inputs, training, mask):
        if mask is not None:
            inputs = ops.where(mask[..., None], inputs, 0)
        x = self._convolutions[index](inputs)
        x = ops.leaky_relu(x, negative_slope=0.01)
        normalization = self._normalizations[index]
        if mask is None or not training or not normalization.trainable:
            return normalization(x, training=training)
        return masked_batch_normalization(normalization, x, mask)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
        }


def build_all(layers, input_shape):
    """Builds layers that follow one another."""
    for layer in layers:
        layer.build(input_shape)
        input_shape = layer.compute_output_shape(input_shape)


def masked_batch_normalization(normalization, inputs, mask):
    """A step of training of a batch normalization, without padding.

    Keras's own layer takes a mask too, but fails for a single channel.

    Args:
        normalization: a `BatchNormalization` of the last axis.
        inputs: (batch, time, channels).
        mask: booleans (batch, time).
    """
    x = ops.cast(inputs, "float32")
    valid = ops.cast(mask, "float32")[..., None]
    count = ops.maximum(ops.sum(valid), 1.0)
    mean = ops.sum(x * valid, axis=(0, 1)) / count
    variance = ops.sum(ops.square(x - mean) * valid, axis=(0, 1)) / count
    kept = normalization.momentum
    for moving, value in [
        (normalization.moving_mean, mean),
        (normalization.moving_variance, variance),
    ]:
        moving.assign(moving * kept + value * (1.0 - kept))
    outputs = ops.batch_normalization(
        x,
        mean,
        variance,
        axis=-1,
        offset=ops.cast(normalization.beta, "float32"),
        scale=ops.cast(normalization.gamma, "float32"),
        epsilon=normalization.epsilon,
    )
    return ops.cast(outputs, inputs.dtype)
