"""Arithmetic of sizes and strides: Python numbers, or scalar tensors.

A size that is known while a graph is built is a number, and so is what follows
from it; a size that only the running graph knows is a tensor.
"""

import numpy as np
from keras import ops


def is_number(value):
    return isinstance(value, (int, float, np.number))


def numpy_or_ops(*values):
    return np if all(map(is_number, values)) else ops


def float32(value):
    return np.float32(value) if is_number(value) else ops.cast(value, "float32")


def int32(value):
    return int(value) if is_number(value) else ops.cast(value, "int32")


def minimum(a, b):
    """The smaller of two; where they are equal, the gradient is that of `a`.

    `ops.minimum` leaves the choice to the backend.
    """
    if is_number(a) and is_number(b):
        return min(a, b)
    return ops.where(a > b, b, a)


def maximum(a, b):
    """The larger of two; where they are equal, the gradient is that of `a`."""
    if is_number(a) and is_number(b):
        return max(a, b)
    return ops.where(a < b, b, a)
