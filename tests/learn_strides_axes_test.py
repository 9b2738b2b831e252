"""Tests of models of signals and volumes, which are made to learn strides."""

import itertools

import keras
import numpy as np
import pytest
from surgery_models import images, network, outputs, set_strides, strides_of

from diffstride import (
    DiffStride1D,
    DiffStride3D,
    conversion_summary,
    freeze,
    learn_strides,
    to_integer_strides,
)
from diffstride.analysis.learned_layers import learned_layers

layers = keras.layers

KINDS = {
    "Conv1D": lambda *args, **kwargs: layers.Conv1D(2, *args, **kwargs),
    "SeparableConv1D": lambda *args, **kwargs: layers.SeparableConv1D(
        2, *args, **kwargs
    ),
    "DepthwiseConv1D": layers.DepthwiseConv1D,
    "MaxPooling1D": layers.MaxPooling1D,
    "AveragePooling1D": layers.AveragePooling1D,
}


@pytest.mark.parametrize(
    "kind, padding",
    [*itertools.product(KINDS, ["same", "valid"]), ("Conv1D", "causal")],
)
def test_windows_of_signals_start_where_they_started(kind, padding):
    window = 3
    if padding == "same" and kind == "AveragePooling1D":
        window = 2 if keras.backend.backend() == "torch" else 3
    for size, stride in [(12, 2), (11, 3)]:
        layer = KINDS[kind](window, strides=stride, padding=padding, name="a")
        model = network(layer, layers.GlobalMaxPooling1D(), shape=(size, 2))
        x = images(2, size, 2) - 5
        expected = outputs(model, x)
        learned = learn_strides(model)
        assert isinstance(learned.get_layer("a_stride"), DiffStride1D)
        np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-5)
        np.testing.assert_allclose(
            outputs(to_integer_strides(learned), x), expected, atol=1e-6
        )


def test_causal_padding_needs_no_other_layer():
    model = network(
        layers.Conv1D(2, 3, strides=2, padding="causal", name="a"),
        shape=(16, 1),
    )
    learned = learn_strides(model)
    assert [x.name for x in learned.layers[1:]] == ["a", "a_stride"]


@pytest.mark.parametrize("order", ["after", "before"])
def test_branches_of_signals(order):
    inputs = keras.Input((20, 2))
    x = layers.Conv1D(4, 3, strides=2, padding="valid", name="a")(inputs)
    y = layers.MaxPooling1D(3, strides=2, padding="valid")(inputs)
    x = layers.Concatenate()([x, y])
    y = layers.Conv1D(6, 1, strides=3, padding="same", name="c")(x)
    x = layers.Conv1D(6, 4, strides=3, padding="same", name="b")(x)
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, y]))
    model = keras.Model(inputs, x)
    learned = learn_strides(model, pooling_order=order)
    # `c` and `b` share, under the name of the one that comes first.
    assert len(strides_of(learned)) == 2
    x = images(2, 20, 2)
    if order == "after":
        expected = outputs(model, x)
        np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-5)
        np.testing.assert_allclose(
            outputs(freeze(learned), x), expected, atol=1e-5
        )
    set_strides(learned, 1.7)
    assert np.isfinite(outputs(learned, x)).all()


def test_volumes():
    inputs = keras.Input((6, 9, 8, 2))
    x = layers.Conv3D(
        3, 3, strides=(1, 2, 2), padding="same", activation="relu", name="a"
    )(inputs)
    x = layers.Add()(
        [
            layers.MaxPooling3D(3, strides=2, padding="same")(x),
            layers.AveragePooling3D(2, strides=2, padding="same")(x),
        ]
    )
    x = layers.GlobalAveragePooling3D()(x)
    model = keras.Model(inputs, x)
    learned = learn_strides(model)
    assert all(isinstance(x, DiffStride3D) for x in learned_layers(learned))
    assert strides_of(learned)["a_stride"][1:] == [2.0, 2.0]
    x = images(2, 6, 9, 8, 2)
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-5)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), expected, atol=1e-6
    )
    set_strides(learned, 1.4)
    moved = outputs(learned, x)
    np.testing.assert_allclose(outputs(freeze(learned), x), moved, atol=1e-5)
    lines = []
    conversion_summary(model, print_fn=lines.append)
    assert "6 x 9 x 8" in lines[1]


@pytest.mark.parametrize("rank", [1, 3])
def test_unets_of_signals_and_volumes(rank):
    def conv(filters, **kwargs):
        layer = getattr(layers, f"Conv{rank}D")
        return layer(filters, 3, padding="same", activation="relu", **kwargs)

    inputs = keras.Input((*(8,) * rank, 1))
    skip = conv(2)(inputs)
    x = getattr(layers, f"MaxPooling{rank}D")(2, name="pool")(skip)
    x = middle = conv(3)(x)
    x = conv(3, strides=2, name="down")(x)
    x = getattr(layers, f"Conv{rank}DTranspose")(3, 2, strides=2)(x)
    x = conv(2)(layers.Add()([x, middle]))
    x = getattr(layers, f"UpSampling{rank}D")(2)(x)
    model = keras.Model(inputs, layers.Concatenate()([x, skip]))
    learned = learn_strides(model)
    assert list(strides_of(learned)) == ["pool_stride", "down_stride"]
    x = images(2, *(8,) * rank, 1)
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-4)
    set_strides(learned, 1.4)
    assert outputs(learned, x).shape == expected.shape
    if rank == 1:
        learned.compile("sgd", "mse")
        learned.train_on_batch(x, np.zeros_like(expected))


@pytest.mark.parametrize("converted", [False, True])
def test_a_network_for_each_time_step(converted, tmp_path):
    """Either the network is converted, or the model around it."""
    inner = network(
        layers.Conv2D(4, 3, strides=2, activation="relu", name="a"),
        layers.MaxPooling2D(2, padding="same"),
        layers.GlobalAveragePooling2D(),
        shape=(12, 12, 1),
    )
    if converted:
        inner = learn_strides(inner)
    model = network(
        layers.TimeDistributed(inner),
        layers.Conv1D(2, 3, padding="same", activation="relu"),
        layers.GlobalMaxPooling1D(),
        shape=(3, 12, 12, 1),
    )
    x = images(2, 3, 12, 12, 1)
    expected = outputs(model, x)
    learned = model if converted else learn_strides(model)
    assert list(strides_of(learned)) == ["a_stride", "max_pooling2d_stride"]
    np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-5)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), expected, atol=1e-6
    )
    set_strides(learned, 1.4)
    moved = outputs(learned, x)
    frozen = freeze(learned)
    np.testing.assert_allclose(outputs(frozen, x), moved, atol=1e-5)
    frozen.save(tmp_path / "frozen.keras")
    reloaded = keras.saving.load_model(tmp_path / "frozen.keras")
    np.testing.assert_allclose(outputs(reloaded, x), moved, atol=1e-5)


def test_two_time_distributed_layers_around_one_network():
    inner = learn_strides(
        network(
            layers.Conv2D(4, 3, strides=2, padding="same", name="a"),
            layers.GlobalAveragePooling2D(),
            shape=(8, 8, 1),
        )
    )
    inputs = keras.Input((3, 8, 8, 1))
    ends = [layers.TimeDistributed(inner)(x) for x in (inputs, inputs * 2)]
    model = keras.Model(inputs, layers.Concatenate()(ends))
    set_strides(model, 1.4)
    x = images(2, 3, 8, 8, 1)
    frozen = freeze(model)
    assert len(learned_layers(frozen)) == 1
    np.testing.assert_allclose(outputs(frozen, x), outputs(model, x), atol=1e-5)
