"""Interrupted runs end as if nothing had happened."""

import functools
import json
import multiprocessing
import os
import pathlib
import signal
import threading

import keras
import numpy as np
import pytest
import tiny

from diffstride.training import trainer
from diffstride.training.checkpoint_files import Checkpoints, restore_model

EPOCHS, STEPS = 3, 6
# Those of a run that nothing interrupts are others.
TIMES = ("seconds", "images_per_second", "compilations")


class At(keras.callbacks.Callback):
    """Does something at a training step, or in the validation of an epoch."""

    def __init__(self, action, step=None, validation_of_epoch=None):
        super().__init__()
        self.action = action
        self.step = step
        self.validation_of_epoch = validation_of_epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            self.action()

    def on_test_batch_begin(self, batch, logs=None):
        if self.epoch == self.validation_of_epoch:
            self.action()


class TerminateAfter(keras.callbacks.Callback):
    """Sends this process a SIGTERM after so many steps of the first epoch."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.steps:
            signal.raise_signal(signal.SIGTERM)


momentum = functools.partial(keras.optimizers.SGD, momentum=0.9)


def train(workdir, callbacks=(), dataset=tiny.dataset, **kwargs):
    return trainer.train(
        **{
            "dataset": dataset,
            "model": tiny.model,
            "workdir": workdir,
            "num_epochs": EPOCHS,
            "learning_rate": 0.02,
            "optimizer": momentum,
            "complexity_weight": 0.1,
            "checkpoint_steps": 2,
            "callbacks": callbacks,
            "verbose": 0,
            **kwargs,
        }
    )


def history(workdir):
    lines = pathlib.Path(workdir, "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        {name: row[name] for name in row if name not in TIMES} for row in rows
    ]


def final_arrays(workdir):
    checkpoints = Checkpoints(pathlib.Path(workdir, "checkpoints"))
    assert checkpoints.steps()[-1] == EPOCHS * STEPS
    return checkpoints.load()[0]


def assert_same_run(workdir, other, rtol=0.0, atol=0.0):
    for row, other_row in zip(history(workdir), history(other), strict=True):
        assert row.keys() == other_row.keys()
        for name, value in row.items():
            if isinstance(value, dict):
                assert value.keys() == other_row[name].keys()
                for layer in value:
                    np.testing.assert_allclose(
                        value[layer], other_row[name][layer], rtol=rtol
                    )
            else:
                np.testing.assert_allclose(value, other_row[name], rtol=rtol)
    arrays, other_arrays = final_arrays(workdir), final_arrays(other)
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, other_arrays[name], rtol, atol)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_while_saving():
    def write_half(file, **arrays):
        file.write(b"PK" * 1000)
        file.flush()
        kill()

    np.savez = write_half


def train_in_process(workdir, end, kwargs):
    callbacks = []
    if end is not None:
        action, step = end
        callbacks = [At(action, step)]
    train(workdir, callbacks, deterministic=True, **kwargs)


@pytest.fixture(scope="module")
def start_process():
    """Runs a function in a process of its own; returns how that ended."""
    context = multiprocessing.get_context("forkserver")
    # One process imports, and forks those that train.
    context.set_forkserver_preload(["diffstride.training.trainer"])

    def start(*args):
        process = context.Process(target=train_in_process, args=args)
        process.start()
        process.join()
        return process.exitcode

    return start


def check_kills(start_process, tmp_path, **kwargs):
    steps = np.sort(
        np.random.default_rng().choice(EPOCHS * STEPS, 2, replace=False)
    )
    print("Killed at steps", steps)  # Shown where the test fails.
    interrupted, whole = str(tmp_path / "a"), str(tmp_path / "b")
    kills = [(kill, int(steps[0])), (kill_while_saving, int(steps[1]))]
    for end in kills:
        assert start_process(interrupted, end, kwargs) == -signal.SIGKILL
    assert start_process(interrupted, None, kwargs) == 0
    assert start_process(whole, None, kwargs) == 0
    assert_same_run(interrupted, whole)
    assert len(history(whole)) == EPOCHS


@pytest.mark.tensorflow
def test_killed_while_it_saves(start_process, whole, tmp_path):
    end = kill_while_saving, 8
    assert start_process(str(tmp_path), end, {}) == -signal.SIGKILL
    train(tmp_path)
    # The process was deterministic, the other run was not.
    assert_same_run(tmp_path, whole, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_killed_twice_at_random(start_process, tmp_path):
    check_kills(start_process, tmp_path)


@pytest.mark.slow
def test_killed_while_static_sizes_change(start_process, tmp_path):
    kwargs = {
        "model": model_with_changing_sizes,
        "complexity_weight": 30.0,
        "refresh_sizes": 4,
    }
    check_kills(start_process, tmp_path, **kwargs)
    sizes = [row["sizes"]["pooling"] for row in history(tmp_path / "a")]
    assert sizes[0] != sizes[-1]


def model_with_changing_sizes(num_output_classes, input_shape):
    return tiny.model(
        num_output_classes, input_shape, static_sizes=True, smoothness_factor=1
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts, outside the main thread at that."""
    workdir = tmp_path_factory.mktemp("whole")
    thread = threading.Thread(target=train, args=(workdir,))
    thread.start()
    thread.join()
    return workdir


