"""How much the frames of a clip count, and how many output frames it gets.

Tensors have the axes (batch, frames). A mask holds booleans of the same shape,
False for frames of padding. Padding has a score of zero. The number of output
frames is an integer or a scalar tensor, which holds for every clip, or a tensor
(batch,) with one number for each.

Reference: Liu et al., [Learning the spectrogram temporal resolution for audio
classification](https://arxiv.org/abs/2210.01719), 2022.
"""

import typing

import keras
import numpy as np
from keras import ops


def for_each_clip(value: typing.Any, dtype: str) -> typing.Any:
    """A number, or one for each clip, as (1, 1) or (batch, 1)."""
    return ops.reshape(ops.cast(value, dtype), (-1, 1))


def reduced_frames(
    frames: typing.Any, reduction_rate: float, limit: int | None = None
) -> typing.Any:
    """How many of `frames` a reduction rate leaves: at least one.

    Args:
        frames: integer, or integer tensor of any shape, or None where it is
            unknown.
        reduction_rate: number, or scalar tensor, below 1.
        limit: integer or None. The largest possible value of a tensor
            `frames`, where it is known.
    """
    if frames is None:
        return None
    keep = 1 - reduction_rate
    if isinstance(keep, float | int):
        if isinstance(frames, int):
            return max(round(frames * keep), 1)
        if isinstance(limit, int):
            # Look the result up, because JAX has no 64-bit numbers to compute
            # it with, and 32 bits round some products the other way.
            results = np.maximum(np.rint(np.arange(limit + 1) * keep), 1)
            return ops.take(results.astype("int32"), frames)
    # Compute in 64 bits, as Python does above, so that a graph rounds the same
    # way whether it knows the number of frames or not.
    keep = ops.convert_to_tensor(keep, dtype="float64")
    kept = ops.round(ops.cast(frames, "float64") * keep)
    return ops.maximum(ops.cast(kept, "int32"), 1)


def rate(
    scores: typing.Any, output_frames: typing.Any, mask: typing.Any = None
) -> typing.Any:
    """Output frames over frames: the score if all frames have the same one.

    Returns:
        A scalar, or (batch,) with a mask.
    """
    if mask is None:
        frames = ops.cast(ops.shape(scores)[1], scores.dtype)
    else:
        frames = ops.sum(ops.cast(mask, scores.dtype), axis=1)
        frames = ops.maximum(frames, 1.0)
    return ops.cast(output_frames, scores.dtype) / frames


def rescale_scores(
    scores: typing.Any,
    output_frames: typing.Any,
    fill_up: bool = True,
    mask: typing.Any = None,
) -> typing.Any:
    """Scores of at most one that sum to `output_frames`.

    Section 2.2.1 of the paper divides the scores by their sum and multiplies
    them by `output_frames`. If one of them then exceeds one, it divides all by
    the maximum, so that they sum to less than `output_frames`. With `fill_up`,
    the missing part is added to the frames, in proportion to the difference of
    each score from one.

    If there are fewer frames than `output_frames`, every score becomes one.

    Args:
        scores: (batch, frames), of zero or more.
        output_frames: integer or tensor.
        fill_up: boolean. Whether to reach the sum.
        mask: booleans (batch, frames), or None. Frames of padding get a score
            of zero.

    Example:

    >>> scores = rescale_scores(np.array([[0.2, 0.2, 0.8, 0.8]]), 2)
    >>> np.round(keras.ops.convert_to_numpy(scores), 3).tolist()
    [[0.2, 0.2, 0.8, 0.8]]
    """
    epsilon = keras.config.epsilon()
    scores = ops.convert_to_tensor(scores) + epsilon
    valid = ops.ones_like(scores)
    if mask is not None:
        valid = ops.cast(mask, scores.dtype)
        scores = ops.where(mask, scores, 0.0)
    count = ops.sum(valid, axis=1, keepdims=True)
    total = ops.minimum(for_each_clip(output_frames, scores.dtype), count)
    # The limit is for clips that are all padding.
    all_scores = ops.maximum(ops.sum(scores, axis=1, keepdims=True), epsilon)
    scores = scores / all_scores * total
    # `initial` gives an empty batch a maximum.
    scores = scores / ops.max(scores, axis=1, keepdims=True, initial=1.0)
    if not fill_up:
        return scores
    lacking = valid - scores
    left = ops.sum(lacking, axis=1, keepdims=True)
    # The differences from one must sum to `count - total`, which is exact.
    return valid - lacking * ((count - total) / ops.maximum(left, epsilon))


