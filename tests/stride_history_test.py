"""Strides, sizes and operations in the logs of someone's own `fit`."""

import csv

import keras
import numpy as np
import pytest

from diffstride import DiffStride, RefreshSizes, StrideHistory, summary
from diffstride.analysis.operations import count_macs


def model_of(*layers):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 2)),
            keras.layers.Conv2D(2, 3, padding="same"),
            *layers,
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def pooling(strides=(2, 3)):
    return DiffStride(strides, norm="forward", ramp="inside", name="pooling")


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 16, 16, 2)), rng.normal(size=(8, 1))


def test_history_and_logs(tmp_path):
    model, strides = model_of(pooling()), StrideHistory()
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = model.fit(
        *data(),
        epochs=2,
        callbacks=[RefreshSizes(), strides, log],
        verbose=0,
    ).history
    assert [row["epoch"] for row in strides.history] == [0, 1, 2]
    assert strides.history[0]["strides"] == {"pooling": [2, 3]}
    last = strides.history[-1]
    now = keras.ops.convert_to_numpy(model.get_layer("pooling").strides)
    assert last["strides"]["pooling"] == now.tolist()
    assert last["macs"] == count_macs(model) == history["macs"][-1]
    for name in ("strides", "sizes"):
        logged = [history[f"{name}/pooling/{axis}"][-1] for axis in (0, 1)]
        assert logged == last[name]["pooling"]
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[-1]["strides/pooling/0"]) == pytest.approx(now[0])


def test_plot(tmp_path):
    model, strides = model_of(pooling()), StrideHistory()
    with pytest.raises(ValueError, match="call `fit` first"):
        strides.plot(tmp_path / "strides.png")
    model.fit(*data(), callbacks=[RefreshSizes(), strides], verbose=0)
    strides.plot(tmp_path / "strides.png")
    assert (tmp_path / "strides.png").stat().st_size > 1000


def test_unknown_sizes_leave_the_strides():
    inputs = keras.Input((None, None, 2))
    x = DiffStride(2, norm="forward", name="pooling")(inputs)
    x = keras.layers.GlobalMaxPooling2D()(x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    x = np.ones((2, 16, 16, 2))
    for shape, has_macs in ((None, False), ((16, 16, 2), True)):
        strides = StrideHistory(shape)
        model.fit(
            x, np.ones((2, 2)), callbacks=[RefreshSizes(), strides], verbose=0
        )
        assert ("macs" in strides.history[-1]) == has_macs
        assert len(strides.history[-1]["strides"]["pooling"]) == 2


def test_summary_shows_strides_and_sizes():
    lines = []
    model = model_of(pooling(), keras.layers.Conv2D(3, 3, strides=(1, 2)))
    summary(model, print_fn=lines.append)
    row = next(line for line in lines if line.startswith("pooling"))
    assert row.split()[1:8] == ["2.00,", "3.00", "8", "x", "5", "x", "2"]
    convolutions = [line for line in lines if line.startswith("conv2d")]
    assert "1.00, 2.00" in convolutions[1]
    assert "1.00" not in convolutions[0]
    assert lines[-1].split() == ["Total", f"{count_macs(model):,}"]
