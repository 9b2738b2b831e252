"""Training on data that stay on the device gives what the trainer gives."""

import functools
import json

import keras
import numpy as np
import pytest
import tiny

from diffstride import DiffStride
from diffstride.data.arrays import from_arrays
from diffstride.layers.whitening import Whitening
from diffstride.training import trainer
from diffstride.training.on_device import OnDevice
from diffstride.training.shift_consistency import ShiftConsistency
from diffstride.validation import ConfigError

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="needs the JAX backend"
)
TIMES = ("seconds", "images_per_second", "compilations")


def images(seed=0, **kwargs):
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 10
    x = rng.integers(0, 200, (64, 16, 16, 3)) + 5 * labels[:, None, None, None]
    x = x.astype("uint8")
    return from_arrays(
        ((x, labels), (x[:40], labels[:40])),
        batch_size=32,
        seed=seed,
        **{"crop_padding": 2, **kwargs},
    )


def model(num_output_classes, input_shape):
    """A counter of steps, averages, strides: states of all kinds."""
    x = inputs = keras.Input(input_shape)
    for layer in (
        Whitening(bias_steps=3, name="whitening"),
        keras.layers.BatchNormalization(name="normalization"),
        DiffStride(1.5, ramp="inside", name="pooling"),
        keras.layers.ReLU(name="activation"),
        keras.layers.GlobalAveragePooling2D(name="average"),
        keras.layers.Dense(num_output_classes, name="predictions"),
    ):
        x = layer(x)
    return keras.Model(inputs, x)


def train(workdir, on_device=None, **kwargs):
    has_strides = "model" not in kwargs
    return trainer.train(
        **{
            "dataset": functools.partial(
                images,
                crop_fill="reflect",
                alternate_flips=True,
                label_smoothing=0.2,
            ),
            "model": model,
            "optimizer": functools.partial(
                keras.optimizers.SGD,
                momentum=0.85,
                nesterov=True,
                weight_decay=0.009,
            ),
            "workdir": workdir,
            "num_epochs": 2,
            "stride_rate": 20.0,
            "complexity_weight": 0.1 if has_strides else 0,
            "tensorboard": False,
            "verbose": 0,
            "on_device": on_device,
            **kwargs,
        }
    )


def without_times(row):
    return {name: v for name, v in row.items() if name not in TIMES}


@on_jax
def test_runs_are_those_of_the_trainer(tmp_path):
    shared = OnDevice()
    history = train(tmp_path / "one", shared, seed=1)
    # The sizes followed the strides, which cost a second compilation.
    assert [row["compilations"] for row in history] == [1, 2]
    sizes = [row["sizes"]["pooling"] for row in history]
    assert sizes[0] != sizes[1]
    environment = (tmp_path / "one" / "environment.jsonl").read_text()
    assert json.loads(environment)["on_device"]

    # Other runs compile nothing, neither with the same seed nor another one.
    [again] = train(tmp_path / "again", shared, seed=1, num_epochs=1)
    [other] = train(tmp_path / "other", shared, seed=2, num_epochs=1)
    assert without_times(again) == without_times(history[0])
    assert other["loss"] != again["loss"]
    assert again["compilations"] == other["compilations"] == 0
    assert shared.compilations == 2

    [expected] = train(tmp_path / "trainer", seed=1, num_epochs=1)
    assert list(history[0]) == list(expected)
    row, expected = without_times(history[0]), without_times(expected)
    assert row.pop("sizes") == expected.pop("sizes")
    for each in (row, expected):
        each["strides"] = each["strides"]["pooling"]
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-4), name
    weights, others = (
        keras.saving.load_model(tmp_path / name / "model.keras").get_weights()
        for name in ("again", "trainer")
    )
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def small_model(num_output_classes, input_shape):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_output_classes),
        ]
    )


def corner_model(num_output_classes, input_shape):
    """It sees a part of the image only, so that shifts matter."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Cropping2D(((0, 14), (0, 14))),
            keras.layers.Flatten(),
            keras.layers.Dense(num_output_classes),
        ]
    )


@on_jax
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dataset": tiny.dataset}, "`dataset` must hold all of its images"),
        (
            {"dataset": functools.partial(images, mixup_alpha=0.2)},
            "`mixup_alpha` must be 0",
        ),
        (
            {"dataset": functools.partial(images, validation_split=0.25)},
            "`validation_split` must be None",
        ),
        (
            {"callbacks": [keras.callbacks.CSVLogger("log.csv")]},
            r"`callbacks` must be \[\] .*CSVLogger",
        ),
        ({"checkpoint_steps": 3}, "`checkpoint_steps` must be None"),
        ({"monitor": "val_loss"}, "`monitor` must be None"),
        ({"refresh_sizes": 3}, "`refresh_sizes` must be 'epoch'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_known_is_refused(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, OnDevice(), model=small_model, **arguments)


@on_jax
def test_a_run_with_checkpoints_is_not_started_anew(tmp_path):
    (tmp_path / "checkpoints" / "step_3").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has checkpoints of a training"):
        train(tmp_path, OnDevice(), model=small_model)


@on_jax
def test_shift_consistency_is_that_of_keras(tmp_path):
    history = train(
        tmp_path,
        OnDevice(),
        model=corner_model,
        num_epochs=2,
        learning_rate=1.0,
        shift_consistency=7,
    )
    assert "val_shift_consistency" not in history[0]
    found = history[1]["val_shift_consistency"]
    network = keras.saving.load_model(tmp_path / "model.keras")
    assert 0 < found < 1
    assert found == pytest.approx(ShiftConsistency(7)(network, images().test))


@on_jax
def test_networks_must_be_alike(tmp_path):
    shared = OnDevice()
    train(tmp_path / "a", shared, model=small_model, num_epochs=1)

    def wider(num_output_classes, input_shape):
        return small_model(num_output_classes + 1, input_shape)

    with pytest.raises(ValueError, match="the variables of the first one"):
        train(tmp_path / "b", shared, model=wider, num_epochs=1)


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="needs another backend"
)
def test_other_backends_are_refused():
    with pytest.raises(ConfigError, match="KERAS_BACKEND=jax only"):
        OnDevice()
