"""Padding with which a layer without strides sees the windows of before.

Without its stride, a convolution or pooling makes a point for every start of a
window, and DiffStride resamples these. Three things must hold so that the
result can stand for the original:

- The first window starts where it started. Otherwise the map is moved against
  others that it meets.
- There are as many points as the stride times the points of the original, so
  that each point of the original is one of them, and resampling by the initial
  stride leaves as many as before.
- Layers that share their stride make the same number of points, as they meet.
"""

from diffstride.surgery.size_changes import (
    POOLINGS,
    WITH_SLOT,
    data_format_of,
    first_convolution,
    rank_of,
    spatial_axes,
)


def aligned_paddings(shared):
    """Padding of each layer with strides, once its strides are 1.

    Args:
        shared: the `SharedStrides` of a model.

    Returns:
        A dict from each layer to `((top, bottom), (left, right))`, with a pair
        for each axis.
    """
    windows = {
        layer: _windows(layer, shared.input_shapes[layer]) for layer in shared
    }
    groups = {}
    for layer in windows:
        groups.setdefault(shared.leader(layer), []).append(layer)
    paddings = {}
    for group in groups.values():
        # The windows of all layers along the first axis, then the next.
        axes = zip(*(windows[layer] for layer in group), strict=True)
        by_axis = [_paddings_of_axis(axis) for axis in axes]
        for layer, *padding in zip(group, *by_axis, strict=True):
            paddings[layer] = tuple(padding)
    return paddings


def own_padding(layer):
    """What a layer can pad by itself, once its strides are 1.

    It is `padding="causal"` if the layer has it, else `padding="same"`.
    """
    if _padding_of(layer) == "causal":
        return tuple((window - 1, 0) for window in window_of(layer))
    return tuple(
        ((window - 1) // 2, window // 2) for window in window_of(layer)
    )


def beyond(padding, other):
    """What a padding has more than another; negative where it has less."""
    return tuple(
        tuple(a - b for a, b in zip(axis, other_axis, strict=True))
        for axis, other_axis in zip(padding, other, strict=True)
    )


def window_of(layer):
    """Sizes of the windows of a convolution or pooling."""
    if isinstance(layer, WITH_SLOT):
        layer = first_convolution(layer)
    is_pooling = isinstance(layer, POOLINGS)
    return tuple(layer.pool_size if is_pooling else layer.kernel_size)


def _padding_of(layer):
    return "same" if isinstance(layer, WITH_SLOT) else layer.padding


class _Windows:
    """The windows of a layer along one axis."""

    def __init__(self, size, window, stride, padding):
        self._size, self._window = size, window
        if padding == "valid":
            count = (size - window) // stride + 1
            self._before = 0
        else:
            count = -(-size // stride)
            missing = (count - 1) * stride + window - size
            self._before = max(missing, 0) // 2
        if padding == "causal":
            self._before = window - 1
        self.points = count * stride

    def _starts(self):
        """Number of starts of a window without padding after the map."""
        return self._size + self._before - self._window + 1

    def padding(self, points):
        """Padding before and after the map with which there are `points`."""
        return self._before, points - self._starts()


def _windows(layer, input_shape):
    """The windows of a layer along each axis."""
    axes = spatial_axes(rank_of(layer) + 2, data_format_of(layer))
    return [
        _Windows(input_shape[axis], window, stride, _padding_of(layer))
        for axis, window, stride in zip(
            axes, window_of(layer), layer.strides, strict=True
        )
    ]


def _paddings_of_axis(windows):
    """Padding along one axis of layers that share their strides."""
    points = max(one.points for one in windows)
    return [one.padding(points) for one in windows]
