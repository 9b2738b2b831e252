"""Layers that enlarge or shrink a map in the Fourier domain to any size.

The mathematics is in `diffstride.ops.spectral`.
"""

from collections.abc import Sequence

import keras
from keras import ops

from diffstride.layers.base_pooling import BaseSpectralLayer
from diffstride.ops import spectral, windows
from diffstride.ops.scalars import (
    float32,
    int32,
    is_number,
    maximum,
    numpy_or_ops,
)
from diffstride.validation import check_factor, check_integers

__all__ = ["SpectralResize", "SpectralResize1D", "SpectralResize3D"]

register = keras.saving.register_keras_serializable(package="diffstride")


class BaseSpectralResize(BaseSpectralLayer):
    """A spectrum with zeros added, or with its high frequencies dropped."""

    def __init__(
        self,
        factor: float | Sequence[float] | None = None,
        size: int | Sequence[int] | None = None,
        *,
        data_format: str | None = None,
        norm: str = "forward",
        **kwargs,
    ):
        super().__init__(data_format, norm, **kwargs)
        if factor is not None and size is not None:
            raise ValueError(
                "`factor` and `size` must not be given both. "
                f"Received: factor={factor!r}, size={size!r}"
            )
        self.factor = (
            None if factor is None else check_factor(factor, self.rank)
        )
        self.size = (
            None if size is None else check_integers(size, "size", self.rank)
        )

    @property
    def _takes_two(self):
        return self.factor is None and self.size is None

    def call(self, inputs):
        self._check_inputs(inputs)
        x, like = inputs if self._takes_two else (inputs, None)
        dtype = keras.backend.standardize_dtype(x.dtype)
        if not keras.backend.is_float_dtype(dtype):
            x = ops.cast(x, self.compute_dtype)
        sizes = self._sizes(ops.shape(x))
        like_sizes = None if like is None else self._sizes(ops.shape(like))
        changed = {
            axis: self._filter(*pair)
            for axis, *pair in zip(
                self._axes,
                sizes,
                self._output_sizes(sizes, like_sizes),
                strict=True,
            )
            if not _are_same(*pair)
        }
        if not changed:
            return ops.convert_to_tensor(x)
        return spectral.resample(x, list(changed.values()), list(changed))

    def _filter(self, in_size, out_size):
        weights = windows.resize_weights(in_size, out_size, self.norm)
        return spectral.axis_filter(
            weights, in_size, out_size, self.norm, rule="symmetric"
        )

    def _output_sizes(self, sizes, like_sizes):
        """Sizes after the layer, None where they are unknown."""
        if self.size is not None:
            return self.size
        if self.factor is None:
            return like_sizes
        return tuple(map(_multiplied, sizes, self.factor))

    def compute_output_spec(self, inputs):
        self._check_inputs(inputs)
        return super().compute_output_spec(inputs)

    def compute_output_shape(self, input_shape):
        like_sizes = None
        if self._takes_two:
            input_shape, like_shape = input_shape
            like_sizes = self._sizes(like_shape)
        sizes = self._output_sizes(self._sizes(input_shape), like_sizes)
        return self._resized(input_shape, sizes)

    def _check_inputs(self, inputs):
        is_list = isinstance(inputs, (list, tuple))
        if self._takes_two != is_list or (is_list and len(inputs) != 2):
            received = f"{len(inputs)} inputs" if is_list else "one input"
            expected = (
                "needs two inputs, `[x, like]`, or a `factor` or a `size` in "
                "its constructor"
                if self._takes_two
                else "has a `factor` or a `size`, and takes one input"
            )
            raise ValueError(
                f"Layer '{self.name}' {expected}. Received: {received}, "
                f"factor={self.factor}, size={self.size}"
            )
        shapes = [tuple(x.shape) for x in (inputs if is_list else [inputs])]
        if any(len(shape) != self.rank + 2 for shape in shapes):
            raise ValueError(
                f"Inputs of layer '{self.name}' must have {self.rank + 2} "
                f"axes. Received: shapes {', '.join(map(str, shapes))}"
            )

    def get_config(self):
        return {
            **super().get_config(),
            "factor": None if self.factor is None else list(self.factor),
            "size": None if self.size is None else list(self.size),
        }


