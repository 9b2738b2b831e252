"""The mathematics of DiffRes; it knows no layer.

Every frame of a spectrogram has a score between zero and one, and the scores of
a clip sum to the number of output frames. The scores are laid end to end as
intervals on the output axis: frame `j` covers the interval from `c[j - 1]` to
`c[j]`, where `c` is the running sum of the scores, and output frame `i` covers
the interval from `i` to `i + 1`. The warp matrix holds the lengths of the
intersections,

    W[i, j] = relu(min(c[j], i + 1) - max(c[j - 1], i)).

Algorithm 1 of the paper computes the same matrix step by step. Because no score
is above one, a frame meets at most two output frames. So this module stores no
matrix, but for each frame the first output frame and the lengths of two pieces.
Time and memory then grow with the number of frames, not with its square.

Tensors have the axes (batch, frames) or (batch, frames, channels). The caller
must pass float32 tensors, whatever the precision of the model.

Reference: Liu et al., [Learning the spectrogram temporal resolution for audio
classification](https://arxiv.org/abs/2210.01719), 2022.
"""

import functools
import typing

import keras
import numpy as np
from keras import ops

# If a frame ends less than this after a boundary between output frames, it
# counts as ending at the boundary, because sums have rounding errors.
TOLERANCE = 1e-5


class Warp(typing.NamedTuple):
    """The warp matrix, as two pieces of every input frame.

    Attributes:
        rows: integers (batch, frames). The output frame of the first piece; the
            second piece belongs to the one after it.
        first: (batch, frames). Length of the first piece.
        second: (batch, frames). Length of the second piece, often zero.
    """

    rows: typing.Any
    first: typing.Any
    second: typing.Any


def reduced_frames(frames, reduction_rate):
    """How many of `frames` a reduction rate leaves: at least one.

    `frames` is an integer, a scalar tensor, or None where it is unknown.
    """
    if frames is None:
        return None
    keep = 1 - reduction_rate
    if isinstance(frames, int):
        return max(round(frames * keep), 1)
    # Compute in 64 bits, as Python does above, so that a graph rounds the same
    # way whether it knows the number of frames or not.
    keep = ops.convert_to_tensor(keep, dtype="float64")
    kept = ops.round(ops.cast(frames, "float64") * keep)
    return ops.maximum(ops.cast(kept, "int32"), 1)


def rate(scores, output_frames):
    """Output frames over frames: the score if all frames have the same one."""
    frames = ops.cast(ops.shape(scores)[1], scores.dtype)
    return ops.cast(output_frames, scores.dtype) / frames


def rescale_scores(scores, output_frames, fill_up=True):
    """Scores of at most one that sum to `output_frames`.

    Section 2.2.1 of the paper divides the scores by their sum and multiplies
    them by `output_frames`. If one of them then exceeds one, it divides all by
    the maximum, so that they sum to less than `output_frames`. With `fill_up`,
    the missing part is added to the frames, in proportion to the difference of
    each score from one.

    If there are fewer frames than `output_frames`, every score becomes one.

    Args:
        scores: (batch, frames), of zero or more.
        output_frames: integer or scalar tensor.
        fill_up: boolean. Whether to reach the sum.
    """
    scores = ops.convert_to_tensor(scores)
    frames = ops.shape(scores)[1]
    count = ops.cast(frames, scores.dtype)
    total = ops.minimum(ops.cast(output_frames, scores.dtype), count)
    scores = scores + keras.config.epsilon()
    scores = scores / ops.sum(scores, axis=1, keepdims=True) * total
    scores = scores / ops.maximum(ops.max(scores, axis=1, keepdims=True), 1.0)
    if not fill_up:
        return scores
    lacking = 1.0 - scores
    left = ops.sum(lacking, axis=1, keepdims=True)
    # The differences from one must sum to `count - total`, which is exact.
    return 1.0 - lacking * (
        (count - total) / ops.maximum(left, keras.config.epsilon())
    )


