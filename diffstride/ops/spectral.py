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
alone, and zero for itself.

An axis follows one of three rules, by where the window of a frequency is read:

- `"symmetric"`: at |k|, Eq. 3 of the paper; the matrix is real.
- `"width"`: at |k| - 1, Eq. 4; the last axis, of which a real transform keeps
  one half only; the matrix is real.
- `"height"`: at k for k >= 0 and at |k| - 1 for k < 0, the numerics of the
  2022 release for the first axis of an image; the matrix is complex. On an
  axis of odd size it is the symmetric rule.

Sizes and strides are Python numbers or scalar tensors: the same functions
compute a static size while a graph is built and a dynamic one inside it.

Reference: Riad et al., [Learning strides in convolutional neural networks](
https://arxiv.org/abs/2202.01653), ICLR 2022, sections 2.1 to 2.4.
"""

import functools
import math
import operator
import typing

import numpy as np
from keras import ops

from diffstride.ops.scalars import (
    float32,
    int32,
    is_number,
    maximum,
    minimum,
    numpy_or_ops,
)

# Above this many entries a matrix, which has to be built at every step, costs
# more than Fourier transforms do: at about 700 points and a stride of two.
MATRIX_ENTRIES = 250_000

# Up to this many points two large products are faster than five smaller ones.
SMALL_SIZE = 32


def minimum_stride(size, smoothness_factor, ramp="outside"):
    """The stride below which the ramp would leave a map of `size` points.

    There the window would be one on every frequency, and no gradient would
    reach the stride. Maps no larger than the ramp have no such limit.
    """
    if ramp == "inside":
        return 1.0
    if is_number(size):
        if size <= smoothness_factor:
            return 1.0
        return float(np.float32(size / (size - smoothness_factor)))
    size = ops.cast(size, "float32")
    margin = size - smoothness_factor
    return ops.where(margin > 0, size / ops.maximum(margin, 1e-6), 1.0)


def cutoff(size, stride, smoothness_factor, ramp="outside"):
    """Where the window of Eq. 3 reaches zero, and the length of its ramp.

    With `ramp="outside"` the ramp begins at the cut-off frequency of the stride
    and ends `smoothness_factor` later; with `ramp="inside"` it ends there, and
    is never longer than the pass band, so that a constant stays untouched.
    """
    passband = maximum(float32(size) / float32(stride), 2) / 2
    if ramp == "outside" or smoothness_factor == 0:
        return passband + float32(smoothness_factor), smoothness_factor
    return passband, minimum(passband, smoothness_factor)


def output_size(
    size,
    stride,
    smoothness_factor,
    ramp="outside",
    rule="symmetric",
    multiple=1,
):
    """Number of points that a window leaves of an axis of `size` points.

    An even `multiple` rounds it up; the weights beyond the window are zero.
    """
    end, _ = cutoff(size, stride, smoothness_factor, ramp)
    xp = numpy_or_ops(end, size)
    # Frequencies below `end` on both sides, and the Nyquist bin.
    points = 2 * int32(xp.ceil(end))
    if rule == "width":
        # An axis of one point has nothing to crop.
        size = maximum(size - size % 2, 1)
    elif multiple == 1:
        points = points - size % 2
    return minimum(-(-points // multiple) * multiple, size)


def fixed_output_size(size, stride):
    """Size that spectral pooling crops to: size / stride, even, at least 2."""
    xp = numpy_or_ops(stride, size)
    even = 2 * int32(xp.floor(float32(size) / float32(stride) / 2))
    return minimum(maximum(even, 2), size)


def window(positions, end, ramp_length):
    """One up to `end - ramp_length`, zero from `end` on, linear between.

    Without a ramp it is a step. A frequency right where the ramp begins takes
    part in its slope, as in the release; `ops.clip` leaves that to the backend.
    """
    # Steeper than the difference of any two floats: no frequency lies on it.
    ramp_length = ops.maximum(ramp_length, 1e-30)
    height = (end - positions) / ramp_length
    return ops.where(height <= 0, 0.0, ops.where(height > 1, 1.0, height))


class Weights(typing.NamedTuple):
    """Weights of the half spectrum of an axis.

    `even` counts for the bins from zero on. `odd` counts for `odd_bins` alone:
    the two sides of a spectrum differ only on the ramp and at the Nyquist bin.
    """

    even: typing.Any
    odd: typing.Any
    odd_bins: typing.Any


def window_weights(
    in_size, out_size, stride, smoothness_factor, ramp="outside", rule="height"
):
    """Weights that a window gives to an axis (Eqs. 3 and 4)."""
    end, ramp_length = cutoff(in_size, stride, smoothness_factor, ramp)
    frequencies = ops.arange(out_size // 2 + 1, dtype="int32")
    positions = ops.cast(frequencies, "float32")
    shift_above = 1 if rule == "width" else 0
    shift_below = {"width": 1, "height": 1 - in_size % 2, "symmetric": 0}[rule]
    # The ramp of the side below zero ends one bin after that of the other.
    xp = numpy_or_ops(end)
    return _weights(
        out_size,
        window(positions - float32(shift_above), end, ramp_length),
        window(positions - float32(shift_below), end, ramp_length),
        first_odd_bin=int32(xp.ceil(end - ramp_length)),
        count=odd_count(smoothness_factor),
    )


def odd_count(smoothness_factor):
    """How many frequencies a ramp makes differ from their negatives."""
    return math.ceil(smoothness_factor) + 1


def crop_weights(out_size):
    """Weights of a hard crop: every frequency that is kept counts in full."""
    ones = ops.ones(out_size // 2 + 1, dtype="float32")
    return _weights(out_size, ones, ones, out_size // 2, odd_count(0))


def _weights(out_size, above, below, first_odd_bin, count):
    """Weights from those of the frequencies above and below zero."""
    bins = out_size // 2 + 1
    frequencies = ops.arange(bins, dtype="int32")
    # Zero has no negative twin; the Nyquist bin has no positive one.
    above = ops.where(2 * frequencies == out_size, 0.0, above)
    below = ops.where(frequencies == 0, 0.0, below)
    count = minimum(count, bins)
    # Where the ramp lies beyond the last bin, the Nyquist bin remains.
    first = maximum(minimum(first_odd_bin, bins - count), 0)
    odd_bins = first + ops.arange(count, dtype="int32")
    return Weights(above + below, ops.take(above - below, odd_bins), odd_bins)


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