def _are_same(in_size, out_size):
    """Whether two sizes are known to be the same before the graph runs."""
    are_known = is_number(in_size) and is_number(out_size)
    return in_size is out_size or (are_known and in_size == out_size)


def _multiplied(size, factor):
    """`size * factor`, rounded and at least 1."""
    if size is None or factor == 1:
        return size
    xp = numpy_or_ops(size)
    return maximum(int32(xp.floor(float32(size) * float32(factor) + 0.5)), 1)


@register
class SpectralResize(BaseSpectralResize):
    """Gives a map another height and width, larger or smaller.

    On the way up the layer evaluates the trigonometric interpolant of the map
    at more points: its spectrum is padded with zeros. On the way down it first
    drops the frequencies that the new size cannot hold, so that nothing
    aliases. The size is exact, odd or even. A map of the right size stays as it
    is. The layer has no weights.

    Give a `factor`, or a `size`, or neither. A layer with neither is called
    with two maps, `layer([x, like])`, and resizes `x` to the height and width
    of `like`. Of `like` only the shape counts: channels and dtype may differ.
    On TensorFlow the sizes of both may be unknown until the graph runs, as they
    are after a `DiffStride` layer. So the decoder of a U-Net gets back to the
    size of each skip connection, whatever the strides have become.

    Going up and down again gives the map back; going down and up again is a
    low-pass filter. With `norm="ortho"` a resize to another size is the adjoint
    (the transpose) of the resize back, and `norm="backward"` is the adjoint of
    `norm="forward"`.

    The Nyquist frequency of an even size is one frequency of that size, but two
    of a larger one, +f and -f. With `"forward"` it is shared between the two on
    the way up, and is their sum on the way down, as it is if an interpolant is
    evaluated at the new points. `diffstride.ops.windows.resize_weights` has the
    details.

    The interpolant is periodic: values near a border depend on the opposite
    border. It may go beyond the range of the values of the input.

    `SpectralResize1D` and `SpectralResize3D` do the same for signals and
    volumes.

    Args:
        factor: number above 0, or tuple of two for height and width. The new
            size is `size * factor`, rounded (a half up), and at least 1.
        size: integer of 1 or more, or tuple of two. The new height and width.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.
        norm: `"forward"`, `"ortho"` or `"backward"`, the scale of the transform
            in NumPy's terms. `"forward"` leaves a constant as it is,
            `"backward"` multiplies it by the number of points of the input over
            that of the output, `"ortho"` by the root of that number.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`; a list of
        two such shapes without `factor` and `size`. Integers are cast to the
        layer's dtype.

    Output shape:
        That of the (first) input, with another height and width.

    Example:

    >>> x = np.zeros((1, 15, 20, 3))
    >>> tuple(SpectralResize(factor=2)(x).shape)
    (1, 30, 40, 3)
    >>> tuple(SpectralResize(size=(7, 7))(x).shape)
    (1, 7, 7, 3)
    >>> tuple(SpectralResize()([x, np.zeros((1, 33, 41, 8))]).shape)
    (1, 33, 41, 3)

    Reference:
        Rippel et al., [Spectral representations for convolutional neural
        networks](https://arxiv.org/abs/1506.03767), NeurIPS 2015.
    """

    rank = 2


@register
class SpectralResize1D(BaseSpectralResize):
    """`SpectralResize` for signals `(batch, steps, channels)`.

    Example:

    >>> tuple(SpectralResize1D(factor=2.5)(np.zeros((1, 40, 3))).shape)
    (1, 100, 3)
    """

    rank = 1


@register
class SpectralResize3D(BaseSpectralResize):
    """`SpectralResize` for volumes `(batch, depth, height, width, channels)`.

    Example:

    >>> layer = SpectralResize3D(factor=(1, 2, 2))
    >>> tuple(layer(np.zeros((1, 8, 8, 8, 3))).shape)
    (1, 8, 16, 16, 3)
    """

    rank = 3
