"""Small models for the tests of `diffstride.surgery`, and what they give."""

import keras
import numpy as np
from keras import layers, ops

from diffstride.analysis.learned_layers import learned_layers


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def outputs(model, inputs):
    return ops.convert_to_numpy(model(inputs, training=False))


def strides_of(model):
    return {
        layer.name: ops.convert_to_numpy(layer.strides).tolist()
        for layer in learned_layers(model)
    }


def set_strides(model, strides):
    for layer in learned_layers(model):
        layer.strides.assign(np.broadcast_to(strides, layer.strides.shape))
        layer.refresh_sizes()


def network(*body, shape=(16, 16, 1)):
    return keras.Sequential([keras.Input(shape), *body])


def branches(main, shortcut, meet=layers.Add, shape=(16, 16, 4)):
    """A model whose two branches meet, on top of a convolution."""
    inputs = keras.Input(shape)
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    ends = []
    for branch in (main, shortcut):
        x = stem
        for layer in branch:
            x = layer(x)
        ends.append(x)
    x = layers.GlobalAveragePooling2D()(meet()(ends))
    return keras.Model(inputs, x)


def conv(strides, name, **kwargs):
    kwargs = {"padding": "same", "kernel_size": 3, **kwargs}
    return layers.Conv2D(4, strides=strides, name=name, **kwargs)
