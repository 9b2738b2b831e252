import dataclasses
import errno
import functools
import json

import keras
import numpy as np
import pytest
import tiny

from diffstride import LEAF, TimeDomainFilterbank
from diffstride.data.arrays import from_arrays
from diffstride.data.dataset import Batches, Dataset
from diffstride.models.audio_cnn import audio_cnn
from diffstride.training import (
    plots,
    results,
    schedules,
    trainer,
)
from diffstride.training.checkpoint_files import Checkpoints
from diffstride.training.workdir import ConfigError, Configuration


def train(workdir, **kwargs):
    return trainer.train(
        **{
            "dataset": tiny.dataset,
            "model": tiny.model,
            "workdir": workdir,
            "num_epochs": 1,
            "learning_rate": 0.01,
            "verbose": 0,
            **kwargs,
        }
    )


TRACES = []


@keras.saving.register_keras_serializable(package="trainer_test")
class NotesTracing(keras.layers.Layer):
    """Python runs this once for each graph, and once for each eager call."""

    def call(self, inputs, training=False):
        TRACES.append(training)
        return inputs


def noting_model(num_output_classes, input_shape):
    model = tiny.model(num_output_classes, input_shape)
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, model(NotesTracing()(inputs)))


def test_a_whole_run(tmp_path, capsys):
    TRACES.clear()
    after_epoch = []
    history = train(
        tmp_path / "run",
        dataset=functools.partial(tiny.dataset, num_classes=7, one_hot=True),
        model=noting_model,
        seed=3,
        num_epochs=3,
        optimizer=functools.partial(keras.optimizers.Adam, weight_decay=0.01),
        learning_rate=functools.partial(schedules.cosine, peak=0.02),
        complexity_weight=10.0,
        keep_checkpoints=1,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: after_epoch.append(
                    TRACES.count(True)
                )
            )
        ],
    )
    # The graph of a training step is made in the first epoch, and not again.
    assert after_epoch[0] > 0 and len(set(after_epoch)) == 1

    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == json.loads(
        json.dumps(history)
    )
    assert [row["epoch"] for row in history] == [1, 2, 3]
    schedule = schedules.cosine(6, 3, peak=0.02)
    np.testing.assert_allclose(
        [row["learning_rate"] for row in history],
        [float(schedule(step)) for step in (6, 12, 18)],
        atol=1e-8,
    )
    for name in ("loss", "accuracy", "top5_accuracy"):
        assert {name, f"val_{name}"} <= history[0].keys()
    strides = np.array([row["strides"]["pooling"] for row in history])
    assert strides.shape == (3, 2)
    assert (np.diff(strides, axis=0) > 0).all()  # The price of complexity.
    assert history[0]["sizes"]["pooling"] == [16, 16]
    assert history[2]["compilations"] == 1
    assert history[0]["macs"] > 16 * 16 * 4 * 9
    assert all(row["images_per_second"] > 0 for row in history)

    printed = capsys.readouterr().out
    last = ", ".join(f"{stride:.3f}" for stride in strides[-1])
    assert f"pooling: (2.000, 2.000) -> ({last})" in printed
    assert (tmp_path / "run" / "strides.png").stat().st_size > 0
    classes = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert classes == [f"plus {label}" for label in range(7)]

    # The saved model is the trained one, and so is the last checkpoint.
    saved = keras.saving.load_model(tmp_path / "run" / "model.keras")
    data = tiny.dataset(seed=3, num_classes=7)
    evaluate = functools.partial(
        train, tmp_path / "run", dataset=data, model=noting_model, mode="eval"
    )
    latest = evaluate()
    expected = {
        name.removeprefix("val_"): value
        for name, value in history[-1].items()
        if name.startswith("val_")
    }
    result = saved.evaluate(data.test(), verbose=0, return_dict=True)
    for name in ("accuracy", "top5_accuracy"):
        np.testing.assert_allclose(latest[name], expected[name], rtol=1e-6)
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-6)
    place = {"epoch": 3, "step": 18, "checkpoint": "checkpoint-000000018.npz"}
    assert latest | place | {"data": "tiny", "split": "test"} == latest
    assert (
        json.loads((tmp_path / "run" / "evaluation.json").read_text()) == latest
    )
    best = evaluate(eval_checkpoint="best")
    accuracies = [row["val_accuracy"] for row in history]
    assert best["epoch"] == 1 + int(np.argmax(accuracies))
    assert best["step"] == 6 * best["epoch"]
    np.testing.assert_allclose(best["accuracy"], max(accuracies), rtol=1e-6)


@pytest.mark.tensorflow
def test_tensorboard(tmp_path):
    import tensorflow as tf

    (row,) = train(tmp_path)
    values = {}
    for path in (tmp_path / "tensorboard").rglob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                tag = f"{path.parent.name}/{value.tag}"
                values[tag] = float(tf.make_ndarray(value.tensor))
    stride, _ = row["strides"]["pooling"]
    assert values["train/strides/pooling/0"] == np.float32(stride)
    assert values["train/sizes/pooling/1"] == 16
    assert values["validation/epoch_loss"] == np.float32(row["val_loss"])
    assert values["train/epoch_learning_rate"] == np.float32(0.01)
    assert sum(
        value for tag, value in values.items() if tag.startswith("train/macs/")
    ) == np.float32(row["macs"])


