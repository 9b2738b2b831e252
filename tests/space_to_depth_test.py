"""SPD against a loop over the points of a window in NumPy."""

import gradients
import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from diffstride import SpaceToDepth
from diffstride.analysis.operations import count_macs


def reference(x, kernel, strides):
    """Points become channels, and each channel has its row of a matrix."""
    pad = [(0, 0)]
    for size, stride in zip(x.shape[1:3], strides, strict=True):
        missing = -size % stride
        pad.append((missing // 2, missing - missing // 2))
    x = np.pad(x, [*pad, (0, 0)])
    rows, columns = strides
    deep = [
        x[:, i::rows, j::columns] for i in range(rows) for j in range(columns)
    ]
    matrix = kernel.reshape((-1, kernel.shape[-1]))
    return np.concatenate(deep, axis=-1) @ matrix


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "shape, strides, filters",
    [((8, 6), 2, None), ((7, 8), (2, 3), 5), ((1, 1), 4, 2), ((3, 5), 1, 2)],
)
def test_points_become_channels(shape, strides, filters, data_format):
    x = gradients.random((2, *shape, 3))
    layer = SpaceToDepth(strides, filters, data_format=data_format)
    given = x if data_format == "channels_last" else np.moveaxis(x, -1, 1)
    found = gradients.apply(layer, given)
    assert found.shape == layer.compute_output_shape(given.shape)
    (kernel,) = layer.get_weights()
    expected = reference(x, kernel, np.broadcast_to(strides, 2))
    if data_format == "channels_first":
        expected = np.moveaxis(expected, -1, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_a_stride_nothing_changes():
    x = gradients.random((2, 5, 4, 3))
    layer = SpaceToDepth(strides=1)
    np.testing.assert_array_equal(gradients.apply(layer, x), x)
    assert not layer.weights and not layer.serves_one_map


def test_layer_is_what_keras_expects():
    TestCase().run_layer_test(
        SpaceToDepth,
        init_kwargs={"strides": (2, 1), "filters": 4},
        input_shape=(2, 7, 6, 3),
        expected_output_shape=(2, 4, 6, 4),
        expected_num_trainable_weights=1,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=0,
        supports_masking=False,
    )


def test_operations():
    model = keras.Sequential([keras.Input((9, 8, 2)), SpaceToDepth((2, 4))])
    assert count_macs(model) == 5 * 2 * (2 * 4 * 2) * 2


def test_arguments_are_checked():
    for arguments, message in [
        ({"strides": 2.5}, "`strides` must be an integer of 1 or more"),
        ({"filters": 0}, "`filters` must be a positive integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            SpaceToDepth(**arguments)
