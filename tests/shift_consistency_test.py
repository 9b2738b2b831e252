"""How often a predicted class stays when an image moves."""

import dataclasses
import functools
import json

import gradients
import keras
import numpy as np
import pytest
import tiny

from diffstride import DiffStride, PolyphasePooling
from diffstride.data.dataset import Dataset
from diffstride.training import trainer
from diffstride.training.shift_consistency import ShiftConsistency, move
from diffstride.validation import ConfigError

layers = keras.layers


def images(number=24, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, size, size, 1)).astype("float32")


def batches(x, size=10):
    """The last batch is smaller."""
    return [
        (x[start : start + size], np.zeros(len(x[start : start + size])))
        for start in range(0, len(x), size)
    ]


def invariant_model():
    """Each point by itself, and then the average of all points."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


def aliasing_model():
    """Every second point, of which it takes the average and its opposite."""
    kernel = np.array([[1.0, -1.0]], "float32")
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.MaxPooling2D(1, strides=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, kernel_initializer=lambda *_, **__: kernel),
        ]
    )


def test_images_move_along_the_diagonal():
    x = images(3, 6)
    moved = move(x, np.array([0, 1, 5]))
    for image, found, shift in zip(x, moved, [0, 1, 5], strict=True):
        np.testing.assert_array_equal(
            found, np.roll(image, (shift, shift), (0, 1))
        )


def test_an_invariant_model_is_consistent():
    model = invariant_model()
    assert ShiftConsistency(7)(model, lambda: batches(images())) == 1.0


def test_polyphase_sampling_is_consistent_by_construction():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 1, activation="relu"),
            PolyphasePooling(2),
            layers.Conv2D(8, 1, activation="relu"),
            PolyphasePooling(2, "learned"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(20),
        ]
    )
    # A generator does not know how many batches it makes.
    consistency = ShiftConsistency(7)(
        model, lambda: (batch for batch in batches(images(60)))
    )
    assert consistency == 1.0


def test_an_aliasing_model_is_not():
    # Checkerboards of which the model sees the white or the black squares.
    board = (-1.0) ** np.add.outer(np.arange(8), np.zeros(8))
    x = np.tile(board[None, :, :, None], (400, 1, 1, 1)).astype("float32")
    measure = ShiftConsistency(1)
    # Of the shifts 0 and 1, one is even and one is odd.
    assert measure(aliasing_model(), lambda: batches(x, 128)) == 0.0
    # Of three shifts, two are even: one pair of three has the same class.
    share = ShiftConsistency(2)(aliasing_model(), lambda: batches(x, 128))
    assert share == pytest.approx(1 / 3, abs=0.08)
    assert share == ShiftConsistency(2)(
        aliasing_model(), lambda: batches(x, 128)
    )


def test_examples_without_weight_do_not_count():
    x = images(8)
    x[4:] = (-1.0) ** np.add.outer(np.arange(8), np.zeros(8))[..., None]
    x[:4] = 1
    weights = np.repeat([1.0, 0.0], 4)
    consistency = ShiftConsistency(1)(
        aliasing_model(), lambda: [(x, np.zeros(8), weights)]
    )
    assert consistency == 1.0


def small_model(num_output_classes, input_shape):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(4, 3, strides=4, activation="relu"),
            layers.Flatten(),
            layers.Dense(num_output_classes),
        ]
    )


def train(workdir, **kwargs):
    return trainer.train(
        **{
            "dataset": functools.partial(tiny.dataset, train_steps=2),
            "model": small_model,
            "jit_compile": False,
            "tensorboard": False,
            "workdir": workdir,
            "learning_rate": 0.01,
            "verbose": 0,
            "shift_consistency": 3,
            **kwargs,
        }
    )


def by_hand(model, data):
    """The share, from predictions of each shift of each image."""
    same, count = 0, 0
    for index, (x, _) in enumerate(data):
        random = np.random.default_rng([0, 0, index + 1])
        first = random.integers(0, 4, len(x))
        second = (first + random.integers(1, 4, len(x))) % 4
        classes = [
            [np.roll(image, (s, s), (0, 1)) for image, s in zip(x, shifts)]  # noqa: B905
            for shifts in (first, second)
        ]
        one, two = (
            gradients.value(model, np.stack(each)).argmax(-1)
            for each in classes
        )
        same, count = same + (one == two).sum(), count + len(x)
    return same / count


def test_it_is_in_the_history_at_the_end(tmp_path):
    history = train(tmp_path, num_epochs=3, shift_consistency_every=2)
    name = "val_shift_consistency"
    assert [name in row for row in history] == [False, True, True]
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    model = keras.saving.load_model(tmp_path / "model.keras")
    expected = by_hand(model, tiny.dataset().test())
    assert history[-1][name] == pytest.approx(expected)
    # A finished run can be asked for another distance.
    found = train(tmp_path, num_epochs=3, mode="eval")
    assert found["shift_consistency"] == pytest.approx(expected)


def test_it_is_there_if_a_callback_ends_the_training(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    history = train(tmp_path, num_epochs=5, callbacks=[Stop()])
    assert len(history) == 2
    assert "val_shift_consistency" not in history[0]
    assert 0 <= history[1]["val_shift_consistency"] <= 1
    assert train(tmp_path, num_epochs=5, callbacks=[Stop()]) == history


def test_it_follows_the_sizes_of_the_weights():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            DiffStride(1.5, ramp="inside", static_sizes=True),
            layers.ReLU(),
            layers.GlobalMaxPooling2D(),
            layers.Dense(3),
        ]
    )
    measure = ShiftConsistency(3)
    for stride in (1.5, 4.0):
        model.layers[0].strides.assign([stride, stride])
        found = measure(model, lambda: batches(images(20)))
        assert found == pytest.approx(by_hand(model, batches(images(20))))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"input_shape": (100,)}, "images of a class each"),
        ({"label_shape": (16, 16)}, "images of a class each"),
        ({"num_classes": {"a": 2}}, "images of a class each"),
        ({"input_shape": (None, 3, 3)}, "less than the size of an image"),
    ],
)
def test_data_without_images_to_move(tmp_path, changes, message):
    from diffstride.training.shift_consistency import check_shifts

    data = dataclasses.replace(tiny.dataset(), **changes)
    assert isinstance(data, Dataset)
    with pytest.raises(ConfigError, match=f"`shift_consistency` .*{message}"):
        check_shifts(data, 3)


def test_arguments_are_checked(tmp_path):
    for name in ("shift_consistency", "shift_consistency_every"):
        with pytest.raises(ConfigError, match=f"`{name}` must be None or a"):
            train(tmp_path, **{name: 0})
    with pytest.raises(ValueError, match="`max_shift` must be a positive"):
        ShiftConsistency(0)
