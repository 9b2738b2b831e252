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


def make_frontend(frontend):
    """Makes the layers from a waveform to the bands of its frames.

    Args:
        frontend: what `make_layer` takes; or a list of such, whose layers
            follow one another.

    Returns:
        A list of Keras layers. The names of those that are made are
        `"frontend"`, `"frontend_2"`, and so on.

    Example:

    >>> make_frontend([LogMelSpectrogram(log_offset=None), PCEN])[1]
    <PCEN name=frontend_2, built=False>
    """
    if not isinstance(frontend, (list, tuple)):
        frontend = [frontend]
    if not frontend:
        raise ValueError(
            "`frontend` must have one layer or more. Received: frontend=[]"
        )
    return [
        make_layer(f"frontend_{index}" if index > 1 else "frontend", layer)
        for index, layer in enumerate(frontend, start=1)
    ]


def make_frame_reduction(layer, log_scale, **options):
    """Makes the layer that reduces the frames of a spectrogram.

    Args:
        layer: what `make_layer` takes.
        log_scale: boolean. Whether the spectrogram is a logarithm. If not, a
            class or a function gets `log_scale=False`.
        **options: further arguments for a class or a function.

    Returns:
        A Keras layer.
    """
    made = make_layer("frame_reduction", layer, **options)
    if log_scale or not getattr(made, "log_scale", False):
        return made
    if callable(layer) and not isinstance(layer, keras.layers.Layer):
        # Only a layer that is made shows that it has a scale, because gin hides
        # the arguments of a class.
        return make_layer("frame_reduction", layer, log_scale=False, **options)
    raise ValueError(
        "`frame_reduction` must have `log_scale=False`, because the outputs of "
        f"the front end are no logarithms. Received: frame_reduction={made}, "
        "log_scale=True"
    )
