"""Tests of models whose learned strides become integers."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops
from surgery_models import images, network, outputs, set_strides

from diffstride import DiffStride, to_integer_strides
from diffstride.models.resnet import Resnet

layers = keras.layers


def test_learned_strides_of_a_resnet_become_integers():
    model = Resnet(
        filters=2,
        strides=(1, 1, 2),
        num_layers=1,
        pooling_cls=DiffStride,
        input_shape=(32, 32, 3),
    )
    set_strides(model, (1.6, 2.5))
    integer = to_integer_strides(model)
    for name in ("stem_convolution", "block1", "block2"):
        assert integer.get_layer(name).strides == (2, 3)


def test_a_shortcut_without_a_convolution_keeps_single_points():
    inputs = keras.Input((12, 12, 1))
    pool = DiffStride(2, norm="forward", ramp="inside", name="pool")
    x = layers.Conv2D(1, 3, padding="same", name="a")(inputs)
    model = keras.Model(inputs, layers.Add()([pool(x), pool(inputs)]))
    set_strides(model, (2.2, 2.8))
    integer = to_integer_strides(model)
    integer.get_layer("a").kernel.assign(np.zeros((3, 3, 1, 1)))
    x = images(2, 12, 12, 1)
    np.testing.assert_array_equal(outputs(integer, x), x[:, ::2, ::3])


def test_a_convolution_with_other_users_keeps_its_size():
    inputs = keras.Input((12, 12, 1))
    x = layers.Conv2D(1, 3, padding="same", name="a")(inputs)
    y = layers.GlobalMaxPooling2D()(x)
    z = layers.GlobalMaxPooling2D()(DiffStride(2)(x))
    integer = to_integer_strides(keras.Model(inputs, [y, z]))
    assert integer.get_layer("a").strides == (1, 1)
    y, z = (ops.convert_to_numpy(y) for y in integer(images(2, 12, 12, 1)))
    assert (y >= z).all()


def test_unequal_strides_of_a_depthwise_convolution():
    model = network(
        layers.DepthwiseConv2D(3, padding="same"), DiffStride((1.2, 2.9))
    )
    integer = to_integer_strides(model)
    assert outputs(integer, images(1, 16, 16, 1)).shape == (1, 16, 6, 1)


def test_strides_out_of_reach_are_an_error():
    with pytest.raises(ValueError, match="`model` must have its DiffStride"):
        to_integer_strides(network(tiny.Owner()))
