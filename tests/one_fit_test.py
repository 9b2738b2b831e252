"""Batches of a run one after the other, in one call of `fit`."""

import dataclasses
import itertools

import keras
import numpy as np
import tiny

from diffstride.training import one_fit


def test_epochs_follow_one_another():
    data = tiny.dataset(train_steps=3)
    batches = itertools.islice(one_fit.batches_from(data, 4, 2), 5)
    places = [(4, 2), (5, 0), (5, 1), (5, 2), (6, 0)]
    for (x, y), (epoch, step) in zip(batches, places, strict=True):
        expected_x, expected_y = data.train(epoch).make_batch(step)
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)


def test_sizes_that_vary_late():
    """The first two batches have one size, which is not that of the others."""

    def train(epoch, start_step=0):
        for step in range(start_step, 4):
            yield np.ones((8, 16 + 2 * (step > 1), 16, 1)), np.zeros(8)

    data = dataclasses.replace(
        tiny.dataset(train_steps=4), train=train, input_shape=(None, 16, 1)
    )
    inputs = keras.Input(data.input_shape)
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    batches = one_fit.batches_from(data, 0, 0)
    model.fit(batches, steps_per_epoch=4, epochs=2, verbose=0, shuffle=False)
    assert model.optimizer.iterations == 8


def test_the_first_epoch_may_be_shorter():
    """Keras sees all epochs; what callbacks wish at its end is kept.

    Callbacks see the steps of the epoch as they would without a break.
    """
    model = tiny.model(3, (16, 16, 1))
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = tiny.dataset(train_steps=4)
    seen = []

    class Note(keras.callbacks.Callback):
        def __init__(self, stop_at=None):
            super().__init__()
            self.stop_at = stop_at

        def on_train_batch_end(self, batch, logs=None):
            seen[-1].append(batch)
            if (len(seen), batch) == self.stop_at:
                self.model.stop_training = True

        def on_epoch_begin(self, epoch, logs=None):
            seen.append([])

        def on_epoch_end(self, epoch, logs=None):
            seen[-1].append(f"val_loss of {epoch}" * ("val_loss" in logs))

    for stop_at, expected in [
        (None, [[2, 3, "val_loss of 2"], [0, 1, 2, 3, "val_loss of 3"]]),
        ((1, 3), [[2, 3, "val_loss of 2"]]),
        ((2, 1), [[2, 3, "val_loss of 2"], [0, 1, "val_loss of 3"]]),
    ]:
        seen.clear()
        callbacks = one_fit.Callbacks(
            [Note(stop_at)],
            first_steps=2,
            steps=4,
            add_history=True,
            model=model,
        )
        model.fit(
            one_fit.batches_from(data, 2, 2),
            initial_epoch=2,
            epochs=4,
            steps_per_epoch=4,
            validation_data=data.test(),
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
        assert seen == expected
