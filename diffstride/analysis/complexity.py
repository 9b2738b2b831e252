"""Eq. 6 of the paper: what the strides say that a network costs.

Reference:
    Riad et al., [Learning strides in convolutional neural networks](
    https://arxiv.org/abs/2202.01653), ICLR 2022, section 2.4.2.
"""

import math

from keras import ops

from diffstride.analysis.learned_layers import learned_layers, strides_of
from diffstride.validation import is_number


def complexity(strides):
    """Computation and memory of a network, up to a factor (J in Eq. 6).

    Args:
        strides: for each downsampling layer in order of depth, its strides: a
            number for each axis, or a tensor of them.

    Returns:
        The sum over layers of the share of the input that is left there.

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


def add_complexity_loss(model, weight):
    """Adds `weight` times Eq. 6 to the loss of a built model.

    The sum couples the strides of all layers (see `learned_layers` for their
    order), while Keras knows regularizers of one weight each: it counts with
    the first layer whose strides are trained, and reads those of the others.
    It belongs to the training, not to the model: it is not saved, and is to be
    added again to a model that was loaded.

    Args:
        model: a built Keras model with DiffStride layers.
        weight: number of 0 or more, the λ of Eq. 6.

    Example:

    >>> model = keras.Sequential([keras.Input((32, 32, 3)), DiffStride(2)])
    >>> add_complexity_loss(model, weight=0.1)
    >>> round(float(sum(model.losses)), 3)
    0.025
    """
    if not is_number(weight) or not 0 <= weight < math.inf:
        raise ValueError(
            "`weight` must be a finite number of 0 or more. "
            f"Received: weight={weight}"
        )
    layers = learned_layers(model)
    if not all(layer.built for layer in layers) or not any(
        layer.trainable for layer in layers
    ):
        raise ValueError(
            "`model` must be built and have DiffStride layers whose strides "
            f"are trained. Received: model={model.name}, with "
            f"{len(layers)} DiffStride layers"
        )

    def regularizer(of_layer):
        trained = [layer for layer in layers if layer.trainable]
        if of_layer is not trained[0]:
            return ops.zeros(())
        return weight * complexity([strides_of(layer) for layer in layers])

    for layer in layers:
        layer.strides.regularizer = lambda _, layer=layer: regularizer(layer)