def test_terminated_and_damaged(whole, tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for moment, number, saved in [
        ({"step": 9}, signal.SIGTERM, 9),
        ({"validation_of_epoch": 1}, signal.SIGINT, 12),
    ]:
        previous = signal.getsignal(number)
        end = At(functools.partial(signal.raise_signal, number), **moment)
        with pytest.raises(SystemExit) as exit_info:
            train(tmp_path, [end])
        assert exit_info.value.code == 128 + number
        assert signal.getsignal(number) == previous
        assert checkpoints.steps()[-1] == saved
    # Without the latest checkpoint, the one before holds; and a line that was
    # written before a kill, but not the checkpoint after it, is forgotten.
    checkpoints.path(12).write_bytes(b"PK")
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write(json.dumps({"epoch": 2}) + "\n" + '{"epoch": 3, "loss"')
    train(tmp_path)
    assert_same_run(tmp_path, whole, rtol=1e-4)


def steep_loss(y_true, y_pred):
    return 1000 * keras.losses.sparse_categorical_crossentropy(
        y_true, y_pred, from_logits=True
    )


@pytest.mark.slow
def test_float16_goes_on_with_its_loss_scale(tmp_path):
    float16 = functools.partial(
        train,
        dtype_policy="mixed_float16",
        loss=steep_loss,
        learning_rate=1e-5,
        num_epochs=2,
    )
    interrupted, whole = tmp_path / "a", tmp_path / "b"
    with pytest.raises(SystemExit):
        float16(interrupted, [TerminateAfter(3)])
    assert Checkpoints(interrupted / "checkpoints").steps() == [2, 3]
    for workdir in (interrupted, whole):
        float16(workdir)
    assert history(interrupted) == history(whole)
    arrays, others = (
        Checkpoints(workdir / "checkpoints").load()[0]
        for workdir in (interrupted, whole)
    )
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    model = keras.saving.load_model(interrupted / "model.keras", compile=False)
    layer = model.get_layer("pooling")
    assert layer.compute_dtype == "float16"
    assert layer.strides.dtype == "float32"
    # At first scaled gradients overflow: a step is left out, the scale halved.
    _, _, _, scale, applied, _ = (
        float(array)
        for name, array in arrays.items()
        if name.startswith("optimizer/") and array.ndim == 0
    )
    assert 0 < applied < 2 * STEPS
    assert scale == 2**15 / 2 ** (2 * STEPS - applied)


def test_nan_names_the_step_and_leaves_a_good_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError) as error:
        train(tmp_path, dataset=lambda seed: tiny.dataset(seed, nan_at=(1, 3)))
    assert "The loss is nan at step 4 of epoch 2." in str(error.value)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps()[-1] == 8  # Every two steps, the NaN in the 10th.
    assert str(checkpoints.path(8)) in str(error.value)
    arrays, _ = checkpoints.load()
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert len(history(tmp_path)) == 1


