"""Which frequencies of an axis are kept, and with which weight.

A layer multiplies the spectrum of each axis by a window and drops the
frequencies where the window is zero. This module says how wide the window is,
how many points it leaves, and which weight it gives to each frequency.
`diffstride.ops.spectral` makes an operator of these weights.

Eq. 3 of the paper is a window that is symmetric: frequencies k and -k have the
same weight. The 2022 release deviates from it by one frequency, in two ways
which come from how it stores a spectrum. A rule says what an axis does:

- `"symmetric"`: the weight of k is the window at |k|, Eq. 3.
- `"width"`: the weight of k is the window at |k| - 1, Eq. 4. The release does
  so on the last axis.
- `"height"`: the weight of k is the window at k for k >= 0, and at |k| - 1 for
  k < 0. The release does so on the first axis of an image. If the size of the
  axis is odd, the rule is the symmetric one.

Sizes and strides are Python numbers or scalar tensors: the same functions
compute a static size while a graph is built and a dynamic one inside it.

Reference: Riad et al., [Learning strides in convolutional neural networks](
https://arxiv.org/abs/2202.01653), ICLR 2022, sections 2.3 and 2.4.
"""

import math
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


def maximum_stride(size):
    """The stride from where on the window is as narrow as it can be.

    The pass band then ends at the first frequency, and a larger stride would
    have no effect and no gradient.
    """
    return maximum(float32(size) / 2, 1.0)


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

    With `ramp="inside"` it is size / stride, rounded. What lies beyond the
    Nyquist frequency of the output is dropped, and its weight is small: the
    ramp ends there. An even `multiple` rounds the number up; the weights beyond
    the window are zero.
    """
    if ramp == "inside":
        xp = numpy_or_ops(stride, size)
        points = int32(xp.floor(float32(size) / float32(stride) + 0.5))
        points = maximum(points, 1)
        return minimum(-(-points // multiple) * multiple, size)
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


def fixed_output_size(size, stride, rule):
    """Number of points that spectral pooling leaves of an axis.

    It is size / stride, rounded down, and at least 2. As in the release, it is
    even, except on the last axis (rule `"width"`). An axis is never enlarged.
    """
    xp = numpy_or_ops(stride, size)
    points = int32(xp.floor(float32(size) / float32(stride)))
    if rule != "width":
        points = points - points % 2
    return minimum(maximum(points, 2), size)


def window(positions, end, ramp_length, cropping=True):
    """One up to `end - ramp_length`, zero from `end` on, linear between.

    A frequency right where the ramp begins takes part in its slope, as in the
    release. This is not written as `ops.clip`, because backends disagree on
    its gradient there. The frequency right where the ramp ends takes part if it
    is the first one: no other tells the smallest pass band to grow. If nothing
    is cropped, it takes part in any case, again as in the release.
    """
    positions = ops.convert_to_tensor(positions)
    if is_number(ramp_length) and ramp_length == 0:
        return ops.cast(positions < end, "float32")
    height = (end - positions) / ramp_length
    is_beyond = height < 0
    if cropping:
        is_beyond = ops.logical_or(
            is_beyond, ops.logical_and(height == 0, end > 1)
        )
    return ops.where(is_beyond, 0.0, ops.where(height > 1, 1.0, height))


class Weights(typing.NamedTuple):
    """Weights of the half spectrum of an axis.

    `even` counts for the bins from zero on. `odd` counts for `odd_bins` alone:
    the two sides of a spectrum differ only on the ramp and at the Nyquist bin.
    Both are None where no layer asks for odd weights.
    """

    even: typing.Any
    odd: typing.Any
    odd_bins: typing.Any


def window_weights(
    in_size,
    out_size,
    stride,
    smoothness_factor,
    ramp="outside",
    rule="height",
    cropping=True,
    aliasing=None,
):
    """Weights that a window gives to an axis (Eqs. 3 and 4).

    With `aliasing`, a number from 0 to 1, the axis keeps all its frequencies,
    and a weight w becomes `aliasing + (1 - aliasing) * w`. At 1 the operator
    takes every `in_size / out_size`-th value of the trigonometric interpolant,
    as strides do. The rule must be the symmetric one.
    """
    end, ramp_length = cutoff(in_size, stride, smoothness_factor, ramp)
    bins = (out_size if aliasing is None else in_size) // 2 + 1
    positions = ops.cast(ops.arange(bins, dtype="int32"), "float32")
    shift_above = 1 if rule == "width" else 0
    shift_below = {"width": 1, "height": 1 - in_size % 2, "symmetric": 0}[rule]
    # The ramp of the side below zero ends one bin after that of the other.
    xp = numpy_or_ops(end)
    weights = _weights(
        out_size,
        *(
            window(positions - float32(shift), end, ramp_length, cropping)
            for shift in (shift_above, shift_below)
        ),
        first_odd_bin=int32(xp.ceil(end - ramp_length)),
        count=odd_count(smoothness_factor, cropping),
    )
    if aliasing is None:
        return weights
    even = ops.where(2 * positions > float32(out_size), 0.0, weights.even)
    everything = crop_weights(in_size).even
    even = aliasing * everything + (1 - aliasing) * even
    return weights._replace(even=even)


def odd_count(smoothness_factor, cropping=True):
    """How many frequencies a ramp makes differ from their negatives.

    If nothing is cropped, one more may lie right where the ramp ends: its
    weights are zero, but not their gradients.
    """
    return math.ceil(smoothness_factor) + (1 if cropping else 2)


def crop_weights(out_size):
    """Weights of a hard crop: every frequency that is kept counts in full."""
    ones = ops.ones(out_size // 2 + 1, dtype="float32")
    return _weights(out_size, ones, ones, out_size // 2, odd_count(0))


def resize_weights(in_size, out_size, norm):
    """Weights of a hard crop, or of zeros beyond what the input has.

    A frequency and its negative are two, except for zero and the Nyquist bin of
    an even size, which are one. So the Nyquist bin of the smaller size is one
    frequency there and two on the other side. `"forward"` counts frequencies of
    the input: the output then has values of the trigonometric interpolant of
    the input, whose higher frequencies are dropped before. `"backward"` counts
    those of the output, which makes it the adjoint of `"forward"` from the
    output to the input. `"ortho"` takes the geometric mean of the two, and is
    its own adjoint. In all three, up and down again is the identity.
    """
    bins = minimum(in_size, out_size) // 2 + 1
    frequencies = ops.arange(bins, dtype="int32")
    in_count, out_count = (
        ops.where(
            ops.logical_or(frequencies == 0, 2 * frequencies == size), 1.0, 2.0
        )
        for size in (in_size, out_size)
    )
    even = {
        "forward": in_count,
        "backward": out_count,
        "ortho": ops.sqrt(in_count * out_count),
    }[norm]
    return Weights(ops.cast(even, "float32"), odd=None, odd_bins=None)


def _weights(out_size, above, below, first_odd_bin, count):
    """Weights from those of the frequencies above and below zero."""
    bins = ops.shape(above)[0]
    frequencies = ops.arange(bins, dtype="int32")
    # Zero has no negative twin; the Nyquist bin has no positive one.
    above = ops.where(2 * frequencies == out_size, 0.0, above)
    below = ops.where(frequencies == 0, 0.0, below)
    count = minimum(count, bins)
    # Where the ramp lies beyond the last bin, the Nyquist bin remains.
    first = maximum(minimum(first_odd_bin, bins - count), 0)
    odd_bins = first + ops.arange(count, dtype="int32")
    return Weights(above + below, ops.take(above - below, odd_bins), odd_bins)