def cumulative_scores(scores, total=None):
    """Running sums of scores, as whole and fractional parts.

    In float32 a plain running sum over 10,000 frames has an error of 1e-3.
    Therefore each score is cut into three pieces of eight bits. The running
    sums of these are whole numbers, which float32 holds exactly up to 65,536
    frames.

    Args:
        scores: (batch, frames), between zero and one.
        total: number or None. The known sum of the scores of a clip. The
            scores themselves are rounded, and their errors can add up to 1e-3;
            with `total` the running sums are corrected for that.

    Returns:
        A tuple of the whole parts, through which no gradient passes, and the
        fractional parts, both (batch, frames).
    """
    scores = ops.convert_to_tensor(scores)
    exact = ops.stop_gradient(scores)
    whole = fraction = ops.zeros_like(exact)
    for unit in (2.0**8, 2.0**16, 2.0**24):
        digits = ops.floor(exact * unit)
        exact = exact - digits / unit
        sums = ops.cumsum(digits, axis=1) / unit
        whole = whole + ops.floor(sums)
        fraction = fraction + (sums - ops.floor(sums))
    if total is not None:
        total = ops.cast(total, scores.dtype)
        missing = (total - whole[:, -1:]) - fraction[:, -1:]
        fraction = fraction + (whole + fraction) * (missing / total)
    whole, fraction = (
        whole + ops.floor(fraction),
        fraction - ops.floor(fraction),
    )
    # The value is that of the exact sum, the gradient that of the plain sum.
    plain = ops.cumsum(scores, axis=1)
    return whole, fraction + (plain - ops.stop_gradient(plain))


def warp(scores, output_frames, filled=True, split=True):
    """The warp of rescaled scores.

    Args:
        scores: (batch, frames), between zero and one.
        output_frames: integer or scalar tensor.
        filled: boolean. Whether the scores sum to `output_frames`.
        split: boolean. Whether a frame that reaches beyond an output frame is
            split in two, so that each output frame receives one in total
            (Algorithm 1). Otherwise the whole frame goes to the output frame in
            which it ends (Eq. 5).

    Returns:
        A `Warp`.
    """
    scores = ops.convert_to_tensor(scores)
    frames = ops.cast(ops.shape(scores)[1], scores.dtype)
    total = ops.minimum(ops.cast(output_frames, scores.dtype), frames)
    whole, fraction = cumulative_scores(scores, total if filled else None)
    start, start_fraction = (
        ops.pad(part[:, :-1], [[0, 0], [1, 0]]) for part in (whole, fraction)
    )
    length = ops.relu((whole - start) + (fraction - start_fraction))
    first = ops.minimum(length, 1.0 - start_fraction)
    second = length - first
    rows = ops.cast(start, "int32")
    if split:
        return Warp(rows, first, second)
    return Warp(_last_rows(rows, second), length, ops.zeros_like(length))


def warp_matrix(warp, output_frames):
    """The warp as a matrix (batch, output frames, frames), for pictures."""
    outputs = ops.arange(output_frames, dtype="int32")[None, :, None]
    rows = warp.rows[:, None]
    first = ops.where(rows == outputs, warp.first[:, None], 0.0)
    second = ops.where(rows + 1 == outputs, warp.second[:, None], 0.0)
    return first + second


def weighted_mean(features, warp, output_frames):
    """Output frames as weighted sums of frames: the product `W @ features`.

    Args:
        features: (batch, frames, channels).
        warp: a `Warp`.
        output_frames: integer or scalar tensor.

    Returns:
        (batch, output frames, channels).
    """
    features, warp = _as_tensors(features, warp)
    first = _segments(
        ops.segment_sum,
        features * warp.first[..., None],
        warp.rows,
        output_frames,
    )
    second = _segments(
        ops.segment_sum,
        features * warp.second[..., None],
        warp.rows + 1,
        output_frames,
    )
    return first + second


def weighted_max(features, warp, output_frames):
    """Output frames as maxima over weighted frames (Eq. 6): `max_j W_ij x_j`.

    A frame that is split between two output frames competes in both, with the
    length of its piece for a weight. The frames outside of an output frame
    compete with a zero, as their entries of the warp matrix are.

    Args:
        features: (batch, frames, channels).
        warp: a `Warp`.
        output_frames: integer or scalar tensor.

    Returns:
        (batch, output frames, channels).
    """
    features, warp = _as_tensors(features, warp)
    pieces = [features * part[..., None] for part in (warp.first, warp.second)]
    highest = row_maxima(
        ops.concatenate(pieces, axis=1),
        ops.concatenate([warp.rows, warp.rows + 1], axis=1),
        output_frames,
    )
    return ops.maximum(highest, 0.0)


def row_maxima(features, rows, output_frames):
    """The maximum over the frames of each output frame.

    Frames that share a maximum share its gradient.

    Args:
        features: (batch, frames, channels).
        rows: integers (batch, frames). The output frame of each frame.
        output_frames: integer or scalar tensor.

    Returns:
        (batch, output frames, channels). Where an output frame has no frames,
        it is -inf or the lowest number, depending on the backend.
    """
    features, rows = _as_tensors(features, rows)
    rows = ops.stop_gradient(rows)

    # Write the gradient by hand, because the one that JAX derives takes eight
    # times as long.
    @ops.custom_gradient
    def maximum(features):
        highest = _segments(ops.segment_max, features, rows, output_frames)

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            is_highest = features == _spread(highest, rows)
            is_highest = ops.cast(is_highest, features.dtype)
            count = _segments(ops.segment_sum, is_highest, rows, output_frames)
            share = upstream / ops.maximum(count, 1.0)
            return is_highest * _spread(share, rows)

        return highest, gradient

    return maximum(features)


