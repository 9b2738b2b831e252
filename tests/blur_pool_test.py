"""BlurPool against loops in NumPy."""

import gradients
import keras
import numpy as np
import pytest
from keras import ops
from keras.src.testing import TestCase

from diffstride import BlurPool
from diffstride.analysis.operations import count_macs

BINOMIAL = {
    1: [1],
    2: [1, 1],
    3: [1, 2, 1],
    4: [1, 3, 3, 1],
    5: [1, 4, 6, 4, 1],
    6: [1, 5, 10, 10, 5, 1],
    7: [1, 6, 15, 20, 15, 6, 1],
}


def blurred(x, axis, size, stride):
    """The filter at every `stride`-th point; NumPy mirrors the border."""
    x = np.moveaxis(x, axis, 0)
    pad = [((size - 1) // 2, size // 2)] + [(0, 0)] * (x.ndim - 1)
    # NumPy repeats a single point, where there is nothing to mirror.
    padded = np.pad(x, pad, "reflect" if len(x) > 1 else "edge")
    filter_ = np.array(BINOMIAL[size]) / sum(BINOMIAL[size])
    y = [
        np.tensordot(filter_, padded[start : start + size], 1)
        for start in range(0, len(x), stride)
    ]
    return np.moveaxis(np.array(y), 0, axis)


def reference(x, strides, sizes):
    for axis, stride, size in zip((1, 2), strides, sizes, strict=True):
        x = blurred(x, axis, size, stride)
    return x


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "shape, strides, filter_size",
    [
        ((8, 10), 2, 3),
        ((7, 9), (2, 3), (4, 5)),
        ((7, 9), (1, 2), (2, 1)),
        ((2, 3), 2, 7),
        ((1, 1), 2, 6),
        ((1, 5), (3, 1), (7, 3)),
    ],
)
def test_it_is_the_filter_of_the_paper(
    shape, strides, filter_size, data_format
):
    x = gradients.random((2, *shape, 3))
    layer = BlurPool(strides, filter_size, data_format=data_format)
    both = [np.broadcast_to(each, 2) for each in (strides, filter_size)]
    expected = reference(x.astype("float64"), *both)
    if data_format == "channels_first":
        x, expected = (np.moveaxis(each, -1, 1) for each in (x, expected))
    found = gradients.apply(layer, x)
    assert found.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_maximum_comes_first():
    x = gradients.random((2, 6, 7, 3)) - 5
    layer = BlurPool(strides=(2, 3), max_pool_size=None)
    assert layer.max_pool_size == (2, 3)
    # Windows start at their point, or around it; borders are never the maximum.
    padded = np.pad(
        x, [(0, 0), (0, 1), (1, 1), (0, 0)], constant_values=-np.inf
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 3), (1, 2))
    expected = reference(windows.max(axis=(-2, -1)), (2, 3), (3, 3))
    np.testing.assert_allclose(gradients.apply(layer, x), expected, atol=1e-5)


def test_an_axis_without_a_stride_is_not_blurred():
    layer = BlurPool(strides=(1, 2), filter_size=5)
    assert layer.filter_size == (1, 5)
    assert BlurPool(strides=(1, 2), filter_size=(5, 5)).filter_size == (5, 5)
    x = gradients.random((1, 4, 6, 2))
    np.testing.assert_array_equal(gradients.apply(BlurPool(strides=1), x), x)


def test_gradients_are_those_of_the_transposed_filter():
    layer = BlurPool(2, 4)
    x = gradients.random((1, 5, 4, 1))
    upstream = gradients.random((1, 3, 2, 1), seed=1)
    _, (found,) = gradients.value_and_gradients(layer, [x], upstream)
    each = np.eye(20).reshape(20, 5, 4, 1)
    expected = (reference(each, (2, 2), (4, 4)) * upstream).sum((1, 2, 3))
    np.testing.assert_allclose(
        ops.convert_to_numpy(found).ravel(), expected, atol=1e-6
    )


def test_a_blur_moves_less_than_a_stride():
    """A wave close to the highest frequency, which a stride takes for slow."""
    wave = np.cos(0.9 * np.pi * np.arange(33)).astype("float32")
    shifts = np.stack([wave[:32], wave[1:]])[:, None, :, None]
    sizes = {}
    for filter_size in (1, 3, 5):
        layer = BlurPool((1, 2), filter_size)
        first, second = gradients.apply(layer, shifts)
        # The border of the map, where the wave is mirrored, does not count.
        sizes[filter_size] = np.abs(first - second)[:, 1:-1].max()
    assert sizes[5] < sizes[3] / 20 < sizes[1] / 400


def test_sizes_that_are_known_when_it_runs():
    layer = BlurPool(2, 5, dtype="mixed_float16")
    model = keras.Sequential([keras.Input((None, None, 2)), layer])
    assert model.output_shape == (None, None, None, 2)
    for shape in [(2, 9, 8, 2), (1, 1, 2, 2)]:
        x = gradients.random(shape)
        y = gradients.value(model, x)
        assert y.dtype == "float16"
        expected = reference(x, (2, 2), (5, 5))
        np.testing.assert_allclose(y, expected, atol=2e-2)


def test_layer_is_what_keras_expects():
    TestCase().run_layer_test(
        BlurPool,
        init_kwargs={"strides": (2, 1), "filter_size": 4, "max_pool_size": 3},
        input_shape=(2, 7, 6, 3),
        expected_output_shape=(2, 4, 6, 3),
        expected_num_trainable_weights=0,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=0,
        supports_masking=False,
    )


def test_operations_are_those_of_the_filter():
    model = keras.Sequential([keras.Input((9, 8, 2)), BlurPool(2, (3, 5))])
    assert count_macs(model) == 5 * 4 * 2 * 3 * 5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strides": 1.5}, "`strides` must be an integer .*strides=1.5"),
        ({"filter_size": 8}, "`filter_size` must be at most 7. Received"),
        ({"filter_size": 0}, "`filter_size` must be an integer of 1"),
        ({"max_pool_size": 0}, "`max_pool_size` must be an integer of 1"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlurPool(**arguments)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="`inputs` of layer .*int32"):
        BlurPool()(np.zeros((1, 4, 4, 1), "int32"))
