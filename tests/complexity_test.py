"""Eq. 6 and its loss, against hand counts."""

import keras
import numpy as np
import pytest

from diffstride import DiffStride
from diffstride.analysis.complexity import (
    add_complexity_loss,
    complexity,
    model_complexity,
)
from diffstride.analysis.learned_layers import learned_layers, strides_of
from diffstride.models.audio_tagger import audio_tagger

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
    second.trainable = False
    assert model.losses == []


def test_complexity_loss_outlives_a_frozen_weight():
    first, second = DiffStride((2, 3)), DiffStride(2)
    model = model_of(first, second)
    add_complexity_loss(model, 1.0)
    first.strides.trainable = False
    assert float(sum(model.losses)) == pytest.approx(1 / 6 + 1 / 24)
    first.strides.trainable = True
    first.trainable = True
    assert float(sum(model.losses)) == pytest.approx(1 / 6 + 1 / 24)


def test_complexity_of_a_nested_model():
    inner = model_of(DiffStride((2, 2)), DiffStride((4, 4)))
    model = model_of(inner)
    assert float(model_complexity(model)) == pytest.approx(1 / 4 + 1 / 64)
    inputs = keras.Input((16, 16, 2))
    by_keyword = keras.Model(inputs, inner(inputs=inputs))
    assert float(model_complexity(by_keyword)) == pytest.approx(1 / 4 + 1 / 64)
    deeper = model_of(DiffStride(2), model)
    expected = 1 / 4 * (1 + 1 / 4 + 1 / 64)
    assert float(model_complexity(deeper)) == pytest.approx(expected)


def branches(x, one, two, *after):
    x = layers.add([one(x), two(x)])
    for layer in after:
        x = layer(x)
    return x


class Branches(keras.layers.Layer):
    """The attributes are not in the order of the calls."""

    def __init__(self, last, one, two):
        super().__init__()
        self.last, self.one, self.two = last, one, two

    def build(self, shape):
        for layer in (self.last, self.one, self.two):
            layer.build(shape)

    def call(self, x):
        return branches(x, self.one, self.two, self.last)

    def compute_output_shape(self, shape):
        return (shape[0], None, None, shape[-1])


class BranchesModel(keras.Model):
    def __init__(self, *args):
        super().__init__()
        self.block = Branches(*args)

    def call(self, x, training=False):
        return self.block(x)


def parallel_layers():
    # The first two differ in their strides, but not in their output sizes.
    return DiffStride((2, 2)), DiffStride((2, 1.95)), DiffStride(2)


def parallel_complexity():
    return 1 / 4 + 1 / 3.9 + 1 / 3.9 / 4


def test_parallel_branches_are_not_multiplied():
    one, two, last = parallel_layers()
    inputs = keras.Input((16, 16, 2))
    model = keras.Model(inputs, branches(inputs, one, two, last))
    expected = parallel_complexity()
    assert float(model_complexity(model)) == pytest.approx(expected)


def test_order_of_calls_in_a_layer_and_in_a_subclassed_model():
    one, two, last = parallel_layers()
    model = model_of(Branches(last, one, two))
    expected = parallel_complexity()
    assert float(model_complexity(model)) == pytest.approx(expected)
    one, two, last = parallel_layers()
    model = BranchesModel(last, one, two)
    model(np.zeros((1, 16, 16, 2)))
    assert float(model_complexity(model)) == pytest.approx(expected)
    model.compile("sgd", "mse")
    add_complexity_loss(model, 1.0)
    assert float(sum(model.losses)) == pytest.approx(expected)


class NeedsNumbers(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = DiffStride((2, 2)), DiffStride((4, 4))

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise NotImplementedError
        return self.second(self.first(x))


def test_a_call_that_cannot_be_traced_is_a_chain():
    model = NeedsNumbers()
    model(np.zeros((1, 16, 16, 2)))
    assert float(model_complexity(model)) == pytest.approx(1 / 4 + 1 / 64)


def test_a_skip_connection_keeps_its_resolution():
    """As in a U-Net: down, down and up again beside a shortcut."""
    one, two, last = DiffStride(2), DiffStride(2), DiffStride(2)
    inputs = keras.Input((None, None, 2))
    small = layers.UpSampling2D()(two(x := one(inputs)))
    model = keras.Model(inputs, last(layers.add([x, small])))
    expected = 1 / 4 + 1 / 16 + 1 / 16
    assert float(model_complexity(model)) == pytest.approx(expected)


def test_a_vector_has_no_resolution():
    inputs, vector = keras.Input((16, 16, 2)), keras.Input((2,))
    scale = layers.Reshape((1, 1, 2))(vector)
    x = layers.multiply([DiffStride(2)(inputs), scale])
    model = keras.Model([inputs, vector], DiffStride(2)(x))
    assert float(model_complexity(model)) == pytest.approx(1 / 4 + 1 / 16)


# Slow to build under JAX; the order is not a matter of the backend.
@pytest.mark.tensorflow
def test_audio_tagger_multiplies_in_order_of_the_calls():
    model = audio_tagger(
        num_output_classes=2,
        input_shape=(64, 32),
        strides=(1, 3, 2, 2, 1, 2, 1),
        pooling_cls=DiffStride,
        width_coefficient=0.1,
        depth_coefficient=0.1,
    )
    strides = [strides_of(layer) for layer in learned_layers(model)]
    strides = [tuple(map(float, pair)) for pair in strides]
    expected = complexity(strides)
    assert strides[1] == (3, 3)
    assert float(model_complexity(model)) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "0.1", True])
def test_complexity_loss_rejects_weight(weight):
    with pytest.raises(ValueError, match="`weight` must be.*Received: weight="):
        add_complexity_loss(model_of(DiffStride(2)), weight)


def test_complexity_loss_needs_trained_strides():
    frozen = DiffStride(2, trainable=False)
    for model in [model_of(layers.Conv2D(2, 1)), model_of(frozen)]:
        with pytest.raises(ValueError, match="`model` must be built.*Received"):
            add_complexity_loss(model, 0.1)
