"""Warnings where strides cannot or will not learn."""

import warnings

import gradients
import keras
import numpy as np
import pytest
from keras import layers

from diffstride import (
    DiffStride,
    FadeAliasing,
    FixedSpectralPooling,
    RefreshSizes,
)

X = gradients.random((2, 8, 8, 2))


def messages(
    *following, pooling=None, optimizer="sgd", callbacks=(), compiled=False
):
    """What is said about the pooling layer in two calls of `fit`."""
    # On TensorFlow alone, where a graph takes longer than its one step.
    eagerly = keras.backend.backend() == "tensorflow" and not compiled
    pooling = pooling or DiffStride(1.6, 2, name="pooling")
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), pooling, *following, layers.Dense(1)]
    )
    y = np.zeros((2, *model.output_shape[1:]))
    if None in model.output_shape[1:]:
        y = np.zeros((2, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            model.compile(optimizer, "mse", run_eagerly=eagerly)
            model.fit(X, y, callbacks=list(callbacks), verbose=0)
    texts = [str(warning.message) for warning in caught]
    return [text for text in texts if "'pooling'" in text]


def relu_and_average():
    return layers.Activation("relu"), layers.GlobalAveragePooling2D()


def test_nothing_is_said_where_strides_learn():
    assert messages(*relu_and_average(), callbacks=[RefreshSizes()]) == []
    assert (
        messages(
            *relu_and_average(),
            pooling=DiffStride(2, name="pooling", trainable=False),
        )
        == []
    )


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch runs without graphs"
)
def test_static_sizes_without_the_callback():
    pooling = DiffStride(1.6, 2, name="pooling", static_sizes=True)
    (message,) = messages(*relu_and_average(), pooling=pooling, compiled=True)
    assert "`diffstride.RefreshSizes()`" in message


def test_aliasing_that_stays_at_one():
    def pooling(aliasing=1.0):
        return DiffStride(2, ramp="inside", name="pooling", aliasing=aliasing)

    def said(pooling, *callbacks):
        return messages(
            *relu_and_average(),
            pooling=pooling,
            callbacks=[RefreshSizes(), *callbacks],
            compiled=True,
        )

    (message,) = said(pooling())
    assert "`diffstride.FadeAliasing(epochs=...)`" in message
    assert said(pooling(), FadeAliasing(1)) == []
    assert said(pooling(aliasing=0.5)) == []


@pytest.mark.parametrize(
    "between, is_dead",
    [
        ([], True),
        (
            [
                lambda: layers.Conv2D(3, 1),
                lambda: layers.Dropout(0.1),
                lambda: FixedSpectralPooling(2),
            ],
            True,
        ),
        ([lambda: layers.Conv2D(3, 3)], False),
        ([lambda: layers.Conv2D(3, 1, activation="relu")], False),
        ([lambda: layers.BatchNormalization()], False),
    ],
)
def test_a_global_average_behind_linear_layers(between, is_dead):
    found = messages(
        *[make() for make in between],
        layers.GlobalAveragePooling2D(),
        callbacks=[RefreshSizes()],
    )
    assert len(found) == is_dead
    if found:
        assert "do not learn" in found[0] and "activation" in found[0]


def test_a_branch_with_an_activation_learns():
    inputs = keras.Input((8, 8, 2))
    x = DiffStride(1.6, 2, name="pooling")(inputs)
    branches = [
        layers.GlobalAveragePooling2D()(branch)
        for branch in (x, layers.ReLU()(x))
    ]
    model = keras.Model(inputs, layers.Add()(branches))
    model.compile("sgd", "mse")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, np.zeros((2, 2)), callbacks=[RefreshSizes()], verbose=0)
    assert not [w for w in caught if "'pooling'" in str(w.message)]


def test_an_optimizer_that_decays_strides():
    arguments = {"callbacks": [RefreshSizes()]}
    (message,) = messages(
        *relu_and_average(), optimizer=keras.optimizers.AdamW(), **arguments
    )
    assert "exclude_from_weight_decay" in message
    # What the message advises.
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["strides"])
    found = messages(*relu_and_average(), optimizer=optimizer, **arguments)
    assert found == []


@pytest.mark.parametrize("flatten", [layers.Flatten(), layers.Reshape((-1, 2))])
def test_a_flatten_behind_sizes_that_move(flatten):
    found = messages(
        layers.ReLU(),
        flatten,
        pooling=DiffStride(1.6, 2, name="pooling", static_sizes=True),
        callbacks=[RefreshSizes()],
    )
    # Only one of the two has the sizes in its own.
    assert len(found) == isinstance(flatten, layers.Flatten)
    if found:
        assert f"'{flatten.name}'" in found[0]


def test_no_ramp():
    with pytest.warns(UserWarning, match="'pooling'.*smoothness_factor=0"):
        DiffStride(2, 0, name="pooling")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DiffStride(2, 0, trainable=False)
