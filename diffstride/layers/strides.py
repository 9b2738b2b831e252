"""The weight that holds the strides of a layer, and its limits."""

import keras
import numpy as np
from keras import ops


def as_floats(strides):
    """Strides, or one number, as a tuple of floats, or None.

    It is None if only a running graph knows the strides, or if a training that
    went wrong left no finite ones: sizes do not follow these.
    """
    try:
        values = np.ravel(ops.convert_to_numpy(strides))
    except Exception:  # Each backend raises an error of its own.
        return None
    return tuple(map(float, values)) if np.isfinite(values).all() else None


@keras.saving.register_keras_serializable(package="diffstride")
class StrideConstraint(keras.constraints.Constraint):
    """Keeps strides at 1 or more, and within limits.

    Args:
        lower_limit: number, or one for each axis. Smallest stride.
        upper_limit: number, or one for each axis. Largest stride. Where the
            limits cross, this one holds.

    Example:

    >>> constraint = StrideConstraint(upper_limit=3.0)
    >>> keras.ops.convert_to_numpy(constraint(np.array([0.5, 4.0]))).tolist()
    [1.0, 3.0]
    """

    def __init__(
        self, lower_limit: float | None = None, upper_limit: float | None = None
    ):
        self.lower_limit = lower_limit
        self.upper_limit = upper_limit

    def __call__(self, strides):
        strides = ops.convert_to_tensor(strides)

        def as_tensor(limit):
            return ops.convert_to_tensor(limit, dtype=strides.dtype)

        if self.lower_limit is not None:
            strides = ops.maximum(strides, as_tensor(self.lower_limit))
        if self.upper_limit is not None:
            strides = ops.minimum(strides, as_tensor(self.upper_limit))
        return ops.maximum(strides, as_tensor(1))

    def get_config(self):
        return {
            "lower_limit": self.lower_limit,
            "upper_limit": self.upper_limit,
        }


class StridesVariable(keras.Variable):
    """A weight for strides, which stays within its limits.

    Attributes:
        listener: None, or an object with two methods. `assigned(strides)` is
            called with floats after somebody set the strides outside of a
            graph. `about_to_be_read()` is called before the value is read.
    """

    listener = None

    @property
    def value(self):
        if self.listener is not None:
            self.listener.about_to_be_read()
        return super().value

    def assign(self, value):
        value = ops.convert_to_tensor(value, dtype=self.dtype)
        if self.constraint is not None and tuple(value.shape) == self.shape:
            value = self.constraint(value)
        return super().assign(value)

    def _direct_assign(self, value):
        # Keras calls this where a value really changes: not in the stateless
        # code of JAX, where `assign` has no effect on the variable.
        super()._direct_assign(value)
        strides = as_floats(value)
        if self.listener is not None and strides is not None:
            self.listener.assigned(strides)
