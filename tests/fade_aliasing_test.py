"""Tests of models that leave aliasing behind while they are trained."""

import keras
import numpy as np
import pytest
from keras import ops
from surgery_models import conv, images, network, strides_of

from diffstride import DiffStride, FadeAliasing, RefreshSizes, learn_strides
from diffstride.analysis.learned_layers import learned_layers

layers = keras.layers


def converted():
    model = network(
        conv(2, "a", activation="relu"),
        conv(2, "b", activation="relu"),
        layers.GlobalAveragePooling2D(),
    )
    learned = learn_strides(model)
    learned.compile(keras.optimizers.SGD(0.1), "mse")
    return learned


def aliasing(model):
    return [
        float(ops.convert_to_numpy(layer.aliasing))
        for layer in learned_layers(model)
    ]


class Record(keras.callbacks.Callback):
    """What the aliasing was in each step of the training."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_begin(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.found.append(aliasing(self.model)[0])


def fit(model, *callbacks, **kwargs):
    x, y = images(8, 16, 16, 1), np.ones((8, 4), "float32")
    model.fit(
        x,
        y,
        batch_size=2,
        shuffle=False,
        callbacks=[*callbacks, RefreshSizes()],
        verbose=0,
        **kwargs,
    )


def test_aliasing_falls_in_a_straight_line():
    model, record = converted(), Record()
    assert aliasing(model) == [1, 1]
    before = strides_of(model)
    fit(model, record, FadeAliasing(epochs=1.5, every=1), epochs=2)
    np.testing.assert_allclose(
        record.found, np.maximum(1 - np.arange(8) / 6, 0), atol=1e-6
    )
    assert aliasing(model) == [0, 0]
    # Strides have a gradient as soon as there is less aliasing.
    assert strides_of(model) != before


def test_strides_do_not_move_while_everything_aliases():
    model = converted()
    before = strides_of(model)
    fit(model)
    assert strides_of(model) == before


def test_aliasing_changes_every_so_many_steps():
    model, record = converted(), Record()
    fit(model, record, FadeAliasing(epochs=2, every=2), epochs=1)
    np.testing.assert_allclose(record.found, [1, 1, 0.75, 0.75], atol=1e-6)


@pytest.mark.compiles
def test_several_steps_in_one_call():
    """The aliasing changes after three steps, of which the second was due."""
    model, record = converted(), Record()
    model.compile("sgd", "mse", steps_per_execution=3)
    fit(model, record, FadeAliasing(epochs=2, every=2), epochs=1)
    np.testing.assert_allclose(record.found, [1, 1 - 3 / 8], atol=1e-6)


def test_aliasing_changes_between_epochs():
    model, record = converted(), Record()
    fit(model, record, FadeAliasing(epochs=2, every="epoch"), epochs=2)
    np.testing.assert_allclose(record.found, 4 * [1] + 4 * [0.5], atol=1e-6)


def test_steps_are_counted_on_after_an_interruption():
    whole, later = Record(), Record()
    fit(converted(), whole, FadeAliasing(epochs=4, every=3), epochs=2)
    model = converted()
    fit(model, FadeAliasing(epochs=4, every=3), epochs=1)
    callback = FadeAliasing(epochs=4, every=3)
    fit(model, later, callback, initial_epoch=1, epochs=2)
    assert later.found == whole.found[4:]
    # Steps 6 and 9 are due, the second and the last but three of epochs of 4.
    assert len(set(later.found)) == 2


def test_an_interrupted_training_goes_on():
    model, record = converted(), Record()
    fit(model, FadeAliasing(epochs=2, every=1), epochs=1)
    fit(
        model,
        record,
        FadeAliasing(epochs=2, every=1),
        initial_epoch=1,
        epochs=2,
    )
    np.testing.assert_allclose(
        record.found, [0.5, 0.375, 0.25, 0.125], atol=1e-6
    )


def test_aliasing_never_rises():
    model, record = converted(), Record()
    for layer in learned_layers(model):
        layer.aliasing.assign(0.6)
    fit(model, record, FadeAliasing(epochs=2, every=1), epochs=1)
    np.testing.assert_allclose(record.found, [0.6] * 4, atol=1e-6)


@pytest.mark.parametrize("epochs", [0, -1, "2", float("nan")])
def test_wrong_epochs_are_an_error(epochs):
    with pytest.raises(ValueError, match="`epochs` must be a positive number"):
        FadeAliasing(epochs)


def test_a_model_without_aliasing_is_an_error():
    model = network(DiffStride(2), layers.GlobalMaxPooling2D())
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="made with an `aliasing`"):
        model.fit(
            images(2, 16, 16, 1),
            np.ones((2, 1)),
            callbacks=[FadeAliasing(1)],
            verbose=0,
        )
