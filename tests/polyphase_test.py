"""Polyphase sampling against NumPy, and how it follows shifts."""

import gradients
import keras
import numpy as np
import pytest
from keras import ops
from keras.src.testing import TestCase

from diffstride import PolyphasePooling
from diffstride.analysis.operations import count_macs
from diffstride.models.residual_layer import ResidualLayer


def components(x, strides):
    """All components, of a map that is filled up from the other end."""
    pad = [
        (0, -size % s) for size, s in zip(x.shape[1:3], strides, strict=True)
    ]
    x = np.pad(x, [(0, 0), *pad, (0, 0)], "wrap")
    rows, columns = strides
    return np.stack(
        [x[:, i::rows, j::columns] for i in range(rows) for j in range(columns)]
    )


def reference(x, strides, scores=None):
    parts = components(x, strides)
    if scores is None:
        scores = (parts.astype("float64") ** 2).sum((2, 3, 4))
    return parts[scores.argmax(0), np.arange(len(x))]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "shape, strides",
    [((8, 6), 2), ((7, 8), (2, 3)), ((1, 1), 4), ((6, 5), (3, 1)), ((2, 3), 1)],
)
def test_the_component_with_the_largest_norm(shape, strides, data_format):
    x = gradients.random((5, *shape, 3))
    layer = PolyphasePooling(strides, data_format=data_format)
    expected = reference(x, np.broadcast_to(strides, 2))
    if data_format == "channels_first":
        x, expected = (np.moveaxis(each, -1, 1) for each in (x, expected))
    found = gradients.apply(layer, x)
    assert found.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_array_equal(found, expected)


def test_without_a_stride_nothing_changes():
    x = gradients.random((2, 5, 4, 3))
    layer = PolyphasePooling(1, "learned")
    np.testing.assert_array_equal(gradients.apply(layer, x), x)
    assert not layer.weights and not layer.variables


