"""Several devices train like one."""

import dataclasses
import functools
import json
import multiprocessing

import keras
import numpy as np
import pytest
import tiny

from diffstride.data.arrays import from_arrays
from diffstride.training import distribution, losses_and_metrics, trainer
from diffstride.validation import ConfigError


def test_a_process_without_rows_has_an_empty_batch():
    x, y = np.zeros((9, 8, 8, 3), "uint8"), np.zeros(9, "int32")
    data = from_arrays(
        ((x, y), (x, y)),
        batch_size=8,
        image_size=4,
        process_index=1,
        process_count=2,
    )
    assert [x.shape for x, _ in data.test()] == [(4, 4, 4, 3), (0, 4, 4, 3)]


def test_one_of_many_processes_needs_a_data_set_of_rows(monkeypatch):
    monkeypatch.setattr(distribution, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="`dataset` must take `process_index`"):
        distribution.load(tiny.dataset, seed=0)


def test_arrays_of_a_wrong_type_are_an_error_of_the_configuration():
    images, labels = np.zeros((9, 8, 8, 3), "uint8"), np.arange(9) % 3
    wrong = ((images, labels), (images / 255, labels))
    with pytest.raises(ConfigError, match="must both be `uint8` or"):
        distribution.load(
            functools.partial(from_arrays, wrong, batch_size=4), seed=0
        )

    def broken(seed):
        return len(seed)

    # An error of the program keeps its traceback.
    with pytest.raises(TypeError, match="has no len"):
        distribution.load(broken, seed=0)


def nine_examples(batch_size):
    x = np.random.default_rng(0).normal(size=(9, 16, 16, 1)).astype("float32")
    y = np.arange(9) % 3
    return from_arrays(
        ((x, y), (x, y)), batch_size=batch_size, flip=False, crop_padding=0
    )


def test_batches_divide_among_devices(monkeypatch):
    monkeypatch.setattr(distribution, "_replicas", lambda: 3)
    data = nine_examples(batch_size=6)
    # Batches of four, four and one example.
    data = dataclasses.replace(data, test=nine_examples(batch_size=4).test)
    divided = distribution.divide(data)
    batches = list(divided.test())
    assert [len(x) for x, _, _ in batches] == [6, 6, 3]
    weights = np.concatenate([weights for _, _, weights in batches])
    kept = np.r_[:4, 6:10, 12]
    np.testing.assert_allclose(weights[kept], 15 / 9)
    assert weights.sum() == pytest.approx(15)
    # Loss, metrics and what a layer adds to the loss are those of the examples.
    model = tiny.model(3, (16, 16, 1))
    model.get_layer("predictions").kernel_regularizer = keras.regularizers.L2()
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    expected = model.evaluate(data.test(), verbose=0)
    np.testing.assert_allclose(
        model.evaluate(divided.test(), verbose=0), expected, rtol=1e-5
    )
    (batch,) = divided.train(0)
    assert len(batch) == 2 and len(batch[0]) == 6


def test_pixels_divide_among_devices(monkeypatch):
    monkeypatch.setattr(distribution, "_replicas", lambda: 3)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 4, 5, 1)).astype("float32")
    y = rng.integers(0, 3, (9, 4, 5))
    data = from_arrays(((x, y), (x, y)), batch_size=6, crop_padding=0)
    # Batches of four, four and one example.
    other = from_arrays(((x, y), (x, y)), batch_size=4, crop_padding=0)
    data = dataclasses.replace(data, test=other.test)
    divided = distribution.divide(data)
    shapes = [weights.shape for _, _, weights in divided.test()]
    assert shapes == [(6, 4, 5), (6, 4, 5), (3, 4, 5)]
    model = keras.Sequential(
        [keras.Input((4, 5, 1)), keras.layers.Conv2D(3, 3, padding="same")]
    )
    model.compile(
        "sgd",
        losses_and_metrics.CrossEntropy(),
        weighted_metrics=losses_and_metrics.build_metrics(None, 3, True),
    )
    np.testing.assert_allclose(
        model.evaluate(divided.test(), verbose=0),
        model.evaluate(data.test(), verbose=0),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "batch_size, choices", [(4, "3 or 6"), (8, "6 or 9"), (2, "3")]
)
def test_a_batch_size_that_devices_do_not_divide(
    batch_size, choices, monkeypatch
):
    monkeypatch.setattr(distribution, "_replicas", lambda: 3)
    with pytest.raises(
        ConfigError,
        match=f"multiple of the 3 devices: bind {choices} to it.*={batch_size}",
    ):
        distribution.divide(nine_examples(batch_size))


def test_devices_that_are_not_there():
    for devices in (["GPU:9"], [], "CPU:0", [3]):
        with pytest.raises(ConfigError, match="`devices` must be .*cpu:0"):
            distribution.scope(devices)
    assert distribution.count_devices() == 1
    name = "/device:CPU:0" if on_tensorflow() else "cpu:0"
    with distribution.scope([name])():
        pass


def on_tensorflow():
    return keras.backend.backend() == "tensorflow"


def train_on_devices(workdir, devices):
    """Batches of six, and a last test batch of one example."""
    x, y = np.random.default_rng(0).normal(size=(31, 16, 16, 1)), np.arange(31)
    data = from_arrays(
        ((x[:18], y[:18] % 3), (x[18:], y[18:] % 3)),
        batch_size=6,
        num_classes=3,
        flip=False,
        crop_padding=0,
    )
    trainer.train(
        dataset=data,
        model=functools.partial(tiny.model, rate=0.0),
        workdir=workdir,
        num_epochs=2,
        learning_rate=0.1,
        complexity_weight=1.0,
        devices=devices,
        verbose=0,
    )


def train_on_one_device_and_on_three(workdir):
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 3,
    )
    for count in (1, 3):
        devices = [f"CPU:{index}" for index in range(count)]
        train_on_devices(f"{workdir}/{count}", devices if count > 1 else None)


@pytest.mark.tensorflow
def test_several_devices_train_like_one(tmp_path):
    process = multiprocessing.get_context("forkserver").Process(
        target=train_on_one_device_and_on_three, args=(str(tmp_path),)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    one, three = (
        [json.loads(line) for line in (path / "history.jsonl").open()]
        for path in (tmp_path / "1", tmp_path / "3")
    )
    for row, other in zip(one, three, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            np.testing.assert_allclose(row[name], other[name], rtol=1e-4)
        np.testing.assert_allclose(
            row["strides"]["pooling"], other["strides"]["pooling"], rtol=1e-5
        )
    (line,) = (tmp_path / "3" / "environment.jsonl").open()
    assert json.loads(line)["devices"] == 3
    # The choice for training is not part of the saved model.
    model = keras.saving.load_model(tmp_path / "3" / "model.keras")
    assert not any(
        getattr(layer, "synchronized", False) for layer in model.layers
    )
