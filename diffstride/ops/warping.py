"""The mathematics of DiffRes, apart from any layer.

Every frame of a spectrogram has a score between zero and one, and the scores of
a clip sum to the number of output frames. Laid end to end they cover the output
axis: frame `j` covers the interval from `c[j - 1]` to `c[j]`, where `c` is the
running sum, and output frame `i` the one from `i` to `i + 1`. The warp matrix
holds the lengths of their intersections,

    W[i, j] = relu(min(c[j], i + 1) - max(c[j - 1], i)),

which is what Algorithm 1 of the paper computes step by step. As no score is
above one, an interval meets at most two output frames: instead of a matrix it
takes, for each input frame, the first of them and the lengths of two pieces.
Time and memory then grow with the number of frames, not with its square.

Tensors have the axes (batch, frames) or (batch, frames, channels). All
computation is meant to be in float32, whatever the precision of the model.

Reference: Liu et al., [Learning the spectrogram temporal resolution for audio
classification](https://arxiv.org/abs/2210.01719), 2022.
"""

import functools
import typing

import keras
import numpy as np
from keras import ops

# An interval that ends this little after a boundary ends at the boundary.
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
    # The same 64-bit arithmetic as above, so that a graph of unknown length
    # rounds as one of known length does.
    keep = ops.convert_to_tensor(keep, dtype="float64")
    kept = ops.round(ops.cast(frames, "float64") * keep)
    return ops.maximum(ops.cast(kept, "int32"), 1)


def rate(scores, output_frames):
    """Output frames over frames: a score where none is preferred."""
    frames = ops.cast(ops.shape(scores)[1], scores.dtype)
    return ops.cast(output_frames, scores.dtype) / frames


def rescale_scores(scores, output_frames, fill_up=True):
    """Scores of at most one that sum to `output_frames`.

    Section 2.2.1 of the paper divides the scores by their sum and then, where
    one of them exceeds one, by their maximum. That leaves less than
    `output_frames` to share out; `fill_up` hands the missing part to the frames
    in proportion to what each lacks of one.

    Where there are fewer frames than `output_frames`, every score becomes one.

    Args:
        scores: (batch, frames), of zero or more.
        output_frames: integer or scalar tensor.
        fill_up: boolean. Whether to reach the sum.
    """
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
    # What the frames lack of one sums to `count - total`, an exact number.
    return 1.0 - lacking * (
        (count - total) / ops.maximum(left, keras.config.epsilon())
    )


def cumulative_scores(scores, total=None):
    """Running sums of scores, as whole and fractional parts.

    In float32 a running sum over 10,000 frames is off by 1e-3. Here a score is
    cut into three pieces of eight bits, whose running sums are whole numbers
    that float32 holds exactly up to 65,536 frames.

    Args:
        scores: (batch, frames), between zero and one.
        total: number. What the scores of a clip are known to sum to. The
            rounding of the scores themselves, which can add up to 1e-3 as well,
            is taken out of the running sums.

    Returns:
        A tuple of the whole parts, through which no gradient passes, and the
        fractional parts, both (batch, frames).
    """
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
    # The value of the exact sum, the gradient of the plain one.
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
            (Algorithm 1). Otherwise it goes where it ends as a whole (Eq. 5).

    Returns:
        A `Warp`.
    """
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
    rows = ops.stop_gradient(rows)

    # The gradient that XLA derives under JAX takes eight times as long.
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

    A score is counted in units of `rate`, the score of a frame where none is
    preferred to another. (The paper prints another symbol there, and a minus
    sign, with which the threshold could not be met.)

    Args:
        scores: (batch, frames), rescaled.
        empty: booleans (batch, frames). Frames with little energy.
        rate: number. Output frames over frames.
        threshold: number, λ in the paper.

    Returns:
        (batch,). Zero for a clip without empty frames.
    """
    excess = ops.relu(scores / rate - threshold)
    return _masked_mean(excess, empty)


def activeness(scores, active, rate):
    """Eq. 4: the standard deviation of the scores, in units of `rate`.

    Args:
        scores: (batch, frames), rescaled.
        active: booleans (batch, frames). Frames with some energy.
        rate: number. Output frames over frames.

    Returns:
        (batch,). Zero where the module has no preference between frames.
    """
    mean = _masked_mean(scores, active)[:, None]
    variance = _masked_mean(ops.square(scores - mean), active)
    return ops.sqrt(variance) / rate


def sinusoidal_encoding(frames, channels):
    """Positions as sines and cosines of falling frequency, interleaved.

    Args:
        frames: integer or scalar tensor.
        channels: integer.

    Returns:
        (frames, channels), an array where `frames` is an integer.
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


def _last_rows(rows, second):
    return rows + ops.cast(second > TOLERANCE, "int32")


def _segments(reduce, features, rows, output_frames):
    """A reduction over the frames of each output frame, clip by clip."""
    batch, frames, channels = ops.shape(features)
    # One more row takes what rounding, or a score of zero, puts past the end.
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
    # What lies past the end has no weight, and may meet any output frame.
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
