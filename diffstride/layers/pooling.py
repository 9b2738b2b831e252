"""Downsampling layers: in space, in the Fourier domain, with learned strides.

References:
    - Riad et al., [Learning strides in convolutional neural networks](
      https://arxiv.org/abs/2202.01653), ICLR 2022.
    - Rippel et al., [Spectral representations for convolutional neural
      networks](https://arxiv.org/abs/1506.03767), NeurIPS 2015.
"""

from collections.abc import Sequence

import keras
from keras import ops

from diffstride.layers.base_diffstride import BaseDiffStride
from diffstride.layers.base_pooling import BaseFixedSpectralPooling
from diffstride.layers.strides import StrideConstraint
from diffstride.validation import (
    check_choice,
    check_data_format,
    check_integers,
)

__all__ = [
    "DiffStride",
    "DiffStride1D",
    "DiffStride3D",
    "FixedSpectralPooling",
    "FixedSpectralPooling1D",
    "FixedSpectralPooling3D",
    "SpatialPooling",
    "StrideConstraint",
]

register = keras.saving.register_keras_serializable(package="diffstride")


@register
class SpatialPooling(keras.layers.Layer):
    """Subsampling, average or max pooling, with the interface of the slots.

    By default it is that of the 2022 release: with windows of one point it
    takes every `strides`-th point of the input.

    Args:
        pool_size: integer, tuple of two, or None for the `strides`. Size of the
            window. Defaults to `(1, 1)`.
        strides: integer, or tuple of two. Downsampling factor of each axis.
            Defaults to `(2, 2)`.
        pool_mode: `"average"` or `"max"`.
        padding: `"same"` or `"valid"`.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`.

    Output shape:
        That of the input, with height and width divided by the strides.

    Example:

    >>> x = np.arange(4.0).reshape((1, 1, 4, 1))
    >>> subsampled, averaged = SpatialPooling()(x), SpatialPooling(2)(x)
    >>> keras.ops.convert_to_numpy(subsampled).ravel().tolist()
    [0.0, 2.0]
    >>> keras.ops.convert_to_numpy(averaged).ravel().tolist()
    [0.5, 2.5]
    """

    def __init__(
        self,
        pool_size: int | Sequence[int] = (1, 1),
        strides: int | Sequence[int] = (2, 2),
        *,
        pool_mode: str = "average",
        padding: str = "same",
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.strides = check_integers(strides, "strides", rank=2)
        self.pool_size = check_integers(
            self.strides if pool_size is None else pool_size,
            "pool_size",
            rank=2,
        )
        self.pool_mode = check_choice(
            pool_mode, "pool_mode", ("average", "max")
        )
        self.padding = check_choice(padding, "padding", ("same", "valid"))
        self.data_format = check_data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, inputs):
        pool = ops.average_pool if self.pool_mode == "average" else ops.max_pool
        return pool(
            inputs, self.pool_size, self.strides, self.padding, self.data_format
        )

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        first = 1 if self.data_format == "channels_last" else 2
        for axis, window, stride in zip(
            (first, first + 1), self.pool_size, self.strides, strict=True
        ):
            if shape[axis] is not None:
                overlap = 1 if self.padding == "same" else window
                shape[axis] = (shape[axis] - overlap) // stride + 1
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "pool_mode": self.pool_mode,
            "padding": self.padding,
            "data_format": self.data_format,
        }

    @classmethod
    def from_config(cls, config):
        # Keras's reader of `.h5` files takes "average" for a function.
        mode = config.get("pool_mode", "average")
        return cls(**{**config, "pool_mode": getattr(mode, "__name__", mode)})


@register
class FixedSpectralPooling(BaseFixedSpectralPooling):
    """Spectral pooling: a hard crop in the Fourier domain at fixed strides.

    An axis of `n` points becomes one of `n / stride`, rounded down and never
    under two: strides need not be integers. All axes but the last are made
    even, as in the 2022 release. Only the lower frequencies are kept, so that
    nothing aliases. The layer has no weights. `FixedSpectralPooling1D` and
    `FixedSpectralPooling3D` do the same for signals and volumes.

    With strides of 2, it is FLC pooling ("frequency low cut", Grabinski et al.,
    2022), except that the code of FLC pooling takes the absolute value of its
    output.

    Args:
        strides: number of 1 or more, or tuple of two. Downsampling factor of
            height and width.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.
        norm: `"backward"`, `"ortho"` or `"forward"`, the scale of the transform
            in NumPy's terms. `"forward"` leaves a constant as it is,
            `"backward"` multiplies it by the number of points that one point
            of the output stands for, `"ortho"` by the root of that number.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`.

    Output shape:
        That of the input, with a smaller height and width.

    Example:

    >>> layer = FixedSpectralPooling(strides=(2, 4))
    >>> tuple(layer(np.zeros((1, 64, 64, 3))).shape)
    (1, 32, 16, 3)

    Reference:
        Riad et al., 2022, section 2.3; Rippel et al., 2015; Grabinski et al.,
        [FrequencyLowCut pooling](https://arxiv.org/abs/2204.00491), ECCV 2022.
    """

    rank = 2


