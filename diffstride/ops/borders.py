"""Points around a map, made from the map itself."""

import numpy as np
from keras import ops


def extend(inputs, axis, before, after, mode):
    """Adds points at both ends of an axis, even more than the axis has.

    Args:
        inputs: tensor. The size of the axis may be unknown.
        axis: integer.
        before: integer. Points in front of the first one.
        after: integer. Points behind the last one.
        mode: `"reflect"` mirrors the axis at its first and its last point, as
            `numpy.pad` does; `"wrap"` takes the axis as periodic.

    Returns:
        A tensor.

    Example:

    >>> extended = extend(np.array([1, 2, 3]), 0, 1, 3, "reflect")
    >>> keras.ops.convert_to_numpy(extended).tolist()
    [2, 1, 2, 3, 2, 1, 2]
    """
    size = ops.shape(inputs)[axis]

    def points(positions):
        if mode == "reflect":
            period = ops.maximum(2 * (size - 1), 1)
            distance = ops.abs(size - 1 - ops.mod(positions, period))
            positions = size - 1 - distance
        else:
            positions = ops.mod(positions, size)
        return ops.take(inputs, positions, axis=axis)

    parts = [inputs]
    if before:
        parts.insert(0, points(np.arange(-before, 0, dtype="int32")))
    if after:
        parts.append(points(size + np.arange(after, dtype="int32")))
    return ops.concatenate(parts, axis=axis)
