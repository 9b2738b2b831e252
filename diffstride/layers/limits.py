"""A constraint that keeps a weight between two limits."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="diffstride")
class Limits(keras.constraints.Constraint):
    """Keeps a weight within limits, after each step of an optimizer.

    Args:
        lower: number, or one for each entry of the weight.
        upper: number, or one for each entry of the weight.

    Example:

    >>> limits = Limits(0.0, [1.0, 2.0])
    >>> keras.ops.convert_to_numpy(limits(np.array([-3.0, 3.0]))).tolist()
    [0.0, 2.0]
    """

    def __init__(
        self, lower: float | Sequence[float], upper: float | Sequence[float]
    ):
        self.lower = np.asarray(lower).tolist()
        self.upper = np.asarray(upper).tolist()
        if np.greater(self.lower, self.upper).any():
            raise ValueError(
                "`lower` must be at most `upper`, for each entry. "
                f"Received: lower={self.lower}, upper={self.upper}"
            )

    def __call__(self, weight):
        weight = ops.convert_to_tensor(weight)
        lower, upper = (
            ops.convert_to_tensor(limit, dtype=weight.dtype)
            for limit in (self.lower, self.upper)
        )
        return ops.minimum(ops.maximum(weight, lower), upper)

    def get_config(self):
        return {"lower": self.lower, "upper": self.upper}