@register
class FixedSpectralPooling1D(BaseFixedSpectralPooling):
    """Spectral pooling of signals `(batch, steps, channels)`.

    The arguments are those of `FixedSpectralPooling`.

    Example:

    >>> layer = FixedSpectralPooling1D(strides=2.5)
    >>> tuple(layer(np.zeros((1, 100, 3))).shape)
    (1, 40, 3)
    """

    rank = 1


@register
class FixedSpectralPooling3D(BaseFixedSpectralPooling):
    """Spectral pooling of volumes `(batch, depth, height, width, channels)`.

    The arguments are those of `FixedSpectralPooling`, with three strides.

    Example:

    >>> layer = FixedSpectralPooling3D(strides=(1, 2, 2))
    >>> tuple(layer(np.zeros((1, 8, 16, 16, 3))).shape)
    (1, 8, 8, 8, 3)
    """

    rank = 3


@register
class DiffStride(BaseDiffStride):
    """Downsampling whose strides are trained with the rest of the model.

    The layer keeps the lower frequencies of its input under a window that is
    one up to the cut-off frequency of the strides, falls to zero within
    `smoothness_factor` frequencies, and is zero beyond, where the spectrum is
    cropped. The window is differentiable in the strides: they follow the
    gradient of the loss, and the size of the output follows them.

    `layer.strides` is the weight, and reads as the strides in effect. They are
    at least `size / (size - smoothness_factor)`, because below that the window
    would leave the map, and the gradient would be zero. They are at most
    `size / 2`, where the window ends at the first frequency.

    On TensorFlow the sizes are computed inside the graph, by default, and are
    None in the shape of the output. Under JAX, and with `static_sizes=True`,
    they are constants of each compiled function, which follow the strides if
    `diffstride.RefreshSizes` is among the callbacks of `fit`. `layer.is_static`
    tells which kind of sizes a layer has.

    `DiffStride1D` and `DiffStride3D` do the same for signals and volumes.

    Args:
        strides: number of 1 or more, or tuple of two. Initial strides of
            height and width.
        smoothness_factor: number of 0 or more. Length of the ramp of the
            window, in frequencies. Without a ramp strides do not learn. A ramp
            inside is never longer than the pass band; below 1, some of its
            strides have no gradient. Defaults to 4 with `ramp="outside"`, as in
            the release, and to 1 with `ramp="inside"`.
        cropping: whether to crop the spectrum. False filters only.
        trainable: whether the strides are trained. What a constructor says also
            decides on `static_sizes`, for good.
        shared_stride: whether both axes share one stride.
        lower_limit_stride: number or None. Smallest stride.
        upper_limit_stride: number or None. Largest stride.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.
        symmetric: whether the window is the one of Eq. 3 on both axes. By
            default it is the one of the 2022 release, which differs by one
            frequency. A symmetric window costs about a third less.
        norm: `"backward"`, `"ortho"` or `"forward"`, the scale of the
            transform in NumPy's terms. `"forward"` leaves a constant as it is,
            which is best in a new model; the default is that of the release.
        ramp: `"outside"` for a ramp that begins at the cut-off frequency, as
            published, which makes an output larger than `size / stride` by
            twice `smoothness_factor`; `"inside"` for one that ends there,
            symmetric in any case, with an output of `size / stride`, rounded.
        static_sizes: whether sizes are constants of a graph, so that XLA can
            compile it. Defaults to True where it is needed: under JAX, and
            where the strides are not trained.
        size_multiple: even integer, or 1. Sizes are rounded up to a multiple of
            it, within the size of the input: fewer sizes, and so fewer
            compilations, for some more points, which hold hardly more.
        aliasing: number from 0 to 1. What weight the frequencies beyond the
            window have; w on the ramp becomes `aliasing + (1 - aliasing) * w`.
            With 1, the layer takes every second point at a stride of 2, as a
            strided convolution does, and its strides have no gradient. A layer
            made with more than 0 has the weight `layer.aliasing`, which is not
            trained: set it, or let `diffstride.FadeAliasing` lower it. It needs
            `ramp="inside"` or `symmetric=True`, and matrices for an axis of any
            size, which take memory for some thousands of points.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`.

    Output shape:
        That of the input, with a smaller height and width.

    Example:

    >>> layer = DiffStride(strides=(2, 4))
    >>> tuple(layer(np.zeros((1, 64, 64, 3))).shape)
    (1, 40, 24, 3)
    >>> layer = DiffStride(strides=(2, 4), ramp="inside", norm="forward")
    >>> tuple(layer(np.zeros((1, 64, 64, 3))).shape)
    (1, 32, 16, 3)

    Reference:
        Riad et al., 2022, section 2.4, Algorithm 1.
    """

    rank = 2


@register
class DiffStride1D(BaseDiffStride):
    """`DiffStride` for signals `(batch, steps, channels)`.

    Example:

    >>> tuple(DiffStride1D(strides=2)(np.zeros((1, 100, 3))).shape)
    (1, 58, 3)
    """

    rank = 1


@register
class DiffStride3D(BaseDiffStride):
    """`DiffStride` for volumes `(batch, depth, height, width, channels)`.

    Example:

    >>> layer = DiffStride3D(strides=(1, 2, 2), smoothness_factor=2)
    >>> tuple(layer(np.zeros((1, 8, 16, 16, 3))).shape)
    (1, 8, 12, 12, 3)
    """

    rank = 3
