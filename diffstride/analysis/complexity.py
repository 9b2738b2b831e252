"""Eq. 6 of the paper: what the strides say that a network costs.

Reference:
    Riad et al., [Learning strides in convolutional neural networks](
    https://arxiv.org/abs/2202.01653), ICLR 2022, section 2.4.2.
"""

import functools
import typing
from collections.abc import Sequence

import keras
from keras import ops

from diffstride.analysis.learned_layers import strides_of, upstream_layers
from diffstride.validation import check_not_negative


def complexity(strides: Sequence[Sequence[float]]) -> typing.Any:
    """Computation and memory of a network, up to a factor (J in Eq. 6).

    Args:
        strides: for each downsampling layer of a chain, in the order of the
            calls, its strides: a number for each axis, or a tensor of them.

    Returns:
        The sum over the layers of the share of the input's points that are
        left after each of them.

    Example:

    >>> complexity([(2, 2), (2, 2)])
    0.3125
    """
    total, share = 0.0, 1.0
    for layer_strides in strides:
        for axis in range(len(layer_strides)):
            share = share / layer_strides[axis]
        total = total + share
    return total


def model_complexity(model: keras.Model) -> typing.Any:
    """J of Eq. 6 for a built model, from the strides in effect.

    Each DiffStride layer adds the product of `1 / stride` over its own axes
    and those of all DiffStride layers upstream of it. Layers on parallel
    branches are not multiplied with one another. A layer that is called several
    times, such as one that main path and shortcut share, counts once. Where
    branches with different layers meet, the one with the larger share goes on,
    because the map after an addition is as large as the larger map in front.

    See `diffstride.analysis.learned_layers.upstream_layers` for how the order
    of the calls is found.

    Args:
        model: a built Keras model.

    Returns:
        A scalar tensor, through which gradients reach the strides; 0.0 for a
        model without DiffStride layers.

    Example:

    >>> model = keras.Sequential([keras.Input((32, 32, 3)), DiffStride(2)])
    >>> float(model_complexity(model))
    0.25
    """
    return _complexity(upstream_layers(model))


def _complexity(upstream):
    shares = {None: 1.0}
    for layer, directly_upstream in upstream.items():
        share = functools.reduce(
            ops.maximum, [shares[other] for other in directly_upstream]
        )
        for stride in strides_of(layer):
            share = share / stride
        shares[layer] = share
    del shares[None]
    return sum(shares.values(), 0.0)


def add_complexity_loss(model: keras.Model, weight: float) -> None:
    """Adds `weight` times `model_complexity` to the loss of a built model.

    Eq. 6 couples the strides of all layers, but a Keras regularizer belongs to
    one weight. Therefore the whole sum is the regularizer of the first strides
    that are trained, and reads the strides of the other layers. Freezing some
    of the layers changes nothing in the sum; with all of them frozen there is
    no loss.

    The loss belongs to the training and not to the model: it is not saved. Add
    it again to a model that was loaded.

    Args:
        model: a built Keras model with DiffStride layers.
        weight: number of 0 or more, the λ of Eq. 6.

    Example:

    >>> model = keras.Sequential([keras.Input((32, 32, 3)), DiffStride(2)])
    >>> add_complexity_loss(model, weight=0.1)
    >>> round(float(sum(model.losses)), 3)
    0.025
    """
    check_not_negative(weight=weight)
    upstream = upstream_layers(model)

    def trained_layers():
        trained = {id(variable) for variable in model.trainable_variables}
        return [layer for layer in upstream if id(layer.strides) in trained]

    if not all(layer.built for layer in upstream) or not trained_layers():
        raise ValueError(
            "`model` must be built and have DiffStride layers whose strides "
            f"are trained. Received: model={model.name}, with "
            f"{len(upstream)} DiffStride layers"
        )

    class ComplexityRegularizer(keras.regularizers.Regularizer):
        """The whole sum, for the first layer that is trained."""

        def __init__(self, layer):
            self.layer = layer

        def __call__(self, _):
            if self.layer not in trained_layers()[:1]:
                return ops.zeros(())
            return weight * _complexity(upstream)

    for layer in upstream:
        layer.strides.regularizer = ComplexityRegularizer(layer)
