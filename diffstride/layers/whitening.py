"""A first convolution that is computed from images, not learned."""

import typing

import keras
import numpy as np
from keras import ops

from diffstride.validation import (
    check_data_format,
    check_not_negative,
    check_positive_integer,
)


@keras.saving.register_keras_serializable(package="diffstride")
class Whitening(keras.layers.Layer):
    """A convolution whose outputs are uncorrelated and of equal variance.

    Neighbouring pixels are much alike, so that a first convolution has to learn
    their differences before it learns anything else. Here `adapt` computes the
    filters from images: the eigenvectors of the covariance of their patches,
    each divided by the root of its eigenvalue. Every filter stands there twice,
    the second time with the opposite sign, so that a rectification behind the
    layer loses nothing. The filters are fixed; a bias for each is learned.

    Before `adapt`, a filter takes one point of one channel. The trainer calls
    `adapt` with training images before the first step.

    Args:
        kernel_size: integer. Height and width of a patch. Defaults to 2.
        epsilon: number of 0 or more. What is added to the eigenvalues, so that
            noise is not enlarged without limit. Defaults to 5e-4.
        bias_steps: integer or None. After so many training steps the bias has
            no gradient; an optimizer with momentum still moves it a little.
            Defaults to None: it is learned to the end.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`.

    Output shape:
        That of the input, with `kernel_size - 1` points less along either axis,
        and `2 * kernel_size**2 * channels` channels.

    Example:

    >>> images = np.random.normal(size=(100, 8, 8, 3)).astype("float32")
    >>> layer = Whitening()
    >>> layer.adapt(images)
    >>> tuple(layer(images).shape)
    (100, 7, 7, 24)

    Reference:
        Jordan, [94% on CIFAR-10 in 3.29 seconds on a single GPU](
        https://arxiv.org/abs/2404.00498), 2024, section 3.2.
    """

    def __init__(
        self,
        kernel_size: int = 2,
        epsilon: float = 5e-4,
        bias_steps: int | None = None,
        *,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_size = check_positive_integer(kernel_size, "kernel_size")
        check_not_negative(epsilon=epsilon)
        self.epsilon = float(epsilon)
        self.bias_steps = bias_steps
        if bias_steps is not None:
            self.bias_steps = check_positive_integer(bias_steps, "bias_steps")
        self.data_format = check_data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def _channels(self, shape):
        return shape[1 if self.data_format == "channels_first" else -1]

    def build(self, input_shape):
        size, channels = self.kernel_size, self._channels(input_shape)
        values = size * size * channels
        # For each filter, the weights of a patch.
        filters = np.eye(values, dtype="float32")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size, channels, 2 * values),
            initializer=lambda shape, dtype: ops.cast(
                _kernel(filters, shape), dtype
            ),
            trainable=False,
        )
        self.bias = self.add_weight(
            name="bias", shape=(2 * values,), initializer="zeros"
        )
        self.steps = None
        if self.bias_steps is not None:
            self.steps = self.add_weight(
                name="steps",
                shape=(),
                dtype="int32",
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

    def adapt(self, images: typing.Any) -> None:
        """Computes the filters.

        Args:
            images: array of images, in the shape of the input, as they come to
                this layer: normalized, if the model gets them so. A few
                thousand are enough.
        """
        images = ops.convert_to_numpy(images).astype("float32")
        if images.ndim != 4 or not images.size:
            raise ValueError(
                "`images` must be an array of images with four axes, and not "
                f"empty. Received: images of shape {images.shape}"
            )
        if not self.built:
            self.build(images.shape)
        if self.data_format == "channels_first":
            images = images.transpose(0, 2, 3, 1)
        if min(images.shape[1:3]) < self.kernel_size:
            raise ValueError(
                "`images` must be at least as large as `kernel_size`. Received:"
                f" images of shape {images.shape}, "
                f"kernel_size={self.kernel_size}"
            )
        windows = np.lib.stride_tricks.sliding_window_view(
            images, (self.kernel_size,) * 2, axis=(1, 2)
        )
        values = self.kernel.shape[-1] // 2
        covariance = np.zeros((values, values))
        for image in windows:
            # Rows, columns and channels of a patch, as in a kernel.
            patches = image.transpose(0, 1, 3, 4, 2).reshape(-1, values)
            covariance += patches.T @ patches
        covariance /= np.prod(windows.shape[:3])
        variances, directions = np.linalg.eigh(covariance)
        # The smallest come first. Rounding may have made them negative.
        scales = np.sqrt(np.maximum(variances, 0) + self.epsilon)
        filters = (directions / np.maximum(scales, 1e-12))[:, ::-1]
        self.kernel.assign(_kernel(filters, self.kernel.shape))

    def call(self, inputs, training=False):
        bias = ops.convert_to_tensor(self.bias)
        if self.steps is not None:
            learns = self.steps < self.bias_steps
            bias = ops.where(learns, bias, ops.stop_gradient(bias))
            if training:
                self.steps.assign_add(1)
        outputs = ops.conv(
            inputs,
            self.kernel,
            strides=1,
            padding="valid",
            data_format=self.data_format,
        )
        if self.data_format == "channels_first":
            bias = bias[:, None, None]
        return outputs + bias

    def compute_output_shape(self, input_shape):
        first = 2 if self.data_format == "channels_first" else 1
        shape = list(input_shape)
        for axis in (first, first + 1):
            if shape[axis] is not None:
                shape[axis] += 1 - self.kernel_size
        channels = 2 * self.kernel_size**2 * self._channels(input_shape)
        shape[1 if first == 2 else -1] = channels
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "epsilon": self.epsilon,
            "bias_steps": self.bias_steps,
            "data_format": self.data_format,
        }


def _kernel(filters, shape):
    """A kernel of the filters, which are columns, and of their opposites."""
    kernel = np.concatenate([filters, -filters], axis=1)
    return np.reshape(kernel, shape).astype("float32")
