"""Eq. 6 and its loss, against hand counts."""

import keras
import numpy as np
import pytest

from diffstride import DiffStride
from diffstride.analysis.complexity import add_complexity_loss, complexity
from diffstride.analysis.learned_layers import learned_layers

layers = keras.layers


def model_of(*hidden, shape=(16, 16, 2)):
    return keras.Sequential([keras.Input(shape), *hidden])


def test_complexity_is_equation_6():
    strides = [(1.5, 2.0), (3.0, 1.0), (2.0, 2.5)]
    expected = sum(
        np.prod([1 / (h * w) for h, w in strides[: depth + 1]])
        for depth in range(3)
    )
    assert complexity(strides) == pytest.approx(expected, rel=1e-12)


def test_complexity_loss_value_and_gradient():
    first, second = DiffStride((2, 3)), DiffStride(2, shared_stride=True)
    model = model_of(first, second)
    add_complexity_loss(model, 0.5)

    def loss(a, b, c):
        return 0.5 * (1 / (a * b) + 1 / (a * b * c * c))

    assert float(sum(model.losses)) == pytest.approx(loss(2, 3, 2), rel=1e-6)
    # One step of gradient descent on nothing but the complexity.
    model.compile(keras.optimizers.SGD(0.01), lambda y, p: 0.0 * p)
    model.fit(np.zeros((1, 16, 16, 2)), np.zeros(1), verbose=0)
    step, point = 1e-5, np.array([2.0, 3.0, 2.0])
    gradient = [
        (loss(*(point + d)) - loss(*(point - d))) / (2 * step)
        for d in step * np.eye(3)
    ]
    moved = [
        *keras.ops.convert_to_numpy(first.strides),
        *keras.ops.convert_to_numpy(second.strides),
    ]
    np.testing.assert_allclose(
        moved, point - 0.01 * np.array(gradient), rtol=1e-5
    )


def test_a_shared_layer_counts_once():
    shared = DiffStride(2)
    inputs = keras.Input((16, 16, 2))
    branch = layers.Conv2D(2, 1)(inputs)
    model = keras.Model(inputs, layers.add([shared(inputs), shared(branch)]))
    assert learned_layers(model) == [shared]
    add_complexity_loss(model, 1.0)
    assert float(model.losses[0]) == pytest.approx(0.25)


def test_complexity_loss_outlives_frozen_layers():
    first, second = DiffStride((2, 3)), DiffStride(2)
    model = model_of(first, second)
    add_complexity_loss(model, 1.0)
    first.trainable = False
    assert float(sum(model.losses)) == pytest.approx(1 / 6 + 1 / 24)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "0.1", True])
def test_complexity_loss_rejects_weight(weight):
    with pytest.raises(ValueError, match="`weight` must be.*Received: weight="):
        add_complexity_loss(model_of(DiffStride(2)), weight)


def test_complexity_loss_needs_trained_strides():
    frozen = DiffStride(2, trainable=False)
    for model in [model_of(layers.Conv2D(2, 1)), model_of(frozen)]:
        with pytest.raises(ValueError, match="`model` must be built.*Received"):
            add_complexity_loss(model, 0.1)
