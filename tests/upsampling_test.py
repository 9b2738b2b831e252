"""Tests of upsampling of maps of any size."""

import keras
import numpy as np
import pytest
from keras import ops

from diffstride.layers.upsampling import UpSampling2D


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [1, 2, (3, 4)])
def test_it_gives_what_the_layer_of_keras_gives(interpolation, size):
    inputs = keras.Input((None, None, 2))
    ours = UpSampling2D(size, interpolation=interpolation)
    model = keras.Model(inputs, ours(inputs))
    theirs = keras.layers.UpSampling2D(size, interpolation=interpolation)
    for shape in [(2, 5, 4, 2), (1, 1, 3, 2)]:
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
        # In a graph with unknown sizes, if the backend has these.
        got = model.predict(x, verbose=0)
        expected = ops.convert_to_numpy(theirs(x))
        np.testing.assert_allclose(got, expected, atol=1e-5)
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours(x)), expected, atol=1e-5
        )


def test_channels_first_and_half_precision():
    layer = UpSampling2D(
        2, "channels_first", interpolation="bilinear", dtype="float16"
    )
    inputs = keras.Input((1, None, None))
    got = keras.Model(inputs, layer(inputs))(np.arange(4.0).reshape(1, 1, 2, 2))
    assert keras.backend.standardize_dtype(got.dtype) == "float16"
    np.testing.assert_allclose(
        ops.convert_to_numpy(got)[0, 0, 0], [0, 0.25, 0.75, 1], atol=1e-3
    )
