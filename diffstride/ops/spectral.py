"""The mathematics of the spectral layers, apart from any layer.

Downsampling one axis in the Fourier domain is linear: transform, weigh each
frequency, drop the high ones, transform back at a smaller size. For an axis of
`n` points resampled to `m` it is an `m x n` matrix

    M[j, p] = gain * sum_k a(k) exp(2i pi k (j / m - p / n))

that depends on the sizes and the weights `a` alone. The functions below build
such matrices from cosine and sine tables and apply them as matrix products,
so that no complex number and no large Fourier transform is needed.

The weights are stored for the half spectrum k = 0 .. m // 2, as an even part
a(k) + a(-k), which gives the real part of M, and an odd part a(k) - a(-k),
which gives the imaginary part. The Nyquist bin of an even `m` stands for -m/2
alone, and zero for itself. `diffstride.ops.windows` makes the weights.

Sizes are Python numbers or scalar tensors: the same functions make a static
operator while a graph is built and a dynamic one inside it.

Reference: Riad et al., [Learning strides in convolutional neural networks](
https://arxiv.org/abs/2202.01653), ICLR 2022, sections 2.1 to 2.4.
"""

import functools
import operator
import typing

import numpy as np
from keras import ops

from diffstride.ops.scalars import float32, is_number
from diffstride.ops.windows import Weights

# Above this many entries a matrix, which has to be built at every step, costs
# more than Fourier transforms do: at about 700 points and a stride of two.
MATRIX_ENTRIES = 250_000

# Up to this many points two large products are faster than five smaller ones.
SMALL_SIZE = 32


def gain(in_size, out_size, norm):
    """Scale of an operator in each of NumPy's conventions for the transform.

    `"backward"` divides by the output size, `"forward"` by the input size (a
    constant stays itself), `"ortho"` by the geometric mean of the two.
    """
    in_size, out_size = float32(in_size), float32(out_size)
    if norm == "backward":
        return 1.0 / out_size
    if norm == "forward":
        return 1.0 / in_size
    return (in_size * out_size) ** -0.5


class AxisFilter(typing.NamedTuple):
    """What happens to one axis."""

    in_size: typing.Any
    out_size: typing.Any
    weights: Weights
    scale: typing.Any
    is_real: bool


def axis_filter(weights, in_size, out_size, norm, rule):
    """Filter of an axis from its weights, under a rule and a norm."""
    # A spectrum of odd size has no Nyquist bin, and no asymmetry.
    is_odd = is_number(out_size) and out_size % 2 == 1
    return AxisFilter(
        in_size,
        out_size,
        weights,
        gain(in_size, out_size, norm),
        is_real=rule != "height" or is_odd,
    )


def resample(x, filters, axes):
    """Applies a filter to each of the given axes of `x`."""
    if not filters[0].is_real:
        height, width = filters
        is_small = is_number(height.in_size) and height.in_size <= SMALL_SIZE
        if is_small and not _is_long(width, is_signal=False):
            return _resample_small_image(x, height, width, *axes)
        return _resample_image(x, height, width, *axes)
    for axis_filter, axis in zip(filters, axes, strict=True):
        x = _apply_real(x, axis_filter, axis, is_signal=len(axes) == 1)
    return x


def _resample_image(x, height, width, height_axis, width_axis):
    """A complex operator along the height, and back to real along the width.

    The imaginary part of the height's operator has the few frequencies of the
    odd weights: it goes through the width as coefficients of these, which are
    far fewer than points.
    """
    real = _apply_real(x, height, height_axis)
    real = _apply_real(real, width, width_axis)
    analysis, synthesis = imaginary_factors(height)
    imaginary = apply_matrix(x, analysis, height_axis)
    imaginary = _apply_real(imaginary, width, width_axis, quadrature=True)
    return real + apply_matrix(imaginary, synthesis, height_axis)


def _resample_small_image(x, height, width, height_axis, width_axis):
    """The same in two products.

    The height makes a real and an imaginary row for each point, one after the
    other; the width takes the two as one row of twice the length.
    """
    analysis, synthesis = imaginary_factors(height)
    rows = [real_matrix(height), ops.matmul(synthesis, analysis)]
    rows = ops.reshape(ops.stack(rows, axis=1), (-1, height.in_size))
    columns = [real_matrix(width), quadrature_matrix(width)]
    x = apply_matrix(x, rows, height_axis)
    shape = list(ops.shape(x))
    shape[height_axis] = height.out_size
    shape[width_axis] = 2 * shape[width_axis]
    x = ops.reshape(x, shape)
    return apply_matrix(x, ops.concatenate(columns, axis=1), width_axis)


def _apply_real(x, axis_filter, axis, quadrature=False, is_signal=False):
    """The real part of an operator, as a matrix or by Fourier transforms."""
    if _is_long(axis_filter, is_signal):
        return apply_transform(x, axis_filter, axis, quadrature)
    matrix = quadrature_matrix if quadrature else real_matrix
    return apply_matrix(x, matrix(axis_filter), axis)