def two_heads():
    def batch(step):
        rng = np.random.default_rng(step)
        x = rng.normal(size=(8, 6)).astype("float32")
        return x, {"left": x[:, 0] > 0, "right": np.argmax(x[:, :6], axis=-1)}

    return Dataset(
        train=lambda epoch, start_step=0: Batches(batch, 4, start_step),
        test=lambda: Batches(batch, 2),
        train_steps=4,
        input_shape=(6,),
        num_classes={"left": 2, "right": 6},
        name="two heads",
    )


def two_headed_model(num_output_classes, input_shape):
    inputs = keras.Input(input_shape)
    outputs = {
        "left": keras.layers.Dense(2, activation="softmax", name="left")(
            inputs
        ),
        "right": keras.layers.Dense(6, name="right")(inputs),
    }
    return keras.Model(inputs, outputs)


def test_heads_of_their_own(tmp_path):
    (row,) = train(
        tmp_path,
        dataset=two_heads(),
        model=two_headed_model,
        learning_rate=1.0,
    )
    assert {
        "val_left_accuracy",
        "val_right_accuracy",
        "val_right_top5_accuracy",
        "val_left_loss",
    } <= row.keys()
    assert "val_left_top5_accuracy" not in row
    np.testing.assert_allclose(
        row["val_loss"], row["val_left_loss"] + row["val_right_loss"], rtol=1e-5
    )
    _, state = Checkpoints(tmp_path / "checkpoints").load()
    assert state["best"]["value"] == row["val_loss"]
    assert row["strides"] == {} and not (tmp_path / "strides.png").exists()


def sounds(make):
    """A small front end and a classifier."""
    return keras.Sequential(
        [
            keras.Input((90,)),
            make(sample_rate=1000, num_filters=3, fmax=None),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


@pytest.mark.parametrize(
    "make, kernels",
    [
        (lambda: tiny.model(3, (16, 16, 1)), 2),
        (lambda: sounds(LEAF), 1),
        (lambda: sounds(TimeDomainFilterbank), 1),
    ],
    ids=["strides", "LEAF", "filters"],
)
def test_weight_decay_spares_all_but_kernels(make, kernels):
    model = make()
    optimizer = trainer._build_optimizer(
        functools.partial(keras.optimizers.SGD, weight_decay=0.1), 1.0, model
    )
    optimizer.build(model.trainable_variables)
    before = [np.array(variable) for variable in model.trainable_variables]
    optimizer.apply(
        [keras.ops.zeros_like(variable) for variable in before],
    )
    decayed = [
        variable.path.split("/")[-1]
        for variable, value in zip(
            model.trainable_variables, before, strict=True
        )
        if not np.array_equal(variable, value)
    ]
    assert decayed == ["kernel"] * kernels


def test_no_checkpoint_to_evaluate(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to evaluate"):
        train(tmp_path, mode="eval")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"monitor": "val_right"}, "^`monitor` must be one of.*='val_right"),
        (
            {"callbacks": [keras.callbacks.EarlyStopping("val_left_loss")]},
            "^`monitor` of EarlyStopping must be one of.*='val_left_loss'",
        ),
    ],
)
def test_a_wrong_monitor_costs_no_epoch(tmp_path, arguments, message):
    steps = []
    counter = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: steps.append(batch)
    )
    callbacks = [*arguments.pop("callbacks", ()), counter]
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, callbacks=callbacks, **arguments)
    assert steps == []


