"""Arguments of builders that may be any layer, such as a front end."""

from collections.abc import Mapping

import keras


def make_layer(argument, layer, **options):
    """Makes the layer of an argument that takes any layer.

    Args:
        argument: string. Name of the argument, and of the layer.
        layer: a layer; or a class or a function of `name`, or a config dict,
            that makes one.
        **options: further arguments for a class or a function.

    Returns:
        A Keras layer.

    Example:

    >>> make_layer("frontend", LogMelSpectrogram, num_mels=40)
    <LogMelSpectrogram name=frontend, built=False>
    """
    made = layer
    if isinstance(layer, keras.layers.Layer | Mapping) and options:
        raise ValueError(
            f"`{argument}` must be a class or a function to be told "
            f"{sorted(options)}. Received: {argument}={layer}"
        )
    if isinstance(layer, Mapping):
        made = keras.saving.deserialize_keras_object(dict(layer))
    elif callable(layer) and not isinstance(layer, keras.layers.Layer):
        made = layer(name=argument, **options)
    if not isinstance(made, keras.layers.Layer):
        raise TypeError(
            f"`{argument}` must be a Keras layer, or a class, a function or a "
            f"config dict that makes one. Received: {argument}={layer}"
        )
    return made
