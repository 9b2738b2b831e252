"""The way back from output frames to the frames that DiffRes merged.

`transposed` multiplies by the transposed warp matrix, `to_frames` brings
predictions back to the frames, and `edges` says when output frames begin and
end.
"""

import typing

import keras
from keras import ops, tree

from diffstride.ops.warping import Warp, row_maxima, take_rows


def transposed(outputs: typing.Any, warp: Warp) -> typing.Any:
    """The product of the transposed warp matrix with features of output frames.

    It is the adjoint of `weighted_mean`: a frame receives what its output
    frames hold, times its share of each.

    Args:
        outputs: (batch, output frames, channels).
        warp: a `Warp`.

    Returns:
        (batch, frames, channels).
    """
    outputs, warp = _as_tensors(outputs, warp)
    first = take_rows(outputs, warp.rows) * warp.first[..., None]
    return first + take_rows(outputs, warp.rows + 1) * warp.second[..., None]


def to_frames(outputs: typing.Any, warp: Warp) -> typing.Any:
    """What output frames hold, back at the frames that were merged.

    A frame that was split receives the average of its two output frames,
    weighted by its pieces. All others receive what their output frame holds, so
    that a prediction keeps its scale.

    Args:
        outputs: (batch, output frames, channels).
        warp: a `Warp`.

    Returns:
        (batch, frames, channels).
    """
    outputs, warp = _as_tensors(outputs, warp)
    share = _share_of_second(warp)[..., None]
    first = take_rows(outputs, warp.rows) * (1.0 - share)
    return first + take_rows(outputs, warp.rows + 1) * share


def edges(
    warp: Warp, output_frames: typing.Any, mask: typing.Any = None
) -> typing.Any:
    """Where output frames begin and end, in frames.

    Output frame `i` lasts from `edges[:, i]` to `edges[:, i + 1]`. Inside a
    frame that was split, the edge is in proportion to its pieces. Times the
    seconds of a hop, edges are times.

    Args:
        warp: a `Warp`.
        output_frames: integer or scalar tensor.
        mask: booleans (batch, frames), or None. False for frames of padding.

    Returns:
        (batch, output frames + 1), from zero to the number of frames of the
        clip. An output frame that a clip has not lasts no time.
    """
    warp = tree.map_structure(ops.convert_to_tensor, warp)
    frames = ops.cast(ops.arange(ops.shape(warp.rows)[1]), warp.first.dtype)
    ends = frames + 1.0 - _share_of_second(warp)
    lasts = ops.cast(ops.ones_like(warp.rows), ends.dtype) * (frames + 1.0)
    if mask is not None:
        ends, lasts = (ops.where(mask, x, 0.0) for x in (ends, lasts))
    last = ops.max(lasts, axis=1, keepdims=True)
    inner = row_maxima(ends[..., None], warp.rows, output_frames)[..., 0]
    # Output frames without frames are those past the end of the clip.
    inner = ops.where(inner > 0, inner, last)
    return ops.pad(inner, [[0, 0], [1, 0]])


def _share_of_second(warp):
    """Which part of each frame belongs to its second output frame."""
    length = ops.maximum(warp.first + warp.second, keras.config.epsilon())
    return warp.second / length


def _as_tensors(outputs, warp):
    warp = tree.map_structure(ops.convert_to_tensor, warp)
    return ops.cast(outputs, warp.first.dtype), warp
