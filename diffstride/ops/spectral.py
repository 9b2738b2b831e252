"""The spectral operators of the layers, apart from any layer.

Resizing an axis of `n` points to `m` in the Fourier domain is linear:
transform, weigh each frequency, drop the high ones or add zeros, transform
back. Written out, it is an `m x n` matrix

    M[j, p] = gain * sum_k a(k) exp(2i pi k (j / m - p / n))

that depends on the sizes and the weights `a` alone. Its real and imaginary
parts are sums over the half spectrum, k = 0 .. m // 2 if the axis shrinks,

    C[j, p] = gain * sum_k (a(k) + a(-k)) cos(2 pi k (j / m - p / n))
    S[j, p] = gain * sum_k (a(k) - a(-k)) sin(2 pi k (j / m - p / n))

of even and odd weights (the Nyquist bin of an even `m` stands for -m/2 alone,
and zero for itself). `diffstride.ops.windows` makes the weights.

With the window of Eq. 3 the odd weights are zero, and a layer multiplies each
axis by its `C`. In the 2022 release they are not, on the height of an image,
while the width goes through a real transform, which knows one half of the
spectrum only: its `C` and `S` both have the even weights. An image X becomes

    Y = C_height X C_width^T - S_height X S_width^T

The functions below build these matrices from cosine and sine tables and apply
them as matrix products, so that no complex number and no large Fourier
transform is needed. Sizes are Python numbers or scalar tensors: the same
functions make a static operator while a graph is built and a dynamic one
inside it.

Reference: Riad et al., [Learning strides in convolutional neural networks](
https://arxiv.org/abs/2202.01653), ICLR 2022, sections 2.1 to 2.4.
"""

import functools
import math
import typing

import keras
import numpy as np
from keras import ops

from diffstride.ops.scalars import float32, int32, is_number, numpy_or_ops
from diffstride.ops.windows import Weights

# Above this many entries a matrix, which has to be built at every step, costs
# more than Fourier transforms do: at about 630 points and a stride of two. JAX
# on a CPU copies the matrix for each example (see `apply_matrix`), so that its
# limit is at 180 points.
MATRIX_ENTRIES = 200_000
MATRIX_ENTRIES_JAX_CPU = 16_000

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
    keeps_all: bool = False


def axis_filter(weights, in_size, out_size, norm, rule, keeps_all=False):
    """Filter of an axis from its weights, under a rule and a norm.

    Args:
        keeps_all: whether the weights are those of all frequencies of the
            input, and not only of those that fit into the output.
    """
    # A spectrum of odd size has no Nyquist bin, and no asymmetry.
    is_odd = is_number(out_size) and out_size % 2 == 1
    return AxisFilter(
        in_size,
        out_size,
        weights,
        gain(in_size, out_size, norm),
        is_real=rule != "height" or is_odd,
        keeps_all=keeps_all,
    )


def resample(x, filters, axes):
    """Applies a filter to each of the given axes of `x`."""
    if not filters[0].is_real:
        height, width = filters
        is_small = is_number(height.in_size) and height.in_size <= SMALL_SIZE
        if is_small and not _is_long(width, is_signal=False):
            return _resample_small_image(x, height, width, *axes)
        return _resample_image(x, height, width, *axes)
    is_signal = len(x.shape) == 3
    for axis_filter, axis in zip(filters, axes, strict=True):
        x = _apply_real(x, axis_filter, axis, is_signal=is_signal)
    return x


def _resample_image(x, height, width, height_axis, width_axis):
    """The equation at the top of this file, one axis after the other.

    The sines of the height have the few frequencies of the odd weights alone.
    They go through the width as coefficients of these frequencies, which are
    far fewer than points.
    """
    cosines = _apply_real(x, height, height_axis)
    cosines = _apply_real(cosines, width, width_axis)
    analysis, synthesis = sine_factors(height)
    sines = apply_matrix(x, analysis, height_axis)
    sines = _apply_real(sines, width, width_axis, sine=True)
    return cosines - apply_matrix(sines, synthesis, height_axis)


def _resample_small_image(x, height, width, height_axis, width_axis):
    """The same in two products.

    The height makes a row of cosines and one of sines for each point, one
    after the other; the width takes the two as one row of twice the length.
    """
    analysis, synthesis = sine_factors(height)
    rows = [cosine_matrix(height), ops.matmul(synthesis, analysis)]
    rows = ops.reshape(ops.stack(rows, axis=1), (-1, height.in_size))
    columns = [cosine_matrix(width), -sine_matrix(width)]
    x = apply_matrix(x, rows, height_axis)
    shape = list(ops.shape(x))
    shape[height_axis] = height.out_size
    shape[width_axis] = 2 * shape[width_axis]
    x = ops.reshape(x, shape)
    return apply_matrix(x, ops.concatenate(columns, axis=1), width_axis)


def _apply_real(x, axis_filter, axis, sine=False, is_signal=False):
    """The cosines or sines of an axis, as a matrix or by Fourier transforms."""
    if _is_long(axis_filter, is_signal):
        return apply_transform(x, axis_filter, axis, sine)
    matrix = sine_matrix if sine else cosine_matrix
    return apply_matrix(x, matrix(axis_filter), axis)


def _is_long(axis_filter, is_signal):
    sizes = axis_filter.in_size, axis_filter.out_size
    if axis_filter.keeps_all:
        # A transform back holds the frequencies of the output alone.
        return False
    if all(map(is_number, sizes)):
        return sizes[0] * sizes[1] > _matrix_entries()
    # Sizes that only the running graph knows.
    if is_number(sizes[0]):
        return sizes[0] ** 2 / 2 > _matrix_entries()
    return is_signal


