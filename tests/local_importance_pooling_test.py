"""LIP and SoftPool against loops over windows in NumPy."""

import gradients
import keras
import numpy as np
import pytest
from keras import ops
from keras.src.testing import TestCase

from diffstride import LocalImportancePooling
from diffstride.analysis.operations import count_macs


def windows(size, window, stride):
    """The points inside of each window, centered as `padding="same"` is."""
    count = -(-size // stride)
    before = max((count - 1) * stride + window - size, 0) // 2
    starts = np.arange(count) * stride - before
    return [slice(max(s, 0), s + window) for s in starts]


def reference(x, logits, window, strides):
    rows, columns = (
        windows(*each)
        for each in zip(x.shape[1:3], window, strides)  # noqa: B905
    )
    y = np.zeros((len(x), len(rows), len(columns), x.shape[-1]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            part = logits[:, row, column].astype("float64")
            weights = np.exp(part - part.max((1, 2), keepdims=True))
            weights /= weights.sum((1, 2), keepdims=True)
            y[:, i, j] = (weights * x[:, row, column]).sum((1, 2))
    return y


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "shape, strides, pool_size",
    [
        ((8, 6), 2, None),
        ((7, 9), (2, 3), 3),
        ((1, 1), 2, 3),
        ((5, 4), 1, (2, 2)),
    ],
)
def test_softpool(shape, strides, pool_size, data_format):
    x = 3 * gradients.random((2, *shape, 3))
    layer = LocalImportancePooling(
        strides, pool_size, "input", data_format=data_format
    )
    strides = np.broadcast_to(strides, 2)
    window = strides if pool_size is None else np.broadcast_to(pool_size, 2)
    expected = reference(x, x, window, strides)
    if data_format == "channels_first":
        x, expected = (np.moveaxis(each, -1, 1) for each in (x, expected))
    found = gradients.apply(layer, x)
    assert found.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not layer.weights


def test_without_a_stride_nothing_changes():
    x = gradients.random((2, 5, 4, 3))
    layer = LocalImportancePooling(1, pool_size=3)
    np.testing.assert_array_equal(gradients.apply(layer, x), x)
    assert not layer.weights and not layer.serves_one_map
    assert LocalImportancePooling((1, 2), pool_size=3).pool_size == (1, 3)


def logits_of(layer, x):
    """The convolution, normalization and sigmoid of the layer in NumPy."""
    kernel, gamma, beta = layer.get_weights()
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]).astype("float64")
    height, width = x.shape[1:3]
    y = sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    mean, var = y.mean((1, 2), keepdims=True), y.var((1, 2), keepdims=True)
    y = gamma * (y - mean) / np.sqrt(var + 1e-3) + beta
    return 12 / (1 + np.exp(-y))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_learned_importance(data_format):
    x = gradients.random((2, 7, 6, 3))
    given = x if data_format == "channels_last" else np.moveaxis(x, -1, 1)
    layer = LocalImportancePooling(2, 3, data_format=data_format)
    found = gradients.apply(layer, given)
    # All weights are equal at first.
    same = [
        reference(x, np.zeros_like(x), (3, 3), (2, 2)),
        found if data_format == "channels_last" else np.moveaxis(found, 1, -1),
    ]
    np.testing.assert_allclose(*same, atol=1e-5)
    layer = LocalImportancePooling(2, 3, data_format=data_format)
    layer.build(given.shape)
    layer.set_weights(
        [
            gradients.random(w.shape, seed)
            for seed, w in enumerate(layer.weights)
        ]
    )
    found = gradients.apply(layer, given)
    expected = reference(x, logits_of(layer, x), (3, 3), (2, 2))
    if data_format == "channels_first":
        expected = np.moveaxis(expected, -1, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_weights_learn_from_zero():
    layer = LocalImportancePooling(2, 3)
    model = keras.Sequential([keras.Input((6, 6, 2)), layer])
    model.compile("sgd", "mse")
    x = gradients.random((4, 6, 6, 2))
    model.fit(x, gradients.random((4, 3, 3, 2)), verbose=0)
    kernel, *_ = layer.get_weights()
    assert np.abs(kernel).max() > 0 and np.isfinite(kernel).all()


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_large_inputs_do_not_overflow(dtype):
    layer = LocalImportancePooling(2, importance="input", dtype=dtype)
    x = np.array([[6e4, -6e4, -6e4, -6e4], [0, 1, -5e4, -4e4]], "float32")
    x = x.reshape((1, 2, 4, 1))
    function = lambda x: ops.cast(  # noqa: E731
        layer(ops.cast(x, layer.compute_dtype)), "float32"
    )
    y, (slope,) = gradients.value_and_gradients(
        function, [x], np.ones((1, 1, 2, 1), "float32")
    )
    y = ops.convert_to_numpy(y).ravel()
    # Of the second window all points are far below the largest of the map.
    np.testing.assert_allclose(y, [6e4, -5.25e4], rtol=1e-3)
    assert np.isfinite(ops.convert_to_numpy(slope)).all()


@pytest.mark.parametrize("importance", ["learned", "input"])
def test_layer_is_what_keras_expects(importance):
    TestCase().run_layer_test(
        LocalImportancePooling,
        init_kwargs={"strides": (2, 1), "importance": importance},
        input_shape=(2, 7, 6, 3),
        expected_output_shape=(2, 4, 6, 3),
        expected_num_trainable_weights=3 * (importance == "learned"),
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=0,
        supports_masking=False,
    )


def test_operations():
    inputs = keras.Input((9, 8, 2))
    points = 9 * 8 * 2
    soft = keras.Model(
        inputs, LocalImportancePooling(importance="input")(inputs)
    )
    assert count_macs(soft) == points
    learned = keras.Model(inputs, LocalImportancePooling()(inputs))
    assert count_macs(learned) == points + points * 9 * 2


def test_arguments_are_checked():
    for arguments, message in [
        ({"strides": 2.5}, "`strides` must be an integer of 1 or more"),
        ({"pool_size": 0}, "`pool_size` must be an integer of 1 or more"),
        ({"importance": "max"}, "`importance` must be one of .*'max'"),
    ]:
        with pytest.raises(ValueError, match=message):
            LocalImportancePooling(**arguments)
