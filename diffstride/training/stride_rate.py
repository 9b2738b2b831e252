"""A learning rate of their own for strides, and for other weights by name."""

import re
from collections.abc import Mapping

import keras

from diffstride.validation import check_not_negative


def set_stride_rate(
    optimizer: keras.optimizers.Optimizer, factor: float
) -> keras.optimizers.Optimizer:
    """Lets an optimizer move strides faster, or slower, than other weights.

    Strides have few steps to go a long way: from 2 to 1 or to 4, at the
    learning rate that suits weights of size 0.1. In short trainings they
    otherwise end about where they began.

    Args:
        optimizer: a Keras optimizer. It is changed.
        factor: number of 0 or more, by which its learning rate is multiplied
            for the weights named `strides`.

    Returns:
        The optimizer.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((16, 16, 1)), DiffStride(2), keras.layers.ReLU()]
    ... )
    >>> model.compile(set_stride_rate(keras.optimizers.Adam(), 10), "mse")
    """
    return set_weight_rates(optimizer, {"strides": factor})


def set_weight_rates(
    optimizer: keras.optimizers.Optimizer, factors: Mapping[str, float]
) -> keras.optimizers.Optimizer:
    """Lets an optimizer move weights of some names faster, or slower.

    Args:
        optimizer: a Keras optimizer. It is changed.
        factors: dict from the name of a weight, as `"strides"`, to the number
            of 0 or more by which its learning rate is multiplied.

    Returns:
        The optimizer.

    Example:

    >>> model = keras.Sequential([keras.Input((16000,)), LEAF(num_groups=8)])
    >>> optimizer = set_weight_rates(
    ...     keras.optimizers.Adam(),
    ...     {"log_center_frequencies": 10, "log_bandwidths": 10},
    ... )
    >>> model.compile(optimizer, "mse")
    """
    for factor in factors.values():
        check_not_negative(factor=factor)
    if keras.backend.backend() == "torch":
        raise NotImplementedError(
            "`set_weight_rates` needs TensorFlow or JAX. Under torch, Keras "
            "updates all weights at once, with one learning rate."
        )
    # An optimizer that scales the loss leaves the step to one inside.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    update_step = inner.update_step

    def update_step_of(gradient, variable, learning_rate):
        # TensorFlow's own name of a variable is like "strides/replica_1:0".
        for name in re.split("[/:]", variable.name):
            learning_rate = learning_rate * factors.get(name, 1)
        return update_step(gradient, variable, learning_rate)

    inner.update_step = update_step_of
    return optimizer
