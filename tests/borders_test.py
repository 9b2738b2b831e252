"""Points around a map, against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from diffstride.ops.borders import extend


@pytest.mark.parametrize("mode", ["reflect", "wrap"])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_an_axis_goes_on(mode, size):
    x = np.arange(2.0 * size, dtype="float32").reshape((2, size))
    for before, after in [(0, 0), (1, 0), (0, 2), (7, 4)]:
        found = ops.convert_to_numpy(extend(x, 1, before, after, mode))
        # NumPy goes on by itself, too, however short the axis is.
        pad = [(0, 0), (before, after)]
        # It has nothing to mirror a single point at.
        name = "edge" if size == 1 else mode
        np.testing.assert_array_equal(found, np.pad(x, pad, name))


@pytest.mark.parametrize("mode", ["reflect", "wrap"])
def test_a_size_that_is_known_when_the_graph_runs(mode):
    inputs = keras.Input((None, 1))
    outputs = keras.layers.Lambda(
        lambda x: extend(x, 1, 3, 2, mode), output_shape=(None, 1)
    )(inputs)
    model = keras.Model(inputs, outputs)
    for size in (2, 5):
        x = np.arange(float(size), dtype="float32").reshape((1, size, 1))
        found = model.predict(x, verbose=0)
        expected = np.pad(x, [(0, 0), (3, 2), (0, 0)], mode)
        np.testing.assert_array_equal(found, expected)