def _matrix_entries():
    if keras.backend.backend() == "jax":
        # JAX lists accelerators alone, if there are any.
        device, *_ = keras.distribution.list_devices()
        if device.lower().startswith("cpu"):
            return min(MATRIX_ENTRIES, MATRIX_ENTRIES_JAX_CPU)
    return MATRIX_ENTRIES


def cosine_matrix(axis_filter):
    """`C` of an axis, `(out_size, in_size)`, with the even weights."""
    cosine, sine = _weighted_tables(axis_filter)
    return ops.matmul(
        ops.concatenate([cosine, sine], axis=1), _analysis(axis_filter)
    )


def sine_matrix(axis_filter):
    """`S` of an axis with the even weights, `(out_size, in_size)`."""
    cosine, sine = _weighted_tables(axis_filter)
    return ops.matmul(
        ops.concatenate([sine, -cosine], axis=1), _analysis(axis_filter)
    )


def sine_factors(axis_filter):
    """`S` of an axis with the odd weights, as two thin factors.

    Returns:
        Matrices `(2 * count, in_size)` and `(out_size, 2 * count)` for a
        `count` of odd weights; `S` is the second times the first.
    """
    _, odd, odd_bins = axis_filter.weights
    analysis = [
        ops.transpose(t) for t in _tables(axis_filter.in_size, odd_bins)
    ]
    cosine, sine = (
        table * (odd * axis_filter.scale)
        for table in _tables(axis_filter.out_size, odd_bins)
    )
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
        before = math.prod(shape[:axis])
        after = math.prod(shape[axis + 1 :])
        dtype = keras.backend.standardize_dtype(x.dtype)
        if keras.backend.backend() == "jax" and dtype == "float32":
            # JAX transposes all of `x` for a product with a single matrix. With
            # a copy of the matrix for each example it does not: on a CPU that
            # is 3 to 5 times as fast. In half precision it would add up in
            # half precision, too.
            matrix = ops.broadcast_to(matrix, (before, rows, columns))
        x = ops.matmul(matrix, ops.reshape(x, (before, columns, after)))
    return ops.reshape(x, (*shape[:axis], rows, *shape[axis + 1 :]))


def apply_transform(x, axis_filter, axis, sine=False):
    """Multiplies by `cosine_matrix`, or `sine_matrix`, by transforms."""
    in_size, out_size, (even, _, _), scale, *_ = axis_filter
    bins = _bins(axis_filter)
    # An inverse real transform counts every frequency twice by itself, except
    # for zero and the Nyquist bin, and divides by the size.
    frequencies = ops.arange(bins, dtype="int32")
    alone = ops.logical_or(frequencies == 0, 2 * frequencies == out_size)
    weights = ops.where(alone, even, even / 2) * float32(out_size) * scale
    dtype = x.dtype
    x = ops.cast(ops.moveaxis(x, axis, -1), "float32")
    real, imaginary = ops.rfft(x, fft_length=in_size)
    if sine:
        # Multiplied by -i.
        real, imaginary = imaginary, -real
    x = ops.irfft(
        (real[..., :bins] * weights, imaginary[..., :bins] * weights),
        fft_length=out_size,
    )
    return ops.cast(ops.moveaxis(x, -1, axis), dtype)


def _weighted_tables(axis_filter):
    """Weighted cosines and sines, `(out_size, bins)` each."""
    bins = _bins(axis_filter)
    weights = axis_filter.weights.even * axis_filter.scale
    return [table * weights for table in _tables(axis_filter.out_size, bins)]


def _analysis(axis_filter):
    """Cosines over sines of the frequencies kept, `(2 * bins, in_size)`."""
    tables = _tables(axis_filter.in_size, _bins(axis_filter))
    return ops.concatenate([ops.transpose(table) for table in tables], axis=0)


def _bins(axis_filter):
    """Number of frequencies from zero on that have a weight."""
    return ops.shape(axis_filter.weights.even)[0]


def _tables(size, frequencies):
    """cos and sin of 2 pi j k / size, for j < size and some frequencies k.

    Only the columns that are asked for are built: all of them would take
    gigabytes for an axis of 10,000 points.

    Args:
        size: number of points.
        frequencies: array or tensor of integers, or the number of frequencies
            from zero. Constants make constant tables.

    Returns:
        Two tensors `(size, frequencies)`.
    """
    if is_number(size) and not ops.is_tensor(frequencies):
        if is_number(frequencies):
            frequencies = np.arange(frequencies)
        tables = _constant_tables(int(size), tuple(map(int, frequencies)))
        return [ops.convert_to_tensor(table) for table in tables]
    frequencies = ops.convert_to_tensor(frequencies)
    if not len(frequencies.shape):
        frequencies = ops.arange(frequencies, dtype="int32")
    angle = ops.cast(_phase(size, frequencies), "float32")
    angle = angle * (2 * np.pi / float32(size))
    return ops.cos(angle), ops.sin(angle)


def _phase(size, frequencies):
    """j k modulo `size`, for j < `size`, exact up to a million points.

    A product of two int32 would overflow from 65,536 points on. With
    j = j_1 * step + j_0 and a `step` about the root of `size`, no product is
    above 2 * size ** 1.5.
    """
    step = int32(numpy_or_ops(size).sqrt(float32(size))) + 1
    points = ops.arange(size, dtype="int32")[:, None]
    frequencies = frequencies[None, :]
    of_steps = ops.mod(step * frequencies, size)
    return ops.mod(
        points // step * of_steps + ops.mod(points, step) * frequencies, size
    )


@functools.lru_cache(maxsize=64)
def _constant_tables(size, frequencies):
    phase = np.outer(np.arange(size), np.array(frequencies, "int64")) % size
    angle = phase * (2 * np.pi / size)
    return np.cos(angle).astype("float32"), np.sin(angle).astype("float32")