def test_plot_needs_matplotlib(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    strides = [{"a": [2.0, 2.0]}, {"a": [2.1, 1.9]}]
    assert not plots.plot_strides(strides, tmp_path / "strides.png")
    assert "No plot of the strides without matplotlib" in caplog.text


@pytest.mark.parametrize("layers, axes", [(1, 1), (5, 2), (2, 3)])
def test_plot_has_a_panel_for_each_layer(tmp_path, layers, axes):
    strides = [
        {f"layer{i}": [2.0 + epoch] * axes for i in range(layers)}
        for epoch in range(3)
    ]
    assert plots.plot_strides(strides, tmp_path / "strides.png")
    header = (tmp_path / "strides.png").read_bytes()[:24]
    assert header[1:4] == b"PNG"
    width, height = np.frombuffer(header[16:24], ">u4")
    assert (width, height) == (
        450 * min(layers, 4),
        360 * -(-layers // 4),
    )


def test_a_schedule_of_keras_counts_steps(tmp_path):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [6, 11], [0.02, 0.01, 0.005]
    )
    history = train(tmp_path, num_epochs=3, learning_rate=schedule)
    # After 6, 12 and 18 steps; a value holds up to and including its boundary.
    rates = [row["learning_rate"] for row in history]
    np.testing.assert_allclose(rates, [0.02, 0.005, 0.005])


def test_data_that_the_model_would_misread(tmp_path):
    probabilities = keras.losses.BinaryCrossentropy()
    with pytest.raises(ConfigError, match="`loss` must expect .* logits"):
        train(tmp_path, loss=probabilities)
    sounds = dataclasses.replace(
        tiny.dataset(), sample_rate=8000, input_shape=(16000,)
    )
    model = functools.partial(audio_cnn, channels=(2,), strides=((2, 2),))
    with pytest.raises(ConfigError, match="8000 samples .* expects 16000"):
        train(tmp_path, dataset=sounds, model=model)


def test_data_that_are_not_there(tmp_path):
    def dataset(seed):
        raise FileNotFoundError("There is no file sounds.csv")

    with pytest.raises(ConfigError, match="no file sounds.csv"):
        train(tmp_path, dataset=dataset)

    def mistaken(seed):
        return None + seed

    with pytest.raises(TypeError, match="unsupported operand"):
        train(tmp_path, dataset=mistaken)


def evaluate_with(workdir, text, **kwargs):
    config = functools.partial(Configuration, text)
    return train(workdir, mode="eval", config=config, **kwargs)


def test_evaluation_takes_no_other_configuration(tmp_path):
    train(tmp_path, config=functools.partial(Configuration, "norm = 1\n"))
    evaluate_with(tmp_path, "norm = 1\n")
    before = (tmp_path / "evaluation.json").read_text()
    with pytest.raises(ConfigError, match="there: norm = 1\n  now:   norm = 2"):
        evaluate_with(tmp_path, "norm = 2\n")
    assert (tmp_path / "evaluation.json").read_text() == before


def test_evaluation_in_a_read_only_directory(
    tmp_path, monkeypatch, capsys, caplog
):
    train(tmp_path)

    def read_only(path, write):
        raise OSError(errno.EROFS, "Read-only file system.")

    monkeypatch.setattr(results, "write_atomically", read_only)
    capsys.readouterr()
    result = train(tmp_path, mode="eval")
    assert json.loads(capsys.readouterr().out) == result
    assert "Read-only file system. The result is only printed." in caplog.text


@pytest.mark.tensorflow
def test_xla_that_keras_would_leave_out(tmp_path):
    with pytest.raises(ConfigError, match="`jit_compile` must be .*pooling"):
        train(tmp_path, jit_compile=True)


def test_a_model_that_is_saved_by_half_replaces_none(tmp_path, monkeypatch):
    train(tmp_path)
    before = (tmp_path / "model.keras").read_bytes()

    def full(self, path, **kwargs):
        path.write_bytes(before[: len(before) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path)
    assert (tmp_path / "model.keras").read_bytes() == before


def test_the_home_directory_has_a_short_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    train("~/run")
    assert (tmp_path / "run" / "model.keras").exists()
    x = np.zeros((8, 4, 4, 1), "uint8")
    arrays = {"x_train": x, "x_test": x + 1}
    labels = dict.fromkeys(("y_train", "y_test"), np.arange(8) % 2)
    np.savez(tmp_path / "images.npz", **arrays, **labels)
    data = from_arrays("~/images.npz", batch_size=4, crop_padding=0)
    assert data.num_classes == 2


def test_a_validation_split_stands_apart_from_the_test_split(tmp_path, caplog):
    def with_validation(seed):
        data = tiny.dataset(seed)
        others = tiny.dataset(seed + 1).test
        return dataclasses.replace(data, validation=others)

    arguments = {
        "dataset": with_validation,
        # The sizes of the best epoch are not those of the last one.
        "model": functools.partial(
            tiny.model, static_sizes=True, smoothness_factor=1
        ),
        "complexity_weight": 30.0,
        "learning_rate": 0.02,
        "num_epochs": 3,
        "keep_checkpoints": 3,
        "monitor": "loss",
        "optimizer": functools.partial(keras.optimizers.SGD, momentum=0.9),
    }
    history = train(tmp_path, **arguments)
    assert "There is no validation split" not in caplog.text
    assert history[0]["sizes"] != history[2]["sizes"]
    found = json.loads((tmp_path / "test.json").read_text())
    best = 1 + int(np.argmin([row["loss"] for row in history]))
    assert [found[key]["epoch"] for key in ("best", "final")] == [best, 3]
    model = keras.saving.load_model(tmp_path / "model.keras")
    for data, expected in [
        (tiny.dataset().test(), found["final"]["loss"]),
        (tiny.dataset(1).test(), history[-1]["val_loss"]),
    ]:
        loss, *_ = model.evaluate(data, verbose=0)
        loss += 30.0 * model_complexity(model)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
    # A process of its own finds the same.
    evaluate = functools.partial(train, tmp_path, mode="eval", **arguments)
    for key, which in [("best", "best"), ("final", "latest")]:
        again = evaluate(eval_checkpoint=which)
        np.testing.assert_allclose(again["loss"], found[key]["loss"], rtol=1e-4)


def model_complexity(model):
    """Eq. 6 of one layer."""
    return 1 / np.prod(keras.ops.convert_to_numpy(model.layers[3].strides))