def _is_long(axis_filter, is_signal):
    sizes = axis_filter.in_size, axis_filter.out_size
    if all(map(is_number, sizes)):
        return sizes[0] * sizes[1] > MATRIX_ENTRIES
    # Sizes that only the running graph knows.
    if is_number(sizes[0]):
        return sizes[0] ** 2 / 2 > MATRIX_ENTRIES
    return is_signal


def real_matrix(axis_filter):
    """Real part of the operator of an axis, `(out_size, in_size)`."""
    cosine, sine = _synthesis_tables(axis_filter)
    return ops.matmul(
        ops.concatenate([cosine, sine], axis=1), _analysis(axis_filter)
    )


def quadrature_matrix(axis_filter):
    """What takes an imaginary input to a real output, `(out_size, in_size)`.

    An inverse real transform takes the upper half of the spectrum for the
    mirror of the lower, so the imaginary part of its input is not lost: the
    weights act on it multiplied by i.
    """
    cosine, sine = _synthesis_tables(axis_filter)
    return ops.matmul(
        ops.concatenate([-sine, cosine], axis=1), _analysis(axis_filter)
    )


def imaginary_factors(axis_filter):
    """Imaginary part of the operator of an axis, as two thin factors.

    Returns:
        Matrices `(2 * count, in_size)` and `(out_size, 2 * count)` for a
        `count` of odd weights; the operator is the second times the first.
    """
    _, odd, odd_bins = axis_filter.weights
    scale = axis_filter.scale
    cosine, sine = (
        ops.take(table, odd_bins, axis=1) * (odd * scale)
        for table in _tables(axis_filter.out_size)
    )
    analysis = [
        ops.transpose(ops.take(table, odd_bins, axis=1))
        for table in _tables(axis_filter.in_size)
    ]
    return (
        ops.concatenate(analysis, axis=0),
        ops.concatenate([sine, -cosine], axis=1),
    )


def apply_matrix(x, matrix, axis):
    """Multiplies one axis of `x` by a matrix, whatever the rank of `x`."""
    shape = ops.shape(x)
    rows, columns = ops.shape(matrix)
    matrix = ops.cast(matrix, x.dtype)
    if axis == len(shape) - 1:
        x = ops.matmul(ops.reshape(x, (-1, columns)), ops.transpose(matrix))
    else:
        after = functools.reduce(operator.mul, shape[axis + 1 :])
        x = ops.matmul(matrix, ops.reshape(x, (-1, columns, after)))
    return ops.reshape(x, (*shape[:axis], rows, *shape[axis + 1 :]))


def apply_transform(x, axis_filter, axis, quadrature=False):
    """Multiplies by `real_matrix`, or `quadrature_matrix`, by transforms."""
    in_size, out_size, (even, _, _), scale, _ = axis_filter
    bins = out_size // 2 + 1
    # An inverse real transform counts every frequency twice by itself, except
    # for zero and the Nyquist bin, and divides by the size.
    frequencies = ops.arange(bins, dtype="int32")
    alone = ops.logical_or(frequencies == 0, 2 * frequencies == out_size)
    weights = ops.where(alone, even, even / 2) * float32(out_size) * scale
    dtype = x.dtype
    x = ops.cast(ops.moveaxis(x, axis, -1), "float32")
    real, imaginary = ops.rfft(x, fft_length=in_size)
    if quadrature:
        real, imaginary = -imaginary, real
    x = ops.irfft(
        (real[..., :bins] * weights, imaginary[..., :bins] * weights),
        fft_length=out_size,
    )
    return ops.cast(ops.moveaxis(x, -1, axis), dtype)


def _synthesis_tables(axis_filter):
    """Weighted cosines and sines, `(out_size, bins)` each."""
    weights = axis_filter.weights.even * axis_filter.scale
    return [table * weights for table in _tables(axis_filter.out_size)]


def _analysis(axis_filter):
    """Cosines over sines of the frequencies kept, `(2 * bins, in_size)`."""
    bins = axis_filter.out_size // 2 + 1
    tables = [ops.transpose(table) for table in _tables(axis_filter.in_size)]
    return ops.concatenate([table[:bins] for table in tables], axis=0)


def _tables(size):
    """cos and sin of 2 pi j k / size, for j < size and k <= size / 2."""
    if is_number(size):
        return _constant_tables(int(size))
    # Reduced modulo the size as integers: exact however large the product.
    phase = ops.mod(
        ops.arange(size, dtype="int32")[:, None]
        * ops.arange(size // 2 + 1, dtype="int32")[None, :],
        size,
    )
    angle = ops.cast(phase, "float32") * (2 * np.pi / float32(size))
    return ops.cos(angle), ops.sin(angle)


@functools.lru_cache(maxsize=64)
def _constant_tables(size):
    phase = np.outer(np.arange(size), np.arange(size // 2 + 1)) % size
    angle = phase * (2 * np.pi / size)
    return np.cos(angle).astype("float32"), np.sin(angle).astype("float32")
