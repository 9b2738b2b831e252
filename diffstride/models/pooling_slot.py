"""Slots for layers, above all the pooling slot: how a builder downsamples.

Every builder takes `pooling_cls`. None stands for a strided convolution; any
other value makes a pooling layer that follows a convolution without strides. A
list has one of these for each stage of the network.
"""

import math
from collections.abc import Mapping

import keras

# Config dicts and saved models name the layers of this module.
import diffstride.layers.pooling  # noqa: F401


def downsampling(pooling_cls, strides, data_format=None, name=None):
    """Splits the downsampling of a stage between convolution and pooling.

    Args:
        pooling_cls: None, or what `make_pooling` takes.
        strides: number, or a tuple of two for height and width.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.
        name: string. Name of the pooling layer, and of the stage in errors.

    Returns:
        The strides of the convolution, a pair of integers, and the pooling
        layer that follows it, or None.

    Example:

    >>> from diffstride.layers.pooling import SpatialPooling
    >>> downsampling(None, 2.0)
    ((2, 2), None)
    >>> downsampling(SpatialPooling, 2, name="pooling")
    ((1, 1), <SpatialPooling name=pooling, built=False>)
    """
    if pooling_cls is None:
        return integer_strides(strides, name), None
    return (1, 1), make_pooling(pooling_cls, strides, data_format, name)


def make_pooling(pooling_cls, strides, data_format=None, name=None):
    """Makes the pooling layer of one slot.

    Args:
        pooling_cls: class, function or config dict. A class or function is
            called as `pooling_cls(strides=..., data_format=..., name=...)`. A
            dict is what `keras.saving.serialize_keras_object(layer)` returns;
            for the layers of this package `{"class_name": "DiffStride",
            "config": {"smoothness_factor": 2.0}}` is enough.
        strides: number, or a tuple of two for height and width. It takes the
            place of strides in the config dict.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.
        name: string. Name of the layer.

    Returns:
        A Keras layer.
    """
    arguments = {
        "strides": strides_pair(strides, name),
        "data_format": keras.config.image_data_format()
        if data_format is None
        else data_format,
        "name": name,
    }
    layer = None
    if isinstance(pooling_cls, Mapping):
        layer = _from_config(pooling_cls, arguments)
    elif callable(pooling_cls) and not isinstance(
        pooling_cls, keras.layers.Layer
    ):
        layer = pooling_cls(**arguments)
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "`pooling_cls` must be None, or a class, a function or a config "
            "dict that makes a Keras layer. "
            f"Received: pooling_cls={pooling_cls}"
        )
    return layer


def per_stage(value, argument, stages):
    """Values of all stages, from one for all or a list with one for each."""
    if not isinstance(value, (list, tuple)):
        return [value] * stages
    if len(value) != stages:
        raise ValueError(
            f"`{argument}` must be one value, or a list with one for each of "
            f"the {stages} stages. Received: {argument}={value}"
        )
    return list(value)


def make_layer(argument, layer, **options):
    """Makes the layer of an argument that takes any layer.

    Args:
        argument: string. Name of the argument, and of the layer.
        layer: a layer; or a class or a function of `name`, or a config dict,
            that makes one.
        **options: what a class or a function is told besides.

    Returns:
        A Keras layer.
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


def pooling_config(pooling):
    """The config dict from which `make_pooling` makes such a layer again."""
    if pooling is None:
        return None
    return keras.saving.serialize_keras_object(pooling)


def strides_pair(strides, stage=None):
    """Strides of height and width from one number or two."""
    try:
        pair = tuple(strides) if hasattr(strides, "__len__") else (strides,) * 2
        valid = len(pair) == 2 and all(
            1 <= stride < math.inf for stride in pair
        )
    except TypeError:
        valid = False
    if not valid or isinstance(strides, (str, bool)):
        raise ValueError(
            "`strides` must be a number of 1 or more, or a tuple of two. "
            f"Received: strides={strides!r}{_in_stage(stage)}"
        )
    return pair


def integer_strides(strides, stage=None):
    """Strides of height and width as a convolution needs them."""
    pair = strides_pair(strides, stage)
    if any(stride != int(stride) for stride in pair):
        raise ValueError(
            "`strides` must be integers without a spectral pooling layer: "
            "set `pooling_cls` for fractional ones. "
            f"Received: strides={strides!r}{_in_stage(stage)}"
        )
    return tuple(int(stride) for stride in pair)


def _from_config(config, arguments):
    registered_name = f"diffstride>{config.get('class_name')}"
    if keras.saving.get_registered_object(registered_name) is None:
        registered_name = None
    config = {
        # What a short config leaves out.
        "module": "keras.layers",
        "registered_name": registered_name,
        **config,
        "config": {**config.get("config", {}), **arguments},
    }
    # The layer that owns the slot builds it, in shapes of its own.
    config.pop("build_config", None)
    return keras.saving.deserialize_keras_object(config)


def _in_stage(stage):
    return "" if stage is None else f" for {stage}"