def dissimilarity(features: typing.Any, mask: typing.Any = None) -> typing.Any:
    """How much each frame differs from its neighbours: a score to start from.

    Two frames `x` and `y` differ by `|x - y|² / (2 |x|² + 2 |y|²)`. It is zero
    for equal frames, one for opposite ones, and does not depend on the scale of
    the features. For frames of the same norm it is `(1 - cos) / 2`, with the
    cosine between them. The score is the average over both neighbours.

    Args:
        features: (batch, frames, channels).
        mask: booleans (batch, frames), or None. Frames of padding are not
            compared with.

    Returns:
        (batch, frames), between zero and one.

    Example:

    >>> frames = np.array([[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    >>> keras.ops.convert_to_numpy(dissimilarity(frames)).tolist()
    [[0.0, 0.0, 0.25, 0.5]]
    """
    x = ops.convert_to_tensor(features)
    energy = ops.sum(ops.square(x), axis=-1)
    change = ops.sum(ops.square(x[:, 1:] - x[:, :-1]), axis=-1)
    scale = 2 * (energy[:, 1:] + energy[:, :-1])
    # Two frames of zeros do not differ.
    change = change / ops.maximum(scale, keras.config.epsilon() ** 2)
    pairs = ops.ones_like(change)
    if mask is not None:
        mask = ops.convert_to_tensor(mask)
        pairs = ops.cast(
            ops.logical_and(mask[:, 1:], mask[:, :-1]), change.dtype
        )

    def with_both_neighbours(values):
        before = ops.pad(values, [[0, 0], [1, 0]])
        return before + ops.pad(values, [[0, 0], [0, 1]])

    neighbours = ops.maximum(with_both_neighbours(pairs), 1.0)
    return with_both_neighbours(change * pairs) / neighbours


def frame_energy(spectrogram: typing.Any) -> typing.Any:
    """Root mean square over the channels of every frame, on a linear scale."""
    return ops.sqrt(ops.mean(ops.square(spectrogram), axis=-1))


def guide_loss(
    scores: typing.Any, empty: typing.Any, rate: typing.Any, threshold: float
) -> typing.Any:
    """Eq. 7: how far the scores of empty frames exceed a threshold.

    Scores are divided by `rate`, the score that every frame has if all have the
    same one. (The paper prints δ in this place, and a minus sign in front. With
    these the threshold could not be met; the released code does as here.)

    Args:
        scores: (batch, frames), rescaled.
        empty: booleans (batch, frames). Frames with little energy.
        rate: number, or one for each clip. Output frames over frames.
        threshold: number, λ in the paper.

    Returns:
        (batch,). Zero for a clip without empty frames.
    """
    scores = ops.convert_to_tensor(scores)
    rate = for_each_clip(rate, scores.dtype)
    excess = ops.relu(_ratio(scores, rate) - threshold)
    return _masked_mean(excess, empty)


def activeness(
    scores: typing.Any, active: typing.Any, rate: typing.Any
) -> typing.Any:
    """Eq. 4: the standard deviation of the scores, in units of `rate`.

    Args:
        scores: (batch, frames), rescaled.
        active: booleans (batch, frames). Frames with some energy.
        rate: number, or one for each clip. Output frames over frames.

    Returns:
        (batch,). Zero if all frames have the same score.
    """
    scores = ops.convert_to_tensor(scores)
    mean = _masked_mean(scores, active)[:, None]
    variance = _masked_mean(ops.square(scores - mean), active)
    return _ratio(ops.sqrt(variance), ops.cast(rate, scores.dtype))


def _ratio(values, rate):
    """A ratio that is zero for clips without frames, whose rate is zero."""
    return values / ops.maximum(rate, keras.config.epsilon())


def _masked_mean(values, mask):
    mask = ops.cast(mask, values.dtype)
    count = ops.maximum(ops.sum(mask, axis=1), 1.0)
    return ops.sum(values * mask, axis=1) / count