def frame_energy(spectrogram):
    """Root mean square over the channels of every frame, on a linear scale."""
    return ops.sqrt(ops.mean(ops.square(spectrogram), axis=-1))


def guide_loss(scores, empty, rate, threshold):
    """Eq. 7: how far the scores of empty frames exceed a threshold.

    Scores are divided by `rate`, the score that every frame has if all have the
    same one. (The paper prints δ in this place, and a minus sign in front. With
    these the threshold could not be met; the released code does as here.)

    Args:
        scores: (batch, frames), rescaled.
        empty: booleans (batch, frames). Frames with little energy.
        rate: number. Output frames over frames.
        threshold: number, λ in the paper.

    Returns:
        (batch,). Zero for a clip without empty frames.
    """
    scores, empty = _as_tensors(scores, empty)
    excess = ops.relu(scores / rate - threshold)
    return _masked_mean(excess, empty)


def activeness(scores, active, rate):
    """Eq. 4: the standard deviation of the scores, in units of `rate`.

    Args:
        scores: (batch, frames), rescaled.
        active: booleans (batch, frames). Frames with some energy.
        rate: number. Output frames over frames.

    Returns:
        (batch,). Zero if all frames have the same score.
    """
    scores, active = _as_tensors(scores, active)
    mean = _masked_mean(scores, active)[:, None]
    variance = _masked_mean(ops.square(scores - mean), active)
    return ops.sqrt(variance) / rate


def sinusoidal_encoding(frames, channels):
    """Positions as sines and cosines of falling frequency, interleaved.

    Args:
        frames: integer or scalar tensor.
        channels: integer.

    Returns:
        (frames, channels): a NumPy array if `frames` is an integer, otherwise
        a tensor.
    """
    if isinstance(frames, int):
        return _sinusoid_array(frames, channels)
    return ops.cast(_sinusoids(ops, frames, channels), "float32")


@functools.lru_cache(maxsize=8)
def _sinusoid_array(frames, channels):
    return _sinusoids(np, frames, channels).astype("float32")


def _sinusoids(xp, frames, channels):
    pairs, is_cosine = np.divmod(np.arange(channels), 2)
    frequencies = 1e-4 ** (2 * pairs / channels)
    angles = xp.arange(frames, dtype="float64")[:, None] * frequencies
    return xp.sin(angles + is_cosine * np.pi / 2)


def _as_tensors(*arrays):
    """Arrays as tensors: torch refuses the product of one with the other."""
    return keras.tree.map_structure(ops.convert_to_tensor, arrays)


def _last_rows(rows, second):
    return rows + ops.cast(second > TOLERANCE, "int32")


def _segments(reduce, features, rows, output_frames):
    """A reduction over the frames of each output frame, clip by clip."""
    batch, frames, channels = ops.shape(features)
    if isinstance(batch, int) and batch == 0:
        # Torch has no segments of nothing.
        return ops.zeros((0, output_frames, channels), features.dtype)
    # Add one row for frames that rounding, or a score of zero, puts past the
    # end, and cut it off again.
    rows = ops.minimum(rows, output_frames)
    clips = ops.arange(batch, dtype="int32")[:, None] * (output_frames + 1)
    reduced = reduce(
        ops.reshape(features, (batch * frames, channels)),
        ops.reshape(rows + clips, (batch * frames,)),
        num_segments=batch * (output_frames + 1),
    )
    shape = (batch, output_frames + 1, channels)
    return ops.reshape(reduced, shape)[:, :output_frames]


def _spread(outputs, rows):
    """The output frame of every frame: (batch, frames, channels)."""
    batch, output_frames, channels = ops.shape(outputs)
    clips = ops.arange(batch, dtype="int32")[:, None] * output_frames
    # Frames past the end have no weight: they may read any output frame.
    rows = ops.minimum(rows, output_frames - 1)
    frames = ops.shape(rows)[1]
    spread = ops.take(
        ops.reshape(outputs, (batch * output_frames, channels)),
        ops.reshape(rows + clips, (batch * frames,)),
        axis=0,
    )
    return ops.reshape(spread, (batch, frames, channels))


def _masked_mean(values, mask):
    mask = ops.cast(mask, values.dtype)
    count = ops.maximum(ops.sum(mask, axis=1), 1.0)
    return ops.sum(values * mask, axis=1) / count