def scores_of(layer, x):
    """The network of the layer, component by component, in NumPy."""
    kernel, bias, last, last_bias = layer.get_weights()[:4]
    scores = []
    for part in components(x, layer.strides):
        wrapped = np.pad(part, [(0, 0), (1, 1), (1, 1), (0, 0)], "wrap")
        height, width = part.shape[1:3]
        y = bias + sum(
            wrapped[:, i : i + height, j : j + width] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
        features = np.maximum(y, 0).mean((1, 2))
        scores.append((features @ last + last_bias)[:, 0])
    return np.array(scores)


def test_the_component_with_the_largest_score():
    x = gradients.random((6, 5, 8, 3))
    layer = PolyphasePooling((2, 4), "learned", hidden_channels=4)
    layer.build(x.shape)
    names = [w.path.split("/")[-2:] for w in layer.trainable_weights]
    assert names[0] == ["convolution", "kernel"]
    expected = reference(x, (2, 4), scores_of(layer, x))
    np.testing.assert_array_equal(gradients.apply(layer, x), expected)


@pytest.mark.parametrize("choice", ["norm", "learned"])
def test_the_output_moves_with_the_map(choice):
    x = gradients.random((1, 6, 4, 3))
    layer = PolyphasePooling((3, 2), choice)
    y = gradients.apply(layer, x)
    for down in range(6):
        for right in range(4):
            moved = gradients.apply(layer, np.roll(x, (down, right), (1, 2)))
            same = [
                np.array_equal(moved, np.roll(y, (i, j), (1, 2)))
                for i in range(2)
                for j in range(2)
            ]
            assert sum(same) == 1


def test_the_first_map_chooses_for_all():
    first, second = (
        gradients.random((4, 6, 6, 2)),
        gradients.random((4, 6, 6, 5)),
    )
    layer = PolyphasePooling(2)
    layer.build([first.shape, second.shape])
    shapes = layer.compute_output_shape([first.shape, second.shape])
    assert shapes == [(4, 3, 3, 2), (4, 3, 3, 5)]
    one, two = (ops.convert_to_numpy(y) for y in layer([first, second]))
    scores = (components(first, (2, 2)) ** 2).sum((2, 3, 4))
    np.testing.assert_array_equal(one, reference(first, (2, 2)))
    np.testing.assert_array_equal(two, reference(second, (2, 2), scores))
    # Other ones than those the second map would choose.
    assert not np.array_equal(two, reference(second, (2, 2)))


@pytest.mark.parametrize("order", ["after", "before"])
def test_both_paths_of_a_residual_layer_keep_the_same_points(order):
    """1x1 convolutions, behind which everything moves with the map."""
    layer = ResidualLayer(
        4,
        kernel_size=1,
        strides=2,
        pooling_cls=PolyphasePooling,
        project=True,
        pooling_order=order,
    )
    x = gradients.random((1, 4, 4, 3))
    y = gradients.apply(layer, x)
    for shift in (1, 2, 3):
        moved = gradients.apply(layer, np.roll(x, shift, axis=2))
        assert any(
            np.allclose(moved, np.roll(y, turn, axis=2), atol=1e-5)
            for turn in (0, 1)
        )


def test_gradients():
    """Of the input the points that are kept, and all weights by the softmax."""
    x = gradients.random((2, 4, 6, 2))
    upstream = gradients.random((2, 2, 3, 2), seed=1)
    layer = PolyphasePooling(2)
    _, (found,) = gradients.value_and_gradients(layer, [x], upstream)
    found = ops.convert_to_numpy(found)
    kept = components(found, (2, 2))
    assert sorted(np.abs(kept[:, 0]).max((1, 2, 3)) > 0) == 3 * [False] + [True]
    np.testing.assert_array_equal(kept.sum(0), upstream)

    model = keras.Sequential(
        [keras.Input((4, 6, 2)), PolyphasePooling(2, "learned", seed=1)]
    )
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = model.get_weights()
    model.fit(x, upstream, verbose=0)
    for name, one, two in zip(
        ["kernel", "bias", "score"], before, model.get_weights(), strict=False
    ):
        assert (one != two).any(), name


@pytest.mark.tensorflow
def test_training_explores():
    x = np.tile(gradients.random((1, 4, 4, 1)), (100, 1, 1, 1))
    layer = PolyphasePooling(2, "learned", seed=3)
    layer.build(x.shape)
    (always,) = np.unique(gradients.apply(layer, x)[:, 0, 0, 0])
    chosen = ops.convert_to_numpy(layer(x, training=True))[:, 0, 0, 0]
    assert always in chosen and len(np.unique(chosen)) == 4


def test_sizes_that_are_known_when_it_runs():
    inputs = keras.Input((None, None, 2))
    outputs = PolyphasePooling(2, "learned", dtype="mixed_bfloat16")(inputs)
    model = keras.Model(inputs, outputs)
    assert model.output_shape == (None, None, None, 2)
    for sizes in [(5, 4), (1, 1)]:
        y = gradients.value(model, gradients.random((3, *sizes, 2)))
        assert y.shape == (3, *(-(-size // 2) for size in sizes), 2)


def test_squares_of_half_precision_do_not_overflow():
    x = np.zeros((1, 2, 2, 1), "float32")
    x[0, 1, 0, 0], x[0, 0, 1, 0] = 5e4, 4e4
    layer = PolyphasePooling(2, dtype="float16")
    assert float(layer(x)[0, 0, 0, 0]) == pytest.approx(5e4, rel=1e-3)


@pytest.mark.parametrize("choice", ["norm", "learned"])
def test_layer_is_what_keras_expects(choice):
    is_learned = choice == "learned"
    TestCase().run_layer_test(
        PolyphasePooling,
        init_kwargs={"strides": (2, 1), "choice": choice},
        input_shape=(2, 7, 6, 3),
        expected_output_shape=(2, 4, 6, 3),
        expected_num_trainable_weights=4 * is_learned,
        expected_num_non_trainable_weights=0,
        expected_num_non_trainable_variables=is_learned,
        expected_num_seed_generators=is_learned,
        expected_num_losses=0,
        supports_masking=False,
    )


def test_operations():
    inputs = keras.Input((8, 8, 2))
    points = 8 * 8 * 2
    model = keras.Model(inputs, PolyphasePooling()(inputs))
    assert count_macs(model) == points
    layer = PolyphasePooling(choice="learned", hidden_channels=3)
    model = keras.Model(inputs, layer(inputs))
    assert count_macs(model) == points * 9 * 3 + 4 * 3


def test_arguments_are_checked():
    for arguments, message in [
        ({"strides": 2.5}, "`strides` must be an integer of 1 or more"),
        ({"choice": "max"}, "`choice` must be one of .*'max'"),
        ({"hidden_channels": 0}, "`hidden_channels` must be a positive"),
        ({"temperature": 0}, "`temperature` must be a positive number.*=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            PolyphasePooling(**arguments)
    with pytest.raises(ValueError, match="`inputs` must be one map, or a"):
        PolyphasePooling().build((2, 3, 4))
