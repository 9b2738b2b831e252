"""Upsampling of maps whose sizes only the running graph knows."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="diffstride")
class UpSampling2D(keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D` that interpolates maps of any size.

    On TensorFlow, the layer of Keras needs numbers for the sizes of a map if
    `interpolation` is `"bilinear"`. This one also works where learned strides
    leave the sizes to the running graph. The outputs are the same.

    `diffstride.learn_strides` puts it in the place of the layer of Keras.

    Args:
        size: integer, or tuple of two. Factors of height and width.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.
        interpolation: as for the layer of Keras. Others than `"nearest"` and
            `"bilinear"` need known sizes.

    Example:

    >>> layer = UpSampling2D(2, interpolation="bilinear")
    >>> tuple(layer(np.zeros((1, 8, 6, 3))).shape)
    (1, 16, 12, 3)
    """

    def call(self, inputs):
        if self.interpolation != "bilinear" or None not in inputs.shape[1:]:
            return super().call(inputs)
        first = 1 if self.data_format == "channels_last" else 2
        for axis, factor in zip((first, first + 1), self.size, strict=True):
            inputs = _interpolate(inputs, factor, axis)
        return inputs


def _interpolate(x, factor, axis):
    """Makes `factor` points of each along an axis, on straight lines.

    The first and the last half of a point have no neighbour outside, and are
    constant.
    """
    size = ops.shape(x)[axis]
    # Points of the output, in points of the input times twice the factor.
    position = 2 * ops.arange(factor * size, dtype="int32") + 1 - factor
    before = ops.floor_divide(position, 2 * factor)
    share = ops.cast(position - before * 2 * factor, x.dtype) / (2 * factor)
    shape = [1] * len(x.shape)
    shape[axis] = -1
    share = ops.reshape(share, shape)
    left, right = (
        ops.take(x, ops.clip(index, 0, size - 1), axis=axis)
        for index in (before, before + 1)
    )
    return left + share * (right - left)
