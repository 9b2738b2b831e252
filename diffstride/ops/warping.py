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

The scores come from `diffstride.ops.frame_scores`. The way back from output
frames to frames is in `diffstride.ops.unwarping`.

Tensors have the axes (batch, frames) or (batch, frames, channels). The caller
must pass float32 tensors, whatever the precision of the model. In a batch of
clips of several lengths, frames of padding have a score of zero, so they belong
to no output frame.

Reference: Liu et al., [Learning the spectrogram temporal resolution for audio
classification](https://arxiv.org/abs/2210.01719), 2022.
"""

import functools
import typing

import keras
import numpy as np
from keras import ops

from diffstride.ops.frame_scores import for_each_clip

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


def cumulative_scores(
    scores: typing.Any, total: typing.Any = None
) -> tuple[typing.Any, typing.Any]:
    """Running sums of scores, as whole and fractional parts.

    In float32 a plain running sum over 10,000 frames has an error of 1e-3.
    Therefore each score is cut into three pieces of eight bits. The running
    sums of these are whole numbers, which float32 holds exactly up to 65,536
    frames.

    Args:
        scores: (batch, frames), between zero and one.
        total: number, (batch, 1) or None. The known sum of the scores of a
            clip. The scores themselves are rounded, and their errors can add up
            to 1e-3; with `total` the running sums are corrected for that.

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
        share = missing / ops.maximum(total, keras.config.epsilon())
        fraction = fraction + (whole + fraction) * share
    whole, fraction = (
        whole + ops.floor(fraction),
        fraction - ops.floor(fraction),
    )
    # The value is that of the exact sum, the gradient that of the plain sum.
    plain = ops.cumsum(scores, axis=1)
    return whole, fraction + (plain - ops.stop_gradient(plain))


def warp(
    scores: typing.Any,
    output_frames: typing.Any,
    filled: bool = True,
    split: bool = True,
) -> Warp:
    """The warp of rescaled scores.

    Args:
        scores: (batch, frames), between zero and one.
        output_frames: integer or scalar tensor, or integers (batch,), the
            number of output frames of each clip.
        filled: boolean. Whether the scores sum to `output_frames`.
        split: boolean. Whether a frame that reaches beyond an output frame is
            split in two, so that each output frame receives one in total
            (Algorithm 1). Otherwise the whole frame goes to the output frame in
            which it ends (Eq. 5).

    Returns:
        A `Warp`.

    Example:

    >>> halves = warp(np.full((1, 3), 2 / 3, "float32"), 2)
    >>> np.round(keras.ops.convert_to_numpy(warp_matrix(halves, 2)), 2)[0]
    array([[0.67, 0.33, 0.  ],
           [0.  , 0.33, 0.67]], dtype=float32)
    """
    scores = ops.convert_to_tensor(scores)
    frames = ops.cast(ops.shape(scores)[1], scores.dtype)
    total = ops.minimum(for_each_clip(output_frames, scores.dtype), frames)
    whole, fraction = cumulative_scores(scores, total if filled else None)
    start, start_fraction = (
        ops.pad(part[:, :-1], [[0, 0], [1, 0]]) for part in (whole, fraction)
    )
    length = ops.relu((whole - start) + (fraction - start_fraction))
    first = ops.minimum(length, 1.0 - start_fraction)
    second = length - first
    rows = ops.cast(start, "int32")
    if not split:
        rows = _last_rows(rows, second)
        first, second = length, ops.zeros_like(length)
    # Rounding, or a score of zero, can put a piece past the last output frame.
    limit = for_each_clip(output_frames, "int32")
    first = ops.where(rows < limit, first, 0.0)
    second = ops.where(rows + 1 < limit, second, 0.0)
    return Warp(ops.clip(rows, 0, ops.maximum(limit - 1, 0)), first, second)


def as_tensor(warp: Warp) -> typing.Any:
    """A warp as one tensor (batch, frames, 3), which layers can hand on."""
    return ops.stack([ops.cast(warp.rows, "float32"), *warp[1:]], axis=-1)


def from_tensor(tensor: typing.Any) -> Warp:
    """The warp of a tensor that `as_tensor` made."""
    rows = ops.cast(ops.stop_gradient(tensor[..., 0]), "int32")
    return Warp(rows, tensor[..., 1], tensor[..., 2])


def warp_matrix(warp: Warp, output_frames: typing.Any) -> typing.Any:
    """The warp as a matrix (batch, output frames, frames), for pictures."""
    outputs = ops.arange(output_frames, dtype="int32")[None, :, None]
    rows = warp.rows[:, None]
    first = ops.where(rows == outputs, warp.first[:, None], 0.0)
    second = ops.where(rows + 1 == outputs, warp.second[:, None], 0.0)
    return first + second


def weighted_mean(
    features: typing.Any, warp: Warp, output_frames: typing.Any
) -> typing.Any:
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


def weighted_max(
    features: typing.Any, warp: Warp, output_frames: typing.Any
) -> typing.Any:
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


def row_maxima(
    features: typing.Any, rows: typing.Any, output_frames: typing.Any
) -> typing.Any:
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
            is_highest = features == take_rows(highest, rows)
            is_highest = ops.cast(is_highest, features.dtype)
            count = _segments(ops.segment_sum, is_highest, rows, output_frames)
            share = upstream / ops.maximum(count, 1.0)
            return is_highest * take_rows(share, rows)

        return highest, gradient

    return maximum(features)


def take_rows(outputs: typing.Any, rows: typing.Any) -> typing.Any:
    """The output frame of every frame.

    Args:
        outputs: (batch, output frames, channels).
        rows: integers (batch, frames).

    Returns:
        (batch, frames, channels).
    """
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


def sinusoidal_encoding(frames: typing.Any, channels: int) -> typing.Any:
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
