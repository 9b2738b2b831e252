"""Statistics of batch normalisation, measured anew."""

import contextlib
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from diffstride.analysis.keras_graph import sublayers
from diffstride.validation import check_positive_integer


def recalibrate(
    model: keras.Model,
    data: np.ndarray | Iterable,
    batch_size: int = 128,
    batches: int | None = None,
) -> int:
    """Measures the means and variances of batch normalisations anew.

    A model whose strides have changed, by `learn_strides` or by
    `to_integer_strides`, gives its batch normalisations maps of other
    statistics than those that they have kept. This sends some batches through
    the model and sets each mean and variance to the average over them. Nothing
    is trained, and no labels are needed.

    Args:
        model: a built Keras model. Its batch normalisations are changed.
        data: an array of examples, or an iterable of batches as `fit` takes:
            a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a list. What
            comes after the examples in a batch, such as labels, is left alone.
        batch_size: integer. For an array: how many examples make a batch.
        batches: integer or None. How many batches to use. None means all.

    Returns:
        How many batches were used.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.BatchNormalization()]
    ... )
    >>> recalibrate(model, np.full((8, 4), 3.0))
    1
    >>> float(model.layers[0].moving_mean[0])
    3.0
    """
    layers = [
        layer
        for layer in sublayers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    if not layers:
        raise ValueError(
            "`model` must have batch normalisations that are trainable. "
            f"Received: model={model.name}, which has none"
        )
    if batches is not None:
        batches = check_positive_integer(batches, "batches")
    used = 0
    with _rest_kept(model, layers):
        for examples in _examples(data, batch_size):
            # With this momentum, moving averages are means over all batches.
            for layer in layers:
                layer.momentum = used / (used + 1)
            model(examples, training=True)
            used += 1
            if used == batches:
                break
    if not used:
        raise ValueError("`data` must have a batch. Received: no examples")
    return used


def _examples(data, batch_size):
    if hasattr(data, "shape"):
        batch_size = check_positive_integer(batch_size, "batch_size")
        for start in range(0, data.shape[0], batch_size):
            yield ops.convert_to_tensor(data[start : start + batch_size])
        return
    if isinstance(data, keras.utils.PyDataset):
        batches = (data[index] for index in range(len(data)))
    else:
        batches = iter(data)
    for batch in batches:
        yield batch[0] if isinstance(batch, tuple) else batch


@contextlib.contextmanager
def _rest_kept(model, layers):
    """Undoes what such calls change besides the statistics of these layers."""
    momenta = [layer.momentum for layer in layers]
    measured = {id(v) for layer in layers for v in layer.weights}
    # Such as counters of steps, and the state of random generators.
    kept = [
        (variable, ops.convert_to_numpy(variable).copy())
        for variable in model.non_trainable_variables
        if id(variable) not in measured
    ]
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for variable, value in kept:
            variable.assign(value)