def ends(workdir, callbacks):
    """Trains to the end, or until a SIGTERM; returns whether to the end."""
    try:
        train(workdir, callbacks, num_epochs=9, keep_checkpoints=20)
    except SystemExit as error:
        assert error.code == 128 + signal.SIGTERM
        return False
    return True


@pytest.mark.parametrize(
    "interrupted", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_callbacks_of_keras_see_one_fit(interrupted, tmp_path):
    begun = []

    def callbacks(*more):
        # Nothing is ever better than the first epoch by so much.
        nothing_better = {"monitor": "val_loss", "min_delta": 100.0}
        return [
            keras.callbacks.EarlyStopping(
                **nothing_better, patience=3, restore_best_weights=True
            ),
            keras.callbacks.ReduceLROnPlateau(
                **nothing_better, patience=1, factor=0.5
            ),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.LambdaCallback(
                on_train_begin=lambda logs: begun.append("train")
            ),
            *more,
        ]

    if interrupted:
        for moment in [
            {"step": 8},  # Of the second epoch.
            {"step": 17},  # The last one of the third.
            {"validation_of_epoch": 2},
            {"validation_of_epoch": 3},  # The last one.
        ]:
            terminate = At(
                lambda: signal.raise_signal(signal.SIGTERM), **moment
            )
            assert not ends(tmp_path, callbacks(terminate))
    assert ends(tmp_path, callbacks())
    assert len(begun) == (5 if interrupted else 1)
    rows = history(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    rates = [row["learning_rate"] for row in rows]
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.01, 0.005])
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", *"0123"]

    def weights():
        model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        return model.get_weights()

    # The weights are the best ones: those of the first epoch.
    first, _ = Checkpoints(tmp_path / "checkpoints").load(STEPS)
    model = tiny.model(3, (16, 16, 1))
    model.compile("sgd", "mse")
    restore_model(model, first, groups=("model",))
    for array, expected in zip(weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, expected)
    # A run that is finished stays as it is.
    before = weights()
    assert ends(tmp_path, callbacks())
    assert len(history(tmp_path)) == 4
    for one, other in zip(weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_running_averages_of_weights(tmp_path):
    averaging = functools.partial(
        keras.optimizers.SGD, momentum=0.9, use_ema=True, ema_momentum=0.8
    )
    interrupted, whole = tmp_path / "a", tmp_path / "b"
    for moment in [{"step": 7}, {"validation_of_epoch": EPOCHS - 1}]:
        terminate = At(lambda: signal.raise_signal(signal.SIGTERM), **moment)
        with pytest.raises(SystemExit):
            train(interrupted, [terminate], optimizer=averaging)
    train(interrupted, optimizer=averaging)
    train(whole, optimizer=averaging)
    assert_same_run(interrupted, whole, rtol=1e-4)
    # The averages replace the weights at the end, not before.
    checkpoints = Checkpoints(whole / "checkpoints")
    (last, _), (before, _) = (
        checkpoints.load(EPOCHS * STEPS - back) for back in (0, 2)
    )
    model = tiny.model(3, (16, 16, 1))
    model.compile(averaging(learning_rate=0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    names = [variable.path for variable in model.optimizer.variables]
    trainable = [
        index
        for index, variable in enumerate(model.variables)
        if variable.trainable
    ]
    averages = [i for i, name in enumerate(names) if name.endswith("average")]
    assert len(averages) == len(trainable)
    for arrays, equal in [(last, True), (before, False)]:
        assert equal == all(
            np.array_equal(
                arrays[f"model/{index}"], arrays[f"optimizer/{average}"]
            )
            for index, average in zip(trainable, averages, strict=True)
        )


def test_stop_training_in_the_middle_of_an_epoch(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 9:
                self.model.stop_training = True

    train(tmp_path, [Stop()])
    rows = history(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2]
    train(tmp_path, [Stop()])
    assert history(tmp_path) == rows
